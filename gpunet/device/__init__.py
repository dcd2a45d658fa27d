"""The array-module shim: NumPy and CuPy behind one object. `cuda` never falls back to the CPU."""

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from threading import get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any

from gpunet.device.base import Array, Device, Epilogue, Launcher, Memory, Mirror, Turn
from gpunet.device.cpu import Cpu
from gpunet.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from gpunet.device.cuda import Cuda

__all__ = [
    "Array",
    "Choice",
    "Device",
    "Epilogue",
    "Launcher",
    "Memory",
    "Mirror",
    "Turn",
    "device_of",
    "has_driver",
    "module_of",
    "resolve",
]

DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
"""What a CUDA driver shows on Linux, and in WSL."""


@dataclass(frozen=True)
class Choice:
    """A device and why it was chosen."""

    device: Device
    reason: str


def resolve(name: str = "auto") -> Choice:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises UsageError for another name and Unavailable, with CuPy's own reason, for a GPU that is
    not there. Only `auto` may choose the CPU instead.
    """
    if not isinstance(name, str):
        kind = type(name).__name__
        raise UsageError(f"a device is named by text, not {kind}", "use auto, cpu, cuda or cuda:N")
    if name == "cpu":
        return Choice(Cpu(), "asked for")
    if name == "auto":
        try:
            return Choice(_cuda(0), "a CUDA device is there")
        except Unavailable as reason:
            return Choice(Cpu(), reason.message)
    kind, _, index = name.partition(":")
    if kind != "cuda" or not ((index.isascii() and index.isdigit()) or name == "cuda"):
        raise UsageError(f"no device {name!r}", "use auto, cpu, cuda or cuda:N")
    return Choice(_cuda(int(index or 0)), "asked for")


def has_driver() -> bool:
    """Whether there seems to be a GPU, and CuPy for it, without the wait for either to start."""
    is_there = sys.platform == "win32" or any(map(os.path.exists, DRIVERS))
    return is_there and find_spec("cupy") is not None


def module_of(*arrays: Array) -> ModuleType:
    """NumPy or CuPy: the module that all of `arrays` belong to; TypeError when they are of two."""
    import numpy

    cupy = sys.modules.get("cupy")
    modules = {
        cupy if cupy is not None and isinstance(array, cupy.ndarray) else numpy
        for array in arrays
        if hasattr(array, "dtype")
    }
    if len(modules) > 1:
        raise TypeError("arrays of two devices in one call: move them to one first")
    return modules.pop() if modules else numpy


def device_of(*arrays: Array) -> Device:
    """The device that all of `arrays` live on; TypeError when they live on two."""
    xp = module_of(*arrays)
    if xp.__name__ == "numpy":
        return Cpu()
    indices: set[Any] = {array.device.id for array in arrays if hasattr(array, "dtype")}
    if len(indices) > 1:
        raise TypeError(f"arrays of GPUs {sorted(indices)} in one call: move them to one first")
    return _cuda(indices.pop())


def _cuda(index: int) -> Device:
    device = _opened(index, get_ident())
    device.use()
    return device


@cache
def _opened(index: int, thread: int) -> "Cuda":
    """Each thread has its own, as on the CPU: a stream of two would take the steps of one into the
    graph that the other captures. One that has ended leaves it to the next of its number."""
    from gpunet.device.cuda import Cuda

    return Cuda(index)
