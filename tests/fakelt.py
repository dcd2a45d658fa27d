"""A stand-in for cuBLASLt: the functions that gpunet calls, as its header describes them, on the
memory of NumPy arrays. Column-major, as the library is; owes gpunet's binding nothing.

`refuses` holds epilogues for which it has no algorithm. A pointer that is less aligned than the
search for the algorithm was told fails, as a kernel that loads wide would.
"""

import ctypes
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference

TYPES = {0: np.float32, 1: np.float64, 14: np.uint16}
NOT_SUPPORTED, INVALID = 15, 7
RELU, BIAS, GELU = 2, 4, 32


@dataclass
class Made:
    """Something that the library made: its arguments, and its attributes by number."""

    arguments: tuple[Any, ...]
    attributes: dict[int, int] = field(default_factory=dict)


class FakeLt:
    """`calls` counts products by epilogue; `tf32` and `fixed` those that were asked to be so."""

    def __init__(self, refuses: set[int] | None = None) -> None:
        self.refuses = refuses or set()
        self.made: dict[int, Made] = {}
        self.searches: list[Made] = []
        self.calls: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        """Creating, destroying and setting attributes are alike for all kinds of objects."""
        if name.endswith("Create"):
            return self._create
        if name.endswith("Destroy"):
            return self._destroy
        if name.endswith("SetAttribute"):
            return self._set
        raise AttributeError(name)

    def cublasLtGetVersion(self) -> int:
        return 131000

    def _create(self, place: Any, *arguments: Any) -> int:
        number = 1000 + len(self.made)
        self.made[number] = Made(tuple(getattr(a, "value", a) for a in arguments))
        place._obj.value = number
        return 0

    def _destroy(self, handle: Any) -> int:
        return 0

    def _set(self, handle: Any, attribute: int, value: Any, size: int) -> int:
        assert ctypes.sizeof(value._obj) == size
        self.made[handle.value].attributes[attribute] = value._obj.value
        return 0

    def cublasLtMatmulAlgoGetHeuristic(
        self,
        handle: Any,
        matmul: Any,
        a: Any,
        b: Any,
        c: Any,
        d: Any,
        wish: Any,
        most: int,
        found: Any,
        count: Any,
    ) -> int:
        wanted, operation = self.made[wish.value], self.made[matmul.value]
        self.searches.append(wanted)
        if operation.attributes[7] in self.refuses:
            return NOT_SUPPORTED
        alignments = [wanted.attributes[key] for key in (5, 6, 7, 8)]
        for i in range(min(2, most)):
            found[i].state = 0
            found[i].algorithm[:5] = [i + 1, *alignments]
        count._obj.value = min(2, most)
        return 0

    def cublasLtMatmul(self, *given: Any) -> int:
        _, matmul, alpha, a, la, b, lb, beta, c, lc, d, ld, algorithm, *_ = given
        assert (c, lc.value) == (d, ld.value)
        first, *alignments = list(algorithm._obj)[:5]
        assert first == 1
        for pointer, alignment in zip((a, b, c, d), alignments):
            assert pointer % alignment == 0
        kind = self.made[matmul.value]
        factors = (self._matrix(p, self.made[each.value]) for p, each in ((a, la), (b, lb)))
        left, right = (
            each.T if kind.attributes[transposed] else each
            for each, transposed in zip(factors, (3, 4))
        )
        out = self._matrix(d, self.made[ld.value], raw=True)
        for pointer, each in ((a, la), (b, lb)):
            read = self._matrix(pointer, self.made[each.value], raw=True)
            assert not np.may_share_memory(read, out), "written where it is read"
        assert beta._obj.value == 0
        found = self._finished(kind, ld, alpha._obj.value * (left @ right))
        out[...] = reference.bfloat16(found) if out.dtype == np.uint16 else found
        self.calls[kind.attributes[7]] = self.calls.get(kind.attributes[7], 0) + 1
        return 0

    def _matrix(self, pointer: int, layout: Made, raw: bool = False) -> np.ndarray:
        """A column-major matrix where it lies, or its values."""
        dtype, rows, columns, stride = layout.arguments
        assert stride >= rows
        flat = memory(pointer, stride * columns, TYPES[dtype])
        found = flat.reshape(columns, stride)[:, :rows].T
        return found if raw or dtype != 14 else reference.widened(found)

    def _finished(self, kind: Made, layout: Any, x: np.ndarray) -> np.ndarray:
        """The epilogue: `x` is column-major, so a bias has an element a row."""
        epilogue = kind.attributes[7]
        if epilogue & BIAS:
            dtype = TYPES[self.made[layout.value].arguments[0]]  # of the result
            bias = memory(kind.attributes[8], len(x), dtype)
            x = x + (reference.widened(bias) if dtype == np.uint16 else bias)[:, None]
        if epilogue & RELU:
            x = np.where(x > 0, x, 0)  # as the library does, NaN becomes 0
        if epilogue & GELU:
            x = reference.ACTIVATIONS["gelu"](x)
        return x


def memory(pointer: int, count: int, dtype: Any) -> np.ndarray:
    """An array over memory that another one owns."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype)
