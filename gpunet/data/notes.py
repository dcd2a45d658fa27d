"""What should be known of data that were prepared, in plain words."""

from collections.abc import Sequence

import numpy as np

from gpunet.data.answers import Answer
from gpunet.data.columns import ALIKE, ALMOST_NAMES, CONSTANT, EMPTY, NAMES
from gpunet.data.kinds import evenly
from gpunet.data.scales import skewness
from gpunet.data.schema import Schema
from gpunet.data.targets import CLASSES, FEW
from gpunet.data.words import is_formula, listed, quoted
from gpunet.errors import DataError
from gpunet.sizes import counted

THIN = 5  # rows a class, below which it is told
DECADES = 1.8  # from the first to the last of a hundred numbers, from which ratios may say more
SAMPLE = 50_000  # of the numbers, at most, that are looked at
SKEWED, OVERDONE = 2.0, -1.0  # skewness of such numbers, and of logarithms that turn it round


def class_notes(answer: Answer, seen: np.ndarray, train: np.ndarray, test: np.ndarray) -> list[str]:
    """Notes of classes that are rare, or in one part alone, by the rows of all parts and of two.

    Raises DataError where the rows `train` hold a single one.
    """
    codes, size = answer.codes, len(answer.labels)
    counts, here, there = (np.bincount(codes[rows], minlength=size) for rows in (seen, train, test))
    if (here > 0).sum() < 2:
        raise DataError(
            f"{answer.name}: the training part holds a single class "
            f"({answer.shown(int(train[0]))}); nothing to learn from"
        )
    single = [answer.labels[code] for code in np.flatnonzero((counts == 1) & (here == 1))]
    absent = [answer.labels[code] for code in np.flatnonzero((counts > 0) & (here == 0))]
    notes = []
    if (classes := np.count_nonzero(here)) > FEW and len(train) < THIN * classes:
        each = f"{len(train) / classes:.1f} training rows each"
        notes.append(f"{answer.name}: {classes:,} classes with {each}: few to learn them from")
    if single and len(seen) > len(train):
        notes.append(
            f"{answer.name}: {counted(len(single), 'class')} with a single row, which is in the "
            f"training part: {listed(map(quoted, single))}"
        )
    notes += _alike_notes(answer.name, [answer.labels[code] for code in np.flatnonzero(counts)])
    if absent:
        notes.append(
            f"{answer.name}: {counted(len(absent), 'class')} without a row in the training part: "
            f"{listed(map(quoted, absent))}"
        )
    untested = [answer.labels[code] for code in np.flatnonzero((counts > 1) & (there == 0))]
    if untested and len(test):
        notes.append(
            f"{answer.name}: {counted(len(untested), 'class')} without a row in the test part, "
            f"which has no AUC then: {listed(map(quoted, untested))}"
        )
    return notes


def skew_notes(answer: Answer, rows: np.ndarray) -> list[str]:
    """A note where numbers in `rows` are positive, span decades, and are skewed as their logarithms
    are not."""
    assert answer.numbers is not None
    numbers = answer.numbers[rows]
    if numbers.min() <= 0:
        return []
    numbers = evenly(numbers, SAMPLE)
    logs = np.log10(numbers)
    first, last = np.quantile(logs, (0.01, 0.99))
    skew, of_logs = skewness(numbers), skewness(logs)
    if last - first < DECADES or skew < SKEWED or not OVERDONE < of_logs < skew / 2:
        return []
    return [
        f"{answer.name}: positive numbers, skewed over {last - first:.1f} decades; try "
        "--target-transform log"
    ]


def _alike_notes(name: str, labels: Sequence[object]) -> list[str]:
    """A note on classes that may be one."""
    alike: dict[str, list[str]] = {}
    for label in map(str, labels):
        alike.setdefault(" ".join(label.casefold().split()), []).append(label)
    found = [quoted(label) for each in alike.values() if len(each) > 1 for label in each]
    if not found:
        return []
    return [
        f"{name}: classes that differ only in case or spaces: {listed(found)}; "
        "if they are one, write them alike"
    ]


def formula_notes(schema: Schema) -> list[str]:
    """A note on classes and levels that a spreadsheet would run."""
    target = schema.target
    texts = {column.name: column.levels for column in schema.columns}
    if target.task in CLASSES:
        texts |= {target.names[0]: tuple(map(str, target.labels))}
    found = {name: list(filter(is_formula, each)) for name, each in texts.items()}
    if not (names := [name for name, formulas in found.items() if formulas]):
        return []
    return [
        f"{listed(names)}: text that a spreadsheet takes for a formula "
        f"({quoted(found[names[0]][0])}); predict with --spreadsheet-safe"
    ]


def left_out_notes(dropped: dict[str, str | None]) -> list[str]:
    """Notes of the columns that are left out, by reason."""
    notes = []
    for reason in (CONSTANT, EMPTY, ALIKE, NAMES, ALMOST_NAMES):
        names = [name for name, why in dropped.items() if why == reason]
        if names:
            notes.append(f"left out {listed(names)}: {reason}")
    return notes
