"""A circuit of elementwise gates as one kernel: tile by tile on the CPU, generated source on CUDA.

For formulas that are given at run time. Refuses gates that are not elementwise: the formula room
has looked at them before.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from gpunet import gates
from gpunet.device import Array
from gpunet.graph import Graph, Node
from gpunet.kernels import REGISTRY, Kernel, activation, dropout, loss
from gpunet.kernels.registry import Reference, Run


class Activation(gates.Activation):
    """z = f(x), f a circuit of one input; dx = dz * f'(x), by the chain rule through f."""

    saves = ("inputs",)

    def __init__(self, graph: Graph) -> None:
        self._pair = _activation_pair(graph)

    @property
    def pair(self) -> tuple[Kernel, Kernel]:
        return self._pair


class Loss(gates.Loss):
    """z = the mean over rows and columns of f(pred, target), or their sum."""

    def __init__(self, graph: Graph, is_mean: bool) -> None:
        super().__init__()
        self.needs_values = is_mean
        self._kernel = _loss_kernel(graph, is_mean)

    @property
    def kernel(self) -> Kernel:
        return self._kernel


class Tiles:
    """Runs a circuit over tiles of its inputs, in buffers that it makes once and keeps.

    Gates, which keep what their backward needs, and values are its own: others run the circuit too.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.gates = {node: copy(node.gate) for node in graph.nodes if node.gate is not None}
        self.values: dict[Node, Array] = {}
        self.buffers: dict[tuple[Any, ...], Array] = {}

    def forward(self, **tiles: Array) -> Array:
        """The output's tile; it is overwritten by the next call."""
        like, values = next(iter(tiles.values())), self.values
        for node in self.graph.nodes:
            if node.kind == "input":
                values[node] = tiles[node.name]
            elif node.kind == "constant":  # a float64 one would raise all that it meets
                with np.errstate(over="ignore"):
                    values[node] = like.dtype.type(node.value)
            else:
                values[node] = self._buffer(node, "value", like)
                self.gates[node].forward(*(values[i] for i in node.inputs), out=values[node])
        return values[self.graph.last]

    def backward(self, wrt: str) -> Array:
        """The gradient of the output's tile for one input, after `forward`; the number 0 where it
        does not depend on it."""
        output, like = self.graph.last, self.values[self.graph.last]
        grads = {output: np.ones_like(like)}
        for node in reversed(self.graph.nodes):
            if node.gate is None or node not in grads:
                continue
            outs = tuple(
                self._buffer(node, f"grad{i}", like) if source.kind != "constant" else None
                for i, source in enumerate(node.inputs)
            )
            self.gates[node].backward(grads[node], out=outs)
            for source, part in zip(node.inputs, outs, strict=True):
                if part is not None:
                    grads[source] = np.add(grads[source], part) if source in grads else part
        return grads.get(self.graph.node(wrt), 0)

    def _buffer(self, node: Node, use: str, like: Array) -> Array:
        key = (node.name, use, like.shape, like.dtype)
        if key not in self.buffers:
            self.buffers[key] = np.empty(like.shape, like.dtype)
        return self.buffers[key]


def _activation_pair(graph: Graph) -> tuple[Kernel, Kernel]:
    text = _c_function(graph, "f_formula", "T x")
    text += _c_gradient(graph, "f_formula_grad", "T g, T x, T y", "x", "g")
    forward, backward = activation.PAIRS["mish"]
    value = _own(lambda: activation.forward_of(_activation(graph)))
    slope = _own(lambda: activation.backward_of(_activation(graph)))
    return (
        _dropping(_variant(forward, "formula", value, text)),
        _dropping(_variant(backward, "formula", slope, text)),
    )


def _own(make: Callable[[], Reference]) -> Reference:
    """A reference that is made anew for each binding, so that bindings may run side by side."""

    @wraps(make())
    def reference(*arguments: Any) -> Run:
        return make()(*arguments)

    return reference


def _activation(graph: Graph) -> activation.Activation:
    tiles = Tiles(graph)

    def value(y: Array, work: activation.Work) -> None:
        np.copyto(y, tiles.forward(x=y))

    def slope(s: Array, y: Array, out: Array, work: activation.Work) -> None:
        tiles.forward(x=s)
        np.copyto(out, tiles.backward("x"))

    return activation.Activation(value, slope, reads_input=True)


def _loss_kernel(graph: Graph, is_mean: bool) -> Kernel:
    known = REGISTRY["mean_squared" if is_mean else "sum_squares"]
    variant = "formula_mean" if is_mean else "formula_sum"
    given = "T pred, T target, T constant"
    text = _c_function(graph, f"loss_{variant}", given)
    text += _c_gradient(graph, f"loss_{variant}_grad", given, "pred", "T(1)")
    mine = _own(lambda: loss.loss_of(_term(graph, is_mean), is_mean))
    return _variant(known, variant, mine, text)


def _term(graph: Graph, is_mean: bool) -> loss.Term:
    tiles = Tiles(graph)

    def term(p: Array, t: Array, unused: float, rows: Array, grad: Array | None) -> None:
        columns = p.shape[1] if is_mean else 1
        cells = np.broadcast_to(tiles.forward(pred=p, target=t), p.shape)
        np.divide(cells.sum(axis=1), columns, out=rows)
        if grad is not None:
            np.divide(tiles.backward("pred"), columns, out=grad)

    return term


def _variant(known: Kernel, variant: str, reference: Reference, text: str) -> Kernel:
    """A kernel like a known one, with another formula."""
    name = known.name.replace(known.variant, variant)
    return replace(known, name=name, variant=variant, reference=reference, generated=text)


def _dropping(kernel: Kernel) -> Kernel:
    return replace(kernel, dropped=dropout.beside(kernel))


def _c_function(graph: Graph, name: str, given: str) -> str:
    lines, names = _c_values(graph)
    return f"HD T {name}({given}) {{\n{lines}    return {names[graph.last]};\n}}\n"


def _c_gradient(graph: Graph, name: str, given: str, wrt: str, upstream: str) -> str:
    """The gradient for one input, times `upstream`: forward again, then in reverse."""
    lines, names = _c_values(graph)
    parts: dict[Node, list[str]] = {graph.last: [upstream]}
    for number, node in enumerate(reversed(graph.nodes)):
        if node.gate is None or node not in parts:
            continue
        lines += f"    T g{number} = {' + '.join(parts[node])};\n"
        operands = ", ".join(names[i] for i in node.inputs)
        for place, source in enumerate(node.inputs):
            if source.kind == "constant":
                continue
            which = place if len(node.inputs) > 1 else ""
            call = f"f_{node.op}_grad{which}(g{number}, {operands}, {names[node]})"
            parts.setdefault(source, []).append(call)
    found = parts.get(graph.node(wrt), ["T(0)"])
    return f"HD T {name}({given}) {{\n{lines}    return {' + '.join(found)};\n}}\n"


def _c_values(graph: Graph) -> tuple[str, dict[Node, str]]:
    """The statements that compute every gate, and the C name of every node."""
    lines, names = "", {}
    for number, node in enumerate(graph.nodes):
        if node.kind == "input":
            names[node] = node.name
        elif node.kind == "constant":
            names[node] = f"T({float(node.value)!r})"
        else:
            names[node] = f"v{number}"
            operands = ", ".join(names[i] for i in node.inputs)
            lines += f"    T v{number} = f_{node.op}({operands});\n"
    return lines, names
