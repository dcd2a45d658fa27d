"""CUDA GPUs through CuPy: the only file that imports CuPy. Refuses to fall back to the CPU."""

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from ctypes import CDLL, byref, c_ulonglong, c_void_p
from functools import cache, partial
from math import inf
from typing import Any

import numpy as np

from gpunet.device import cublaslt
from gpunet.device.base import Array, Device, Epilogue, Launcher, Memory, Mirror, Run, Turn
from gpunet.device.products import Products
from gpunet.device.replay import ALONE, Fork, Replay
from gpunet.errors import Unavailable, first_line, kind_and_line

MOST_PINNED = 1 << 30
"""Bytes, of the mirrors of a device: pinned memory is taken from all else that runs. Copies from
other memory go by way of the driver's own."""
NO_MEMORY = 2
"""The status of the runtime and of the driver alike."""


def _import_cupy() -> Any:
    try:
        import cupy
    except Exception as reason:
        message = f"no CuPy: {kind_and_line(reason)}"
        hint = 'install it with: pip install "gpunet[cuda13]" (or [cuda12]), or use --device cpu'
        raise Unavailable(message, hint) from reason
    return cupy


def count() -> int:
    """The number of CUDA devices that CuPy sees; Unavailable, with its reason, when none."""
    cupy = _import_cupy()
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except Exception as reason:
        raise Unavailable(f"no CUDA: {first_line(reason)}", "use --device cpu") from reason
    if found == 0:
        raise Unavailable("no CUDA device is visible", "check CUDA_VISIBLE_DEVICES")
    return int(found)


LEAST_SHARED_BYTES = 48 << 10
"""That the blocks of every GPU may have."""
FIRST, NODE_PRIORITY = -1, 8
"""Priority of the stream that others wait for: its blocks go before theirs. The flag with which
graphs heed that."""


class _Ranked:
    """A captured graph whose kernels keep the priority of the stream that each was captured on:
    CuPy makes graphs of which all have that of the stream where they are launched."""

    def __init__(self, runtime: Any, graph: Any) -> None:
        ready, flags = c_void_p(), c_ulonglong(NODE_PRIORITY)
        made = _driver().cuGraphInstantiateWithFlags
        if status := made(byref(ready), c_void_p(graph.graph), flags):
            raise RuntimeError(f"cuGraphInstantiateWithFlags: status {status}")
        self.start = partial(runtime.graphLaunch, ready.value)
        end = weakref.finalize(self, runtime.graphExecDestroy, ready.value)
        end.atexit = False  # CUDA may be gone by then

    def launch(self, stream: Any) -> None:
        self.start(stream.ptr)


class Cuda(Device):
    """GPU number `index` of those visible, for one thread.

    All work goes to one stream of its own, which the other streams of a process do not wait for:
    the legacy stream could not be captured. `use` makes it the current thread's. Mirrors are sent
    on another one, from any thread; on a third goes, within a graph, what runs beside the rest.
    """

    kind = "cuda"
    branches = 2
    workspace_bytes = branches * cublaslt.WORKSPACE_BYTES

    def __init__(self, index: int = 0) -> None:
        found = count()
        if not 0 <= index < found:
            raise Unavailable(f"no CUDA device {index}: {found} visible", "see gpunet info")
        self.xp = _import_cupy()
        self.index = index
        self.name = f"cuda:{index}"
        self._device = self.xp.cuda.Device(index)
        self._device.use()
        self.stream = self.xp.cuda.Stream(non_blocking=True, priority=FIRST)
        self._blas: cublaslt.Blas | None = None
        self._trouble = ""
        self._copies: Any = None
        self._side: Any = None
        self._mirrored = 0
        self.use()

    def use(self) -> None:
        """Make the device and its stream the current thread's, behind what the thread has under
        way on the one before. It is entered for good: what CuPy's own `use` has set is forgotten
        where a `with` of any stream ends."""
        self._device.use()
        before = self.xp.cuda.get_current_stream()
        if before != self.stream:
            self.stream.wait_event(before.record())
            self.stream.__enter__()

    def working(self, flops: int) -> AbstractContextManager[Any]:
        self._device.use()
        stream: AbstractContextManager[Any] = self.stream
        return stream

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        with self._device:
            if hasattr(values, "__cuda_array_interface__"):
                with ALONE:
                    self._device.synchronize()  # another stream may still be writing it
            if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
                values = self.xp.from_dlpack(values)
            return self.xp.asarray(values, dtype)

    def to_host(self, array: Array) -> Any:
        return self.xp.asnumpy(array)

    def address(self, array: Array) -> int:
        return _address(array)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def memory(self) -> Memory:
        with self._device:
            free, total = self.xp.cuda.runtime.memGetInfo()
        return Memory(total, free + self.xp.get_default_memory_pool().free_bytes())

    def room_for_rows(self) -> float:
        """Half of what is free, unless told otherwise: networks and their steps want the rest."""
        return (self.memory().free // 2 or inf) if self.rows_bytes is None else self.rows_bytes

    def shortage(self, fault: BaseException) -> int | None:
        """CuPy's pool tells the size; CUDA's own calls tell that there was too little."""
        if isinstance(fault, MemoryError):
            return int(getattr(fault, "_size", 0)) or super().shortage(fault)
        is_cuda = type(fault).__name__ in ("CUDARuntimeError", "CUDADriverError")
        return 0 if is_cuda and getattr(fault, "status", None) == NO_MEMORY else None

    def describe(self) -> dict[str, Any]:
        memory, runtime = self.memory(), self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        return {
            "name": self.name,
            "model": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "memory_total": memory.total,
            "memory_free": memory.free,
            "driver": _version(runtime.driverGetVersion()),
            "runtime": _version(runtime.runtimeGetVersion()),
            "cupy": self.xp.__version__,
        }

    def traits(self) -> dict[str, str]:
        found = self.describe()
        known = {name: found[name] for name in ("model", "driver", "runtime", "cupy")}
        return {**known, "cublaslt": cublaslt.version()}

    def launcher(self, source: str, entry: str) -> Launcher:
        function = _module(self.index, source).get_function(entry).kernel

        def launch(grid: Any, block: Any, shared_bytes: int, arguments: Any) -> None:
            function(grid, block, tuple(arguments), shared_bytes)

        return launch

    def room(self) -> tuple[int, int]:
        known = self._device.attributes
        bytes_each = known.get("MaxSharedMemoryPerBlockOptin", LEAST_SHARED_BYTES)
        return int(known["MultiProcessorCount"]), int(bytes_each)

    def meeting(self, source: str, entry: str, shared_bytes: int) -> Launcher:
        """CuPy would cut a grid that does not fit, with a warning; that is an error here."""
        kernel = _module(self.index, source).get_function(entry)
        kernel.max_dynamic_shared_size_bytes = shared_bytes
        function, multiprocessors = kernel.kernel, self.room()[0]
        count = self.xp.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor

        @cache
        def most(threads: int, shared: int) -> int:
            return int(count(function.ptr, threads, shared)) * multiprocessors

        def launch(grid: Any, block: Any, shared: int, arguments: Any) -> None:
            if most(block[0], shared) < grid[0]:
                raise RuntimeError(f"{grid[0]} blocks do not fit on {self.name}")
            function(grid, block, tuple(arguments), shared, None, True)

        return launch

    def product(
        self, a: Array, b: Array, out: Array, flip_a: bool = False, flip_b: bool = False
    ) -> Run:
        """By cuBLASLt. Without it by CuPy, eagerly: `replay` then says why."""
        try:
            return self._products().bind(a, b, out, flip_a, flip_b)
        except (Unavailable, cublaslt.Refused, RuntimeError) as reason:
            if a.dtype == np.uint16:
                raise Unavailable(f"no products of bfloat16: {reason}", "use tf32") from reason
            self._trouble = self._trouble or str(reason)
            self._set_compute_type()
            return super().product(a, b, out, flip_a, flip_b)

    def fused_product(
        self, a: Array, b: Array, out: Array, flip_a: bool, flip_b: bool, epilogue: Epilogue
    ) -> Run | None:
        try:
            return self._products().bind(a, b, out, flip_a, flip_b, epilogue)
        except (Unavailable, cublaslt.Refused, RuntimeError):
            return None

    def replay(self, calls: Sequence[Run], turns: Sequence[Turn] = ()) -> Callable[[int], None]:
        refused, self._trouble = self._trouble, ""
        awaited = {turn.waits for turn in turns if turn.waits >= 0}
        events = {call: self.xp.cuda.Event(disable_timing=True) for call in awaited}
        ranked = partial(_Ranked, self.xp.cuda.runtime)
        return Replay(self.stream, calls, refused, Fork(turns, self._beside, events, ranked))

    @contextmanager
    def _beside(self) -> Iterator[Any]:
        """Inside it work goes to a stream beside the main one, which it gives. Products have a
        workspace there that is not the other stream's."""
        blas = self._products().blas
        if self._side is None:
            with self._device:
                room = self.empty((cublaslt.WORKSPACE_BYTES,), np.uint8)
                self._side = self.xp.cuda.Stream(non_blocking=True), room
        stream, workspace = self._side
        with stream, blas.on(stream.ptr, _address(workspace)):
            yield stream

    def watch(self, array: Array) -> tuple[Run, Any]:
        """By way of pinned memory, on the stream: a copy to other memory would wait."""
        runtime, host = self.xp.cuda.runtime, self._pinned(array)
        host[...] = self.to_host(array)
        ends = (host.ctypes.data, _address(array), array.nbytes)
        return partial(
            runtime.memcpyAsync, *ends, runtime.memcpyDeviceToHost, self.stream.ptr
        ), host

    def mirrored(self, shape: tuple[int, ...], dtype: Any) -> Mirror:
        """Sent on a stream of its own; the host's array is pinned as long as few are."""
        if self._copies is None:
            with self._device:
                self._copies = self.xp.cuda.Stream(non_blocking=True)
        there = self.zeros(shape, dtype)
        self.synchronize()  # the other stream does not wait for the zeros
        is_pinned = self._mirrored + there.nbytes <= MOST_PINNED
        here = self._pinned(there) if is_pinned else np.zeros(there.shape, there.dtype)
        if is_pinned:
            self._mirrored += there.nbytes
            weakref.finalize(here, self._unpin, there.nbytes)
        return Mirror(here, there, partial(self._send, here, there))

    def _send(self, here: np.ndarray, there: Array, part: slice) -> None:
        if (source := here[part]).size:
            self._device.use()  # of this thread
            runtime, ends = self.xp.cuda.runtime, (_address(there[part]), source.ctypes.data)
            kind = runtime.memcpyHostToDevice
            runtime.memcpyAsync(*ends, source.nbytes, kind, self._copies.ptr)
            self._copies.synchronize()

    def _unpin(self, nbytes: int) -> None:
        self._mirrored -= nbytes

    def _pinned(self, like: Array) -> np.ndarray:
        """An array on the host in memory that is not moved, so that copies hold nothing up."""
        pinned = self.xp.cuda.alloc_pinned_memory(max(1, like.nbytes))
        return np.frombuffer(pinned, like.dtype, like.size).reshape(like.shape)

    def _products(self) -> Products:
        """cuBLASLt, as precision and determinism are set now."""
        if self._blas is None:
            with self._device:
                room = self.empty((cublaslt.WORKSPACE_BYTES,), np.uint8)
                self._blas = cublaslt.Blas(self.stream.ptr, _address(room), room.nbytes)
                self._workspace = room
        is_tf32 = self.precision == "tf32"
        return Products(self._blas, _address, is_tf32, self.deterministic)

    def _set_compute_type(self) -> None:
        """What CuPy's own products of float32 round to."""
        from cupy._core import _routines_linalg, set_compute_type

        name = "COMPUTE_TYPE_TF32" if self.precision == "tf32" else "COMPUTE_TYPE_DEFAULT"
        set_compute_type(self.xp.float32, getattr(_routines_linalg, name))


def _address(array: Array) -> int:
    return int(array.data.ptr)


@cache
def _driver() -> CDLL:
    return CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


@cache
def _module(index: int, source: str) -> Any:
    return _import_cupy().RawModule(code=source, options=("-std=c++17",))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
