"""Probabilities that mean what they say: one temperature and one threshold, fitted on rows that
trained nothing. Never changes which class is the likeliest."""

from math import exp, log

import numpy as np

COLDEST, HOTTEST = 0.05, 20.0
STEPS, ENOUGH = 40, 1e-9
PRIOR = 1.0
"""Spread of log T that is expected: a few rows that are all right must not freeze it."""


def temperature(
    task: str, y: np.ndarray, raw: np.ndarray, weight: np.ndarray | None = None
) -> float:
    """The T that minimises the log-loss of raw / T on targets y, in float64 (Guo et al., 2017).

    raw: logits (n, k); weight (n,): what each row counts. A normal prior of log T around 0 weighs
    as one row does. The log-loss is convex in 1 / T; Newton steps in log T, bisected where they
    leave the bracket.
    """
    logits, code = _as_classes(task, y, raw)
    if weight is not None:
        weight = np.repeat(weight, len(code) // len(weight))
    low, high, u = -log(HOTTEST), -log(COLDEST), 0.0
    for _ in range(STEPS):
        slope, bend = _derivatives(logits, code, exp(u), weight)
        slope += u / PRIOR**2 / len(code)
        bend += 1 / PRIOR**2 / len(code)
        low, high = (u, high) if slope < 0 else (low, u)
        step = u - slope / bend if bend > 0 else low - 1
        step = step if low < step < high else (low + high) / 2
        if abs(step - u) < ENOUGH:
            break
        u = step
    return exp(-u)


def _as_classes(task: str, y: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits (m, c), the largest of each row 0, and codes (m,); a truth is a class of two."""
    if task == "multiclass":
        logits, code = raw.astype(np.float64), y
    else:
        flat = raw.astype(np.float64).ravel()
        logits, code = np.stack([np.zeros_like(flat), flat], axis=1), (y.ravel() > 0.5).astype(int)
    return logits - logits.max(axis=1, keepdims=True), code


def _derivatives(
    logits: np.ndarray, code: np.ndarray, scale: float, weight: np.ndarray | None
) -> tuple[float, float]:
    """Of the mean log-loss of scale * logits by log(scale): the first and the second."""
    p = np.exp(scale * logits)
    p /= p.sum(axis=1, keepdims=True)
    mean = np.einsum("ij,ij->i", p, logits)
    spread = np.einsum("ij,ij,ij->i", p, logits, logits) - mean**2
    away = mean - logits[np.arange(len(code)), code]
    first, second = (float(np.average(each, weights=weight)) for each in (away, spread))
    return scale * first, scale * first + scale**2 * second


def best_threshold(true: np.ndarray, p: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The threshold with the highest F1, in the middle between two probabilities that occur."""
    order = np.argsort(-p, kind="stable")
    w = (np.ones(len(p)) if weight is None else weight)[order]
    ranked, hits = p[order], np.cumsum(true[order] * w)
    total = np.cumsum(w) + hits[-1]
    scores = np.divide(2 * hits, total, out=np.zeros(len(p)), where=total > 0)
    scores[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold parts equal ones
    last = int(scores.argmax())
    below = ranked[last + 1] if last + 1 < len(p) else 0.0
    return float((ranked[last] + below) / 2)
