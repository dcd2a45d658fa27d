"""How much each row counts: a column of weights, and weights of classes.

Refuses weights of which no mean can be taken.
"""

from math import inf

import numpy as np

from gpunet.commas import joined
from gpunet.data.cells import read_cells
from gpunet.data.source import Source
from gpunet.data.spelling import places
from gpunet.data.targets import Target
from gpunet.data.words import closest, listed, quoted
from gpunet.errors import DataError, UsageError

BALANCED = "balanced"


def read_weights(source: Source, name: str, rows: np.ndarray) -> np.ndarray:
    """The weights (source.rows,) of a table, those of `rows` there and not negative.

    Raises DataError with the first of `rows` whose weight is missing or negative.
    """
    weights = read_cells(source, name, "numeric").values
    found = weights[rows]
    for bad, what in ((np.isnan(found), "missing"), (found < 0, "negative")):
        if bad.any():
            first = int(bad.argmax())
            shown = "" if np.isnan(found[first]) else f': "{found[first]:.12g}"'
            raise DataError(
                f"{name}: {int(bad.sum()):,} of {len(found):,} weights are {what} "
                f"({source.row(int(rows[first]))}{shown})",
                "a row that is not to count has the weight 0",
            )
    return weights


def counting(
    source: Source, name: str | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Of some rows those that have a weight above 0, and the weights (source.rows,) of all; where
    no column says what rows count, all of them, and None.

    Raises as `read_weights` does, and DataError where no row is left.
    """
    if name is None:
        return rows, None
    weights = read_weights(source, name, rows)
    rows = rows[weights[rows] > 0]
    if not len(rows):
        raise DataError(f"{name}: every weight is 0; no row counts")
    return rows, weights


def scaled(weights: np.ndarray) -> np.ndarray:
    """Weights, of which one is above 0 at least, with a mean of 1."""
    weights = weights / weights.max()  # their sum must not overflow
    return np.asarray(weights / weights.mean())


def class_factors(
    asked: tuple[str, ...], target: Target, codes: np.ndarray, weight: np.ndarray | None
) -> np.ndarray:
    """The weight of each class (k,): as `asked` ("a=1", "b=5"; 1 unless named), or `balanced`.

    Balanced, all classes have the same sum of weights in the rows with these `codes` (n,). Raises
    UsageError for labels that the target does not have and weights that are not positive.
    """
    if asked != (BALANCED,):
        return _as_asked(asked, target)
    held = np.bincount(codes, weight, len(target.labels)).astype(np.float64)
    there = held > 0
    factors = np.ones(len(held))
    factors[there] = held.sum() / (there.sum() * held[there])
    return factors


def _as_asked(asked: tuple[str, ...], target: Target) -> np.ndarray:
    if BALANCED in asked:
        raise UsageError(f"--class-weight {joined(asked)}: {BALANCED} stands alone")
    factors = np.full(len(target.labels), np.nan)
    for text in asked:
        label, sign, number = text.rpartition("=")
        place = int(places((label,), target.labels)[0])
        if not sign:
            hint = f"{BALANCED}, or LABEL=WEIGHT with commas"
            raise UsageError(f"--class-weight {text}: neither {BALANCED} nor LABEL=WEIGHT", hint)
        if place < 0:
            raise UsageError(
                f"--class-weight {text}: {quoted(label)} is none of the classes "
                f"{listed(target.labels)}",
                closest(label, [str(known) for known in target.labels]),
            )
        if not np.isnan(factors[place]):
            raise UsageError(f"--class-weight: {quoted(label)} is named twice")
        factors[place] = _positive(text, number)
    return np.where(np.isnan(factors), 1.0, factors)


def _positive(text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value < inf:
        raise UsageError(f"--class-weight {text}: {quoted(number)} is no positive number")
    return value
