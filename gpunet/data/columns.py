"""One column as inputs of a network: fitted on training rows, then applied to any.

Refuses to look at other rows when fitting, and to let anything but finite float32 out.
"""

from dataclasses import dataclass

import numpy as np

from gpunet.data.cells import Cells
from gpunet.data.words import counted

MOST_LEVELS = 64
EXACT = 2.0**53  # above it float64 skips whole numbers
ID_ROWS = 50  # texts that all differ in more rows than this name the rows
KINDS = ("numeric", "boolean", "date", "timestamp", "category")
CONSTANT, EMPTY, NAMES = "constant", "without values", "a different text in every row"

# Inputs besides the one for missing cells; of dates: year, month (sine, cosine), weekday (sine,
# cosine), day since 1970; of timestamps also the time of day (sine, cosine).
INPUTS = {"numeric": 1, "boolean": 1, "date": 6, "timestamp": 8}
SCALED = {"numeric": (0,), "boolean": (0,), "date": (0, 5), "timestamp": (0, 5)}


@dataclass(frozen=True)
class Column:
    """How a column becomes inputs.

    Numbers are imputed with `fill` and standardised; a category is one of `levels`, or unknown,
    which takes the levels that are `rare` too. `missing`: missing cells were seen in training and
    have an input of their own.
    """

    name: str
    kind: str
    missing: bool
    fill: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    levels: tuple[str, ...] = ()
    rare: bool = False

    @property
    def width(self) -> int:
        """The number of inputs."""
        own = len(self.levels) + 1 if self.kind == "category" else INPUTS[self.kind]
        return own + self.missing

    @property
    def cell_kind(self) -> str:
        """The kind of cells that it takes: a timestamp's are dates."""
        return "date" if self.kind == "timestamp" else self.kind

    def write(self, cells: Cells, rows: np.ndarray | slice, out: np.ndarray) -> int:
        """Fill out (n, width) for `rows`; returns how many cells hold a category never seen."""
        if self.kind == "category":
            return self._write_category(cells, rows, out)
        values = cells.values[rows]
        gone, unseen = np.isnan(values), values < 0 if self.kind == "boolean" else np.zeros(0)
        parts = _parts(self.kind, np.where(gone, self.fill, values))
        for place, mean, std in zip(SCALED[self.kind], self.mean, self.std, strict=True):
            parts[:, place] = standardised(parts[:, place], mean, std)
        if unseen.any():
            parts[unseen] = 0.0
        limit = np.finfo(np.float32).max
        out[:, : parts.shape[1]] = np.clip(parts, -limit, limit)
        if self.missing:
            out[:, -1] = gone
        return int(unseen.sum())

    def _write_category(self, cells: Cells, rows: np.ndarray | slice, out: np.ndarray) -> int:
        assert cells.absent is not None
        place = {level: i for i, level in enumerate(self.levels)}
        unknown = len(self.levels)
        gone = unknown + self.missing
        slots = np.array(
            [
                place.get(level, gone if absent else unknown)
                for level, absent in zip(cells.levels, cells.absent.tolist(), strict=True)
            ]
            + [gone],
            np.intp,
        )
        codes = cells.values[rows]
        out[:] = 0.0
        out[np.arange(len(codes)), slots[codes]] = 1.0
        if self.rare:
            return 0
        new = np.append((slots[:-1] == unknown) & ~cells.absent, False)
        return int(new[codes].sum())


def standardised(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """(values - mean) / std, and 0 where std is 0."""
    if std == 0.0:
        return np.zeros_like(values)
    with np.errstate(over="ignore"):
        return (values - mean) / std


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and (population) standard deviation of values (n,), exact zeros for equal values."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 0.0
    size = max(abs(low), abs(high))
    scale = 1.0 if 1e-150 < size < 1e150 else size  # squares must neither overflow nor vanish
    values = values / scale
    return float(values.mean()) * scale, float(values.std()) * scale


def median(values: np.ndarray) -> float:
    """The median of values (n,), finite even where two of them cannot be added."""
    with np.errstate(over="ignore"):
        middle = float(np.median(values))
    return middle if np.isfinite(middle) else 2 * float(np.median(values / 2))


def fit(
    name: str, cells: Cells, rows: np.ndarray, standardise: bool = True
) -> tuple[Column | None, str | None]:
    """A column fitted on `rows`, and a note; without a column the note is the reason."""
    if cells.kind == "category":
        return _fit_category(name, cells, rows)
    values = cells.values[rows]
    gone = np.isnan(values)
    known = values[~gone]
    if len(known) == 0:
        return None, EMPTY
    if not gone.any() and known.min() == known.max():
        return None, CONSTANT
    kind = "timestamp" if cells.kind == "date" and np.any(known % 1) else cells.kind
    fill = median(known)
    parts = _parts(kind, np.where(gone, fill, values))
    scales = [moments(parts[:, i]) if standardise else (0.0, 1.0) for i in SCALED[kind]]
    mean, std = zip(*scales, strict=True)
    note = cells.note
    if (
        kind == "numeric"
        and len(known) == len(values) > ID_ROWS
        and np.all(np.diff(known) == np.diff(rows))
    ):
        note = f"{name}: rises by one from row to row, like a row number; leave it out if it is one"
    if kind == "numeric" and np.abs(known).max() > EXACT and not np.any(known % 1):
        note = f"{name}: whole numbers above {int(EXACT):,} lose their last digits"
    return Column(name, kind, bool(gone.any()), fill, mean, std), note


def _fit_category(name: str, cells: Cells, rows: np.ndarray) -> tuple[Column | None, str | None]:
    gone = cells.missing[rows]
    counts = np.bincount(cells.values[rows][~gone], minlength=len(cells.levels))
    seen = np.flatnonzero(counts)
    if len(seen) == 0:
        return None, EMPTY
    if len(seen) == 1 and not gone.any():
        return None, CONSTANT
    if len(seen) == len(rows) - gone.sum() > ID_ROWS:
        return None, NAMES
    order = sorted(seen.tolist(), key=lambda code: (-counts[code], cells.levels[code]))
    levels = tuple(sorted(cells.levels[code] for code in order[:MOST_LEVELS]))
    note = cells.note
    if rare := len(seen) > MOST_LEVELS:
        note = (
            f"{name}: {counted(len(seen), 'category')}; all but the {MOST_LEVELS} most frequent "
            "share one input"
        )
    return Column(name, "category", bool(gone.any()), levels=levels, rare=rare), note


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
    return np.stack([year, *circle[:4], values, *circle[4:]], axis=1)
