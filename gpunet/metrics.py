"""How good predictions are, on plain arrays of the host: accuracy, log-loss, AUC, average
precision, F1, RMSE, MAE, R², pinball loss, coverage, Poisson deviance.

A `weight` (n,), positive, says how much each row counts; None: all alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TINY = 1e-15
CELLS = 1 << 15
"""Probabilities that are in memory at a time: they stay in the caches."""

Weight = np.ndarray | None


def row_mean(values: np.ndarray, weight: Weight = None) -> float:
    """The mean of (n,) or (n, k) over columns and, weighted, over rows."""
    if weight is None:
        return float(np.mean(values, dtype=np.float64))
    each = values if values.ndim == 1 else values.mean(axis=1, dtype=np.float64)
    return float(np.average(each, weights=weight))


def accuracy(target: np.ndarray, label: np.ndarray, weight: Weight = None) -> float:
    """The share of rows of which every column is right: target and label (n, k)."""
    return row_mean((target == label).all(axis=1), weight)


def log_loss(target: np.ndarray, probability: np.ndarray, weight: Weight = None) -> float:
    """Mean of -log p of what is true, for targets 0/1 (n, k), with p (n, k)."""
    return row_mean(log_loss_terms(target, probability), weight)


def log_loss_terms(target: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """What `log_loss` is the mean of."""
    p = np.clip(probability.astype(np.float64), TINY, 1 - TINY)
    return -np.where(target > 0.5, np.log(p), np.log1p(-p))


def auc(target: np.ndarray, score: np.ndarray, weight: Weight = None) -> float | None:
    """Area under the ROC curve of a 0/1 target (n,); None when only one of them is there."""
    positive = target > 0.5
    if weight is None:
        return _auc(np.sort(score[positive]), np.sort(score[~positive]))
    _, ones, zeros = by_score(positive, score, weight)
    pairs = ones.sum() * zeros.sum()
    return float(ones @ below(zeros) / pairs) if pairs else None


def _auc(ones: np.ndarray, zeros: np.ndarray) -> float | None:
    """Of scores that rise, of positive rows and of the others: to look each up takes half the time
    of telling all apart, or less."""
    pairs = len(ones) * len(zeros)
    ends = [np.searchsorted(zeros, ones, side) for side in ("left", "right")]
    return float(np.sum(ends) / 2 / pairs) if pairs else None


def average_precision(target: np.ndarray, score: np.ndarray, weight: Weight = None) -> float | None:
    """The mean precision at the scores of the positives of a 0/1 target (n,), each of which is
    taken for true with all that score as much or more; None without a positive."""
    _, ones, zeros = by_score(target > 0.5, score, weight)
    total = ones.sum()
    return float(ones @ (from_above(ones) / from_above(ones + zeros)) / total) if total else None


def by_score(
    positive: np.ndarray, score: np.ndarray, weight: Weight = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the distinct scores, rising, each row (n,) has; and for each of them the weight of
    the positive rows, and of the others."""
    _, place = np.unique(score, return_inverse=True)
    held = (
        np.where(each, 1.0 if weight is None else weight, 0.0) for each in (positive, ~positive)
    )
    ones, zeros = (np.bincount(place, each) for each in held)
    return place, ones, zeros


def below(held: np.ndarray) -> np.ndarray:
    """For each of the distinct scores the weight below it, of its own half."""
    return np.cumsum(held) - held / 2


def from_above(held: np.ndarray) -> np.ndarray:
    """For each of the distinct scores the weight at it and above it."""
    return np.cumsum(held[::-1])[::-1]


def at_threshold(
    true: np.ndarray, said: np.ndarray, weight: Weight = None
) -> dict[str, float | None]:
    """F1, precision and recall of what is said to be true, (n,) each; None where there is nothing
    that they are a share of."""
    hits, positive, taken = (row_mean(each, weight) for each in (true & said, true, said))
    shares = {"f1": (2 * hits, positive + taken), "precision": (hits, taken)}
    shares["recall"] = (hits, positive)
    return {name: part / whole if whole else None for name, (part, whole) in shares.items()}


def mean_auc(target: np.ndarray, probability: np.ndarray, weight: Weight = None) -> float | None:
    """The mean of each column's AUC; target 0/1 (n, k)."""
    columns = range(probability.shape[1])
    return _mean([auc(target[:, j], probability[:, j], weight) for j in columns])


def _mean(each: list[float | None]) -> float | None:
    known = [value for value in each if value is not None]
    return float(np.mean(known)) if len(known) == len(each) else None


def rmse(target: np.ndarray, value: np.ndarray, weight: Weight = None) -> float:
    """Root of the mean squared error."""
    error = np.abs(target - value, dtype=np.float64)
    unit = error.max() or 1.0  # squares must neither overflow nor vanish
    return float(unit * np.sqrt(row_mean(np.square(error / unit), weight)))


def mae(target: np.ndarray, value: np.ndarray, weight: Weight = None) -> float:
    """Mean absolute error."""
    return row_mean(np.abs(target - value), weight)


def r2(target: np.ndarray, value: np.ndarray, weight: Weight = None) -> float | None:
    """1 - error / variance, the mean over columns (n, k); None when a target is constant."""
    if (target == target[0]).all(axis=0).any():
        return None
    off = np.subtract(target, np.average(target, axis=0, weights=weight), dtype=np.float64)
    unit = np.abs(off).max(axis=0)
    error = np.square(np.subtract(target, value, dtype=np.float64) / unit)
    shares = [np.average(each, axis=0, weights=weight) for each in (error, np.square(off / unit))]
    return float(np.mean(1 - shares[0] / shares[1]))


def spread(target: np.ndarray, weight: Weight = None) -> np.ndarray:
    """The standard deviation of each target (n, k), 1 of one that is the same in all rows."""
    alike = (target == target[0]).all(axis=0)
    off = np.subtract(target, np.average(target, axis=0, weights=weight), dtype=np.float64)
    unit = np.where(alike, 1.0, np.abs(off).max(axis=0))
    square = np.average(np.square(off / unit), axis=0, weights=weight)
    return np.where(alike, 1.0, unit * np.sqrt(square))


def of_task(
    task: str,
    target: np.ndarray,
    output: np.ndarray,
    weight: Weight = None,
    threshold: float = 0.5,
    ranked: bool = True,
) -> dict[str, float | None]:
    """The metrics by name, of all tasks but multiclass; `output` holds probabilities, or values in
    the target's units.

    What has more than `threshold` is taken for true, in binary and multilabel tasks. Unless
    `ranked` there is nothing that sorts the rows, as AUC does for every class. Here rows may have
    the weight 0: they are left out.
    """
    target, output, weight = _counting(target, output, weight)
    if task == "regression":
        numbers = {
            "rmse": rmse(target, output, weight),
            "mae": mae(target, output, weight),
            "r2": r2(target, output, weight),
        }
        if target.shape[1] == 1:
            return numbers
        unit = spread(target, weight)
        return {"relative_rmse": rmse(target / unit, output / unit, weight), **numbers}
    if task == "count":
        return {
            "poisson_deviance": poisson_deviance(target, output, weight),
            "rmse": rmse(target, output, weight),
            "mae": mae(target, output, weight),
        }
    label = output > threshold
    found: dict[str, float | None] = {
        "accuracy": accuracy(target > 0.5, label, weight),
        "log_loss": log_loss(target, output, weight),
    }
    if ranked:
        found["auc"] = mean_auc(target, output, weight)
    if task != "binary":
        return found
    if ranked:
        found["average_precision"] = average_precision(target[:, 0], output[:, 0], weight)
    return {**found, **at_threshold(target[:, 0] > 0.5, label[:, 0], weight)}


def of_quantiles(
    target: np.ndarray, output: np.ndarray, quantiles: tuple[float, ...], weight: Weight = None
) -> dict[str, float | None]:
    """The pinball loss of all quantiles and of each, the share of the targets (n, t) between the
    lowest and the highest of their outputs (n, t, q), and what `of_task` says of a median."""
    target, output, weight = _counting(target, output, weight)
    each = [pinball(target, output[:, :, i], q, weight) for i, q in enumerate(quantiles)]
    found: dict[str, float | None] = {"pinball": float(np.mean(each))}
    if target.shape[1] > 1:
        unit = spread(target, weight)
        terms = [pinball_terms(target, output[:, :, i], q) for i, q in enumerate(quantiles)]
        found = {"relative_pinball": row_mean(np.mean(terms, axis=0) / unit, weight), **found}
    if len(quantiles) > 1:
        found |= {f"pinball_{q}": loss for q, loss in zip(quantiles, each, strict=True)}
        found["coverage"] = row_mean(covered(target, output), weight)
    if 0.5 in quantiles:
        found |= of_task("regression", target, output[:, :, quantiles.index(0.5)], weight)
    return found


def covered(target: np.ndarray, output: np.ndarray) -> np.ndarray:
    """Which targets (n, t) lie between the lowest and the highest of their outputs (n, t, q)."""
    return (output[:, :, 0] <= target) & (target <= output[:, :, -1])


def pinball(target: np.ndarray, value: np.ndarray, quantile: float, weight: Weight = None) -> float:
    """Mean of q * d above the value and (q - 1) * d below, d = target - value."""
    return row_mean(pinball_terms(target, value, quantile), weight)


def pinball_terms(target: np.ndarray, value: np.ndarray, quantile: float) -> np.ndarray:
    """What `pinball` is the mean of."""
    away = np.subtract(target, value, dtype=np.float64)
    return np.maximum(quantile * away, (quantile - 1) * away)


def poisson_deviance(target: np.ndarray, value: np.ndarray, weight: Weight = None) -> float:
    """Mean of 2 * (t * log(t / v) - t + v), for counts t and rates v (n, k)."""
    return row_mean(deviance_terms(target, value), weight)


def deviance_terms(target: np.ndarray, value: np.ndarray) -> np.ndarray:
    """What `poisson_deviance` is the mean of."""
    t, v = target.astype(np.float64), np.maximum(value, np.finfo(np.float64).tiny)
    return 2 * (t * (np.log(np.where(t > 0, t, 1)) - np.log(v)) - t + v)


def _counting(
    target: np.ndarray, output: np.ndarray, weight: Weight
) -> tuple[np.ndarray, np.ndarray, Weight]:
    """The rows that count at all."""
    if weight is None or weight.all():
        return target, output, weight
    return target[weight > 0], output[weight > 0], weight[weight > 0]


@dataclass(frozen=True)
class ClassRows:
    """Rows of class codes judged: right (n,) and -log p of the true class (n,); `score` gives the
    probabilities (n,) of one class, in memory for n rows and not for n k probabilities."""

    right: np.ndarray
    loss: np.ndarray
    score: Callable[[int], np.ndarray]


def class_rows(
    target: np.ndarray, raw: np.ndarray, temperature: float, lean: np.ndarray | float
) -> ClassRows:
    """Class codes (n,) and logits (n, k), which are divided by the temperature; the class of the
    largest probability times `lean` is chosen."""
    top, total = np.empty(len(raw)), np.empty(len(raw))
    right, chosen = np.empty(len(raw), bool), np.empty(len(raw))
    size = max(1, CELLS // raw.shape[1])
    for first in range(0, len(raw), size):
        rows = slice(first, first + size)
        logits = raw[rows].astype(np.float64) / temperature
        top[rows] = logits.max(axis=1)
        e = np.exp(logits - top[rows, None])
        total[rows] = e.sum(axis=1)
        p = e / total[rows, None]
        right[rows] = (p * lean).argmax(axis=1) == target[rows]
        chosen[rows] = p[np.arange(len(p)), target[rows]]
    loss = -np.log(np.clip(chosen, TINY, 1 - TINY))

    def score(j: int) -> np.ndarray:
        return np.exp(raw[:, j].astype(np.float64) / temperature - top) / total

    return ClassRows(right, loss, score)


def of_logits(
    target: np.ndarray,
    raw: np.ndarray,
    weight: Weight = None,
    temperature: float = 1.0,
    lean: np.ndarray | float = 1.0,
    ranked: bool = True,
) -> dict[str, float | None]:
    """The metrics of class codes (n,) and logits (n, k): to the bit those of the probabilities that
    are the softmax of raw / temperature. Each class has its AUC against the rest."""
    target, raw, weight = _counting(target, raw, weight)
    rows = class_rows(target, raw, temperature, lean)
    classes = range(raw.shape[1]) if ranked else ()
    each = [auc(target == j, rows.score(j), weight) for j in classes]
    return {
        "accuracy": row_mean(rows.right, weight),
        "log_loss": row_mean(rows.loss, weight),
        **({"auc": _mean(each)} if ranked else {}),
    }


def main_metric(task: str, has_quantiles: bool = False, targets: int = 1) -> str:
    """The one figure to show where there is room for one; of several targets no unit weighs in."""
    if task == "regression":
        return f"{'relative_' * (targets > 1)}{'pinball' if has_quantiles else 'rmse'}"
    return "poisson_deviance" if task == "count" else "accuracy"


def loss_metric(task: str, has_quantiles: bool = False, targets: int = 1) -> str:
    """The metric to tell predictions apart by: every row moves it."""
    found = main_metric(task, has_quantiles, targets)
    return "log_loss" if found == "accuracy" else found
