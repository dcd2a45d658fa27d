"""Linear models of the inputs of a network, on the CPU: ridge in closed form, and any loss by
descent under a penalty that held-out rows choose. Each level of a coded column is an input."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

import numpy as np

from gpunet.data import Dataset, Prepared, Schema
from gpunet.data.rows import BLOCK, blocks
from gpunet.graph import Gate
from gpunet.metrics import TINY
from gpunet.random import Purpose, permutation, stream

MOST_SOLVED, MOST_HELD, FEWEST = 1 << 26, 1 << 24, 100
"""Rows times inputs and outputs that are learnt from, and rows at least; of more some are drawn."""
BYTES = 32
"""Memory for one of those that are held, while they are read."""
RIDGES = np.logspace(-6, 4, 31)
PENALTIES = (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
PATIENCE = 2
"""Penalties that may do worse than one that did well, before the last one is tried."""
FOLDS, JUDGED = 5, 1000
"""Rows that choose a penalty, where there are so many, and the folds they come from."""
STEPS, PAIRS, GAIN, ROUGH = (10, 100), 10, 3e-6, 1e-4
"""Of a descent at most, what it remembers, and the share of the cost below which it is done; that
of one that only chooses a penalty."""
WORK = 1 << 30
"""Rows times inputs and outputs, over all descents, of which steps are cut: some ten seconds."""
ARMIJO, HALVINGS = 1e-4, 20

Predictor = Callable[[Dataset], np.ndarray]
"""Raw predictions (n, k) for a part's rows, as a network gives them."""
Cost = Callable[[np.ndarray], tuple[float, np.ndarray]]
"""The value of parameters (p, k), and its gradient."""


class Inputs(NamedTuple):
    """Rows as a linear model takes them: numbers (n, p), and the place, from p on, of each level
    among the d inputs (n, c)."""

    numbers: np.ndarray
    levels: np.ndarray

    def __matmul__(self, slope: np.ndarray) -> np.ndarray:
        """Outputs (n, k) by a slope (d, k)."""
        numbers = self.numbers
        found = np.dot(numbers, slope[: numbers.shape[1]].astype(numbers.dtype, copy=False))
        return sum((slope[each] for each in self.levels.T), found.astype(np.float64, copy=False))

    def pulled(self, grad: np.ndarray, width: int) -> np.ndarray:
        """The gradient (d, k) of a slope, by that of the outputs (n, k)."""
        found, count = np.empty((width, grad.shape[1])), self.numbers.shape[1]
        found[:count] = np.dot(self.numbers.T, grad.astype(self.numbers.dtype, copy=False))
        places = self.levels.ravel() - count
        for j, each in enumerate(grad.T if len(places) else ()):
            spread = np.repeat(each, self.levels.shape[1])
            found[count:, j] = np.bincount(places, spread, minlength=width - count)
        return found

    def dense(self, width: int) -> np.ndarray:
        """All d inputs (n, d), a level as 0 or 1."""
        found = np.zeros((len(self.numbers), width))
        found[:, : self.numbers.shape[1]] = self.numbers
        found[np.arange(len(found))[:, None], self.levels] = 1
        return found


class Learnt(NamedTuple):
    """Rows with what is learnt from them: targets, and what each row counts (n,)."""

    inputs: Inputs
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> "Learnt":
        inputs = Inputs(*(each[rows] for each in self.inputs))
        return Learnt(inputs, self.y[rows], None if self.weight is None else self.weight[rows])

    def scaled(self, centre: np.ndarray, spread: np.ndarray) -> "Learnt":
        numbers = self.inputs.numbers
        scaled = ((numbers - centre) / spread).astype(numbers.dtype)
        return self._replace(inputs=self.inputs._replace(numbers=scaled))


Pairs = Sequence[tuple[Learnt, Learnt]]
"""Rows to learn from, and rows to judge by what was learnt."""


def width(schema: Schema) -> int:
    """The inputs d of a linear model."""
    layout = schema.layout
    return layout.numeric + layout.plain + sum(layout.codes)


def ridge(prepared: Prepared, seed: int = 0) -> Predictor:
    """Least squares with the penalty of the least generalised cross-validation error (Golub,
    Heath and Wahba, 1979), from the normal equations in float64."""
    schema, part, d = prepared.schema, prepared.train, width(prepared.schema)
    assert part.y is not None
    kept = _drawn(part.rows, MOST_SOLVED // (d + part.y.shape[1]), seed)
    y, n = part.y[kept], int(kept.sum())
    w = np.ones(n) if part.sample_weight is None else part.sample_weight[kept]
    level, centre = np.average(y, axis=0, weights=w).astype(np.float64), np.zeros(d)
    for rows, x in _read(schema, part, kept):
        centre += w[rows] @ x.dense(d) / w.sum()
    gram, right = np.zeros((d, d)), np.zeros((d, y.shape[1]))
    for rows, x in _read(schema, part, kept):
        off = x.dense(d) - centre
        gram += off.T @ (off * w[rows, None])
        right += off.T @ ((y[rows] - level) * w[rows, None])
    values, vectors = np.linalg.eigh(gram)
    total = float((w[:, None] * np.square(y - level)).sum())
    slope = vectors @ _shrunk(np.maximum(values, 0), vectors.T @ right, total, n)
    return _predictor(schema, slope, level - centre @ slope)


def _shrunk(values: np.ndarray, right: np.ndarray, total: float, n: int) -> np.ndarray:
    """Weights in the basis of eigenvectors, (d, k); `total`: the sum of squares of n targets."""
    best, least = right * 0, np.inf
    for penalty in RIDGES * max(float(values.max()), TINY):
        w = right / (values + penalty)[:, None]
        left = total - float((w * (2 * right - values[:, None] * w)).sum())
        free = n - 1 - float((values / (values + penalty)).sum())
        error = max(left, 0.0) / free**2 if free > 0 else np.inf
        best, least = (w, error) if error < least else (best, least)
    return best


@np.errstate(all="ignore")  # a cost that is not finite is no lower one
def descent(
    prepared: Prepared, gate: Gate, level: np.ndarray, memory: int, seed: int = 0
) -> Predictor:
    """The least loss of a gate, from no slope and the outputs `level` (k,) on, under the penalty
    that is best for rows held out: the validation part, and where these are few fifths of the
    others in turn. Where no slope is best there is none."""
    schema, held = prepared.schema, prepared.validation
    most = max(FEWEST, min(MOST_HELD, memory // BYTES) // (schema.width + len(level)))
    raw = _sample(schema, prepared.train, most, seed)
    scale = _scale(raw.inputs.numbers)
    learnt = raw.scaled(*scale)
    pairs = [] if held is None else [(learnt, _sample(schema, held, most, seed).scaled(*scale))]
    order = permutation(len(learnt.y), seed, Purpose.BASELINE)
    for part in np.array_split(order, FOLDS) if len(order) >= FOLDS else ():
        if sum(len(judged.y) for _, judged in pairs) < JUDGED:
            pairs.append((learnt.take(np.setdiff1d(order, part)), learnt.take(part)))
    at = np.vstack([np.zeros((width(schema), len(level))), level])
    steps = _steps(len(learnt.y) * (schema.width + len(level)) * max(1, len(pairs)))
    if (penalty := _penalty(pairs, gate, at, steps)) < inf:
        at = _descended(_cost(learnt, gate, penalty), at, steps)
    slope, (centre, spread) = at[:-1], scale
    slope[: len(spread)] /= spread[:, None]
    return _predictor(schema, slope, at[-1] - centre @ slope[: len(spread)])


def _steps(cells: int) -> int:
    """Of each descent, where a step of all that a penalty wants goes over so many cells."""
    least, most = STEPS
    return max(least, min(most, WORK // (cells * len(PENALTIES))))


def _scale(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column, by which a descent is as long in all units."""
    spread = numbers.std(axis=0, dtype=np.float64)
    return numbers.mean(axis=0, dtype=np.float64), np.where(spread > 0, spread, 1.0)


def _penalty(pairs: Pairs, gate: Gate, start: np.ndarray, steps: int) -> float:
    """The penalty under which the first of each pair teach the second best; infinite where it is
    best to stay at the start."""
    at = [start for _ in pairs]
    best, least, worse = inf, _loss(pairs, gate, at), 0
    for penalty in PENALTIES if pairs else ():
        costs = [_cost(learnt, gate, penalty) for learnt, _ in pairs]
        at = [_descended(cost, each, steps, ROUGH) for cost, each in zip(costs, at, strict=True)]
        loss = _loss(pairs, gate, at)
        if loss < least:
            best, least, worse = penalty, loss, 0
        elif best < inf and (worse := worse + 1) == PATIENCE:
            break
    return best


def _loss(pairs: Pairs, gate: Gate, at: Sequence[np.ndarray]) -> float:
    """The sum of the losses of the rows that judge."""
    judged = [(len(rows.y), _cost(rows, gate, 0.0)) for _, rows in pairs]
    return sum(n * cost(each)[0] for (n, cost), each in zip(judged, at, strict=True))


def _cost(rows: Learnt, gate: Gate, penalty: float) -> Cost:
    given = (rows.y,) if rows.weight is None else (rows.y, rows.weight)

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, level = parameters[:-1], parameters[-1]
        value = float(gate.forward(rows.inputs @ slope + level, *given))
        grad = gate.backward(1.0)[0]
        pull = rows.inputs.pulled(grad, len(slope)) + penalty * slope
        return value + penalty / 2 * float(np.square(slope).sum()), np.vstack([pull, grad.sum(0)])

    return cost


def _descended(cost: Cost, at: np.ndarray, steps: int, gain: float = GAIN) -> np.ndarray:
    """Where L-BFGS comes to from there; Nocedal and Wright, 2006, algorithm 7.4."""
    pairs = deque[tuple[np.ndarray, np.ndarray]](maxlen=PAIRS)
    value, grad = cost(at)
    for _ in range(steps):
        new = _lower(cost, at, value, grad, -_curved(grad, pairs))
        if new is None:
            break
        before, move, change = value, new[0] - at, new[2] - grad
        at, value, grad = new
        if before - value <= gain * abs(before):
            break
        if (move * change).sum() > 0:
            pairs.append((move, change))
    return at


def _lower(
    cost: Cost, at: np.ndarray, value: float, grad: np.ndarray, move: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray] | None:
    """The first of ever shorter moves that lowers the cost enough (Armijo), with the cost and its
    gradient there; None where there is none."""
    fall = float((grad * move).sum())
    for rate in 0.5 ** np.arange(HALVINGS):
        found, pull = cost(at + rate * move)
        if found <= value + ARMIJO * rate * fall:
            return at + rate * move, found, pull
    return None


def _curved(grad: np.ndarray, pairs: deque[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """A gradient by the inverse of the curvature that pairs of moves and changes tell of."""
    if not pairs:
        return grad / max(1.0, float(np.linalg.norm(grad)))
    shares = []
    for move, change in reversed(pairs):
        shares.append((move * grad).sum() / (move * change).sum())
        grad = grad - shares[-1] * change
    move, change = pairs[-1]
    grad = grad * ((move * change).sum() / (change * change).sum())
    for (move, change), share in zip(pairs, reversed(shares), strict=True):
        grad = grad + move * (share - (change * grad).sum() / (move * change).sum())
    return grad


def _predictor(schema: Schema, slope: np.ndarray, level: np.ndarray) -> Predictor:
    def predict(part: Dataset) -> np.ndarray:
        return np.concatenate([_inputs(schema, x) @ slope + level for _, x in blocks(part.x)])

    return predict


def _sample(schema: Schema, part: Dataset, most: int, seed: int) -> Learnt:
    """About so many rows of a part at most, in memory."""
    assert part.y is not None
    kept = _drawn(part.rows, most, seed)
    dtype = np.result_type(schema.dtype, np.float32)
    read = [(x.numbers.astype(dtype), x.levels) for _, x in _read(schema, part, kept)]
    inputs = Inputs(*map(np.concatenate, zip(*read, strict=True)))
    weight = part.sample_weight  # weights of classes would move its probabilities
    return Learnt(inputs, part.y[kept], None if weight is None else weight[kept])


def _drawn(n: int, most: int, seed: int) -> np.ndarray:
    """Which of n rows are among about so many, (n,)."""
    if n <= most:
        return np.ones(n, bool)
    return stream(seed, Purpose.BASELINE).random(n) * n < most


def _read(schema: Schema, part: Dataset, kept: np.ndarray) -> Iterator[tuple[slice, Inputs]]:
    """The rows of a part that are kept, and their places among these."""
    done = 0
    for first, x in blocks(part.x, max(1, BLOCK // (8 * width(schema)))):
        found = _inputs(schema, x[kept[first : first + len(x)]])
        rows = slice(done, done + len(found.numbers))
        done = rows.stop
        yield rows, found


def _inputs(schema: Schema, x: np.ndarray) -> Inputs:
    codes = schema.layout.codes
    count = schema.width - len(codes)
    starts = np.array([*accumulate(codes, initial=count)][:-1], np.int64)
    return Inputs(schema.scaled(x[:, :count]), x[:, count:].astype(np.int64) + starts)
