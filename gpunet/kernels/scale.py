"""A factor for each column: y = x * scale, with the gradients of both."""

from functools import partial

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, register
from gpunet.kernels.tiles import (
    column_chunks,
    column_folds,
    column_tiles,
    scratch,
    tile_size,
    tiled,
)


def scale_forward(x: Array, scale: Array, y: Array) -> Run:
    """y = x * scale: x and y (n, m), scale (m,)."""
    return partial(np.multiply, x, scale, out=y)


def scale_backward(
    grad: Array, x: Array, scale: Array, dx: Array | None, dscale: Array, work: Array
) -> Run:
    """dx = grad * scale, which may be `grad`; dscale = the column sums of grad * x."""
    tiles = [(scratch(work, each[0], 1)[0], *each) for each in tiled(grad, x)]
    ones, part = np.ones(len(grad), grad.dtype), np.empty_like(dscale)

    def run() -> None:
        dscale.fill(0)
        for products, upstream, before in tiles:
            np.multiply(upstream, before, out=products)
            np.add(dscale, np.matmul(ones[: len(products)], products, out=part), out=dscale)
        if dx is not None:
            np.multiply(grad, scale, out=dx)

    return run


register(
    scale_forward,
    "scale.cu",
    outputs="y",
    typed_by="x",
    stages=(Stage("scale_forward", column_tiles),),
)
register(
    scale_backward,
    "scale.cu",
    outputs="dx dscale",
    typed_by="grad",
    stages=(Stage("scale_backward", column_tiles), Stage("fold_scale", column_folds)),
    work=lambda grad, *rest: max(tile_size(grad), column_chunks(grad) * grad.shape[1]),
)
