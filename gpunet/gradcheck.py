"""Doubts every gradient: gates, losses and kernels against central differences, in float64.

What has no gradient, such as an optimiser's step, is compared with its formula written out plainly.
A gate or kernel without a case here counts as wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np

from gpunet import formula, gates
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.errors import CheckFailed, UsageError
from gpunet.graph import Gate, Graph
from gpunet.kernels import REGISTRY
from gpunet.kernels import slots as at
from gpunet.random import Purpose, bits, stream

TOLERANCE = 1e-6
ALL_COORDINATES = 64
DIRECTIONS = 3
STEPS = (1e-2, 1e-3, 1e-4, 1e-5)


@dataclass
class Result:
    """How far a gradient is from the differences, at most; `detail` shows both where they differ
    most. `kind` is input, gate, loss or kernel."""

    name: str
    kind: str
    error: float
    detail: str = ""
    tolerance: float = TOLERANCE
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ok = self.error <= self.tolerance


class Difference(NamedTuple):
    """The largest relative error of a comparison, and the two numbers."""

    error: float
    detail: str


def run(
    text: str | None, assignments: Sequence[str], everything: bool, seed: int
) -> list[Result]:
    """What `gpunet gradcheck` checks: a formula at the given inputs, or all that there is."""
    if everything and (text or assignments):
        raise UsageError("--all takes no formula", "check one or the other")
    if everything:
        return check_all(seed)
    if not text:
        raise UsageError("nothing to check", "give a formula, or --all")
    graph = formula.parse(text)
    return check_graph(graph, formula.inputs(graph, assignments, seed), seed)


def demand(results: Sequence[Result]) -> None:
    """CheckFailed when one of the results does not hold."""
    wrong = [result for result in results if not result.ok]
    if wrong:
        which = "; ".join(f"{result.name}: {result.detail}" for result in wrong[:3])
        raise CheckFailed(f"{len(wrong):,} of {len(results):,} gradients do not hold ({which})")


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """Results as JSON values, schema `gpunet.gradcheck/1`; an error that is infinite is null."""
    rows = [{**vars(r), "error": r.error if isfinite(r.error) else None} for r in results]
    return {"schema": "gpunet.gradcheck/1", "results": rows}


def check_gate(gate: Gate, inputs: Sequence[Any], seed: int = 0) -> float:
    """The largest relative error of a gate's gradients, each for a weighted sum of its outputs."""
    return _gate_difference(gate, inputs, stream(seed, Purpose.CHECK)).error


def check_graph(graph: Graph, values: Mapping[str, Any], seed: int = 0) -> list[Result]:
    """A result for each input and parameter that has a gradient, in the order of the graph."""
    rng = stream(seed, Purpose.CHECK)
    start = {name: _float64(value) for name, value in values.items()}
    start |= {name: _float64(node.value) for name, node in graph.parameters.items()}
    weight = rng.standard_normal(np.shape(_forward(graph, start)))
    gradients = {name: grad for name, grad in graph.backward(weight).items() if grad is not None}

    def loss(point: Mapping[str, np.ndarray]) -> float:
        return float(np.sum(weight * _forward(graph, point)))

    results = [
        Result(name, "input", *compare(loss, start, {name: grad}, rng))
        for name, grad in gradients.items()
    ]
    _forward(graph, start)
    graph.backward()
    return results


def check_all(seed: int = 0, device: Device | None = None) -> list[Result]:
    """Every gate and loss of `gates`, and every kernel of REGISTRY on `device`."""
    rng = stream(seed, Purpose.CHECK)
    cases = _gate_cases(rng)
    results = []
    for kind in _leaves():
        found = [_gate_difference(gate, inputs, rng) for gate, inputs in cases.get(kind, ())]
        group = "loss" if issubclass(kind, gates.Loss) else "gate"
        results.append(_result(kind.__name__, group, found))
    return results + [check_kernel(name, seed, device) for name in REGISTRY]


def check_kernel(name: str, seed: int = 0, device: Device | None = None) -> Result:
    """One kernel: with its partner where the two are value and gradient, else against its formula."""
    bench = Bench(device or Cpu(), stream(seed, Purpose.CHECK))
    case = KERNELS.get(name)
    return _result(name, "kernel", [] if case is None else [case(bench)])


def _result(name: str, kind: str, found: Sequence[Difference]) -> Result:
    return Result(name, kind, *max(found, default=Difference(inf, "no case checks it")))


# Comparing

Point = Mapping[str, np.ndarray]


def compare(
    loss: Callable[[Point], float], start: Point, gradients: Point, rng: np.random.Generator
) -> Difference:
    """Gradients of a number at a point against its central differences.

    Small arrays are checked coordinate by coordinate, large ones along random directions. Errors
    are relative to the larger of both, at least a thousandth of the largest entry.
    """
    worst = Difference(0.0, "")
    for name, gradient in gradients.items():
        labels, directions, units = zip(*_directions(name, start[name], rng), strict=True)
        slopes = np.array([np.sum(gradient * direction) for direction in directions])

        def moved(step: float, name: str, direction: np.ndarray) -> float:
            return loss({**start, name: start[name] + step * direction})

        numeric = np.array(
            [
                _slope(lambda t, d=direction, n=name: moved(t, n, d), unit, slope)
                for direction, unit, slope in zip(directions, units, slopes, strict=True)
            ]
        )
        found = _furthest(labels, slopes, numeric, 1e-6 * abs(loss(start)))
        worst = max(worst, found)
    return worst
