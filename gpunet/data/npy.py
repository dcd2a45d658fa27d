"""NPY files, and several of them: packed as an NPZ file, or in a folder.

Every header is checked against the bytes that are there before anything is allocated. What does not
fit in memory is read by position. Refuses to stream arrays whose columns come first, or in another
machine's byte order.
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpunet.data.arrays import check_promised, from_arrays, kind_of
from gpunet.data.files import FEWER, Bytes, load
from gpunet.data.limits import check_fits, check_ratio
from gpunet.data.rows import PER_ROW, Handle, RowFile, Rows
from gpunet.data.source import Source
from gpunet.data.words import listed, quoted
from gpunet.errors import DataError

PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as NumPy's own limit
DTYPE = r"'[<>|=]?[?biufcSUVOMm]\d{0,9}(?:\[\w{1,8}\])?'|\[[^]]*\]"
SHAPE = r"\((?:-?\d{1,20}L?(?:, *|(?=\))))*\)"
VALUES = rf"'descr' *: *({DTYPE})|'fortran_order' *: *(True|False)|'shape' *: *({SHAPE})"
HEADER = re.compile(rf"\{{ *(?:(?:{VALUES}) *(?:, *)?){{3}}\}}\s*", re.ASCII)
KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
)
COPIES = 2
"""What training from memory makes of x: what was read, and its parts."""


def read_npy(data: Bytes, name: str) -> Source:
    """Features alone, from one NPY file."""
    return from_arrays(name, _read_array(io.BytesIO(data), len(data), name))


def read_npz(data: Bytes, name: str, budget: int) -> Source:
    """x and y, or x_train, y_train, x_test and y_test; other arrays are left alone, with a note.

    The directory is judged before anything is unpacked: OutOfMemory for more than `budget` bytes.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, len(data), name, budget)
            arrays = {}
            for key, member in members.items():
                if key in KEYS:
                    with archive.open(member) as file:
                        arrays[key] = _read_array(file, member.file_size, f"{name}: {key}")
    except ZIP_ERRORS as error:
        raise DataError(f"{name}: not a whole NPZ file ({error})") from None
    return _keyed(name, arrays, sorted(members))


def is_npy_folder(path: str) -> bool:
    """Whether a folder holds arrays under the names of an NPZ file: x.npy and y.npy, …"""
    return any(os.path.isfile(os.path.join(path, f"{key}.npy")) for key in KEYS)


def read_npy_folder(path: str, name: str, budget: int) -> Source:
    """A folder of NPY files, as an NPZ file of the same names; an x that does not fit streams."""
    files = {file.stem: file for file in sorted(Path(path).glob("*.npy"))}
    arrays: dict[str, Rows] = {}
    for key in KEYS:
        if key in files:
            where = f"{name}: {key}"
            found = _open(files[key], where, budget) if key.startswith("x") else None
            arrays[key] = _read(files[key], where, budget) if found is None else found
    return _keyed(name, arrays, list(files))


def stream_npy(path: str, name: str, budget: int) -> Source | None:
    """A file of features as a Source that streams; None where it fits into `budget` bytes.

    Raises DataError for a header that does not match, OutOfMemory for what cannot stream.
    """
    rows = _open(path, name, budget)
    return from_arrays(name, rows) if isinstance(rows, RowFile) else None


def _keyed(name: str, arrays: Mapping[str, Any], names: list[str]) -> Source:
    """A Source of x and y, or x_train, y_train, x_test and y_test; of `names`, all that are there,
    the others are left alone, with a note."""
    train = "_train" if "x_train" in arrays else ""
    others = [key for key in names if key not in (f"x{train}", f"y{train}", "x_test", "y_test")]
    if (
        f"x{train}" not in arrays
        or {"x", "y"} & set(others)
        or {"x_train", "y_train"} & set(others)
    ):
        raise DataError(
            f"{name}: holds the arrays {listed(names) or '(none)'}",
            "wanted x and y, or x_train, y_train, x_test and y_test",
        )
    test = None
    if "x_test" in arrays:
        test = from_arrays(f"{name} (test)", arrays["x_test"], arrays.get("y_test"))
    notes = (f"{name}: left the arrays {listed(others)} alone",) if others else ()
    return from_arrays(name, arrays[f"x{train}"], arrays.get(f"y{train}"), test, notes)


def _members(
    archive: zipfile.ZipFile, packed: int, name: str, budget: int
) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if "[Content_Types].xml" in archive.namelist():
        raise DataError(f"{name}: an Excel workbook", "save the sheet as CSV")
    if members and not any(member.filename.endswith(".npy") for member in members):
        held = listed(member.filename for member in members)
        raise DataError(f"{name}: a ZIP archive with {held}", "unpack it, or pack with gzip")
    keys = [member.filename.removesuffix(".npy").casefold() for member in members]
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        raise DataError(f"{name}: the same array more than once: {listed(twice)}")
    wanted = [member for member, key in zip(members, keys, strict=True) if key in KEYS]
    if strange := [m.filename for m in wanted if m.compress_type not in PACKING]:
        raise DataError(f"{name}: {listed(strange)} is not packed as NumPy packs arrays")
    unpacked = sum(member.file_size for member in wanted)
    check_fits(f"{name}, unpacked", unpacked, budget, FEWER)
    check_ratio(name, unpacked, packed, "numpy.savez packs nothing")
    return dict(zip(keys, members, strict=True))


def _read_array(file: IO[bytes], length: int, name: str) -> np.ndarray:
    """One NPY file of `length` bytes: the header must account for every one of them."""
    dtype, shape, fortran = _layout(file, length, name)
    wanted = math.prod(shape) * dtype.itemsize
    values = np.empty(wanted, np.uint8)
    view, filled = memoryview(values.data), 0
    while filled < wanted:
        got = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name}: the data end after {filled:,} of {wanted:,} bytes")
        filled += got
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _read(path: Path, name: str, budget: int) -> np.ndarray:
    content = load(str(path), budget)
    return _read_array(io.BytesIO(content), len(content), name)


def _open(path: str | Path, name: str, budget: int) -> RowFile | None:
    """The rows of a file; None where they fit into `budget` bytes, or cannot be opened."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb", buffering=0) as file:
            handle = Handle(file)
    except OSError:
        return None
    if COPIES * size <= budget:
        return None
    dtype, shape, columns_first = _layout(handle.file, size, name)
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative and len(shape) > 0
    if not plain or (columns_first and len(shape) > 1):
        check_fits(name, COPIES * size, budget, "save it row by row, in this machine's byte order")
    check_fits(name, shape[0] * PER_ROW, budget, "use fewer rows")
    return RowFile(handle, name, shape, dtype, handle.file.tell())


def _layout(file: IO[bytes], length: int, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """The dtype, the shape, and whether columns come first, of an NPY file of `length` bytes."""
    dtype, shape, fortran = _header(file, name)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise DataError(f"{name}: holds {kind_of(dtype)}; wanted numbers")
    check_promised(name, shape, dtype, length - file.tell())
    return dtype, shape, fortran


def _header(file: IO[bytes], name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """NumPy writes a Python literal; it is matched here, never parsed as Python."""
    text = _header_text(file, name)
    found = re.findall(VALUES, text, re.ASCII) if HEADER.fullmatch(text) else [("", "", "")]
    descr, fortran, shape = map("".join, zip(*found, strict=True))
    if not (descr and fortran and shape):
        raise DataError(f"{name}: not an NPY array (its header is {quoted(text.strip())})")
    try:
        dtype = np.dtype("V1" if descr[0] == "[" else descr.strip("'"))
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{name}: not an NPY array (of type {quoted(descr)})") from None
    return dtype, tuple(map(int, re.findall(r"-?\d+", shape))), fortran == "True"


def _header_text(file: IO[bytes], name: str) -> str:
    """The header's characters, after a look at the mark, the version and the length."""
    head = file.read(8)
    width = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}.get(head[6:])
    if head[:6] != NPY_MAGIC or width is None:
        raise DataError(f"{name}: not an NPY array (begins with {quoted(head.hex(' '))})")
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        raise DataError(f"{name}: an NPY header of {length:,} bytes; the limit is {MAX_HEADER:,}")
    return file.read(length).decode("latin-1")
