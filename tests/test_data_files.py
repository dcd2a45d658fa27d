"""Bytes of files: gzip, budgets, encodings, and what is not there."""

import builtins
import gzip
import io
import sys
import zlib

import pytest
from tables import ROOM

from gpunet.data import files
from gpunet.errors import DataError, InputMissing, NotPermitted, OutOfMemory

TEXT = b"a,b\n1,2\n" * 1000


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "houses.csv").write_bytes(TEXT)
    with pytest.raises(InputMissing, match=r'house\.csv: no such file; did you mean "houses\.csv"'):
        files.load(str(tmp_path / "house.csv"), ROOM)


@pytest.mark.parametrize(
    ("name", "other", "is_near"),
    [
        ("nofile.csv", "neg.csv", False),
        ("moved.parquet", "mixed.parquet", False),
        ("a.csv", "b.csv", False),
        ("t.csv", "t.tsv", True),
        ("pirces.csv", "Prices.csv.gz", True),
    ],
)
def test_endings_alone_make_no_names_alike(tmp_path, name, other, is_near):
    (tmp_path / other).write_bytes(TEXT)
    with pytest.raises(InputMissing) as fault:
        files.load(str(tmp_path / name), ROOM)
    assert (f'did you mean "{other}"' in str(fault.value)) == is_near


@pytest.mark.parametrize("name", ["nowhere/x.csv", "x\0y", "n" * 5000])
def test_names_of_no_file(tmp_path, name):
    with pytest.raises(InputMissing):
        files.load(f"{tmp_path}/{name}", ROOM)


def test_a_file_used_as_a_folder_is_missing(tmp_path):
    (tmp_path / "a.csv").write_bytes(TEXT)
    with pytest.raises(InputMissing):
        files.load(str(tmp_path / "a.csv" / "b.csv"), ROOM)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(NotPermitted, match="may not be read"):
        files.load("/some/file.csv", ROOM)


def test_gzip_is_unpacked_whatever_the_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(gzip.compress(TEXT))
    assert files.load(str(path), ROOM) == TEXT


def test_gzip_members_follow_each_other_and_zeros_may_follow_the_last(tmp_path):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(TEXT) + gzip.compress(b"more") + b"\0" * 512)
    assert files.load(str(path), ROOM) == TEXT + b"more"


@pytest.mark.parametrize("cut", [1, 4, 8, 20])
def test_truncated_gzip(tmp_path, cut):
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(TEXT)[:-cut])
    with pytest.raises(DataError, match="cut short"):
        files.load(str(path), ROOM)


def test_damaged_gzip_and_garbage_after_it(tmp_path):
    packed = bytearray(gzip.compress(TEXT))
    packed[-6] ^= 0xFF  # the checksum
    path = tmp_path / "t.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="damaged"):
        files.load(str(path), ROOM)
    path.write_bytes(gzip.compress(TEXT) + b"garbage")
    with pytest.raises(DataError, match="damaged"):
        files.load(str(path), ROOM)


def test_what_unpacks_to_more_than_the_budget_is_refused_early(tmp_path):
    path, packer = tmp_path / "bomb.gz", zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    path.write_bytes(b"".join(packer.compress(zeros) for _ in range(96)) + packer.flush())
    with pytest.raises(OutOfMemory, match=r"bomb.gz, unpacked: needs .* allows 8.0 MiB"):
        files.load(str(path), 8 << 20)
    with pytest.raises(DataError, match=r"KiB unpack to 64.. MiB or more.*bombs do; .* gunzip it"):
        files.load(str(path), ROOM)


def test_a_file_larger_than_the_budget_is_not_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT)
    with pytest.raises(OutOfMemory, match=r"t\.csv: needs 7\.8 KiB; --max-memory allows 100 B"):
        files.load(str(path), 100)


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(TEXT))))
    assert files.load("-", ROOM) == TEXT


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputMissing, match="stdin: it is closed"):
        files.load("-", ROOM)


def test_text_in_other_encodings_is_named():
    with pytest.raises(DataError, match=r"UTF-32.*iconv -f utf-32"):
        files.check_text("a,b\n1,2\n".encode("utf-32"), "t")
    for encoding in ("utf-16", "utf-16-be"):
        with pytest.raises(DataError, match=r"UTF-16.*iconv -f utf-16"):
            files.check_text("a,b\n1,2\n".encode(encoding), "t")
    with pytest.raises(DataError, match=r"line 2, byte 9 is 0xe9, which is not UTF-8.*cp1252 -t"):
        files.check_text("a,b\n1,caf\xe9\n".encode("latin-1"), "t")


def test_the_place_of_a_bad_byte_is_right_across_chunks(monkeypatch):
    monkeypatch.setattr(files, "CHUNK", 7)
    good = "é€😀\n".encode() * 20
    files.check_text(good, "t")
    for place in range(0, len(good), 10):
        start = len(good[:place].decode(errors="ignore").encode())
        with pytest.raises(DataError, match=f"byte {start:,} is 0xff"):
            files.check_text(good[:start] + b"\xff" + good[start:], "t")


def test_a_character_cut_off_at_the_end():
    with pytest.raises(DataError, match="line 2, byte 2 is 0xc3"):
        files.check_text(b"a\n\xc3", "t")


def test_nul_bytes_have_their_line():
    with pytest.raises(DataError, match="line 3 holds a NUL byte"):
        files.check_text(b"a,b\n1,2\n3,\x00\n" + TEXT, "t")
    for end in (b"\r", b"\r\n"):
        with pytest.raises(DataError, match="t: line 3 holds a NUL byte"):
            files.check_text(end.join([b"a,b", b"1,2", b"3,\x00", b"4,5" * 9]), "t")
