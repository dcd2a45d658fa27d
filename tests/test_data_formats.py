"""What `read` takes: names, files by content, folders, and objects in memory."""

import gzip
import io
import sys
from datetime import time, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import idx, npy, npz

from gpunet import isolation
from gpunet.data import read
from gpunet.data.source import Source
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


def test_tables_in_memory():
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    assert read(table).table.equals(table)
    assert read({"a": [1, 2], "b": np.array(["x", "y"])}).table.to_pydict() == table.to_pydict()
    source = Source("mine", table)
    assert read(source) is source


class Frame:
    """What pandas and polars frames offer."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_anything_with_an_arrow_stream():
    views = pa.table({"a": pa.array(["x", None, "y"], pa.string_view())})
    assert read(Frame(views)).table.to_pydict() == {"a": ["x", None, "y"]}
    with pytest.raises(DataError, match="column a is of type list"):
        read(Frame(pa.table({"a": [[1]]})))


class Odd:
    """What pandas offers of columns that Arrow has no type for."""

    def __init__(self, parts):
        self.parts, self.columns = parts, list(parts)

    def __getitem__(self, name):
        return self.parts[name]

    def __arrow_c_stream__(self, requested_schema=None):
        raise OverflowError("Python int too large to convert to C long")


def test_columns_of_a_frame_that_arrow_has_no_type_for_are_put_aside():
    odd = {"long": [10**30] * 2, "mixed": [1, "x"], "complex": np.array([1j, 2j])}
    found = read(Odd({"a": [1, 2], **odd}))
    assert found.columns == ["a"]
    assert found.unfit["long"].startswith("long: whole numbers of more than 64 bits; give their")
    assert found.unfit["mixed"].startswith("mixed: not one type throughout (")
    assert found.unfit["complex"].startswith("complex: of type complex128; wanted numbers, text")
    with pytest.raises(DataError, match="long: whole numbers of more than 64 bits; give their"):
        read(Odd(odd))


def test_names_that_become_alike_are_refused():
    with pytest.raises(DataError, match="data: the same column name more than once: 1"):
        read({1: [1, 2], "1": [3, 4]})


def test_columns_that_do_not_make_a_table():
    with pytest.raises(DataError, match="columns of different lengths: a 2, b 1"):
        read({"a": [1, 2], "b": [1]})
    for alone in (3.5, "text", None):
        with pytest.raises(DataError, match=r"b: a single value; wanted a column, as \["):
            read({"a": [1, 2], "b": alone})
    with pytest.raises(DataError, match="a: not one type throughout"):
        read({"a": [1, "x"]})
    mixed = read({"a": [1, "x"], "b": [[1], [2]], "c": [1, 2]})
    assert mixed.columns == ["c"]
    assert list(mixed.unfit) == ["a", "b"]


class OnDevice:
    """What CuPy arrays offer."""

    def __init__(self, values):
        self.values = values

    def get(self):
        return self.values

    def __dlpack__(self, **_):
        raise BufferError("device memory")

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion")


class Tensor:
    """An array library that speaks DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_a_table_and_its_target():
    table = pa.table({"a": [1.5, 2.5, 3.5], "b": ["x", "y", "x"]})
    for whole in (table, table.to_pydict()):
        for y in ([1, 2, 3], np.array([1, 2, 3]), np.array([[1], [2], [3]])):
            source = read((whole, y))
            assert source.table.to_pydict() == {**table.to_pydict(), "y": [1, 2, 3]}
            assert source.target == ("y",)
    assert read((table, np.ones((3, 2)))).target == ("y1", "y2")
    views = pa.array(["p", "q", "p"], pa.string_view())
    assert read((table, views)).table["y"].type == pa.large_string()
    with pytest.raises(DataError, match="x has 3 rows, y has 2"):
        read((table, [1, 2]))
    with pytest.raises(DataError, match="x has a column y, as the target is called; rename it"):
        read((table.append_column("y", table["a"]), [1, 2, 3]))
    with pytest.raises(DataError, match=r"y: a single value; wanted a column, as \[3\]"):
        read((table, 3))


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (np.array([b"x", b"y", b"x"]), "binary"),
        ([timedelta(1)] * 3, "duration"),
        ([time(1)] * 3, "time64"),
        ([{"k": 1}] * 3, "struct<k: int64>"),
        ([[1], [1, 2], [3]], "list<"),
        (np.transpose([[time(1)] * 3, [1, 2, 3]]), "time64"),
    ],
)
def test_a_target_beside_a_table_is_of_a_plain_type(y, kind):
    with pytest.raises(DataError, match=kind):
        read(({"a": [1, 2, 3]}, y))


@pytest.mark.parametrize("column", [{0: 1, 1: 2}, {1, 2}, frozenset({1, 2})])
def test_a_column_is_in_order(column):
    for data in ({"a": column, "b": [1, 2]}, ({"b": [1, 2]}, column)):
        with pytest.raises(DataError, match=r"wanted a column of values in order; give a list; a"):
            read(data)
    assert read({"a": {1: 0, 2: 0}.keys()}).table.to_pydict() == {"a": [1, 2]}


def test_text_as_numpy_has_it_since_2():
    text, missing = np.dtypes.StringDType(), np.dtypes.StringDType(na_object=None)
    y = np.array(["p", "q", "p"], text)
    source = read(({"a": np.array(["x", None, "y"], missing)}, y))
    assert source.table.to_pydict() == {"a": ["x", None, "y"], "y": ["p", "q", "p"]}
    assert read((X, y)).y.tolist() == ["p", "q", "p"]
    with pytest.raises(DataError, match="x holds text; wanted numbers; columns of several kinds"):
        read(np.array([["x"]], text))


def test_a_column_of_a_frame_is_an_array():
    values = [0.5, 1.5]
    assert read(pa.chunked_array([values])).x.tolist() == values
    with pytest.raises(DataError, match="x holds text; wanted numbers; columns of several kinds"):
        read(pa.chunked_array([["x", "y"]]))


def test_columns_of_any_array_and_iterator():
    plain = np.arange(3.0)
    for values in (plain.astype(">f8"), plain.astype(np.longdouble), iter(plain), range(3)):
        assert read({"a": values}).table.to_pydict() == {"a": [0, 1, 2]}
    with pytest.raises(DataError, match=r"a: has the shape \(3, 1\); wanted one dimension"):
        read({"a": plain[:, None]})
    with pytest.raises(DataError, match="a: whole numbers of more than 64 bits"):
        read({"a": [10**30]})


def test_a_list_of_arrays_is_no_array():
    for wrong in ([X, Y], [[1, 2], [3]]):
        with pytest.raises(DataError, match=r"different shapes; x and y are given as a tuple"):
            read(wrong)


@pytest.mark.parametrize("wrap", [np.asarray, OnDevice, Tensor, np.ndarray.tolist])
def test_arrays_in_memory(wrap):
    np.testing.assert_array_equal(read(wrap(X)).x, X)
    source = read((wrap(X), wrap(Y)))
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.y, Y)


def test_masks_are_not_dropped_in_silence():
    with pytest.raises(DataError, match="masked values"):
        read(np.ma.masked_greater(X, 3))
    assert read(np.ma.masked_greater(X, 30)).x.tolist() == X.tolist()


def test_what_is_not_data_at_all():
    with pytest.raises(TypeError, match="cannot read data from int"):
        read(5)
    with pytest.raises(TypeError, match="a tuple of 3"):
        read((X, Y, Y))
