"""The one check of kernels: a call, what it must give, and what it must leave alone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference

from gpunet.kernels import Kernel

Array = np.ndarray
MARGIN = 512
ROUNDINGS = 64
"""How many roundings of the largest value a result may be off."""


@dataclass(frozen=True)
class Slopes:
    """A number as a function of named float64 arrays, a point, and for each name the output that
    must hold its gradient."""

    number: Callable[..., float]
    point: dict[str, Array]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Case:
    """One call of a kernel.

    given: what is only read. state: what is read and written. expected: what every written array
    must be; None where the argument is. shares: output → the input whose memory it may have.
    dtypes: of outputs that have another dtype than the kernel. sizes: of the terms that an output
    is a small difference of.
    """

    kernel: Kernel
    label: str
    given: dict[str, Any]
    expected: dict[str, Array | None]
    state: dict[str, Array] = field(default_factory=dict)
    shares: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)
    slopes: Slopes | None = None

    def start(self, name: str, dtype: str) -> Any:
        """The argument `name` before the call."""
        for known in (self.given, self.state):
            if name in known:
                return known[name]
        wanted = self.expected[name]
        return None if wanted is None else unwritten(wanted.shape, self.dtypes.get(name, dtype))


def check(
    case: Case, dtype: str, run: Callable[..., None], layout: str = "dense"
) -> dict[str, Array]:
    """Call `run(*arguments)` and hold every promise: inputs unchanged, nothing written outside,
    outputs whole and right; returns the written arrays.

    layout: "dense", "strided" (every array), or "shared" (outputs in the memory of inputs).
    """
    kernel, boxes = case.kernel, {}
    shares = case.shares if layout == "shared" else {}
    arguments: list[Any] = []
    for name in kernel.parameters:
        is_work = name == "work"
        start = _work(kernel, arguments, dtype) if is_work else case.start(name, dtype)
        if isinstance(start, np.ndarray):
            strided = layout == "strided" and not is_work
            boxes[name] = boxes.get(shares.get(name, "")) or Box(start, strided)
            start = boxes[name].array
        arguments.append(start)
    run(*arguments)
    for name, box in boxes.items():
        assert box.intact(), f"{name}: written outside"
        if name in case.given and name not in shares.values():
            assert box.unchanged(), f"{name}: an input was changed"
    assert set(kernel.outputs) == set(case.expected), "not all outputs are expected"
    assert set(case.state) <= set(kernel.outputs), "what is written is no output"
    written = {name: boxes[name].array for name in kernel.outputs if name in boxes}
    for name, array in written.items():
        what = f"{kernel.name} {case.label} {name}"
        if name == "shadow":  # of what was written, to the bit: a rounding is a whole step here
            assert (array == reference.bfloat16(written["param"])).all(), what
            continue
        close(array, case.expected[name], dtype, what, case.sizes.get(name, 0))
    return written


def close(got: Array, wanted: Array, dtype: str, what: str, size: float = 0) -> None:
    """Equal, but for a few roundings in `dtype` of the largest value, at least of `size`."""
    got, wanted = got.astype(np.float64), np.asarray(wanted, np.float64)
    largest = np.abs(wanted[np.isfinite(wanted)]).max(initial=size)
    bound = ROUNDINGS * np.finfo(dtype).eps * largest + 1e-37 * (dtype == "float32")
    with np.errstate(invalid="ignore"):
        right = (np.abs(got - wanted) <= bound) | (got == wanted)
    right |= np.isnan(got) & np.isnan(wanted)
    if not right.all():
        at = tuple(int(i) for i in np.argwhere(~right)[0])
        raise AssertionError(f"{what}{list(at)} is {got[at]!r}, not {wanted[at]!r}")


def unwritten(shape: tuple[int, ...], dtype: Any) -> Array:
    """All bytes 0xFF: NaN, or -1."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.full(size, 255, np.uint8).view(dtype).reshape(shape)


class Box:
    """An array between guards of 0xFF bytes, in the gaps too where it is strided."""

    def __init__(self, values: Array, strided: bool = False) -> None:
        steps = tuple(2 + axis if strided else 1 for axis in range(values.ndim))
        room = tuple(size * step for size, step in zip(values.shape, steps))
        raw = unwritten((int(np.prod(room)) + 2 * MARGIN,), values.dtype)
        inside = raw[MARGIN : raw.size - MARGIN].reshape(room)
        self.array = inside[tuple(slice(None, None, step) for step in steps)]
        self.array[...] = 0
        self.bytes = raw.view(np.uint8)
        self.guards = self.bytes == 255
        self.array[...] = values
        self.values = values

    def unchanged(self) -> bool:
        return self.array.tobytes() == self.values.tobytes()

    def intact(self) -> bool:
        return bool((self.bytes[self.guards] == 255).all())


def _work(kernel: Kernel, arguments: list[Any], dtype: str) -> Array:
    assert kernel.work is not None
    return unwritten((max(1, kernel.work(*arguments)),), dtype)
