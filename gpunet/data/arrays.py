"""Arrays: NPZ, NPY and IDX files and arrays in memory, as features x and targets y.

Every header is checked against the bytes that are there before anything is allocated. Refuses
objects, structured and complex values, and features that are not finite.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpunet.data.files import FEWER, Bytes, load
from gpunet.data.limits import check_fits, check_ratio
from gpunet.data.rows import RowFile, Rows, blocks
from gpunet.data.source import MAX_ROWS, Source
from gpunet.data.words import TABULAR, listed, quoted
from gpunet.errors import DataError, NotPermitted

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_NAME = re.compile(r"(train|t10k|test)-(images|labels)[.-]idx\d-ubyte(\.gz)?$")
PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
NPY_MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes, as NumPy's own limit
MAX_DIMENSIONS = 32
MAX_POINT = 0x10FFFF
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


def from_arrays(
    name: str,
    x: Rows,
    y: np.ndarray | None = None,
    test: Source | None = None,
    notes: tuple[str, ...] = (),
) -> Source:
    """A Source of arrays x (n, …) and y (n,) or (n, k), in the machine's byte order; of an x that
    lies in a file it streams."""
    streams = isinstance(x, RowFile)
    x = x if isinstance(x, RowFile) else _plain(f"{name}: x", x, "biuf")
    if x.ndim == 0 or x.size == 0:
        raise DataError(f"{name}: x has the shape {x.shape}; wanted (rows, features)")
    check_finite(f"{name}: x", x)
    if y is not None:
        y = _plain(f"{name}: y", y, "biufU")
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim not in (1, 2) or 0 in y.shape[1:]:
            raise DataError(f"{name}: y has the shape {y.shape}; wanted (rows,) or (rows, targets)")
        if len(y) != len(x):
            raise DataError(f"{name}: x has {len(x):,} rows, y has {len(y):,}")
    return Source(name, x=x, y=y, test=test, notes=notes, streams=streams)


def check_finite(what: str, array: Rows, missing: bool = False) -> None:
    """Raise DataError at the first value that is infinite or, unless `missing`, NaN."""
    if array.dtype.kind != "f":
        return
    found, first, value = 0, 0, 0.0
    for low, rows in blocks(array):
        part = rows.reshape(-1)
        bad = np.isinf(part) if missing else ~np.isfinite(part)
        if bad.any():
            if not found:
                place = int(np.argmax(bad))
                first, value = low * (part.size // len(rows)) + place, part[place]
            found += int(bad.sum())
    if found:
        places = [int(i) + 1 for i in np.unravel_index(first, array.shape)]
        column = f", column {', '.join(map(str, places[1:]))}" if places[1:] else ""
        raise DataError(
            f"{what}: {found:,} of {array.size:,} values not finite "
            f"(row {places[0]:,}{column}: {value})"
        )


def _plain(what: str, array: np.ndarray, kinds: str) -> np.ndarray:
    hint = TABULAR if array.dtype.kind in "OT" and "U" not in kinds else None
    if array.dtype.kind == "S" and "U" in kinds:
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind == "U" and array.view(np.uint32).max(initial=0) > MAX_POINT:
        raise DataError(f"{what} holds numbers that are no characters")
    if array.dtype.kind in "OT":
        array = _alike(what, array.astype(object, copy=False), hint)
    if array.dtype.kind not in kinds:
        raise DataError(f"{what} holds {_kind(array.dtype)}; wanted numbers", hint)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def _alike(what: str, array: np.ndarray, hint: str | None) -> np.ndarray:
    """Objects that are all text, all true or false, or all numbers, as an array of these; others
    as they are.

    Raises DataError with the first that is not of the kind that most are of.
    """
    for kind in (str, bool):
        if all(isinstance(value, kind) for value in array.flat):
            return array.astype(kind)
    if not any(isinstance(value, bool) or not isinstance(value, Real) for value in array.flat):
        return np.array(array.tolist())
    usual = Counter(map(type, array.flat)).most_common(1)[0][0]
    odd = [i for i, value in enumerate(array.flat) if type(value) is not usual]
    noun = "text" if issubclass(usual, str) else usual.__name__
    if odd:
        row = odd[0] * len(array) // array.size + 1
        raise DataError(
            f"{what}: {len(odd):,} of {array.size:,} values are not {noun} as the others "
            f"(row {row:,}: {array.flat[odd[0]]!r})",
            hint,
        )
    return array


def _kind(dtype: np.dtype) -> str:
    names = {"O": "Python objects", "c": "complex numbers", "M": "dates", "m": "durations"}
    names |= {"V": "records", "U": "text", "S": "bytes", "T": "text"}
    return names.get(dtype.kind, str(dtype))


def read_npy(data: Bytes, name: str) -> Source:
    """Features alone, from one NPY file."""
    return from_arrays(name, read_array(io.BytesIO(data), len(data), name))


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
                        arrays[key] = read_array(file, member.file_size, f"{name}: {key}")
    except ZIP_ERRORS as error:
        raise DataError(f"{name}: not a whole NPZ file ({error})") from None
    return keyed(name, arrays, sorted(members))


def keyed(name: str, arrays: Mapping[str, Any], names: list[str]) -> Source:
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


def read_array(file: IO[bytes], length: int, name: str) -> np.ndarray:
    """One NPY file of `length` bytes: the header must account for every one of them."""
    dtype, shape, fortran = layout(file, length, name)
    wanted = math.prod(shape) * dtype.itemsize
    values = np.empty(wanted, np.uint8)
    view, filled = memoryview(values.data), 0
    while filled < wanted:
        got = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name}: the data end after {filled:,} of {wanted:,} bytes")
        filled += got
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def layout(file: IO[bytes], length: int, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    """The dtype, the shape, and whether columns come first, of an NPY file of `length` bytes."""
    dtype, shape, fortran = _header(file, name)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise DataError(f"{name}: holds {_kind(dtype)}; wanted numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if file.tell() + wanted != length or not _is_possible(shape, dtype.itemsize):
        raise DataError(
            f"{name}: the header promises the shape {_shown(shape)} of {dtype}, {wanted:,} bytes; "
            f"{length - file.tell():,} are there"
        )
    return dtype, shape, fortran


def _is_possible(shape: tuple[int, ...], itemsize: int) -> bool:
    """Whether NumPy can hold such an array at all, whatever the memory."""
    extent = itemsize * math.prod(max(side, 1) for side in shape)
    sides = all(0 <= side <= MAX_ROWS for side in shape)
    return sides and len(shape) <= MAX_DIMENSIONS and 0 < extent < 1 << 62


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


def _shown(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:4]))}{', …' if len(shape) > 4 else ''})"


def is_idx(data: Bytes) -> bool:
    """Whether a file begins as IDX files do: 00 00, a known type, a number of dimensions."""
    return len(data) >= 4 and data[:2] == b"\0\0" and data[2] in IDX_TYPES and 0 < data[3] <= 32


def read_idx(data: Bytes, name: str) -> Source:
    """Features alone, from one IDX file of images."""
    x = _read_idx(data, name)
    if x.ndim == 1:
        raise DataError(
            f"{name}: an IDX file of labels", "name the folder that holds the images as well"
        )
    return from_arrays(name, x)


def read_idx_folder(path: str, name: str, budget: int) -> Source:
    """A folder with MNIST's file names; t10k-images… and t10k-labels… are its test part."""
    files: dict[tuple[str, str], str] = {}
    try:
        inside = sorted(Path(path).iterdir(), reverse=True)  # plain files win over their .gz
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read", "check its permissions") from None
    for file in inside:
        if found := IDX_NAME.search(file.name):
            part = "train" if found[1] == "train" else "test"
            files[part, found[2]] = str(file)
    if not files:
        raise DataError(f"{path}: a folder without MNIST's files", "name a file instead")
    train = _idx_pair(files, "train", name, budget)
    if ("test", "images") not in files and ("test", "labels") not in files:
        return train
    return Source(name, x=train.x, y=train.y, test=_idx_pair(files, "test", name, budget))


def _idx_pair(files: dict[tuple[str, str], str], part: str, name: str, budget: int) -> Source:
    for what in ("images", "labels"):
        if (part, what) not in files:
            raise DataError(
                f"{name}: the folder lacks {part}-{what}-idx{3 if what == 'images' else 1}-ubyte"
            )
    found = (files[part, what] for what in ("images", "labels"))
    x, y = (_read_idx(load(file, budget), file) for file in found)
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"{name}: the {part} images have {x.ndim} and the labels {y.ndim} dimensions; "
            "wanted 2 or more and 1"
        )
    return from_arrays(name if part == "train" else f"{name} (test)", x, y)


def _read_idx(data: Bytes, name: str) -> np.ndarray:
    if not is_idx(data) or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{name}: not an IDX file (begins with {quoted(bytes(data[:4]).hex(' '))})")
    dtype = np.dtype(IDX_TYPES[data[2]])
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    start = 4 + 4 * len(shape)
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) - start != wanted or not _is_possible(shape, dtype.itemsize):
        raise DataError(
            f"{name}: the header promises the shape {_shown(shape)} of {dtype.newbyteorder('=')}, "
            f"{wanted:,} bytes; {len(data) - start:,} are there"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
