"""What kind of thing each column is: as the user says, or as its cells show.

Refuses cells that are not of the kind that was said.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from re import fullmatch

import numpy as np

from gpunet.data.answers import Answer
from gpunet.data.cells import DATE, NOUNS, Cells, is_day, read_cells
from gpunet.data.columns import ID_ROWS, MOST_LEVELS
from gpunet.data.roughness import memberships, own_values
from gpunet.data.source import Source
from gpunet.data.spelling import MOSTLY
from gpunet.data.targets import FEW, NUMBERS
from gpunet.data.words import closest, is_number, listed, option, quoted
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted

SAMPLE, ENOUGH_ROWS = 20_000, 100
"""Rows, at most and at least, on which a column is held against the target."""
MOST_ROWS = 50_000
"""Rows, at most, on which a number's values are held against their neighbours."""
SAME_ORDER, PURE = 0.995, 0.999
"""A rank correlation, and a share of rows told right, above which a column looks like a leak."""
NEARLY_ALL = 0.9
"""A share of different texts above which they name the rows."""
FEW_SURE = 0.8
"""Of few whole numbers it is less sure that they are amounts, and no codes."""
TIME = r"(,?[ T]\d{1,2}:\d\d(:\d\d([.,]\d+)?)?( ?[AaPp][Mm])?(Z|[+-]\d\d(:?\d\d)?)?)?"
DATE_WAYS = (
    DATE,
    rf"\d{{1,2}}\.\d{{1,2}}\.\d{{2,4}}{TIME}",
    rf"\d{{1,2}}/\d{{1,2}}/\d{{2,4}}{TIME}",
    rf"\d{{1,2}}-\d{{1,2}}-\d{{2,4}}{TIME}",
    rf"\d{{4}}/\d{{1,2}}/\d{{1,2}}{TIME}",
    rf"\d{{4}}\.\d{{1,2}}\.\d{{1,2}}{TIME}",
    rf"\d{{1,2}}[ -][A-Z][a-z]{{2,8}}[ -]\d{{2,4}}{TIME}",
    rf"[A-Z][a-z]{{2,8}} \d{{1,2}}, \d{{4}}{TIME}",
    r"(19|20)\d\d[-/](0[1-9]|1[0-2])",
)
"""How dates are written; of these the first alone is read as dates."""


def check_types(source: Source, types: Mapping[str, str], used: Sequence[str]) -> None:
    """Raise UsageError for a kind of a column that is not there, or that nothing reads."""
    for name in types:
        if name in source.unfit:
            raise UsageError(f"{option('--types', name)}: {source.unfit[name]}")
        if name not in source.columns:
            hint = closest(name, source.columns) or f"the columns are {listed(source.columns)}"
            raise UsageError(f"{option('--types', name)}: {source.title} has no such column", hint)
        if name not in used:
            raise UsageError(f"{option('--types', name)}: not a column that is learnt from")


@dataclass(frozen=True)
class Evidence:
    """What a column is taken for, and why, from the training rows.

    kind: numeric, ordinal (few whole numbers; learnt from as numbers), boolean, date, timestamp,
    category, text, constant, empty or id. values, missing: rows with and without a value.
    confidence: how likely the next value is of that kind too, 0 to 1; 1 where the user said so.
    """

    name: str
    kind: str
    values: int
    missing: int
    evidence: str
    confidence: float
    warnings: tuple[str, ...] = ()


class Observer:
    """Reads the columns that a network is to learn from, and says what each looks like.

    Looks at the rows `train` alone: what they hold, and how well each column tells the target.
    """

    def __init__(
        self, types: Mapping[str, str], answers: Sequence[Answer], task: str, train: np.ndarray
    ) -> None:
        self.types, self.train = types, train
        has_order = task in NUMBERS
        self.targets = [
            answer.numbers if has_order and answer.numbers is not None else answer.codes
            for answer in answers
        ]
        self.sample = evenly(train, MOST_ROWS)
        self.names = [answer.name for answer in answers]
        self.has_order = has_order
        self.ranked: tuple[np.ndarray, list[np.ndarray]] = np.zeros(0), []
        self.seen: list[Evidence] = []

    def read(self, source: Source, name: str) -> Cells:
        """The cells of a column: all of the kind that was asked for, or of what those that train
        show; raises DataError with the first that is of another."""
        kind = self.types.get(name)
        cells = read_cells(source, name, kind, self.train)
        if kind == "boolean" and len(wrong := np.flatnonzero(cells.values < 0)):
            assert source.table is not None
            first = int(wrong[0])
            text = source.table.column(name)[first].as_py()
            raise DataError(
                f"{name}: {len(wrong):,} of {len(cells.values):,} values are not {NOUNS[kind]} "
                f"({source.row(first)}: {quoted(text)})"
            )
        return cells

    def own_values(self, cells: Cells) -> tuple[float, ...]:
        """The values of a number that mean something one by one, as `roughness` says."""
        return own_values(cells.values[self.sample], self._told)

    @cached_property
    def _told(self) -> np.ndarray:
        """What the sample's rows say of the targets (n, k): numbers, or classes."""
        targets = [target[self.sample] for target in self.targets]
        parts = targets if self.has_order else list(map(memberships, targets))
        return np.column_stack(parts).astype(np.float64)

    def note(self, name: str, cells: Cells, notes: Sequence[str], is_left_out: bool) -> list[str]:
        """Keep what a column looks like, with these warnings and more; all of them."""
        missing = cells.missing[self.train]
        known, rows = cells.values[self.train][~missing], self.train[~missing]
        kind, words, confidence = looks(cells, known, len(missing))
        if name in self.types:
            words, confidence = f"as --types says; {words}", 1.0
        warnings = [*notes]
        if cells.note and cells.note not in notes and not (is_left_out and cells.kind == "numeric"):
            warnings.append(cells.note)
        if not is_left_out:
            is_read_wrong = cells.kind == "category" and cells.note
            warnings += [] if is_read_wrong else _like_an_id(name, kind, known, rows)
            warnings += self._leaks(name, cells, rows)
        warnings += _date_formats(name, cells, known)
        count = len(known)
        found = Evidence(
            name, kind, count, len(missing) - count, words, round(confidence, 3), tuple(warnings)
        )
        self.seen.append(found)
        return warnings

    def _leaks(self, name: str, cells: Cells, rows: np.ndarray) -> list[str]:
        """A warning where one column all but gives a target away, on at most SAMPLE rows."""
        if len(rows) < max(ENOUGH_ROWS, len(self.train) // 2):
            return []
        rows = evenly(rows, SAMPLE)
        values, is_category = cells.values[rows], cells.kind == "category"
        if not self.has_order:
            how = "tells the classes of {} apart"
            are_told = [_tells_apart(values, each[rows], is_category) for each in self.targets]
        elif is_category:
            return []
        else:
            how, own = "puts the rows in the order of {}", centred_ranks(values)
            are_told = [abs(correlation(own, each)) > SAME_ORDER for each in self._ranks(rows)]
        return [
            f"{name}: {how.format(target)} all but perfectly, like a leak; if it is not known "
            f"beforehand, leave it out: {option('--drop', name)}"
            for target, is_told in zip(self.names, are_told, strict=True)
            if is_told
        ]

    def _ranks(self, rows: np.ndarray) -> list[np.ndarray]:
        """The targets' ranks among these rows, kept for the next column that has the same ones."""
        if not np.array_equal(rows, self.ranked[0]):
            self.ranked = rows, [centred_ranks(target[rows]) for target in self.targets]
        return self.ranked[1]


def evenly(values: np.ndarray, most: int) -> np.ndarray:
    """At most so many of some values, at equal distances."""
    return values[:: max(1, -(-len(values) // most))]


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each of the values (n,) less the mean rank, ties at their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return np.asarray(ranks - ranks.mean())


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of x and y (n,) of mean 0, of ranks Spearman's; 0 where one is constant."""
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else 0.0


def _tells_apart(values: np.ndarray, classes: np.ndarray, is_category: bool) -> bool:
    """Whether levels, or thresholds, one fewer than there are classes, leave hardly a row wrong."""
    n, counts = len(values), np.bincount(classes)
    if n - counts.max() < max(ENOUGH_ROWS // 10, n // 100):
        return False
    order = np.lexsort((classes, values))
    values, classes = values[order], classes[order]
    is_new_value = np.diff(values, prepend=np.nan) != 0
    runs = np.flatnonzero(is_new_value | (np.diff(classes, prepend=-1) != 0))
    lengths, groups = np.diff(np.append(runs, n)), np.cumsum(is_new_value)[runs]
    by_length = np.lexsort((lengths, groups))
    last = np.flatnonzero(np.diff(groups[by_length], append=np.inf) != 0)
    winners = by_length[last]
    wrong = n - int(lengths[winners].sum())
    if len(winners) <= n // 10:
        return wrong <= n * (1 - PURE)
    changes = np.count_nonzero(np.diff(classes[runs[winners]]))
    excess = changes - (np.count_nonzero(counts) - 1)
    return not is_category and wrong + int(excess) <= n * (1 - PURE)


def looks(cells: Cells, known: np.ndarray, total: int) -> tuple[str, str, float]:
    """The kind of the values `known` of so many cells, the evidence, and the confidence."""
    n = len(known)
    sure = (n + 1) / (n + 2)  # Laplace's rule of succession
    if n == 0:
        return "empty", f"no value in {counted(total, 'row')}", sure
    if n == total and known.min() == known.max() and not cells.loses_digits:
        return "constant", f"{_shown(cells, known[0])} in every row", sure
    if cells.kind == "category":
        return _looks_of_text(cells, np.bincount(known), sure)
    if cells.kind == "boolean":
        yes = int(np.count_nonzero(known == 1))
        return "boolean", f"{yes:,} times true, {n - yes:,} times false", sure
    ends = f"{_shown(cells, known.min())} … {_shown(cells, known.max())}"
    if cells.kind == "date":
        kind, noun = ("timestamp", "times") if np.any(known % 1) else ("date", "dates")
        return kind, f"{noun} like {_shown(cells, known[0])}; {ends}", sure
    is_whole = not np.any(known % 1)
    is_few = is_whole and not cells.loses_digits
    if is_few and len(np.unique(evenly(known, SAMPLE))) <= FEW >= len(np.unique(known)):
        few = counted(len(np.unique(known)), "different whole number")
        return "ordinal", f"{few} {ends}", sure * FEW_SURE
    if _rises(known) and is_whole:
        return "id", f"whole numbers that rise from row to row, {ends}", sure * FEW_SURE
    share = f"{n:,} numbers" if n == total else f"{n:,} of {total:,} values are numbers"
    return "numeric", f"{share}, {ends}", sure


def _looks_of_text(cells: Cells, counts: np.ndarray, sure: float) -> tuple[str, str, float]:
    levels = np.flatnonzero(counts)
    n, counts = int(counts.sum()), counts[levels]
    texts = [cells.levels[level] for level in levels.tolist()]
    if len(levels) == n > ID_ROWS:
        kind, words = "id", "a different text in every row"
    elif len(levels) > MOST_LEVELS and len(levels) > n // 2:
        kind, words = "text", f"{len(levels):,} different texts in {n:,} values"
    else:
        top, texts_held = int(counts.argmax()), counted(len(levels), "different text")
        kind, words = "category", f"{texts_held}, {quoted(texts[top])} {counts[top] / n:.0%}"
    numbers = sum(int(count) for text, count in zip(texts, counts, strict=True) if is_number(text))
    if 0 < numbers < n:
        words += f"; {numbers:,} of {n:,} values are numbers"
    return kind, words, sure * (1 - numbers / n if numbers < n else FEW_SURE)


def _shown(cells: Cells, value: float) -> str:
    return quoted(cells.levels[int(value)]) if cells.kind == "category" else cells.shown(value)


def _rises(known: np.ndarray) -> bool:
    """Whether the values, in the order of their rows, all but always grow."""
    n = len(known)
    return n > ID_ROWS and int(np.count_nonzero(np.diff(known) > 0)) >= PURE * (n - 1)


def _like_an_id(name: str, kind: str, known: np.ndarray, rows: np.ndarray) -> list[str]:
    drop = option("--drop", name)
    if kind == "text" and len(np.unique(known)) > NEARLY_ALL * len(known):
        return [f"{name}: hardly a text comes twice, like names; {drop} leaves it out"]
    if kind == "id" and not np.array_equal(np.diff(known), np.diff(rows)):
        return [f"{name}: whole numbers that rise like ids; {drop} leaves it out"]
    return []


def _date_formats(name: str, cells: Cells, known: np.ndarray) -> list[str]:
    """A warning, with counts, where texts are dates in other ways of writing, or in several."""
    if cells.kind != "category" or len(known) == 0:
        return []
    first = cells.levels[int(known[0])]
    if not any(fullmatch(way, first) for way in DATE_WAYS):
        return []
    counts = np.bincount(known, minlength=len(cells.levels))
    held: Counter[str] = Counter()
    example: dict[str, str] = {}
    for code in np.flatnonzero(counts).tolist():
        text = cells.levels[code]
        way = next((each for each in DATE_WAYS if fullmatch(each, text)), None)
        if way is not None:
            held[way] += int(counts[code])
            example.setdefault(way, text)
    if sum(held.values()) < MOSTLY * len(known):
        return []
    if list(held) == [DATE]:
        return [] if cells.note else [_not_in_calendars(name, cells, counts)]
    like = "2024-01-31T12:30" if any(":" in text for text in example.values()) else "2024-01-31"
    shown = ", ".join(f"{count:,} like {example[way]}" for way, count in held.most_common())
    return [
        f"{name}: dates in {counted(len(held), 'format')} were read as text: {shown}; "
        f"write them all like {like}"
    ]


def _not_in_calendars(name: str, cells: Cells, counts: np.ndarray) -> str:
    """A warning where texts are no dates only because no calendar has some of their days."""
    held = (cells.levels[code] for code in np.flatnonzero(counts).tolist())
    wrong = [quoted(text) for text in held if fullmatch(DATE, text) and not is_day(text)]
    return (
        f"{name}: dates were read as text, since no calendar has {listed(wrong, 3)}; correct "
        "them, or write NA where a value is missing"
    )
