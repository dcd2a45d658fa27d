"""gpunet's own CUDA device on a machine without one: CuPy and cuBLASLt are stand-ins that compute
on NumPy arrays, kernels are emulated, and a stream that captures keeps its work for later.

Strict where CUDA is: while a thread captures, it allocates nothing, copies nothing to the host at
once and waits for nothing; whoever waits for all of the device ends every capture. What is
submitted to a stream that captures is captured, whoever did it. Work goes to a thread's first
stream; in a capture also to one that has waited for an event of it, and that is waited for again
before the end. Launched, a graph does its work in one of
the two orders that are furthest apart of those allowed: what other streams did as early as it may
run, or as late; products of two streams never share a workspace.

Copies that name another stream: those to the device are made when it is waited for, and a thread
that makes some has to name the device. Copies from the device want pinned memory.
"""

import ctypes
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
from emulation import COMPILER, Emulated
from fakelt import FakeLt

from gpunet.device import cublaslt, cuda

MAIN, NODE_PRIORITY = 77, 8
"""The first stream of all; a flag of graphs that are made ready to be launched."""


@dataclass
class Node:
    """Work of a graph: on the main stream or beside it, and the nodes that it follows."""

    call: Callable[[], Any]
    is_main: bool
    after: frozenset[int]


class Capture:
    """What streams have put into a graph so far. `tails` are the last nodes of each: what comes
    next there follows them."""

    def __init__(self, main: "FakeStream") -> None:
        self.nodes: list[Node] = []
        self.tails: dict[FakeStream, frozenset[int]] = {main: frozenset()}

    def add(self, stream: "FakeStream", call: Callable[[], Any]) -> None:
        self.nodes.append(Node(call, stream.is_main, self.tails[stream]))
        self.tails[stream] = frozenset((len(self.nodes) - 1,))

    def before(self, ends: Iterable[int]) -> set[int]:
        """All nodes that have to be done when these are, and these."""
        found, open_ends = set(), list(ends)
        while open_ends:
            if (one := open_ends.pop()) not in found:
                found.add(one)
                open_ends += self.nodes[one].after
        return found


class FakeGraph:
    """`is_forked`: whether some of its work is beside the main stream. `graph`: its handle."""

    def __init__(self, nodes: list[Node], cupy: "FakeCupy") -> None:
        self.nodes, self.cupy = nodes, cupy
        self.is_forked = not all(node.is_main for node in nodes)
        self.graph = next(cupy.handles)
        cupy.graphs[self.graph] = self

    def launch(self, stream: "FakeStream") -> None:
        assert self.cupy.capture is None
        stream.log.append(("graph", len(self.nodes)))
        self.cupy.launched.append(self)
        for i in self.ordered(main_first=self.cupy.is_late):
            self.nodes[i].call()

    def ordered(self, main_first: bool) -> Iterator[int]:
        """An order in which each node follows those that it has to."""
        waiting = {i: len(node.after) for i, node in enumerate(self.nodes)}
        users: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for one in node.after:
                users.setdefault(one, []).append(i)
        ready = {True: [i for i, n in waiting.items() if n == 0], False: []}
        assert all(self.nodes[i].is_main for i in ready[True]), "work that follows nothing"
        while any(ready.values()):
            i = (ready[main_first] or ready[not main_first]).pop(0)
            yield i
            for user in users.get(i, ()):
                waiting[user] -= 1
                if waiting[user] == 0:
                    ready[self.nodes[user].is_main].append(user)


class FakeEvent:
    """A point in the work of a stream: in a capture the nodes before it."""

    def __init__(self, disable_timing: bool = True) -> None:
        assert disable_timing
        self.stream: FakeStream | None = None
        self.capture: Capture | None = None
        self.nodes: frozenset[int] = frozenset()


class FakeStream:
    """`log` has what was launched: ("graph", its nodes), or the name of a single launch; `waited`
    the streams whose work it waited for, beside captures. `is_main`: it is a device's own."""

    def __init__(self, cupy: "FakeCupy", ptr: int, is_main: bool = False) -> None:
        self.cupy, self.ptr, self.is_main = cupy, ptr, is_main
        self.pending: list[Callable[[], Any]] = []
        self.log: list[Any] = []
        self.waited: list[FakeStream] = []

    @property
    def capture(self) -> Capture | None:
        """The capture that it takes part in."""
        return next((each for each in self.cupy.captures if self in each.tails), None)

    def __enter__(self) -> "FakeStream":
        self.cupy.entered.append(self)
        return self

    def __exit__(self, *reason: object) -> None:
        assert self.cupy.entered.pop() is self

    def submit(self, name: str, call: Callable[[], Any]) -> None:
        if self.capture is not None:
            self.capture.add(self, call)
        else:
            assert self.is_main, "work beside the main stream that has not waited for it"
            assert self.cupy.capture is None, "work that is not captured, in a capture"
            self.log.append(name)
            call()

    def begin_capture(self) -> None:
        assert self.cupy.capture is None
        assert self.capture is None
        assert self.is_main
        self.cupy.capture = Capture(self)
        self.cupy.captures.append(self.cupy.capture)

    def end_capture(self) -> FakeGraph:
        capture, self.cupy.capture = self.cupy.capture, None
        if capture not in self.cupy.captures:
            raise RuntimeError("the capture was ended by another thread")
        self.cupy.captures.remove(capture)
        if len(capture.before(capture.tails[self])) < len(capture.nodes):
            raise RuntimeError("work of another stream that nobody waits for")
        return FakeGraph(capture.nodes, self.cupy)

    def record(self, event: FakeEvent | None = None) -> FakeEvent:
        event = event or FakeEvent()
        event.stream = self
        if self.capture is not None:
            event.capture, event.nodes = self.capture, self.capture.tails[self]
        return event

    def wait_event(self, event: FakeEvent) -> None:
        capture = event.capture
        assert capture is self.cupy.capture, "an event of another capture"
        if capture is None:
            assert event.stream is not None
            self.waited.append(event.stream)
            return
        capture.tails[self] = capture.tails.get(self, frozenset()) | event.nodes

    def synchronize(self) -> None:
        self.forbid("waiting")
        while self.pending:
            self.pending.pop(0)()

    def forbid(self, what: str) -> None:
        if self.cupy.capture is not None or self.capture is not None:
            raise RuntimeError(f"the stream is capturing: {what}")


class _Own(threading.local):
    """What each thread has: the streams that it is in, and what it captures."""

    def __init__(self) -> None:
        self.entered: list[FakeStream] = []
        self.capture: Capture | None = None


class FakeCupy:
    """The parts of CuPy that gpunet.device.cuda uses. `broken`: a kernel that none captures;
    `is_late`: graphs do what is beside their main stream as late as they may, not as early."""

    __name__ = "cupy"
    __version__ = "0"
    ndarray = np.ndarray
    float32, matmul = np.float32, staticmethod(np.matmul)
    may_share_memory = staticmethod(np.may_share_memory)

    def __init__(self) -> None:
        self.streams: dict[int, FakeStream] = {}
        self.null, self.own = FakeStream(self, 0), _Own()
        self.captures: list[Capture] = []
        self.is_late = False
        self.launched: list[FakeGraph] = []
        self.graphs: WeakValueDictionary[int, FakeGraph] = WeakValueDictionary()
        self.ready: dict[int, FakeGraph] = {}
        self.handles = count(1 << 40)
        self.pinned: list[np.ndarray] = []
        self.free = self.total = 1 << 34
        self.emulated, self.broken, self.device = Emulated(), "", _Device(self.captures)
        self.cuda = SimpleNamespace(
            Device=lambda index: self.device,
            Stream=self._open,
            Event=FakeEvent,
            get_current_stream=lambda: self.entered[-1] if self.entered else self.null,
            alloc_pinned_memory=self._pin,
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 1,
                memGetInfo=lambda: (self.free, self.total),
                memcpyHostToDevice=1,
                memcpyDeviceToHost=2,
                memcpyAsync=self._copy,
                graphLaunch=self._launch,
                graphExecDestroy=self.ready.pop,
            ),
        )
        self.driver = SimpleNamespace(cuGraphInstantiateWithFlags=self._instantiate)

    def _open(self, non_blocking: bool, priority: int = 0) -> FakeStream:
        self._forbid("a new stream")
        assert non_blocking
        found = FakeStream(self, MAIN + len(self.streams), is_main=priority < 0)
        assert found.is_main or self.streams, "the main one goes before all others"
        self.streams[found.ptr] = found
        return found

    def _instantiate(self, ready: Any, graph: ctypes.c_void_p, flags: ctypes.c_ulonglong) -> int:
        """`ready` has the handle of each graph that is ready, and was not destroyed."""
        assert flags.value == NODE_PRIORITY
        assert self.graphs[graph.value].is_forked
        ready._obj.value = next(self.handles)
        self.ready[ready._obj.value] = self.graphs[graph.value]
        return 0

    def _launch(self, ready: int, stream: int) -> None:
        self.ready[ready].launch(self.streams[stream])

    @property
    def stream(self) -> FakeStream:
        """That of the device that was opened first."""
        return self.streams[MAIN]

    @property
    def entered(self) -> list[FakeStream]:
        return self.own.entered

    @property
    def capture(self) -> Capture | None:
        """What this thread captures."""
        return self.own.capture

    @capture.setter
    def capture(self, capture: Capture | None) -> None:
        self.own.capture = capture

    @property
    def current(self) -> FakeStream:
        assert self.entered, "work for the null stream, which this one does not wait for"
        return self.entered[-1]

    def _forbid(self, what: str) -> None:
        if self.capture is not None:
            raise RuntimeError(f"the thread is capturing: {what}")

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
            assert on is self.current
            on.submit("copy", call)
        else:
            on.forbid("copying to the device")
            on.log.append("send" if is_pinned else "send unpinned")
            on.pending.append(call)

    def empty(self, shape: Any, dtype: Any) -> np.ndarray:
        self._forbid("allocating")
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
        assert self.current.is_main, "a copy on another stream does not wait for this one"
        self.current.forbid("copying to the host")
        return np.array(array)

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:
        return SimpleNamespace(
            get_function=lambda entry: SimpleNamespace(kernel=self._kernel(code, entry))
        )

    def _kernel(self, source: str, entry: str) -> Callable[..., None]:
        launch = self.emulated.launcher(source, entry)

        def function(grid: Any, block: Any, arguments: Any, shared_bytes: int) -> None:
            if self.capture is not None and entry == self.broken:
                raise RuntimeError(f"{entry} cannot be captured")
            self.current.submit(entry, partial(launch, grid, block, shared_bytes, arguments))

        return function


class _Device:
    attributes = {"MultiProcessorCount": 0}  # blocks that wait for each other: see meeting.py

    def __init__(self, captures: list[Capture]) -> None:
        self.threads: set[int] = set()
        self.captures = captures

    def synchronize(self) -> None:
        if self.captures:
            self.captures.clear()
            raise RuntimeError("a stream is capturing: waiting for the device")

    def use(self) -> None:
        """There is one device; each thread has to name it."""
        self.threads.add(threading.get_ident())

    def __enter__(self) -> "_Device":
        return self

    def __exit__(self, *reason: object) -> None:
        """Nothing to restore."""


class StreamedLt(FakeLt):
    """Products go to the stream that they name, which has a workspace of its own."""

    def __init__(self, cupy: FakeCupy, refuses: set[int]) -> None:
        super().__init__(refuses)
        self.cupy = cupy
        self.workspaces: dict[int, int] = {}

    def cublasLtCreate(self, place: Any) -> int:
        return self._create(place)

    def cublasLtMatmul(self, *given: Any) -> int:
        workspace, nbytes, stream = given[-3:]
        assert nbytes == cublaslt.WORKSPACE_BYTES
        assert stream == self.cupy.current.ptr
        assert self.workspaces.setdefault(workspace, stream) == stream
        self.cupy.current.submit("product", partial(super().cublasLtMatmul, *given))
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
        patch.setattr(cuda, "_driver", lambda: cupy.driver)
        patch.setattr(cublaslt, "loaded", missing if without_blas else lambda: library)
        cuda._module.cache_clear()
        device = cuda.Cuda()
        device.cupy, device.lt = cupy, library  # type: ignore[attr-defined]
        yield device
    cuda._module.cache_clear()
