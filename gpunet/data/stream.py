"""Encoding what does not fit in memory: piece by piece, into a spool for each part."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gpunet.data.rows import RowFile, Spool, check_room
from gpunet.data.source import Source

PIECE = 1 << 24
"""Bytes of a piece, about: its cells and its encoded rows."""


def spool(
    source: Source,
    names: Sequence[str],
    parts: Mapping[str, np.ndarray],
    width: int,
    dtype: np.dtype | str,
    encode: Callable[[Source], np.ndarray],
) -> dict[str, RowFile]:
    """x (n, width) of each part (ascending row numbers), as `encode` gives it of a few rows.

    Of a table only the columns `names` are read. Raises WriteError when the disk is too small.
    """
    row = width * np.dtype(dtype).itemsize
    check_room(row * sum(map(len, parts.values())))
    held = {part: Spool(width, dtype) for part in parts}
    first = 0
    for piece in source.pieces(names, max(1, PIECE // (row + 16 * len(names)))):
        x, stop = encode(piece), first + piece.rows
        for part, rows in parts.items():
            low, high = np.searchsorted(rows, (first, stop))
            held[part].add(x if high - low == len(x) else x[rows[low:high] - first])
        first = stop
    return {part: each.rows() for part, each in held.items()}
