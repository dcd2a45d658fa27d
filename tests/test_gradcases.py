"""The cases themselves: all hold, and what is wrong by 0.1 % is caught."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import emulation
import numpy as np
import pytest

from gpunet import gates, gradcases, gradcheck
from gpunet.device import Device
from gpunet.errors import CheckFailed, UsageError
from gpunet.formula import parse
from gpunet.graph import Gate
from gpunet.kernels import REGISTRY
from gpunet.random import Purpose, stream

ALL = gradcases.check_all()
CASES = gradcases._gate_cases(stream(0, Purpose.CHECK))


@pytest.mark.parametrize("result", ALL, ids=lambda result: f"{result.kind}-{result.name}")
def test_every_gate_loss_and_kernel_holds(result: gradcheck.Result) -> None:
    assert result.ok, result.detail
    assert result.error <= 1e-6
    assert result.detail


@pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation needs g++")
@pytest.mark.parametrize("name", REGISTRY)
def test_every_cuda_source_holds_under_emulation(name: str) -> None:
    result = gradcases.check_kernel(name, device=emulation.Emulated())
    assert result.ok, result.detail


@pytest.mark.gpu
def test_every_kernel_holds_on_a_gpu(gpu: Device) -> None:
    gradcheck.demand(gradcases.check_all(device=gpu))


def test_nothing_is_left_out() -> None:
    names = {(result.kind, result.name) for result in ALL}
    assert {name for kind, name in names if kind == "kernel"} == set(REGISTRY)
    assert {"Multiply", "MatMul", "Dropout", "LayerNorm", "Mish"} <= {
        n for k, n in names if k == "gate"
    }
    losses = {kind.__name__ for kind in gates.LOSSES.values()}
    assert {name for kind, name in names if kind == "loss"} == losses
    gradcheck.demand(ALL)


@pytest.mark.parametrize("seed", [1, 2])
def test_other_points_hold_too(seed: int) -> None:
    gradcheck.demand(gradcases.check_all(seed))


# ---- it can fail


def spoilt(gate: Gate, which: int) -> Gate:
    """The same gate with one of its gradients 0.1 % too large."""
    kind = type(gate)

    def backward(self: Gate, grad: Any, out: Any = None) -> tuple[Any, ...]:
        return tuple(
            part * 1.001 if part is not None and i == which else part
            for i, part in enumerate(kind.backward(self, grad, out))
        )

    broken = object.__new__(type(kind.__name__, (kind,), {"backward": backward, "op": kind.op}))
    broken.__dict__.update(gate.__dict__)
    return broken


GATES = [
    pytest.param(gate, inputs, which, id=f"{kind.__name__}-{i}-{which}")
    for kind, cases in CASES.items()
    for i, (gate, inputs) in enumerate(cases)
    for which in range(len(inputs))
    if which not in gate.indices and not (issubclass(kind, gates.Loss) and which == 2)
]


@pytest.fixture
def losses_of_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spoilt loss still finds its kernel."""
    known = {kind.__name__: name for name, kind in gates.LOSSES.items()}
    kernel = property(lambda self: REGISTRY[known[type(self).__name__]])
    monkeypatch.setattr(gates.Loss, "kernel", kernel)


@pytest.mark.usefixtures("losses_of_subclasses")
@pytest.mark.parametrize(("gate", "inputs", "which"), GATES)
def test_a_gate_wrong_by_a_thousandth_is_caught(
    gate: Gate, inputs: Sequence[np.ndarray], which: int
) -> None:
    assert gradcheck.check_gate(gate, inputs) < 1e-6
    assert gradcheck.check_gate(spoilt(gate, which), inputs) == pytest.approx(1e-3, rel=0.01)


def faulty(reference: Callable[..., Any], at: int) -> Callable[..., None]:
    """A kernel's reference with its output number `at` a thousandth, or one, too large."""

    def run(*arguments: Any) -> None:
        reference(*arguments)()
        out = arguments[at]
        out[...] = out + 1 if out.dtype.kind == "i" else out * 1.001

    return run


# Rows and fault bits are for the tests of the kernels.
UNSEEN = {"clock", "found", "rows"}
KERNELS = [
    pytest.param(name, output, id=f"{name}-{output}")
    for name, kernel in REGISTRY.items()
    for output in kernel.outputs
    if output not in UNSEEN or name in ("tick", "show_faults")
]


@pytest.mark.parametrize(("name", "output"), KERNELS)
def test_a_kernel_wrong_by_a_thousandth_is_caught(
    name: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = REGISTRY[name]
    reference = faulty(kernel.reference, kernel.parameters.index(output))
    broken = Twin(kernel, reference)
    monkeypatch.setitem(REGISTRY, name, broken)
    assert not gradcases.check_kernel(name).ok


class Twin:
    """A kernel with another reference but the same parameters."""

    def __init__(self, kernel: Any, reference: Callable[..., None]) -> None:
        self.kernel, self.reference = kernel, reference

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def bind(self, device: Any, *arguments: Any) -> Callable[[], None]:
        return lambda: self.reference(*arguments)


def test_a_new_gate_or_kernel_without_a_case_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cube(gates.Elementwise):
        """z = x³; dx = 3 dz x²."""

    monkeypatch.setattr(gates, "Cube", Cube, raising=False)
    monkeypatch.setitem(REGISTRY, "cube", replace(REGISTRY["dropout"], name="cube"))
    wrong = [result for result in gradcases.check_all() if not result.ok]
    assert [(result.kind, result.name) for result in wrong] == [
        ("gate", "Cube"),
        ("kernel", "cube"),
    ]
    with pytest.raises(CheckFailed, match=r"2 of .* do not hold .*Cube: no case checks it"):
        gradcheck.demand(wrong + [result for result in ALL if result.ok])


def test_a_wrong_gate_in_a_graph_is_named_by_its_inputs() -> None:
    graph = parse("exp(x) + y")
    node = graph.node("q1")
    assert node.gate is not None
    node.gate = spoilt(node.gate, 0)
    results = gradcheck.check_graph(graph, {"x": 0.3, "y": 1.0})
    assert [(result.name, result.ok) for result in results] == [("x", False), ("y", True)]


def test_results_depend_on_the_seed_alone() -> None:
    assert gradcases.check_all(3) == gradcases.check_all(3)


@pytest.mark.parametrize(
    ("text", "assignments", "everything", "message"),
    [
        ("x", [], True, "--all and a formula at once"),
        (None, ["x=2"], True, "--all and a formula at once"),
        (None, [], False, "nothing to check"),
        ("x + y", ["x=2"], False, "y has no value"),
    ],
)
def test_what_cannot_be_asked(
    text: str | None, assignments: list[str], everything: bool, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        gradcases.run(text, assignments, everything)
