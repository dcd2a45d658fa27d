"""NPZ, NPY and IDX: headers are checked against bytes, values against what networks take."""

import gzip
import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import ROOM, idx, npy, npy_header, npz

from gpunet.data import rows
from gpunet.data.arrays import from_arrays, read_idx, read_idx_folder, read_npy, read_npz
from gpunet.errors import DataError, OutOfMemory

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0, 1, 0, 7])


def test_x_and_y_from_npz():
    source = read_npz(npz(("x.npy", npy(X)), ("y.npy", npy(Y))), "t", ROOM)
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.y, Y)
    assert source.test is None


def test_objects_that_are_all_alike_are_targets_and_others_are_told_by_their_row():
    x = np.zeros((3, 1))
    assert from_arrays("t", x, np.array(["a", "b", "a"], object)).y.tolist() == ["a", "b", "a"]
    assert from_arrays("t", x, np.array([True, False, True], object)).y.dtype == bool
    with pytest.raises(DataError, match=r"1 of 3 values are not text as .* \(row 2: None\)"):
        from_arrays("t", x, np.array(["a", None, "b"], object))


def test_objects_that_are_all_numbers_are_numbers():
    whole, mixed = np.array([3, np.int8(1), 2], object), np.array([1, 2.5, np.float32(3)], object)
    source = from_arrays("t", np.stack([whole, mixed], axis=1), whole)
    assert source.x.tolist() == [[3, 1], [1, 2.5], [2, 3]]
    assert (source.x.dtype, source.y.dtype) == (np.float64, np.int64)
    hint = "columns of several kinds, or one row, are given as a table: a dict of lists, a frame"
    with pytest.raises(DataError, match=rf"x: 1 of 3 values are not int .* \(row 2: 'a'\); {hint}"):
        from_arrays("t", np.array([[1], ["a"], [2]], object))


def test_upper_case_keys_and_a_test_part():
    keys = {"X_train": X, "y_train": Y, "X_test": X[:2], "y_test": Y[:2]}
    source = read_npz(npz(*((f"{key}.npy", npy(a)) for key, a in keys.items())), "t", ROOM)
    assert source.rows == 4
    assert source.test.rows == 2
    np.testing.assert_array_equal(source.test.y, Y[:2])


def test_arrays_of_other_names_are_left_alone_and_never_read():
    source = read_npz(npz(("x.npy", npy(X)), ("extra.npy", b"junk")), "t", ROOM)
    assert source.y is None
    assert source.notes == ("t: left the arrays extra alone",)


def test_features_alone_from_npy():
    np.testing.assert_array_equal(read_npy(npy(X), "t").x, X)
    np.testing.assert_array_equal(read_npy(npy(np.asfortranarray(X)), "t").x, X)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">i2", "<u4", "|b1", "|u1", "<f2"])
def test_every_number_type_is_read_in_native_order(dtype):
    x = np.array([[0, 1], [2, 3]]).astype(dtype)
    got = read_npy(npy(x), "t").x
    assert got.dtype.isnative
    assert got.dtype == (np.float32 if dtype == "<f2" else np.dtype(dtype).newbyteorder("="))
    np.testing.assert_array_equal(got, x)


def test_text_labels():
    source = read_npz(
        npz(("x.npy", npy(X)), ("y.npy", npy(np.array(["a", "b", "a", "c"])))), "t", ROOM
    )
    assert source.y.tolist() == ["a", "b", "a", "c"]
    assert from_arrays("t", X, np.array([b"a", b"b", b"a", b"c"])).y.tolist()[3] == "c"
    assert from_arrays("t", X, np.array(["a", "b", "a", "c"], object)).y.dtype.kind == "U"


def header(shape, descr="<f8"):
    return npy_header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an NPY array"),
        (npy(X)[:50], "not an NPY array"),
        (npy(X)[:-1], r"promises the shape \(4, 3\) of float64, 96 bytes; 95 are there"),
        (npy(X) + b"\0", "96 bytes; 97 are there"),
        (header("(1000000000000,)") + bytes(64), r"promises the shape \(1000000000000\)"),
        (header("(400000000,)") + bytes(64), "3,200,000,000 bytes; 64 are there"),
        (header("(4294967296, 4294967296)"), "promises the shape"),
        (header("(65536, 65536, 65536, 65536)"), "147,573,952,589,676,412,928 bytes; 0 are there"),
        (header("(-1,)") + bytes(8), r"promises the shape \(-1\)"),
        (header("(0,)", "<U0"), "promises the shape"),
        (header("(0, 3)"), r"x has the shape \(0, 3\)"),
        (header("()") + bytes(8), r"x has the shape \(\)"),
        (header("(1,)", "|O") + bytes(8), "holds Python objects"),
        (header("(1,)", [("a", "<f8"), ("b", "|O")]) + bytes(16), "holds records"),
        (header("(1,)", "<c16") + bytes(16), "holds complex numbers"),
        (header("(1,)", "<M8[D]") + bytes(8), "holds dates"),
        (header("(1,)", "<U2") + bytes(8), "x holds text"),
        (npy_header("{'descr': [('" + "a" * 200_000 + "', '<f8')]}", (2, 0)), "200,025 bytes"),
        (npy_header("(" * 9000), "not an NPY array"),
        (npy_header("__import__('os').abort()"), "not an NPY array"),
        (npy_header("{'descr': '<f8', 'shape': (1,)}"), "not an NPY array"),
        (b"\x93NUMPY\x03\x00" + bytes(100), "not an NPY array"),
        (npy(np.array([{}], object)), "holds Python objects"),
        (header("(" + "1, " * 33 + ")") + bytes(8), "promises the shape"),
        (header("(0, 2147483647, 2147483647, 2147483647)"), "promises the shape"),
        (header("(1" + "0" * 5000 + ",)"), "not an NPY array"),
        (header("(1,)", "<U99999999999"), "not an NPY array"),
        (header("(1,)", "True") + bytes(8), "not an NPY array"),
        (header("(1,)", "f8,f8") + bytes(16), "not an NPY array"),
        (npy_header("{'descr': '<f8', 'descr': '<f8', 'shape': (1,)}"), "not an NPY array"),
        (npy_header(" " * 9_000 + "{" + " " * 900), "not an NPY array"),
        (npy_header("{'descr': " + "[]," * 3_000), "not an NPY array"),
        (npy_header("x" * 10_001, (2, 0)), "an NPY header of 10,002 bytes; the limit is 10,000"),
    ],
)
def test_headers_that_lie(data, message):
    with pytest.raises(DataError, match=message):
        read_npy(data, "t")


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4, 3), }",
        "{'shape': (4, 3), 'fortran_order': False, 'descr': '<f8'}",
        "{'shape':(4,3),'descr':'<f8','fortran_order':False}   \n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4L, 3L), }",
    ],
)
def test_headers_as_other_programs_write_them(text):
    np.testing.assert_array_equal(read_npy(npy_header(text) + X.tobytes(), "t").x, X)


def test_labels_that_are_no_characters():
    labels = np.array([0x41, 0x110000], "<u4").view("<U1")
    with pytest.raises(DataError, match="t: y holds numbers that are no characters"):
        from_arrays("t", X[:2], labels)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], r"holds the arrays \(none\); wanted x and y"),
        ([("../../pwn.npy", npy(X))], "holds the arrays ../../pwn"),
        ([("y.npy", npy(Y))], "holds the arrays y; wanted x and y"),
        ([("x.npy", npy(X)), ("x_train.npy", npy(X))], "holds the arrays x, x_train"),
        ([("x.npy", npy(X)), ("X.npy", npy(X))], "the same array more than once: x"),
        ([("x.npy", b"hello")], "x: not an NPY array"),
        ([("x.npy", npy(X)), ("y.npy", npy(Y[:3]))], "x has 4 rows, y has 3"),
        ([("x.npy", npy(X)), ("y.npy", npy(np.zeros((4, 2, 2))))], r"y has the shape \(4, 2, 2\)"),
        ([("x.npy", npy(X)), ("y.npy", npy(np.zeros((4, 0))))], r"y has the shape \(4, 0\)"),
        ([("[Content_Types].xml", b"")], "an Excel workbook; save the sheet as CSV"),
    ],
)
def test_archives_that_are_not_ours(members, message):
    with pytest.raises(DataError, match=message):
        read_npz(npz(*members), "t", ROOM)


def test_a_member_larger_than_memory_is_refused_before_it_is_unpacked():
    data = npz(("x.npy", npy(np.zeros(1_000_000))))
    with pytest.raises(OutOfMemory, match=r"t, unpacked: needs 7\.6 MiB; --max-memory allows"):
        read_npz(data, "t", 1_000_000)
    assert read_npz(data, "t", 8_000_128).rows == 1_000_000


def test_a_member_that_unpacks_like_a_bomb_is_refused_before_it_is_unpacked():
    zeros = np.zeros((80 << 20, 1), np.uint8)
    with pytest.raises(DataError, match=r"80\.0 MiB or more.*bombs do.*numpy\.savez packs nothing"):
        read_npz(npz(("x.npy", npy(zeros))), "t", ROOM)


def test_members_that_are_packed_in_other_ways():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", npy(X))
    with pytest.raises(DataError, match=r"x\.npy is not packed as NumPy packs"):
        read_npz(file.getvalue(), "t", ROOM)


def test_a_member_whose_size_is_a_lie():
    data = bytearray(npz(("x.npy", npy(X))))
    at = data.rfind(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 128 + 8 * 1000)
    with pytest.raises(DataError, match="bytes"):
        read_npz(bytes(data), "t", ROOM)


ARCHIVE = npz(("x.npy", npy(X)), ("y.npy", npy(Y)))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(ARCHIVE) - 1), st.integers(1, 255), st.booleans())
def test_a_changed_or_cut_archive_is_refused_or_harmless(place, change, cut):
    data = bytearray(ARCHIVE[:place] if cut else ARCHIVE)
    if not cut:
        data[place] ^= change
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile complains about odd members
            source = read_npz(bytes(data), "t", ROOM)
    except (DataError, OutOfMemory):
        return
    np.testing.assert_array_equal(source.x, X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_has_its_place(bad, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 16)
    x = X.copy()
    x[2, 1] = x[3, 2] = bad
    with pytest.raises(DataError, match=rf"t: x: 2 of 12 .* \(row 3, column 2: {bad}\)"):
        from_arrays("t", x)


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
