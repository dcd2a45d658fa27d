"""A circuit of elementwise gates as one kernel: tile by tile on the CPU, generated source on CUDA.

For formulas that are given at run time. Refuses gates that are not elementwise: the formula room
has looked at them before.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from gpunet import gates
from gpunet.device import Array
from gpunet.graph import Graph, Node
from gpunet.kernels import REGISTRY, Kernel, activation, loss
from gpunet.kernels.registry import Stage


class Activation(gates.Activation):
    """z = f(x), f a circuit of one input; dx = dz * f'(x), by the chain rule through f."""

    saves = ("inputs",)

    def __init__(self, graph: Graph) -> None:
        self._pair = _activation_pair(graph)

    @property
    def pair(self) -> tuple[Kernel, Kernel]:
        return self._pair


class Loss(gates.Loss):
    """z = the mean over rows and columns of f(pred, target), or with `reduction` "sum" the sum."""

    def __init__(self, graph: Graph, reduction: str) -> None:
        super().__init__()
        self._kernel = _loss_kernel(graph, is_mean=reduction == "mean")

    @property
    def kernel(self) -> Kernel:
        return self._kernel


class Tiles:
    """Runs a circuit over tiles of its inputs, in buffers that it makes once and keeps."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.buffers: dict[tuple[Any, ...], Array] = {}

    def forward(self, **tiles: Array) -> Array:
        """The output's tile; it is overwritten by the next call."""
        like = next(iter(tiles.values()))
        for node in self.graph.nodes:
            if node.kind == "input":
                node.value = tiles[node.name]
            elif node.gate is not None:
                out = self._buffer(node, "value", like)
                node.gate.forward(*(_typed(i, like) for i in node.inputs), out=out)
                node.value = out
        return self._output.value

    def backward(self, wrt: str) -> Array | None:
        """The gradient of the output's tile for one input, after `forward`."""
        output = self._output
        if output.gate is None:
            return np.ones_like(output.value) if output.name == wrt else None
        like, grads = output.value, {output: np.ones_like(output.value)}
        for node in reversed(self.graph.nodes):
            if node.gate is None or node not in grads:
                continue
            outs = tuple(
                self._buffer(node, f"grad{i}", like) if source.kind != "constant" else None
                for i, source in enumerate(node.inputs)
            )
            node.gate.backward(grads[node], out=outs)
            for source, part in zip(node.inputs, outs, strict=True):
                if part is not None:
                    grads[source] = np.add(grads[source], part) if source in grads else part
        return grads.get(self.graph.node(wrt))

    @property
    def _output(self) -> Node:
        return self.graph.output or self.graph.nodes[-1]

    def _buffer(self, node: Node, use: str, like: Array) -> Array:
        key = (node.name, use, like.shape, like.dtype)
        if key not in self.buffers:
            self.buffers[key] = np.empty(like.shape, like.dtype)
        return self.buffers[key]


def _activation_pair(graph: Graph) -> tuple[Kernel, Kernel]:
    tiles = Tiles(graph)

    def value(y: Array, work: Array) -> None:
        np.copyto(y, tiles.forward(x=y))

    def slope(s: Array, y: Array, out: Array, work: Array) -> None:
        tiles.forward(x=s)
        found = tiles.backward("x")
        np.copyto(out, 0 if found is None else found)

    made = activation.Activation(value, slope, reads_input=True)
    forward, backward = activation.PAIRS["mish"]
    text = _c_function(graph, "f_formula", ("x",))
    text += _c_gradient(graph, "f_formula_grad", ("x",), "T g, T x, T y", "g")
    source = f"activation.cu\n{text}\nACTIVATION(formula, true)\n"
    return (
        replace(
            forward,
            name="formula_forward",
            reference=activation.forward_of(made),
            source=source,
            stages=(Stage("formula_forward", forward.stages[0].grid),),
        ),
        replace(
            backward,
            name="formula_backward",
            reference=activation.backward_of(made),
            source=source,
            stages=(Stage("formula_backward", backward.stages[0].grid), *backward.stages[1:]),
        ),
    )


def _loss_kernel(graph: Graph, is_mean: bool) -> Kernel:
    tiles = Tiles(graph)

    def term(p: Array, t: Array, unused: float, rows: Array, grad: Array | None) -> int:
        columns = p.shape[1] if is_mean else 1
        cells = np.broadcast_to(tiles.forward(pred=p, target=t), p.shape)
        np.divide(cells.sum(axis=1), columns, out=rows)
        if grad is not None:
            found = tiles.backward("pred")
            np.copyto(grad, 0 if found is None else found)
            np.divide(grad, columns, out=grad)
        return 0

    known = REGISTRY["mean_squared" if is_mean else "sum_squares"]
    text = _c_function(graph, "cell", ("pred", "target"))
    text += _c_gradient(graph, "cell_grad", ("pred", "target"), "T pred, T target", "T(1)")
    shape = "k, batch_rows(clock)" if is_mean else "1, 1"
    text += (
        "HD T loss_formula(T p, T t, T unused) { return cell(p, t); }\n"
        "HD T loss_formula_grad(T p, T t, T unused) { return cell_grad(p, t); }\n"
        f"#undef TARGET\n#define TARGET T\nELEMENTWISE(formula, formula, {shape}, false)\n"
    )
    return replace(
        known,
        name="formula_loss",
        reference=loss.loss_of(term, is_mean),
        source=f"loss.cu\n{text}",
        stages=(Stage("formula", known.stages[0].grid), *known.stages[1:]),
    )


def _typed(node: Node, like: Array) -> Array:
    """A constant in the tile's precision: a float64 one would raise all that it meets."""
    return like.dtype.type(node.value) if node.kind == "constant" else node.value


def _c_function(graph: Graph, name: str, inputs: tuple[str, ...]) -> str:
    lines, names = _c_values(graph)
    output = graph.output or graph.nodes[-1]
    given = ", ".join(f"T {each}" for each in inputs)
    return f"HD T {name}({given}) {{\n{lines}    return {names[output]};\n}}\n"


def _c_gradient(
    graph: Graph, name: str, inputs: tuple[str, ...], given: str, upstream: str
) -> str:
    """The gradient for the first input, times `upstream`: forward again, then in reverse."""
    lines, names = _c_values(graph)
    output = graph.output or graph.nodes[-1]
    parts: dict[Node, list[str]] = {output: [upstream]}
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
    found = parts.get(graph.node(inputs[0]), ["T(0)"])
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
