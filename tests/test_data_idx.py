"""IDX: headers are checked against bytes, and folders hold all of their files."""

import gzip

import numpy as np
import pytest
from tables import ROOM, idx

from gpunet.data.idx import read_idx, read_idx_folder
from gpunet.errors import DataError


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_every_idx_type(code, dtype):
    x = np.arange(-3, 9).reshape(2, 3, 2).astype(dtype)
    got = read_idx(idx(x, code), "t").x
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, x)


IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"\1\0\x08\x01" + bytes(9), r'not an IDX file \(begins with "01 00 08 01"\)'),
        (b"\0\0\x07\x01" + bytes(9), "not an IDX file"),
        (b"\0\0\x08\x00" + bytes(9), "not an IDX file"),
        (b"\0\0\x08\xff" + bytes(2000), "not an IDX file"),
        (b"\0\0\x08\x03\0\0\0\1", "not an IDX file"),
        (idx(IMAGES)[:-1], r"promises the shape \(4, 3, 2\) of uint8, 24 bytes; 23 are there"),
        (idx(IMAGES) + b"\0", "24 bytes; 25 are there"),
        (idx(IMAGES[:0], dims=[0] + [2**31] * 3), "promises the shape"),
        (idx(IMAGES, dims=[2**32 - 1] * 3), "79,228,162,458,924,105,385,300,197,375 bytes; 24"),
        (idx(np.zeros((0, 3, 2), np.uint8)), r"x has the shape \(0, 3, 2\)"),
        (idx(np.zeros(5, np.uint8)), "an IDX file of labels; name the folder"),
        (idx(np.full((2, 2), np.nan, np.float32), 0x0D), "4 of 4 values not finite"),
    ],
)
def test_idx_files_that_lie(data, message):
    with pytest.raises(DataError, match=message):
        read_idx(data, "t")


def folder(path, names):
    labels = np.array([0, 7, 0, 7], np.uint8)
    for name in names:
        data = idx(IMAGES) if "images" in name else idx(labels)
        (path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


MNIST = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]

TENK = ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def test_a_folder_with_mnist_names(tmp_path):
    source = read_idx_folder(folder(tmp_path, MNIST + TENK), "t", ROOM)
    np.testing.assert_array_equal(source.x, IMAGES)
    assert source.y.tolist() == [0, 7, 0, 7]
    assert source.test.rows == 4


def test_a_folder_without_a_test_part(tmp_path):
    assert (
        read_idx_folder(folder(tmp_path, [f"{name}.gz" for name in MNIST]), "t", ROOM).test is None
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "a folder without MNIST's files"),
        (["notes.txt"], "a folder without MNIST's files"),
        (MNIST[:1], "lacks train-labels-idx1-ubyte"),
        (TENK, "lacks train-images-idx3-ubyte"),
        ([*MNIST, TENK[0]], "lacks test-labels"),
    ],
)
def test_folders_that_lack_something(tmp_path, names, message):
    with pytest.raises(DataError, match=message):
        read_idx_folder(folder(tmp_path, names), "t", ROOM)


def test_folders_that_do_not_match(tmp_path):
    path = folder(tmp_path, MNIST)
    (tmp_path / MNIST[1]).write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="x has 4 rows, y has 3"):
        read_idx_folder(path, "t", ROOM)
    (tmp_path / MNIST[0]).write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match="images have 1 and the labels 1 dimensions"):
        read_idx_folder(path, "t", ROOM)
