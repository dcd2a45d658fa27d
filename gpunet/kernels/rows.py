"""Rows in and out of batches: gather, embedding look-ups and their gradient, column sums."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, per_element, per_four, register
from gpunet.kernels.slots import MOST_STRIPS, START
from gpunet.kernels.tiles import (
    column_chunks,
    column_folds,
    column_strips,
    column_tiles,
    scratch,
    shape2,
    tile_size,
    tiled,
    valid_rows,
)


def gather(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    order: Array | None,
    clock: Array,
    out: Array,
) -> Run:
    """out[i] = x[order[start + i]] * scale + shift for the valid rows i of the batch, else 0.

    x (N, d) uint8, float32 or float64; scale, shift float64 (d,), read when bound; order int32,
    None for 0, 1, 2 …; out (n, d). Here bytes are scaled in the precision of `out`, a few roundings
    from float64; other numbers, which may be large beside their spread, in float64.
    """
    index, find = _finder(order, clock, len(out))
    wide = out.dtype if x.dtype == np.uint8 or scale is shift is None else np.dtype(np.float64)
    box, pick = _boxes(out, x.dtype, wide), picker(x)
    affine = ((np.multiply, scale), (np.add, shift))
    steps = [(step, _spread(by, out, wide)) for step, by in affine if by is not None]
    calls: list[Run] = []
    for part, rows in tiled(out, index):
        raw, numbers = box(part, x.dtype), box(part, wide)
        calls.append(partial(pick, rows, raw))
        if numbers is not raw:
            calls.append(partial(np.copyto, numbers, raw))
        calls += [partial(step, numbers, by[: len(part)], out=numbers) for step, by in steps]
        if part is not numbers:
            calls.append(partial(np.copyto, part, numbers))

    def run() -> None:
        valid = find()
        for call in calls:
            call()
        out[valid:] = 0

    return run


def gather_labels(y: Array, order: Array | None, clock: Array, out: Array) -> Run:
    """out[i] = y[order[start + i]] for the valid rows i of the batch, else 0.

    y (N,), out (n,): int32, or as `gather_weights` both of the network's type.
    """
    index, find = _finder(order, clock, len(out))
    pick = picker(y)

    def run() -> None:
        valid = find()
        pick(index, out)
        out[valid:] = 0

    return run


def take(x: Array, index: Array, y: Array) -> Run:
    """y[i] = x[index[i]]: x (v, m), index int32 (n,), y (n, m)."""
    tiles = tiled(y, index)

    def run() -> None:
        for part, rows in tiles:
            part[...] = x[rows]

    return run


def scatter_add(grad: Array, index: Array, dx: Array) -> Run:
    """dx[j] = sum of grad[i] over the i with index[i] = j, in order: the gradient of `take`."""

    def run() -> None:
        for column in range(grad.shape[1]):
            dx[:, column] = np.bincount(index, grad[:, column], len(dx))

    return run


def column_sums(x: Array, out: Array, work: Array) -> Run:
    """out (m,) = the sum of the rows of x (n, m)."""
    return partial(np.matmul, np.ones(len(x), x.dtype), x, out=out)


def _finder(order: Array | None, clock: Array, n: int) -> tuple[Array, Callable[[], int]]:
    """Where the rows of a batch lie, intp (n,), and the function that finds it out: it returns how
    many are valid. The others keep an earlier place, or 0."""
    index, counting = np.zeros(n, np.intp), np.arange(n)

    def find() -> int:
        valid, start = valid_rows(clock, n), int(clock[START])
        if order is None:
            np.add(counting[:valid], start, out=index[:valid])
        else:
            np.copyto(index[:valid], order[start : start + valid])
        return valid

    return index, find


def picker(x: Array) -> Callable[[Array, Array], Any]:
    """pick(index, out): out = x[index], without a copy on the way where x is contiguous."""
    if not (x.flags.c_contiguous and x.flags.aligned):  # `take` would copy the whole of x
        return lambda index, out: np.copyto(out, x[index])
    return lambda index, out: x.take(index, 0, out, "clip")  # other modes fill a copy of `out`


def _boxes(out: Array, *dtypes: np.dtype) -> Callable[[Array, np.dtype], Array]:
    """box(tile, dtype): a tile of `out` if it has this dtype, else scratch that all tiles share."""
    spare = {dtype: np.empty(tile_size(out), dtype) for dtype in dtypes if dtype != out.dtype}
    return lambda tile, dtype: scratch(spare[dtype], tile, 1)[0] if dtype in spare else tile


def _spread(row: Array, like: Array, dtype: np.dtype) -> Array:
    """`row` in every row of a tile of `like`: NumPy's loops start anew at each row that they have
    to repeat."""
    tile = max(1, tile_size(like) // max(1, like.shape[1]))
    return np.broadcast_to(row.astype(dtype), (tile, like.shape[1])).copy()


def _owners(grad: Array, *rest: Array) -> tuple[int, int]:
    return min(len(grad), 65_536), min(*column_strips(grad), MOST_STRIPS)


register(
    gather,
    "rows.cu",
    outputs="out",
    typed_by="out",
    sizes=lambda x, scale, shift, order, clock, out: shape2(out),
    stages=(Stage("gather_{x.dtype}", lambda *arguments: per_four(arguments[-1])),),
)
for name, typed_by in (("gather_labels", None), ("gather_weights", "out")):
    register(
        gather_labels,
        "rows.cu",
        name=name,
        outputs="out",
        typed_by=typed_by,
        sizes=lambda y, order, clock, out: (out.shape[0],),
        stages=(Stage(name, lambda y, order, clock, out: per_element(out)),),
    )
register(
    take,
    "embedding.cu",
    outputs="y",
    typed_by="x",
    sizes=lambda x, index, y: shape2(y),
    stages=(Stage("take", lambda x, index, y: column_tiles(y)),),
)
register(
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
register(
    column_sums,
    "rows.cu",
    outputs="out",
    typed_by="x",
    stages=(Stage("column_sums", column_tiles), Stage("fold_columns", column_folds)),
    work=lambda x, out: column_chunks(x) * x.shape[1],
)
