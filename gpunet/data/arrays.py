"""Arrays in memory, and what those of all files must be: features x and targets y.

Refuses objects, structured and complex values, and features that are not finite.
"""

import math
from collections import Counter
from numbers import Real

import numpy as np

from gpunet.data.rows import RowFile, Rows, blocks
from gpunet.data.source import MAX_ROWS, Source
from gpunet.data.words import TABULAR
from gpunet.errors import DataError

MAX_DIMENSIONS = 32
MAX_POINT = 0x10FFFF


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


def check_promised(name: str, shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    """Raise DataError where an array as a file's header has it is not `there` bytes, or is none
    that NumPy can hold, whatever the memory."""
    wanted = math.prod(shape) * dtype.itemsize
    extent = dtype.itemsize * math.prod(max(side, 1) for side in shape)
    sides = all(0 <= side <= MAX_ROWS for side in shape) and len(shape) <= MAX_DIMENSIONS
    if there != wanted or not sides or not 0 < extent < 1 << 62:
        shown = f"({', '.join(map(str, shape[:4]))}{', …' if len(shape) > 4 else ''})"
        raise DataError(
            f"{name}: the header promises the shape {shown} of {dtype}, {wanted:,} bytes; "
            f"{there:,} are there"
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
        raise DataError(f"{what} holds {kind_of(array.dtype)}; wanted numbers", hint)
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


def kind_of(dtype: np.dtype) -> str:
    """What an array of a type holds, for messages."""
    names = {"O": "Python objects", "c": "complex numbers", "M": "dates", "m": "durations"}
    names |= {"V": "records", "U": "text", "S": "bytes", "T": "text"}
    return names.get(dtype.kind, str(dtype))
