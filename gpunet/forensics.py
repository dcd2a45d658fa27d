"""Where a run broke: the first value of a step that is not finite, gate by gate.

Works on copies of a batch and of the weights before the step; changes neither.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from gpunet import gates
from gpunet.config import Config
from gpunet.data import Schema
from gpunet.data.words import option
from gpunet.graph import Node
from gpunet.model import Network
from gpunet.optim import OPTIMIZERS

HUGE = 1e6
"""Standardised inputs are near 1: beyond this, the data are to blame."""
FAR = 100
"""Times the optimiser's own learning rate: beyond this, it is that one that is worth a try."""


@dataclass(frozen=True)
class Place:
    """The first value that is not finite, in the order of computing.

    stage: forward, backward or update. node: the value's name in the graph, as `hidden1.product`;
    gate: what computed it. index: its place in the array, from 0; for a value of the batch the
    first is the row in it. count: how many of the array's `size` values are not finite.
    """

    stage: str
    node: str
    gate: str
    index: tuple[int, ...]
    value: float
    count: int
    size: int

    @property
    def is_of_rows(self) -> bool:
        """Whether the array has a row for each of the batch's: not a weight or its gradient."""
        return self.gate != "parameter" and self.stage != "update"

    @property
    def formula(self) -> str:
        """The flag whose formula has no value here, if one has none."""
        if self.stage != "forward":
            return ""
        if self.node == "loss" and self.gate.startswith("formula"):
            return "--loss"
        return "--activation" if self.gate == "activation" else ""


@dataclass(frozen=True)
class Fault:
    """A step that was not made, and what led to it.

    rows (n,): the batch's rows of the training part, and numbers (n,): where they stand in the
    file, as messages count them; x (n, d), y and the weight (n,) of each row's loss: what the
    network was given, and the schema that made it.
    trail: step, loss and learning rate of the last steps before, the faulty one last.
    """

    step: int
    epoch: int
    what: str
    place: Place | None
    rows: np.ndarray
    numbers: np.ndarray
    schema: Schema
    x: np.ndarray
    y: np.ndarray | None
    trail: tuple[dict[str, float], ...]
    weight: np.ndarray | None = None

    @property
    def where(self) -> str:
        """The place in words."""
        place = self.place
        if place is None:
            return f"the {self.what} is not finite"
        found = f"{place.node} ({place.gate}, {place.stage}) is {place.value:g}"
        if not place.index:
            return found
        if not place.is_of_rows:
            return f"{found} at {list(place.index)}"
        columns = "".join(f" in column {column + 1:,}" for column in place.index[1:])
        return f"{found}{columns} for row {self.numbers[place.index[0]]:,} of the data"

    def advice(self, config: Config) -> str:
        """One flag to try."""
        if np.abs(self.x).max(initial=0) > HUGE:
            return self._culprit()
        if self.step == 1 and self.place is not None and self.place.formula:
            return f"try another {self.place.formula}"
        lr, usual = float(config.lr), OPTIMIZERS[config.optimizer].lr
        if lr > FAR * usual:
            return f"try --lr {usual:g}"
        if lr * config.weight_decay > 1:
            return f"try --weight-decay {Config.weight_decay:g}"
        if config.clip_norm is None and self.place is not None and self.place.stage != "forward":
            return "try --clip-norm 1"
        return f"try --lr {lr / 10:g}"

    def _culprit(self) -> str:
        """The input that is far too large, and what to do with its column."""
        row, at = np.unravel_index(int(np.abs(self.x).argmax()), self.x.shape)
        found = f"is {self.x[row, at]:.3g} to the network in row {self.numbers[row]:,}: clean it"
        if not self.schema.columns:
            return f"column {at + 1:,} {found}"
        name = self.schema.owners[at].name
        return f"{name} {found}, or {option('--drop', name)}"


def find(
    network: Network,
    x: np.ndarray,
    y: np.ndarray | None,
    step: int,
    fade: float = 1.0,
    weight: np.ndarray | None = None,
) -> Place | None:
    """The first non-finite value of a training step, forward then backward; None if there is none.

    x (n, d) in the precision of the run, y and weight as the loss wants them; `fade` as the step's
    dropout has it; the network holds the weights before the step. Its batch norms' running figures
    are left as they were.
    """
    graph, kept = network.graph, {n: a.copy() for n, a in network.statistics.items()}
    for node in graph.nodes:
        if isinstance(node.gate, gates.Dropout):
            node.gate.step, node.gate.fade = step, fade
    given = {"x": x, "target": y, "weight": weight}
    graph.forward({name: given[name] for name in graph.inputs})
    found = _first(graph.nodes, "forward", "value")
    if found is None:
        graph.backward()
        found = _first(reversed(graph.nodes), "backward", "grad")
    network.load({**network.weights, **kept})
    return found


def unmoved(before: np.ndarray, after: np.ndarray, grad: np.ndarray, name: str) -> Place | None:
    """The first weight of an array that an update left alone though it has a gradient."""
    still = (before == after) & (grad != 0)
    return _place(still, "update", name, "parameter", np.broadcast_to(np.inf, still.shape))


def _first(nodes: Iterable[Node], stage: str, which: str) -> Place | None:
    for node in nodes:
        array = np.asarray(getattr(node, which))
        if array.dtype.kind != "f" or (stage == "forward" and node.kind == "constant"):
            continue
        if place := _place(~np.isfinite(array), stage, node.name, node.op, array):
            return place
    return None


def _place(wrong: np.ndarray, stage: str, name: str, gate: str, values: np.ndarray) -> Place | None:
    """The first of an array's values that are wrong."""
    if not wrong.any():
        return None
    index = tuple(map(int, np.unravel_index(int(wrong.argmax()), wrong.shape)))
    return Place(stage, name, gate, index, float(values[index]), int(wrong.sum()), wrong.size)
