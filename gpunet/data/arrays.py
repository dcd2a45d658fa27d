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
from pathlib import Path
from typing import IO

import numpy as np

from gpunet.data.files import Bytes, budget, load, size
from gpunet.data.source import MAX_ROWS, Source
from gpunet.data.words import listed, quoted
from gpunet.errors import DataError

IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
IDX_NAME = re.compile(r"(train|t10k|test)-(images|labels)[.-]idx\d-ubyte(\.gz)?$")
KEYS = ("x", "y", "x_train", "y_train", "x_test", "y_test")
BLOCK = 1 << 22
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
    x: np.ndarray,
    y: np.ndarray | None = None,
    test: Source | None = None,
    notes: tuple[str, ...] = (),
) -> Source:
    """A Source of arrays x (n, …) and y (n,) or (n, k), in the machine's byte order."""
    x = _plain(f"{name}: x", x, "biuf")
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
    return Source(name, x=x, y=y, test=test, notes=notes)


def check_finite(what: str, array: np.ndarray, missing: bool = False) -> None:
    """Raise DataError at the first value that is infinite or, unless `missing`, NaN."""
    if array.dtype.kind != "f":
        return
    flat, found, first = array.reshape(-1), 0, 0
    for low in range(0, flat.size, BLOCK):
        part = flat[low : low + BLOCK]
        bad = np.isinf(part) if missing else ~np.isfinite(part)
        if bad.any():
            first = first if found else low + int(np.argmax(bad))
            found += int(bad.sum())
    if found:
        place = [int(i) + 1 for i in np.unravel_index(first, array.shape)]
        column = f", column {', '.join(map(str, place[1:]))}" if place[1:] else ""
        raise DataError(
            f"{what}: {found:,} of {flat.size:,} values not finite "
            f"(row {place[0]:,}{column}: {flat[first]})"
        )


def _plain(what: str, array: np.ndarray, kinds: str) -> np.ndarray:
    if array.dtype.kind == "S" and "U" in kinds:
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "OT" and "U" in kinds and all(isinstance(v, str) for v in array.flat):
        array = array.astype(str)
    if array.dtype.kind not in kinds:
        raise DataError(f"{what} holds {_kind(array.dtype)}; wanted numbers")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def _kind(dtype: np.dtype) -> str:
    names = {"O": "Python objects", "c": "complex numbers", "M": "dates", "m": "durations"}
    names |= {"V": "records", "U": "text", "S": "bytes", "T": "text"}
    return names.get(dtype.kind, str(dtype))


def read_npy(data: Bytes, name: str) -> Source:
    """Features alone, from one NPY file."""
    return from_arrays(name, _read_array(io.BytesIO(data), len(data), name))


def read_npz(data: Bytes, name: str) -> Source:
    """x and y, or x_train, y_train, x_test and y_test; other arrays are left alone, with a note."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, name)
            arrays = {}
            for key, member in members.items():
                if key in KEYS:
                    with archive.open(member) as file:
                        arrays[key] = _read_array(file, member.file_size, f"{name}: {key}")
    except ZIP_ERRORS as error:
        raise DataError(f"{name}: not a whole NPZ file ({error})") from None
    train = "_train" if "x_train" in arrays else ""
    others = sorted(set(members) - {f"x{train}", f"y{train}", "x_test", "y_test"})
    if (
        f"x{train}" not in arrays
        or {"x", "y"} & set(others)
        or {"x_train", "y_train"} & set(others)
    ):
        raise DataError(
            f"{name}: holds the arrays {listed(sorted(members)) or '(none)'}",
            "wanted x and y, or x_train, y_train, x_test and y_test",
        )
    test = None
    if "x_test" in arrays:
        test = from_arrays(f"{name} (test)", arrays["x_test"], arrays.get("y_test"))
    notes = (f"{name}: left the arrays {listed(others)} alone",) if others else ()
    return from_arrays(name, arrays[f"x{train}"], arrays.get(f"y{train}"), test, notes)


def _members(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if "[Content_Types].xml" in archive.namelist():
        raise DataError(f"{name}: an Excel workbook", "save the sheet as CSV")
    keys = [member.filename.removesuffix(".npy").casefold() for member in members]
    twice = [key for key, times in Counter(keys).items() if times > 1]
    if twice:
        raise DataError(f"{name}: the same array more than once: {listed(twice)}")
    unpacked = sum(m.file_size for m, key in zip(members, keys, strict=True) if key in KEYS)
    if unpacked > budget():
        raise DataError(
            f"{name}: {size(unpacked)} once unpacked, more than this machine's share of memory "
            f"for one input ({size(budget())})"
        )
    return dict(zip(keys, members, strict=True))


def _read_array(file: IO[bytes], length: int, name: str) -> np.ndarray:
    """One NPY file of `length` bytes: the header must account for every one of them."""
    dtype, shape, fortran = _header(file, name)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise DataError(f"{name}: holds {_kind(dtype)}; wanted numbers")
    wanted = math.prod(shape) * dtype.itemsize
    if dtype.itemsize == 0 or min(shape, default=0) < 0 or max(shape, default=0) > MAX_ROWS:
        raise DataError(f"{name}: the header promises the shape {_shown(shape)} of {dtype}")
    if file.tell() + wanted != length:
        raise DataError(
            f"{name}: the header promises the shape {_shown(shape)} of {dtype}, {wanted:,} bytes; "
            f"{length - file.tell():,} are there"
        )
    values = np.empty(wanted, np.uint8)
    view, filled = memoryview(values.data), 0
    while filled < wanted:
        got = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise DataError(f"{name}: the data end after {filled:,} of {wanted:,} bytes")
        filled += got
    return values.view(dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes], name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    form = np.lib.format
    try:
        version = form.read_magic(file)
        read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=10_000)
        return dtype, tuple(int(side) for side in shape), fortran
    except Exception as error:  # NumPy parses the header as Python: it may fail in any way
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(f"{name}: not an NPY array ({reason})") from None


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


def read_idx_folder(path: str, name: str) -> Source:
    """A folder with MNIST's file names; t10k-images… and t10k-labels… are its test part."""
    files: dict[tuple[str, str], str] = {}
    for file in sorted(Path(path).iterdir(), reverse=True):  # plain files win over their .gz
        if found := IDX_NAME.search(file.name):
            part = "train" if found[1] == "train" else "test"
            files[part, found[2]] = str(file)
    if not files:
        raise DataError(f"{path}: a folder without MNIST's files", "name a file instead")
    train = _idx_pair(files, "train", name)
    if ("test", "images") not in files and ("test", "labels") not in files:
        return train
    return Source(name, x=train.x, y=train.y, test=_idx_pair(files, "test", name))


def _idx_pair(files: dict[tuple[str, str], str], part: str, name: str) -> Source:
    for what in ("images", "labels"):
        if (part, what) not in files:
            raise DataError(
                f"{name}: the folder lacks {part}-{what}-idx{3 if what == 'images' else 1}-ubyte"
            )
    x, y = (_read_idx(load(files[part, what]), files[part, what]) for what in ("images", "labels"))
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
    if len(data) - start != wanted:
        raise DataError(
            f"{name}: the header promises the shape {_shown(shape)} of {dtype.newbyteorder('=')}, "
            f"{wanted:,} bytes; {len(data) - start:,} are there"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
