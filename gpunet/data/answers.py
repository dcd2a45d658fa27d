"""The values of targets, from a column or an array: labels, and numbers where they are any.

Refuses dates, values that are infinite, and gaps in the rows that are asked for.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpunet.data.arrays import check_finite
from gpunet.data.cells import EXACT, LOST_DIGITS, ZEROS, distinct, is_text, read_cells
from gpunet.data.source import Source
from gpunet.data.spelling import Label
from gpunet.data.words import MISSING, quoted
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted


@dataclass(frozen=True, eq=False)
class Answer:
    """One target's values: codes (n,) into sorted labels, -1 where missing, and numbers (n,).

    Text has no numbers, fractions and whole numbers that are not exact have no labels. kind: text,
    boolean, whole (1.0 as 1 is, in every format) or real. `note`: a warning where text looks like
    numbers, or digits are lost. `has_zeros`: numbers begin with 0, as codes do.
    """

    name: str
    kind: str
    codes: np.ndarray
    labels: tuple[Label, ...]
    numbers: np.ndarray | None
    note: str | None = None
    has_zeros: bool = False

    @property
    def missing(self) -> np.ndarray:
        return self.codes < 0

    def take(self, rows: np.ndarray) -> "Answer":
        """Those of some rows (ascending numbers)."""
        if len(rows) == len(self.codes):
            return self
        numbers = None if self.numbers is None else self.numbers[rows]
        return replace(self, codes=self.codes[rows], numbers=numbers)

    def shown(self, row: int) -> str:
        if self.labels:
            return quoted(self.labels[self.codes[row]])
        assert self.numbers is not None
        return quoted(self.numbers[row])


def array_names(source: Source, target: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The targets of arrays: `y`, or what a built-in set calls it; `y1`, `y2`, … when several.

    Raises UsageError when another `target` was asked for.
    """
    if target and target != source.target:
        raise UsageError(f"{source.title}: arrays have no columns; the target is the array y")
    name = (source.target or ("y",))[0]
    width = 1 if source.y is None or source.y.ndim == 1 else source.y.shape[1]
    return (name,) if width == 1 else tuple(f"{name}{i + 1}" for i in range(width))


def read_answers(
    source: Source, names: tuple[str, ...], classes: bool = False
) -> tuple[Answer, ...]:
    """The named columns of a table, or all of an array y.

    When they are known to be `classes`, what is no clean column of numbers is text.
    """
    if source.table is not None:
        return tuple(_from_column(source, name, classes) for name in names)
    if source.y is None:
        raise DataError(f"{source.title}: no targets; wanted an array y beside x")
    y = source.y[:, None] if source.y.ndim == 1 else source.y
    if y.shape[1] != len(names):
        raise DataError(
            f"{source.title}: y has {counted(y.shape[1], 'column')}; wanted {len(names):,}"
        )
    check_finite(f"{source.title}: y", y, missing=True)
    return tuple(_from_array(name, y[:, i]) for i, name in enumerate(names))


def _from_column(source: Source, name: str, classes: bool) -> Answer:
    from pyarrow import table, types

    assert source.table is not None
    column = source.table.column(name)
    lost = f"{name}: {LOST_DIGITS}"
    if types.is_dictionary(column.type) and not is_text(column.type):
        column = column.cast(column.type.value_type)
        source = replace(source, table=table({name: column}))
    try:
        cells = read_cells(source, name)
        if cells.kind == "date":
            raise DataError(f"{name}: holds dates; a target is numbers or classes")
    except DataError:
        if not classes:
            raise
        cells = read_cells(source, name, "category")
    if cells.kind == "category" or is_text(column.type):
        missing = (*(MISSING if source.text else ()), *source.na)
        answer = _from_text(name, column, cells.kind, cells.values, missing)
        is_told = cells.kind == "category" or cells.note == lost
        has_zeros = cells.note is not None and ZEROS in cells.note
        return replace(answer, note=cells.note if is_told else None, has_zeros=has_zeros)
    return replace(_numbered(name, cells.values, cells.kind == "boolean"), note=cells.note)


def _from_text(
    name: str, column: Any, kind: str, values: np.ndarray, missing: tuple[str, ...]
) -> Answer:
    """Labels are texts as the file spells them; of several spellings of a number, the first."""
    if kind == "numeric":
        answer = _numbered(name, values)
        if not answer.labels:
            return answer
        _, first = np.unique(answer.codes[~answer.missing], return_index=True)
        rows = np.flatnonzero(~answer.missing)[first]
        return replace(answer, labels=tuple(column.take(rows).to_pylist()))
    found, held = distinct(column)
    texts = found.to_pylist()
    kept = sorted(i for i, text in enumerate(texts) if text.strip() not in missing)
    kept.sort(key=lambda i: texts[i])
    place = np.full(len(texts) + 1, -1)
    place[kept] = np.arange(len(kept))
    codes = place[held]
    numbers = values if kind == "boolean" else None
    return Answer(name, "text", codes, tuple(texts[i] for i in kept), numbers)


def _from_array(name: str, values: np.ndarray) -> Answer:
    if values.dtype.kind == "U":
        labels, codes = np.unique(values, return_inverse=True)
        return Answer(name, "text", codes, tuple(labels.tolist()), None)
    answer = _numbered(name, values.astype(np.float64), values.dtype.kind == "b")
    is_lost = values.dtype.kind in "iu" and not answer.labels
    return replace(answer, note=f"{name}: {LOST_DIGITS}") if is_lost else answer


def _numbered(name: str, values: np.ndarray, truths: bool = False) -> Answer:
    gone = np.isnan(values)
    known = values[~gone]
    codes = np.where(gone, -1, 0)
    kind, spell = ("boolean", bool) if truths else ("whole", int)
    if (has_fractions := np.any(known % 1)) or np.any(np.abs(known) >= EXACT):
        return Answer(name, "real" if has_fractions else kind, codes, (), values)
    labels = np.unique(known)
    codes[~gone] = np.searchsorted(labels, known)
    return Answer(name, kind, codes, tuple(spell(label) for label in labels.tolist()), values)


def unanswered(answers: tuple[Answer, ...]) -> np.ndarray:
    """Whether each row lacks a target, (n,)."""
    found: np.ndarray = np.logical_or.reduce([answer.missing for answer in answers])
    return found


def check_present(source: Source, answers: tuple[Answer, ...], rows: np.ndarray) -> None:
    """Raise DataError when any value of some rows is missing."""
    for answer in answers:
        gone = rows[answer.missing[rows]]
        if len(gone) == len(rows):
            raise DataError(f"{answer.name}: no value in any row; nothing to learn from")
        if len(gone):
            raise DataError(
                f"{answer.name}: {len(gone):,} of {len(rows):,} values of the target are "
                f"missing ({source.row(int(gone[0]))})",
                "leave those rows out with --drop-missing-target",
            )
