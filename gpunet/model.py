"""A network as a graph: layers of gates from input to loss, with their first weights.

Knows settings and sizes; knows no data, no device and no file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import inf, log, nan, pi, sqrt
from typing import NamedTuple

import numpy as np

from gpunet import formula, fuse, gates
from gpunet.config import Config
from gpunet.data import Layout
from gpunet.errors import UsageError
from gpunet.gates import ACTIVATIONS, LOSSES
from gpunet.graph import Gate, Graph, Node
from gpunet.random import Purpose, stream

TASK_LOSSES = {
    "multiclass": ("softmax_cross_entropy",),
    "binary": ("sigmoid_cross_entropy",),
    "multilabel": ("sigmoid_cross_entropy",),
    "regression": ("mean_squared", "sum_squares", "mean_absolute", "huber", "pinball"),
    "count": ("poisson",),
}


class Pace(NamedTuple):
    """How quickly a parameter moves: a factor on the learning rate, and one on weight decay."""

    rate: float = 1.0
    decay: float = 1.0


SCALE_PACE, BIAS_PACE, SHARE_PACE = Pace(6.0, 6.0), Pace(0.1, 0.0), Pace(0.1, 0.1)
"""Of the factors of inputs, biases under the neural tangent parametrisation, and shares of
activations; Holzmüller et al., 2024 (RealMLP)."""
WAVES, WAVE_OUTPUTS, WAVE_SPREAD, WAVE_PACE = 16, 3, 0.1, Pace(0.1, 0.1)
"""Of each number: waves, what they are mixed to, the deviation of their first frequencies."""
EMBEDDING_WIDTH = 8
"""Of a category's rows."""
BIN_SCALE = 5 / 3
"""The first factor of a bin, which is 0 to 1: a one-hot input is 0 or about so much."""
TINY = 1e-15
"""The least probability that a mean keeps."""
MOST_LOG = 709.0
"""Of a count: exp of more is infinite."""
BLOCK = 1 << 18
"""Values of each member that are combined at a time: all of them take up memory as float64."""


@dataclass(frozen=True, eq=False)
class Network:
    """A graph from the input `x` (n, d) to `loss`, by way of the `prediction` (n, k).

    `paces` are those of parameters by name; of the others the weights of products alone decay.
    The loss takes the `target` and, of a run with weights, each row's `weight` (n,).
    """

    graph: Graph
    prediction: Node
    paces: Mapping[str, Pace] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Every array that predicting needs, by name: parameters and running statistics."""
        found = {name: node.value for name, node in self.graph.parameters.items()}
        return {**found, **self.statistics}

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """The running figures of the batch norms, by name."""
        return {
            f"{node.name}.{name}": getattr(node.gate, name)
            for node in self.graph.nodes
            if isinstance(node.gate, gates.BatchNorm)
            for name in ("running_mean", "running_var")
        }

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Take arrays of the same names and shapes; ValueError says which differ."""
        mine, given = ({n: w.shape for n, w in of.items()} for of in (self.weights, weights))
        if wrong := sorted(n for n in {*mine, *given} if mine.get(n) != given.get(n)):
            raise ValueError(f"weights that do not fit the network: {', '.join(wrong[:5])}")
        for name, node in self.graph.parameters.items():
            node.value = weights[name]
        for name in self.statistics:
            owner, _, which = name.rpartition(".")
            setattr(self.graph.node(owner).gate, which, weights[name])


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Networks whose predictions are averaged; one alone is an ensemble too."""

    networks: tuple[Network, ...]

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Every array that predicting needs, by name: `memberN.` before it if there are several."""
        return {
            label + name: array
            for label, network in self._labelled()
            for name, array in network.weights.items()
        }

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take arrays of the same names and shapes; ValueError says which differ."""
        if foreign := sorted(weights.keys() - self.weights.keys()):
            raise ValueError(f"weights that do not fit the network: {', '.join(foreign[:5])}")
        for label, network in self._labelled():
            mine = {n: weights[label + n] for n in network.weights if label + n in weights}
            network.load(mine)

    def _labelled(self) -> Iterable[tuple[str, Network]]:
        return zip(labels(len(self.networks)), self.networks, strict=True)


def labels(count: int) -> list[str]:
    """What stands before the names of each of `count` networks' arrays."""
    return [""] if count == 1 else [f"member{i}." for i in range(1, count + 1)]


def build(config: Config, inputs: int | Layout, outputs: int, task: str) -> Network:
    """A fresh network of d = `inputs` and k = `outputs`; its weights follow from the seed.

    Of a Layout, numbers may take waves and bins, and codes take their embeddings.

    `config` is resolved: no `auto` among hidden, activation, init, loss.
    """
    made = _Builder(config)
    graph = made.graph
    layout = Layout(0, inputs, ()) if isinstance(inputs, int) else inputs
    h, width = made.inputs(graph.input("x"), layout), input_width(config, layout)
    if config.input_scale:
        h = made.scale(h, layout)
    assert config.hidden != "auto"
    for i, units in enumerate(config.hidden, 1):
        h = made.hidden(h, i, width, units)
        width = units
    prediction = made.linear(h, "output", width, outputs, len(config.hidden) + 1)
    gate = loss(config.loss, task, config.label_smoothing, config.quantiles)
    given = [graph.input("target")]
    given += [graph.input("weight")] if config.is_weighted else []
    graph.output = graph.apply(gate, prediction, *given, name="loss")
    return Network(graph, prediction, made.paces)


def input_width(config: Config, layout: Layout) -> int:
    """The inputs of the first layer."""
    more = WAVE_OUTPUTS if config.has_waves else 0
    return (
        layout.numeric * (1 + more)
        + layout.plain
        + (layout.bins if config.has_bins else 0)
        + len(layout.codes) * EMBEDDING_WIDTH
    )


class _Builder:
    """A graph in the making, and the paces of its parameters."""

    def __init__(self, config: Config) -> None:
        self.config, self.graph = config, Graph()
        self.paces: dict[str, Pace] = {}

    def parameter(self, name: str, value: np.ndarray, pace: Pace | None = None) -> Node:
        if pace is not None:
            self.paces[name] = pace
        return self.graph.parameter(name, value)

    def inputs(self, x: Node, layout: Layout) -> Node:
        """What the first layer takes: x, or its parts with their embeddings."""
        numeric, plain, codes = layout.numeric, layout.plain, len(layout.codes)
        waves = numeric if self.config.has_waves else 0
        bins = layout.bins if self.config.has_bins else 0
        if not waves and not bins and not codes:
            return x
        numbers = self.columns(x, "numbers", 0, numeric) if waves or bins else x
        parts = []
        if waves:
            parts.append(self.waves(numbers, waves))
        if numeric + plain > waves:
            parts.append(self.columns(x, "plain", waves, numeric + plain))
        if bins:
            gate = gates.Piecewise(layout.knots)
            parts.append(self.graph.apply(gate, numbers, name="bins"))
        if codes:
            last = self.columns(x, "codes", numeric + plain, layout.width)
            parts.append(self.embedding(last, layout.codes))
        return self.graph.apply(gates.Concatenate(), *parts, name="inputs")

    def columns(self, x: Node, name: str, first: int, stop: int) -> Node:
        return self.graph.apply(gates.Columns(first, stop), x, name=name)

    def waves(self, x: Node, features: int) -> Node:
        """PBLD: see gates.Periodic."""
        rng, shape = stream(self.config.seed, Purpose.INIT, step=3), (features, WAVES)
        bound = 1 / sqrt(WAVES)
        first = {
            "frequency": rng.normal(0, WAVE_SPREAD, shape),
            "phase": rng.uniform(-pi, pi, shape),
            "weight": rng.uniform(-bound, bound, (*shape, WAVE_OUTPUTS)),
            "bias": rng.uniform(-bound, bound, (features, WAVE_OUTPUTS)),
        }
        nodes = [self.parameter(f"waves.{n}", value, WAVE_PACE) for n, value in first.items()]
        return self.graph.apply(gates.Periodic(), x, *nodes, name="waves")

    def embedding(self, codes: Node, rows: tuple[int, ...]) -> Node:
        """One table after the other, a table a coded column."""
        starts = (0, *accumulate(rows[:-1]))
        rng = stream(self.config.seed, Purpose.INIT, step=4)
        table = rng.standard_normal((sum(rows), EMBEDDING_WIDTH))
        node = self.parameter("embedding.weight", table, Pace())
        return self.graph.apply(gates.Embedding(starts), codes, node, name="embedding")

    def scale(self, h: Node, layout: Layout) -> Node:
        """A learned factor for each input."""
        start = np.ones(input_width(self.config, layout))
        if self.config.has_bins:
            end = len(start) - len(layout.codes) * EMBEDDING_WIDTH
            start[end - layout.bins : end] = BIN_SCALE
        factor = self.parameter("scale", start, SCALE_PACE)
        return self.graph.apply(gates.Multiply(), h, factor, name="scaled")

    def hidden(self, h: Node, i: int, width: int, units: int) -> Node:
        config, graph, name = self.config, self.graph, f"hidden{i}"
        h = self.linear(h, name, width, units, i)
        h = self.norm(h, name, units)
        h = self.activation(h, name, units)
        if config.dropout:
            mask = gates.Dropout(config.dropout, config.seed, layer=i)
            h = graph.apply(mask, h, name=f"{name}.dropout")
        return h

    def linear(self, h: Node, name: str, width: int, units: int, layer: int) -> Node:
        config, graph = self.config, self.graph
        rng = stream(config.seed, Purpose.INIT, layer=layer)
        spread = _spread(config, width, units, is_output=name == "output")
        is_ntk = config.parametrisation == "ntk"
        pace = Pace(1 / sqrt(width), sqrt(width)) if is_ntk else None
        weights = rng.standard_normal((width, units)) * spread
        w = self.parameter(f"{name}.weight", weights, pace)
        h = graph.apply(gates.MatMul(), h, w, name=f"{name}.product")
        is_shifted = config.norm == "batch" and name != "output"  # a bias would have no gradient
        if is_shifted or not config.bias:
            return h
        b = self.parameter(f"{name}.bias", np.zeros(units), BIAS_PACE if is_ntk else None)
        return graph.apply(gates.Add(), h, b, name=f"{name}.sum")

    def norm(self, h: Node, name: str, units: int) -> Node:
        if self.config.norm == "none":
            return h
        gate = gates.LayerNorm() if self.config.norm == "layer" else gates.BatchNorm(units)
        gain = self.parameter(f"{name}.gain", np.ones(units))
        shift = self.parameter(f"{name}.shift", np.zeros(units))
        return self.graph.apply(gate, h, gain, shift, name=f"{name}.norm")

    def activation(self, h: Node, name: str, units: int) -> Node:
        gate = activation(self.config.activation)
        if not self.config.parametric:
            return self.graph.apply(gate, h, name=name)
        if not isinstance(gate, gates.Activation) or self.config.activation not in ACTIVATIONS:
            raise UsageError("--parametric has no meaning for a formula")
        share = self.parameter(f"{name}.share", np.ones(units), SHARE_PACE)
        return self.graph.apply(gates.Parametric(gate), h, share, name=name)


def activation(text: str) -> Gate:
    """The gate of that name, or the big gate of a formula of x."""
    if text in ACTIVATIONS:
        return ACTIVATIONS[text]()
    _check_name("activation", text, ACTIVATIONS, "x")
    return fuse.Activation(formula.elementwise(text, ("x",), "--activation").graph)


def loss(text: str, task: str, smoothing: float = 0.0, quantiles: tuple[float, ...] = ()) -> Gate:
    """The gate of that name, or of a formula of pred and target; UsageError if it cannot serve."""
    name, parameter = _name_and_parameter(text)
    if quantiles and text != "pinball":
        raise UsageError(f"--quantiles and --loss {text} conflict", "leave one of them out")
    if name in LOSSES:
        if name not in TASK_LOSSES[task]:
            fitting = ", ".join(TASK_LOSSES[task])
            raise UsageError(f"--loss {text} does not fit a {task} target", f"use {fitting}")
        if name.endswith("cross_entropy"):
            return LOSSES[name](smoothing)
        if smoothing:
            raise UsageError(f"--label-smoothing has no meaning for --loss {text}")
        return gates.Pinball.of(quantiles) if quantiles else LOSSES[name](parameter)
    _check_name("loss", text, TASK_LOSSES[task], "pred and target")
    if task == "multiclass":
        raise UsageError(f"--loss {text}: a formula does not fit a multiclass target")
    if smoothing:
        raise UsageError("--label-smoothing has no meaning for a formula")
    parsed = formula.elementwise(text, ("pred", "target"), "--loss")
    return fuse.Loss(parsed.graph, is_mean=parsed.reduction == "mean")


def _name_and_parameter(text: str) -> tuple[str, float | None]:
    """`pinball(0.9)` in its parts: a quantile in (0, 1), or a positive delta of huber."""
    found = re.fullmatch(r"(huber|pinball)\(\s*([-+.\deE]+)\s*\)", text)
    if found is None:
        return text, None
    try:
        value = float(found[2])
    except ValueError:
        value = nan
    if not 0 < value < (1 if found[1] == "pinball" else inf):
        wanted = "a quantile between 0 and 1" if found[1] == "pinball" else "a positive delta"
        raise UsageError(f"--loss {text}: wants {wanted}")
    return found[1], value


def _check_name(setting: str, text: str, known: Iterable[str], inputs: str) -> None:
    """A lone word that is no input of the formula is meant as a name."""
    if text.isidentifier() and text not in inputs.split():
        hint = f"use {', '.join(known)}, or a formula of {inputs}"
        raise UsageError(f"--{setting} {text}: no such {setting}", hint)


def outcome(task: str, raw: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What a prediction (n, k) means, float64 (n, k): probabilities, values as they are, counts.

    Logits are divided by the temperature.
    """
    raw = raw.astype(np.float64)
    if task == "regression":
        return raw
    if task == "count":
        return np.exp(np.minimum(raw, MOST_LOG))
    raw /= temperature
    if task == "multiclass":
        e = np.exp(raw - raw.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    e = np.exp(-np.abs(raw))
    return np.where(raw >= 0, 1, e) / (1 + e)


def combined(task: str, raws: Sequence[np.ndarray]) -> np.ndarray:
    """The raw prediction (n, k) of an ensemble: that of its members' mean probability or value."""
    if len(raws) == 1:
        return raws[0]
    count = min(len(raws[0]), -(-raws[0].size // BLOCK))
    parts = zip(*(np.array_split(raw, max(1, count)) for raw in raws), strict=True)
    return np.concatenate([_combined(task, part) for part in parts])


def _combined(task: str, raws: Sequence[np.ndarray]) -> np.ndarray:
    if task == "regression":
        return np.mean(raws, axis=0)
    if task == "count":  # the mean itself may be too large for a float
        return np.logaddexp.reduce(raws, axis=0, dtype=np.float64) - log(len(raws))
    mean = np.mean([outcome(task, raw) for raw in raws], axis=0)
    mean = np.clip(mean, TINY, 1 - TINY)
    return np.log(mean) if task == "multiclass" else np.log(mean / (1 - mean))


def start_at(network: Network, values: tuple[float, ...]) -> None:
    """Have a fresh network predict `values` (k,) for every row, 0 if its output has no bias: exp of
    outputs that first weights throw far off would leave no gradient to come back by."""
    parameters = network.graph.parameters
    parameters["output.weight"].value[...] = 0
    if "output.bias" in parameters:
        parameters["output.bias"].value[...] = values


def default_init(activation: str) -> str:
    """The distribution that keeps the variance through that activation."""
    known = {"sigmoid": "xavier", "tanh": "xavier", "selu": "lecun"}
    return known.get(activation, "he")


def _spread(config: Config, width: int, units: int, is_output: bool) -> float:
    """The standard deviation of the first weights; He 2015, Glorot 2010, LeCun 1998."""
    if config.init == "normal":
        return 1.0
    if is_output or config.init in ("lecun", "data"):
        return sqrt(1 / width)
    return sqrt(2 / width) if config.init == "he" else sqrt(2 / (width + units))
