"""The native CPU path: a launch list as a program for the team of threads in native.cpp.

The loops are built when gpunet is installed, where there is a compiler; matrix products come from
the BLAS that NumPy has loaded. Where either is missing `load` says why, and NumPy runs.
"""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpunet import random
from gpunet.device import Array
from gpunet.device.cpu import aligned
from gpunet.errors import Unavailable
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.update import OPTIMIZERS
from gpunet.random import Purpose

POINTERS, SIZES, MOST_LANES = 16, 8, 256
ROWS_OF_WEIGHT = 4
"""Slabs of a weight are cut at multiples of it, as in loops.h."""
LEAST_ROWS, LEAST_COLUMNS = 32, 64
"""Of a slice, for its products to be quick."""
LEAST_FLOPS = 4_000_000
"""Of a product that is worth two barriers: about 20 µs of a core."""
LINES = 64
"""Elements, of either precision some whole cache lines: what lanes write is cut at multiples."""
FIXED_LANES = 8
"""Slices of a batch at most where they must not depend on the threads."""
BLOCK_BYTES = 1 << 21
"""Of a weight's gradient that are moved while in the cache: smaller blocks make slow products."""
GEMM_NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "scipy_cblas_{}gemm", "cblas_{}gemm")
WHOLE = ("accumulate", "micro_batch", "squared_norm", "clip", *OPTIMIZERS)
"""Kernels that work on all rows' results: a barrier comes before them."""
BATCH_NORM = ("batch_norm_forward", "batch_norm_backward", "batch_norm_apply")
PERIODIC, GROUP = ("periodic_forward", "periodic_backward"), 128
"""Kernels that take so many rows at once, as in loops.h, and want room for some columns of them."""
BATCH_NORM_PARTS = 9
"""Where the forward pass is given the lanes' own statistics: they take the scratch's place."""
BY_COLUMNS = 4
"""The bit of a product's flips that has it split by columns."""


class Step(NamedTuple):
    """One launch in plain parts: the kernel's name, its arguments, the integers that follow."""

    name: str
    arguments: tuple[Any, ...]
    sizes: tuple[int, ...]

    @property
    def is_weight_gradient(self) -> bool:
        """A product over all rows of the batch."""
        return self.name == "gemm" and bool(self.sizes[-1] & 1)

    @property
    def wants_all_rows(self) -> bool:
        return self.is_weight_gradient or self.name in WHOLE


class Team(NamedTuple):
    """How the work is shared: slices of the batch, threads that run them, and whether wide
    products are split by columns instead."""

    lanes: int
    threads: int
    by_columns: bool = False


class _Call(ctypes.Structure):
    _fields_ = [
        ("pointers", ctypes.c_void_p * POINTERS),
        ("sizes", ctypes.c_longlong * SIZES),
        ("apart", ctypes.c_ulonglong),
    ]


class _Operation(ctypes.Structure):
    _fields_ = [("function", ctypes.c_void_p), ("call", _Call)]


class _Part(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 64)]


class _Shared(ctypes.Structure):
    _fields_ = [
        ("parts", _Part * MOST_LANES),
        ("fault", ctypes.c_int),
        ("gemm", ctypes.c_void_p * 2),
        ("wide", ctypes.c_int),
        ("block", ctypes.c_longlong),
        ("move", ctypes.c_void_p),
        ("moved", ctypes.c_void_p),
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        ("operations", ctypes.POINTER(_Operation)),
        ("count", ctypes.c_longlong),
        ("batch", ctypes.c_longlong),
        ("stride", ctypes.c_longlong),
        ("lanes", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("pieces", ctypes.POINTER(ctypes.c_longlong)),
        ("piece_counts", ctypes.POINTER(ctypes.c_int)),
        ("scratch", ctypes.c_void_p),
        ("room", ctypes.c_longlong),
        ("clock", ctypes.c_void_p),
        ("hyper", ctypes.c_void_p),
        ("shared", _Shared),
    ]


class Library(NamedTuple):
    """The built loops and NumPy's matrix products."""

    loops: ctypes.CDLL
    gemm: tuple[int, int]
    wide: bool


@cache
def load() -> Library:
    """The library; Unavailable, with the reason, where it was not built or there is no BLAS."""
    try:
        from gpunet.kernels import _native  # type: ignore[attr-defined]
    except ImportError as reason:
        raise Unavailable(
            f"no native kernels: {reason}", "install where a C++ compiler is"
        ) from None
    from threadpoolctl import threadpool_info

    for each in threadpool_info():
        if each["user_api"] == "blas":
            blas = ctypes.CDLL(each["filepath"])
            for name in GEMM_NAMES:
                if hasattr(blas, name.format("s")):
                    pair = (_address(blas, name.format("s")), _address(blas, name.format("d")))
                    return Library(ctypes.CDLL(_native.__file__), pair, name.endswith("64_"))
    raise Unavailable("no native kernels: NumPy's BLAS has no cblas_sgemm that could be called")


class Program:
    """A launch list that a team of threads runs; the arrays must outlive it.

    Without a norm to clip, each weight moves as soon as a block of its gradient is there, and the
    gradient of weights is not kept.
    """

    def __init__(
        self,
        library: Library,
        steps: Sequence[Step],
        clock: Array,
        hyper: Array,
        gradient: Array,
        batch: int,
        team: Team,
    ) -> None:
        self.loops, self.steps, self.gradient, self.team = library.loops, steps, gradient, team
        self.dtype, self.start, lanes = gradient.dtype, gradient.ctypes.data, team.lanes
        self.weights = [step for step in _micro_batches(steps)[0] if step.is_weight_gradient]
        self.whole = [step for step in steps if step.name in WHOLE]
        self.moves_at_once = [step.name in OPTIMIZERS for step in self.whole] == [True]
        ends = [self._start(step) + int(step.arguments[2].size) for step in self.weights]
        self.matrices = max(ends, default=0)
        self.copies = gradient if lanes == 1 else _lines(lanes, gradient.size, self.dtype)
        self.copied = self.copies.ctypes.data
        self.scratch = _lines(lanes, self._room(), self.dtype)
        self.statistics: list[Array] = []
        found = list(self._operations())
        self.operations = (_Operation * len(found))(*found)
        pieces = [self._pieces(lane) for lane in range(lanes)]
        flat = [bound for each in pieces for piece in each for bound in piece]
        self.program = _Program(
            pieces=(ctypes.c_longlong * max(1, len(flat)))(*flat),
            piece_counts=(ctypes.c_int * lanes)(*map(len, pieces)),
            operations=self.operations,
            count=len(found),
            batch=batch,
            stride=0 if lanes == 1 else self.copies.strides[0],
            lanes=lanes,
            threads=team.threads,
            scratch=self.scratch.ctypes.data,
            room=self.scratch.strides[0],
            clock=clock.ctypes.data,
            hyper=hyper.ctypes.data,
            shared=_Shared(gemm=library.gemm, wide=library.wide, block=BLOCK_BYTES),
        )
        if self.moves_at_once:
            self._move_at_once()

    def run(self, steps: int) -> None:
        """Run the list `steps` times; a fault ends it early."""
        self.loops.run_program(ctypes.byref(self.program), ctypes.c_longlong(steps))

    def _operations(self) -> Iterator[_Operation]:
        """The steps with barriers between what rows give and what needs all rows."""
        for steps in _micro_batches(self.steps):
            for step in steps:
                if not step.wants_all_rows:
                    yield from self._of_rows(step)
            yield _Operation()
            for step in steps:
                if step.name in LOSSES:
                    yield _Operation(self._function("fold_rows"), self._call(step))
            for step in steps:
                if step.name == "clip":
                    yield _Operation()
                if step.wants_all_rows:
                    yield self._operation(step)
            yield _Operation()

    def _of_rows(self, step: Step) -> Iterator[_Operation]:
        """A step of the rows' way forward and backward, with the barriers that it needs."""
        if step.name == "batch_norm_forward":
            call = self._call(step)
            self.statistics.append(_lines(1, 2 * step.sizes[1] * self.team.lanes, self.dtype))
            call.pointers[BATCH_NORM_PARTS] = self.statistics[-1].ctypes.data
            yield _Operation(self._function("batch_norm_statistics"), call)
            yield _Operation()
            yield _Operation(self._function(step.name), call)
        elif step.name == "batch_norm_backward":
            yield _Operation()
            yield _Operation(self._function("batch_norm_sums"), self._call(step))
            yield _Operation()
            yield self._operation(step)
        elif self.team.by_columns and _is_wide(step):
            flips = step.sizes[-1] | BY_COLUMNS
            yield _Operation()
            yield self._operation(step._replace(sizes=(*step.sizes[:-1], flips)))
            yield _Operation()
        else:
            yield self._operation(step)

    def _move_at_once(self) -> None:
        """Have products of weights' gradients call the update."""
        (update,) = self.whole
        function, shared = self._function(update.name), self.program.shared
        operation = next(each for each in self.operations if each.function == function)
        shared.move = self._function(f"{update.name}_move")
        shared.moved = ctypes.addressof(operation.call)

    def _room(self) -> int:
        """Elements of scratch a lane: a block of a gradient, what is summed over some rows, or some
        rows or columns of numbers."""
        wanted = ("gather", *BATCH_NORM)
        sums = [self._summed(step) for step in self.steps if not step.wants_all_rows]
        rows = [3 * step.sizes[1] for step in self.steps if step.name in wanted]
        blocks = [self._block(*step.sizes[:2]) for step in self.weights if self.moves_at_once]
        columns = [GROUP * step.sizes[-1] for step in self.steps if step.name in PERIODIC]
        return max([*sums, *rows, *columns, *blocks, 0])

    def _summed(self, step: Step) -> int:
        """Elements of the gradients that a step sums over rows."""
        arrays = (each for each in step.arguments if isinstance(each, np.ndarray))
        return sum(each.size for each in arrays if self._place(each)[1])

    def _block(self, rows: int, columns: int) -> int:
        """Elements of the largest block of a lane's slab."""
        slab = -(-rows // self.team.lanes) + ROWS_OF_WEIGHT
        least = ROWS_OF_WEIGHT * columns
        return min(slab * columns, max(BLOCK_BYTES // self.dtype.itemsize, least))

    def _start(self, step: Step) -> int:
        """Where a weight's gradient starts in the flat vector."""
        away = step.arguments[2].ctypes.data - self.start
        return int(away) // self.gradient.itemsize

    def _pieces(self, lane: int) -> list[tuple[int, int]]:
        """The parameters that a lane moves: its share of the vectors, and its slabs of the weights
        where these do not move at once."""
        found = []
        for step in () if self.moves_at_once else self.weights:
            start, (rows, columns) = self._start(step), step.arguments[2].shape
            low, high = self._share(rows, lane, ROWS_OF_WEIGHT)
            found.append((start + low * columns, start + high * columns))
        low, high = self._share(self.gradient.size - self.matrices, lane, LINES)
        return [*found, (self.matrices + low, self.matrices + high)]

    def _share(self, size: int, lane: int, unit: int) -> tuple[int, int]:
        """A lane's part of `size` things, as Lane::share has it."""
        units, lanes = -(-size // unit), self.team.lanes
        low, high = (units * i // lanes * unit for i in (lane, lane + 1))
        return min(size, low), min(size, high)

    def _operation(self, step: Step) -> _Operation:
        name = step.name if step.name != "gather" else f"gather_{step.arguments[0].dtype}"
        return _Operation(self._function(name), self._call(step))

    def _call(self, step: Step) -> _Call:
        sizes = (*(a for a in step.arguments if isinstance(a, int)), *step.sizes)
        if step.name in LOSSES:
            sizes = (*sizes, int(step.name != "sum_squares"))
        elif step.name in WHOLE:
            sizes = (*sizes, *(0,) * (2 - len(sizes)), self._undivided(step))
        call = _Call(sizes=(ctypes.c_longlong * SIZES)(*sizes))
        for i, argument in enumerate(step.arguments):
            if isinstance(argument, np.ndarray):
                call.pointers[i], is_gradient = self._place(argument)
                call.apart |= is_gradient << i
        return call

    def _undivided(self, step: Step) -> int:
        """Elements at the front of a gradient that are not sums over lanes yet to be made: the
        matrices, of a sum over micro-batches all."""
        is_own = any(each is self.gradient for each in step.arguments)
        return self.matrices if is_own else self.gradient.size

    def _place(self, array: Array) -> tuple[int, bool]:
        """Where an array lies; the gradient of a vector has its place in the copies."""
        place = array.ctypes.data
        away = place - self.start
        if not 0 <= away < self.gradient.nbytes:
            return place, False
        return self.copied + away, away >= self.matrices * self.gradient.itemsize

    def _function(self, name: str) -> int:
        return _address(self.loops, f"{name}_{self.dtype}")


def _micro_batches(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, cut behind each micro-batch."""
    found: list[list[Step]] = [[]]
    for step in steps:
        found[-1].append(step)
        if step.name == "micro_batch":
            found.append([])
    return found


def permutation(n: int, seed: int, purpose: Purpose = Purpose.SHUFFLE, *, epoch: int = 0) -> Array:
    """`random.permutation`, by the native loop where there is one: the same numbers."""
    try:
        loops = load().loops
    except Unavailable:
        return random.permutation(n, seed, purpose, epoch=epoch)
    order, keys = np.empty(n, np.int32), random.shuffle_keys(seed, purpose, epoch=epoch)
    half = ctypes.c_uint(random.half_bits(n))
    loops.fill_order(_pointer(order), ctypes.c_longlong(n), half, _pointer(keys))
    return order


def check(library: Library, names: Iterable[str], dtype: str) -> None:
    """Raise Unavailable where a kernel has no native loop: formulas of the user's."""
    for name in names:
        entry = name if name != "gather" else "gather_uint8"
        if not hasattr(library.loops, f"{entry}_{dtype}"):
            raise Unavailable(f"no native loop for {name}", "use --kernels auto or numpy")


def team_for(batch: int, threads: int, steps: Sequence[Step] = (), split: str = "rows") -> Team:
    """Threads, each with a slice of the batch that keeps enough rows for its products to be quick;
    with another split than `rows` also as many as wide products have columns for."""
    widths = [step.sizes[1] for step in steps if split != "rows" and _is_wide(step)]
    most = max(batch // LEAST_ROWS, max(widths, default=0) // LEAST_COLUMNS)
    lanes = max(1, min(threads, most, MOST_LANES))
    return Team(lanes, lanes, bool(widths) and lanes > 1)


def is_wide(rows: int, columns: int, inner: int) -> bool:
    """Whether a product (rows, inner) @ (inner, columns) is split by columns where that is allowed:
    wider than high, so that lanes share out what is more to read, and worth two barriers."""
    return columns > rows and 2 * rows * columns * inner >= LEAST_FLOPS


def fixed_team(batch: int, threads: int) -> Team:
    """Slices by the batch alone, so that every sum is the same for any number of threads."""
    lanes = max(1, min(FIXED_LANES, batch // LEAST_ROWS))
    return Team(lanes, min(threads, lanes))


def _pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _is_wide(step: Step) -> bool:
    return step.name == "gemm" and not step.is_weight_gradient and is_wide(*step.sizes[:3])


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _lines(lanes: int, size: int, dtype: np.dtype) -> Array:
    """Room for `size` elements a lane, zeroed, each lane's in whole cache lines."""
    width = max(1, -(-size // LINES)) * LINES
    return aligned(np.zeros, (lanes, width), dtype)
