"""What `read` takes by name: sets, files by content, folders."""

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import idx, npy, npz

from gpunet import isolation
from gpunet.data import read
from gpunet.errors import DataError, InputMissing, UsageError

CSV = b"a,b\n1,2\n3,4\n"
X, Y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])


def parquet():
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 3], "b": [2, 4]}), file)
    return file.getvalue()


CONTENTS = {
    "csv": CSV,
    "csv.gz": gzip.compress(CSV),
    "parquet": parquet(),
    "jsonl": b'{"a": 1, "b": 2}\n{"a": 3, "b": 4}\n',
    "npz": npz(("x.npy", npy(X)), ("y.npy", npy(Y))),
    "npy": npy(X),
    "idx2-ubyte": idx(np.zeros((3, 2), np.uint8)),
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("ending", ["", ".dat", ".csv", None])
def test_the_content_tells_the_format_and_the_file_the_name(tmp_path, kind, ending):
    path = tmp_path / f"houses{f'.{kind}' if ending is None else ending}"
    path.write_bytes(CONTENTS[kind])
    source = read(str(path))
    assert source.name == "houses"
    assert source.title == str(path)
    assert source.rows == (2 if source.table is not None else 3)


def test_tables_of_all_formats_hold_the_same(tmp_path):
    values = []
    for kind in ("csv", "csv.gz", "parquet", "jsonl"):
        path = tmp_path / f"t.{kind}"
        path.write_bytes(CONTENTS[kind])
        values.append([[float(v.as_py()) for v in column] for column in read(path).table.columns])
    assert values == [[[1, 3], [2, 4]]] * 4


def test_a_name_is_a_built_in_set_and_a_path_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("penguins").write_bytes(CSV)
    assert read("penguins").rows == 344
    assert read("./penguins").rows == 2
    assert read(Path("penguins")).rows == 2


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(CSV)))
    source = read("-")
    assert (source.name, source.rows) == ("stdin", 2)


@pytest.mark.isolated
@pytest.mark.usefixtures("gone")
def test_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_bytes(CSV)
    assert read(tmp_path / "t.csv").rows == 2
    monkeypatch.setattr(isolation, "take", pytest.fail)
    with pytest.raises(InputMissing, match="the working directory is no longer there; give"):
        read("t.csv")


def test_a_missing_file_or_a_misspelt_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputMissing, match=r'pengiuns: no such file; did you mean "penguins"'):
        read("pengiuns")
    with pytest.raises(InputMissing, match=r"zzz.csv: no such file$"):
        read("zzz.csv")


def test_a_folder_that_is_not_mnists(tmp_path):
    with pytest.raises(DataError, match="a folder without MNIST's files; name a file"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.h5", b"\x89HDF\r\n\x1a\n", "an HDF5 file; wanted CSV"),
        ("t.pkl", b"\x80\x04\x95", "a pickle"),
        ("t.db", b"SQLite format 3\0", "an SQLite database"),
        ("t.feather", b"ARROW1\0\0", "a Feather file"),
        ("t.arrows", b"\xff\xff\xff\xff\x08\0\0\0", "an Arrow stream"),
        ("t.csv.zst", b"\x28\xb5\x2f\xfd", "packed with zstd"),
        ("t.gz", gzip.compress(gzip.compress(CSV)), "packed with gzip twice"),
        ("t.parquet", CSV, "the content is not Parquet"),
        ("t.npz", b"", "the content is not NPZ"),
        ("t.xlsx", npz(("[Content_Types].xml", b"")), "an Excel workbook"),
        ("t.zip", npz(("a.csv", CSV)), "a ZIP archive with a.csv; unpack it"),
        ("x-idx3-ubyte", b"\0\0\x07\x01", "binary data of no known kind"),
        ("t.csv", b"\0\0\0\0", "binary data of no known kind"),
        ("t.csv", bytes(range(128, 256)), "is not UTF-8"),
        ("t.json", b'[{"a": 1}]', "a JSON array; wanted JSON lines"),
    ],
)
def test_what_is_not_data_of_ours(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / name))


@pytest.mark.parametrize("kind", [kind for kind in CONTENTS if "csv" not in kind])
def test_options_of_csv_are_not_ignored_elsewhere(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    path.write_bytes(CONTENTS[kind])
    with pytest.raises(UsageError, match="takes no delimiter and has no header"):
        read(str(path), delimiter=";")
    with pytest.raises(UsageError, match="takes no delimiter and has no header"):
        read(path, header=False)


def test_options_of_csv_and_objects_or_sets():
    with pytest.raises(UsageError):
        read("penguins", header=False)
    with pytest.raises(UsageError):
        read(X, delimiter=",")
