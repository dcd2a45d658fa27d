"""How work is cut: into row tiles that fit a cache for NumPy, into grids of blocks for CUDA."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

from gpunet.device import Array
from gpunet.kernels.slots import FEW_ROWS, MOST_STRIPS, THREADS, TILE_COLUMNS, TILE_ROUNDS, VALID

TILE = 32_768
"""Elements of a NumPy tile, unless one row has more."""


def row_tiles(x: Array) -> Iterator[slice]:
    """Slices of the rows of `x` (n, m), of about TILE elements each."""
    step = max(1, TILE // max(1, x.shape[1]))
    for first in range(0, len(x), step):
        yield slice(first, min(first + step, len(x)))


def tiled(like: Array, *others: Array | None) -> list[tuple[Any, ...]]:
    """Views of arrays of as many rows, all cut into the row tiles of the first; None stays None."""
    arrays = (like, *others)
    return [tuple(None if a is None else a[rows] for a in arrays) for rows in row_tiles(like)]


def valid_tiles(like: Array, *others: Array | None) -> Callable[[int], list[tuple[Any, ...]]]:
    """tiles(valid): `tiled` of the first `valid` rows; the tiles of whole batches are made once."""
    whole = tiled(like, *others)

    def tiles(valid: int) -> list[tuple[Any, ...]]:
        if valid == len(like):
            return whole
        return tiled(like[:valid], *(None if a is None else a[:valid] for a in others))

    return tiles


def scratch(work: Array, like: Array, count: int) -> tuple[Array, ...]:
    """`count` arrays of the shape of `like`, in the flat array `work`."""
    return tuple(work[: count * like.size].reshape(count, *like.shape))


def tile_size(x: Array) -> int:
    """Elements of the largest row tile of `x`."""
    return max(min(x.size, TILE), x.shape[1] if x.shape[0] else 0)


def valid_rows(clock: Array, n: int) -> int:
    """How many of `n` rows are in the batch."""
    return min(max(int(clock[VALID]), 0), n)


def shape2(x: Array, *rest: Any) -> tuple[int, int]:
    """Rows and columns of a matrix: the usual sizes of a kernel."""
    return x.shape[0], x.shape[1]


def column_chunks(x: Array) -> int:
    """Row chunks that a column sum over `x` (n, m) has on CUDA."""
    return ceil(len(x) / _tile_rows(_tile_columns(*shape2(x))))


def column_tiles(x: Array, *rest: Any) -> tuple[int, int]:
    """The grid of a column sum's first stage: row chunks, strips of columns."""
    return column_chunks(x), *column_strips(x)


def column_strips(x: Array, *rest: Any) -> tuple[int]:
    """A grid of strips of columns."""
    return (ceil(x.shape[1] / _tile_columns(*shape2(x))),)


def column_folds(x: Array, *rest: Any) -> tuple[int]:
    """The grid of a column sum's last stage, which one chunk does not want."""
    return (0,) if column_chunks(x) == 1 else column_strips(x)


def bias_folds(x: Array, *rest: Any) -> tuple[int]:
    """The same of a kernel whose last arguments are the sum, which may be None, and scratch."""
    return (0,) if rest[-2] is None else column_folds(x)


def row_groups(x: Array, *rest: Any) -> tuple[int]:
    """A grid in which each row of `x` (n, m) has as many threads as columns, at most a block."""
    return (min(ceil(len(x) * row_lanes(x) / THREADS), 65_536),)


def row_lanes(x: Array) -> int:
    """The threads that a row of `x` (n, m) has in `row_groups`."""
    return min(THREADS, _power_of_two(x.shape[1]))


def one_block(*arguments: Any) -> tuple[int]:
    return (1,)


def _tile_columns(rows: int, columns: int) -> int:
    width = min(TILE_COLUMNS, _power_of_two(columns))
    while _tile_rows(width) < rows <= FEW_ROWS and columns <= width // 2 * MOST_STRIPS:
        width //= 2
    return width


def _tile_rows(columns: int) -> int:
    return THREADS // columns * TILE_ROUNDS


def _power_of_two(n: int) -> int:
    """The smallest power of two that is not below `n`."""
    return 1 << max(n - 1, 0).bit_length()
