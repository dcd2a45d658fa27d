"""Layer norm (over the columns of each row) and batch norm (over the valid rows of each column).

Both keep the mean and the reciprocal standard deviation for their backward pass. `dx` may be
`grad`.
"""

from typing import Any

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, register
from gpunet.kernels.slots import FAULT, NORM_EPSILON, NORM_MOMENTUM
from gpunet.kernels.tiles import (
    column_chunks,
    column_folds,
    column_strips,
    column_tiles,
    row_groups,
    scratch,
    tile_size,
    tiled,
    valid_rows,
    valid_tiles,
)


def layer_norm_forward(
    x: Array, gain: Array, bias: Array, y: Array, mean: Array, rstd: Array
) -> Run:
    """y = (x - mean) * rstd * gain + bias, mean (n,) and biased variance of each row."""
    tiles = tiled(x, y, mean, rstd, mean[:, None], rstd[:, None])

    def run() -> None:
        for inside, out, m, r, m_column, r_column in tiles:
            np.mean(inside, axis=1, out=m)
            np.subtract(inside, m_column, out=out)
            _reciprocal_root(np.mean(np.square(out), axis=1), r)
            np.multiply(out, r_column, out=out)
            _affine(out, gain, bias)

    return run


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
) -> Run:
    """With h = (x - mean) * rstd and g = grad * gain: dx = rstd * (g - mean(g) - h * mean(g * h)),
    the means over a row; dgain = sum of grad * h and dbias = sum of grad, over the rows."""
    parts = tiled(x, grad, dx, mean[:, None], rstd[:, None])
    tiles = [(*part, *scratch(work, part[0], 2)) for part in parts]

    def run() -> None:
        dgain.fill(0)
        dbias.fill(0)
        for inside, upstream, g, m, r, h, product in tiles:
            _normalise(inside, m, r, h)
            _add_sums(upstream, h, product, dgain, dbias)
            np.multiply(upstream, gain, out=g)
            np.multiply(g, h, out=product)
            share = product.mean(axis=1, keepdims=True)
            np.subtract(g, g.mean(axis=1, keepdims=True), out=g)
            np.subtract(g, np.multiply(h, share, out=h), out=g)
            np.multiply(g, r, out=g)

    return run


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
) -> Run:
    """y = (x - mean) * rstd * gain + bias, mean (m,) and biased variance of the valid rows.

    running = 0.9 * running + 0.1 * new, with the unbiased variance. One valid row has none: then,
    after a fault, and where they would not be finite, the running statistics stay. Other rows of y
    are written too.
    """
    tiles, counted = tiled(x, y), valid_tiles(x)

    def run() -> None:
        valid = valid_rows(clock, len(x))
        spread = _statistics([part for (part,) in counted(valid)], valid, mean, work)
        _reciprocal_root(spread / max(valid, 1), rstd)
        if valid > 1 and not clock[FAULT]:
            for running, new in ((running_mean, mean), (running_var, spread / (valid - 1))):
                now = running * (1 - NORM_MOMENTUM) + new * NORM_MOMENTUM
                np.copyto(running, now, where=np.isfinite(now))
        for inside, out in tiles:
            _normalise(inside, mean, rstd, out)
            _affine(out, gain, bias)

    return run


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
) -> Run:
    """With h = (x - mean) * rstd over v valid rows: dgain = sum of grad * h, dbias = sum of grad,
    dx = gain * rstd * (grad - dbias / v - h * dgain / v); dx is 0 in the other rows."""
    tiles = valid_tiles(x, grad, dx)

    def run() -> None:
        valid = valid_rows(clock, len(x))
        dgain.fill(0)
        dbias.fill(0)
        for inside, upstream, _ in tiles(valid):
            h, product = scratch(work, inside, 2)
            _normalise(inside, mean, rstd, h)
            _add_sums(upstream, h, product, dgain, dbias)
        for inside, upstream, out in tiles(valid):
            h, _ = scratch(work, inside, 2)
            _normalise(inside, mean, rstd, h)
            np.multiply(h, dgain / valid, out=h)
            np.add(h, dbias / valid, out=h)
            np.subtract(upstream, h, out=out)
            np.multiply(out, gain * rstd, out=out)
        dx[valid:] = 0

    return run


def batch_norm_apply(
    x: Array, gain: Array, bias: Array, running_mean: Array, running_var: Array, y: Array
) -> Run:
    """y = (x - running_mean) / sqrt(running_var + 1e-5) * gain + bias. `y` may be `x`."""
    rstd, tiles = np.empty_like(running_var), tiled(x, y)

    def run() -> None:
        _reciprocal_root(running_var, rstd)
        for inside, out in tiles:
            _normalise(inside, running_mean, rstd, out)
            _affine(out, gain, bias)

    return run


def _statistics(tiles: list[Array], rows: int, mean: Array, work: Array) -> Array:
    """The column means of the tiles, written to `mean`; returns the sums of squared distances to
    them."""
    mean.fill(0)
    for tile in tiles:
        np.add(mean, np.add.reduce(tile, axis=0), out=mean)
    np.divide(mean, max(rows, 1), out=mean)
    spread = np.zeros_like(mean)
    for tile in tiles:
        away, _ = scratch(work, tile, 2)
        np.subtract(tile, mean, out=away)
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


def _work(x: Array, *rest: Any) -> int:
    return max(2 * tile_size(x), 2 * column_chunks(x) * x.shape[1])


register(
    layer_norm_forward,
    "layer_norm.cu",
    outputs="y mean rstd",
    typed_by="x",
    stages=(Stage("layer_norm_forward", row_groups),),
)
register(
    layer_norm_backward,
    "layer_norm.cu",
    outputs="dx dgain dbias",
    typed_by="grad",
    stages=(
        Stage("layer_norm_sums", column_tiles),
        Stage("layer_norm_fold", column_folds),
        Stage("layer_norm_backward", row_groups),
    ),
    work=_work,
)
register(
    batch_norm_forward,
    "batch_norm.cu",
    outputs="running_mean running_var y mean rstd",
    typed_by="x",
    stages=(
        Stage("batch_norm_statistics", column_tiles),
        Stage("batch_norm_settle", column_strips),
        Stage("batch_norm_forward", column_tiles),
    ),
    work=_work,
)
register(
    batch_norm_backward,
    "batch_norm.cu",
    outputs="dx dgain dbias",
    typed_by="grad",
    stages=(
        Stage("batch_norm_sums", column_tiles),
        Stage("batch_norm_fold", column_folds),
        Stage("batch_norm_backward", column_tiles),
    ),
    work=_work,
)
register(
    batch_norm_apply,
    "batch_norm.cu",
    outputs="y",
    typed_by="x",
    stages=(Stage("batch_norm_apply", column_tiles),),
)
