"""What rows hold that training never saw: counted by column, and told in few lines.

Refuses to make much of a handful of numbers: of those that have no end a few always lie far out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpunet.data.columns import Column
from gpunet.data.words import listed
from gpunet.sizes import counted

HANDFUL = 0.01
"""Up to this share of the rows numbers that lie far out are not told, and columns with missing
cells in one line."""


@dataclass(frozen=True)
class Unseen:
    """For each column, of so many rows, how many hold a `category` that training never saw,
    nothing where each row of training held something (`missing`), and a number `outside` those of
    training by more than these are apart."""

    rows: int = 0
    category: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Unseen") -> "Unseen":
        return Unseen(
            self.rows + other.rows,
            self.category + other.category,
            self.missing + other.missing,
            self.outside + other.outside,
        )

    def notes(self, columns: Iterable[Column]) -> list[str]:
        """Warnings of all that, in the words of the columns that were trained on."""
        ends = {column.name: column.shown_ends for column in columns}
        return [
            *(
                f"{name}: a category that training never saw in {counted(count, 'row')}"
                for name, count in self.category.items()
            ),
            *self._missing_notes(),
            *(
                f"{name}: far outside the {ends[name]} of training in {self._share(count)}"
                for name, count in self.outside.items()
                if not self._is_handful(count)
            ),
        ]

    def _missing_notes(self) -> list[str]:
        few = {name: count for name, count in self.missing.items() if self._is_handful(count)}
        few = few if len(few) > 1 else {}
        notes = [
            f"{name}: missing in {self._share(count)}, in none of training"
            for name, count in self.missing.items()
            if name not in few
        ]
        if few:
            cells = counted(sum(few.values()), "cell")
            notes.append(f"{listed(few)}: {cells} missing, where none of training was")
        return notes

    def _is_handful(self, count: int) -> bool:
        return count <= HANDFUL * self.rows

    def _share(self, count: int) -> str:
        return f"{count:,} of {counted(self.rows, 'row')}"
