"""Doubts gradients, of gates and circuits, by central differences in float64."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache
from inspect import signature
from math import inf, isfinite, isnan
from typing import Any, NamedTuple

import numpy as np

from gpunet.errors import CheckFailed, UsageError
from gpunet.graph import Gate, Graph
from gpunet.random import Purpose, stream
from gpunet.view import finite

TOLERANCE = 1e-6
STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
AGREED = 1e-9
"""Steps of the differences, in parts of the value, until two agree so well; else the two that agree
best are believed."""
MOST_COORDINATES, DIRECTIONS = 64, 3
"""Larger arrays are checked along so many random directions."""

Point = Mapping[str, np.ndarray]


@dataclass
class Result:
    """The largest relative error of a gradient; `detail` has the two numbers behind it.

    `kind` is input, gate, loss or kernel.
    """

    name: str
    kind: str
    error: float
    detail: str
    tolerance: float = TOLERANCE
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ok = self.error <= self.tolerance


class Difference(NamedTuple):
    """The largest relative error of a comparison, and the two numbers behind it."""

    error: float
    detail: str


def demand(results: Sequence[Result]) -> None:
    """CheckFailed when one of the results does not hold."""
    wrong = [result for result in results if not result.ok]
    if wrong:
        which = "; ".join(f"{result.name}: {result.detail}" for result in wrong[:3])
        raise CheckFailed(f"{len(wrong):,} of {len(results):,} gradients do not hold ({which})")


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """Results as JSON values, schema `gpunet.gradcheck/1`; an infinite error is null."""
    return {"schema": "gpunet.gradcheck/1", "results": finite([vars(r) for r in results])}


def check_gate(gate: Gate, inputs: Sequence[Any], seed: int = 0) -> float:
    """The largest relative error of a gate's gradients at `inputs`."""
    return gate_difference(gate, inputs, stream(seed, Purpose.CHECK)).error


def check_graph(graph: Graph, values: Mapping[str, Any], seed: int = 0) -> list[Result]:
    """A result for each input and parameter that has a gradient, in the order of the graph, which
    stays as it is.

    UsageError where the value is not finite: differences cannot be had there.
    """
    graph, rng = copy(graph), stream(seed, Purpose.CHECK)
    output = graph.forward({name: _float64(value) for name, value in values.items()})
    if not np.isfinite(output).all():
        raise UsageError("the value is not finite at these inputs", "check it where it is")
    weight = rng.standard_normal(np.shape(output))
    gradients = graph.backward(weight)
    leaves = graph.inputs | graph.parameters
    start = {name: _float64(node.value) for name, node in leaves.items()}

    def loss(point: Point) -> float:
        for name, node in graph.parameters.items():
            node.value = point[name]
        return float(np.sum(weight * graph.forward({name: point[name] for name in graph.inputs})))

    return [
        Result(name, "input", *compare(loss, start, {name: gradient}, rng))
        for name, gradient in gradients.items()
        if gradient is not None
    ]


def compare(
    loss: Callable[[Point], float], start: Point, gradients: Point, rng: np.random.Generator
) -> Difference:
    """The gradients of `loss` at `start`, by name, against its central differences there.

    Errors are relative to the larger of the two, or to a thousandth of the largest entry, or to
    what rounding and bends of the loss itself leave to see.
    """
    found = [Difference(0.0, "")]
    for name, gradient in gradients.items():
        seen = []
        for label, direction, units in _probes(name, start[name], rng):
            moved = direction != 0  # another entry's NaN is not this one's
            with np.errstate(all="ignore"):
                claimed = float(np.asarray(gradient)[moved] @ direction[moved])
                line = _Line(loss, start, name, direction)
                seen.append((label, claimed, *_seen(line, claimed, units)))
        if seen:
            labels, *numbers = zip(*seen, strict=True)
            found.append(_furthest(labels, *map(np.array, numbers)))
    return max(found)


def gate_difference(gate: Gate, inputs: Sequence[Any], rng: np.random.Generator) -> Difference:
    """The gradients of a gate at `inputs`, of which one number is made, against differences."""
    if not isinstance(gate, Gate):
        raise TypeError("a gate is checked, as Exp(), not its class")
    start = dict(zip(_names(gate, len(inputs)), map(_float64, inputs), strict=True))
    weight = rng.standard_normal(np.shape(gate.forward(*start.values())))
    gradients = dict(zip(start, gate.backward(weight), strict=True))

    def loss(point: Point) -> float:
        return float(np.sum(weight * gate.forward(*point.values())))

    return compare(loss, start, {n: g for n, g in gradients.items() if g is not None}, rng)


def _names(gate: Gate, count: int) -> list[str]:
    """What the gate itself calls its inputs."""
    names = list(signature(gate._forward).parameters)[2 : 2 + count]
    return names if len(names) == count else [f"x{i}" for i in range(count)]


def matches(found: Point, wanted: Point) -> Difference:
    """Arrays against what they should be, by name."""
    differences = [Difference(0.0, "")]
    for name, array in wanted.items():
        labels = [_label(name, place) for place in np.ndindex(array.shape)]
        got = np.asarray(found[name], np.float64)
        differences.append(_furthest(labels, got.ravel(), np.ravel(array), np.zeros(got.size)))
    return max(differences)


@dataclass(frozen=True)
class _Line:
    """A loss along a line through a point: one array moves, the others stay."""

    loss: Callable[[Point], float]
    start: Point
    name: str
    direction: np.ndarray

    def __call__(self, t: float) -> float:
        moved = self.start[self.name] + t * self.direction
        return self.loss({**self.start, self.name: moved})


def _probes(
    name: str, x: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, tuple[float, ...]]]:
    """What to call a direction, the direction, and sizes that the values along it may have."""
    if x.size > MOST_COORDINATES:
        for _ in range(DIRECTIONS):
            yield f"d{name} along a random direction", rng.standard_normal(x.shape), (1.0,)
        return
    for place in np.ndindex(x.shape):
        direction, size = np.zeros(x.shape), abs(float(x[place]))
        direction[place] = 1
        yield _label(f"d{name}", place), direction, (max(size, 0.01), size or 0.01)


def _seen(line: _Line, claimed: float, units: Sequence[float]) -> tuple[float, float]:
    """The slope of a loss along a line by differences, in the first of `units` where two of them
    agree, and the size below which it is not to be seen."""
    for unit in units:
        f = cache(replace(line, direction=unit * line.direction))
        slope, gap = _slope(f)
        floor = _floor(f, slope)
        if gap <= TOLERANCE * max(abs(slope), floor):
            break
    return _unless_kink(f, slope, claimed * unit) / unit, floor / unit


def _floor(f: Callable[[float], float], slope: float) -> float:
    """What a slope at 0 must have to be seen: the loss is rounded, and bends along the first step.

    How it bends is what the smaller steps say too, lest a pole or a cliff near by hide it all.
    """
    here = f(0)
    away = [[abs(f(t) - here - t * slope) for t in (-h, h)] for h in STEPS[:4]]
    bends = [max(filter(isfinite, each), default=inf) / h**2 for each, h in zip(away, STEPS)]
    return max(1e-6 * abs(here), min(filter(isfinite, bends), default=0.0) * STEPS[0])


def _slope(f: Callable[[float], float]) -> tuple[float, float]:
    """f'(0) by central differences, and how far the two differ that agree best."""
    here = f(0)
    slopes, gaps = [_central(f, STEPS[0])], [inf]
    for step in STEPS[1:]:
        slopes.append(_central(f, step))
        gap = abs(slopes[-1] - slopes[-2])
        gaps.append(inf if isnan(gap) else gap)
        if isfinite(gap) and gap <= AGREED * max(abs(slopes[-1]), 1e-3 * abs(here)):
            break
    best = int(np.argmin(gaps))
    return slopes[best], gaps[best]


def _unless_kink(f: Callable[[float], float], slope: float, claimed: float) -> float:
    """`slope`; at a kink, what is nearest to `claimed` between the slopes of both sides."""
    here = f(0)
    left, right = _sides(f, here, 1e-6)
    gap, nearer = abs(right - left), abs(np.subtract(*_sides(f, here, 1e-7)))
    noise = 1e-9 * abs(here)
    if gap > max(1e-3 * max(abs(left), abs(right)), noise) and nearer > gap / 2:
        return min(max(claimed, min(left, right)), max(left, right))
    return slope


def _sides(f: Callable[[float], float], here: float, h: float) -> tuple[float, float]:
    """The slopes on the left and on the right: they draw near with h unless there is a kink."""
    return (here - f(-h)) / h, (f(h) - here) / h


def _central(f: Callable[[float], float], h: float) -> float:
    """The five-point rule: its error falls with h⁴."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


def _furthest(
    labels: Sequence[str], chain: np.ndarray, numeric: np.ndarray, floors: np.ndarray
) -> Difference:
    """Where two vectors differ most; below `floors`, differences are no better than noise."""
    if not labels:
        return Difference(0.0, "")
    size = np.maximum(np.abs(chain), np.abs(numeric))
    largest = np.max(size, where=np.isfinite(size), initial=1e-300)
    with np.errstate(all="ignore"):
        error = np.abs(chain - numeric) / np.maximum(np.maximum(size, floors), 1e-3 * largest)
    i = int(np.argmax(np.where(np.isnan(error), inf, error)))
    worst = inf if isnan(error[i]) else float(error[i])
    return Difference(worst, f"{labels[i]} is {chain[i]:.9g}, against {numeric[i]:.9g}")


def _label(name: str, place: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, place))}]" if place else name


def _float64(value: Any) -> np.ndarray:
    """Whole numbers stay: an index takes no others."""
    array = np.asarray(value)
    return array.astype(np.float64) if array.dtype.kind == "f" else array
