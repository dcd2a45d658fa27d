"""gpunet's own CUDA device on a machine without one: CuPy and cuBLASLt are stand-ins that compute
on NumPy arrays, kernels are emulated, and a stream that captures keeps its work for later.

Strict where CUDA is: while a stream captures, nothing is allocated, copied to the host at once or
waited for, and all work goes to the device's first stream, but for copies that name another. Those
to the device are made when their stream is waited for, and a thread that makes some has to name the
device. Copies from the device want pinned memory.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulation import COMPILER, Emulated
from fakelt import FakeLt

from gpunet.device import cublaslt, cuda


class FakeGraph:
    def __init__(self, work: list[Callable[[], Any]], log: list[Any]) -> None:
        self.work, self.log = work, log

    def launch(self, stream: "FakeStream") -> None:
        assert not stream.is_capturing
        self.log.append(("graph", len(self.work)))
        for each in self.work:
            each()


class FakeStream:
    """`log` has what was launched: ("graph", its nodes), or the name of a single launch."""

    def __init__(self, ptr: int, non_blocking: bool = False) -> None:
        assert non_blocking
        self.ptr, self.is_capturing = ptr, False
        self.work: list[Callable[[], Any]] = []
        self.pending: list[Callable[[], Any]] = []
        self.log: list[Any] = []
        self.entered = 0

    def __enter__(self) -> "FakeStream":
        self.entered += 1
        return self

    def __exit__(self, *reason: object) -> None:
        self.entered -= 1

    def submit(self, name: str, call: Callable[[], Any]) -> None:
        assert self.entered, "work for the null stream, which this one does not wait for"
        if self.is_capturing:
            self.work.append(call)
        else:
            self.log.append(name)
            call()

    def begin_capture(self) -> None:
        assert not self.is_capturing
        self.is_capturing, self.work = True, []

    def end_capture(self) -> FakeGraph:
        assert self.is_capturing
        self.is_capturing = False
        return FakeGraph(self.work, self.log)

    def synchronize(self) -> None:
        self.forbid("waiting")
        while self.pending:
            self.pending.pop(0)()

    def forbid(self, what: str) -> None:
        if self.is_capturing:
            raise RuntimeError(f"the stream is capturing: {what}")


class FakeCupy:
    """The parts of CuPy that gpunet.device.cuda uses. `broken`: a kernel that none captures."""

    __name__ = "cupy"
    __version__ = "0"
    ndarray = np.ndarray
    float32, matmul = np.float32, staticmethod(np.matmul)
    may_share_memory = staticmethod(np.may_share_memory)

    def __init__(self) -> None:
        self.stream: FakeStream | None = None  # the device's own, which is opened first
        self.streams: dict[int, FakeStream] = {}
        self.pinned: list[np.ndarray] = []
        self.free = self.total = 1 << 34
        self.emulated, self.broken, self.device = Emulated(), "", _Device()
        self.cuda = SimpleNamespace(
            Device=lambda index: self.device,
            Stream=self._open,
            get_current_stream=self._current,
            alloc_pinned_memory=self._pin,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 1,
                memGetInfo=lambda: (self.free, self.total),
                memcpyHostToDevice=1,
                memcpyDeviceToHost=2,
                memcpyAsync=self._copy,
            ),
        )

    def _open(self, non_blocking: bool) -> FakeStream:
        found = FakeStream(77 + len(self.streams), non_blocking)
        self.streams[found.ptr] = found
        self.stream = self.stream or found
        return found

    def _pin(self, size: int) -> bytearray:
        assert size > 0
        memory = bytearray(size)
        self.pinned.append(np.frombuffer(memory, np.uint8))
        return memory

    def is_pinned(self, address: int, size: int) -> bool:
        """Whether all of this memory is in one allocation that is pinned."""
        starts = ((each.ctypes.data, each.nbytes) for each in self.pinned)
        return any(first <= address and address + size <= first + n for first, n in starts)

    def get_default_memory_pool(self) -> SimpleNamespace:
        return SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0)

    def _current(self) -> FakeStream | None:
        """The null stream is None here."""
        assert self.stream is not None
        return self.stream if self.stream.entered else None

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        assert size > 0
        host, device = (source, to) if kind == 1 else (to, source)
        assert kind in (1, 2)
        assert threading.get_ident() in self.device.threads, "a thread that names no device"
        assert not self.is_pinned(device, size), "a copy between host and host"
        on, call = self.streams[stream], partial(ctypes.memmove, to, source, size)
        is_pinned = self.is_pinned(host, size)
        if kind == 2:
            assert is_pinned, "memory that is not pinned is copied at once"
            on.submit("copy", call)
        else:
            on.forbid("copying to the device")
            on.log.append("send" if is_pinned else "send unpinned")
            on.pending.append(call)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        assert self.stream is not None
        self.stream.forbid("allocating")
        return self.emulated.empty(shape if isinstance(shape, tuple) else (shape,), dtype)

    def zeros(self, shape: Any, dtype: Any) -> np.ndarray:
        found = self.empty(shape, dtype)
        found[...] = 0
        return found

    def asarray(self, values: Any, dtype: Any = None) -> np.ndarray:
        """Copies, as a transfer to the device does."""
        values = np.asarray(values, dtype)
        found = self.empty(values.shape, values.dtype)
        found[...] = values
        return found

    def asnumpy(self, array: np.ndarray) -> np.ndarray:
        assert self.stream is not None
        assert self.stream.entered, "a copy on the null stream waits for nothing"
        self.stream.forbid("copying to the host")
        return np.array(array)

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:
        return SimpleNamespace(
            get_function=lambda entry: SimpleNamespace(kernel=self._kernel(code, entry))
        )

    def _kernel(self, source: str, entry: str) -> Callable[..., None]:
        launch = self.emulated.launcher(source, entry)

        def function(grid: Any, block: Any, arguments: Any, shared_bytes: int) -> None:
            assert self.stream is not None
            if self.stream.is_capturing and entry == self.broken:
                raise RuntimeError(f"{entry} cannot be captured")
            self.stream.submit(entry, partial(launch, grid, block, shared_bytes, arguments))

        return function


class _Device:
    attributes = {"MultiProcessorCount": 0}  # blocks that wait for each other: see meeting.py

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def use(self) -> None:
        """There is one device; each thread has to name it."""
        self.threads.add(threading.get_ident())

    def __enter__(self) -> "_Device":
        return self

    def __exit__(self, *reason: object) -> None:
        """Nothing to restore."""


class StreamedLt(FakeLt):
    """Products go to the stream that they name."""

    def __init__(self, cupy: FakeCupy, refuses: set[int]) -> None:
        super().__init__(refuses)
        self.cupy = cupy

    def cublasLtCreate(self, place: Any) -> int:
        return self._create(place)

    def cublasLtMatmul(self, *given: Any) -> int:
        stream = self.cupy.stream
        assert stream is not None
        assert given[-1] == stream.ptr
        stream.submit("product", partial(super().cublasLtMatmul, *given))
        return 0


@contextmanager
def opened(refuses: set[int] | None = None, without_blas: bool = False) -> Iterator[cuda.Cuda]:
    """The device. `refuses`: epilogues that its cuBLASLt does not have."""
    if COMPILER is None:
        pytest.skip("no g++")
    cupy = FakeCupy()
    library = StreamedLt(cupy, refuses or set())

    def missing() -> Any:
        raise cublaslt.Unavailable("no cuBLASLt: it is not there", "install it")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_import_cupy", lambda: cupy)
        patch.setattr(cuda, "_address", lambda array: array.ctypes.data)
        patch.setattr(cublaslt, "loaded", missing if without_blas else lambda: library)
        cuda._module.cache_clear()
        device = cuda.Cuda()
        device.cupy, device.lt = cupy, library  # type: ignore[attr-defined]
        yield device
    cuda._module.cache_clear()
