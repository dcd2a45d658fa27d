"""How sure a metric is: resampled rows, and what the metric would have been on them.

Every metric is a function of means over rows, so that a resample is one row of a matrix product and
nothing is predicted again. AUC is resampled through its placements, to first order (DeLong, 1988),
and average precision through its derivatives by what each row counts.
Rows of one cluster are drawn together, or not (Davison and Hinkley, 1997; of AUC Obuchowski, 1997).
Percentile intervals (Efron, 1979).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from gpunet import metrics
from gpunet.metrics import Weight
from gpunet.random import Purpose, permutation, stream

RESAMPLES, LEVEL = 1000, 0.95
CELLS = 2048
"""Of more rows (or clusters) than this, cells of them drawn at random are resampled: the spread is
the same."""
MANY_CLASSES = 100
"""Of more classes the mean AUC has no interval: each would cost a sorting of all rows."""
FEWEST = 2
"""Rows, or clusters, that say how much they differ."""
CHUNK = 128

Interval = tuple[float, float]


@dataclass(frozen=True)
class RowValues:
    """What metrics are made of: values (n, m) of n rows, and metrics of their means (…, m).

    weight (n,): what each row counts, None for all alike. cluster (n,): a code of the rows that are
    drawn together, None for each alone. shares: of which rows (n,) a metric is a share.
    """

    values: np.ndarray
    combine: Callable[[np.ndarray], dict[str, np.ndarray]]
    weight: Weight = None
    cluster: np.ndarray | None = None
    shares: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The metrics of all rows, as they are resampled."""
        return self.combine(np.average(self.values, axis=0, weights=self.weight))

    def of(self, chosen: np.ndarray) -> "RowValues":
        """Some of the rows: a mask (n,), or their numbers."""
        weight, cluster = (None if w is None else w[chosen] for w in (self.weight, self.cluster))
        shares = {name: base[chosen] for name, base in self.shares.items()}
        return replace(
            self, values=self.values[chosen], weight=weight, cluster=cluster, shares=shares
        )

    @property
    def rows(self) -> int:
        """How many rows count at all."""
        return len(self.values) if self.weight is None else int(np.count_nonzero(self.weight))

    @property
    def units(self) -> int:
        """How many clusters, or rows, of those that count are drawn one by one."""
        if self.cluster is None:
            return self.rows
        counting = slice(None) if self.weight is None else self.weight > 0
        return len(np.unique(self.cluster[counting]))

    def intervals(self, seed: int) -> dict[str, Interval]:
        """For each metric its interval; of one row or cluster nothing is known but itself."""
        if self.units < FEWEST:
            return {}
        drawn = self.combine(self.draws(seed))
        found = {name: interval(of) for name, of in drawn.items() if np.isfinite(of).any()}
        for name in self.shares.keys() & found:
            found[name] = _unseen(found[name], self.of(self.shares[name]).units)
        return found

    def draws(self, seed: int) -> np.ndarray:
        """Means (RESAMPLES, m) over rows, or clusters, drawn with replacement.

        The draws follow from the seed and how many there are, so that equal rows are drawn for all
        that are asked.
        """
        w = np.ones(len(self.values)) if self.weight is None else self.weight
        sums = clustered(np.hstack([self.values * w[:, None], w[:, None]]), self.cluster)
        sums = _cells(sums, seed)
        counts, found = _counts(seed, len(sums)), np.empty((RESAMPLES, self.values.shape[1]))
        for first in range(0, RESAMPLES, CHUNK):
            drawn = counts[first : first + CHUNK].astype(float) @ sums
            with np.errstate(invalid="ignore"):  # a resample may hold rows that do not count alone
                found[first : first + CHUNK] = drawn[:, :-1] / drawn[:, -1:]
        return found


@dataclass(frozen=True)
class Difference:
    """A metric's difference between two predictions of the same rows; one that no resample
    defines is noise.

    `share`: like a p-value, twice the share of resamples on the far side of no difference.
    """

    value: float
    interval: Interval
    share: float

    @property
    def is_noise(self) -> bool:
        """Whether no difference is within the interval."""
        return not (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def is_known(self) -> bool:
        """Whether there is an interval: of one row there is none."""
        return bool(np.isfinite(self.interval).all())


def differences(a: RowValues, b: RowValues, seed: int) -> dict[str, Difference]:
    """b's metrics less a's, of the same n rows in the same order, with the same weights and
    clusters, by a paired bootstrap."""
    first, second = (each.combine(each.draws(seed)) for each in (a, b))
    points = a.metrics, b.metrics
    found = {}
    for name in (name for name in first if name in second):
        with np.errstate(invalid="ignore"):  # neither is defined where a resample's rows are alike
            off = second[name] - first[name]
            value = float(points[1][name] - points[0][name])
        off = off if a.units >= FEWEST else off * np.nan
        known = off[np.isfinite(off)]
        beyond = min(np.sum(known <= 0), np.sum(known >= 0))
        share = 2 * (1 + float(beyond)) / (1 + len(known))
        found[name] = Difference(value, interval(off), min(1.0, share))
    return found


def interval(drawn: np.ndarray) -> Interval:
    """The middle `LEVEL` of resampled figures (B,); those that are not defined are left out."""
    tail = 50 * (1 - LEVEL)
    known = drawn[np.isfinite(drawn)]
    low, high = np.percentile(known, [tail, 100 - tail]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _unseen(found: Interval, n: int) -> Interval:
    """No resample holds a mistake (or a hit) that n units have not shown: then the exact interval
    of a share (Clopper and Pearson, 1934) takes its place."""
    rest = ((1 - LEVEL) / 2) ** (1 / n)
    return {(1.0, 1.0): (rest, 1.0), (0.0, 0.0): (0.0, 1 - rest)}.get(found, found)


@lru_cache(maxsize=1)
def _counts(seed: int, cells: int) -> np.ndarray:
    """How often each resample draws each cell, (RESAMPLES, cells); kept, in 2 bytes each, for the
    next prediction of as many rows."""
    rng, found = stream(seed, Purpose.BOOTSTRAP), np.empty((RESAMPLES, cells), np.uint16)
    for chunk in (found[first : first + CHUNK] for first in range(0, RESAMPLES, CHUNK)):
        drawn = rng.integers(0, cells, chunk.shape) + cells * np.arange(len(chunk))[:, None]
        chunk[:] = np.bincount(drawn.ravel(), minlength=chunk.size).reshape(chunk.shape)
    return found


def clustered(values: np.ndarray, cluster: np.ndarray | None) -> np.ndarray:
    """Sums of values (n, m) by cluster; the values themselves where there are none."""
    if cluster is None:
        return values
    _, code = np.unique(cluster, return_inverse=True)
    return np.stack([np.bincount(code, of) for of in values.T], axis=1)


def _cells(values: np.ndarray, seed: int) -> np.ndarray:
    """Sums of values (n, m) by cell; a row each where there are few."""
    if len(values) <= CELLS:
        return values
    order = permutation(len(values), seed, Purpose.BOOTSTRAP)
    firsts = np.linspace(0, len(values), CELLS, endpoint=False).astype(np.int64)
    return np.stack([np.add.reduceat(of[order], firsts) for of in values.T], axis=1)


def of_task(
    task: str,
    target: np.ndarray,
    output: np.ndarray,
    weight: Weight = None,
    threshold: float = 0.5,
) -> RowValues:
    """The rows behind `metrics.of_task`: of all but multiclass predictions."""
    if task == "regression":
        return _regression(target, output, weight)
    if task == "count":
        deviance = metrics.deviance_terms(target, output).mean(axis=1)
        named = {"poisson_deviance": deviance}
        return _joined(_means(named, weight), _errors(target, output, weight))
    true, loss = target > 0.5, metrics.log_loss_terms(target, output).mean(axis=1)
    right = (true == (output > threshold)).all(axis=1)
    ranked = [_placements(true[:, j], output[:, j], weight) for j in range(output.shape[1])]
    rows = _classes(right, loss, ranked, weight)
    if task != "binary":
        return rows
    precision = _precisions(true[:, 0], output[:, 0], weight)
    if precision is not None:
        rows = _joined(rows, _means({"average_precision": precision}, weight, 1.0))
    return _joined(rows, _hits(true[:, 0], output[:, 0] > threshold, weight))


def of_logits(
    target: np.ndarray,
    raw: np.ndarray,
    weight: Weight = None,
    temperature: float = 1.0,
    lean: np.ndarray | float = 1.0,
) -> RowValues:
    """The rows behind `metrics.of_logits`."""
    found = metrics.class_rows(target, raw, temperature, lean)
    classes = range(raw.shape[1] if raw.shape[1] <= MANY_CLASSES else 0)
    ranked = [_placements(target == j, found.score(j), weight) for j in classes]
    return _classes(found.right, found.loss, ranked, weight)


def of_quantiles(
    target: np.ndarray, output: np.ndarray, quantiles: tuple[float, ...], weight: Weight = None
) -> RowValues:
    """The rows behind `metrics.of_quantiles`."""
    each = {
        f"pinball_{q}": metrics.pinball_terms(target, output[:, :, i], q).mean(axis=1)
        for i, q in enumerate(quantiles)
    }
    named = {"pinball": np.mean(list(each.values()), axis=0)}
    if target.shape[1] > 1:
        terms = [metrics.pinball_terms(target, output[:, :, i], q) for i, q in enumerate(quantiles)]
        relative = (np.mean(terms, axis=0) / _spread(target, weight)).mean(axis=1)
        named = {"relative_pinball": relative, **named}
    if len(quantiles) > 1:
        named |= {**each, "coverage": metrics.covered(target, output).mean(axis=1)}
    rows = replace(_means(named, weight), shares={"coverage": np.ones(len(target), bool)})
    if 0.5 not in quantiles:
        return rows
    return _joined(rows, _regression(target, output[:, :, quantiles.index(0.5)], weight))


def _means(named: dict[str, np.ndarray], weight: Weight, most: float = np.inf) -> RowValues:
    """Metrics from 0 to `most` that are means of figures (n,)."""

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.clip(means[..., i], 0, most) for i, name in enumerate(named)}

    return RowValues(np.stack(list(named.values()), axis=1), combine, weight)


def _joined(a: RowValues, b: RowValues) -> RowValues:
    """The metrics of both, of the same rows."""
    width = a.values.shape[1]

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        return {**a.combine(means[..., :width]), **b.combine(means[..., width:])}

    both = {**a.shares, **b.shares}
    return RowValues(np.hstack([a.values, b.values]), combine, a.weight, shares=both)


def _errors(target: np.ndarray, output: np.ndarray, weight: Weight) -> RowValues:
    error = np.subtract(target, output, dtype=np.float64)
    unit = np.abs(target).max() or 1.0  # of the target alone: predictions may be averaged
    columns = [np.square(error / unit).mean(axis=1), np.abs(error).mean(axis=1)]

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        return {"rmse": unit * np.sqrt(means[..., 0]), "mae": means[..., 1]}

    return RowValues(np.stack(columns, axis=1), combine, weight)


def _relative(target: np.ndarray, output: np.ndarray, weight: Weight) -> RowValues:
    error = np.subtract(target, output, dtype=np.float64) / _spread(target, weight)

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        return {"relative_rmse": np.sqrt(means[..., 0])}

    return RowValues(np.square(error).mean(axis=1, keepdims=True), combine, weight)


def _spread(target: np.ndarray, weight: Weight) -> np.ndarray:
    """The spread (k,) of targets, of the target alone: predictions may be averaged."""
    if weight is None:
        return metrics.spread(target)
    return metrics.spread(target[weight > 0], weight[weight > 0])


def _regression(target: np.ndarray, output: np.ndarray, weight: Weight) -> RowValues:
    errors, k = _errors(target, output, weight), target.shape[1]
    if k > 1:
        errors = _joined(_relative(target, output, weight), errors)
    counting = target if weight is None else target[weight > 0]
    if (counting == counting[0]).all(axis=0).any():
        return errors
    middle = np.average(target, axis=0, weights=weight)
    off = np.subtract(target, middle, dtype=np.float64)
    spread = np.abs(off).max(axis=0)
    error = np.subtract(target, output, dtype=np.float64)
    columns = [np.square(error / spread), off / spread, np.square(off / spread)]

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        left, shift, square = (means[..., i * k :][..., :k] for i in range(3))
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"r2": (1 - left / (square - shift**2)).mean(axis=-1)}

    return _joined(errors, RowValues(np.hstack(columns), combine, weight))


def _classes(
    right: np.ndarray, loss: np.ndarray, ranked: list[np.ndarray | None], weight: Weight
) -> RowValues:
    known = [each for each in ranked if each is not None]
    has_auc = bool(known) and len(known) == len(ranked)
    columns = [right, loss, *([np.mean(known, axis=0)] if has_auc else [])]

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        found = {"accuracy": means[..., 0], "log_loss": means[..., 1]}
        return {**found, "auc": np.clip(means[..., 2], 0, 1)} if has_auc else found

    values, every = np.stack(columns, axis=1).astype(np.float64), np.ones(len(right), bool)
    return RowValues(values, combine, weight, shares={"accuracy": every})


def _placements(positive: np.ndarray, score: np.ndarray, weight: Weight) -> np.ndarray | None:
    """Figures (n,) whose mean is the AUC, and moves with the rows as the AUC does; or None."""
    rank, *held = metrics.by_score(positive, score, weight)
    ones, zeros = (each.sum() for each in held)
    if not (ones and zeros):
        return None
    ones_below, zeros_below = (metrics.below(each) / each.sum() for each in held)
    place = np.where(positive, zeros_below[rank], 1 - ones_below[rank])
    area = held[0] @ zeros_below / ones
    return area + (place - area) * (ones + zeros) / np.where(positive, ones, zeros)


def _precisions(positive: np.ndarray, score: np.ndarray, weight: Weight) -> np.ndarray | None:
    """Figures (n,) whose mean is the average precision, and moves with the rows as it does; or
    None."""
    rank, ones, zeros = metrics.by_score(positive, score, weight)
    total = ones.sum()
    if not total:
        return None
    above = metrics.from_above(ones + zeros)
    above = np.where(above > 0, above, 1.0)  # of scores whose rows do not count
    precision, share = metrics.from_above(ones) / above, ones / above
    mean = ones @ precision / total
    gain, loss = (np.cumsum(each)[rank] for each in (share, share * precision))
    moved = positive * (precision[rank] - mean + gain) - loss
    return mean + moved * (total + zeros.sum()) / total


def _hits(true: np.ndarray, said: np.ndarray, weight: Weight) -> RowValues:
    """The rows behind `metrics.at_threshold`."""

    def combine(means: np.ndarray) -> dict[str, np.ndarray]:
        hits, positive, taken = (means[..., i] for i in range(3))
        with np.errstate(invalid="ignore"):  # a resample may lack what they are a share of
            shares = {"f1": 2 * hits / (positive + taken), "precision": hits / taken}
            return {**shares, "recall": hits / positive}

    values = np.stack([true & said, true, said], axis=1).astype(np.float64)
    return RowValues(values, combine, weight, shares={"precision": said, "recall": true})
