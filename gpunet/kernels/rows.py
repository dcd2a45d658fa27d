"""Rows in and out of batches: gather, embedding look-ups and their gradient, column sums."""

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Stage, per_element, register
from gpunet.kernels.slots import START
from gpunet.kernels.tiles import (
    column_chunks,
    column_strips,
    column_tiles,
    row_tiles,
    shape2,
    valid_rows,
)


def gather(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    order: Array | None,
    clock: Array,
    out: Array,
) -> None:
    """out[i] = x[order[start + i]] * scale + shift for the valid rows i of the batch, else 0.

    x (N, d) uint8, float32 or float64; scale, shift float64 (d,); order int32, None for 0, 1, 2 …;
    out (n, d).
    """
    valid, start = valid_rows(clock, len(out)), int(clock[START])
    for part in row_tiles(out[:valid]):
        picked = _pick(x, order, start, part)
        if scale is not None:
            picked = picked * scale
        if shift is not None:
            picked = picked + shift
        out[part] = picked
    out[valid:] = 0


def gather_labels(y: Array, order: Array | None, clock: Array, out: Array) -> None:
    """out[i] = y[order[start + i]] for the valid rows i of the batch, else 0. y (N,), out int32."""
    valid, start = valid_rows(clock, len(out)), int(clock[START])
    out[:valid] = _pick(y, order, start, slice(0, valid))
    out[valid:] = 0


def take(x: Array, index: Array, y: Array) -> None:
    """y[i] = x[index[i]]: x (v, m), index int32 (n,), y (n, m)."""
    for part in row_tiles(y):
        y[part] = x[index[part]]


def scatter_add(grad: Array, index: Array, dx: Array) -> None:
    """dx[j] = sum of grad[i] over the i with index[i] = j, in order: the gradient of `take`."""
    for column in range(grad.shape[1]):
        dx[:, column] = np.bincount(index, grad[:, column], len(dx))


def column_sums(x: Array, out: Array, work: Array) -> None:
    """out (m,) = the sum of the rows of x (n, m)."""
    out.fill(0)
    for rows in row_tiles(x):
        np.add(out, np.add.reduce(x[rows], axis=0), out=out)


def _pick(x: Array, order: Array | None, start: int, part: slice) -> Array:
    rows = slice(start + part.start, start + part.stop)
    return x[rows] if order is None else x[order[rows]]


def _owners(grad: Array, index: Array, dx: Array) -> tuple[int, int]:
    return min(grad.shape[0], 65_536), *column_strips(grad)


GATHER = register(
    gather,
    "rows.cu",
    outputs="out",
    typed_by="out",
    sizes=lambda x, scale, shift, order, clock, out: shape2(out),
    stages=(Stage("gather_{x.dtype}", lambda *arguments: column_tiles(arguments[-1])),),
)
GATHER_LABELS = register(
    gather_labels,
    "rows.cu",
    outputs="out",
    typed_by=None,
    sizes=lambda y, order, clock, out: (out.shape[0],),
    stages=(Stage("gather_labels", lambda y, order, clock, out: per_element(out)),),
)
TAKE = register(
    take,
    "embedding.cu",
    outputs="y",
    typed_by="x",
    sizes=lambda x, index, y: shape2(y),
    stages=(Stage("take", lambda x, index, y: column_tiles(y)),),
)
SCATTER_ADD = register(
    scatter_add,
    "embedding.cu",
    outputs="dx",
    typed_by="grad",
    sizes=lambda grad, index, dx: (*shape2(grad), len(dx)),
    stages=(
        Stage("clear_rows", lambda grad, index, dx: per_element(dx)),
        Stage("scatter_add", _owners),
    ),
)
COLUMN_SUMS = register(
    column_sums,
    "rows.cu",
    outputs="out",
    typed_by="x",
    sizes=shape2,
    stages=(Stage("column_sums", column_tiles), Stage("fold_columns", column_strips)),
    work=lambda x, out: column_chunks(x) * x.shape[1],
)
