"""Where a model is weak: the rows of one level, or one quarter of the range, of a column."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.bootstrap import Interval, RowValues, clustered
from gpunet.data import Column, Source, read
from gpunet.data.cells import Cells, read_cells
from gpunet.device import resolve
from gpunet.errors import DataError
from gpunet.metrics import TINY
from gpunet.permutation import sample
from gpunet.predict import Model, loaded

SCHEMA = "gpunet.slices/1"
LEAST_ROWS = 30
SHOWN = 10
FEW = 4
"""Numbers with no more different values are slices each; of others the quarters are."""


@dataclass(frozen=True)
class Slice:
    """The rows of a slice, its loss metric with an interval, and whether all of that is worse than
    the metric of all rows."""

    column: str
    slice: str
    rows: int
    metric: str
    value: float
    interval: Interval
    is_worse: bool


def slices(
    model: Model | Path | str,
    data: Any,
    device: str = "cpu",
    least: int = LEAST_ROWS,
    most: int = SHOWN,
    rows: np.ndarray | None = None,
) -> tuple[float, list[Slice]]:
    """The metric of all rows of a table with a target (or of `rows` alone), and the worst slices of
    at least `least` rows.

    Ranked by the lower end of the mean loss (two standard errors), so that small slices do not
    win by chance. Raises DataError for arrays, which have no columns.
    """
    model, source = loaded(model), read(data)
    if source.table is None:
        raise DataError(f"{source.name}: arrays have no columns to slice by")
    source = model.schema.read_so(sample(source, model.config.seed, rows))
    answers, metric = model.answers(source, resolve(device).device), model.loss_metric
    every = model.row_values(*answers)
    whole = float(every.metrics[metric])
    loss = every.values[:, list(every.metrics).index(metric)]
    ranked = []
    for column in model.schema.columns:
        for word, chosen in _slices(column, source):
            part = every.of(chosen)
            if least <= part.rows < every.rows:
                ranked.append((_lower_end(loss[chosen], part), column.name, word, part))
    ranked.sort(key=lambda each: -each[0])
    found = []
    for _, name, word, part in ranked[:most]:
        interval = part.intervals(model.config.seed).get(metric, (nan, nan))
        value, is_worse = float(part.metrics[metric]), interval[0] > whole
        found.append(Slice(name, word, part.rows, metric, value, interval, is_worse))
    return whole, found


def _lower_end(loss: np.ndarray, part: RowValues) -> float:
    """The mean loss (n,) less two standard errors, which are those of clusters if there are any."""
    w = np.ones(len(loss)) if part.weight is None else part.weight
    mean, units = np.average(loss, weights=w), part.units
    off = clustered((w * (loss - mean))[:, None], part.cluster)
    spread = units / (units - 1) if units > 1 else inf
    return float(mean - 2 * np.sqrt(spread * max(np.sum(off**2), TINY)) / w.sum())


def _slices(column: Column, source: Source) -> Iterator[tuple[str, np.ndarray]]:
    """The slices of a column, each with its rows as a mask (n,)."""
    cells = read_cells(source, column.name, column.cell_kind)
    gone = cells.missing
    yield "missing", gone
    if cells.kind == "category":
        for code, level in enumerate(cells.levels):
            yield level, (cells.values == code) & ~gone
    elif known := np.unique(cells.values[~gone]).tolist():
        if len(known) <= FEW:
            for value in known:
                yield _shown(cells, value), cells.values == value
        else:
            yield from _quarters(cells)


def _quarters(cells: Cells) -> Iterator[tuple[str, np.ndarray]]:
    edges = np.unique(np.nanquantile(cells.values, (0, 0.25, 0.5, 0.75, 1)))
    for low, high in pairwise(edges.tolist()):
        above = cells.values >= low if low == edges[0] else cells.values > low
        chosen = above & (cells.values <= high)
        if len(held := cells.values[chosen]):
            ends = (_shown(cells, end) for end in (held.min(), held.max()))
            yield " … ".join(dict.fromkeys(ends)), chosen


def _shown(cells: Cells, value: float) -> str:
    if cells.kind == "boolean":
        return {1.0: "true", 0.0: "false"}.get(value, "other")
    return cells.shown(value)
