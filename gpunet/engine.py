"""From a graph to a launch list: kernels and matrix products bound to planned memory.

Lowering walks the graph once, forward and backward, and writes down launches over slots. The slots
get places in one arena by the span in which each is alive; parameters, gradients and optimiser
state lie in flat vectors. After that a step is the list, run (launches.py).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from gpunet import branches, fusion, gates, persistent
from gpunet.device import Array, Device, Turn
from gpunet.errors import Unavailable
from gpunet.graph import Graph, Node
from gpunet.kernels import REGISTRY, Kernel, narrow, native
from gpunet.kernels.registry import Run
from gpunet.kernels.slots import BETA1, BETA2, CLIP, EPSILON, LIMIT, SCALE
from gpunet.launches import CLOCK, TOTALS, Feed, Launch, LaunchList, Slot, Store, plan, rounded
from gpunet.model import Network, Pace
from gpunet.optim import Optimizer
from gpunet.random import Purpose

PADDING = 128
"""On CUDA each parameter starts at a multiple of so many elements, of float32 and of bfloat16 alike
where products load them widest."""
LEAST_EARLY = 1 << 18
"""Elements of a weight that is worth a move of its own, beside what is left of the way back."""
Mode = Literal["train", "evaluate"]


def store(network: Network, device: Device, dtype: str, slots: int = 0) -> Store:
    """The flat vectors of a network, with its present values and `slots` zeroed state vectors."""
    graph = network.graph
    weights = [node.inputs[1] for node in graph.nodes if isinstance(node.gate, gates.MatMul)]
    large = [node for node in weights[1:] if node.value.size >= LEAST_EARLY]
    early = large if device.branches > 1 else []
    nodes = sorted(graph.parameters.values(), key=lambda n: (n not in early, n not in weights))
    sizes = [node.value.size for node in nodes]
    room = [rounded(size, 1 if device.kind == "cpu" else PADDING) for size in sizes]
    ends = np.cumsum([0, *room]).tolist()
    flat = np.zeros(ends[-1], dtype)
    for node, start, size in zip(nodes, ends, sizes):
        flat[start : start + size] = np.ravel(node.value)
    values = device.empty((ends[-1],), dtype)
    values[...] = device.asarray(flat)
    is_narrow = device.precision == "bf16" and dtype == "float32"
    usual = {node.name: Pace(decay=float(node in weights)) for node in nodes}
    paces = [network.paces.get(node.name, usual[node.name]) for node in nodes]
    first = [i for i, pace in enumerate(paces) if i == 0 or pace != paces[i - 1]]
    starts = [*(ends[i] for i in first), ends[-1]]
    made = Store(
        device,
        values,
        device.zeros(values.shape, dtype),
        tuple(device.zeros(values.shape, dtype) for _ in range(slots)),
        {
            node.name: (slice(start, start + size), node.value.shape)
            for node, start, size in zip(nodes, ends, sizes)
        },
        {name: device.asarray(a.astype(dtype)) for name, a in network.statistics.items()},
        device.asarray(starts, np.int64),
        device.asarray([paces[i].rate for i in first], np.float64),
        device.asarray([paces[i].decay for i in first], np.float64),
        device.zeros(values.shape, np.uint16) if is_narrow else None,
        tuple(node.name for node in early),
    )
    made.renew_shadow()
    return made


def lower(
    network: Network,
    feed: Feed,
    store: Store,
    batch: int,
    mode: Mode,
    *,
    optimizer: Optimizer | None = None,
    schedule: np.ndarray | None = None,
    clip_norm: float | None = None,
    seed: int = 0,
    micro_batch: int | None = None,
    planned: int | None = None,
) -> LaunchList:
    """The launch list of one step of `batch` rows; `train` wants an optimiser and a schedule
    (S+1, 3): learning rate, decay and share of dropout of each step. `planned`: steps of the run
    before any were added, by which CUDA chooses how it runs the list; None for any number.

    With fewer rows in a `micro_batch` the step takes one after the other and adds their gradients
    up: the same step, but for rounding, in less memory. TypeError for a network that mixes rows.
    """
    device, dtype = store.device, str(store.values.dtype)
    rows = batch if micro_batch is None else min(micro_batch, batch)
    work = _Lowering(network.graph, feed, store, rows, mode == "train", dtype)
    hyper, table = np.zeros(16), np.zeros((1, 3)) if schedule is None else schedule
    hyper[[CLIP, SCALE, LIMIT]] = 1.0, 1.0, clip_norm or 0.0
    if optimizer is not None:
        hyper[[BETA1, BETA2, EPSILON]] = optimizer.beta1, optimizer.beta2, optimizer.epsilon
    work.hyper.array = device.asarray(hyper)
    work.table = work.outside("schedule", device.asarray(table))
    work.key = work.outside("key", device.asarray([seed, Purpose.DROPOUT], np.uint64))
    work.open(batch)
    for node in network.graph.nodes:
        work.forward(node, stop_at=network.prediction if feed.y is None else None)
    if optimizer is not None:
        if clip_norm is None and rows == batch:
            work.move_early(optimizer)
        for node in reversed(network.graph.nodes):
            work.backward(node)
        gradient = work.whole_gradient(batch)
        work.update(optimizer, gradient, clip=clip_norm is not None)
    return work.bind(network.prediction, batch, planned)


class _Lowering:
    """The walk: what is emitted so far, and where each node's value and gradient lie.

    `shapes` are those of nodes' values, lowered or not, without what lies beside them in a slot;
    `wanting` the nodes whose gradient has somewhere to go. `firsts` has the first column of those
    that are windows of wider slots, `narrow` the bfloat16 copies that products read; `repeated`
    which launches a micro-batch takes, and how many of them a batch has. `early` are the moves of
    weights that do not wait for the whole gradient.
    """

    def __init__(
        self, graph: Graph, feed: Feed, store: Store, batch: int, training: bool, dtype: str
    ) -> None:
        self.graph, self.feed, self.store = graph, feed, store
        self.reads = Counter(source for node in graph.nodes for source in node.inputs)
        self.batch, self.training, self.dtype = batch, training, dtype
        self.launches: list[Launch] = []
        self.values: dict[Node, Slot] = {}
        self.shapes: dict[Node, tuple[int, ...]] = {}
        self.wanting: set[Node] = set()
        self.grads: dict[Node, Slot] = {}
        self.biases: dict[Node, Slot] = {}
        self.saved: dict[Node, tuple[Slot, ...]] = {}
        self.firsts: dict[Node, int] = {}
        self.narrow: dict[Slot, Slot] = {}
        self.closed = False
        device = store.device
        self.seen = device.zeros((CLOCK + TOTALS,), np.int64)
        self.clock = self.outside("clock", self.seen[:CLOCK])
        self.totals = self.outside("totals", self.seen[CLOCK:].view(np.float64))
        self.hyper = self.outside("hyper", device.zeros((16,), np.float64))
        self.table = self.key = self.clock
        self.repeated = slice(0), 1
        self.early: dict[str, Callable[[], None]] = {}
        self.faults: Slot | None = None

    def outside(self, name: str, array: Array) -> Slot:
        """A slot for an array that lives outside the arena."""
        return Slot(name, tuple(array.shape), str(array.dtype), array)

    def slot(self, name: str, shape: Sequence[int], dtype: str | None = None) -> Slot:
        return Slot(name, tuple(shape), dtype or self.dtype)

    def launch(self, kernel: Kernel, *arguments: Any, follows: bool = False) -> None:
        """Emit a kernel; scratch is added where it wants some. `follows`: the one before may do it
        along the way."""
        sizes, outputs, has_work = kernel.sizes(*arguments), kernel.outputs, False
        if kernel.work is not None:
            size = max(1, kernel.work(*arguments))
            arguments = (*arguments, self.slot(f"{kernel.name}.work", (size,)))
            outputs, has_work = (*outputs, "work"), True
        named = dict(zip(kernel.parameters, arguments))
        writes = tuple(named[name] for name in outputs if isinstance(named[name], Slot))
        dropped = None if kernel.dropped is None else kernel.dropped.bind
        given = (kernel.name, arguments, writes, kernel.bind, sizes, has_work)
        self.launches.append(Launch(*given, follows=follows, dropped=dropped))
        for slot in writes:
            self.narrow.pop(slot, None)

    def product(
        self, a: Slot, b: Slot, out: Slot, flip_a: bool = False, flip_b: bool = False
    ) -> None:
        """Emit out = a @ b, with either transposed."""

        def bind(device: Device, a: Array, b: Array, out: Array) -> Callable[[], None]:
            return device.product(a, b, out, flip_a, flip_b)

        if self.store.shadow is not None:
            a, b = self.narrowed(a), self.narrowed(b)
        sizes = (*out.shape, a.shape[0 if flip_a else 1], flip_a | flip_b << 1)
        self.launches.append(Launch("gemm", (a, b, out), (out,), bind, sizes))
        self.narrow.pop(out, None)

    def narrowed(self, slot: Slot) -> Slot:
        """The same in bfloat16; made once, until the slot is written again."""
        if slot.dtype == "uint16":
            return slot
        if slot not in self.narrow:
            copy = self.slot(f"{slot.name}.bf16", slot.shape, "uint16")
            self.launch(REGISTRY["narrow"], slot, copy)
            self.narrow[slot] = copy
        return self.narrow[slot]

    def open(self, batch: int) -> None:
        """Advance the clock, take the next rows."""
        self.launch(REGISTRY["tick"], self.clock, self.hyper, self.table, batch)
        for name, node in self.graph.inputs.items():
            if name == "x":
                self.values[node] = self._input(self.outside("data.x", self.feed.x))
            elif (given := self._given("y" if name == "target" else name)) is not None:
                self.values[node] = self._beside(name, given)
        self.shapes = {node: slot.shape for node, slot in self.values.items()}
        for node in self.graph.nodes:
            self._look_ahead(node)

    def _look_ahead(self, node: Node) -> None:
        """Note a node's shape, unless it is of an input that is not given, and its want of a
        gradient."""
        if node.kind in ("parameter", "constant"):
            self.shapes[node] = node.value.shape
        elif node.gate is not None and all(source in self.shapes for source in node.inputs):
            with suppress(ValueError):  # what does not fit is refused when its turn comes
                self.shapes[node] = node.gate.shape(*(self.shapes[i] for i in node.inputs))
        if node.kind == "parameter" or not self.wanting.isdisjoint(node.inputs):
            self.wanting.add(node)

    def _is_whole(self, data: Slot) -> bool:
        """Whether every batch is all of the data as it lies, so that there is nothing to gather."""
        in_order = self.feed.order is None and len(data) == self.batch
        return in_order and data.dtype in (self.dtype, "int32")

    def _input(self, x: Slot) -> Slot:
        scale, shift = self._given("scale"), self._given("shift")
        if self._is_whole(x) and scale is None and shift is None:
            return x
        slot = self.slot("x", (self.batch, x.shape[1]))
        order = self._given("order")
        self.launch(REGISTRY["gather"], x, scale, shift, order, self.clock, slot)
        return slot

    def _beside(self, name: str, y: Slot) -> Slot:
        """The targets of the batch, or its weights."""
        if self._is_whole(y):
            return y
        order, is_label = self._given("order"), y.dtype == "int32"
        slot = self.slot(name, (self.batch, *y.shape[1:]), "int32" if is_label else None)
        if y.ndim == 1:
            kernel = REGISTRY["gather_labels" if is_label else "gather_weights"]
            self.launch(kernel, y, order, self.clock, slot)
        else:
            self.launch(REGISTRY["gather"], y, None, None, order, self.clock, slot)
        return slot

    def _given(self, name: str) -> Slot | None:
        array = getattr(self.feed, name)
        return None if array is None else self.outside(f"data.{name}", array)

    def forward(self, node: Node, stop_at: Node | None) -> None:
        """Emit a node's value; nothing after `stop_at` is emitted."""
        if node.kind == "parameter":
            self._refuse_branch(node)
            slot = self.values[node] = self.store.slot(node.name)
            if self.store.shadow is not None:
                self.narrow[slot] = self.store.slot(node.name, "shadow")
        elif node.gate is not None and not self.closed:
            self._refuse_branch(node)
            _WAYS[_kind(node)][0](self, node)
            self.closed = node is stop_at

    def backward(self, node: Node) -> None:
        """Emit the gradients of a node's inputs, from its own."""
        if node.gate is not None and (node in self.grads or isinstance(node.gate, gates.Loss)):
            _WAYS[_kind(node)][1](self, node)

    def _refuse_branch(self, node: Node) -> None:
        """Only windows of the data may be read twice: other values are overwritten in place, and
        no launch adds gradients up."""
        count = self.reads[node]
        if count > 1 and (node in self.wanting or not self.is_window(node)):
            raise TypeError(f"no launch for {node.name}, which is read {count} times")

    def is_window(self, node: Node) -> bool:
        """Whether a node is columns that all who read them find in the wider slot."""
        is_columns = isinstance(node.gate, gates.Columns)
        return is_columns and all(isinstance(user.gate, _WINDOWED) for user in self.users(node))

    def is_narrow(self, node: Node) -> bool:
        """Whether the value and the gradient of a ReLU go from products to products alone."""
        if self.store.shadow is None or not isinstance(node.gate, gates.ReLU):
            return False
        (source,) = node.inputs
        below = source.inputs[0] if source in self.biases else source
        around = [below, *self.users(node)]
        return all(isinstance(each.gate, gates.MatMul) for each in around)

    def users(self, node: Node) -> list[Node]:
        return [other for other in self.graph.nodes if node in other.inputs]

    def joined(self, node: Node) -> Slot:
        """Where the parts of a Concatenate lie side by side."""
        if node not in self.values:
            self.values[node] = self.slot(node.name, self.shapes[node])
        return self.values[node]

    def parts(self, node: Node) -> Iterator[tuple[Node, int, int]]:
        """The parts of a Concatenate: which, its first column, how many."""
        widths = [self.shapes[part][1] for part in node.inputs]
        return zip(node.inputs, accumulate(widths, initial=0), widths)

    def windows(self, node: Node) -> tuple[int, int]:
        """The first columns of what a node reads and of itself, in their slots."""
        return self.firsts.get(node.inputs[0], 0), self.firsts.get(node, 0)

    def place(self, node: Node) -> Slot:
        """Where a node's value is written: in the Concatenate that reads it, or alone."""
        users = self.users(node)
        if [type(user.gate) for user in users] != [gates.Concatenate]:
            self.values[node] = self.slot(node.name, self.shapes[node])
        else:
            self.values[node] = self.joined(users[0])
            self.firsts[node] = next(at for part, at, _ in self.parts(users[0]) if part is node)
        return self.values[node]

    def gradient(self, node: Node) -> Slot:
        """Where a node's gradient is written: the flat vector for parameters."""
        if node.kind == "parameter":
            return self.store.slot(node.name, "gradient")
        value = self.values[node]
        return self.slot(f"{node.name}.grad", value.shape)

    def whole_gradient(self, batch: int) -> Slot:
        """Where the gradient of a batch comes to lie; of micro-batches it is summed up there."""
        gradient = self.outside("grads", self.store.gradient)
        if batch == self.batch:
            return gradient
        for node in self.graph.nodes:
            is_loss = isinstance(node.gate, gates.Loss)
            if node.gate is not None and node.gate.mixes_rows and not is_loss:
                raise TypeError(f"no micro-batches: {node.name} mixes rows")
        total = self.outside("total", self.store.device.zeros(gradient.shape, self.dtype))
        self.launch(REGISTRY["accumulate"], gradient, total, self.clock)
        self.launch(REGISTRY["micro_batch"], self.clock, self.batch, batch)
        self.repeated = slice(1, len(self.launches)), -(-batch // self.batch)
        return total

    def move_early(self, optimizer: Optimizer) -> None:
        """Have large weights move as soon as their gradient is there and nothing reads them any
        more, beside what is left of the way back."""
        found = self.store.device.zeros((len(self.store.early),), np.int64)
        self.faults = self.outside("faults", found) if self.store.early else None
        gradient = self.outside("grads", self.store.gradient)
        for i, name in enumerate(self.store.early):
            part, faults = self.store.views[name][0], self.outside("faults", found[i : i + 1])
            self.early[name] = partial(self._move, optimizer, gradient, part, faults)

    def update(self, optimizer: Optimizer, gradient: Slot, clip: bool) -> None:
        """Emit the move of all parameters that have not moved, at once."""
        if clip:
            squared = self.slot("squared_norm", (1,), "float64")
            self.launch(REGISTRY["squared_norm"], gradient, squared)
            self.launch(REGISTRY["clip"], squared, self.hyper)
        left = [at.start for name, (at, _) in self.store.views.items() if name not in self.early]
        self._move(optimizer, gradient, slice(min(left), gradient.size), None)
        if self.faults is not None:
            self.launch(REGISTRY["show_faults"], self.faults, self.clock)

    def _move(self, optimizer: Optimizer, gradient: Slot, part: slice, faults: Slot | None) -> None:
        """Emit the move of a part of the vectors; `faults`: where those that it finds wait."""
        store, kernel = self.store, optimizer.kernel
        vectors = {"params": store.values, "grads": gradient.array}
        vectors |= {f"state{i}": each for i, each in enumerate(store.state)}
        if store.shadow is not None:
            kernel, vectors["shadow"] = REGISTRY[f"{kernel.name}_narrow"], store.shadow
        is_whole = part == slice(0, gradient.size)
        arrays = [each if is_whole else each[part] for each in vectors.values()]
        given = [*map(self.outside, vectors, arrays)]
        names = ("starts", "rates", "decays")
        given += map(self.outside, names, store.segments(part))
        self.launch(kernel, *given, self.hyper, self.clock, faults)
        if faults is not None:
            moves = self.launches[-1]
            writes = tuple(slot for slot in moves.writes if slot is not self.clock)
            self.launches[-1] = replace(moves, writes=writes)

    def bind(self, prediction: Node, batch: int, planned: int | None) -> LaunchList:
        """Give every slot its place, and every launch its arrays. Micro-batches find the slots of
        the one before them."""
        device, library = self.store.device, self._library()
        if library is not None:
            self.launches = [launch.without_work for launch in self.launches]
        self.values[prediction].array = None
        part, times = self.repeated
        if device.branches > 1:
            cuts = (part.start or 0, part.stop)
            self.launches = branches.divided(self.launches, cuts, device.address)
        places, total = plan(self.launches, (self.values[prediction],), reuse=library is None)
        arena = device.empty((max(1, total),), np.uint8)
        for slot, offset in places.items():
            place = arena[offset : offset + slot.nbytes]
            slot.array = place.view(slot.dtype).reshape(slot.shape)
        self.launches[part] = self.launches[part] * times
        calls, turns = fusion.bound(self.launches, device) if library is None else ([], [])
        send, seen = device.watch(self.seen)
        return LaunchList(
            self.launches,
            calls,
            device,
            self.feed,
            batch,
            self.batch,
            self.clock.array,
            self.hyper.array,
            self.totals.array,
            self.values[prediction],
            total,
            send,
            seen,
            None if library is None else self._program(library),
            self._replay(calls, turns, planned) if library is None else None,
        )

    def _replay(
        self, calls: Sequence[Run], turns: Sequence[Turn], planned: int | None
    ) -> Callable[[int], None] | None:
        """What is quicker than the calls one by one."""
        graphs = self.store.device.replay(calls, turns)
        return persistent.bound(self.launches, self.store, graphs, planned) or graphs

    def _library(self) -> native.Library | None:
        """The native loops, if the device wants them and they cover the list."""
        device = self.store.device
        if device.kind != "cpu" or device.kernels == "numpy":
            return None
        try:
            library = native.load()
            native.check(library, sorted({launch.name for launch in self.launches}), self.dtype)
        except Unavailable:
            if device.kernels == "native":
                raise
            return None
        return library

    def _program(self, library: native.Library) -> native.Program:
        device, steps = self.store.device, [launch.step for launch in self.launches]
        team = native.team_for(self.batch, device.threads, steps, device.split)
        if device.deterministic:
            team = native.fixed_team(self.batch, device.threads)
        scalars = self.clock.array, self.hyper.array, self.store.gradient
        return native.Program(library, steps, *scalars, self.batch, team)


def _kind(node: Node) -> type:
    for kind in _WAYS:
        if isinstance(node.gate, kind):
            return kind
    raise TypeError(f"no launch for the gate {node.op}")


def _matmul_forward(work: _Lowering, node: Node) -> None:
    x, w = (work.values[i] for i in node.inputs)
    out = work.values[node] = work.slot(node.name, (x.shape[0], w.shape[1]))
    work.product(x, w, out)


def _matmul_backward(work: _Lowering, node: Node) -> None:
    (x, w), grad = node.inputs, work.grads[node]
    work.product(work.values[x], grad, work.gradient(w), flip_a=True)
    if x in work.wanting:
        dx = work.grads[x] = work.gradient(x)
        work.product(grad, work.values[w], dx, flip_b=True)
    if w.name in work.early:
        work.early[w.name]()


def _add_forward(work: _Lowering, node: Node) -> None:
    """A bias: left to the activation behind it where there is one."""
    z, bias = node.inputs
    users = work.users(node)
    if len(users) == 1 and isinstance(users[0].gate, gates.Activation | gates.Parametric):
        work.values[node] = work.values[z]
        work.biases[node] = work.values[bias]
    else:
        slot = work.values[node] = work.values[z]
        work.launch(REGISTRY["identity_forward"], slot, work.values[bias], slot)


def _add_backward(work: _Lowering, node: Node) -> None:
    z, bias = node.inputs
    grad = work.grads[z] = work.grads[node]
    if node not in work.biases:
        work.launch(REGISTRY["column_sums"], grad, work.gradient(bias))


def _activation_forward(work: _Lowering, node: Node) -> None:
    gate, (source,) = node.gate, node.inputs
    assert isinstance(gate, gates.Activation)
    z, bias = work.values[source], work.biases.get(source)
    if work.is_narrow(node):
        y = work.values[node] = work.slot(node.name, z.shape, "uint16")
        bias = None if bias is None else work.narrowed(bias)
        work.launch(narrow.RELU[0], z, bias, y, follows=True)
        return
    keeps_z = work.training and "inputs" in gate.saves
    y = work.slot(node.name, z.shape) if keeps_z or source.gate is None else z
    work.values[node] = y
    work.saved[node] = (z,)
    work.launch(gate.pair[0], z, bias, y)


def _activation_backward(work: _Lowering, node: Node) -> None:
    gate, (source,), grad = node.gate, node.inputs, work.grads[node]
    assert isinstance(gate, gates.Activation)
    bias = work.biases.get(source)
    dbias = None if bias is None else work.gradient(source.inputs[1])
    if work.is_narrow(node):
        dz = work.grads[source] = work.slot(f"{node.name}.dz", grad.shape, "uint16")
        work.launch(narrow.RELU[1], grad, work.values[node], dz, dbias)
        return
    (z,) = work.saved[node]
    work.grads[source] = grad
    work.launch(gate.pair[1], grad, z, bias, work.values[node], grad, dbias)


def _parametric_forward(work: _Lowering, node: Node) -> None:
    gate, (source, share) = node.gate, node.inputs
    assert isinstance(gate, gates.Parametric)
    z, bias = work.values[source], work.biases.get(source)
    y = work.slot(node.name, z.shape) if work.training or source.gate is None else z
    work.values[node] = y
    work.launch(gate.pair[0], z, bias, work.values[share], y)


def _parametric_backward(work: _Lowering, node: Node) -> None:
    gate, (source, share), grad = node.gate, node.inputs, work.grads[node]
    assert isinstance(gate, gates.Parametric)
    bias = work.biases.get(source)
    dbias = None if bias is None else work.gradient(source.inputs[1])
    work.grads[source] = grad
    given = (grad, work.values[source], bias, work.values[share])
    work.launch(gate.pair[1], *given, grad, dbias, work.gradient(share))


def _scale_forward(work: _Lowering, node: Node) -> None:
    """A product with one factor a column."""
    x, scale = (work.values[i] for i in node.inputs)
    y = work.values[node] = work.slot(node.name, x.shape)
    work.launch(REGISTRY["scale_forward"], x, scale, y)


def _scale_backward(work: _Lowering, node: Node) -> None:
    (x, scale), grad = node.inputs, work.grads[node]
    if x in work.wanting:
        work.grads[x] = grad
    given = (grad, work.values[x], work.values[scale])
    work.launch(REGISTRY["scale_backward"], *given, work.grads.get(x), work.gradient(scale))


def _columns_forward(work: _Lowering, node: Node) -> None:
    gate, (source,) = node.gate, node.inputs
    assert isinstance(gate, gates.Columns)
    x, first = work.values[source], work.firsts.get(source, 0) + gate.first
    if work.is_window(node):
        work.values[node], work.firsts[node] = x, first
    else:
        y = work.values[node] = work.slot(node.name, work.shapes[node])
        work.launch(REGISTRY["copy_columns"], x, y, first, 0, y.shape[1])


def _columns_backward(work: _Lowering, node: Node) -> None:
    """Nothing for the data; of what has a gradient, the other columns would need theirs."""
    if node in work.wanting:
        raise TypeError(f"no launch for the gradient of {node.inputs[0].name} by some columns")


def _concatenate_forward(work: _Lowering, node: Node) -> None:
    gate, y = node.gate, work.joined(node)
    assert isinstance(gate, gates.Concatenate)
    if gate.axis not in (-1, 1):
        raise TypeError(f"no launch for a join along axis {gate.axis}")
    for part, first, width in work.parts(node):
        x = work.values[part]
        if x is not y:
            work.launch(REGISTRY["copy_columns"], x, y, work.firsts.get(part, 0), first, width)


def _concatenate_backward(work: _Lowering, node: Node) -> None:
    grad = work.grads[node]
    for part, first, width in work.parts(node):
        if work.values[part] is work.values[node]:
            work.grads[part] = grad
        elif part in work.wanting:
            own = work.grads[part] = work.gradient(part)
            work.launch(REGISTRY["copy_columns"], grad, own, first, 0, width)


def _periodic_forward(work: _Lowering, node: Node) -> None:
    given, y = [work.values[i] for i in node.inputs], work.place(node)
    work.launch(REGISTRY["periodic_forward"], *given, y, *work.windows(node))


def _periodic_backward(work: _Lowering, node: Node) -> None:
    x, *waves = node.inputs
    given = (work.values[i] for i in node.inputs[:-1])
    dx = None
    if x in work.wanting:
        dx = work.grads[x] = work.gradient(x)
    parts = (dx, *map(work.gradient, waves))
    work.launch(
        REGISTRY["periodic_backward"], work.grads[node], *given, *parts, *work.windows(node)
    )


def _piecewise_forward(work: _Lowering, node: Node) -> None:
    gate, x = node.gate, work.values[node.inputs[0]]
    assert isinstance(gate, gates.Piecewise)
    names = ("feature", "low", "slope")
    work.saved[node] = tuple(
        work.outside(f"{node.name}.{name}", work.store.device.asarray(each))
        for name, each in zip(names, gate.constants(work.dtype))
    )
    y = work.place(node)
    work.launch(REGISTRY["piecewise_forward"], x, *work.saved[node], y, *work.windows(node))


def _piecewise_backward(work: _Lowering, node: Node) -> None:
    (x,), (features,) = node.inputs, work.shapes[node.inputs[0]][1:]
    if x not in work.wanting:
        return
    dx = work.grads[x] = work.gradient(x)
    given = (work.grads[node], work.values[x], *work.saved[node], dx)
    work.launch(REGISTRY["piecewise_backward"], *given, *work.windows(node), features)


def _embedding_forward(work: _Lowering, node: Node) -> None:
    gate, (codes, table) = node.gate, node.inputs
    assert isinstance(gate, gates.Embedding)
    starts = work.store.device.asarray(gate.starts, np.int32)
    work.saved[node] = (work.outside(f"{node.name}.starts", starts),)
    given = (work.values[codes], *work.saved[node], work.values[table], work.place(node))
    work.launch(REGISTRY["embedding_forward"], *given, *work.windows(node))


def _embedding_backward(work: _Lowering, node: Node) -> None:
    codes, table = node.inputs
    given = (work.grads[node], work.values[codes], *work.saved[node], work.gradient(table))
    work.launch(REGISTRY["embedding_backward"], *given, *work.windows(node))


def _dropout_forward(work: _Lowering, node: Node) -> None:
    x = work.values[node.inputs[0]]
    work.values[node] = x
    if work.training:
        work.values[node] = work.slot(node.name, x.shape)
        _dropout(work, node, x, work.values[node])


def _dropout_backward(work: _Lowering, node: Node) -> None:
    grad = work.grads[node.inputs[0]] = work.grads[node]
    _dropout(work, node, grad, grad)


def _dropout(work: _Lowering, node: Node, x: Slot, y: Slot) -> None:
    gate = node.gate
    assert isinstance(gate, gates.Dropout)
    rate = work.outside("rate", work.store.device.asarray([gate.rate], work.dtype))
    given = (x, rate, work.hyper, work.key, work.clock, gate.layer)
    work.launch(REGISTRY["dropout"], *given, y)


def _layer_norm_forward(work: _Lowering, node: Node) -> None:
    x, gain, shift = (work.values[i] for i in node.inputs)
    y = work.values[node] = work.slot(node.name, x.shape)
    saved = work.saved[node] = tuple(
        work.slot(f"{node.name}.{name}", x.shape[:1]) for name in ("mean", "rstd")
    )
    work.launch(REGISTRY["layer_norm_forward"], x, gain, shift, y, *saved)


def _layer_norm_backward(work: _Lowering, node: Node) -> None:
    (x, gain, shift), grad = node.inputs, work.grads[node]
    work.grads[x] = grad
    parts = (work.gradient(gain), work.gradient(shift))
    given = (work.values[x], work.values[gain], *work.saved[node])
    work.launch(REGISTRY["layer_norm_backward"], grad, *given, grad, *parts)


def _batch_norm_forward(work: _Lowering, node: Node) -> None:
    x, gain, shift = (work.values[i] for i in node.inputs)
    y = work.values[node] = work.slot(node.name, x.shape)
    running = tuple(
        work.outside(f"{node.name}.{name}", work.store.statistics[f"{node.name}.{name}"])
        for name in ("running_mean", "running_var")
    )
    if not work.training:
        work.launch(REGISTRY["batch_norm_apply"], x, gain, shift, *running, y)
        return
    saved = work.saved[node] = tuple(
        work.slot(f"{node.name}.{name}", x.shape[1:]) for name in ("mean", "rstd")
    )
    work.launch(REGISTRY["batch_norm_forward"], x, gain, shift, *running, work.clock, y, *saved)


def _batch_norm_backward(work: _Lowering, node: Node) -> None:
    (x, gain, shift), grad = node.inputs, work.grads[node]
    work.grads[x] = grad
    parts = (work.gradient(gain), work.gradient(shift))
    given = (work.values[x], work.values[gain], *work.saved[node], work.clock)
    work.launch(REGISTRY["batch_norm_backward"], grad, *given, grad, *parts)


def _loss_forward(work: _Lowering, node: Node) -> None:
    gate, (pred, target, *weight) = node.gate, node.inputs
    assert isinstance(gate, gates.Loss)
    logits = work.values[pred]
    parameter = work.store.device.asarray(gate.constants(logits.shape[1]), work.dtype)
    if work.training:
        work.grads[pred] = work.gradient(pred)
    work.launch(
        gate.kernel,
        logits,
        work.values[target],
        work.values[weight[0]] if weight else None,
        work.outside("parameter", parameter),
        work.clock,
        work.grads.get(pred),
        work.slot("rows", (work.batch,)),
        work.totals,
    )


def _loss_backward(work: _Lowering, node: Node) -> None:
    """Nothing: the loss's kernel wrote the gradient with the value."""


_Way = Callable[[_Lowering, Node], None]
_WAYS: dict[type, tuple[_Way, _Way]] = {
    gates.MatMul: (_matmul_forward, _matmul_backward),
    gates.Add: (_add_forward, _add_backward),
    gates.Activation: (_activation_forward, _activation_backward),
    gates.Parametric: (_parametric_forward, _parametric_backward),
    gates.Multiply: (_scale_forward, _scale_backward),
    gates.Columns: (_columns_forward, _columns_backward),
    gates.Concatenate: (_concatenate_forward, _concatenate_backward),
    gates.Periodic: (_periodic_forward, _periodic_backward),
    gates.Piecewise: (_piecewise_forward, _piecewise_backward),
    gates.Embedding: (_embedding_forward, _embedding_backward),
    gates.Dropout: (_dropout_forward, _dropout_backward),
    gates.LayerNorm: (_layer_norm_forward, _layer_norm_backward),
    gates.BatchNorm: (_batch_norm_forward, _batch_norm_backward),
    gates.Loss: (_loss_forward, _loss_backward),
}
"""How a gate is lowered, forward and backward."""
_WINDOWED = (gates.Columns, gates.Concatenate, gates.Periodic, gates.Piecewise, gates.Embedding)
"""Gates that read a window of a slot where it is."""
