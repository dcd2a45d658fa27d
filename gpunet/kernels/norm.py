"""Layer norm (over the columns of each row) and batch norm (over the valid rows of each column).

Both keep the mean and the reciprocal standard deviation for their backward pass. `dx` may be
`grad`.
"""

from typing import Any

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Stage, register
from gpunet.kernels.slots import FAULT, NORM_EPSILON, NORM_MOMENTUM
from gpunet.kernels.tiles import (
    column_chunks,
    column_strips,
    column_tiles,
    row_groups,
    row_tiles,
    shape2,
    tile_size,
    valid_rows,
)


def layer_norm_forward(
    x: Array, gain: Array, bias: Array, y: Array, mean: Array, rstd: Array
) -> None:
    """y = (x - mean) * rstd * gain + bias, mean (n,) and biased variance of each row."""
    for rows in row_tiles(x):
        m, r, out = mean[rows], rstd[rows], y[rows]
        np.mean(x[rows], axis=1, out=m)
        np.subtract(x[rows], m[:, None], out=out)
        _reciprocal_root(np.mean(np.square(out), axis=1), r)
        np.multiply(out, r[:, None], out=out)
        _affine(out, gain, bias)


def layer_norm_backward(
    grad: Array,
    x: Array,
    gain: Array,
    mean: Array,
    rstd: Array,
    dx: Array,
    dgain: Array,
    dbias: Array,
    work: Array,
) -> None:
    """With h = (x - mean) * rstd and g = grad * gain: dx = rstd * (g - mean(g) - h * mean(g * h)),
    the means over a row; dgain = sum of grad * h and dbias = sum of grad, over the rows."""
    dgain.fill(0)
    dbias.fill(0)
    for rows in row_tiles(x):
        r, (h, product) = rstd[rows, None], _scratch(work, x[rows])
        _normalise(x[rows], mean[rows, None], r, h)
        _add_sums(grad[rows], h, product, dgain, dbias)
        g = np.multiply(grad[rows], gain, out=dx[rows])
        np.multiply(g, h, out=product)
        share = product.mean(axis=1, keepdims=True)
        np.subtract(g, g.mean(axis=1, keepdims=True), out=g)
        np.subtract(g, np.multiply(h, share, out=h), out=g)
        np.multiply(g, r, out=g)


def batch_norm_forward(
    x: Array,
    gain: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    clock: Array,
    y: Array,
    mean: Array,
    rstd: Array,
    work: Array,
) -> None:
    """y = (x - mean) * rstd * gain + bias, mean (m,) and biased variance of the valid rows.

    running = 0.9 * running + 0.1 * new, with the unbiased variance where more than one row is
    valid. After a fault the running statistics stay. Other rows of y are written too.
    """
    valid = valid_rows(clock, len(x))
    spread = _statistics(x[:valid], mean, work)
    _reciprocal_root(spread / max(valid, 1), rstd)
    if valid and not clock[FAULT]:
        for running, new in ((running_mean, mean), (running_var, spread / max(valid - 1, 1))):
            np.multiply(running, 1 - NORM_MOMENTUM, out=running)
            np.add(running, np.multiply(new, NORM_MOMENTUM), out=running)
    for rows in row_tiles(x):
        _normalise(x[rows], mean, rstd, y[rows])
        _affine(y[rows], gain, bias)


def batch_norm_backward(
    grad: Array,
    x: Array,
    gain: Array,
    mean: Array,
    rstd: Array,
    clock: Array,
    dx: Array,
    dgain: Array,
    dbias: Array,
    work: Array,
) -> None:
    """With h = (x - mean) * rstd over v valid rows: dgain = sum of grad * h, dbias = sum of grad,
    dx = gain * rstd * (grad - dbias / v - h * dgain / v); dx is 0 in the other rows."""
    valid = valid_rows(clock, len(x))
    dgain.fill(0)
    dbias.fill(0)
    for rows in row_tiles(x[:valid]):
        h, product = _scratch(work, x[rows])
        _normalise(x[rows], mean, rstd, h)
        _add_sums(grad[rows], h, product, dgain, dbias)
    for rows in row_tiles(x[:valid]):
        h, _ = _scratch(work, x[rows])
        _normalise(x[rows], mean, rstd, h)
        np.multiply(h, dgain / valid, out=h)
        np.add(h, dbias / valid, out=h)
        np.subtract(grad[rows], h, out=dx[rows])
        np.multiply(dx[rows], gain * rstd, out=dx[rows])
    dx[valid:] = 0


def batch_norm_apply(
    x: Array, gain: Array, bias: Array, running_mean: Array, running_var: Array, y: Array
) -> None:
    """y = (x - running_mean) / sqrt(running_var + 1e-5) * gain + bias. `y` may be `x`."""
    rstd = np.empty_like(running_var)
    _reciprocal_root(running_var, rstd)
    for rows in row_tiles(x):
        _normalise(x[rows], running_mean, rstd, y[rows])
        _affine(y[rows], gain, bias)


def _statistics(x: Array, mean: Array, work: Array) -> Array:
    """The column means of `x`, written to `mean`; returns the sums of squared distances to them."""
    mean.fill(0)
    for rows in row_tiles(x):
        np.add(mean, np.add.reduce(x[rows], axis=0), out=mean)
    np.divide(mean, max(len(x), 1), out=mean)
    spread = np.zeros_like(mean)
    for rows in row_tiles(x):
        away, _ = _scratch(work, x[rows])
        np.subtract(x[rows], mean, out=away)
        spread += np.add.reduce(np.square(away, out=away), axis=0)
    return spread


def _reciprocal_root(variance: Array, out: Array) -> None:
    np.add(variance, NORM_EPSILON, out=out)
    np.sqrt(out, out=out)
    np.reciprocal(out, out=out)


def _normalise(x: Array, mean: Array, rstd: Array, out: Array) -> None:
    np.subtract(x, mean, out=out)
    np.multiply(out, rstd, out=out)


def _affine(y: Array, gain: Array, bias: Array) -> None:
    np.multiply(y, gain, out=y)
    np.add(y, bias, out=y)


def _add_sums(grad: Array, h: Array, product: Array, dgain: Array, dbias: Array) -> None:
    np.multiply(grad, h, out=product)
    np.add(dgain, np.add.reduce(product, axis=0), out=dgain)
    np.add(dbias, np.add.reduce(grad, axis=0), out=dbias)


def _scratch(work: Array, like: Array) -> Array:
    return work[: 2 * like.size].reshape(2, *like.shape)


def _work(x: Array, *rest: Any) -> int:
    return max(2 * tile_size(x), 2 * column_chunks(x) * x.shape[1])


LAYER_NORM_FORWARD = register(
    layer_norm_forward,
    "layer_norm.cu",
    outputs="y mean rstd",
    typed_by="x",
    sizes=shape2,
    stages=(Stage("layer_norm_forward", row_groups),),
)
LAYER_NORM_BACKWARD = register(
    layer_norm_backward,
    "layer_norm.cu",
    outputs="dx dgain dbias",
    typed_by="grad",
    sizes=shape2,
    stages=(
        Stage("layer_norm_sums", column_tiles),
        Stage("layer_norm_fold", column_strips),
        Stage("layer_norm_backward", row_groups),
    ),
    work=_work,
)
BATCH_NORM_FORWARD = register(
    batch_norm_forward,
    "batch_norm.cu",
    outputs="running_mean running_var y mean rstd",
    typed_by="x",
    sizes=shape2,
    stages=(
        Stage("batch_norm_statistics", column_tiles),
        Stage("batch_norm_settle", column_strips),
        Stage("batch_norm_forward", column_tiles),
    ),
    work=_work,
)
BATCH_NORM_BACKWARD = register(
    batch_norm_backward,
    "batch_norm.cu",
    outputs="dx dgain dbias",
    typed_by="grad",
    sizes=shape2,
    stages=(
        Stage("batch_norm_sums", column_tiles),
        Stage("batch_norm_fold", column_strips),
        Stage("batch_norm_backward", column_tiles),
    ),
    work=_work,
)
BATCH_NORM_APPLY = register(
    batch_norm_apply,
    "batch_norm.cu",
    outputs="y",
    typed_by="x",
    sizes=shape2,
    stages=(Stage("batch_norm_apply", column_tiles),),
)
