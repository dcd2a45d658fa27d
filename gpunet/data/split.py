"""Which rows train, validate and test. Refuses empty parts; every class keeps a row in training.

Shares of the rows at random, of whole groups, or by time; or as a column says.
"""

from dataclasses import dataclass, replace

import numpy as np

from gpunet.data.cells import LOST_DIGITS, NOUNS, read_cells
from gpunet.data.source import Source, numbers
from gpunet.data.words import quoted
from gpunet.errors import DataError, UsageError
from gpunet.random import Purpose, permutation, stream
from gpunet.sizes import counted

NAMES = ("training", "validation", "test")
FAR = 0.1
"""A part is told of that misses its share of rows by this part of it, or a class's by this."""
Fold = tuple[int, int]
PARTS = {"train": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}


@dataclass(frozen=True, eq=False)
class Parts:
    """Row indices of each part, ascending; empty where there is no such part. first and lines:
    where the rows stand in their file, as a Source has it."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    first: int = 1
    lines: np.ndarray | None = None

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """The same by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def used(self) -> dict[str, np.ndarray]:
        """Of the parts that there are the rows, by name."""
        return {part: rows for part, rows in self.rows.items() if len(rows)}

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Where rows (from 0) of the training part stand in the file, as messages count them."""
        return numbers(self.train[rows], self.first, self.lines)

    def fold(self, learnt: np.ndarray, held: np.ndarray) -> "Parts":
        """The training part taken apart: some of its rows train, others validate."""
        return replace(self, train=self.train[learnt], validation=self.train[held])


def split(
    rows: np.ndarray,
    validation: float,
    test: float,
    *,
    seed: int,
    strata: np.ndarray | None = None,
) -> Parts:
    """Shares of `rows` (indices); of each class in `strata`, one code a row, alike.

    Raises DataError when a part would be empty.
    """
    n = len(rows)
    wanted = _wanted(n, validation, test)
    order = permutation(n, seed, Purpose.SPLIT)
    if strata is not None:
        order = _stratified(order, strata, wanted, seed)
    if sum(wanted) > min(len(order), n - 1):
        classes = "" if strata is None else f" in {counted(len(np.unique(strata)), 'class')}"
        none = [f"--{name} 0" for name, count in zip(NAMES[1:], wanted, strict=True) if count]
        raise DataError(
            f"{counted(n, 'row')}{classes} are too few for {counted(wanted[0], 'row')} of "
            f"validation and {wanted[1]:,} of test",
            f"give more rows, or {' '.join(none)}",
        )
    chosen = np.zeros(n, np.int8)
    chosen[order[wanted[1] : sum(wanted)]] = 1
    chosen[order[: wanted[1]]] = 2
    return _parts(chosen, rows)


def fold_of(
    n: int,
    folds: int,
    *,
    seed: int,
    strata: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """The fold (n,) of each of n rows: of equal sizes but for one row, each class shared out alike;
    as near to that as they come where `groups` (n,) stay whole.

    Raises DataError when there are more folds than rows, or groups.
    """
    if groups is not None:
        return _fold_groups(groups, folds, seed, strata)
    if folds > n:
        raise DataError(f"{counted(n, 'row')} are too few for {folds:,} folds", "ask for fewer")
    order = permutation(n, seed, Purpose.FOLD)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(n, np.int64)
    found[order] = np.arange(n) % folds
    return found


@dataclass(frozen=True)
class Ways:
    """How rows are parted: as `column` says, in whole groups (the column `group`), by `time` (the
    latest are held out), or at random. The last two are features only where they are named.

    `fold` (i, k): the test part is the i-th of k folds, from 1 on."""

    column: str | None = None
    group: str | None = None
    time: str | None = None
    seed: int = 0
    time_kind: str | None = None
    fold: Fold | None = None

    def check(self, source: Source, is_split: bool, has_others: bool) -> None:
        """Refuse a group or time where nothing is parted by it."""
        if self.time is not None and (self.group is not None or self.column is not None):
            raise UsageError(f"time {self.time}: a group or split column was given as well")
        if self.fold is not None and (self.time is not None or self.column is not None):
            raise UsageError("a test fold: a time or split column was given as well")
        is_split = is_split or self.fold is not None
        if self.time is not None and not is_split:
            raise UsageError(f"time {self.time}: no part is taken from {source.title}")
        if self.group is not None and not (is_split or has_others or self.column):
            raise UsageError(f"group {self.group}: no part is held out")

    def marked(self, source: Source, rows: np.ndarray) -> Parts | None:
        """The parts that `column` names."""
        return None if self.column is None else split_by(source, self.column, rows)

    def divide(
        self,
        source: Source,
        rows: np.ndarray,
        shares: list[float],
        strata: np.ndarray | None,
        marked: Parts | None = None,
    ) -> tuple[Parts, str, list[str]]:
        """Shares (validation, test) of `rows`, unless they are marked; how, in words; notes."""
        if marked is not None:
            return marked, f"as {self.column} says", []
        if self.fold is not None:
            return self._hold_out(source, rows, shares[0], strata, *self.fold)
        if self.time is not None:
            return split_times(source, self.time, rows, *shares, kind=self.time_kind)
        if self.group is not None and any(shares):
            parts, notes = split_groups(
                source, self.group, rows, *shares, seed=self.seed, strata=strata
            )
            return parts, f"by {self.group}: whole groups", notes
        parts = split(rows, *shares, seed=self.seed, strata=strata)
        if not any(shares):
            return parts, "all rows train", []
        return parts, "at random" if strata is None else "at random, each class alike", []

    def _hold_out(
        self,
        source: Source,
        rows: np.ndarray,
        validation: float,
        strata: np.ndarray | None,
        which: int,
        count: int,
    ) -> tuple[Parts, str, list[str]]:
        """A fold of `rows` as the test part; of the others a share for validation, of all rows."""
        _wanted(len(rows), validation, 1 / count)
        groups = None if self.group is None else groups_of(source, self.group, rows)
        found = fold_of(len(rows), count, seed=self.seed, strata=strata, groups=groups)
        rest = found != which - 1
        share = min(validation * len(rows) / np.count_nonzero(rest), np.nextafter(1.0, 0.0))
        others = None if strata is None else strata[rest]
        ways = replace(self, fold=None)
        parts, how, notes = ways.divide(source, rows[rest], [share, 0.0], others)
        parts = replace(parts, test=rows[~rest])
        return parts, f"test fold {which} of {count}, {how}", notes


def overlap(name: str, train: np.ndarray, held: np.ndarray) -> list[str]:
    """A note of how many groups of the rows held out train as well."""
    twice = np.isin(held, np.unique(train))
    if not twice.any():
        return []
    return [
        f"{name}: {counted(len(np.unique(held[twice])), 'group')} "
        f"({np.count_nonzero(twice):,} of {counted(len(held), 'row')} held out) train as well"
    ]


def split_groups(
    source: Source,
    name: str,
    rows: np.ndarray,
    validation: float,
    test: float,
    *,
    seed: int,
    strata: np.ndarray | None = None,
) -> tuple[Parts, list[str]]:
    """Shares of `rows` in which no group of a column lies in two parts, and notes.

    Groups are taken in an order of the seed, each into the part that it brings nearer to its
    share of the rows, or of every class in `strata`. Raises DataError for a row without a group,
    and for fewer groups than parts.
    """
    wanted = _wanted(len(rows), validation, test)
    groups = groups_of(source, name, rows)
    found, codes = np.unique(groups, return_inverse=True)
    asked = np.count_nonzero(wanted)
    if len(found) <= asked:
        raise DataError(
            f"{name}: {counted(len(found), 'group')} cannot be in {asked + 1} parts",
            f"give more groups, or {_fewer_parts(len(found), 'group')}",
        )
    classes = np.zeros(len(rows), np.int64) if strata is None else strata
    _, classes = np.unique(classes, return_inverse=True)
    order, parts = permutation(len(found), seed, Purpose.SPLIT), _Groups(codes, classes)
    for part, count in ((2, wanted[1]), (1, wanted[0])):
        if count:
            parts.fill(part, count, order)
    chosen = parts.part[codes]
    sizes = np.bincount(chosen, minlength=3)[1:].tolist()
    notes = _far_notes(name, sizes, wanted, "groups stay whole")
    return _parts(chosen, rows), [*notes, *_class_notes(name, chosen, classes)]


def split_times(
    source: Source,
    name: str,
    rows: np.ndarray,
    validation: float,
    test: float,
    *,
    kind: str | None = None,
) -> tuple[Parts, str, list[str]]:
    """Shares of `rows` by a column of numbers or dates, the earliest for training and the latest
    for test; in words where they part; notes. Rows of one time stay together.

    Raises DataError for a row without a time, and for fewer times than parts.
    """
    wanted = _wanted(len(rows), validation, test)
    cells = read_cells(source, name, kind)
    if cells.kind not in ("numeric", "date"):
        raise DataError(f"{name}: holds {NOUNS[cells.kind]}; a time is a date or a number")
    _check_whole(source, name, cells.missing, rows, "time")
    times, codes, counts = np.unique(cells.values[rows], return_inverse=True, return_counts=True)
    held = [part for part, count in zip((1, 2), wanted, strict=True) if count]
    lost = [cells.note] if cells.note and cells.loses_digits else []
    if len(times) <= len(held):
        raise DataError(
            f"{name}: {counted(len(times), 'different time')} cannot be in {len(held) + 1} parts",
            LOST_DIGITS if lost else f"give more rows, or {_fewer_parts(len(times), 'time')}",
        )
    before, place, low = np.cumsum(counts) - counts, np.zeros(len(times), np.int8), 1
    words = []
    for i, part in enumerate(held):
        ideal = len(rows) - sum(wanted[later - 1] for later in held[i:])
        free = np.arange(low, len(times) - len(held) + i + 1)
        first = int(free[np.argmin(np.abs(before[free] - ideal))])
        place[first:] = part
        low = first + 1
        words.append(f"{NAMES[part]} from {cells.shown(times[first])} on")
    sizes = np.bincount(place[codes], minlength=3)[1:].tolist()
    zones = [cells.note] if cells.note and cells.kind == "date" else []
    far = _far_notes(name, sizes, wanted, "rows of one time stay together")
    notes = [*lost, *zones, *far]
    return _parts(place[codes], rows), f"by {name}: {', '.join(words)}", notes


def groups_of(source: Source, name: str, rows: np.ndarray) -> np.ndarray:
    """The group (n,) of each of `rows`, as text; DataError for a row without one."""
    cells = read_cells(source, name, "category")
    _check_whole(source, name, cells.missing, rows, "group")
    return np.array(cells.levels, object)[cells.values[rows]]


def clusters(source: Source, group: str | None, time: str | None, rows: np.ndarray) -> np.ndarray:
    """A code (n,) of the cluster of each of `rows`: its group, or its block of time; one without
    a group is a cluster of its own.

    Of T different times a block holds the cube root of T (Carlstein, 1986; Hall, Horowitz and
    Jing, 1995). Raises DataError for a column that is no time.
    """
    if group is not None:
        cells = read_cells(source, group, "category")
        alone = len(cells.levels) + np.arange(len(cells.values))
        return np.where(cells.missing, alone, cells.values)[rows]
    assert time is not None
    cells = read_cells(source, time)
    if cells.kind not in ("numeric", "date"):
        raise DataError(f"{time}: holds {NOUNS[cells.kind]}; a time is a date or a number")
    times, place = np.unique(cells.values[rows], return_inverse=True)
    return np.asarray(place // round(len(times) ** (1 / 3)))


def split_by(source: Source, name: str, rows: np.ndarray) -> Parts:
    """The parts of `rows` that a column names: train, validation (val, valid), test."""
    cells = read_cells(source, name, "category")
    places = [PARTS.get(level.casefold(), -1) for level in cells.levels]
    chosen = np.array([*places, -1], np.int8)[cells.values]
    bad = np.flatnonzero(chosen < 0)
    if len(bad):
        first = int(bad[0])
        code = int(cells.values[first])
        word = cells.levels[code] if code >= 0 else ""
        raise DataError(
            f"{name}: {len(bad):,} of {len(chosen):,} values are none of train, validation, test "
            f"({source.row(first)}: {quoted(word)})"
        )
    if not (chosen[rows] == 0).any():
        raise DataError(f"{name}: no row is marked train")
    return _parts(chosen[rows], rows)


def _wanted(n: int, validation: float, test: float) -> list[int]:
    """Rows of validation and test for their shares of n."""
    for what, share in (("validation", validation), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise UsageError(f"{what} {share}: wanted a share from 0 to below 1")
    if validation + test >= 1.0:
        raise UsageError(f"validation {validation} and test {test} leave nothing to train on")
    return [max(1, round(n * share)) if share else 0 for share in (validation, test)]


def _fewer_parts(count: int, option: str) -> str:
    """What to do with fewer groups, or times, than parts: of two, one can be held out."""
    return "--test 0" if count > 1 else f"leave out --{option}"


def _check_whole(
    source: Source, name: str, missing: np.ndarray, rows: np.ndarray, what: str
) -> None:
    gone = rows[missing[rows]]
    if len(gone):
        raise DataError(
            f"{name}: {len(gone):,} of {len(rows):,} rows have no {what} "
            f"({source.row(int(gone[0]))})",
            f"give every row a {what}, or leave those rows out",
        )


class _Groups:
    """Groups on their way into parts; `part` (g,) is 0 for those that train.

    The last rows of a class, and the last group, stay in training.
    """

    def __init__(self, codes: np.ndarray, classes: np.ndarray) -> None:
        self.total = np.bincount(classes)
        pairs, counts = np.unique(codes * len(self.total) + classes, return_counts=True)
        groups, labels = np.divmod(pairs, len(self.total))
        first = np.flatnonzero(np.diff(groups, prepend=-1))
        inside = list(zip(labels.tolist(), counts.tolist(), strict=True))
        ends = [*first.tolist()[1:], len(inside)]
        self.inside = [inside[low:high] for low, high in zip(first.tolist(), ends, strict=True)]
        self.left, self.training = self.total.tolist(), len(first)
        self.part = np.zeros(len(first), np.int8)

    def fill(self, part: int, rows: int, order: np.ndarray) -> None:
        """Move groups until a part has about `rows` rows: in `order`, each where it lessens the
        distance to what is wanted of every class, summed; at least one."""
        lacking, open_rows = (self.total * (rows / self.total.sum())).tolist(), rows
        for group in order.tolist():
            if open_rows <= 0:
                return
            gain = sum(abs(lacking[c]) - abs(lacking[c] - n) for c, n in self.inside[group])
            if gain > 0 and self._is_free(group):
                self._move(group, part)
                for label, count in self.inside[group]:
                    lacking[label] -= count
                    open_rows -= count
        if not (self.part == part).any():
            self._move(self._smallest(), part)

    def _is_free(self, group: int) -> bool:
        inside = self.inside[group]
        stays = any(self.left[label] == count for label, count in inside)
        return self.training > 1 and self.part[group] == 0 and not stays

    def _move(self, group: int, part: int) -> None:
        self.part[group] = part
        self.training -= 1
        for label, count in self.inside[group]:
            self.left[label] -= count

    def _smallest(self) -> int:
        free = [group for group in range(len(self.part)) if self._is_free(group)]
        if not free:
            raise DataError(
                "no group can be held out without taking all rows of a class from training",
                "leave out --group",
            )
        return min(free, key=lambda group: sum(count for _, count in self.inside[group]))


def _fold_groups(
    groups: np.ndarray, folds: int, seed: int, strata: np.ndarray | None
) -> np.ndarray:
    """Folds of whole groups: the largest first, each to the fold that lacks most of its classes."""
    found, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if folds > len(found):
        raise DataError(
            f"{counted(len(found), 'group')} are too few for {folds:,} folds", "ask for fewer"
        )
    classes = np.zeros(len(groups), np.int64) if strata is None else strata
    _, classes = np.unique(classes, return_inverse=True)
    inside = _Groups(codes, classes)
    lacking = np.tile(inside.total / folds, (folds, 1))
    order = permutation(len(found), seed, Purpose.FOLD)
    place = np.empty(len(found), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")].tolist():
        labels, counts = np.array(inside.inside[group]).T
        open_rows = lacking[:, labels]
        gain = (np.abs(open_rows) - np.abs(open_rows - counts)).sum(axis=1)
        place[group] = np.lexsort((-lacking.sum(axis=1), -gain))[0]
        lacking[place[group], labels] -= counts
    return place[codes]


def _far_notes(name: str, sizes: list[int], wanted: list[int], why: str) -> list[str]:
    """A note of each held-out part that is far from its share of the rows."""
    return [
        f"{name}: {counted(size, 'row')} of {NAMES[part]}, for {rows:,} wanted: {why}"
        for part, size, rows in zip((1, 2), sizes, wanted, strict=True)
        if abs(size - rows) > max(1, FAR * rows)
    ]


def _class_notes(name: str, chosen: np.ndarray, classes: np.ndarray) -> list[str]:
    """A note of each held-out part whose classes are far from their shares."""
    notes, whole = [], np.bincount(classes) / len(classes)
    for part in (1, 2):
        held = np.bincount(classes[chosen == part], minlength=len(whole))
        if held.any() and np.abs(held / held.sum() - whole).max() > FAR:
            notes.append(
                f"{name}: the classes of {NAMES[part]} are not in their shares: groups stay whole"
            )
    return notes


def _parts(chosen: np.ndarray, rows: np.ndarray) -> Parts:
    return Parts(*(rows[chosen == part] for part in range(3)))


def _stratified(order: np.ndarray, strata: np.ndarray, wanted: list[int], seed: int) -> np.ndarray:
    """The rows to hold out, those of the test part first: evenly from the classes side by side.

    The first row of each class stays in training, so the result may be shorter than wanted.
    """
    by_class = order[np.argsort(strata[order], kind="stable")]
    first = np.flatnonzero(np.diff(strata[by_class], prepend=-1))
    free = np.delete(by_class, first)
    if len(free) < sum(wanted):
        return free
    start = stream(seed, Purpose.SPLIT, layer=1).random()
    held = free[_evenly(len(free), sum(wanted), start)]
    test = _evenly(len(held), wanted[1], start)
    return np.concatenate([held[test], np.delete(held, test)])


def _evenly(n: int, count: int, start: float) -> np.ndarray:
    """`count` of n places, each as far from the next."""
    return ((np.arange(count) + start) * (n / max(count, 1))).astype(np.int64)
