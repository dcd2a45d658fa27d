"""What a source holds, column by column, for people to look at. Refuses to fail on odd columns."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.answers import array_names, check_present, read_answers
from gpunet.data.cells import Cells, read_cells
from gpunet.data.columns import Encoding, fit
from gpunet.data.kinds import Observer, check_types, looks
from gpunet.data.prepared import read_so
from gpunet.data.rows import blocks
from gpunet.data.scales import median
from gpunet.data.schema import check_columns
from gpunet.data.source import Source
from gpunet.data.targets import choose_task, doubts
from gpunet.errors import DataError, GpunetError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 5
MANY = 1 << 22  # values; in larger arrays the different ones are not counted


@dataclass(frozen=True)
class ColumnProfile:
    """One column: kind (as Evidence has it, or `other`: it cannot be learnt from), cells without a
    value, different values; minimum, median and maximum of numbers (dates as ISO text; the ends to
    the last digit, where float64 loses it) or the commonest levels with their counts; and what is
    notable, in words."""

    name: str
    kind: str
    missing: int | None
    distinct: int | None
    minimum: float | str | None = None
    median: float | str | None = None
    maximum: float | str | None = None
    top: tuple[tuple[str, int], ...] = ()
    note: str = ""


def profile(
    source: Source,
    target: tuple[str, ...] = (),
    *,
    types: Mapping[str, str] = MappingProxyType({}),
    na: tuple[str, ...] = (),
    decimal: str | None = None,
    one_hot_levels: int | None = None,
) -> list[ColumnProfile]:
    """The columns of a table in its order, or x and y of arrays, read as `prepare` reads them; the
    target says its task."""
    source = read_so(source, na, decimal)
    if source.table is None:
        if types:
            raise UsageError(f"{source.title}: arrays have no columns to choose from")
        return _arrays(source, tuple(target))
    target = tuple(target) or source.target
    check_columns(source, target, "--target")
    check_types(source, types, [name for name in source.columns if name not in target])
    reader = Observer(types, (), "", np.arange(source.rows))
    encoding = Encoding(one_hot_levels=one_hot_levels)
    unfit = [
        ColumnProfile(name, "other", None, None, note=reason.removeprefix(f"{source.title}: "))
        for name, reason in source.unfit.items()
    ]
    task = dict.fromkeys(target, _task(source, target)) if target else {}
    names = source.columns
    return [*(_column(source, name, task.get(name), reader, encoding) for name in names), *unfit]


def _column(
    source: Source, name: str, task: str | None, reader: Observer, encoding: Encoding
) -> ColumnProfile:
    try:
        cells = reader.read(source, name)
    except DataError as error:
        cells = read_cells(source, name, "category")
        return _described(name, cells, "category", error.message.removeprefix(f"{name}: "))
    known = ~cells.missing
    kind, *_ = looks(cells, cells.values[known], source.rows)
    if task is not None:
        said = task
    else:
        column, note = fit(name, cells, reader.train, encoding)
        own = None if column is None and cells.kind == "numeric" else cells.note
        said = _said(name, f"left out: {note}" if column is None else note, own)
    found = _described(name, cells, kind, said)
    return _with_digits(found, source, cells) if cells.loses_digits else found


def _with_digits(found: ColumnProfile, source: Source, cells: Cells) -> ColumnProfile:
    """The profile of a column of whole numbers, counted and with its ends as they were before they
    lost their last digits."""
    import pyarrow as pa
    from pyarrow import compute

    assert source.table is not None
    column, values = source.table.column(found.name), cells.values

    def different(rows: np.ndarray) -> "pa.Array":
        return compute.unique(column.filter(pa.array(rows)))

    low, high = (
        end(map(_whole, different(values == end_of(values)).to_pylist()))
        for end, end_of in ((min, np.nanmin), (max, np.nanmax))
    )
    count = len(different(~cells.missing))
    return replace(found, distinct=count, minimum=low, maximum=high)


def _whole(cell: int | str) -> int:
    """A cell that is a whole number, to its last digit where it is written as one."""
    try:
        return int(cell)
    except ValueError:
        return int(float(cell))


def _said(name: str, *notes: str | None) -> str:
    """What is to say of a column, each note once."""
    found = (note.removeprefix(f"{name}: ") for note in notes if note)
    return "; ".join(dict.fromkeys(found))


def _task(source: Source, target: tuple[str, ...]) -> str:
    try:
        answers = read_answers(source, target)
        check_present(source, answers, np.arange(source.rows))
        task, reason = choose_task(answers, "auto", source.has_codes)
        found = doubts(answers, task, source.table is None)
        return "; ".join((f"target: {task}, {reason}", *found))
    except GpunetError as error:
        return f"target: {error}"


def _described(name: str, cells: Cells, kind: str, note: str) -> ColumnProfile:
    gone = cells.missing
    missing = int(gone.sum())
    known = cells.values[~gone]
    if len(known) == 0:
        return ColumnProfile(name, kind, missing, 0, note=note)
    values, counts = np.unique(known, return_counts=True)
    if cells.kind in ("category", "boolean"):
        first = np.argsort(-counts, kind="stable")[:TOP]
        words = cells.levels or ("false", "true")
        top = tuple((words[int(values[i])], int(counts[i])) for i in first)
        return ColumnProfile(name, kind, missing, len(values), top=top, note=note)
    low, middle, high = (
        cells.shown(value) if cells.kind == "date" else value
        for value in (float(values[0]), median(known), float(values[-1]))
    )
    return ColumnProfile(name, kind, missing, len(values), low, middle, high, note=note)


def _arrays(source: Source, target: tuple[str, ...]) -> list[ColumnProfile]:
    assert source.x is not None
    x, names = source.x, array_names(source, target)
    shape = " x ".join(map(str, x.shape[1:])) or "1"
    parts = [(part.min(), part.max()) for _, part in blocks(x)]
    low, high = (float(f(each)) for f, each in zip((min, max), zip(*parts)))
    middle = float(np.median(x)) if isinstance(x, np.ndarray) else None
    distinct = len(np.unique(x[:])) if x.size <= MANY else None
    note = f"{shape} values of {x.dtype} a row"
    profiles = [ColumnProfile("x", "numeric", 0, distinct, low, middle, high, note=note)]
    if source.y is None:
        return profiles
    task = _task(source, names)
    for answer in read_answers(source, names):
        cells = (
            Cells("numeric", answer.numbers)
            if answer.numbers is not None
            else Cells(
                "category",
                answer.codes,
                tuple(map(str, answer.labels)),
                np.zeros(len(answer.labels), bool),
            )
        )
        profiles.append(_described(answer.name, cells, cells.kind, task))
    return profiles
