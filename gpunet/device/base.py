"""What a device is to the rest of gpunet: an array module, memory, a way to launch CUDA source.

A gate or kernel learns its module from its arrays; it never asks which device it is on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import inf, prod
from types import ModuleType
from typing import Any, NamedTuple

from gpunet.errors import OutOfMemory
from gpunet.sizes import shown

Array = Any
"""A NumPy or CuPy array."""

Launcher = Callable[[tuple[int, ...], tuple[int, ...], int, Sequence[Any]], None]
"""launch(grid, block, shared_bytes, arguments)."""

Run = Callable[[], None]


@dataclass(frozen=True)
class Epilogue:
    """What a product does with its result before it is written: out = act(a @ b + bias), act "",
    "relu" or "gelu"."""

    act: str = ""
    bias: Array = None


class Turn(NamedTuple):
    """When a call of a list runs: behind those before it on its `branch`, and behind call number
    `waits` of the other branch, if that is not -1."""

    branch: int = 0
    waits: int = -1


@dataclass(frozen=True)
class Mirror:
    """A NumPy array on the host, `here`, and its like on a device, `there`: one array on the CPU.

    send(part) brings here[part] to there[part], part a slice without a step, and returns when it
    is there. Any thread may call it; the device's own work goes on meanwhile, and is not waited
    for.
    """

    here: Array
    there: Array
    send: Callable[[slice], None]


@dataclass(frozen=True)
class Memory:
    """Bytes of a device: `total`, and `free` for a new allocation."""

    total: int
    free: int

    def __str__(self) -> str:
        return f"{shown(self.free)} of {shown(self.total)} are free"


class Device:
    """One place where arrays live. `name` is `cpu` or `cuda:N`; `kind` is `cpu` or `cuda`.

    `kernels` (auto, native or numpy), `threads` and `split` (auto, rows or columns) say how a
    launch list runs on a CPU; `deterministic` that no sum depends on threads, or on how a library
    splits it; `precision` (fp64, fp32, tf32 or bf16) what products of float32 numbers round to.
    `rows_bytes`: what the rows of one part may take; None leaves it to the device. `branches`: how
    many launches of a list may run at once. `workspace_bytes`: what its products take beside.
    `runs`: whether anything is run there.
    """

    name: str
    kind: str
    xp: ModuleType
    kernels: str = "numpy"
    threads: int = 1
    split: str = "auto"
    deterministic: bool = False
    precision: str = "fp32"
    rows_bytes: float | None = None
    branches: int = 1
    workspace_bytes: int = 0
    runs: bool = True

    @property
    def settings(self) -> tuple[object, ...]:
        """What a launch list that is bound here depends on."""
        how = self.kernels, self.threads, self.split, self.deterministic, self.precision
        return (self.name, *how, self.branches)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.zeros(shape, dtype)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """An array here from anything with `__array__` or `__dlpack__`, or nested sequences."""
        raise NotImplementedError

    def to_host(self, array: Array) -> Any:
        """The same values as a NumPy array."""
        raise NotImplementedError

    def address(self, array: Array) -> int:
        """Where its memory begins."""
        raise NotImplementedError

    def working(self, flops: int) -> AbstractContextManager[Any]:
        """Inside it the device is set up for matrix products of at most `flops` operations."""
        return nullcontext()

    def product(
        self, a: Array, b: Array, out: Array, flip_a: bool = False, flip_b: bool = False
    ) -> Run:
        """A function of no arguments: out = a @ b, with either transposed."""
        left, right = (a.T if flip_a else a), (b.T if flip_b else b)
        return partial(self.xp.matmul, left, right, out=out)

    def fused_product(
        self, a: Array, b: Array, out: Array, flip_a: bool, flip_b: bool, epilogue: Epilogue
    ) -> Run | None:
        """The same with what follows it; None where the device has no such product."""
        return None

    def replay(
        self, calls: Sequence[Run], turns: Sequence[Turn] = ()
    ) -> Callable[[int], None] | None:
        """replay(steps) makes the calls so many times, in less time than one by one: in their
        order, or each in its turn. None where there is nothing better."""
        return None

    def watch(self, array: Array) -> tuple[Run, Any]:
        """A function that sends an array to the host, and the NumPy array where it arrives: to be
        read after `synchronize`. On the CPU it is the array itself."""
        return _nothing, array

    def mirrored(self, shape: tuple[int, ...], dtype: Any) -> Mirror:
        """An array of zeros here, to be filled from the host while other work goes on."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Wait until all launched work is done."""

    def memory(self) -> Memory:
        raise NotImplementedError

    def room_for_rows(self) -> float:
        """Bytes that the rows of a part may take here; of more, windows are sent here in turn."""
        return inf if self.rows_bytes is None else self.rows_bytes

    @contextmanager
    def leaving(self, rows_bytes: float | None) -> Iterator[None]:
        """Inside it the rows of a part may take so much; None changes nothing."""
        before = self.rows_bytes
        self.rows_bytes = before if rows_bytes is None else rows_bytes
        try:
            yield
        finally:
            self.rows_bytes = before

    def shortage(self, fault: BaseException) -> int | None:
        """The bytes that could not be had, 0 where `fault` does not tell them; None for a fault
        that has nothing to do with memory."""
        if not isinstance(fault, MemoryError):
            return None
        shape, dtype = (getattr(fault, name, None) for name in ("shape", "dtype"))  # NumPy's own
        return 0 if shape is None or dtype is None else prod(shape) * int(dtype.itemsize)

    @contextmanager
    def watching(self, hint: str) -> Iterator[None]:
        """Where memory runs out inside, OutOfMemory says what was asked for, what is free, and
        `hint`."""
        try:
            yield
        except Exception as fault:
            asked = self.shortage(fault)
            if asked is None:
                raise
            memory = self.memory()
            wanted = shown(asked) if asked else "more than there is"
            message = f"out of memory on {self.name}: asked for {wanted}; {memory}"
            raise OutOfMemory(message, hint) from fault

    def describe(self) -> dict[str, Any]:
        """Plain facts for `gpunet info`: JSON values only."""
        raise NotImplementedError

    def traits(self) -> dict[str, str]:
        """What the bits of a result depend on here: the model, libraries and their versions."""
        raise NotImplementedError

    def room(self) -> tuple[int, int]:
        """Blocks that run at once, at most, one a multiprocessor; bytes that each may share."""
        return 0, 0

    def meeting(self, source: str, entry: str, shared_bytes: int) -> Launcher | None:
        """An entry point whose blocks wait for each other: all of them run at once, or none."""
        return None

    def launcher(self, source: str, entry: str) -> Launcher | None:
        """The entry point `entry` of a CUDA source, compiled; None where references run instead."""
        raise NotImplementedError


def _nothing() -> None:
    """What there is to do to see an array that is on the host."""
