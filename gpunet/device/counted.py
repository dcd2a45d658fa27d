"""A device that only counts: what would be allocated there. Refuses to run anything."""

import mmap
import sys
from math import prod
from typing import Any

import numpy as np

from gpunet.device.base import Launcher
from gpunet.device.cpu import Cpu

NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


class Counted(Cpu):
    """Launch lists are lowered to it as to a device of so many branches; `asked` adds up the bytes.

    Its arrays are address space: no memory, until something is written to them.
    """

    name, runs = "counted", False

    def __init__(
        self, rows_bytes: float | None = None, branches: int = 1, precision: str = "fp32"
    ) -> None:
        super().__init__("numpy", 1)
        self.asked, self.rows_bytes, self.branches = 0, rows_bytes, branches
        self.precision = precision

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        self.asked += nbytes
        return _address_space(nbytes).view(dtype).reshape(shape)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self.empty(shape, dtype)

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        array = super().asarray(values, dtype)
        self.asked += array.nbytes
        return array

    def launcher(self, source: str, entry: str) -> Launcher:
        """Binding a reference would make views of all its tiles."""
        return _refuse


def _address_space(nbytes: int) -> np.ndarray:
    if nbytes == 0 or sys.platform != "linux":
        return np.zeros(nbytes, np.uint8)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), np.uint8)


def _refuse(grid: Any, block: Any, shared_bytes: int, arguments: Any) -> None:
    raise TypeError("a counted device runs nothing")
