"""The circuit: the lecture's numbers, branches, groups, Jacobians, and what it refuses."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpunet.errors import UsageError
from gpunet.formula import parse
from gpunet.gates import (
    Add,
    Concatenate,
    Divide,
    Exp,
    MatMul,
    Maximum,
    Mean,
    MeanSquared,
    Multiply,
    Negate,
    ReLU,
    Sigmoid,
    Softplus,
    Subtract,
    Sum,
    Take,
    Tanh,
)
from gpunet.graph import Gate, Graph, Node

WEIGHTS = {"w0": 2, "x0": -1, "w1": -3, "x1": -2, "w2": -3}


def lecture_neuron() -> Graph:
    """1 / (1 + exp(-(w0 x0 + w1 x1 + w2))), gate by gate."""
    g = Graph()
    w0, x0, w1, x1, w2 = (g.input(name) for name in WEIGHTS)
    one = g.constant(1, "1")
    first = g.apply(Multiply(), w0, x0, name="w0x0")
    second = g.apply(Multiply(), w1, x1, name="w1x1")
    both = g.apply(Add(), first, second, name="sum")
    dot = g.apply(Add(), both, w2, name="dot")
    minus = g.apply(Negate(), dot, name="minus")
    e = g.apply(Exp(), minus, name="e")
    under = g.apply(Add(), e, one, name="under")
    g.apply(Divide(), one, under, name="f")
    return g


def test_the_first_circuit_of_the_lecture() -> None:
    g = Graph()
    x, y, z = g.input("x"), g.input("y"), g.input("z")
    q = g.apply(Add(), x, y, name="q")
    f = g.apply(Multiply(), q, z, name="f")
    assert g.forward(x=-2, y=5, z=-4) == -12
    assert g.backward() == {"x": -4, "y": -4, "z": 3}
    assert (q.value, q.grad, f.grad) == (3, -4, 1)
    assert [node.op for node in g.nodes] == ["input", "input", "input", "add", "multiply"]


def test_a_circuit_is_shown_in_a_line_and_is_a_key_as_it_is() -> None:
    f = parse("(x + y)*z")
    assert repr(f) == "<Formula of 5 nodes, from x, y, z>"
    assert repr(f.last) == "<Node f: multiply of q1, z>"
    assert repr(f.nodes[0]) == "<Node x: input>"
    assert repr(Graph()) == "<Graph of 0 nodes, from nothing>"
    assert {f, Graph()} != {f}
    assert f != parse("(x + y)*z")


def test_the_neuron_of_the_lecture() -> None:
    g = lecture_neuron()
    assert g.forward(WEIGHTS) == pytest.approx(0.73, abs=0.005)
    found = {name: round(float(grad), 2) for name, grad in g.backward().items()}
    assert found == {"w0": -0.2, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.2}


def test_its_last_four_gates_are_one_sigmoid() -> None:
    g, grouped = lecture_neuron(), lecture_neuron()
    big = grouped.group([grouped.node(name) for name in ("minus", "e", "under", "f")], "sigmoid")
    assert big.op == "group"
    assert [node.name for node in grouped.nodes][-2:] == ["dot", "sigmoid"]
    assert grouped.forward(WEIGHTS) == g.forward(WEIGHTS)
    assert grouped.backward() == g.backward()
    gate = Sigmoid()
    assert gate.forward(g.node("dot").value) == pytest.approx(g.node("f").value, rel=1e-15)
    assert gate.backward(1.0)[0] == pytest.approx(g.node("dot").grad, rel=1e-15)


def test_gradients_add_up_at_a_branch() -> None:
    g = Graph()
    x = g.input("x")
    g.apply(Add(), g.apply(Exp(), x), g.apply(Tanh(), x))
    point = np.array([-1.0, 0.5])
    g.forward(x=point)
    assert g.backward()["x"] == pytest.approx(np.exp(point) + 1 - np.tanh(point) ** 2)


def test_gradients_add_up_through_a_diamond() -> None:
    g = Graph()
    x = g.input("x")
    top = g.apply(Exp(), x)
    left, right = g.apply(Sigmoid(), top), g.apply(Multiply(), top, top)
    g.apply(Multiply(), left, right)
    g.forward(x=0.3)
    e = np.exp(0.3)
    s = 1 / (1 + np.exp(-e))
    assert g.backward()["x"] == pytest.approx((s * (1 - s) * e * e + s * 2 * e) * e)


def test_one_node_may_be_both_inputs_of_a_gate() -> None:
    g = Graph()
    x = g.input("x")
    g.apply(Multiply(), x, x)
    g.forward(x=3)
    assert g.backward() == {"x": 6}


def test_a_second_backward_starts_afresh() -> None:
    g = lecture_neuron()
    g.forward(WEIGHTS)
    assert g.backward() == g.backward()
    halves = g.backward(0.5)
    assert halves["x0"] == pytest.approx(g.backward()["x0"] / 2)


def test_parameters_keep_their_value_and_constants_have_no_gradient() -> None:
    g = Graph()
    w, two, x = g.parameter("w", [[1, 2], [3, 4]]), g.constant(2), g.input("x")
    g.apply(Multiply(), g.apply(MatMul(), x, w), two)
    assert g.forward(x=[[1, 1]]).tolist() == [[8, 12]]
    assert g.backward()["w"].tolist() == [[2, 2], [2, 2]]
    assert set(g.parameters) == {"w"}
    assert set(g.inputs) == {"x"}
    assert two.grad is None
    assert w.value.dtype == np.float64


def test_what_the_output_does_not_depend_on_has_no_gradient() -> None:
    g = Graph()
    x, y = g.input("x"), g.input("y")
    aside = g.apply(Exp(), y)
    g.output = g.apply(Exp(), x)
    g.apply(Tanh(), aside)
    g.forward(x=1.0, y=2.0)
    assert g.backward()["y"] is None
    assert aside.grad is None


def test_an_input_may_be_the_output() -> None:
    g = Graph()
    g.input("x")
    assert g.forward(x=[1, 2]).tolist() == [1, 2]
    assert g.backward()["x"].tolist() == [1, 1]


def test_a_gradient_of_the_output_is_spread_over_it() -> None:
    g = Graph()
    g.apply(Exp(), g.input("x"))
    g.forward(x=np.zeros((2, 3)))
    assert g.backward([1, 2, 3])["x"].tolist() == [[1, 2, 3], [1, 2, 3]]


def test_values_that_overflow_pass_without_a_warning() -> None:
    g = Graph()
    x = g.input("x")
    up, down = g.apply(Exp(), x), g.apply(Negate(), g.apply(Exp(), x))
    g.apply(Add(), up, down)
    g.forward(x=np.array([1e4, 1.0]))
    assert np.isnan(g.backward()["x"][0])


def test_float32_stays_float32() -> None:
    g = Graph()
    x, b = g.input("x"), g.input("b")
    y = g.apply(Sigmoid(), g.apply(Add(), x, b))
    g.apply(Mean(), y)
    g.forward(x=np.ones((3, 2), np.float32), b=np.zeros(2, np.float32))
    assert y.value.dtype == np.float32
    assert g.backward()["b"].dtype == np.float32


# ---- what it refuses


def test_an_input_without_a_value() -> None:
    with pytest.raises(KeyError, match="x1"):
        lecture_neuron().forward({k: v for k, v in WEIGHTS.items() if k != "x1"})


def test_an_empty_graph() -> None:
    with pytest.raises(ValueError, match="no nodes"):
        Graph().forward()


def test_names_gates_and_graphs_are_not_mixed_up() -> None:
    g, gate = Graph(), Exp()
    x = g.input("x")
    g.apply(gate, x)
    with pytest.raises(ValueError, match="two nodes named 'x'"):
        g.input("x")
    with pytest.raises(ValueError, match="make a new exp a node"):
        g.apply(gate, x)
    with pytest.raises(ValueError, match="another graph"):
        g.apply(Exp(), Graph().input("y"))
    with pytest.raises(KeyError):
        g.node("y")


# ---- groups


def test_a_group_has_one_exit() -> None:
    g = lecture_neuron()
    g.apply(Add(), g.node("e"), g.node("dot"))
    with pytest.raises(ValueError, match="not dot, e"):
        g.group([g.node("dot"), g.node("minus"), g.node("e")])
    g.output = g.node("f")
    with pytest.raises(ValueError, match="not none"):
        g.group([g.nodes[-1]])


def test_a_group_is_connected_and_made_of_gates() -> None:
    g = lecture_neuron()
    with pytest.raises(ValueError, match="connected"):
        g.group([g.node("w0x0"), g.node("w1x1")])
    with pytest.raises(ValueError, match="inputs and parameters stay outside"):
        g.group([g.node("w0"), g.node("w0x0")])
    with pytest.raises(ValueError, match="made of gates"):
        g.group([])
    with pytest.raises(ValueError, match="two nodes named 'w2'"):
        g.group([g.node("f")], "w2")


def test_a_group_cannot_need_its_own_value() -> None:
    g = Graph()
    a = g.apply(Exp(), g.input("x"), name="a")
    c = g.apply(Tanh(), a, name="c")
    unused = g.apply(Add(), a, c, name="unused")
    g.output = c
    with pytest.raises(ValueError, match="computed from a"):
        g.group([a, unused])


def test_a_group_may_hold_a_group_and_be_named_from_any_iterable() -> None:
    g, plain = lecture_neuron(), lecture_neuron()
    inner = g.group((g.node(name) for name in ("minus", "e")), "inner")
    g.group([inner, g.node("under"), g.node("f")], "outer")
    assert g.forward(WEIGHTS) == plain.forward(WEIGHTS)
    assert g.backward() == plain.backward()


def test_a_group_keeps_what_has_no_gradient() -> None:
    def build() -> Graph:
        g = Graph()
        rows = g.apply(Take(), g.input("x"), g.input("i"), name="rows")
        g.apply(MeanSquared(), rows, g.input("t"), name="loss")
        return g

    values = {"x": np.arange(6.0).reshape(3, 2), "i": [2, 0, 2], "t": np.ones((3, 2))}
    g, plain = build(), build()
    big = g.group([g.node("rows"), g.node("loss")])
    assert g.forward(values) == plain.forward(values)
    found, wanted = g.backward(), plain.backward()
    assert found["i"] is None
    assert wanted["i"] is None
    assert found["x"] == pytest.approx(wanted["x"])
    assert found["t"] == pytest.approx(wanted["t"])
    assert big.gate is not None
    buffers = tuple(np.full_like(values[node.name], np.nan, float) for node in big.inputs)
    big.gate.backward(2.0, out=buffers)
    for node, buffer in zip(big.inputs, buffers, strict=True):
        expected = wanted[node.name]
        assert buffer == pytest.approx(0 if expected is None else 2 * expected)


ONE = (Sigmoid, Tanh, Softplus, Negate, ReLU)
TWO = (Add, Subtract, Multiply, Maximum)
PICK = st.integers(0, 10**6)


@st.composite
def circuits(draw: st.DrawFn) -> list[tuple[type[Gate], list[int]]]:
    """Gates and the numbers of the nodes that they take; nodes 0, 1 and 2 are inputs."""
    made = []
    for place in range(3, 3 + draw(st.integers(1, 12))):
        gate = draw(st.sampled_from((*ONE, *TWO)))
        made.append((gate, [draw(PICK) % place for _ in range(1 if gate in ONE else 2)]))
    return made


def built(plan: list[tuple[type[Gate], list[int]]]) -> Graph:
    g = Graph()
    nodes = [g.input(name) for name in "xyz"]
    for gate, sources in plan:
        nodes.append(g.apply(gate(), *(nodes[i] for i in sources), name=f"n{len(nodes)}"))
    return g


def with_one_exit(g: Graph, start: int, coins: list[bool]) -> list[Node]:
    """Gates around one exit: a gate joins when all that use it have."""
    gates = [node for node in g.nodes if node.gate is not None]
    users = {node: [other for other in g.nodes if node in other.inputs] for node in gates}
    exits = [node for node in gates if users[node] or node is gates[-1]]
    chosen = [exits[start % len(exits)]]
    for node, coin in zip(reversed(gates), coins, strict=False):
        if coin and users[node] and set(users[node]) <= set(chosen):
            chosen.append(node)
    return chosen


@settings(deadline=None)
@given(circuits(), PICK, st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 99))
def test_any_group_keeps_values_and_gradients(
    plan: list[tuple[type[Gate], list[int]]], start: int, coins: list[bool], seed: int
) -> None:
    plain, grouped = built(plan), built(plan)
    members = with_one_exit(grouped, start, coins)
    grouped.group(members, "big")
    rng = np.random.default_rng(seed)
    values = {"x": rng.normal(size=(2, 3)), "y": rng.normal(size=3), "z": rng.normal()}
    assert np.array_equal(grouped.forward(values), plain.forward(values))
    wanted, found = plain.backward(), grouped.backward()
    for name, gradient in wanted.items():
        assert (gradient is None) == (found[name] is None)
        if gradient is not None:
            assert found[name] == pytest.approx(gradient, rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(circuits(), st.integers(0, 99))
def test_any_circuit_against_central_differences(
    plan: list[tuple[type[Gate], list[int]]], seed: int
) -> None:
    assume(all(gate not in (ReLU, Maximum) for gate, _ in plan))
    g, rng, h = built(plan), np.random.default_rng(seed), 1e-5
    start = {name: float(rng.normal()) for name in "xyz"}
    g.forward(start)
    for name, gradient in g.backward().items():
        up, down = (g.forward({**start, name: start[name] + step}) for step in (h, -h))
        scale = max(1.0, abs(up), abs(gradient or 0))
        assume(scale < 1e3)
        assert abs((up - down) / (2 * h) - (gradient or 0)) < 1e-5 * scale


# ---- Jacobians


def test_the_jacobian_of_an_elementwise_gate_is_diagonal() -> None:
    g = Graph()
    g.apply(Exp(), g.input("x"))
    x = np.array([0.1, -0.4, 2.0])
    g.forward(x=x)
    assert g.jacobian("x") == pytest.approx(np.diag(np.exp(x)))


def test_the_jacobian_of_a_product_and_of_a_number() -> None:
    g, rng = Graph(), np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))
    product = g.apply(MatMul(), g.input("x"), g.input("w"))
    g.forward(x=x, w=w)
    wanted = np.einsum("ai,kj->akij", np.eye(2), w.T)
    assert g.jacobian("x") == pytest.approx(wanted)
    g.apply(Sum(), product)
    g.forward(x=x, w=w)
    assert g.jacobian("w").shape == (3, 4)
    assert g.jacobian("w") == pytest.approx(np.tile(x.sum(axis=0)[:, None], 4))


def test_the_jacobian_of_what_is_not_used_is_zero() -> None:
    g = Graph()
    x, y = g.input("x"), g.input("y")
    g.apply(Exp(), y)
    g.output = g.apply(Concatenate(0), x, x)
    g.forward(x=[1.0, 2.0], y=3.0)
    assert g.jacobian("y").tolist() == [0, 0, 0, 0]
    assert g.jacobian("x").tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_backward_wants_a_forward_first() -> None:
    with pytest.raises(RuntimeError, match="multiply before its forward"):
        Multiply().backward(1.0)
    with pytest.raises(RuntimeError, match="before its forward"):
        parse("x*y").backward()
    gate = Multiply()
    gate.forward(2.0, 3.0)
    gate.forget()
    gate.forget()
    with pytest.raises(RuntimeError, match="before its forward"):
        gate.backward(1.0)


@pytest.mark.parametrize("wrong", [{"x": np.ones(3), "y": np.ones(4)}, {"x": 1.0}, {"z": 1.0}])
def test_after_a_forward_that_was_refused_there_is_nothing_to_go_back_from(wrong: dict) -> None:
    circuit, plain = parse("(x+1)*y"), Graph()
    plain.apply(Multiply(), plain.input("x"), plain.input("y"))
    for graph in (circuit, plain):
        graph.forward(x=1.0, y=2.0)
        with pytest.raises((UsageError, KeyError, ValueError)):
            graph.forward(wrong)
        for back in (graph.backward, lambda: graph.jacobian("x")):  # noqa: B023
            with pytest.raises(RuntimeError, match="before its forward"):
                back()


@pytest.mark.parametrize("wrong", [None, 2j, "a"])
def test_a_gradient_is_made_of_numbers(wrong: object) -> None:
    circuit, gate = parse("x*y"), Multiply()
    circuit.forward(x=1.0, y=2.0)
    gate.forward(1.0, 2.0)
    for either in (circuit, gate):
        with pytest.raises(TypeError, match="a gate takes numbers, not "):
            either.backward(wrong)


# ---- Whose arrays and gates they are


def test_the_users_arrays_are_left_alone() -> None:
    w = np.array([1.0, 2.0])
    g = Graph()
    g.apply(Multiply(), g.constant(w), g.parameter("p", w))
    w[:] = 50
    assert g.forward().tolist() == [1, 4]
    x = np.array([1.0, 2.0])
    out = parse("x").forward(x=x)
    out += 1
    assert x.tolist() == [1, 2]


def test_a_gate_is_in_one_graph_alone() -> None:
    first, second, gate = Graph(), Graph(), Multiply()
    x = second.input("x")
    with pytest.raises(ValueError, match="of another graph"):
        first.apply(gate, x, x)
    second.apply(gate, x, x)
    y = first.input("y")
    with pytest.raises(ValueError, match="make a new multiply a node"):
        first.apply(gate, y, y)
    big = second.group(second.nodes[1:]).gate
    assert big is not None
    with pytest.raises(ValueError, match="make a new group a node"):
        first.apply(big, y)


def test_a_copy_of_a_graph_shares_nothing_with_it() -> None:
    circuit = parse("+".join(f"x*{i}" for i in range(1, 300)))
    twin = copy.copy(circuit)
    assert type(twin) is type(circuit)
    circuit.forward(x=np.float64(2))
    twin.forward(x=np.ones(3))
    assert circuit.backward()["x"] == twin.backward()["x"][0] == 299 * 150
    with pytest.raises(UsageError, match="column 5"):
        copy.copy(parse("x + y")).forward(x=1)


def test_a_graph_takes_gates_and_nodes() -> None:
    g = Graph()
    for gate, node in ((Exp, g.input("x")), (Exp(), 3.0)):
        with pytest.raises(TypeError, match=r"a graph takes a gate, as Exp\(\), and nodes"):
            g.apply(gate, node)


@pytest.mark.parametrize("dtype", [">f8", ">f4", "f2", "g", ">i4"])
def test_numbers_of_every_kind_run_through_kernels(dtype: str) -> None:
    x = np.array([-1, 0, 2], dtype)
    assert parse("sum(relu(x))").forward(x=x) == 2
    assert parse("tanh(x)").forward(x=x) == pytest.approx(np.tanh([-1, 0, 2]), rel=1e-6)
    assert parse("x * 1").forward(x=x).dtype.isnative


def test_a_group_has_the_values_of_its_gates() -> None:
    graph = parse("sigmoid(w*x) + x")
    graph.forward(w=2.0, x=0.5)
    apart = graph.backward()
    graph.group([node for node in graph.nodes if node.op in ("multiply", "sigmoid")])
    assert graph.backward() == apart


class Squared(Gate):
    """A gate that gives its value back, where it should write it."""

    def _forward(self, xp: Any, out: Any, x: Any) -> Any:
        return x * x


class Doubled(Gate):
    """A gate that gives back the buffers that it has written."""

    def _forward(self, xp: Any, out: Any, x: Any) -> Any:
        return xp.multiply(x, 2, out=out)

    def _backward(self, xp: Any, grad: Any, dx: Any) -> Any:
        return (xp.multiply(grad, 2, out=dx),)


def test_a_gate_that_does_not_write_its_value_is_told() -> None:
    with pytest.raises(TypeError, match="squared returns a value where it must write"):
        Squared().forward(3.0)
    doubled = Doubled()
    assert doubled.forward(3.0) == 6
    assert doubled.backward(1.0) == (2,)


def test_a_gradient_has_the_shape_of_its_output() -> None:
    graph = Graph()
    graph.apply(Exp(), graph.input("x"))
    graph.forward(x=np.zeros((4, 3)))
    for part in (graph, graph.last.gate):
        assert part is not None
        with pytest.raises(ValueError, match=r"a gradient of \(2,\) for an output of \(4, 3\)"):
            part.backward([1.0, 2.0])
