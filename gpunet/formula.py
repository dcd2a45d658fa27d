"""Text to circuit and back: "(x+y)*z" becomes a Graph, an input's text an array, a Graph its trace.

Text is read with `ast` against closed lists of operators and names; nothing that a user writes is
ever run as Python.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import Parameter, signature
from itertools import count
from math import e, inf, isfinite, nan, pi, prod
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np

from gpunet import gates
from gpunet.data.files import load
from gpunet.data.limits import automatic
from gpunet.data.npy import read_npy
from gpunet.errors import UsageError
from gpunet.gates import Elementwise
from gpunet.graph import Gate, Graph, Node, Shape
from gpunet.random import Purpose, stream
from gpunet.view import finite

LONGEST = 10_000
DEEPEST = 400
LARGEST = 10**8
MEANINGLESS = "#\\\"'"
GLUED = re.compile(r"(?<![\w.])\.?\d[\w.]*?(and|else|for|if|in|is|not|or)")
"""A word of Python behind a number. Python warns of it, and of what may stand in quotes: it must
not come to that, since warnings can only be silenced for all threads at once."""

OPERATORS: dict[type[ast.AST], type[Gate]] = {
    ast.Add: gates.Add,
    ast.Sub: gates.Subtract,
    ast.Mult: gates.Multiply,
    ast.Div: gates.Divide,
    ast.Pow: gates.Power,
    ast.MatMult: gates.MatMul,
    ast.USub: gates.Negate,
}
CONSTANTS = {"pi": pi, "e": e}
FUNCTIONS: dict[str, type[Gate]] = {
    "exp": gates.Exp,
    "log": gates.Log,
    "sqrt": gates.Sqrt,
    "abs": gates.Abs,
    "maximum": gates.Maximum,
    "minimum": gates.Minimum,
    "sin": gates.Sin,
    "cos": gates.Cos,
    **gates.ACTIVATIONS,
    "softplus": gates.Softplus,
    "matmul": gates.MatMul,
    "sum": gates.Sum,
    "mean": gates.Mean,
    "max": gates.Max,
    "reshape": gates.Reshape,
    "transpose": gates.Transpose,
    "broadcast": gates.Broadcast,
    "take": gates.Take,
    "concatenate": gates.Concatenate,
    "layernorm": gates.LayerNorm,
    **gates.LOSSES,
}
OF_TWO = {"max": "maximum", "min": "minimum"}
"""What Python calls the larger and the smaller of two; a maximum over axes is max(x, axis=0)."""
ELSEWHERE = {
    "clip": "min(max(x, low), high)",
    "leaky_relu": "max(x, 0.01*x)",
    "ln": "log",
    "min": "min(a, b)",
    "pow": "x**y",
    "square": "x**2",
}
"""Names that others give to what formulas have."""


@dataclass(frozen=True)
class _Source:
    """What the user wrote, and the name by which a fault calls it."""

    name: str
    text: str

    def tree(self) -> ast.expr:
        """The text's syntax; what it may hold is for the caller to check."""
        if len(self.text) > LONGEST:
            raise UsageError(f"{self.name}: {len(self.text):,} characters, more than {LONGEST:,}")
        line = "".join(" " if c.isspace() else c for c in self.text)
        for index, character in enumerate(line):
            if character in MEANINGLESS or not character.isprintable():
                raise self.fault(index, f"{character!a} has no meaning here")
        if found := GLUED.search(line):
            raise self.fault(found.start(1), f"{found[1]!r} cannot stand here")
        if not line.strip():
            raise UsageError(f"{self.name}: nothing is written")
        try:
            return ast.parse(line.strip(), mode="eval").body
        except SyntaxError as error:
            raise self._misspelt(error) from None
        except (RecursionError, MemoryError):
            raise self.too_deep() from None

    def fault(self, at: ast.AST | int, message: str, hint: str | None = None) -> UsageError:
        """The error for a part of the syntax, or for a place in characters from 0."""
        column = at if isinstance(at, int) else self._place(at)
        return UsageError(f"{self.name}, column {column + 1}: {message}", hint)

    def misplaced(self, part: ast.AST) -> UsageError:
        """The fault of a part that the language does not have, shown by its first word or sign."""
        place = self._place(part)
        found = re.match(r"\.?\w+|//|<<|>>|[<>=!]=|.", self.text[place:])
        hint = "a power is written **" if found and found[0] == "^" else None
        return self.fault(place, f"{found[0] if found else ''!r} cannot stand here", hint)

    def too_deep(self) -> UsageError:
        return UsageError(f"{self.name}: more than {DEEPEST} levels deep")

    def _misspelt(self, error: SyntaxError) -> UsageError:
        end, reason = len(self.text.rstrip()), re.split(r"[.;] ", error.msg)[0]
        unfinished = not error.offset or self._indent + error.offset > end
        if unfinished and reason == "invalid syntax":
            return self.fault(end, "it ends too early")
        return self.fault(self._indent + max(error.offset or 1, 1) - 1, reason)

    def _place(self, part: Any) -> int:
        """Where a part stands: its operator, or its beginning; `ast` counts in bytes of UTF-8."""
        line = self.text.strip()
        first: Any = None
        match part:
            case ast.BinOp(left=first) | ast.Compare(left=first) | ast.IfExp(body=first):
                pass
            case ast.Attribute(value=first) | ast.Subscript(value=first):
                pass
            case ast.BoolOp(values=[first, *_]):
                pass
            case ast.Call(func=function) if not isinstance(function, ast.Name):
                first = function
        if first is None:
            return self._indent + len(line.encode()[: part.col_offset].decode())
        before = len(line.encode()[: first.end_col_offset].decode())
        behind = re.match(r"[\s)]*", line[before:])
        return self._indent + before + (behind.end() if behind else 0)

    @property
    def _indent(self) -> int:
        return len(self.text) - len(self.text.lstrip())


@dataclass(eq=False, repr=False)
class Formula(Graph):
    """A circuit that knows its text: inputs that are missing or do not fit are UsageErrors that
    say at which column."""

    source: _Source | None = None
    places: dict[Node, ast.AST] = field(default_factory=dict)

    def forward(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        self._forget()
        given = {_normal(name): value for name, value in {**(values or {}), **more}.items()}
        try:
            self.check({name: np.shape(value) for name, value in given.items()})
            return super().forward(given)
        except (IndexError, TypeError, ValueError) as error:
            raise UsageError(f"formula: {error}") from None

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """UsageError unless there is a shape for each input, and the gates fit them."""
        _known(self, shapes)
        found: dict[Node, Shape] = {}
        for node in self.nodes:
            if node.kind == "input" and node.name not in shapes:
                raise self._fault(node, f"{node.name} has no value", f"add {node.name}=VALUE")
            if node.gate is None:
                found[node] = shapes.get(node.name, np.shape(node.value))
            else:
                found[node] = self._fitting(node, [found[source] for source in node.inputs])

    def _fitting(self, node: Node, shapes: list[Shape]) -> Shape:
        assert node.gate is not None
        try:
            shape = node.gate.shape(*shapes)
        except (ValueError, IndexError):
            listed = " and ".join(str(shape) for shape in shapes)
            raise self._fault(node, f"{node.op} does not fit {listed}") from None
        if prod(shape) > LARGEST:
            raise self._fault(node, f"{prod(shape):,} values; at most {LARGEST:,}")
        return shape

    def _fault(self, node: Node, message: str, hint: str | None = None) -> UsageError:
        if self.source is None or node not in self.places:
            return UsageError(f"formula: {message}", hint)
        return self.source.fault(self.places[node], message, hint)


def _normal(name: str) -> str:
    """A name as Python's syntax reads it: the micro sign of a keyboard is a mu."""
    return normalize("NFKC", name)


def _known(graph: Graph, names: Iterable[str]) -> None:
    for name in names:
        if name not in graph.inputs:
            wanted = ", ".join(graph.inputs) or "none"
            raise UsageError(f"formula: it has no input {name!r}", f"its inputs: {wanted}")


def parse(text: str) -> Formula:
    """The circuit of a formula: its free names are the inputs, in order of first appearance.

    A part that is written twice is two nodes. UsageError says the column of the fault. A circuit is
    for one thread at a time, as every Graph.
    """
    if not isinstance(text, str):
        raise TypeError(f"a formula is text, not {type(text).__name__}")
    source = _Source("formula", text)
    return _Builder(source).build(source.tree())


class Pointwise(NamedTuple):
    """A formula of single elements, and how a loss makes one number of them all, else None."""

    graph: Formula
    reduction: str | None


def elementwise(text: str, names: Sequence[str], what: str = "formula") -> Pointwise:
    """The circuit of a formula of `names` and elementwise gates alone; faults call it `what`.

    Every name is an input, in this order, and must appear. What is made of constants
    alone becomes one constant. A loss, a formula of `target`, may stand in an outermost mean(…) or
    sum(…), else its reduction is the mean. UsageError as of `parse`.
    """
    source = _Source(what, text)
    root, reduction = source.tree(), "mean" if "target" in names else None
    match root:
        case ast.Call(func=ast.Name(id="mean" | "sum" as written), args=[inner], keywords=[]):
            if reduction:
                root, reduction = inner, written
    return Pointwise(_Builder(source, names).build(root), reduction)


@dataclass(frozen=True)
class _Takes:
    """What a function takes: inputs, then settings; either may be open-ended."""

    inputs: list[Parameter]
    settings: list[Parameter]

    @property
    def count(self) -> int | None:
        """The number of inputs; None for any number."""
        return None if _open_ended(self.inputs) else len(self.inputs)

    @property
    def open_ended(self) -> bool:
        return _open_ended(self.settings)

    def fits(self, given: int) -> bool:
        most = inf if self.open_ended else len(self.inputs) + len(self.settings)
        return given > 0 if self.count is None else self.count <= given <= most

    def __str__(self) -> str:
        """As one would call it: `x, axis, keepdims`."""
        return ", ".join(
            p.name + ", …" * (p.kind is Parameter.VAR_POSITIONAL)
            for p in (*self.inputs, *self.settings)
        )


def _takes(gate: type[Gate]) -> _Takes:
    """From the gate's own signatures, so that it is described in one place."""
    inputs = list(signature(gate._forward).parameters.values())[3:]
    has_settings = any("__init__" in base.__dict__ for base in gate.__mro__[:-1])
    settings = list(signature(gate).parameters.values()) if has_settings else []
    return _Takes([p for p in inputs if p.default is Parameter.empty], settings)


def _function(call: ast.Call) -> str:
    """The name of what is called, max(a, b) being the larger of two; empty where it has none."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return OF_TWO.get(name, name) if len(call.args) == 2 else name


def _open_ended(parameters: list[Parameter]) -> bool:
    return any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)


class _Builder:
    """Makes the graph of one formula: each part after its own parts, from left to right.

    Given `names`, these are the inputs and every gate must be elementwise.
    """

    def __init__(self, source: _Source, names: Sequence[str] | None = None) -> None:
        self.source, self.names = source, names
        self.graph = Formula(source=source)
        self.made: dict[ast.expr, Node] = {}
        self.leaves: dict[str, Node] = {}
        self.names_left = (q for q in map("q{}".format, count(1)) if q not in self.leaves)

    def build(self, root: ast.expr) -> Formula:
        parts = self._in_order(root)
        free: dict[str, ast.expr] = {}
        for part in parts:
            if isinstance(part, ast.Name) and part.id not in CONSTANTS:
                free.setdefault(part.id, part)
        self._make_inputs(free)
        for part in parts:
            self.made[part] = self._node(part, last=part is root)
        for name in self.names or ():
            if name not in free:
                raise self.source.fault(root, f"{name} does not appear")
        self.graph.output = self.made[root]
        return self.graph

    def _in_order(self, root: ast.expr) -> list[ast.expr]:
        """The parts in the order of computing: the mirror of each part before its own parts."""
        order, waiting = [], [(root, 1)]
        while waiting:
            part, depth = waiting.pop()
            if depth > DEEPEST:
                raise self.source.too_deep()
            order.append(part)
            waiting += [(operand, depth + 1) for operand in self._operands(part)]
        return order[::-1]

    def _operands(self, part: ast.expr) -> list[ast.expr]:
        match part:
            case ast.BinOp(left=left, right=right):
                return [left, right]
            case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
                return [operand]
            case ast.Attribute(value=operand, attr="T"):
                return [operand]
            case ast.Call(args=args) if (name := _function(part)) in FUNCTIONS:
                return args[: _takes(FUNCTIONS[name]).count]
        return []

    def _make_inputs(self, free: Mapping[str, ast.expr]) -> None:
        for name, part in free.items():
            if name in FUNCTIONS:
                raise self.source.fault(part, f"{name} is a function: write {name}(…)")
            if self.names is not None and name not in self.names:
                wanted = " and ".join(self.names)
                raise self.source.fault(part, f"no input {name!r}", f"it is a formula of {wanted}")
        for name in free if self.names is None else self.names:
            node = self.leaves[name] = self.graph.input(name)
            if name in free:
                self.graph.places[node] = free[name]

    def _node(self, part: ast.expr, last: bool) -> Node:
        match part:
            case ast.Name(id=name) if name in CONSTANTS:
                return self._constant(name, CONSTANTS[name])
            case ast.Name(id=name):
                return self.leaves[name]
            case ast.Constant(value=value):
                return self._number(part, value, 1)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
                return self._number(part, value, -1)
        gate = self._gate(part)
        inputs = [self.made[operand] for operand in self._operands(part)]
        if self.names is not None:
            if not isinstance(gate, Elementwise):
                raise self.source.fault(part, f"{gate.op} is not elementwise")
            if all(source.kind == "constant" for source in inputs):
                return self._folded(part, gate, inputs)
        name = "f" if last and "f" not in self.leaves else next(self.names_left)
        node = self.graph.apply(gate, *inputs, name=name)
        self.graph.places[node] = part
        return node

    def _constant(self, name: str, value: float) -> Node:
        if name not in self.leaves:
            self.leaves[name] = self.graph.constant(value, name)
        return self.leaves[name]

    def _number(self, part: ast.expr, value: Any, sign: int) -> Node:
        number = _as_number(value)
        if number is None:
            raise self.source.fault(part, f"{value!r} is not a number")
        if not isfinite(number):
            raise self.source.fault(part, "the number is beyond float64, at most 1.8e308")
        return self._constant(repr(float(sign * number)).removesuffix(".0"), sign * number)

    def _folded(self, part: ast.expr, gate: Gate, inputs: list[Node]) -> Node:
        value = float(gate.forward(*(source.value for source in inputs)))
        if not isfinite(value):
            raise self.source.fault(part, f"{gate.op} gives {value} here")
        return self._constant(repr(value), value)

    def _gate(self, part: ast.expr) -> Gate:
        match part:
            case ast.BinOp(op=op) | ast.UnaryOp(op=op) if type(op) in OPERATORS:
                return OPERATORS[type(op)]()
            case ast.Attribute(attr="T"):
                return gates.Transpose()
            case ast.Call() if name := _function(part):
                return self._called(part, name)
        raise self.source.misplaced(part)

    def _called(self, part: ast.Call, name: str) -> Gate:
        if name not in FUNCTIONS:
            near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, FUNCTIONS, 1)
            also = f" (did you mean {near[0]!r}?)" if near else ""
            raise self.source.fault(part, f"no function {name!r}{also}")
        kind = FUNCTIONS[name]
        takes = _takes(kind)
        if not takes.fits(len(part.args)):
            raise self.source.fault(part, f"{name}({takes}) does not take {len(part.args)} values")
        names = [p.name for p in takes.settings]
        extra = part.args[len(self._operands(part)) :]
        values = [self._setting(names[min(i, len(names) - 1)], v) for i, v in enumerate(extra)]
        keywords: dict[str, Any] = {}
        for word in part.keywords:
            if word.arg not in names[len(extra) :] or word.arg in keywords or takes.open_ended:
                raise self.source.fault(word, f"{name}({takes}) does not take {word.arg or '**'}")
            keywords[word.arg] = self._setting(word.arg, word.value)
        try:
            return kind(*values, **keywords)
        except (TypeError, ValueError) as error:
            raise self.source.fault(part, str(error)) from None

    def _setting(self, name: str, part: ast.expr) -> Any:
        """A literal: True or False for keepdims, any number for a loss, else whole numbers."""
        match name, part:
            case "keepdims", ast.Constant(value=bool() as flag):
                return flag
            case "keepdims", _:
                raise self.source.fault(part, "keepdims wants True or False")
            case "axis", ast.Tuple(elts=axes):
                return tuple(self._whole(name, axis) for axis in axes)
            case "parameter", _ if (number := _literal(part)) is not None:
                return float(number)
            case "parameter", _:
                raise self.source.fault(part, "a plain number is wanted here")
        return self._whole(name, part)

    def _whole(self, name: str, part: ast.expr) -> int:
        number = _literal(part)
        if number is None:
            form = "or several as (0, 1)" if name == "axis" else "others behind a comma"
            raise self.source.fault(part, f"{name} wants a whole number, {form}")
        if not isinstance(number, int) or abs(number) > LARGEST:
            raise self.source.fault(part, f"{name} wants whole numbers up to {LARGEST:,}")
        return number


def _as_number(value: Any) -> int | float | None:
    """A number of the syntax, infinite where float64 has no place for it; None for all else."""
    if type(value) is not int:
        return value if type(value) is float else None
    try:
        return value if abs(value) < 2**63 else float(value)
    except OverflowError:
        return inf


def _literal(part: ast.expr) -> int | float | None:
    """A number with or without a minus sign; None for all else."""
    match part:
        case ast.Constant(value=value):
            return _as_number(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            number = _as_number(value)
            return None if number is None else -number
    return None


MAKERS = {
    "randn": lambda rng, shape: rng.standard_normal(shape),
    "rand": lambda rng, shape: rng.random(shape),
    "zeros": lambda rng, shape: np.zeros(shape),
    "ones": lambda rng, shape: np.ones(shape),
    "arange": lambda rng, shape: np.arange(*shape),
}
MOST_AXES = 16
NUMBERS = {**CONSTANTS, "inf": inf, "nan": nan}


def value(text: str, rng: np.random.Generator, name: str = "value") -> np.ndarray:
    """An input's value: a number, lists of numbers, `@file.npy`, or one of MAKERS, as randn(3, 4).

    Whole numbers give int64, all others float64. `name` is the input's, for messages. UsageError
    says the column of the fault; a file that is missing or not sound is an error of the data room.
    """
    if text.startswith("@"):
        array = np.asarray(read_npy(load(text[1:], automatic()), text[1:]).x)
        return array.astype(np.float64) if array.dtype.kind == "f" else array
    source = _Source(name, text)
    match source.tree():
        case ast.Call(func=ast.Name(id=maker), args=sizes, keywords=[]) as call if maker in MAKERS:
            return _make(source, call, maker, [_literal(size) for size in sizes], rng)
        case root:
            return _listed(source, root)


def inputs(graph: Graph, assignments: Sequence[str], seed: int) -> dict[str, np.ndarray]:
    """Inputs of `graph` from `NAME=VALUE` texts; each draws from a stream of its own."""
    found: dict[str, np.ndarray] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = _normal(name.strip())
        if not equals or not name.isidentifier():
            raise UsageError(f"{assignment!r} is not NAME=VALUE")
        if name in found:
            raise UsageError(f"{name} is given twice")
        _known(graph, [name])
        rng = stream(seed, Purpose.DATA, layer=list(graph.inputs).index(name))
        found[name] = value(text.strip(), rng, name)
    return found


def _make(
    source: _Source, call: ast.Call, maker: str, sizes: list[Any], rng: np.random.Generator
) -> np.ndarray:
    if not all(isinstance(size, int) and size >= 0 for size in sizes):
        raise source.fault(call, f"{maker} wants sizes: whole numbers from 0")
    if maker == "arange" and len(sizes) != 1:
        raise source.fault(call, "arange wants one size")
    if len(sizes) > MOST_AXES or max(sizes, default=0) > LARGEST or prod(sizes) > LARGEST:
        raise source.fault(call, f"at most {LARGEST:,} values in {MOST_AXES} axes")
    return np.asarray(MAKERS[maker](rng, tuple(sizes)))


def _listed(source: _Source, root: ast.expr) -> np.ndarray:
    nested = _nested(source, root, MOST_AXES)
    try:
        array = np.array(nested)
    except ValueError:
        raise source.fault(root, "the lists are not of one length") from None
    return array.astype(np.float64) if array.dtype.kind != "i" else array


def _nested(source: _Source, part: ast.expr, levels: int) -> Any:
    if isinstance(part, ast.List | ast.Tuple):
        if not levels:
            raise source.fault(part, f"at most {MOST_AXES} axes")
        return [_nested(source, each, levels - 1) for each in part.elts]
    match part:
        case ast.Name(id=name) if name in NUMBERS:
            return NUMBERS[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id=name)) if name in NUMBERS:
            return -NUMBERS[name]
    number = _literal(part)
    if number is None:
        makers = ", ".join(f"{maker}(…)" for maker in MAKERS)
        raise source.fault(part, "not a number", f"use numbers, lists, @file.npy, {makers}")
    return number


@dataclass(frozen=True)
class NodeView:
    """A node after forward and backward, in plain objects.

    `inputs` are names; `value` and `grad` are numbers or nested lists, None where there is none;
    `text` is what a gate computes; `explain` has a line for each input that a gradient reaches.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    text: str
    value: Any
    grad: Any
    explain: tuple[str, ...]

    @property
    def value_text(self) -> str:
        return _short(self.value)

    @property
    def grad_text(self) -> str:
        return _short(self.grad)


def trace(graph: Graph) -> list[NodeView]:
    """What a graph computed, node by node in that order; after its forward and backward."""
    uses = Counter(source for node in graph.nodes for source in node.inputs)
    return [
        NodeView(
            node.name,
            node.op,
            tuple(source.name for source in node.inputs),
            _text(node),
            _plain(node.value),
            _plain(node.grad),
            tuple(_explain(node, uses)),
        )
        for node in graph.nodes
    ]


def to_json(graph: Graph) -> dict[str, Any]:
    """The trace as JSON values, schema `gpunet.graph/1`; `output` is the last node's value.

    What is not finite is the string "nan", "inf" or "-inf", which Python's `float` reads back.
    """
    keys = ("name", "op", "inputs", "value", "grad")
    nodes = [{key: getattr(each, key) for key in keys} for each in trace(graph)]
    output = _plain(graph.last.value)
    return finite({"schema": "gpunet.graph/1", "nodes": nodes, "output": output}, str)


def _short(plain: Any) -> str:
    """On one line: a number to four digits, the corners of what is large, with its shape."""
    array = np.asarray(plain)
    if not array.ndim:
        return "" if plain is None else f"{plain:.4g}"
    line = np.array2string(array, precision=4, threshold=16, edgeitems=2, max_line_width=10**6)
    shape = f" {array.shape}" if array.size > 16 else ""
    return " ".join(line.split()) + shape


def _plain(array: Any) -> Any:
    return None if array is None else np.asarray(array).tolist()


SYMBOLS = {
    "add": "+",
    "subtract": "-",
    "multiply": "*",
    "divide": "/",
    "power": "**",
    "matmul": "@",
}
PULLS: dict[str, tuple[str, ...]] = {
    "sum": ("dz, spread",),
    "mean": ("dz / count, spread",),
    "max": ("dz where x == z, shared at a tie",),
    "reshape": ("dz, reshaped",),
    "transpose": ("dz, transposed back",),
    "broadcast": ("dz, summed over the copies",),
    "take": ("dz, added up by row",),
    "concatenate": ("its part of dz",),
    "layernorm": ("dz through the norm", "sum of dz * normed x", "sum of dz"),
    "softmax_cross_entropy": ("(softmax(x) - onehot(y)) / rows * dz",),
    "sigmoid_cross_entropy": ("(sigmoid(x) - y) / count * dz", "-x / count * dz"),
    "sum_squares": ("2 * (x - y) * dz", "2 * (y - x) * dz"),
    "mean_squared": ("2 * (x - y) / count * dz", "2 * (y - x) / count * dz"),
    "mean_absolute": ("sign(x - y) / count * dz", "sign(y - x) / count * dz"),
    "huber": ("(x - y, clipped) / count * dz", "(y - x, clipped) / count * dz"),
    "pinball": ("(the quantile's side of x) / count * dz", "(that of y) / count * dz"),
    "poisson": ("(exp(x) - y) / count * dz", "-x / count * dz"),
}
"""The gradients of gates that are not elementwise, in words: inputs x, y, output z."""
SMOOTHED: dict[str, tuple[str, ...]] = {
    "softmax_cross_entropy": ("(softmax(x) - smoothed onehot(y)) / rows * dz",),
    "sigmoid_cross_entropy": (
        "(sigmoid(x) - smoothed y) / count * dz",
        "(smoothing - 1) * x / count * dz",
    ),
}
"""Those of losses whose labels are smoothed."""


def _text(node: Node) -> str:
    names = [source.name for source in node.inputs]
    if node.op in SYMBOLS:
        return f" {SYMBOLS[node.op]} ".join(names)
    if node.op == "negate":
        return f"-{names[0]}"
    return f"{node.op}({', '.join(names)})" if node.gate else ""


def _explain(node: Node, uses: Mapping[Node, int]) -> list[str]:
    """`dx = y * dz = 5 * 1 = 5`; `+=` where x has other uses, whose parts add up."""
    if node.gate is None or node.grad is None:
        return []
    parts = node.gate.backward(node.grad)
    return [
        f"d{source.name} {'+=' if uses[source] > 1 else '='} {_product(node, i, part)}"
        for i, (source, part) in enumerate(zip(node.inputs, parts, strict=True))
        if part is not None and source.kind != "constant"
    ]


def _product(node: Node, i: int, part: Any) -> str:
    """The local gradient for input i times the upstream one, in names, then in numbers."""
    gate, pulls = node.gate, _pulls(node)
    words, is_summed = _named(pulls[min(i, len(pulls) - 1)], node), _is_summed(node, part)
    if np.ndim(part):
        return f"{words}, {'summed to ' * is_summed}{np.shape(part)}"
    if isinstance(gate, Elementwise) and not is_summed:
        return f"{words} = {gate.backward(1.0)[i]:.4g} * {node.grad:.4g} = {part:.4g}"
    return f"{words}{', summed' * is_summed} = {part:.4g}"


def _pulls(node: Node) -> tuple[str, ...]:
    """The gradients of a gate's inputs, in x, y, z and dz."""
    gate = node.gate
    if isinstance(gate, Elementwise):
        return tuple(f"{_bracketed(local)} * dz" for local in gate.local)
    if isinstance(gate, gates.MatMul):
        return _matmul_pulls(*(np.ndim(source.value) for source in node.inputs))
    if isinstance(gate, gates.Loss) and gate.parameter and node.op in SMOOTHED:
        return SMOOTHED[node.op]
    return PULLS.get(node.op, (f"the gradient of {node.op} * dz",))


def _matmul_pulls(left: int, right: int) -> tuple[str, str]:
    """As NumPy has it, for inputs of so many axes."""
    if left == right == 1:
        return "dz * y", "dz * x"
    if right == 1:
        return "dz[..., None] * y", "dz[..., None] * x"
    if left == 1:
        return "dz[..., None, :] * y", "dz[..., None, :] * x[:, None]"
    mirror = "T" if left == right == 2 else "mT"
    return f"dz @ y.{mirror}", f"x.{mirror} @ dz"


def _is_summed(node: Node, part: Any) -> bool:
    """Whether a gradient is added up over what its input was repeated along."""
    if isinstance(node.gate, Elementwise):
        return np.shape(part) != np.shape(node.value)
    if not isinstance(node.gate, gates.MatMul):
        return False
    shapes = [np.shape(source.value) for source in node.inputs]
    lead = np.broadcast_shapes(*(shape[:-2] for shape in shapes))
    return np.ndim(part) < max(map(len, shapes)) or np.shape(part)[:-2] != lead


def _bracketed(local: str) -> str:
    """In brackets where a product would read otherwise."""
    match ast.parse(local, mode="eval").body:
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Div()):
            return f"({local})"
    return local


def _named(words: str, node: Node) -> str:
    """`words` in x, y, z and dz with the names of the node's inputs and its own."""
    names = dict(zip("xy", map(_shown, node.inputs), strict=False))
    names |= {"z": node.name, "dz": f"d{node.name}"}
    return re.sub(r"\b(dz|[xyz])\b", lambda found: names.get(found[0], found[0]), words)


def _shown(node: Node) -> str:
    return f"({node.name})" if node.name.startswith("-") else node.name
