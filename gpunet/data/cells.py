"""One column's cells as numbers, booleans, dates or categories.

The type of a text column is inferred here, by our rules and never by a library's. Refuses infinite
values, and columns that are numbers or dates but for a few cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from gpunet import sizes
from gpunet.data.source import Source
from gpunet.data.spelling import MOSTLY, advice, like, plainly, readings, told
from gpunet.data.words import (
    FALSE,
    MISSING,
    MISSING_NUMBER,
    NUMBER,
    TRUE,
    is_number,
    listed,
    option,
    quoted,
)
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

ENOUGH = 20  # from this number of good cells, and the share MOSTLY, the rest are mistakes
EXACT = 2.0**53  # above it float64 skips whole numbers
FEW_WORDS = 3  # that are told to be named with --na
SOME_WORDS = 10  # as many where half of the cells are none of them
DAY = 86_400_000_000  # microseconds
UNITS = {"s": DAY // 10**6, "ms": DAY // 10**3, "us": DAY}  # in a day
FARTHEST = 2.0**63 / DAY  # days
DATE = r"^\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?(Z|[+-]\d\d(:?\d\d)?)?)?$"
ZONE = r":.*(Z|[+-]\d\d(:?\d\d)?)$"
NOUNS = {"numeric": "numbers", "boolean": "true or false", "date": "dates", "category": "text"}
ABSENT, GOOD, BAD = 0, 1, 2
LOST_DIGITS = f"whole numbers above {int(EXACT):,} lose their last digits"
ZEROS = "numbers that begin with 0, as codes do, were read as numbers"
DIGITS = ("0", "1")  # true and false where a column is said to be, never a reason to think so


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one column, by kind.

    numeric, boolean, date: `values` (n,) float64, NaN where missing. A boolean is 1 or 0, or -1
    where it is neither; a date is days since 1970, the time of day a fraction, in UTC if zoned.
    category: `values` (n,) int32 codes into `levels`, -1 where missing; a level that is `absent`
    is a word for missing. `note`: a warning of how they were inferred.
    """

    kind: str
    values: np.ndarray
    levels: tuple[str, ...] = ()
    absent: np.ndarray | None = None
    note: str | None = None

    @property
    def loses_digits(self) -> bool:
        """Whether numbers that differ may have become alike."""
        return self.note is not None and self.note.endswith(LOST_DIGITS)

    @property
    def missing(self) -> np.ndarray:
        """Which cells hold nothing, (n,) bool."""
        if self.absent is None:
            return np.isnan(self.values)
        return np.append(self.absent, True)[self.values]

    def shown(self, value: float) -> str:
        """A value of numbers or dates, for people."""
        if self.kind != "date":
            return sizes.plain(value)
        moment = np.datetime64(round(value * DAY), "us")
        is_day = value % 1 == 0
        return str(moment.astype("datetime64[D]" if is_day else "datetime64[s]"))


def read_cells(
    source: Source, name: str, kind: str | None = None, rows: np.ndarray | None = None
) -> Cells:
    """The cells of a table's column.

    With `kind` they must be of that kind; without, it is inferred from `rows` (None: from all, as
    of a column that is not learnt from). Raises DataError with the first cell that does not fit.
    """
    from pyarrow import large_string, types

    assert source.table is not None
    column = source.table.column(name)
    if types.is_dictionary(column.type) and not is_text(column.type):
        column = column.cast(column.type.value_type)
        kind = kind or "category"
    if types.is_null(column.type):
        return _empty(source.rows, kind)
    if not is_text(column.type):
        if kind != "category":
            return _typed(source, name, column, kind)
        column = column.cast(large_string())
    has_own_way = source.decimal is not None or any(map(is_number, source.na))
    is_plain = source.text and not has_own_way and kind in (None, "numeric")
    if is_plain and (plain := _plain_numbers(column)) is not None:
        _check_finite(source, name, plain)
        return Cells("numeric", plain, note=None if kind else _as_written(name, column, plain))
    texts = Texts(source, name, column, is_learnt=kind is None and rows is not None)
    return texts.inferred(rows) if kind is None else texts.of_kind(kind)


def unmet(source: Source, names: Sequence[str]) -> list[str]:
    """Of the words for missing that were given, those that no cell of these columns is."""
    import pyarrow as pa
    from pyarrow import types

    assert source.table is not None
    left, plain = pa.array(source.na, pa.string()), replace(source, na=())
    for name in names:
        if not len(left):
            break
        column = source.table.column(name)
        if types.is_dictionary(column.type) and not is_text(column.type):
            column = column.cast(column.type.value_type)
        if is_text(column.type):
            met = Texts(plain, name, column).holds(left)
        elif types.is_null(column.type) or types.is_boolean(column.type):
            continue
        else:
            kind, values = _values(column)
            met = np.isin(_spelled(left, kind, column.type), values)
        left = left.filter(pa.array(~met))
    return list(left.to_pylist())


def is_text(kind: "pa.DataType") -> bool:
    """Whether an Arrow type is a string type, or a dictionary of strings."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_string(kind) or types.is_large_string(kind) or is_view(kind)


def is_view(kind: "pa.DataType") -> bool:
    """Whether an Arrow type is that of views of strings."""
    import pyarrow as pa

    return bool(kind == pa.string_view())


def distinct(column: "pa.ChunkedArray") -> tuple["pa.Array", np.ndarray]:
    """The texts that a text column holds, each once, and every cell's code (n,), -1 where null."""
    import pyarrow as pa
    from pyarrow import types

    if not types.is_dictionary(column.type):
        encoded = column.cast(pa.large_string()).combine_chunks().dictionary_encode()
        return encoded.dictionary, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    encoded = column.unify_dictionaries().combine_chunks()
    texts, levels = distinct(pa.chunked_array([encoded.dictionary]))
    indices = encoded.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    codes = np.append(levels, np.int32(-1))[indices]
    held = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=len(texts)))
    place = np.full(len(texts) + 1, -1, np.int32)
    place[held] = np.arange(len(held))
    return texts.take(pa.array(held)), place[codes]


class Texts:
    """A text column as its distinct texts, without the spaces around them, and codes into these.

    `is_learnt`: its kind is that of the cells that train, and can be said otherwise.
    """

    def __init__(
        self, source: Source, name: str, column: "pa.ChunkedArray", is_learnt: bool = False
    ) -> None:
        import pyarrow.compute as pc

        found, codes = distinct(column)
        texts = pc.utf8_trim_whitespace(found)
        if not texts.equals(found):
            again = texts.dictionary_encode()
            texts = again.dictionary
            codes = np.append(again.indices.to_numpy(), -1).astype(np.int32)[codes]
        self.source, self.name, self.texts, self.codes = source, name, texts, codes
        self.is_learnt = is_learnt
        self.numerals = self._plainly(texts)

    def inferred(self, rows: np.ndarray | None) -> Cells:
        """As the first kind that all cells in `rows` are of; numbers only in text formats."""
        counts = self._counts(self.codes if rows is None else self.codes[rows])
        held, notes = np.flatnonzero(counts), []
        kinds = ("numeric", "boolean", "date") if self.source.text else ("boolean", "date")
        for kind in kinds:
            values, state = self._parsed(kind)
            here = set(state[held].tolist())
            is_such = GOOD in here and BAD not in here
            if is_such and (kind != "boolean" or self._are_truths(held, values)):
                cells = self._of(kind, values, state)
                return replace(cells, note=self._as_written(kind, values, state))
            if self.source.text and kind != "boolean":
                self._check_mostly(kind, state)
            if kind != "boolean":
                notes.append(self._but_for(kind, state, counts))
        cells = self.of_kind("category")
        return replace(cells, note=self._as_numbers(cells) or next(filter(None, notes), None))

    def _are_truths(self, held: np.ndarray, values: np.ndarray) -> bool:
        """Whether true and false have a word each in these texts, and none is a digit."""
        import pyarrow as pa

        texts, known = self.texts.take(pa.array(held)).to_pylist(), values[held].tolist()
        words = {text.lower(): v for text, v in zip(texts, known, strict=True) if v in (0, 1)}
        return len(words) == len(set(words.values())) and words.keys().isdisjoint(DIGITS)

    def of_kind(self, kind: str) -> Cells:
        """As cells of one kind; any text is a category, and true and false pass for numbers."""
        if kind != "category":
            parsed = self._parsed(kind)
            if kind == "numeric" and BAD in parsed[1]:
                truths = _booleans(self.texts, self.source.na)
                parsed = parsed if BAD in truths[1] else truths
            return self._of(kind, *parsed)
        levels = tuple(self.texts.to_pylist())
        words = {*(MISSING if self.source.text else ()), *self.source.na}
        absent = np.array([level in words for level in levels], bool)
        return Cells("category", self.codes, levels, absent)

    def holds(self, words: "pa.Array") -> np.ndarray:
        """Whether each word is one of the texts, or one of the numbers among them."""
        numbers = _numbers(self._plainly(words), ())[0]
        return _within(words, self.texts) | np.isin(numbers, self._parsed("numeric")[0])

    def _parsed(self, kind: str) -> "Parsed":
        import pyarrow as pa

        if kind != "numeric":
            return PARSERS[kind](self.texts, self.source.na)
        na = pa.array(self.source.na, self.texts.type)
        return _numbers(self.numerals, tuple(self._plainly(na).to_pylist()))

    def _plainly(self, texts: "pa.Array") -> "pa.Array":
        return plainly(texts, self.source.decimal) if self.source.decimal else texts

    def _of(self, kind: str, values: np.ndarray, state: np.ndarray) -> Cells:
        if kind != "boolean" and BAD in state:
            self._fail(kind, state)
        values = np.append(values, np.nan)[self.codes]
        _check_finite(self.source, self.name, values)
        return Cells(kind, values)

    def _counts(self, codes: np.ndarray) -> np.ndarray:
        """How often each text is among these."""
        return np.bincount(codes[codes >= 0], minlength=len(self.texts))

    def _check_mostly(self, kind: str, state: np.ndarray) -> None:
        counts = self._counts(self.codes)
        good, bad = counts[state == GOOD].sum(), counts[state == BAD].sum()
        if bad and good >= max(ENOUGH, MOSTLY * (good + bad)):
            self._fail(kind, state)

    def _but_for(self, kind: str, state: np.ndarray, counts: np.ndarray) -> str | None:
        """A note where half of the cells, and many different ones, are of a kind, and a few words
        in the others are not."""
        good, bad = (np.flatnonzero((state == each) & (counts > 0)) for each in (GOOD, BAD))
        fit, others = int(counts[good].sum()), int(counts[bad].sum())
        if len(good) < ENOUGH or fit < others or not 0 < len(bad) <= SOME_WORDS:
            return None
        bad = bad[np.argsort(-counts[bad], kind="stable")]
        words = self.texts.take(bad).to_pylist()
        shown = (f"{count:,} {quoted(word)}" for word, count in zip(words, counts[bad].tolist()))
        mend = self._advice(kind, words, SOME_WORDS)
        return (
            f"{self.name}: {fit:,} of {fit + others:,} values are {NOUNS[kind]}, but for "
            f"{listed(shown, FEW_WORDS)}; all were read as text: {mend}"
        )

    def _fail(self, kind: str, state: np.ndarray) -> None:
        bad = np.flatnonzero(np.append(state == BAD, False)[self.codes])
        text = self.texts[int(self.codes[bad[0]])].as_py()
        raise DataError(
            f"{self.name}: {len(bad):,} of {len(self.codes):,} values are not {NOUNS[kind]} "
            f"({self.source.row(int(bad[0]))}: {quoted(text)})",
            self._advice(kind, self.texts.filter(state == BAD).to_pylist()),
        )

    def _advice(self, kind: str, bad: list[str], most: int = FEW_WORDS) -> str:
        them = "it" if len(bad) == 1 else "them"
        if kind == "numeric" and not self.source.decimal and all(map(readings, bad)):
            return advice(bad[0], them)
        if kind == "numeric" and all(map(is_number, bad)):
            return f"--decimal says that their decimal mark is {self.source.decimal}"
        if not self.is_learnt:
            return "correct them, or write NA where a value is missing"
        mend = "correct them"
        if len(bad) <= most:
            mend = f"read {them} as missing with {option('--na', *bad)}"
        return f"{mend}, or the column as text with {option('--types', f'{self.name}=category')}"

    def _as_written(self, kind: str, values: np.ndarray, state: np.ndarray) -> str | None:
        if kind == "date":
            return self._without_zone(state == GOOD)
        is_written = kind == "numeric" and self.source.text
        return _as_written(self.name, self.numerals, values) if is_written else None

    def _without_zone(self, good: np.ndarray) -> str | None:
        """A note where some times have a zone and others have not."""
        counts, zoned = self._counts(self.codes), like(self.texts, ZONE)
        timed = good & like(self.texts, ":")
        bare, every = int(counts[timed & ~zoned].sum()), int(counts[timed].sum())
        if not 0 < bare < every:
            return None
        return f"{self.name}: {bare:,} of {every:,} times have no zone and were read as UTC"

    def _as_numbers(self, cells: Cells) -> str | None:
        """A note where texts are numbers but for how they are written."""
        import pyarrow as pa

        if not self.source.text or cells.absent is None:
            return None
        present = self.texts.filter(pa.array(~cells.absent))
        found = told(present, self.source.decimal) if len(present) > 1 else None
        return found and f"{self.name}: {found}"


Words = tuple[str, ...]
Parsed = tuple[np.ndarray, np.ndarray]  # for each distinct text: its value, and its state


def _numbers(texts: "pa.Array", na: Words) -> Parsed:
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = _within(texts, (*MISSING_NUMBER, *na))
    numbers = pc.if_else(pa.array(absent), pa.scalar(None, texts.type), texts)
    try:
        values = pc.cast(numbers, pa.float64())
    except pa.ArrowInvalid:
        alike = pc.match_substring_regex(texts, NUMBER)
        values = pc.cast(pc.if_else(alike, texts, pa.scalar(None, texts.type)), pa.float64())
    values = values.to_numpy(zero_copy_only=False).astype(float)
    bad = ~absent & np.isnan(values)  # Arrow reads more words as NaN than mean missing
    if gone := [float(word) for word in na if is_number(word)]:
        values[np.isin(values, gone)] = np.nan
    return values, np.where(bad, BAD, np.where(np.isnan(values), ABSENT, GOOD))


def _booleans(texts: "pa.Array", na: Words) -> Parsed:
    import pyarrow.compute as pc

    lower = pc.utf8_lower(texts)
    absent = _within(texts, (*MISSING, *na))
    yes, no = _within(lower, (*TRUE, "1")), _within(lower, (*FALSE, "0"))
    values = np.select([absent, yes, no], [np.nan, 1.0, 0.0], -1.0)
    return values, np.select([absent, yes | no], [ABSENT, GOOD], BAD)


def _dates(texts: "pa.Array", na: Words) -> Parsed:
    import pyarrow as pa
    import pyarrow.compute as pc

    absent = _within(texts, (*MISSING_NUMBER, *na))
    alike = like(texts, DATE)
    zoned = alike & like(texts, ZONE)
    values = np.full(len(texts), np.nan)
    short = pc.replace_substring_regex(texts, r"(\.\d{6})\d+", r"\1")
    for chosen, zone in ((alike & ~zoned, None), (zoned, "UTC")):
        which = np.flatnonzero(chosen)
        if len(which):
            values[which] = _days(short.take(pa.array(which)), zone)
    return values, np.select([absent, np.isnan(values)], [ABSENT, BAD], GOOD)


def _days(texts: "pa.Array", zone: str | None) -> np.ndarray:
    """Days since 1970, NaN for days that no calendar has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.timestamp("us", zone)
    try:
        moments = pc.cast(texts, kind)
    except pa.ArrowInvalid:
        moments = pa.array([text if is_day(text) else None for text in texts.to_pylist()])
        moments = pc.cast(moments, kind)
    return moments.cast(pa.int64()).to_numpy(zero_copy_only=False) / DAY


def is_day(text: str) -> bool:
    """Whether a calendar has a day that is written as DATE has it."""
    try:
        return datetime.fromisoformat(text) is not None
    except ValueError:
        return False


PARSERS: dict[str, Callable[["pa.Array", Words], Parsed]] = {
    "numeric": _numbers,
    "boolean": _booleans,
    "date": _dates,
}


def _within(texts: "pa.Array", words: "tuple[str, ...] | pa.Array") -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.is_in(texts, pa.array(words, texts.type)).to_numpy(zero_copy_only=False)


def _plain_numbers(column: "pa.ChunkedArray") -> np.ndarray | None:
    """A column without a missing or padded cell at the speed of one cast; else None."""
    import pyarrow as pa

    try:
        values = column.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return None if np.isnan(values).any() else values


def _as_written(name: str, texts: "pa.Array | pa.ChunkedArray", values: np.ndarray) -> str | None:
    """A note where numbers are less than their texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    large = np.abs(values) >= EXACT
    if large.any() and not np.any(values[~np.isnan(values)] % 1):
        whole = pc.match_substring_regex(texts.filter(pa.array(large)), r"^[+-]?\d+$")
        if pc.any(whole).as_py() and not _is_one(texts, values):
            return f"{name}: {LOST_DIGITS}"
    if pc.any(pc.match_substring_regex(texts, r"^0\d")).as_py():
        keeps = option("--types", f"{name}=category")
        return f"{name}: {ZEROS}; {keeps} keeps the zeros"
    return None


def _is_one(column: "pa.Array | pa.ChunkedArray", values: np.ndarray) -> bool:
    """Whether numbers that are one as float64 were one before."""
    from pyarrow import compute

    known = values[~np.isnan(values)]
    return bool((known == known[0]).all()) and compute.count_distinct(column).as_py() == 1


def _typed(source: Source, name: str, column: "pa.ChunkedArray", kind: str | None) -> Cells:
    """A column that came with a type: booleans, numbers, dates."""
    import pyarrow as pa
    from pyarrow import types

    own, values = _values(column)
    _check_finite(source, name, values, "a date" if own == "date" else "a number")
    if source.na and own != "boolean":
        gone = _spelled(pa.array(source.na), own, column.type)
        values = np.where(np.isin(values, gone[~np.isnan(gone)]), np.nan, values)
    is_exact = types.is_integer(column.type) or types.is_decimal(column.type)
    is_large = is_exact and np.any(np.abs(values) >= EXACT)
    is_lost = kind is None and is_large and not _is_one(column, values)
    note = f"{name}: {LOST_DIGITS}" if is_lost else None
    kind = kind or own
    if (kind == "date") != (own == "date"):
        raise DataError(f"{name}: wanted {NOUNS[kind]}; the column holds {NOUNS[own]}")
    if kind == "boolean":
        values = np.where(np.isnan(values) | (values == 0) | (values == 1), values, -1.0)
    return Cells(kind, values, note=note)


def _values(column: "pa.ChunkedArray") -> tuple[str, np.ndarray]:
    """What kind a typed column is of, and its cells as float64; dates that microseconds cannot
    count are infinite."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_date(column.type) or types.is_timestamp(column.type):
        kind = pa.timestamp("ms") if types.is_date(column.type) else column.type
        unit = "us" if kind.unit == "ns" else kind.unit
        moments = column.cast(pa.timestamp(unit, kind.tz), safe=False).cast(pa.int64())
        days = moments.cast(pa.float64(), safe=False).to_numpy() / UNITS[unit]
        return "date", np.where(np.abs(days) > FARTHEST, np.inf, days)
    own = "boolean" if types.is_boolean(column.type) else "numeric"
    return own, column.cast(pa.float64(), safe=False).to_numpy()


def _spelled(words: "pa.Array", kind: str, of: "pa.DataType") -> np.ndarray:
    """What words are in a column of an Arrow type, NaN where they are nothing: a float32 is rounded
    as its cells are."""
    from pyarrow import types

    values = PARSERS[kind](words, ())[0]
    if not types.is_floating(of):
        return values
    with np.errstate(over="ignore"):
        return values.astype(of.to_pandas_dtype()).astype(np.float64)


def _empty(rows: int, kind: str | None) -> Cells:
    if kind in (None, "category"):
        return Cells("category", np.full(rows, -1, np.int32), (), np.zeros(0, bool))
    return Cells(kind, np.full(rows, np.nan))


def _check_finite(source: Source, name: str, values: np.ndarray, what: str = "a number") -> None:
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise DataError(
            f"{name}: {len(infinite):,} of {len(values):,} values are infinite or too large for "
            f"{what} ({source.row(int(infinite[0]))}: {values[infinite[0]]})"
        )
