"""Rows in files: what is written is what is read, and faults have a name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.data import rows
from gpunet.data.rows import Handle, RowFile, Spool, blocks
from gpunet.errors import DataError, WriteError

X = np.arange(60, dtype=np.float32).reshape(12, 5)


def spooled(x: np.ndarray) -> RowFile:
    spool = Spool(x.shape[1], x.dtype)
    for first in range(0, len(x), 5):
        spool.add(x[first : first + 5])
    return spool.rows()


def test_what_was_added_is_read_back_in_order() -> None:
    found = spooled(X)
    assert (found.shape, found.ndim, found.size) == ((12, 5), 2, 60)
    assert (found.nbytes, found.row_bytes, len(found)) == (240, 20, 12)
    np.testing.assert_array_equal(found[:], X)


@given(st.integers(-15, 15), st.integers(-15, 15))
def test_slices_are_an_arrays(first: int, stop: int) -> None:
    np.testing.assert_array_equal(spooled(X)[first:stop], X[first:stop])


def test_row_numbers_are_read_in_the_order_given() -> None:
    np.testing.assert_array_equal(spooled(X)[np.array([7, 0, 7])], X[[7, 0, 7]])


@pytest.mark.parametrize("source", [X, spooled(X)], ids=["array", "file"])
def test_blocks_cover_every_row_once(source: rows.Rows) -> None:
    parts = list(blocks(source, 5))
    assert [first for first, _ in parts] == [0, 5, 10]
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), X)


def test_images_become_rows_of_one_file() -> None:
    file = spooled(np.arange(48, dtype=np.uint8).reshape(4, 12))
    images = RowFile(file.handle, "t", (4, 3, 4), np.dtype("uint8"))
    np.testing.assert_array_equal(images.flat()[:], images[:].reshape(4, 12))
    assert images.shape == (4, 3, 4)


def test_a_file_that_became_shorter_is_said(tmp_path) -> None:
    (tmp_path / "x").write_bytes(X.tobytes())
    with open(tmp_path / "x", "rb") as file:
        found = RowFile(Handle(file), "t", X.shape, X.dtype)
    (tmp_path / "x").write_bytes(X.tobytes()[:-1])
    np.testing.assert_array_equal(found[:11], X[:11])
    with pytest.raises(DataError, match="t: the file has become shorter"):
        found[10:]


def test_a_spool_leaves_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(rows.tempfile, "tempdir", None)
    found = spooled(X)
    assert list(tmp_path.iterdir()) == []
    np.testing.assert_array_equal(found[:], X)


def test_a_folder_for_rows_that_is_none_is_said(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        monkeypatch.setenv("TMPDIR", str(tmp_path / name))
        with pytest.raises(WriteError, match=f"{name}: TMPDIR is no folder to write in"):
            rows.folder()
    monkeypatch.delenv("TMPDIR")
    assert rows.folder() == rows.ROOMY


def test_a_full_disk_is_an_error_of_its_own() -> None:
    spool = Spool(5, np.float32)
    with open("/dev/full", "r+b", buffering=0) as full:
        spool.handle = Handle(full)
    with pytest.raises(WriteError, match="No space left on device; set TMPDIR"):
        spool.add(X)


def test_a_disk_without_room_is_refused_before_anything_is_written() -> None:
    with pytest.raises(WriteError, match=r"1,024.0 TiB are wanted .* are free; set TMPDIR"):
        rows.check_room(1 << 50)
    rows.check_room(1)


def test_a_folder_that_is_not_there_is_an_error_of_its_own(monkeypatch) -> None:
    monkeypatch.setattr(rows, "folder", lambda: "/nowhere")
    with pytest.raises(WriteError, match="/nowhere: No such file"):
        Spool(5, np.float32)
