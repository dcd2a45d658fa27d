"""What was read, before any meaning is given to it: a table or arrays. Refuses to guess types."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.data.rows import Rows, blocks
from gpunet.data.words import listed, option
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from gpunet.data.parquet import ParquetTable

MAX_ROWS = (1 << 31) - 1
PIECE = 1 << 16
"""Rows of a table that are looked through at a time."""


@dataclass(frozen=True, eq=False)
class Source:
    """A table (columns by name) or arrays (x, and y where there is a target).

    `x` is (n, …) in its own dtype, `y` is (n,) or (n, k). `test` is a test part that came with it;
    `target` and `settings` are what a built-in set predicts and its own recipe. A source that
    `streams` lies in a file, and is read a column or a few rows at a time.
    """

    name: str
    table: "pa.Table | ParquetTable | None" = None
    x: Rows | None = None
    y: np.ndarray | None = None
    test: "Source | None" = None
    target: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    text: bool = False  # cells are strings, as they stood in a text file
    first: int = 1  # the number of the first row: 2 where a header stands above it
    lines: np.ndarray | None = None  # each row's line in the file, where rows and lines differ
    notes: tuple[str, ...] = ()  # warnings of the reader, in plain words
    streams: bool = False
    na: tuple[str, ...] = ()  # words that mean missing beside the built-in ones, case as written
    decimal: str | None = None  # the decimal mark of text, , or .; the other may part thousands
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Columns that cannot be learnt from, and why: they are not in the table."""
    aside: "pa.Table | ParquetTable | None" = None
    """Of the columns that cannot be learnt from, those that can be copied: times, durations."""
    file: str = ""
    """What the user named, where it is a file."""

    def __post_init__(self) -> None:
        if (self.table is None) == (self.x is None):
            raise ValueError("a source is either a table or arrays")
        if self.rows > MAX_ROWS:
            raise DataError(f"{self.title}: {self.rows:,} rows; the limit is {MAX_ROWS:,}")

    @property
    def title(self) -> str:
        """What messages call it: the file as it was named, or its own name."""
        return self.file or self.name

    @property
    def rows(self) -> int:
        return self.table.num_rows if self.table is not None else len(self.x)  # type: ignore[arg-type]

    @property
    def columns(self) -> list[str]:
        """The names of a table's columns; of arrays, none."""
        return [] if self.table is None else list(self.table.column_names)

    @property
    def has_codes(self) -> bool:
        """Whether the target is an array of whole numbers, as codes of classes are."""
        return self.y is not None and self.y.dtype.kind in "iu"

    def pieces(self, names: Sequence[str], size: int) -> Iterator["Source"]:
        """The rows in order, at most `size` at a time, without targets; of a table the columns
        `names` alone."""
        if self.x is not None:
            for first, x in blocks(self.x, size):
                yield replace(self._from(first, len(x)), x=x, y=None)
            return
        first = 0
        for table in self._tables(list(names), size):
            yield replace(self._from(first, len(table)), table=table)
            first += len(table)

    def take(self, rows: np.ndarray) -> "Source":
        """Some rows (ascending numbers), with their targets, in memory."""
        lines = numbers(rows, self.first, self.lines)
        found = replace(self, test=None, lines=lines, streams=False, aside=None)
        if self.x is not None:
            return replace(found, x=self.x[rows], y=None if self.y is None else self.y[rows])
        import pyarrow as pa

        parts, first = [], 0
        for table in self._tables(self.columns, PIECE):
            low, high = np.searchsorted(rows, (first, first + len(table)))
            parts.append(table.take(rows[low:high] - first))
            first += len(table)
        return replace(found, table=pa.concat_tables(parts))

    def _from(self, first: int, count: int) -> "Source":
        lines = None if self.lines is None else self.lines[first : first + count]
        first += self.first
        return replace(self, test=None, first=first, lines=lines, streams=False, aside=None)

    def _tables(self, names: list[str], size: int) -> Iterator["pa.Table"]:
        whole: Any = self.table
        if self.streams:
            return whole.tables(names, size)
        table = whole.select(names)
        return (table.slice(first, size) for first in range(0, self.rows, size))

    def row(self, index: int) -> str:
        """Where row `index` (from 0) stands in the file, for messages: `row 1,287`."""
        return f"row {int(numbers(np.array(index), self.first, self.lines)):,}"


def numbers(rows: np.ndarray, first: int, lines: np.ndarray | None) -> np.ndarray:
    """Where rows (from 0) stand in a file of which a Source gave `first` and `lines`."""
    return first + rows if lines is None else lines[rows]


def check_fit(source: Source, left_out: Collection[str]) -> None:
    """Raise DataError where a column that cannot be learnt from is not left out."""
    unfit = [name for name in source.unfit if name not in left_out]
    if unfit:
        them = "it" if len(unfit) == 1 else "them"
        drop = option("--drop", *left_out, *unfit)
        raise DataError(source.unfit[unfit[0]], f"leave {them} out with {drop}")


def check_names(names: Sequence[str], source: str) -> None:
    """Raise DataError when a column has no name, or shares it."""
    nameless = [i + 1 for i, title in enumerate(names) if not title.strip()]
    if nameless:
        raise DataError(f"{source}: column {nameless[0]:,} has no name")
    twice = [title for title, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{source}: the same column name more than once: {listed(twice)}")
