"""One column as inputs of a network: fitted on training rows, then applied to any.

Refuses to look at other rows when fitting, and to let anything but finite float32 out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

import numpy as np

from gpunet.data.cells import LOST_DIGITS, Cells
from gpunet.data.scales import median, moments, robust, scaled, smooth_clip
from gpunet.data.spelling import places
from gpunet.data.words import option
from gpunet.sizes import counted

MOST_LEVELS = 64
MOST_CODES = 10_000
ID_ROWS = 50  # texts that all differ in more rows than this name the rows
TEXTS = 1_000  # a column of more texts, most of them seen once, is hashed
HASHES = 256
FEW_SHARE = 0.01  # of the rows: levels that share an input there are not worth a note
REPEATED = 0.1  # of the cells of such a column, or it is of no use
KINDS = ("numeric", "boolean", "date", "timestamp", "category", "hashed")
CONSTANT, EMPTY, NAMES = "constant", "without values", "a different text in every row"
ALMOST_NAMES = "a different text in almost every row"
ALIKE = f"alike as {LOST_DIGITS}"
MOST_BINS = 32  # of a number
BIN_SQUARES = 2_400  # bins of each times the square of the numbers: many tell more than their bins
MOST_KNOTS = 65  # of a saved number
ROWS_A_BIN = 16  # of the training part: a table has fewer bins than rows to learn from
FARTHEST = 1e15  # of an input: what a network makes of it is to be finite too

# Inputs besides the one for missing cells; of dates: year, day since 1970, month (sine, cosine),
# weekday (sine, cosine); of timestamps also the time of day (sine, cosine).
INPUTS = {"numeric": 1, "boolean": 1, "date": 6, "timestamp": 8}
NUMBERS = {"numeric": 1, "date": 2, "timestamp": 2}
STANDARDISED = {**NUMBERS, "boolean": 1}

Counts = Mapping[str, int]
"""How many cells hold what training never saw, by what that is: see Unseen."""
Writer = Callable[[np.ndarray | slice, Sequence[np.ndarray]], Counts]


@dataclass(frozen=True)
class Encoding:
    """How columns become inputs.

    scaling: `none`; `standard`, numbers to mean 0 and deviation 1; `robust`, every input by median
    and quartiles, then a smooth clip to ±3. Categories of more than `one_hot_levels` levels are
    codes for an embedding, and columns of many texts, most of them seen once, are hashed to such
    codes; None: all are one-hot. `bins`: at most so many for each number, 0 for none. `rough`:
    values of a number that mean something one by one are codes too.
    """

    scaling: str = "standard"
    one_hot_levels: int | None = None
    bins: int = 0
    rough: bool = False


@dataclass(frozen=True)
class Column:
    """How a column becomes inputs: numbers, then plain ones, then a code.

    Numbers are imputed with `fill`; the first inputs become (x - centre) / spread, 0 where the
    spread is; `robust`: all of them do, and are clipped smoothly. A category is one of `levels`,
    or unknown, which takes the levels that are `rare` too; `coded`: one number for an embedding.
    A `hashed` one has no levels: its code is a hash of the text.
    `missing`: missing cells were seen in training and have an input or a code of their own.
    `knots`: where the bins of each number meet, rising, in units of the input; () without bins.
    `values`: those of a number, as float32, that are codes too; () if none is.
    `ends`: the least and the largest number or date of training; () of other kinds, or of one.
    """

    name: str
    kind: str
    missing: bool
    fill: float = 0.0
    centre: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    rare: bool = False
    robust: bool = False
    coded: bool = False
    knots: tuple[tuple[float, ...], ...] = ()
    values: tuple[float, ...] = ()
    ends: tuple[float, ...] = ()

    @property
    def widths(self) -> tuple[int, int, int]:
        """How many inputs are numbers, plain, codes."""
        if self.coded:
            return 0, 0, 1
        if self.kind == "category":
            count = len(self.levels) + self._has_unknown + self.missing
            return 0, 1 if self._is_sign else count, 0
        numbers = NUMBERS.get(self.kind, 0)
        return numbers, INPUTS[self.kind] - numbers + self.missing, int(bool(self.values))

    @property
    def width(self) -> int:
        """The number of inputs."""
        return sum(self.widths)

    @property
    def codes(self) -> int:
        """The number of codes: 0 is unknown, then missing if it has one, then the levels; hashed,
        0 is missing; of a number's values, 0 is any other."""
        if self.kind == "hashed":
            return 1 + HASHES
        if self.values:
            return 1 + len(self.values)
        return 1 + self.missing + len(self.levels)

    @property
    def scales(self) -> int:
        """How many inputs have a centre and a spread."""
        numbers, plain, _ = self.widths
        return numbers + plain if self.robust else STANDARDISED.get(self.kind, 0)

    @property
    def cell_kind(self) -> str:
        """The kind of cells that it takes: a timestamp's are dates, hashed are categories."""
        return {"timestamp": "date", "hashed": "category"}.get(self.kind, self.kind)

    @property
    def shown_ends(self) -> str:
        """The least and the largest value of training, for people."""
        cells = Cells(self.cell_kind, np.array(self.ends))
        return " … ".join(map(cells.shown, self.ends))

    def writer(self, cells: Cells) -> Writer:
        """What fills out, (n, k) each of the `widths`, for some rows of these cells, and counts
        those of them that hold what training never saw."""
        if self.cell_kind == "category":
            return partial(self._write_category, cells, self._slots(cells))
        return partial(self._write_values, cells)

    def _write_values(
        self, cells: Cells, rows: np.ndarray | slice, out: Sequence[np.ndarray]
    ) -> Counts:
        values = cells.values[rows]
        unseen = values < 0 if self.kind == "boolean" else np.zeros(0)
        inputs = self._inputs(values)
        if unseen.any():
            inputs[unseen, 0] = 0.0
        numbers = self.widths[0]
        out[0][:], out[1][:] = inputs[:, :numbers], inputs[:, numbers:]
        if self.values:
            with np.errstate(over="ignore"):
                own, found = np.array(self.values, np.float32), values.astype(np.float32)
            place = np.minimum(np.searchsorted(own, found), len(own) - 1)
            out[2][:, 0] = np.where(own[place] == found, 1 + place, 0)
        return {
            "category": int(unseen.sum()),
            "missing": self._gone(np.isnan(values)),
            "outside": self._outside(values),
        }

    def _gone(self, missing: np.ndarray) -> int:
        """How many of the cells are missing, where none that trained was."""
        return 0 if self.missing else int(np.count_nonzero(missing))

    def _outside(self, values: np.ndarray) -> int:
        """How many values are outside of those that trained by more than these are apart."""
        if not self.ends:
            return 0
        low, high = self.ends
        far = high - low
        return int(np.count_nonzero((values < low - far) | (values > high + far)))

    def _inputs(self, values: np.ndarray) -> np.ndarray:
        """The inputs (n, k) of cells that are no categories."""
        gone = np.isnan(values)
        parts = _parts(self.kind, np.where(gone, self.fill, values))
        return self._scaled(np.column_stack((parts, gone)) if self.missing else parts)

    def _write_category(
        self,
        cells: Cells,
        slots: np.ndarray,
        rows: np.ndarray | slice,
        out: Sequence[np.ndarray],
    ) -> Counts:
        codes = cells.values[rows]
        if self.coded:
            out[2][:, 0] = slots[codes]
        else:
            out[1][:] = self._scaled(self._table()).astype(np.float32)[slots[codes]]
        assert cells.absent is not None
        gone = np.append(cells.absent, True)
        new = (slots == 0) & ~gone & (not self.rare)
        return {"category": int(new[codes].sum()), "missing": self._gone(gone[codes])}

    def _slots(self, cells: Cells) -> np.ndarray:
        """The code of each of the cells' levels, and last that of a missing cell."""
        assert cells.absent is not None
        if self.kind == "hashed":
            found = zip(cells.levels, cells.absent.tolist(), strict=True)
            return np.array([*(0 if absent else _hash(level) for level, absent in found), 0])
        place = places(cells.levels, self.levels)
        gone = np.where(np.append(cells.absent, True), int(self.missing), 0)
        return np.where(place < 0, gone, 1 + self.missing + place)

    @property
    def _is_sign(self) -> bool:
        """Whether one input is -1 for the first level, 1 for the second, 0 for unknown."""
        return self.robust and len(self.levels) == 2 and not (self.rare or self.missing)

    @property
    def _has_unknown(self) -> bool:
        """Whether unknown is an input: by quartiles only one that training rows have set says
        something, so that others are all zeros."""
        return self.rare or not self.robust

    def _table(self) -> np.ndarray:
        """The inputs (codes, k) of each code before scaling: the levels, unknown, missing."""
        if self._is_sign:
            return np.array([[0.0], [-1.0], [1.0]])
        count, first = len(self.levels), 1 + self.missing
        table = np.zeros((first + count, sum(self.widths)))
        table[first:, :count] = np.eye(count)
        if self._has_unknown:
            table[0, count] = 1.0
        if self.missing:
            table[1, -1] = 1.0
        return table

    def _scaled(self, parts: np.ndarray) -> np.ndarray:
        """Inputs (n, k) from what they are before scaling, which may be overwritten."""
        for i, (centre, spread) in enumerate(zip(self.centre, self.spread, strict=True)):
            parts[:, i] = scaled(parts[:, i], centre, spread)
        parts = np.clip(parts, -FARTHEST, FARTHEST)
        return smooth_clip(parts) if self.robust else parts


def fit(
    name: str, cells: Cells, rows: np.ndarray, encoding: Encoding | None = None
) -> tuple[Column | None, str | None]:
    """A column fitted on `rows`, and a note; without a column the note is the reason."""
    encoding = encoding or Encoding()
    if cells.kind == "category":
        return _fit_category(name, cells, rows, encoding)
    values = cells.values[rows]
    gone = np.isnan(values)
    known = values[~gone]
    if len(known) == 0:
        return None, EMPTY
    if not gone.any() and known.min() == known.max():
        return None, ALIKE if cells.loses_digits else CONSTANT
    kind = "timestamp" if cells.kind == "date" and np.any(known % 1) else cells.kind
    fill, has_gaps = median(known), bool(gone.any())
    scales = _scales(kind, values, fill, encoding.scaling)
    note = cells.note
    if (
        kind == "numeric"
        and len(known) > ID_ROWS
        and np.all(np.diff(known) == np.diff(rows[~gone]))
    ):
        drop = option("--drop", name)
        note = f"{name}: rises by one from row to row, like a row number; {drop} leaves it out"
    ends = (float(known.min()), float(known.max()))
    column = Column(name, kind, has_gaps, fill, robust=encoding.scaling == "robust")
    if kind != "boolean" and ends[0] < ends[1]:
        column = replace(column, ends=ends)
    return _with_knots(_with_scales(column, scales), known, encoding.bins), note


def _with_knots(column: Column, known: np.ndarray, bins: int) -> Column:
    """A column with bins for its numbers, from the values that are there."""
    if not bins:
        return column
    numbers = column._inputs(known)[:, : column.widths[0]]
    found = tuple(_knots(x, bins) for x in numbers.T)
    return replace(column, knots=found if any(found) else ())


def _knots(x: np.ndarray, bins: int) -> tuple[float, ...]:
    """Quantiles of the different numbers of x (n,); () of fewer than 3.

    Each number counts once, so that a frequent one takes no bins from the others.
    """
    different = np.unique(x.astype(np.float32)).astype(np.float64)
    if len(different) < 3:
        return ()
    places = np.quantile(different, np.linspace(0, 1, bins + 1))
    return tuple(np.unique(places.astype(np.float32)).tolist())


def thinned(columns: Sequence[Column], rows: int, bins: int) -> list[Column]:
    """Columns with at most `bins` for each number, fewer where there are many of them, and at most
    one for ROWS_A_BIN of the training `rows` over all numbers; none where that is fewer than 2
    each."""
    numbers = max(1, sum(column.widths[0] for column in columns))
    most = min(bins, rows // (ROWS_A_BIN * numbers), BIN_SQUARES // numbers**2)
    if most < 2:
        return [replace(column, knots=()) for column in columns]
    return [
        replace(column, knots=tuple(_spaced(each, most) for each in column.knots))
        for column in columns
    ]


def _spaced(knots: tuple[float, ...], most: int) -> tuple[float, ...]:
    """Evenly chosen knots of at most so many bins, the first and the last among them."""
    last = len(knots) - 1
    return knots if last <= most else tuple(knots[i * last // most] for i in range(most + 1))


def _scales(kind: str, values: np.ndarray, fill: float, scaling: str) -> list[tuple[float, float]]:
    """Centre and spread of each scaled input; quartiles are those of the cells that are there."""
    gone = np.isnan(values)
    if scaling == "robust":
        parts = _parts(kind, values[~gone])
        return [robust(part) for part in (*parts.T, *([gone.astype(float)] if gone.any() else []))]
    parts = _parts(kind, np.where(gone, fill, values))
    count = STANDARDISED[kind]
    return [(0.0, 1.0) if scaling == "none" else moments(parts[:, i]) for i in range(count)]


def _with_scales(column: Column, scales: Sequence[tuple[float, float]]) -> Column:
    centre, spread = zip(*scales, strict=True)
    return replace(column, centre=centre, spread=spread)


def _fit_category(
    name: str, cells: Cells, rows: np.ndarray, encoding: Encoding
) -> tuple[Column | None, str | None]:
    gone = cells.missing[rows]
    counts = np.bincount(cells.values[rows][~gone], minlength=len(cells.levels))
    seen = np.flatnonzero(counts)
    if len(seen) == 0:
        return None, EMPTY
    if len(seen) == 1 and not gone.any():
        return None, CONSTANT
    if len(seen) == len(rows) - gone.sum() > ID_ROWS:
        return None, NAMES
    most = encoding.one_hot_levels
    if most is not None and len(seen) > TEXTS and 2 * (counts == 1).sum() > len(seen):
        return _hashed(name, counts, bool(gone.any()))
    kept = _kept(cells.levels, counts, most)
    if not kept:
        return None, NAMES
    rare = len(seen) > len(kept)
    note = _sharing(name, counts, len(kept), len(rows)) or cells.note
    coded = most is not None and len(kept) > most
    by_quartiles = encoding.scaling == "robust" and not coded
    column = Column(name, "category", bool(gone.any()), levels=tuple(sorted(kept)), rare=rare)
    column = replace(column, robust=by_quartiles, coded=coded)
    return _scaled_category(column, cells, rows) if by_quartiles else column, note


def _sharing(name: str, counts: np.ndarray, kept: int, rows: int) -> str | None:
    """A note where the levels that share an input are in more than a few of so many rows."""
    held = np.sort(counts)[::-1]
    rest = int(held[kept:].sum())
    if rest <= FEW_SHARE * rows:
        return None
    return (
        f"{name}: {counted(int(np.count_nonzero(held)), 'category')}; all but the {kept:,} most "
        f"frequent share one input, in {rest:,} of {counted(rows, 'row')}"
    )


def _hashed(name: str, counts: np.ndarray, has_gaps: bool) -> tuple[Column | None, str | None]:
    """A column of many texts, of which most are seen once."""
    if counts[counts > 1].sum() < REPEATED * counts.sum():
        return None, ALMOST_NAMES
    texts = counted(int((counts > 0).sum()), "different text")
    note = f"{name}: {texts}, as one of {HASHES} hashes"
    return Column(name, "hashed", has_gaps, coded=True), note


def _hash(text: str) -> int:
    """A code from 1 on that is the same in every process."""
    return 1 + int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") % HASHES


def _kept(levels: Sequence[str], counts: np.ndarray, most: int | None) -> list[str]:
    """The levels that have an input or a code of their own, the most frequent first.

    A code is learnt from the rows that have it, so that a level seen once has none.
    """
    seen = np.flatnonzero(counts).tolist()
    order = sorted(seen, key=lambda code: (-counts[code], levels[code]))
    if most is not None and len(seen) > most:
        order = [code for code in order if counts[code] > 1]
    return [levels[code] for code in order[: MOST_LEVELS if most is None else MOST_CODES]]


def _scaled_category(column: Column, cells: Cells, rows: np.ndarray) -> Column:
    table = column._table()
    held = np.bincount(column._slots(cells)[cells.values[rows]], minlength=len(table))
    return _with_scales(column, [robust(np.repeat(values, held)) for values in table.T])


def _parts(kind: str, values: np.ndarray) -> np.ndarray:
    """The inputs (n, k) before scaling, from values without gaps."""
    if kind in ("numeric", "boolean"):
        return values[:, None]
    day = np.floor(values)
    dates = day.astype("datetime64[D]")
    month = dates.astype("datetime64[M]").astype(np.int64) % 12
    turns = [month / 12, ((day + 3) % 7) / 7]  # 1970 began on a Thursday; weeks on Monday
    if kind == "timestamp":
        turns.append(values - day)
    circle = [f(2 * np.pi * turn) for turn in turns for f in (np.sin, np.cos)]
    year = dates.astype("datetime64[Y]").astype(np.int64) + 1970.0
    return np.stack([year, values, *circle], axis=1)
