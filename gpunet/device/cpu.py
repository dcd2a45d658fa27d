"""The CPU through NumPy: the device that is always there."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from math import prod
from threading import RLock, get_ident
from typing import Any

import numpy as np

from gpunet.device.base import Device, Launcher, Memory, Mirror, Run

THREADED_FLOPS = 5_000_000
"""About 25 µs of a core with AVX-512, 100 µs of one with AVX2. Steps of larger products are up to
1.4 times as quick on two quiet cores, and many times slower where the cores have other work."""


CACHE_LINE = 64
"""Bytes."""


class Cpu(Device):
    name = "cpu"
    kind = "cpu"
    xp = np

    def __init__(self, kernels: str = "auto", threads: int | None = None) -> None:
        self.kernels, self.threads = kernels, threads or wanted_threads()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return aligned(np.empty, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return aligned(np.zeros, shape, dtype)

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        if hasattr(values, "get") and hasattr(values, "__cuda_array_interface__"):
            values = values.get()
        elif hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
            values = np.from_dlpack(values)
        return np.asarray(values, dtype)

    def working(self, flops: int) -> AbstractContextManager[Any]:
        """One BLAS thread for small products: waking a second costs more than it brings; and where
        bits must not depend on threads. For others OPENBLAS_NUM_THREADS, or `threads`."""
        most = _threads(("OPENBLAS_NUM_THREADS",), self.threads)
        is_alone = self.deterministic or flops < THREADED_FLOPS
        threads = 1 if is_alone else most
        return _limited(threads) if _is_openmp() else _blas_limit.at_most(threads)

    def product(self, a: Any, b: Any, out: Any, flip_a: bool = False, flip_b: bool = False) -> Run:
        """By `dot`: NumPy's matmul keeps products with a single column from BLAS."""
        return partial(np.dot, a.T if flip_a else a, b.T if flip_b else b, out=out)

    def mirrored(self, shape: tuple[int, ...], dtype: Any) -> Mirror:
        array = self.zeros(shape, dtype)
        return Mirror(array, array, _nothing)

    def to_host(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def memory(self) -> Memory:
        meminfo = _meminfo()
        return Memory(meminfo.get("MemTotal", 0), meminfo.get("MemAvailable", 0))

    def describe(self) -> dict[str, Any]:
        memory = self.memory()
        return {
            "name": self.name,
            "cores": available_cores(),
            "memory_total": memory.total,
            "memory_free": memory.free,
            "blas": _blas(),
            "blas_threads": blas_threads(),
        }

    def traits(self) -> dict[str, str]:
        blas = _blas_pool()
        words = (blas.get(name) for name in ("internal_api", "version", "architecture"))
        found = {"blas": " ".join(str(word) for word in words if word), "simd": _simd()}
        return found if self.deterministic else {**found, "threads": str(self.threads)}

    def launcher(self, source: str, entry: str) -> Launcher | None:
        return None


class _BlasLimit:
    """How many threads BLAS may take, where that is one number for the whole process: the least
    that a thread at work wants. Who comes first keeps what it was, who leaves last restores it."""

    def __init__(self) -> None:
        self.wanted: dict[object, tuple[int, int]] = {}
        self.least = 0
        self.first: Any = None
        self.fork()

    def fork(self) -> None:
        """What a forked child begins with: of all who were at work, others are not there."""
        self.lock = RLock()  # a generator that is thrown away may leave in the midst of this
        self.wanted.clear()

    @contextmanager
    def at_most(self, threads: int) -> Iterator[None]:
        me = object()
        with self.lock:
            self.wanted[me] = get_ident(), threads
            self._settle()
        try:
            yield
        finally:
            with self.lock:
                self.wanted.pop(me, None)
                self._settle()

    def _settle(self) -> None:
        from threadpoolctl import OpenBLASController

        innermost = dict(self.wanted.values())
        least = min(innermost.values(), default=0)
        if least == self.least:
            return
        if least:
            made = _limited(least)
            self.first = self.first or made
        elif self.first is not None:
            self.first.restore_original_limits()
            self.first = None
        self.least = least
        if hasattr(OpenBLASController, "clear_controlling_thread"):
            OpenBLASController.clear_controlling_thread()  # else no other thread's word would count


_blas_limit = _BlasLimit()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas_limit.fork)


def _nothing(part: slice) -> None:
    """What there is to do to send what is there."""


def aligned(
    make: Callable[[int, np.dtype], np.ndarray], shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """An array at the start of a cache line: wide loads that straddle two lines take twice as long,
    and NumPy's own large arrays always start in the middle of one."""
    size, kind = prod(shape), np.dtype(dtype)
    raw = make(size + CACHE_LINE // kind.itemsize, kind)
    first = -raw.ctypes.data % CACHE_LINE // kind.itemsize
    return raw[first : first + size].reshape(shape)


def available_cores() -> int:
    """Cores that this process may use: the affinity mask and the cgroup's quota, the smaller."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota() or cores))


def wanted_threads() -> int:
    """Threads to use unless told otherwise: OMP_NUM_THREADS, or the cores."""
    return _threads(("OMP_NUM_THREADS",), available_cores())


def blas_threads() -> int:
    """Threads that NumPy's BLAS starts with: the environment's word, or the cores."""
    return _threads(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), available_cores())


def _threads(names: tuple[str, ...], otherwise: int) -> int:
    """What the first of these variables that is set says, at most the machine's cores."""
    for name in names:
        value = os.environ.get(name, "")
        if value.isascii() and value.isdigit() and int(value) > 0:
            return min(int(value), os.cpu_count() or 1)
    return otherwise


def _blas() -> str:
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{found['name']} {found['version']}"


def _blas_pool() -> dict[str, Any]:
    """What threadpoolctl says of NumPy's BLAS."""
    return next(iter(_blas_pools().info()), {})


@cache
def _blas_pools() -> Any:
    """NumPy's BLAS, and what others were there at the first call: to look for them takes 1 ms, and
    no product of ours is made by one that comes later."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _limited(threads: int) -> Any:
    """BLAS with so many threads, until what this returns is left."""
    return _blas_pools().limit(limits=threads, user_api="blas")


@cache
def _is_openmp() -> bool:
    """Whether BLAS has its threads from OpenMP: then each of ours has a limit of its own."""
    return _blas_pool().get("threading_layer") == "openmp"


def _cgroup_quota() -> int | None:
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))


def _simd() -> str:
    """The widest vectors of this processor."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        flags = []
    return next((name for name in ("avx512f", "avx2") if name in flags), platform.machine())


def _meminfo() -> dict[str, int]:
    try:
        with open("/proc/meminfo") as file:
            fields = (line.split() for line in file)
            return {name.rstrip(":"): int(kib) * 1024 for name, kib, *_ in fields}
    except OSError:
        return {"MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}
