"""First weights fitted to the data, layer by layer; Holzmüller et al., 2024 (RealMLP).

Each unit's pre-activation gets variance 1 over the rows, and a bias by which it is 0 near rows that
there are: the activation bends where the data lie. Over few different rows the variance may be
less.
"""

import numpy as np

from gpunet import gates
from gpunet.graph import Node
from gpunet.model import Network
from gpunet.random import Purpose, stream

ROWS, LEAST_ROWS, VALUES = 2048, 16, 1 << 25
"""Of the training part, drawn for the fit; of layers so wide that their values would be more than
these, fewer rows, but some."""
NEAR, TINY = 5, 1e-12
"""Rows that a bias is a mean of; no variance to divide by."""


def fit(network: Network, x: np.ndarray, seed: int) -> None:
    """Scale the weights of products and set their biases from rows x (n, d) of the network's
    input, in place."""
    kept = {name: array.copy() for name, array in network.statistics.items()}
    graph, x = network.graph, np.asarray(x, np.float64)
    graph.inputs["x"].value = x
    directions = max(1, len({row.tobytes() for row in x}) - 1)
    last = graph.nodes.index(network.prediction)
    found = [node for node in graph.nodes[: last + 1] if node.gate is not None]
    for layer, node in enumerate(found):
        if isinstance(node.gate, gates.MatMul):
            _scale(node, directions)
        elif isinstance(node.gate, gates.Add):
            _shift(node, stream(seed, Purpose.INIT, step=1, layer=layer))
        _forward(node)
        _forget(node, found[layer + 1 :])
    graph.inputs["x"].value = network.prediction.value = None
    network.load({**network.weights, **kept})


def sample(rows: int, widest: int, seed: int) -> np.ndarray:
    """The numbers, ascending, of the rows to fit layers to that are so wide at most."""
    count = min(ROWS, max(LEAST_ROWS, VALUES // widest))
    drawn = stream(seed, Purpose.INIT, step=2).permutation(rows)[:count]
    return np.sort(drawn)


def _forward(node: Node) -> None:
    assert node.gate is not None
    node.gate.training = not isinstance(node.gate, gates.Dropout)
    node.value = node.gate.forward(*(i.value for i in node.inputs))
    node.gate.training = True


def _forget(node: Node, later: list[Node]) -> None:
    """Let go of what no later gate reads: of wide layers it is many times the weights."""
    assert node.gate is not None
    node.gate.forget()
    for each in node.inputs:
        if each.gate is not None and not any(each in user.inputs for user in later):
            each.value = None


def _scale(node: Node, directions: int) -> None:
    """Rows that differ in one direction v spread a unit by |w·v|, of many units by next to nothing
    for some, whose weights would become enormous across v: a spread is taken for no less than
    inputs that vary one by one have, over the directions. In several hardly any is."""
    x, weight = node.inputs
    spread = (x.value @ weight.value).std(axis=0)
    one_by_one = np.sqrt(x.value.var(axis=0) @ weight.value**2)
    spread = np.maximum(spread, one_by_one / directions)
    weight.value = weight.value / np.where(spread > TINY, spread, 1.0)


def _shift(node: Node, rng: np.random.Generator) -> None:
    z, bias = node.inputs
    n, units = z.value.shape
    rows = rng.integers(0, n, (NEAR, units))
    shares = rng.standard_exponential((NEAR, units))
    near = z.value[rows, np.arange(units)]
    bias.value = -(shares * near).sum(axis=0) / shares.sum(axis=0)
