"""Gradients against differences: formulas, graphs, points that are hard, and large arrays."""

from typing import Any

import numpy as np
import pytest

from gpunet import formula, gates, gradcheck
from gpunet.errors import CheckFailed, UsageError
from gpunet.gradcases import run
from gpunet.graph import Graph


def test_a_wrong_gradient_in_a_large_array_is_caught() -> None:
    gate, x = gates.Exp(), np.linspace(-1, 1, 500)
    assert gradcheck.check_gate(gate, [x]) < 1e-6

    class Late(gates.Exp):
        def backward(self, grad: Any, out: Any = None) -> tuple[Any, ...]:
            (part,) = super().backward(grad, out)
            return (part * np.where(np.arange(500) == 499, 1.001, 1),)

    assert gradcheck.check_gate(Late(), [x]) > 1e-6


def test_a_formula() -> None:
    results = run(
        "sum(tanh(x @ w) * v) / 3", ["x=randn(4,9)", "w=randn(9,30)", "v=rand(30)"], False
    )
    assert [(r.name, r.kind, r.ok) for r in results] == [
        ("x", "input", True),
        ("w", "input", True),
        ("v", "input", True),
    ]
    assert "random direction" in results[1].detail


def test_inputs_without_a_gradient_are_not_asked_about() -> None:
    results = run("take(x, i) ** 2", ["x=randn(3,2)", "i=[0,2,2]"], False)
    assert [result.name for result in results] == ["x"]
    assert run("2 + 3", [], False) == []


@pytest.mark.parametrize(
    ("text", "assignment"),
    [
        ("log(x)", "x=1e-6"),
        ("sin(x)", "x=1e6"),
        ("x + 1000", "x=1e-6"),
        ("x ** 2", "x=0"),
        ("sigmoid(x)", "x=-800"),
        ("exp(x)", "x=[]"),
        ("mean_squared(x, 2 * x)", "x=[[1, 2]]"),
        ("sigmoid_cross_entropy(x, sigmoid(x))", "x=[[1, -2], [0.5, 3]]"),
        ("sum((x - 1) ** 2)", "x=[1, 1]"),
        ("huber(x, 1 + 0 * x)", "x=[1, 1]"),
        ("maximum(0, x) ** 2", "x=0"),
        ("x * abs(x)", "x=0"),
        ("exp(x) - 1 - x", "x=[0, 1e-9]"),
        ("x ** 5", "x=0"),
        ("1 / x", "x=1e-5"),
        ("1 / x", "x=1e-9"),
        ("log(x)", "x=2.2e-9"),
        ("sqrt(x)", "x=1e-300"),
    ],
)
def test_points_that_are_hard_for_differences(text: str, assignment: str) -> None:
    gradcheck.demand(run(text, [assignment], False))


@pytest.mark.parametrize(
    ("text", "x"),
    [
        ("x ** 2", 1e-3),
        ("1 / x", 1e-5),
        ("1 / x", 1.0001e-4),
        ("log(x)", 1e-9),
        ("sqrt(x) + 1e3", 1e-9),
        ("exp(1e4 * x)", 0.05),
        ("sin(1e5 * x)", 0.5),
    ],
)
def test_a_gradient_that_is_a_little_wrong_is_caught_there_too(text: str, x: float) -> None:
    class Off(formula.Formula):
        def backward(self, grad: Any = 1.0) -> dict[str, Any]:
            return {name: 1.001 * part for name, part in super().backward(grad).items()}

    graph = formula.parse(text)
    assert gradcheck.check_graph(graph, {"x": x})[0].ok
    graph.__class__ = Off
    assert not gradcheck.check_graph(graph, {"x": x})[0].ok


@pytest.mark.parametrize(
    "text", ["relu(x)", "abs(x)", "maximum(x, 0)", "max(concatenate(x, 0 * x))"]
)
def test_at_a_kink_a_slope_between_both_sides_holds(text: str) -> None:
    gradcheck.demand(run(text, ["x=[0, 0]"], False))


def test_where_there_is_no_slope_nothing_holds() -> None:
    results = run("sqrt(x)", ["x=0"], False)
    assert not results[0].ok
    with pytest.raises(CheckFailed, match=r"1 of 1 gradients do not hold \(x: dx is inf"):
        gradcheck.demand(results)
    assert gradcheck.to_json(results)["results"][0]["error"] is None
    with pytest.raises(UsageError, match="not finite at these inputs"):
        run("log(x)", ["x=-1"], False)


def test_what_is_not_finite_is_said_of_its_own_place() -> None:
    (result,) = run("sum(sqrt(x))", ["x=[1, 0, 2]"], False)
    assert result.detail == "dx[1] is inf, against nan"


def test_a_gate_of_single_precision_is_checked_in_double() -> None:
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    assert gradcheck.check_gate(gates.Sigmoid(), [x]) < 1e-9


def test_a_class_is_no_gate() -> None:
    with pytest.raises(TypeError, match=r"a gate is checked, as Exp\(\), not its class"):
        gradcheck.check_gate(gates.Multiply, [1.0, 2.0])  # type: ignore[arg-type]


def test_a_graph_with_parameters() -> None:
    graph = Graph()
    product = graph.apply(gates.MatMul(), graph.input("x"), graph.parameter("w", [[1.0], [2.0]]))
    graph.apply(gates.Add(), product, graph.parameter("b", [0.5]))
    results = gradcheck.check_graph(graph, {"x": [[3, -1]]})
    assert [result.name for result in results] == ["x", "w", "b"]
    assert all(result.error < 1e-9 for result in results)
    assert graph.node("w").value.tolist() == [[1], [2]]
    assert graph.forward(x=[[3, -1]]).tolist() == [[1.5]]


def test_json() -> None:
    found = gradcheck.to_json(run("x * y", ["x=2", "y=3"], False))
    assert found["schema"] == "gpunet.gradcheck/1"
    assert found["results"][0].keys() == {"name", "kind", "error", "detail", "tolerance", "ok"}


def test_a_steep_curve_is_no_kink() -> None:
    """Between the slopes of both sides, close to it, any would hold."""
    graph = formula.parse("sin(1e4*x)")
    (result,) = gradcheck.check_graph(graph, {"x": 1.0})
    assert result.ok
    graph.nodes[-1].gate = OffSine()
    (result,) = gradcheck.check_graph(graph, {"x": 1.0})
    assert not result.ok


class OffSine(gates.Sin):
    """A sine whose gradient is wrong by 0.1 %."""

    def _pull(self, xp: Any, grad: Any, i: int, out: Any) -> None:
        super()._pull(xp, grad * 1.001, i, out)


def test_a_graph_that_is_checked_stays_as_it_is() -> None:
    graph = Graph()
    x, gate = graph.input("x"), gates.BatchNorm(2)
    gain = graph.parameter("gain", np.ones(2, np.float32))
    graph.apply(gate, x, gain, graph.constant(np.zeros(2)))
    value = gain.value
    gradcheck.check_graph(graph, {"x": np.arange(6.0).reshape(3, 2)})
    assert gain.value is value
    assert (gate.running_mean == 0).all()
