"""How good predictions are, on plain arrays of the host: accuracy, log-loss, AUC, RMSE, MAE, R²."""

import numpy as np

TINY = 1e-15
ROWS = 1 << 14


def accuracy(target: np.ndarray, label: np.ndarray) -> float:
    """The share of right rows: target and label (n,), or (n, k) with every column right."""
    right = target == label
    return float(np.mean(right if right.ndim == 1 else right.all(axis=1)))


def log_loss(target: np.ndarray, probability: np.ndarray) -> float:
    """Mean of -log p, for class codes (n,) or 0/1 (n, k), with p (n, k)."""
    p = np.clip(probability.astype(np.float64), TINY, 1 - TINY)
    if target.ndim == 1:
        return float(-np.mean(np.log(p[np.arange(len(target)), target])))
    return float(-np.mean(np.where(target > 0.5, np.log(p), np.log1p(-p))))


def auc(target: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve of a 0/1 target (n,); None when only one of them is there."""
    positive = target > 0.5
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    above = ranks[place][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def mean_auc(target: np.ndarray, probability: np.ndarray) -> float | None:
    """The mean of each column's AUC against the rest; target codes (n,) or 0/1 (n, k)."""
    if target.ndim == 1:
        target = target[:, None] == np.arange(probability.shape[1])
    return _mean([auc(target[:, j], probability[:, j]) for j in range(probability.shape[1])])


def _mean(each: list[float | None]) -> float | None:
    known = [value for value in each if value is not None]
    return float(np.mean(known)) if len(known) == len(each) else None


def rmse(target: np.ndarray, value: np.ndarray) -> float:
    """Root of the mean squared error."""
    error = np.abs(target - value, dtype=np.float64)
    unit = error.max() or 1.0  # squares must neither overflow nor vanish
    return float(unit * np.sqrt(np.mean(np.square(error / unit))))


def mae(target: np.ndarray, value: np.ndarray) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(target - value), dtype=np.float64))


def r2(target: np.ndarray, value: np.ndarray) -> float | None:
    """1 - error / variance, the mean over columns (n, k); None when a target is constant."""
    off = np.subtract(target, target.mean(axis=0), dtype=np.float64)
    unit = np.abs(off).max(axis=0)
    if np.any(unit == 0):
        return None
    error = np.square(np.subtract(target, value, dtype=np.float64) / unit).sum(axis=0)
    return float(np.mean(1 - error / np.square(off / unit).sum(axis=0)))


def of_task(task: str, target: np.ndarray, output: np.ndarray) -> dict[str, float | None]:
    """The task's metrics by name; `output` holds probabilities, or values in the target's units."""
    if task == "regression":
        return {
            "rmse": rmse(target, output),
            "mae": mae(target, output),
            "r2": r2(target, output),
        }
    label = output.argmax(axis=1) if task == "multiclass" else output > 0.5
    return {
        "accuracy": accuracy(target if task == "multiclass" else target > 0.5, label),
        "log_loss": log_loss(target, output),
        "auc": mean_auc(target, output),
    }


def of_logits(target: np.ndarray, raw: np.ndarray) -> dict[str, float | None]:
    """`of_task` of class codes (n,) and logits (n, k), in memory for n rows and not for n k
    probabilities: to the bit as if it were given their softmax."""
    top, total = np.empty(len(raw)), np.empty(len(raw))
    right, chosen = np.empty(len(raw), bool), np.empty(len(raw))
    for first in range(0, len(raw), ROWS):
        rows = slice(first, first + ROWS)
        logits = raw[rows].astype(np.float64)
        top[rows] = logits.max(axis=1)
        e = np.exp(logits - top[rows, None])
        total[rows] = e.sum(axis=1)
        p = e / total[rows, None]
        right[rows] = p.argmax(axis=1) == target[rows]
        chosen[rows] = p[np.arange(len(p)), target[rows]]
    each = (
        auc(target == j, np.exp(raw[:, j].astype(np.float64) - top) / total)
        for j in range(raw.shape[1])
    )
    return {
        "accuracy": float(np.mean(right)),
        "log_loss": float(-np.mean(np.log(np.clip(chosen, TINY, 1 - TINY)))),
        "auc": _mean(list(each)),
    }


def main_metric(task: str) -> str:
    """The one figure to show where there is room for one."""
    return "rmse" if task == "regression" else "accuracy"
