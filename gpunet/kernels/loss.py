"""Losses and their gradients in one pass, from the raw outputs of a network, in stable form.

All share one signature. pred (n, k) and target; weight (n,) or None; parameter (1,), of pinball
(k,): a quantile a column; clock; grad (n, k) or None, which may be pred; rows (n,), the weighted
loss of each row; totals float64 (3,): [0] the loss of this batch (as far as its micro-batches have
come), then sums over batches of [1] the weighted row losses, [2] the valid rows.
Rows from clock[VALID] on count for nothing and get a zero gradient. A loss that is not finite sets
a fault bit.
"""

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Kernel, Reference, Run, Stage, register
from gpunet.kernels.slots import BEFORE, FAULT, FAULT_LOSS, LOSS_ROUNDS, THREADS, VALID
from gpunet.kernels.tiles import row_groups, row_lanes, valid_rows, valid_tiles

Term = Callable[[Array, Array, Any, Array, Array | None], None]
"""term(pred, target, parameter, rows, grad) writes the rows' losses and, where asked for, the
gradient of their sum."""


def softmax_cross_entropy(
    p: Array, t: Array, smoothing: float, rows: Array, grad: Array | None
) -> None:
    """-sum of q * log softmax(p), q = (1 - smoothing) * [class is t] + smoothing / k; t int32 (n,).

    The gradient is softmax(p) - q.
    """
    each, k = np.arange(len(p)), p.shape[1]
    top = p[each, p.argmax(axis=1), None]  # in half the time of p.max
    shifted = np.subtract(p, top, out=grad)
    picked = shifted[each, t]
    if smoothing:
        picked = (1 - smoothing) * picked + smoothing * shifted.mean(axis=1)
    np.exp(shifted, out=shifted)
    total = shifted @ np.ones(k, p.dtype)
    np.subtract(np.log(total), picked, out=rows)
    if grad is not None:
        np.divide(grad, total[:, None], out=grad)
        if smoothing:
            np.subtract(grad, smoothing / k, out=grad)
        grad[each, t] -= 1 - smoothing


def sigmoid_cross_entropy(
    p: Array, t: Array, smoothing: float, rows: Array, grad: Array | None
) -> None:
    """max(p, 0) - p * q + log(1 + exp(-|p|)), q = t * (1 - smoothing) + smoothing / 2.

    The gradient is sigmoid(p) - q; both are means over the columns.
    """
    q = np.multiply(t, 1 - smoothing)
    q += smoothing / 2
    tail = np.exp(-np.abs(p))
    loss = np.maximum(p, 0)
    loss -= p * q
    loss += np.log1p(tail)
    np.mean(loss, axis=1, out=rows)
    if grad is not None:
        np.divide(np.where(p < 0, tail, 1), 1 + tail, out=grad)
        np.subtract(grad, q, out=grad)
        np.divide(grad, p.shape[1], out=grad)


def sum_squares(p: Array, t: Array, _: float, rows: Array, grad: Array | None) -> None:
    """The sum, over columns and rows, of (p - t)²; the gradient is 2 * (p - t)."""
    away = np.subtract(p, t, out=grad)
    np.einsum("ij,ij->i", away, away, out=rows)
    if grad is not None:
        np.multiply(grad, 2, out=grad)


def mean_squared(p: Array, t: Array, _: float, rows: Array, grad: Array | None) -> None:
    """(p - t)², its gradient 2 * (p - t); means over the columns."""
    sum_squares(p, t, 0, rows, grad)
    np.divide(rows, p.shape[1], out=rows)
    if grad is not None:
        np.divide(grad, p.shape[1], out=grad)


def mean_absolute(p: Array, t: Array, _: float, rows: Array, grad: Array | None) -> None:
    """|p - t|, its gradient the sign of p - t; means over the columns."""
    away = np.subtract(p, t, out=grad)
    np.mean(np.abs(away), axis=1, out=rows)
    if grad is not None:
        np.divide(np.sign(grad, out=grad), p.shape[1], out=grad)


def huber(p: Array, t: Array, delta: float, rows: Array, grad: Array | None) -> None:
    """d²/2 where |d| <= delta, else delta * (|d| - delta/2), d = p - t; means over the columns.

    The gradient is d, clipped to ±delta.
    """
    away = np.subtract(p, t, out=grad)
    near = np.clip(away, -delta, delta)
    np.mean(near * (away - 0.5 * near), axis=1, out=rows)
    if grad is not None:
        np.divide(near, p.shape[1], out=grad)


def pinball(p: Array, t: Array, quantile: Array, rows: Array, grad: Array | None) -> None:
    """max(q * d, (q - 1) * d), d = t - p, q the column's quantile; means over the columns.

    The gradient is -q where p < t, 1 - q where p > t, 0 where they are equal.
    """
    away = np.subtract(t, p, out=grad)
    np.mean(np.maximum(quantile * away, (quantile - 1) * away), axis=1, out=rows)
    if grad is not None:
        slope = np.where(away > 0, -quantile, 1 - quantile)
        slope[away == 0] = 0
        np.divide(slope, p.shape[1], out=grad)


def poisson(p: Array, t: Array, _: float, rows: Array, grad: Array | None) -> None:
    """exp(p) - t * p, the negative log-likelihood of the count t at the rate exp(p) but for log t!;
    its gradient is exp(p) - t; means over the columns.
    """
    rate = np.exp(p)
    np.mean(rate - t * p, axis=1, out=rows)
    if grad is not None:
        np.subtract(rate, t, out=grad)
        np.divide(grad, p.shape[1], out=grad)


def loss_of(term: Term, batch_mean: bool) -> Reference:
    """The reference of a loss from its term; `batch_mean` divides by the valid rows."""

    def loss(
        pred: Array,
        target: Array,
        weight: Array | None,
        parameter: Array,
        clock: Array,
        grad: Array | None,
        rows: Array,
        totals: Array,
    ) -> Run:
        tiles = valid_tiles(pred, target, weight, grad, rows)

        def run() -> None:
            valid = valid_rows(clock, len(pred))
            count = max(int(clock[VALID] + clock[BEFORE]), 1) if batch_mean else 1
            for p, t, share, slope, losses in tiles(valid):
                number = parameter if term is pinball else float(parameter[0])
                term(p, t, number, losses, slope)
                if share is not None:
                    np.multiply(losses, share, out=losses)
                if slope is not None:
                    _weigh(slope, share, count)
            rows[valid:] = 0
            if grad is not None:
                grad[valid:] = 0
            _total(rows, valid, count, clock, totals)

        return run

    return loss


def _weigh(grad: Array, share: Array | None, count: int) -> None:
    """grad times each row's share of the loss."""
    if share is not None:
        np.multiply(grad, (share / count)[:, None], out=grad)
    elif count > 1:
        np.multiply(grad, 1 / count, out=grad)


def _total(rows: Array, valid: int, count: int, clock: Array, totals: Array) -> None:
    summed = float(np.add.reduce(rows, dtype=np.float64))
    if not isfinite(summed):
        clock[FAULT] |= FAULT_LOSS
    totals[0] = (totals[0] if clock[BEFORE] else 0) + summed / count
    totals[1] += summed
    totals[2] += valid


def _groups(pred: Array, *rest: Any) -> tuple[int]:
    return (1,) if _is_one(pred) else row_groups(pred)


def _folds(pred: Array, *rest: Any) -> tuple[int]:
    return (0,) if _is_one(pred) else (1,)


def _is_one(pred: Array) -> bool:
    """Whether one block takes all rows."""
    return len(pred) * row_lanes(pred) <= LOSS_ROUNDS * THREADS


def _register(term: Term, batch_mean: bool = True) -> Kernel:
    return register(
        loss_of(term, batch_mean),
        "loss.cu",
        name=term.__name__,
        variant=term.__name__,
        outputs="clock grad rows totals",
        typed_by="pred",
        stages=(Stage("row_losses", _groups), Stage("fold_rows", _folds)),
    )


LOSSES: dict[str, Kernel] = {
    term.__name__: _register(term, term is not sum_squares)
    for term in (
        softmax_cross_entropy,
        sigmoid_cross_entropy,
        sum_squares,
        mean_squared,
        mean_absolute,
        huber,
        pinball,
        poisson,
    )
}
"""Name of the loss → its kernel."""
