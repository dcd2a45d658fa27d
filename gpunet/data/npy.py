"""NPY files whose rows are read by position where they do not fit, and folders of them.

Refuses to stream arrays whose columns come first, or in another machine's byte order.
"""

import io
import os
from pathlib import Path

import numpy as np

from gpunet.data.arrays import KEYS, from_arrays, keyed, layout, read_array
from gpunet.data.files import load
from gpunet.data.limits import check_fits
from gpunet.data.rows import PER_ROW, Handle, RowFile, Rows
from gpunet.data.source import Source

COPIES = 2
"""What training from memory makes of x: what was read, and its parts."""


def stream_npy(path: str, name: str, budget: int) -> Source | None:
    """A file of features as a Source that streams; None where it fits into `budget` bytes.

    Raises DataError for a header that does not match, OutOfMemory for what cannot stream.
    """
    rows = _open(path, name, budget)
    return from_arrays(name, rows) if isinstance(rows, RowFile) else None


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
    return keyed(name, arrays, list(files))


def _read(path: Path, name: str, budget: int) -> np.ndarray:
    content = load(str(path), budget)
    return read_array(io.BytesIO(content), len(content), name)


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
    dtype, shape, columns_first = layout(handle.file, size, name)
    plain = dtype.kind in "biuf" and dtype.itemsize <= 8 and dtype.isnative and len(shape) > 0
    if not plain or (columns_first and len(shape) > 1):
        check_fits(name, COPIES * size, budget, "save it row by row, in this machine's byte order")
    check_fits(name, shape[0] * PER_ROW, budget, "use fewer rows")
    return RowFile(handle, name, shape, dtype, handle.file.tell())
