"""A circuit of gates: values flow forward in order, gradients backward, by the chain rule.

A gate multiplies the upstream gradient by its local one; where a value branches, the gradients
that come back add up. Nodes can only be made from nodes that exist, so the order of making is an
order of computing. Nothing here knows a particular gate.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from inspect import signature
from math import inf
from typing import Any

import numpy as np

from gpunet.device import Array, module_of
from gpunet.sizes import counted

Shape = tuple[int, ...]


class Gate:
    """One operation, its value and its local gradients.

    A subclass writes `_forward(xp, out, *inputs)` and `_backward(xp, grad, *grads)`, both into
    given buffers; a gradient that nobody wants is None. All but indices come in the precision of
    the output. `saves` says what backward reads of `self.inputs` and `self.output`. `indices` are
    the inputs that hold whole numbers and have no gradient. A gate that `mixes_rows` needs the
    whole batch at once. One that `is_placed` stands in a graph, and no other may take it.
    """

    saves: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    mixes_rows = False
    training = True
    is_placed = False

    least: int
    most: float
    inputs: tuple[Array, ...]
    output: Array

    def __init_subclass__(cls) -> None:
        """How many inputs there are at least and at most follows from `_forward`."""
        taken = list(signature(cls._forward).parameters.values())[3:]
        is_open = any(p.kind is p.VAR_POSITIONAL for p in taken)
        cls.least = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in taken)
        cls.most = inf if is_open else len(taken)

    @property
    def op(self) -> str:
        """The name of the operation, as formulas write it."""
        return type(self).__name__.lower()

    def shape(self, *shapes: Shape) -> Shape:
        """The output's shape from the inputs'; ValueError where they do not fit."""
        return np.broadcast_shapes(*shapes)

    def forward(self, *inputs: Any, out: Array | None = None) -> Array:
        """The output, written to `out` when it is given. Numbers and lists become float64.

        Backward reads the inputs and the output again: they must not be written to before it.
        """
        if not self.least <= len(inputs) <= self.most:
            more = "or more" if self.most == inf else f"to {self.most:g}"
            one, several = counted(self.least, "value"), f"{self.least} {more} values"
            wanted = one if self.most == self.least else several
            raise TypeError(f"{self.op} takes {wanted}, not {len(inputs)}")
        xp = module_of(*inputs)
        arrays = tuple(_array(xp, v, i in self.indices) for i, v in enumerate(inputs))
        shape, dtype = self.shape(*(a.shape for a in arrays)), self._dtype(arrays)
        buffer = xp.empty(shape, dtype) if out is None else _checked(out, shape, dtype)
        self.output = buffer
        self.inputs = tuple(
            a if i in self.indices else a.astype(dtype, copy=False) for i, a in enumerate(arrays)
        )
        with np.errstate(all="ignore"):
            returned = self._forward(xp, buffer, *self.inputs)
        self._demand_written(returned, buffer)
        return buffer[()] if out is None else out

    def backward(self, grad: Any, out: tuple[Array | None, ...] | None = None) -> tuple[Any, ...]:
        """One gradient an input, from the gradient of the output; None for one that has none.
        RuntimeError before `forward`."""
        if not hasattr(self, "output"):
            raise RuntimeError(f"backward of {self.op} before its forward")
        xp = module_of(self.output)
        grad = _spread(xp, xp.asarray(_array(xp, grad), self.output.dtype), self.output.shape)
        if out is None:
            buffers = tuple(self._gradient_buffer(xp, i) for i in range(len(self.inputs)))
        else:
            pairs = zip(out, self.inputs, strict=True)
            dtype = self.output.dtype
            buffers = tuple(g if g is None else _checked(g, x.shape, dtype) for g, x in pairs)
        with np.errstate(all="ignore"):
            returned = self._backward(xp, grad, *buffers)
        self._demand_written(returned, *buffers)
        return tuple(g if g is None else g[()] for g in buffers) if out is None else out

    def forget(self) -> None:
        """Let go of the arrays of the last `forward`."""
        for name in ("inputs", "output"):
            vars(self).pop(name, None)

    # `**never` is for type checkers: a subclass may then name its inputs
    def _forward(self, xp: Any, out: Array, *inputs: Any, **never: Any) -> object:
        raise NotImplementedError

    def _backward(self, xp: Any, grad: Array, *grads: Any, **never: Any) -> object:
        raise NotImplementedError

    def _dtype(self, arrays: tuple[Array, ...]) -> Any:
        floats = [a.dtype for a in arrays if a.dtype.kind == "f"]
        return np.result_type(*floats) if floats else np.dtype(np.float64)

    def _demand_written(self, returned: object, *buffers: Array | None) -> None:
        parts = returned if isinstance(returned, tuple) else (returned,)
        if any(part is not None and all(part is not b for b in buffers) for part in parts):
            raise TypeError(f"{self.op} returns a value where it must write into the buffer given")

    def _gradient_buffer(self, xp: Any, index: int) -> Array | None:
        if index in self.indices:
            return None
        return xp.empty(self.inputs[index].shape, self.output.dtype)


@dataclass(eq=False, repr=False)
class Node:
    """One value of the circuit: an input, a parameter, a constant or a gate's output."""

    name: str
    kind: str
    gate: Gate | None = None
    inputs: tuple["Node", ...] = ()
    value: Array = None
    grad: Array = None

    def __repr__(self) -> str:
        sources = f" of {', '.join(source.name for source in self.inputs)}" if self.inputs else ""
        return f"<Node {self.name}: {self.op}{sources}>"

    @property
    def op(self) -> str:
        return self.gate.op if self.gate is not None else self.kind


@dataclass(eq=False, repr=False)
class Graph:
    """Nodes in the order in which they are computed; the last one made is the output unless set.

    Nodes and gates keep what backward needs, so a graph is for one thread at a time: others take a
    copy, which shares nothing with it.
    """

    nodes: list[Node] = field(default_factory=list)
    output: Node | None = None

    def __copy__(self) -> "Graph":
        return deepcopy(self)

    def __repr__(self) -> str:
        inputs = ", ".join(self.inputs) or "nothing"
        return f"<{type(self).__name__} of {counted(len(self.nodes), 'node')}, from {inputs}>"

    def input(self, name: str) -> Node:
        """A value given at each forward."""
        return self._add(Node(name, "input"))

    def parameter(self, name: str, value: Any) -> Node:
        """A value that the graph keeps and that training changes."""
        return self._add(Node(name, "parameter", value=_array(np, value).copy()))

    def constant(self, value: Any, name: str | None = None) -> Node:
        """A value that never changes and has no gradient."""
        value, name = _array(np, value).copy(), name or f"c{len(self.nodes)}"
        return self._add(Node(name, "constant", value=value))

    def apply(self, gate: Gate, *inputs: Node, name: str | None = None) -> Node:
        """The output of `gate` on nodes of this graph."""
        if not isinstance(gate, Gate) or not all(isinstance(node, Node) for node in inputs):
            raise TypeError("a graph takes a gate, as Exp(), and nodes of its own")
        if gate.is_placed:
            raise ValueError(f"a gate keeps what its backward needs: make a new {gate.op} a node")
        node = self._add(Node(name or f"{gate.op}{len(self.nodes)}", "gate", gate, inputs))
        gate.is_placed = True
        return node

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        return {node.name: node for node in self.nodes}[name]

    @property
    def parameters(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes if node.kind == "parameter"}

    @property
    def inputs(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes if node.kind == "input"}

    def forward(self, values: Mapping[str, Any] | None = None, /, **more: Any) -> Array:
        """The output's value, gate by gate. Every input is given by name; KeyError when not.

        Backward reads the inputs and the output again: they must not be written to before it.
        """
        self._forget()
        given = {**(values or {}), **more}
        if unknown := given.keys() - self.inputs.keys():
            raise KeyError(f"no input {', '.join(sorted(unknown))}")
        for node in self.nodes:
            if node.kind == "input":
                node.value = _numbers(module_of(given[node.name]), given[node.name])[()]
            elif node.gate is not None:
                node.value = node.gate.forward(*(i.value for i in node.inputs))
        value = self.last.value
        return value if self.last.gate is not None else value.copy()

    def backward(self, grad: Any = 1.0) -> dict[str, Array]:
        """The gradient of the output for every input and parameter, by name, times `grad`.

        After it, `node.grad` holds each node's; None where the output does not depend on it.
        RuntimeError before `forward`.
        """
        for node in self.nodes:
            node.grad = None
        last = self.last
        xp = module_of(self._value)
        last.grad = _spread(xp, _array(xp, grad), last.value.shape)[()]
        for node in reversed(self.nodes):
            if node.gate is None or node.grad is None:
                continue
            for source, part in zip(node.inputs, node.gate.backward(node.grad), strict=True):
                if part is not None and source.kind != "constant":
                    source.grad = part if source.grad is None else _sum(source.grad, part)
        leaves = [node for node in self.nodes if node.kind in ("input", "parameter")]
        return {node.name: node.grad for node in leaves}

    def jacobian(self, name: str) -> Array:
        """d output / d `name` at the last forward: shape (*output.shape, *input.shape).

        Built row by row, each a vector-Jacobian product; backward itself never builds one.
        """
        value, wrt = self._value, self.node(name)
        xp = module_of(value)
        result = xp.zeros((*value.shape, *wrt.value.shape), value.dtype)
        for index in np.ndindex(value.shape):
            row = xp.zeros(value.shape, value.dtype)
            row[index] = 1
            self.backward(row)
            if wrt.grad is not None:
                result[index] = wrt.grad
        return result

    def group(self, nodes: Iterable[Node], name: str | None = None) -> Node:
        """Make one big gate of a connected group of gates; values and gradients stay the same.

        ValueError when the group is not connected, or when more than one of its values is used
        outside it. Returns the node that takes the group's place.
        """
        chosen = set(nodes)
        members = [node for node in self.nodes if node in chosen]
        last = self._only_exit(members)
        taken = (i for node in members for i in node.inputs)
        outside = list(dict.fromkeys(i for i in taken if i not in chosen))
        if any(self.nodes.index(node) > self.nodes.index(last) for node in outside):
            raise ValueError(f"the group would need what is computed from {last.name}")
        if name in {node.name for node in self.nodes if node not in chosen}:
            raise ValueError(f"two nodes named {name!r}")
        gate = Group(members, outside, last)
        big = Node(name or last.name, "gate", gate, tuple(outside), value=last.value)
        self.nodes[self.nodes.index(last)] = big
        self.nodes = [node for node in self.nodes if node not in members]
        for node in self.nodes:
            node.inputs = tuple(big if i is last else i for i in node.inputs)
        if self.output is last:
            self.output = big
        return big

    @property
    def last(self) -> Node:
        """The output: the node that was set, else the one made last."""
        if not self.nodes:
            raise ValueError("the graph has no nodes")
        return self.output or self.nodes[-1]

    @property
    def _value(self) -> Array:
        if self.last.value is None:
            raise RuntimeError("backward of a graph before its forward")
        return self.last.value

    def _forget(self) -> None:
        """Let go of the values of the last `forward`."""
        for node in self.nodes:
            if node.kind in ("input", "gate"):
                node.value = None

    def _add(self, node: Node) -> Node:
        if any(other.name == node.name for other in self.nodes):
            raise ValueError(f"two nodes named {node.name!r}")
        foreign = [i.name for i in node.inputs if i not in self.nodes]
        if foreign:
            raise ValueError(f"{node.name} takes {', '.join(foreign)} of another graph")
        self.nodes.append(node)
        return node

    def _only_exit(self, members: list[Node]) -> Node:
        if not members or any(node.gate is None for node in members):
            raise ValueError("a group is made of gates: inputs and parameters stay outside")
        if not _connected(members):
            raise ValueError("the gates of a group must be connected")
        last = self.last
        exits = [
            node
            for node in members
            if node is last or any(user not in members for user in self._users(node))
        ]
        if len(exits) != 1:
            names = ", ".join(node.name for node in exits) or "none"
            raise ValueError(f"one value of a group may be used outside it, not {names}")
        return exits[0]

    def _users(self, node: Node) -> list[Node]:
        return [other for other in self.nodes if node in other.inputs]


class Group(Gate):
    """A big gate: a whole circuit inside one node, and made for its place."""

    saves = ("inputs",)
    is_placed = True

    def __init__(self, members: list[Node], outside: list[Node], last: Node) -> None:
        self.indices = tuple(i for i, node in enumerate(outside) if _only_index(node, members))
        self.graph = Graph()
        inner: dict[Node, Node] = {node: self.graph.input(node.name) for node in outside}
        for node in members:
            assert node.gate is not None
            sources = (inner[i] for i in node.inputs)
            inner[node] = self.graph._add(Node(node.name, "gate", node.gate, tuple(sources)))
        self.graph.output = inner[last]
        for node, twin in inner.items():
            twin.value = node.value

    def shape(self, *shapes: Shape) -> Shape:
        known = dict(zip(self.graph.inputs, shapes, strict=True))
        for node in self.graph.nodes:
            if node.gate is not None:
                known[node.name] = node.gate.shape(*(known[i.name] for i in node.inputs))
        assert self.graph.output is not None
        return known[self.graph.output.name]

    def backward(self, grad: Any, out: tuple[Array | None, ...] | None = None) -> tuple[Any, ...]:
        parts = tuple(self.graph.backward(grad).values())
        if out is None:
            return parts
        for part, whole in zip(parts, out, strict=True):
            if whole is not None:
                whole[...] = 0 if part is None else part
        return out

    def _forward(self, xp: Any, out: Array, *inputs: Array) -> None:
        out[...] = self.graph.forward(dict(zip(self.graph.inputs, inputs, strict=True)))


def _connected(members: list[Node]) -> bool:
    reached, frontier = {members[0]}, [members[0]]
    while frontier:
        node = frontier.pop()
        near = [m for m in members if m in node.inputs or node in m.inputs]
        fresh = [m for m in near if m not in reached]
        reached.update(fresh)
        frontier.extend(fresh)
    return len(reached) == len(members)


def _only_index(node: Node, members: list[Node]) -> bool:
    """Whether the gates take a node's value as whole numbers alone, so that it has no gradient."""
    return all(
        i in member.gate.indices
        for member in members
        for i, source in enumerate(member.inputs)
        if source is node and member.gate is not None
    )


def _sum(a: Array, b: Array) -> Array:
    with np.errstate(all="ignore"):
        return a + b


def _checked(buffer: Array, shape: Shape, dtype: Any) -> Array:
    """A given buffer, if gates that see it as a matrix would write through."""
    if buffer.shape != shape:
        raise ValueError(f"a buffer of shape {buffer.shape} where {shape} is wanted")
    if buffer.dtype != dtype:
        raise ValueError(f"a buffer of {buffer.dtype} where {dtype} is wanted")
    if buffer.ndim > 2 and not buffer.flags.c_contiguous:
        raise ValueError("a buffer of more than two axes must be contiguous")
    return buffer


def _spread(xp: Any, grad: Array, shape: Shape) -> Array:
    try:
        return xp.broadcast_to(grad, shape)
    except ValueError:
        raise ValueError(f"a gradient of {grad.shape} for an output of {shape}") from None


def _numbers(xp: Any, value: Any) -> Array:
    """An array of xp, its floats of the two precisions that kernels take, in native order."""
    array = xp.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a gate takes numbers, not {array.dtype}")
    native = array.dtype.newbyteorder("=")
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        native = np.dtype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array.astype(native, copy=False)


def _array(xp: Any, value: Any, whole: bool = False) -> Array:
    """An array of xp: of whole numbers, or of floats (float64 unless it has a float dtype)."""
    array = _numbers(xp, value)
    if not whole:
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    if array.dtype.kind in "biu":
        return array
    with np.errstate(invalid="ignore"):
        rounded = array.astype(np.int64)
    if (rounded != array).any():
        raise ValueError("an index is made of whole numbers")
    return rounded
