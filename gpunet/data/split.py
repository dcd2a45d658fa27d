"""Which rows train, validate and test. Refuses empty parts; every class keeps a row in training."""

from dataclasses import dataclass

import numpy as np

from gpunet.data.cells import read_cells
from gpunet.data.source import Source
from gpunet.data.words import counted, quoted
from gpunet.errors import DataError, UsageError
from gpunet.random import Purpose, permutation, stream

PARTS = {"train": 0, "validation": 1, "valid": 1, "val": 1, "test": 2}


@dataclass(frozen=True, eq=False)
class Parts:
    """Row indices of each part, ascending; empty where there is no such part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    rows: np.ndarray,
    validation: float,
    test: float,
    *,
    seed: int,
    shuffle: bool = True,
    strata: np.ndarray | None = None,
) -> Parts:
    """Shares of `rows` (indices); of each class in `strata`, one code a row, alike.

    Without `shuffle` the rows stay in order: the last are the test part, those before them the
    validation part. Raises DataError when a part would be empty.
    """
    for what, share in (("validation", validation), ("test", test)):
        if not 0.0 <= share < 1.0:
            raise UsageError(f"{what} {share}: wanted a share from 0 to below 1")
    if validation + test >= 1.0:
        raise UsageError(f"validation {validation} and test {test} leave nothing to train on")
    n = len(rows)
    wanted = [max(1, round(n * share)) if share else 0 for share in (validation, test)]
    order = permutation(n, seed, Purpose.SPLIT) if shuffle else np.arange(n)[::-1]
    if shuffle and strata is not None:
        order = _stratified(order, strata, wanted, seed)
    if sum(wanted) > min(len(order), n - 1):
        classes = "" if strata is None else f" in {counted(len(np.unique(strata)), 'class')}"
        raise DataError(
            f"{counted(n, 'row')}{classes} are too few for {counted(wanted[0], 'row')} of "
            f"validation and {wanted[1]:,} of test",
            "give more rows, or --validation 0 --test 0",
        )
    chosen = np.zeros(n, np.int8)
    chosen[order[wanted[1] : sum(wanted)]] = 1
    chosen[order[: wanted[1]]] = 2
    return _parts(chosen, rows)


def fold_of(n: int, folds: int, *, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
    """The fold (n,) of each of n rows: of equal sizes but for one row, each class shared out alike.

    Raises DataError when there are more folds than rows.
    """
    if folds > n:
        raise DataError(f"{counted(n, 'row')} are too few for {folds:,} folds", "ask for fewer")
    order = permutation(n, seed, Purpose.FOLD)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    found = np.empty(n, np.int64)
    found[order] = np.arange(n) % folds
    return found


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
