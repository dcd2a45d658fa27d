"""NPY and NPZ: headers are checked against bytes."""

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import ROOM, npy, npy_header, npz

from gpunet.data.arrays import from_arrays
from gpunet.data.npy import read_npy, read_npz
from gpunet.errors import DataError, OutOfMemory

X = np.arange(12.0).reshape(4, 3)
Y = np.array([0, 1, 0, 7])


def test_x_and_y_from_npz():
    source = read_npz(npz(("x.npy", npy(X)), ("y.npy", npy(Y))), "t", ROOM)
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.y, Y)
    assert source.test is None


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
