"""What was read, before any meaning is given to it: a table or arrays. Refuses to guess types."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.words import listed
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = (1 << 31) - 1


@dataclass(frozen=True, eq=False)
class Source:
    """A table (columns by name) or arrays (x, and y where there is a target).

    `x` is (n, …) in its own dtype, `y` is (n,) or (n, k). `test` is a test part that came with it;
    `target` and `settings` are what a built-in set predicts and its own recipe.
    """

    name: str
    table: "pa.Table | None" = None
    x: np.ndarray | None = None
    y: np.ndarray | None = None
    test: "Source | None" = None
    target: tuple[str, ...] = ()
    settings: dict[str, object] = field(default_factory=dict)
    text: bool = False  # cells are strings, as they stood in a text file
    first: int = 1  # the number of the first row: 2 where a header stands above it
    lines: np.ndarray | None = None  # each row's line in the file, where rows and lines differ
    notes: tuple[str, ...] = ()  # warnings of the reader, in plain words

    def __post_init__(self) -> None:
        if (self.table is None) == (self.x is None):
            raise ValueError("a source is either a table or arrays")
        if self.rows > MAX_ROWS:
            raise DataError(f"{self.name}: {self.rows:,} rows; the limit is {MAX_ROWS:,}")

    @property
    def rows(self) -> int:
        return self.table.num_rows if self.table is not None else len(self.x)  # type: ignore[arg-type]

    @property
    def columns(self) -> list[str]:
        """The names of a table's columns; of arrays, none."""
        return [] if self.table is None else list(self.table.column_names)

    def row(self, index: int) -> str:
        """Where row `index` (from 0) stands in the file, for messages: `row 1,287`."""
        number = self.first + index if self.lines is None else int(self.lines[index])
        return f"row {number:,}"


def check_names(names: Sequence[str], source: str) -> None:
    """Raise DataError when a column has no name, or shares it."""
    nameless = [i + 1 for i, title in enumerate(names) if not title.strip()]
    if nameless:
        raise DataError(
            f"{source}: column {nameless[0]:,} has no name",
            "a table saved by pandas: to_csv(…, index=False)" if nameless == [1] else None,
        )
    twice = [title for title, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{source}: the same column name more than once: {listed(twice)}")
