"""Rows that lie in a file and are read by position: what does not fit in memory.

Nothing is mapped, so that only what a caller holds counts as its memory. Refuses to keep anything:
a spool has no name, and is gone with the process.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from copy import copy
from math import prod
from threading import Lock
from typing import IO

import numpy as np

from gpunet.errors import DataError, WriteError
from gpunet.sizes import shown

BLOCK = 1 << 24
"""Bytes that are read at a time where nobody says how many rows."""
PER_ROW = 88
"""Memory that a row takes however wide it is: its place in the split, its target, its hash, and a
cell while its column is fitted."""
PER_PLACED_ROW = 64
"""Of these, what is left while rows are encoded."""
ROOMY = "/var/tmp"


class Handle:
    """An open file, unbuffered, for as long as somebody holds it; `file` itself may be closed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.number, self.lock = os.dup(file.fileno()), Lock()
        self.file = io.FileIO(self.number, file.mode, closefd=False)

    def __del__(self) -> None:
        os.close(self.number)

    def fill(self, view: memoryview, offset: int) -> int:
        """Read into `view` from `offset` on; how many bytes are missing at the file's end."""
        with self.lock:
            self.file.seek(offset)
            while len(view) and (got := self.file.readinto(view)):
                view = view[got:]
        return len(view)


class RowFile:
    """Rows (n, …) of one dtype in a file; a slice or an array of row numbers reads a copy."""

    def __init__(
        self, handle: Handle, name: str, shape: tuple[int, ...], dtype: np.dtype, offset: int = 0
    ) -> None:
        self.handle, self.name, self.offset = handle, name, offset
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        return prod(self.shape[1:]) * self.dtype.itemsize

    def flat(self) -> "RowFile":
        """The same rows as (n, d)."""
        found = copy(self)
        found.shape = (len(self), prod(self.shape[1:]))
        return found

    def read(self, first: int, out: np.ndarray) -> None:
        """Fill `out` (m, …), C-contiguous and of the rows' dtype, with the rows from `first` on.

        Raises DataError where the file has become shorter or cannot be read.
        """
        view = memoryview(out.reshape(-1).view(np.uint8).data)
        try:
            missing = self.handle.fill(view, self.offset + first * self.row_bytes)
        except OSError as error:
            raise DataError(f"{self.name}: could not be read ({error.strerror})") from None
        if missing:
            raise DataError(f"{self.name}: the file has become shorter")

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(len(self))
            found = np.empty((max(0, stop - first), *self.shape[1:]), self.dtype)
            self.read(first, found)
            return found
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows.tolist()):
            self.read(row, found[place : place + 1])
        return found


Rows = np.ndarray | RowFile


def blocks(rows: Rows, step: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Rows in order, `step` or a few megabytes at a time, each with the number of its first."""
    step = step or max(1, BLOCK // max(1, rows.nbytes // len(rows)))
    for first in range(0, len(rows), step):
        yield first, rows[first : first + step]


class Spool:
    """An unlinked file that rows (n, d) are added to, in the folder of `folder()`."""

    def __init__(self, width: int, dtype: np.dtype | str) -> None:
        self.width, self.dtype, self.count = width, np.dtype(dtype), 0
        self.place = folder()
        try:
            with tempfile.TemporaryFile(dir=self.place, buffering=0) as file:
                self.handle = Handle(file)
        except OSError as error:
            raise _refused(self.place, error) from None

    def add(self, rows: np.ndarray) -> None:
        """Write rows (m, d) behind those that are there; WriteError when the disk is full."""
        view = memoryview(np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data)
        try:
            while len(view):
                view = view[self.handle.file.write(view) :]
        except OSError as error:
            raise _refused(self.place, error) from None
        self.count += len(rows)

    def rows(self) -> RowFile:
        """What was written, to be read; nothing may be added any more."""
        return RowFile(self.handle, self.place, (self.count, self.width), self.dtype)


def folder() -> str:
    """Where spools are made: `TMPDIR`, else /var/tmp, which is on disk where /tmp may be memory.

    Raises WriteError where the first is no folder to write in.
    """
    if given := os.environ.get("TMPDIR"):
        if not os.path.isdir(given) or not os.access(given, os.W_OK | os.X_OK):
            raise WriteError(f"{given}: TMPDIR is no folder to write in", "set it to another")
        return given
    return ROOMY if os.access(ROOMY, os.W_OK | os.X_OK) else tempfile.gettempdir()


def check_room(wanted: int) -> None:
    """WriteError when fewer than `wanted` bytes are free where spools are made."""
    free = shutil.disk_usage(folder()).free
    if wanted > free:
        raise WriteError(
            f"{folder()}: {shown(wanted)} are wanted for rows that do not fit in memory, "
            f"{shown(free)} are free",
            "set TMPDIR to a folder on a larger disk",
        )


def _refused(place: str, error: OSError) -> WriteError:
    return WriteError(
        f"{place}: {error.strerror or error}", "set TMPDIR to a folder on a larger disk"
    )
