"""What kind of thing each column is: as the user says, or as its cells show.

Refuses cells that are not of the kind that was said.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gpunet.data.cells import NOUNS, Cells, read_cells
from gpunet.data.source import Source
from gpunet.data.words import closest, listed, quoted
from gpunet.errors import DataError, UsageError


def check_types(source: Source, types: Mapping[str, str], used: Sequence[str]) -> None:
    """Raise UsageError for a kind of a column that is not there, or that nothing reads."""
    for name in types:
        if name not in source.columns:
            hint = closest(name, source.columns) or f"the columns are {listed(source.columns)}"
            raise UsageError(f"types {name}: {source.name} has no such column", hint)
        if name not in used:
            raise UsageError(f"types {name}: not a column that is learnt from")


def read_as(source: Source, name: str, kind: str | None, rows: np.ndarray) -> Cells:
    """The cells of a column: all of them of `kind`, or of what those in `rows` show.

    Raises DataError with the first cell that is of another kind.
    """
    cells = read_cells(source, name, kind, rows)
    if kind == "boolean" and len(wrong := np.flatnonzero(cells.values < 0)):
        assert source.table is not None
        first = int(wrong[0])
        text = source.table.column(name)[first].as_py()
        raise DataError(
            f"{name}: {len(wrong):,} of {len(cells.values):,} values are not {NOUNS[kind]} "
            f"({source.row(first)}: {quoted(text)})"
        )
    return cells
