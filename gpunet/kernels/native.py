"""The native CPU path: a launch list as a program for the team of threads in native.cpp.

The loops are built when gpunet is installed, where there is a compiler; matrix products come from
the BLAS that NumPy has loaded. Where either is missing `load` says why, and NumPy runs.
"""

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gpunet.device import Array
from gpunet.errors import Unavailable
from gpunet.kernels.loss import LOSSES

POINTERS, SIZES, MOST_LANES = 16, 4, 256
LEAST_ROWS = 32
GEMM_NAMES = ("scipy_cblas_{}gemm64_", "cblas_{}gemm64_", "scipy_cblas_{}gemm", "cblas_{}gemm")
WHOLE = ("squared_norm", "clip", "sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lion")
"""Kernels that work on all rows' results: a barrier comes before them."""


class Step(NamedTuple):
    """One launch in plain parts: the kernel's name, its arguments, the integers that follow."""

    name: str
    arguments: tuple[Any, ...]
    sizes: tuple[int, ...]

    @property
    def is_weight_gradient(self) -> bool:
        """A product over all rows of the batch."""
        return self.name == "gemm" and bool(self.sizes[-1] & 1)


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
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        ("operations", ctypes.POINTER(_Operation)),
        ("count", ctypes.c_longlong),
        ("batch", ctypes.c_longlong),
        ("stride", ctypes.c_longlong),
        ("lanes", ctypes.c_int),
        ("pieces", ctypes.POINTER(ctypes.c_longlong)),
        ("piece_counts", ctypes.POINTER(ctypes.c_int)),
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
    """A launch list that `lanes` threads run; the arrays must outlive it."""

    def __init__(
        self,
        library: Library,
        steps: Sequence[Step],
        clock: Array,
        hyper: Array,
        gradient: Array,
        batch: int,
        lanes: int,
    ) -> None:
        self.loaded, self.steps, self.gradient, self.lanes = library, steps, gradient, lanes
        self.weights = [step for step in steps if step.is_weight_gradient]
        self.matrices = max((self._end(step) for step in self.weights), default=0)
        self.copies = (
            gradient if lanes == 1 else np.zeros((lanes, _padded(gradient)), gradient.dtype)
        )
        found = list(self._operations(gradient.dtype))
        self.operations = (_Operation * len(found))(*found)
        pieces = [self._pieces(lane, lanes) for lane in range(lanes)]
        flat = [bound for each in pieces for piece in each for bound in piece]
        self.program = _Program(
            pieces=(ctypes.c_longlong * max(1, len(flat)))(*flat),
            piece_counts=(ctypes.c_int * lanes)(*map(len, pieces)),
            operations=self.operations,
            count=len(found),
            batch=batch,
            stride=0 if lanes == 1 else self.copies.strides[0],
            lanes=lanes,
            clock=clock.ctypes.data,
            hyper=hyper.ctypes.data,
            shared=_Shared(gemm=library.gemm, wide=library.wide),
        )

    def run(self, steps: int) -> None:
        """Run the list `steps` times; a fault ends it early."""
        self.loaded.loops.run_program(ctypes.byref(self.program), ctypes.c_longlong(steps))

    def _operations(self, dtype: np.dtype) -> Iterator[_Operation]:
        """The steps with barriers between what rows give and what needs all rows."""
        whole = [step for step in self.steps if step.name in WHOLE]
        for step in self.steps:
            if not step.is_weight_gradient and step.name not in WHOLE:
                yield self._operation(step, dtype)
        yield _Operation()
        for step in self.steps:
            if step.name in LOSSES:
                call = self._operation(step, dtype).call
                yield _Operation(self._function("fold_rows", dtype), call)
        for step in (*self.weights, *whole):
            if step.name == "clip":
                yield _Operation()
            yield self._operation(step, dtype)
        yield _Operation()

    def _end(self, step: Step) -> int:
        """Where a weight's gradient ends in the flat vector."""
        return self._start(step) + int(step.arguments[2].size)

    def _start(self, step: Step) -> int:
        away = step.arguments[2].ctypes.data - self.gradient.ctypes.data
        return int(away) // self.gradient.itemsize

    def _pieces(self, lane: int, lanes: int) -> list[tuple[int, int]]:
        """The parameters that a lane moves: its slabs of the weights, its share of the vectors."""
        found = []
        for step in self.weights:
            start, (rows, columns) = self._start(step), step.arguments[2].shape
            low, high = rows * lane // lanes, rows * (lane + 1) // lanes
            found.append((start + low * columns, start + high * columns))
        rest = self.gradient.size - self.matrices
        low, high = rest * lane // lanes, rest * (lane + 1) // lanes
        return [*found, (self.matrices + low, self.matrices + high)]

    def _operation(self, step: Step, dtype: np.dtype) -> _Operation:
        integers = [a for a in step.arguments if isinstance(a, int)]
        sizes = (*integers, *step.sizes)
        if step.name in LOSSES:
            sizes = (*sizes, int(step.name != "sum_squares"))
        elif step.name in WHOLE:
            sizes = (*sizes, *(0,) * (2 - len(sizes)), self.matrices)
        call = _Call(sizes=(ctypes.c_longlong * SIZES)(*sizes))
        for i, argument in enumerate(step.arguments):
            if isinstance(argument, np.ndarray):
                call.pointers[i], is_gradient = self._place(argument)
                call.apart |= is_gradient << i
        name = step.name if step.name != "gather" else f"gather_{step.arguments[0].dtype}"
        return _Operation(self._function(name, dtype), call)

    def _place(self, array: Array) -> tuple[int, bool]:
        """Where an array lies; the gradient of a vector has its place in the copies."""
        away = array.ctypes.data - self.gradient.ctypes.data
        inside = 0 <= away < self.gradient.nbytes
        first_vector = self.matrices * self.gradient.itemsize
        place = self.copies.ctypes.data + away if inside else array.ctypes.data
        return place, inside and away >= first_vector

    def _function(self, name: str, dtype: np.dtype) -> int:
        return _address(self.loaded.loops, f"{name}_{dtype}")


def check(library: Library, steps: Sequence[Step], dtype: str) -> None:
    """Raise Unavailable where a kernel has no native loop: batch norm, formulas of the user's."""
    for step in steps:
        if step.name != "gather" and not hasattr(library.loops, f"{step.name}_{dtype}"):
            raise Unavailable(f"no native loop for {step.name}", "use --kernels auto or numpy")


def lanes_for(batch: int, threads: int) -> int:
    """How many slices a batch is cut into: each keeps enough rows for its products to be quick."""
    return max(1, min(threads, batch // LEAST_ROWS, MOST_LANES))


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _padded(gradient: Array) -> int:
    """Elements of a copy of the gradient, whole cache lines."""
    return -(-gradient.size // 64) * 64
