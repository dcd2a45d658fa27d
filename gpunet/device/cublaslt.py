"""Matrix products by cuBLASLt, with a stream and a workspace of our own, so that a CUDA graph can
hold them: CuPy refuses to call cuBLAS during capture. Imports no CuPy, takes plain addresses.

cuBLASLt is column-major, the arrays here are row-major: out = a @ b is out' = b' @ a' to it. The
operands change places, and every array is its own transpose, its row length the leading dimension.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import (
    POINTER,
    byref,
    c_double,
    c_float,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from gpunet.errors import Unavailable, first_line

WORKSPACE_BYTES = 32 << 20
"""What NVIDIA advises for Hopper."""
CANDIDATES = 8
UNSUPPORTED = {7: "an invalid value", 8: "an architecture mismatch", 15: "not supported"}
TYPES = {"float32": 0, "float64": 1, "uint16": 14}
"""cudaDataType; bfloat16 arrives as its bits, uint16."""
COMPUTE_32F, COMPUTE_32F_FAST_TF32, COMPUTE_64F = 68, 77, 70
TRANSPOSE_A, TRANSPOSE_B, EPILOGUE, BIAS_POINTER = 3, 4, 7, 8
"""Attributes of a product's description."""
MOST_WORKSPACE, REDUCTIONS, ALIGNMENT_A, ALIGNMENT_B, ALIGNMENT_C, ALIGNMENT_D = 1, 3, 5, 6, 7, 8
"""Attributes of the search for an algorithm."""
RELU, BIAS, GELU = 2, 4, 32
"""Bits of an epilogue."""


class Refused(Exception):
    """cuBLASLt has no algorithm for a product, or an epilogue."""


@dataclass(frozen=True)
class Product:
    """out (m, n) = epilogue(op(a) (m, k) @ op(b) (k, n)).

    operands and out are dtypes (uint16: bfloat16); `tf32` rounds float32 operands. epilogue: bits
    of RELU, BIAS, … ; `fixed`: no sum is split, whatever the shape.
    """

    m: int
    n: int
    k: int
    flip_a: bool = False
    flip_b: bool = False
    operands: str = "float32"
    out: str = "float32"
    tf32: bool = False
    epilogue: int = 0
    fixed: bool = False

    @property
    def compute(self) -> int:
        if self.operands == "float64":
            return COMPUTE_64F
        return COMPUTE_32F_FAST_TF32 if self.tf32 else COMPUTE_32F

    @property
    def layouts(self) -> tuple[tuple[str, int, int], ...]:
        """Dtype, rows and columns of cuBLASLt's A, B and D; all are dense."""
        a = (self.m, self.k) if self.flip_a else (self.k, self.m)
        b = (self.k, self.n) if self.flip_b else (self.n, self.k)
        return (self.operands, *b), (self.operands, *a), (self.out, self.n, self.m)


@dataclass(frozen=True)
class Pointers:
    """Addresses of a product's arrays."""

    a: int
    b: int
    out: int
    bias: int = 0


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


@cache
def loaded() -> ctypes.CDLL:
    """cuBLASLt, from the packages of the extras or from the system. Raises Unavailable."""
    try:
        from cuda import pathfinder

        found = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception as reason:
        hint = 'install it with: pip install "gpunet[cuda13]" (or [cuda12])'
        raise Unavailable(f"no cuBLASLt: {first_line(reason)}", hint) from reason
    return _declared(found)


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its functions' parameters: bare Python integers would be cut to 32 bits."""
    place, handle = POINTER(c_void_p), c_void_p
    parameters = {
        "Create": [place],
        "Destroy": [handle],
        "MatmulDescCreate": [place, c_int, c_int],
        "MatmulDescSetAttribute": [handle, c_int, c_void_p, c_size_t],
        "MatmulDescDestroy": [handle],
        "MatrixLayoutCreate": [place, c_int, c_uint64, c_uint64, c_int64],
        "MatrixLayoutDestroy": [handle],
        "MatmulPreferenceCreate": [place],
        "MatmulPreferenceSetAttribute": [handle, c_int, c_void_p, c_size_t],
        "MatmulPreferenceDestroy": [handle],
        "MatmulAlgoGetHeuristic": [*[handle] * 7, c_int, c_void_p, POINTER(c_int)],
        "Matmul": [*[c_void_p] * 14, c_size_t, c_void_p],
    }
    for name, types in parameters.items():
        function = getattr(found, f"cublasLt{name}")
        function.argtypes, function.restype = types, c_int
    found.cublasLtGetVersion.restype = c_size_t
    return found


def version() -> str:
    """Of the library, or why there is none."""
    try:
        number = int(loaded().cublasLtGetVersion())
    except Unavailable as reason:
        return reason.message
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _check(status: int, doing: str) -> None:
    if status in UNSUPPORTED:
        raise Refused(f"cuBLASLt: {doing}: {UNSUPPORTED[status]}")
    if status:
        raise RuntimeError(f"cuBLASLt: {doing}: status {status}")


class _Owned:
    """An object of the library's, destroyed with this one."""

    def __init__(self, kind: str, *arguments: Any) -> None:
        self.kind, self.handle, found = kind, c_void_p(), loaded()
        self.destroy = getattr(found, f"cublasLt{kind}Destroy")  # at exit nothing is looked up
        made = getattr(found, f"cublasLt{kind}Create")(byref(self.handle), *arguments)
        _check(made, f"making a {kind}")

    def put(self, attribute: int, value: Any) -> None:
        set_it = getattr(loaded(), f"cublasLt{self.kind}SetAttribute")
        _check(
            set_it(self.handle, attribute, byref(value), sizeof(value)), f"{self.kind} {attribute}"
        )

    def __del__(self) -> None:
        if self.handle:
            self.destroy(self.handle)


class Description:
    """A product in the library's own objects: what it computes, and the layouts of its arrays."""

    def __init__(self, product: Product, at: Pointers) -> None:
        scale = TYPES["float64" if product.operands == "float64" else "float32"]
        self.matmul = _Owned("MatmulDesc", product.compute, scale)
        self.matmul.put(TRANSPOSE_A, c_int32(product.flip_b))
        self.matmul.put(TRANSPOSE_B, c_int32(product.flip_a))
        self.matmul.put(EPILOGUE, c_uint32(product.epilogue or 1))
        if product.epilogue & BIAS:
            self.matmul.put(BIAS_POINTER, c_uint64(at.bias))
        self.a, self.b, self.d = (
            _Owned("MatrixLayout", TYPES[dtype], rows, columns, rows)
            for dtype, rows, columns in product.layouts
        )
        real = c_double if product.operands == "float64" else c_float
        self.alpha, self.beta = real(1), real(0)


class Blas:
    """A cuBLASLt of the current GPU. Products go to one stream with one workspace, but for those
    that are launched inside `on`."""

    def __init__(self, stream: int, workspace: int, workspace_bytes: int) -> None:
        self.handle = c_void_p()
        _check(loaded().cublasLtCreate(byref(self.handle)), "no handle")
        self.workspace_bytes = workspace_bytes
        self.room = workspace, workspace_bytes, stream
        self.algorithms: dict[tuple[Any, ...], Any] = {}

    @contextmanager
    def on(self, stream: int, workspace: int) -> Iterator[None]:
        """Inside it products go to another stream, with a workspace of its own, as large."""
        before, self.room = self.room, (workspace, self.workspace_bytes, stream)
        try:
            yield
        finally:
            self.room = before

    def bind(self, product: Product, at: Pointers, owners: Any = None) -> Callable[[], None]:
        """A function of no arguments that launches a product; it keeps the `owners` of the memory
        that it points to. Raises Refused."""
        description = Description(product, at)
        alignments = tuple(map(_alignment, (at.b, at.a, at.out, at.out | at.bias)))
        key = (product, alignments)
        if key not in self.algorithms:
            self.algorithms[key] = self._search(description, product, alignments)
        each = description
        operands = (byref(each.alpha), at.b, each.a.handle, at.a, each.b.handle, byref(each.beta))
        outs = (at.out, each.d.handle, at.out, each.d.handle)
        algorithm = byref(self.algorithms[key])
        call = (self.handle, each.matmul.handle, *operands, *outs, algorithm)
        return partial(self._launch, loaded().cublasLtMatmul, call, (description, owners))

    def _launch(self, matmul: Any, call: tuple[Any, ...], owners: Any) -> None:
        """`owners` are of what `call` points to."""
        _check(matmul(*call, *self.room), "a product")

    def _search(self, each: Description, product: Product, alignments: tuple[int, ...]) -> Any:
        """The first of the library's choices: it is the same one every time, so that a run that is
        taken up again has the same bits; timing would choose by chance."""
        wish, count = _Owned("MatmulPreference"), c_int()
        wish.put(MOST_WORKSPACE, c_uint64(self.workspace_bytes))
        if product.fixed:
            wish.put(REDUCTIONS, c_uint32(0))
        places = (ALIGNMENT_A, ALIGNMENT_B, ALIGNMENT_C, ALIGNMENT_D)
        for place, alignment in zip(places, alignments):
            wish.put(place, c_uint32(alignment))
        found = (_Found * CANDIDATES)()
        layouts = (each.a.handle, each.b.handle, each.d.handle, each.d.handle)
        given = (self.handle, each.matmul.handle, *layouts, wish.handle, CANDIDATES)
        status = loaded().cublasLtMatmulAlgoGetHeuristic(*given, found, byref(count))
        _check(status, f"{product}")
        usable = [one for one in found[: count.value] if one.state == 0]
        if not usable:
            raise Refused(f"cuBLASLt: {product}: no algorithm")
        return usable[0].algorithm


def _alignment(address: int) -> int:
    return min(256, address & -address)
