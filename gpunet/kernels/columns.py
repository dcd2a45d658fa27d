"""The first layer of a table: numbers as waves or as shares of bins, category codes as rows of a
table, columns copied.

Each kernel reads a window of columns of its input, from `x_first` on, and writes one of its output,
from `y_first` on, so that parts which lie side by side are written where they belong; what is
outside the windows stays.
"""

from collections.abc import Iterator
from itertools import accumulate
from math import pi
from typing import Any, NamedTuple

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, per_element, per_thread, register
from gpunet.kernels.tiles import TILE


def periodic_forward(
    x: Array,
    frequency: Array,
    phase: Array,
    weight: Array,
    bias: Array,
    y: Array,
    x_first: int,
    y_first: int,
) -> Run:
    """For feature j of the window (n, f) of x (n, d), e + 1 columns of the window of y (n, m):
    cos(2π frequency[j] x_j + phase[j]) @ weight[j] + bias[j], and x_j.

    frequency, phase (f, k); weight (f, k, e); bias (f, e).
    """
    tiles = list(_wave_tiles(x, weight, y, x_first, y_first))

    def run() -> None:
        for tile in tiles:
            np.cos(tile.angles(frequency, phase), out=tile.cosine)
            np.matmul(tile.cosine, weight, out=tile.mixed)
            np.add(tile.mixed, bias[:, None], out=tile.outer[..., :-1])
            np.copyto(tile.outer[..., -1], tile.x)

    return run


def periodic_backward(
    grad: Array,
    x: Array,
    frequency: Array,
    phase: Array,
    weight: Array,
    dx: Array | None,
    dfrequency: Array,
    dphase: Array,
    dweight: Array,
    dbias: Array,
    x_first: int,
    y_first: int,
) -> Run:
    """The gradients of periodic_forward, from the window of grad (n, m); with a = 2π frequency x +
    phase and u = -sin(a) * (grad @ weightᵀ), summed over the rows: dweight = cos(a)ᵀ @ grad,
    dphase = u, dfrequency = 2π x u. dx (n, d), if wanted, has the window of x."""
    tiles = list(_wave_tiles(x, weight, grad, x_first, y_first))
    windows: list[Array | None] = [None] * len(tiles)
    if dx is not None:
        windows = [tile.x for tile in _wave_tiles(dx, weight, grad, x_first, y_first)]
    sums = (dfrequency, dphase, dweight, dbias)

    def run() -> None:
        for total in sums:
            total.fill(0)
        for tile, window in zip(tiles, windows):
            slope = _add_slopes(tile, frequency, phase, weight, sums)
            if window is not None:
                np.multiply(slope, frequency[:, None], out=slope)
                np.sum(slope, axis=2, out=window)
                window *= 2 * pi
                window += tile.outer[..., -1]

    return run


def _add_slopes(
    tile: "_Waves", frequency: Array, phase: Array, weight: Array, sums: tuple[Array, ...]
) -> Array:
    """Adds a tile's gradients to dfrequency, dphase, dweight and dbias; returns u (f, rows, k)."""
    dfrequency, dphase, dweight, dbias = sums
    np.copyto(tile.mixed, tile.outer[..., :-1])
    dbias += tile.mixed.sum(axis=1)
    np.cos(tile.angles(frequency, phase), out=tile.cosine)
    dweight += np.matmul(tile.cosine.transpose(0, 2, 1), tile.mixed)
    slope = tile.cosine
    np.matmul(tile.mixed, weight.transpose(0, 2, 1), out=slope)
    np.sin(tile.angle, out=tile.angle)
    np.multiply(slope, tile.angle, out=slope)
    np.negative(slope, out=slope)
    dphase += slope.sum(axis=1)
    np.multiply(slope, tile.x[..., None], out=tile.angle)
    dfrequency += 2 * pi * tile.angle.sum(axis=1)
    return slope


class _Waves(NamedTuple):
    """A tile of rows, features first: x (f, rows), outer (f, rows, e + 1), scratch angle and
    cosine (f, rows, k) and mixed (f, rows, e)."""

    x: Array
    outer: Array
    angle: Array
    cosine: Array
    mixed: Array

    def angles(self, frequency: Array, phase: Array) -> Array:
        np.multiply(self.x[..., None], 2 * pi * frequency[:, None], out=self.angle)
        return np.add(self.angle, phase[:, None], out=self.angle)


def _wave_tiles(x: Array, weight: Array, y: Array, x_first: int, y_first: int) -> Iterator[_Waves]:
    """The windows of x and y in tiles of rows that share their scratch."""
    f, k, e = weight.shape
    step = max(1, min(len(x), TILE // max(1, f * max(k, e))))
    boxes = [np.empty((f, step, width), x.dtype) for width in (k, k, e)]
    for first in range(0, len(x), step):
        inside = x[first : first + step, x_first : x_first + f].T
        outer = _window(y[first : first + step], y_first, f, e + 1).transpose(1, 0, 2)
        yield _Waves(inside, outer, *(box[:, : inside.shape[1]] for box in boxes))


def _window(y: Array, first: int, parts: int, width: int) -> Array:
    """A view (n, parts, width) of columns of y (n, m)."""
    row, column = y.strides
    window, strides = y[:, first : first + parts * width], (row, width * column, column)
    return np.lib.stride_tricks.as_strided(window, (len(y), parts, width), strides)


def piecewise_forward(
    x: Array, feature: Array, low: Array, slope: Array, y: Array, x_first: int, y_first: int
) -> Run:
    """Of each bin one column of the window (n, q) of y (n, m): how much of it lies below a number,
    clip((x_j - low) slope, 0, 1), where x_j is column feature (q,) int32 of the window of x (n, d)
    and slope (q,) is 1 / the width of the bin that starts at low (q,). NaN lies below all bins.
    """
    tiles = list(_bin_tiles(x, feature, y, x_first, y_first))

    def run() -> None:
        for inside, shares, window in tiles:
            np.copyto(window, _clipped(inside, feature, low, slope, shares))

    return run


def piecewise_backward(
    grad: Array,
    x: Array,
    feature: Array,
    low: Array,
    slope: Array,
    dx: Array,
    x_first: int,
    y_first: int,
    features: int,
) -> Run:
    """The window (n, features) of dx (n, d), of piecewise_forward's x: the sum over the bins that
    x_j lies in of their slope times the window of grad (n, m)."""
    tiles = list(_bin_tiles(x, feature, grad, x_first, y_first))
    windows = [
        dx[first : first + len(tile[0]), x_first : x_first + features]
        for first, tile in zip(accumulate((len(tile[0]) for tile in tiles), initial=0), tiles)
    ]

    def run() -> None:
        for (inside, shares, outer), window in zip(tiles, windows):
            _clipped(inside, feature, low, slope, shares)
            is_outside = (shares == 0) | (shares == 1)
            np.multiply(outer, slope, out=shares)
            np.copyto(shares, 0, where=is_outside)
            window.fill(0)
            for q, j in enumerate(feature.tolist()):
                window[:, j] += shares[:, q]

    return run


def _clipped(x: Array, feature: Array, low: Array, slope: Array, out: Array) -> Array:
    np.take(x, feature, axis=1, out=out, mode="clip")
    np.subtract(out, low, out=out)
    np.multiply(out, slope, out=out)
    np.fmax(out, 0, out=out)  # drops NaN
    return np.fmin(out, 1, out=out)


def _bin_tiles(
    x: Array, feature: Array, y: Array, x_first: int, y_first: int
) -> Iterator[tuple[Array, Array, Array]]:
    """x from its window on, scratch for shares, and the window of y, in tiles of rows."""
    bins = len(feature)
    step = max(1, min(len(x), TILE // max(1, bins)))
    box = np.empty((step, bins), x.dtype)
    for first in range(0, len(x), step):
        inside = x[first : first + step, x_first:]
        yield inside, box[: len(inside)], y[first : first + step, y_first : y_first + bins]


def embedding_forward(
    x: Array, starts: Array, table: Array, y: Array, x_first: int, y_first: int
) -> Run:
    """For column j of the window (n, c) of x (n, d), whole numbers, e columns of the window of
    y (n, m): row starts[j] + x_j of table (v, e), which holds the columns' tables one below the
    other; starts int32 (c,). A number outside its table counts as the nearest in it.
    """
    tiles = _code_tiles(x, starts, table, y, x_first, y_first)

    def run() -> None:
        for codes, low, high, window in tiles:
            window[...] = table[_rows(codes, low, high)]

    return run


def embedding_backward(
    grad: Array, x: Array, starts: Array, dtable: Array, x_first: int, y_first: int
) -> Run:
    """dtable (v, e): row r is the sum of the parts of grad (n, m) for which embedding_forward
    read row r, in the order of the rows."""
    (tile,) = _code_tiles(x, starts, dtable, grad, x_first, y_first, whole=True)

    def run() -> None:
        codes, low, high, window = tile
        rows = _rows(codes, low, high).ravel()
        for column in range(dtable.shape[1]):
            weights = window[..., column].ravel()
            dtable[:, column] = np.bincount(rows, weights, len(dtable))

    return run


def _code_tiles(
    x: Array,
    starts: Array,
    table: Array,
    y: Array,
    x_first: int,
    y_first: int,
    whole: bool = False,
) -> list[tuple[Array, Array, Array, Array]]:
    """The windows of x and y in tiles of rows, with each column's first and last row of the table;
    `whole`: in one."""
    columns, e = len(starts), table.shape[1]
    step = max(1, len(x) if whole else TILE // max(1, columns * e))
    high = np.append(starts[1:], len(table)) - 1
    return [
        (
            x[first : first + step, x_first : x_first + columns],
            starts,
            high,
            _window(y[first : first + step], y_first, columns, e),
        )
        for first in range(0, max(1, len(x)), step)
    ]


def _rows(codes: Array, low: Array, high: Array) -> Array:
    inside = np.fmin(np.fmax(codes, 0), high - low)  # fmax drops NaN
    return inside.astype(np.intp) + low


def copy_columns(x: Array, y: Array, x_first: int, y_first: int, width: int) -> Run:
    """Columns y_first … of y (n, m) = `width` columns of x (n, d), from x_first on."""
    inside = x[:, x_first : x_first + width]
    outside = y[:, y_first : y_first + width]
    return lambda: np.copyto(outside, inside)


def _shapes(x: Array, y: Array, weight: Array) -> tuple[int, ...]:
    return x.shape[0], x.shape[1], y.shape[1], *weight.shape


def _inputs_wanted(
    grad: Array, x: Array, frequency: Array, phase: Array, weight: Array, dx: Any, *rest: Any
) -> tuple[int, ...]:
    return (0,) if dx is None else per_thread(len(x) * len(frequency))


register(
    periodic_forward,
    "periodic.cu",
    outputs="y",
    typed_by="x",
    sizes=lambda x, frequency, phase, weight, bias, y, x_first, y_first: _shapes(x, y, weight),
    stages=(
        Stage(
            "periodic_forward",
            lambda x, frequency, phase, weight, bias, *rest: per_thread(
                len(x) * (bias.size + len(bias))
            ),
        ),
    ),
)
register(
    periodic_backward,
    "periodic.cu",
    outputs="dx dfrequency dphase dweight dbias",
    typed_by="x",
    sizes=lambda grad, x, frequency, phase, weight, *rest: _shapes(x, grad, weight),
    stages=(
        Stage(
            "periodic_backward",
            lambda grad, x, frequency, *rest: (frequency.size + len(frequency),),
        ),
        Stage("periodic_inputs", _inputs_wanted),
    ),
)
register(
    piecewise_forward,
    "piecewise.cu",
    outputs="y",
    typed_by="x",
    sizes=lambda x, feature, low, slope, y, *rest: _shapes(x, y, feature),
    stages=(
        Stage("piecewise_forward", lambda x, feature, *rest: per_thread(len(x) * len(feature))),
    ),
)
register(
    piecewise_backward,
    "piecewise.cu",
    outputs="dx",
    typed_by="x",
    sizes=lambda grad, x, feature, *rest: _shapes(x, grad, feature),
    stages=(Stage("piecewise_backward", lambda grad, x, *rest: per_thread(len(x) * rest[-1])),),
)
register(
    embedding_forward,
    "embedding.cu",
    outputs="y",
    typed_by="table",
    sizes=lambda x, starts, table, y, x_first, y_first: (*_shapes(x, y, starts), *table.shape),
    stages=(
        Stage(
            "embedding_forward",
            lambda x, starts, table, *rest: per_thread(len(x) * len(starts) * table.shape[1]),
        ),
    ),
)
register(
    embedding_backward,
    "embedding.cu",
    outputs="dtable",
    typed_by="dtable",
    sizes=lambda grad, x, starts, dtable, *rest: (*_shapes(x, grad, starts), *dtable.shape),
    stages=(
        Stage("clear_table", lambda grad, x, starts, dtable, *rest: per_element(dtable)),
        Stage(
            "embedding_backward",
            lambda grad, x, starts, dtable, *rest: (min(len(x) * len(starts), 65_536),),
        ),
    ),
)
register(
    copy_columns,
    "rows.cu",
    outputs="y",
    typed_by="x",
    sizes=lambda x, y, *rest: (*x.shape, y.shape[1]),
    stages=(Stage("copy_columns", lambda x, y, first, to, width: per_thread(len(x) * width)),),
)
