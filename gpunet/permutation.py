"""What a model owes to each column: how much worse it is where that column's cells are shuffled.

Breiman, 2001. Columns that tell the same share what they are worth: where one is shuffled, the
other still tells.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import bootstrap
from gpunet.bootstrap import Difference, RowValues
from gpunet.data import Dataset, Schema, Source, read
from gpunet.device import resolve
from gpunet.predict import Model, loaded
from gpunet.random import Purpose, permutation

SCHEMA = "gpunet.importance/1"
MOST_ROWS = 20_000
REPEATS = 5


@dataclass(frozen=True)
class Importance:
    """By how much the loss metric grows without a column, the mean of several shuffles."""

    column: str
    metric: str
    growth: Difference


def importance(
    model: Model | Path | str,
    data: Any,
    device: str = "cpu",
    repeats: int = REPEATS,
    rows: np.ndarray | None = None,
) -> list[Importance]:
    """The columns of data with a target (of arrays the features x1, x2, …), the most important
    first.

    `rows`: those to look at, all for None; of more than MOST_ROWS as many are drawn. Intervals are
    those of a paired bootstrap.
    """
    model = loaded(model)
    place, metric = resolve(device).device, model.loss_metric
    source = sample(read(data), model.config.seed, rows)
    part, _ = model.rows_and_unseen(source)
    x = np.asarray(part.x)

    def values(x: np.ndarray) -> RowValues:
        return model.row_values(part, model.run(Dataset(x), place))

    base = values(x)
    found = []
    for name, inputs in _inputs(model.schema).items():
        shuffled = _shuffled(values, x, inputs, model.config.seed, repeats)
        growth = bootstrap.differences(base, shuffled, model.config.seed)[metric]
        found.append(Importance(name, metric, growth))
    return sorted(found, key=lambda each: -each.growth.value)


def sample(source: Source, seed: int, rows: np.ndarray | None = None) -> Source:
    """Some rows of a source (all for None) in memory, or MOST_ROWS of them."""
    rows = np.arange(source.rows) if rows is None else rows
    if len(rows) > MOST_ROWS:
        rows = rows[np.sort(permutation(len(rows), seed, Purpose.PERMUTE)[:MOST_ROWS])]
    return source.take(rows)


def _shuffled(
    values: Callable[[np.ndarray], RowValues],
    x: np.ndarray,
    inputs: list[int],
    seed: int,
    repeats: int,
) -> RowValues:
    """Row values where the inputs are another row's, averaged over several orders."""
    changed, found = x.copy(), []
    for repeat in range(repeats):
        order = permutation(len(x), seed, Purpose.PERMUTE, epoch=repeat + 1)
        changed[:, inputs] = x[order[:, None], inputs]
        found.append(values(changed))
    return replace(found[0], values=np.mean([each.values for each in found], axis=0))


def _inputs(schema: Schema) -> dict[str, list[int]]:
    """Which inputs each column feeds."""
    if schema.kind == "arrays":
        return {f"x{i + 1}": [i] for i in range(schema.width)}
    found: dict[str, list[int]] = {column.name: [] for column in schema.columns}
    for i, column in enumerate(schema.owners):
        found[column.name].append(i)
    return found
