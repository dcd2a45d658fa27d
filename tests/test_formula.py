"""The formula language: circuits from text, faults by their column, values, the trace."""

import ast
import json
import re
import string
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpunet import formula
from gpunet.errors import DataError, InputMissing, UsageError
from gpunet.formula import elementwise, inputs, parse, to_json, trace, value
from gpunet.gates import Elementwise, MatMul, Multiply, sum_to_shape
from gpunet.gradcheck import check_graph
from gpunet.graph import Graph
from gpunet.model import activation, loss

NEURON = "1/(1+exp(-(w0*x0+w1*x1+w2)))"
X, W, ROW = np.array([[0.5, -1.0], [2.0, 0.3]]), np.array([[1.0, 2.0], [-0.5, 1.0]]), [1.5, 0.5]
GIVEN = {"x": X, "w": W, "b": ROW, "p": np.abs(X), "i": [1, 0, 1]}


def computed(text: str, *assignments: str, seed: int = 0) -> Graph:
    graph = parse(text)
    graph.forward(inputs(graph, assignments, seed))
    graph.backward()
    return graph


# ---- what formulas mean


def test_the_first_circuit_of_the_lecture() -> None:
    graph = computed("(x+y)*z", "x=-2", "y=5", "z=-4")
    assert [node.name for node in graph.nodes] == ["x", "y", "z", "q1", "f"]
    assert graph.node("f").value == -12
    assert [graph.node(name).grad for name in "xyz"] == [-4, -4, 3]


def test_the_neuron_of_the_lecture() -> None:
    graph = computed(NEURON, "w0=2", "w1=-3", "w2=-3", "x0=-1", "x1=-2")
    assert round(float(graph.node("f").value), 2) == 0.73
    found = {name: round(float(node.grad), 2) for name, node in graph.inputs.items()}
    assert found == {"w0": -0.2, "x0": 0.39, "w1": -0.39, "x1": -0.59, "w2": 0.2}
    assert list(graph.inputs) == ["w0", "x0", "w1", "x1", "w2"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x - w", X - W),
        ("-x", -X),
        ("x * -2", X * -2),
        ("2 ** -1 * x", X / 2),
        ("-x ** 2", -(X**2)),
        ("2 ** 3 ** 2", 512.0),
        ("x - w - b", X - W - ROW),
        ("x / w / 2", X / W / 2),
        ("x @ w", X @ W),
        ("x @ w.T @ b", X @ W.T @ ROW),
        ("pi * e + 1e-3", np.pi * np.e + 1e-3),
        ("exp(x) + log(p) + sqrt(p) + abs(x)", np.exp(X) + np.log(abs(X)) + abs(X) ** 0.5 + abs(X)),
        ("maximum(x, w) - minimum(x, 0)", np.maximum(X, W) - np.minimum(X, 0)),
        ("sin(x) * cos(w)", np.sin(X) * np.cos(W)),
        ("sigmoid(x) + tanh(x) + relu(x)", 1 / (1 + np.exp(-X)) + np.tanh(X) + np.maximum(X, 0)),
        ("softplus(x)", np.log(1 + np.exp(X))),
        ("silu(x)", X / (1 + np.exp(-X))),
        ("mish(x)", X * np.tanh(np.log(1 + np.exp(X)))),
        ("gelu(x) + selu(x) - gelu(x) - selu(x)", 0 * X),
        ("matmul(x, w)", X @ W),
        ("sum(x)", X.sum()),
        ("sum(x, 0)", X.sum(0)),
        ("mean(x, axis=-1, keepdims=True)", X.mean(1, keepdims=True)),
        ("max(x, axis=(0, 1))", X.max()),
        ("reshape(x, 4)", X.reshape(4)),
        ("reshape(x, 1, -1, 2)", X.reshape(1, 2, 2)),
        ("transpose(x)", X.T),
        ("transpose(reshape(x, 1, 2, 2), 2, 0, 1)", X.reshape(1, 2, 2).transpose(2, 0, 1)),
        ("broadcast(b, 3, 2)", np.tile(ROW, (3, 1))),
        ("take(x, i)", X[[1, 0, 1]]),
        ("concatenate(x, w)", np.hstack([X, W])),
        ("concatenate(x, w, x, axis=0)", np.vstack([X, W, X])),
        ("layernorm(x, b, b) * 0 + 1", np.ones((2, 2))),
        ("mean_squared(x, w)", ((X - W) ** 2).mean()),
        ("sum_squares(x, w)", ((X - W) ** 2).sum()),
        ("mean_absolute(x, w)", abs(X - W).mean()),
        ("huber(x, w, 100)", ((X - W) ** 2).mean() / 2),
        ("huber(x, w, parameter=100)", ((X - W) ** 2).mean() / 2),
        ("pinball(x, w)", abs(X - W).mean() / 2),
        ("poisson(x, w)", (np.exp(X) - X * W).mean()),
        ("sigmoid_cross_entropy(x, 1/(1+exp(-b)) + x*0) * 0", 0.0),
        ("softmax_cross_entropy(reshape(b, 1, 2), reshape(1.0, 1))", np.log(1 + np.e)),
        ("  x\n + \t w ", X + W),
        ("1_0 + 0x10", 26.0),
        ("7", 7.0),
        ("θ * 2 - θ", 1.0),
    ],
)
def test_meaning(text: str, wanted: np.ndarray) -> None:
    graph = parse(text)
    known = {**GIVEN, "θ": 1.0}
    found = graph.forward({name: known[name] for name in graph.inputs})
    assert found == pytest.approx(np.asarray(wanted), rel=1e-12, abs=1e-14)
    graph.backward()


def test_every_function_is_tried_above() -> None:
    tried = " ".join(
        mark.args[1][i][0] for mark in test_meaning.pytestmark for i in range(len(mark.args[1]))
    )
    assert [name for name in formula.FUNCTIONS if f"{name}(" not in tried] == []


def test_a_part_written_twice_is_two_nodes_and_a_name_used_twice_a_branch() -> None:
    graph = computed("exp(x) * exp(x)", "x=0.5")
    assert [node.op for node in graph.nodes] == ["input", "exp", "exp", "multiply"]
    assert graph.node("x").grad == pytest.approx(2 * np.e)


def test_names_of_what_is_between_keep_clear_of_the_inputs() -> None:
    graph = parse("f + q1 * q2 * (2 + 2) * -2 * pi")
    names = [node.name for node in graph.nodes]
    assert names == ["f", "q1", "q2", "q3", "2", "q4", "q5", "-2", "q6", "pi", "q7", "q8"]


# ---- faults


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("foo(x)", 1, "no function 'foo'"),
        ("1 + sigmod(x)", 5, "no function 'sigmod' (did you mean 'sigmoid'?)"),
        ("x^2", 2, "'^' cannot stand here; a power is written **"),
        ("x // 2", 3, "'//' cannot stand here"),
        ("x % 2", 3, "'%' cannot stand here"),
        ("(x) < y", 5, "'<' cannot stand here"),
        ("x if y else z", 3, "'if' cannot stand here"),
        ("x and y", 3, "'and' cannot stand here"),
        ("not x", 1, "'not' cannot stand here"),
        ("1 + +x", 5, "'+' cannot stand here"),
        ("x.shape", 2, "'.shape' cannot stand here"),
        ("x + x.T.real", 8, "'.real' cannot stand here"),
        ("x[0]", 2, "'[' cannot stand here"),
        ("2 * lambda: x", 5, "invalid syntax"),
        ("lambda: x", 1, "'lambda' cannot stand here"),
        ("exp(x)(y)", 7, "'(' cannot stand here"),
        ("x.exp(y)", 6, "'(' cannot stand here"),
        ("[x, y]", 1, "'[' cannot stand here"),
        ("exp((x, y))", 5, "'(' cannot stand here"),
        ("exp(*x)", 5, "'*' cannot stand here"),
        ("(y := x)", 2, "'y' cannot stand here"),
        ("x + 'a'", 5, '"\'" has no meaning here'),
        ('"\\d"', 1, "'\"' has no meaning here"),
        ("1or x", 2, "'or' cannot stand here"),
        ("x + .5if x else 0x1for", 7, "'if' cannot stand here"),
        ("x * 2j", 5, "2j is not a number"),
        ("x * True", 5, "True is not a number"),
        ("f'{x}'", 2, '"\'" has no meaning here'),
        ("log()", 1, "log(x) does not take 0 values"),
        ("é*log(x, y)", 3, "log(x) does not take 2 values"),
        ("concatenate()", 1, "concatenate(inputs, …, axis) does not take 0 values"),
        ("huber(x, y, 1, 2)", 1, "huber(pred, target, parameter) does not take 4 values"),
        ("sum(x, foo=1)", 8, "sum(x, axis, keepdims) does not take foo"),
        ("sum(x, **y)", 8, "sum(x, axis, keepdims) does not take **"),
        ("sum(x, 0, axis=1)", 11, "does not take axis"),
        ("sum(x, axis=0, axis=1)", 16, "does not take axis"),
        ("reshape(x, shape=2)", 12, "does not take shape"),
        ("sum(x, axis=1.5)", 13, "axis wants whole numbers"),
        ("sum(x, axis=y)", 13, "axis wants a whole number, or several as (0, 1)"),
        ("sum(x, axis=[0])", 13, "axis wants a whole number, or several as (0, 1)"),
        ("max(x, axis=None)", 13, "axis wants a whole number, or several as (0, 1)"),
        ("reshape(x, (2, 1))", 12, "shape wants a whole number, others behind a comma"),
        ("sum(x, keepdims=1)", 17, "keepdims wants True or False"),
        ("huber(x, y, z)", 13, "a plain number is wanted here"),
        ("reshape(x, 2 + 1)", 14, "shape wants a whole number"),
        ("reshape(x, 10 ** 9)", 15, "shape wants a whole number"),
        ("reshape(x, 1000000000)", 12, "shape wants whole numbers"),
        ("exp + 1", 1, "exp is a function: write exp(…)"),
        ("x + 1e999", 5, "the number is beyond float64"),
        ("x + " + "9" * 400, 5, "the number is beyond float64"),
        ("x # y", 3, "'#' has no meaning here"),
        ("x\0", 2, r"'\x00' has no meaning here"),
        ("x + \ud800", 5, r"'\ud800' has no meaning here"),
        ("(x + y", 1, "'(' was never closed"),
        ("x + y)", 6, "unmatched ')'"),
        ("x +", 4, "it ends too early"),
        ("  x y", 5, "invalid syntax"),
        ("x = 3", 3, "invalid syntax"),
        ("αβγ + $", 7, "invalid syntax"),
    ],
)
def test_a_fault_points_at_its_column(text: str, column: int, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"formula, column {column}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize("wrong", [None, 3, b"x + y", ["x"]])
def test_a_formula_is_text(wrong: object) -> None:
    with pytest.raises(TypeError, match=f"a formula is text, not {type(wrong).__name__}"):
        parse(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_nothing_is_no_formula(text: str) -> None:
    with pytest.raises(UsageError, match="nothing is written"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "+".join("x" * 4000),
        "-" * 9999 + "x",
        "x**" * 3000 + "x",
        "~" * 5000 + "x",
        "x" + ".T" * 4000,
        "(" * 150 + "x" + ")" * 150 + "+x" * 4000,
        "exp(" * 150 + "x" + ")" * 150 + "*x" * 400,
    ],
)
def test_what_is_too_deep_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="levels deep"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["(" * 300 + "x" + ")" * 300, "[" * 190 + "]" * 190, "9" * 5000, "lambda:" * 1400 + "x"]
)
def test_other_depths_are_refused_too(text: str) -> None:
    with pytest.raises(UsageError, match="formula, column"):
        parse(text)


def test_long_formulas() -> None:
    assert len(parse("+".join(["x"] * 300)).nodes) == 300
    wide = "*".join(["(x+x+x+x+x+x+x+x+x+x+x+x)"] * 350)
    assert len(parse(wide).nodes) == 1 + 350 * 12 - 1
    with pytest.raises(UsageError, match="10,001 characters, more than 10,000"):
        parse("x" * 10_001)


PIECES = (
    "x",
    "y",
    "exp",
    "sum",
    "axis=",
    "(",
    ")",
    "[",
    "]",
    ",",
    "+",
    "-",
    "*",
    "**",
    "/",
    "@",
    ".T",
)
PIECES += (
    "1",
    "2.5",
    "1e9",
    "9" * 30,
    "'",
    '"',
    "\\",
    "\n",
    " ",
    "if",
    "else",
    "lambda",
    ":",
    "=",
    "é",
)
PIECES += (
    "f'",
    "{",
    "}",
    "for",
    "in",
    "await",
    "yield",
    "not",
    "True",
    "0x",
    "_",
    "...",
    "keepdims=",
    "#",
)


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(string.printable, max_size=40),
        st.lists(st.sampled_from(PIECES), max_size=15).map("".join),
    )
)
@example("1if x else 2")
@example("'\\d'")
@example("f(a=1, a=2)")
@example("0777")
@example("x\\")
def test_any_text_is_a_graph_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        graph = parse(text)
        assert graph.output in graph.nodes
        graph.forward(dict.fromkeys(graph.inputs, 2.0))
        graph.backward()
        json.dumps(to_json(graph), allow_nan=False)


# ---- shapes and missing inputs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2 * (x @ w)", "formula, column 8: matmul does not fit (2, 3) and (2, 3)"),
        ("exp(x) + b", "formula, column 8: add does not fit (2, 3) and (2,)"),
        ("1 + sum(x, axis=2)", "formula, column 5: sum does not fit (2, 3)"),
        ("broadcast(n, 100000, 10000)", "formula, column 1: 1,000,000,000 values"),
        ("x + y", "formula, column 5: y has no value; add y=VALUE"),
        ("2 + 2", "formula: it has no input 'x'; its inputs: none"),
    ],
)
def test_shapes_must_fit(text: str, message: str) -> None:
    known = {"x": (2, 3), "w": (2, 3), "b": (2,), "n": ()}
    names = set(re.findall(r"\b[xwbn]\b", text)) or {"x"}
    shapes = {name: known[name] for name in names}
    with pytest.raises(UsageError) as caught:
        parse(text).check(shapes)
    assert str(caught.value).startswith(message)
    graph = parse(text)
    with pytest.raises(UsageError) as caught:
        graph.forward({name: np.zeros(shape) for name, shape in shapes.items()})
    assert str(caught.value).startswith(message)


def test_shapes_may_fit() -> None:
    parse("x @ w").check({"x": (5, 2), "w": (2, 3)})


def test_inputs_may_have_any_name() -> None:
    assert parse("values * self").forward(values=3.0, self=2.0) == 6
    graph = Graph()
    graph.apply(Multiply(), graph.input("values"), graph.input("self"))
    assert graph.forward(values=3.0, self=2.0) == 6


@pytest.mark.parametrize("wrong", [None, "abc", [[1], [1, 2]], 2j])
def test_inputs_are_numbers(wrong: object) -> None:
    with pytest.raises(UsageError, match=r"^formula: "):
        parse("x").forward(x=wrong)


def test_names_are_those_that_python_reads() -> None:
    micro, mu = "\u00b5", "\u03bc"
    graph = parse(f"{micro} * 2")
    assert inputs(graph, [f"{micro}=3"], 0) == {mu: 3}
    assert graph.forward({micro: 3.0}) == graph.forward({mu: 3.0}) == 6
    assert check_graph(graph, {micro: 3.0})[0].name == mu
    with pytest.raises(UsageError, match="is given twice"):
        inputs(graph, [f"{micro}=3", f"{mu}=3"], 0)


def test_names_with_the_words_of_python_in_them() -> None:
    assert list(parse("order + x1or2 + island_1").inputs) == ["order", "x1or2", "island_1"]


def test_the_programs_warnings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, known, plain = [], list(warnings.filters), ast.parse

    def parsed(*arguments: Any, **options: Any) -> Any:
        seen.append(list(warnings.filters))
        return plain(*arguments, **options)

    monkeypatch.setattr(ast, "parse", parsed)
    parse("x + 1")
    assert seen == [known]


def test_rows_that_are_not_there_are_the_users_fault() -> None:
    graph = parse("take(x, i)")
    with pytest.raises(UsageError, match="formula: rows 0 to 2 of a table of 2"):
        graph.forward(x=X, i=[0, 2])
    with pytest.raises(UsageError, match="formula: an index is made of whole numbers"):
        graph.forward(x=X, i=[0.5])


def test_groups_of_a_formula() -> None:
    graph = parse(NEURON)
    graph.group([graph.node(name) for name in ("q6", "q7", "f")], "tail")
    given = {"w0": 2, "x0": -1, "w1": -3, "x1": -2, "w2": -3}
    assert round(float(graph.forward(given)), 2) == 0.73
    with pytest.raises(UsageError, match="column 21: x1 has no value"):
        graph.forward({k: v for k, v in given.items() if k != "x1"})


def test_a_formula_may_go_on_with_parameters() -> None:
    graph = parse("x * 2")
    weight = graph.parameter("w", np.ones((3, 2)))
    graph.output = graph.apply(MatMul(), graph.node("f"), weight)
    assert graph.forward(x=np.ones((4, 3))).tolist() == [[6, 6]] * 4
    with pytest.raises(UsageError, match=r"matmul does not fit \(4, 2\) and \(3, 2\)"):
        graph.forward(x=np.ones((4, 2)))


# ---- elementwise formulas


def test_an_activation() -> None:
    graph, reduction = elementwise("x*sigmoid(1.702*x)", ("x",))
    assert reduction is None
    assert list(graph.inputs) == ["x"]
    assert all(isinstance(node.gate, Elementwise) for node in graph.nodes if node.gate)
    x = np.linspace(-3, 3, 7)
    assert graph.forward(x=x) == pytest.approx(x / (1 + np.exp(-1.702 * x)))


def test_constants_are_folded() -> None:
    graph, _ = elementwise("x * (2 * pi) / sqrt(-(-4))", ("x",))
    assert [node.op for node in graph.nodes if node.gate] == ["multiply", "divide"]
    assert graph.forward(x=1.0) == pytest.approx(np.pi)


@pytest.mark.parametrize(
    ("text", "inner", "reduction"),
    [
        ("(pred-target)**2", "subtract power", "mean"),
        ("mean(abs(pred-target))", "subtract abs", "mean"),
        ("sum((pred-target)**2)", "subtract power", "sum"),
        ("target - pred", "subtract", "mean"),
    ],
)
def test_a_loss(text: str, inner: str, reduction: str) -> None:
    graph, found = elementwise(text, ("pred", "target"))
    assert found == reduction
    assert " ".join(node.op for node in graph.nodes if node.gate) == inner
    assert list(graph.inputs) == ["pred", "target"]


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("sum(x)", ("x",), "formula, column 1: sum is not elementwise"),
        ("2 + x @ x", ("x",), "formula, column 7: matmul is not elementwise"),
        ("x.T", ("x",), "formula, column 2: transpose is not elementwise"),
        ("x * y", ("x",), "formula, column 5: no input 'y'; it is a formula of x"),
        ("2 * pi", ("x",), "formula, column 3: x does not appear"),
        ("x / 0 + 1 / 0", ("x",), "formula, column 11: divide gives inf here"),
        ("target", ("pred", "target"), "formula, column 1: pred does not appear"),
        ("mean(exp(pred))", ("pred", "target"), "formula, column 6: target does not appear"),
        ("2 * mean(pred)", ("pred", "target"), "formula, column 5: mean is not elementwise"),
        ("mean(pred, axis=0)", ("pred", "target"), "formula, column 1: mean is not elementwise"),
        ("sum(mean(pred))", ("pred", "target"), "formula, column 5: mean is not elementwise"),
        ("pred - tgt", ("pred", "target"), "formula, column 8: no input 'tgt'"),
        ("huber(pred, target)", ("pred", "target"), "formula, column 1: huber is not elementwise"),
    ],
)
def test_not_an_activation_nor_a_loss(text: str, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        elementwise(text, names)
    assert str(caught.value).startswith(message)


def test_a_fault_names_the_setting_that_the_formula_is_of() -> None:
    with pytest.raises(UsageError, match=r"^--activation, column 3: no function 'foo'"):
        activation("x*foo(x)")
    with pytest.raises(UsageError, match=r"^--loss, column 1: pred does not appear"):
        loss("target", "regression")


# ---- values


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3", 3),
        ("-2.5", -2.5),
        ("[1, 2, -3]", [1, 2, -3]),
        ("[[1, 2], [3, 4.5]]", [[1, 2], [3, 4.5]]),
        ("(1, pi)", [1, np.pi]),
        ("-inf", -np.inf),
        ("[]", []),
        ("zeros(2, 3)", np.zeros((2, 3))),
        ("ones()", 1),
        ("arange(4)", [0, 1, 2, 3]),
        ("1e400", np.inf),
    ],
)
def test_values(text: str, wanted: object) -> None:
    found = value(text, np.random.default_rng(0))
    assert np.array_equal(found, np.array(wanted))
    assert found.dtype == (np.int64 if "." not in text and found.dtype.kind == "i" else np.float64)


def test_whole_numbers_stay_whole_unless_they_are_too_large() -> None:
    rng = np.random.default_rng(0)
    assert value("[1, 2]", rng).dtype == np.int64
    assert value("arange(3)", rng).dtype == np.int64
    assert value("[1, 2.0]", rng).dtype == np.float64
    assert value(f"[1, {2**70}]", rng).tolist() == [1.0, 2.0**70]
    assert value(f"-{2**63}", rng) == -(2.0**63)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x: nothing is written"),
        ("[1, [2]]", "x, column 1: the lists are not of one length"),
        ("[1, a]", "x, column 5: not a number; use numbers, lists, @file.npy, randn(…)"),
        ("y", "x, column 1: not a number"),
        ("1 + 2", "x, column 3: not a number"),
        ("exp(2)", "x, column 1: not a number"),
        ("[randn(2)]", "x, column 2: not a number"),
        ("randn(2.5)", "x, column 1: randn wants sizes"),
        ("randn(-1)", "x, column 1: randn wants sizes"),
        ("arange(1, 2)", "x, column 1: arange wants one size"),
        ("randn(100000, 100000)", "x, column 1: at most 100,000,000 values"),
        ("zeros(0, 1000000000000)", "x, column 1: at most 100,000,000 values"),
        ("ones(" + "1," * 40 + ")", "x, column 1: at most 100,000,000 values in 16 axes"),
        ("randn(2, dtype=3)", "x, column 1: not a number"),
        ("[" * 17 + "]" * 17, "x, column 17: at most 16 axes"),
        ("[1, 2", "x, column 1: '[' was never closed"),
        ("True", "x, column 1: not a number"),
    ],
)
def test_values_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        value(text, np.random.default_rng(0), "x")
    assert str(caught.value).startswith(message)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=10).map("".join)))
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    if text.startswith("@"):
        return
    with suppress(UsageError):
        assert value(text, np.random.default_rng(0)).dtype in (np.int64, np.float64)


def test_arrays_from_files(tmp_path: Path) -> None:
    path, rng = tmp_path / "w.npy", np.random.default_rng(0)
    np.save(path, W.astype(np.float32))
    found = value(f"@{path}", rng)
    assert found.dtype == np.float64
    assert np.array_equal(found, W)
    np.save(path, np.array([1, 2], np.int32))
    assert value(f"@{path}", rng).tolist() == [1, 2]


def test_files_that_are_not_sound(tmp_path: Path) -> None:
    path, rng = tmp_path / "w.npy", np.random.default_rng(0)
    with pytest.raises(InputMissing):
        value(f"@{path}", rng)
    with pytest.raises(DataError):
        value(f"@{tmp_path}", rng)
    path.write_bytes(b"\x93NUMPY junk")
    with pytest.raises(DataError):
        value(f"@{path}", rng)
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError):
        value(f"@{path}", rng)
    np.save(path, W)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError):
        value(f"@{path}", rng)


def test_inputs_draw_from_streams_of_their_own() -> None:
    graph = parse("x + y")
    one = inputs(graph, ["x=randn(3)", "y=randn(3)"], seed=1)
    other_order = inputs(graph, ["y=randn(3)", " x = randn(3) "], seed=1)
    other_seed = inputs(graph, ["x=randn(3)", "y=rand(3)"], seed=2)
    assert not np.array_equal(one["x"], one["y"])
    assert np.array_equal(one["x"], other_order["x"])
    assert np.array_equal(one["y"], other_order["y"])
    assert not np.array_equal(one["x"], other_seed["x"])
    assert ((other_seed["y"] >= 0) & (other_seed["y"] < 1)).all()


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["x"], "'x' is not NAME=VALUE"),
        (["=3"], "'=3' is not NAME=VALUE"),
        (["2x=3"], "'2x=3' is not NAME=VALUE"),
        (["x=1", "x=2"], "x is given twice"),
        (["z=1"], "formula: it has no input 'z'; its inputs: x, y"),
        (["x==1"], "x, column 1: invalid syntax"),
    ],
)
def test_assignments_that_are_none(assignments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        inputs(parse("x + y"), assignments, 0)
    assert str(caught.value).startswith(message)


# ---- the trace


def test_a_gradient_is_explained_in_names_and_numbers() -> None:
    views = {view.name: view for view in trace(computed("(x+y)*z", "x=-2", "y=5", "z=-4"))}
    assert views["q1"].text == "x + y"
    assert views["q1"].explain == ("dx = 1 * dq1 = 1 * -4 = -4", "dy = 1 * dq1 = 1 * -4 = -4")
    assert views["f"].explain == ("dq1 = z * df = -4 * 1 = -4", "dz = q1 * df = 3 * 1 = 3")
    assert views["x"].explain == ()
    assert (views["f"].op, views["f"].inputs) == ("multiply", ("q1", "z"))
    assert (views["f"].value_text, views["f"].grad_text) == ("-12", "1")


def test_explanations_of_branches_constants_and_arrays() -> None:
    graph = computed(
        "sum(relu(x @ w + b) ** 2) / x0 + x0", "x=randn(2,3)", "w=randn(3,4)", "b=1", "x0=2"
    )
    lines = [line for view in trace(graph) for line in view.explain]
    assert "dx = dq1 @ w.T, (2, 3)" in lines
    assert "dw = x.T @ dq1, (3, 4)" in lines
    assert any(line.startswith("db = 1 * dq2, summed = ") for line in lines)
    assert "dq2 = sign(q3) * dq3, (2, 4)" in lines
    assert "dq3 = 2 * q3 ** (2 - 1) * dq4, (2, 4)" in lines
    assert not any(line.startswith("d2 ") for line in lines)
    assert sum(line.startswith("dx0 += ") for line in lines) == 2
    summed = trace(computed("x + b", "x=randn(2,3)", "b=[1,2,3]"))[-1].explain
    assert summed == ("dx = 1 * df, (2, 3)", "db = 1 * df, summed to (3,)")


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3, 4)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (4, 3, 1)),
    ],
)
def test_a_product_of_matrices_is_explained_as_numpy_computes_it(
    x: tuple[int, ...], w: tuple[int, ...]
) -> None:
    rng, graph = np.random.default_rng(0), parse("x @ w")
    known: dict[str, Any] = {"x": rng.normal(size=x), "w": rng.normal(size=w)}
    known["df"] = rng.normal(size=np.shape(graph.forward(known)))
    gradients = graph.backward(known["df"])
    for line in trace(graph)[-1].explain:
        name, words, summed = re.fullmatch(r"d(\w) = (.+), (summed to )?\(.*\)", line).groups()
        whole, found = eval(words, {}, known), np.empty_like(gradients[name])
        assert bool(summed) == (whole.shape != found.shape)
        if name == "x" and len(x) == 1 < len(w):
            whole = whole.sum(-1)
        sum_to_shape(np, whole, found)
        assert found == pytest.approx(gradients[name])


def test_an_explanation_says_what_is_summed_shared_and_smoothed() -> None:
    assert trace(computed("x * s", "x=[1, 2, 3]", "s=2"))[-1].explain[1] == (
        "ds = x * df, summed = 6"
    )
    assert "shared at a tie" in trace(computed("max(x)", "x=[1, 1]"))[-1].explain[0]
    lines = trace(computed("sigmoid_cross_entropy(x, y, 0.1)", "x=3", "y=1"))[-1].explain
    assert lines == (
        "dx = (sigmoid(x) - smoothed y) / count * df = 0.002574",
        "dy = (smoothing - 1) * x / count * df = -2.7",
    )
    lines = trace(computed("sigmoid_cross_entropy(x, y)", "x=3", "y=1"))[-1].explain
    assert lines[0] == "dx = (sigmoid(x) - y) / count * df = -0.04743"


def test_every_function_is_explained() -> None:
    shapes = {"layernorm": ["x=randn(2,3)", "y=ones(3)", "z=ones(3)"], "matmul": ["x=randn(2,2)"]}
    shapes |= {
        "take": ["x=randn(2,3)", "y=[0,1]"],
        "softmax_cross_entropy": ["x=randn(2,3)", "y=[0,1]"],
    }
    for name, gate in formula.FUNCTIONS.items():
        names = "xyz"[: len(formula._takes(gate).inputs)]
        sizes = {"reshape": ", 3, 2", "broadcast": ", 4, 2, 3"}.get(name, "")
        given = shapes.get(name, [])
        given = given + [f"{n}=rand(2,{2 if name == 'matmul' else 3})" for n in names[len(given) :]]
        view = trace(computed(f"{name}({', '.join(names)}{sizes})", *given))[-1]
        reached = 1 if name in ("take", "softmax_cross_entropy") else len(names)
        assert len(view.explain) == reached
        assert not any("the gradient of" in line for line in view.explain), name
        assert all("df" in line for line in view.explain)


def test_large_arrays_are_shown_by_their_corners() -> None:
    view = trace(computed("x * 1", "x=arange(1000)"))[-1]
    assert view.value_text == "[ 0. 1. ... 998. 999.] (1000,)"
    assert len(view.value) == 1000
    assert trace(computed("x", "x=[[1,2],[3,4]]"))[0].value_text == "[[1 2] [3 4]]"


def test_json() -> None:
    found = to_json(computed("(x+y)*z", "x=-2", "y=5", "z=-4"))
    assert found["schema"] == "gpunet.graph/1"
    assert found["output"] == -12
    assert found["nodes"][3] == {
        "name": "q1",
        "op": "add",
        "inputs": ["x", "y"],
        "value": 3.0,
        "grad": -4.0,
    }
    assert found["nodes"][0] == {
        "name": "x",
        "op": "input",
        "inputs": [],
        "value": -2,
        "grad": -4.0,
    }
    assert found["nodes"][4]["grad"] == 1
    assert json.loads(json.dumps(found)) == found


def test_json_of_what_is_not_finite_and_of_what_has_no_gradient() -> None:
    graph = computed("take(log(x), i) * 2", "x=[0, 1]", "i=[0]")
    found = to_json(graph)
    assert found["output"] == ["-inf"]
    assert float(found["output"][0]) == -np.inf
    by_name = {node["name"]: node for node in found["nodes"]}
    assert by_name["x"]["grad"] == ["inf", 0]
    assert by_name["i"]["grad"] is None
    assert by_name["2"]["grad"] is None
    json.dumps(found, allow_nan=False)


def test_text_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("eval", "exec"):
        monkeypatch.setattr("builtins." + name, lambda *_: pytest.fail("ran the user's text"))
    for text in ("__import__('os')", "x.__class__", "open('f')", "().__class__", "(lambda: x)()"):
        with pytest.raises(UsageError):
            parse(text)
    computed("exp(x)", "x=[1, 2]")
