"""Columns and targets as plain values, and back: what a saved model holds of its data.

Refuses whatever is not as `plain` makes it: the file may be damaged, or made to do harm.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gpunet.data.columns import KINDS, MOST_CODES, MOST_KNOTS, MOST_LEVELS, NUMBERS, Column
from gpunet.data.targets import CLASSES, TASKS, TRANSFORMS, Target
from gpunet.errors import ModelInvalid

LIMIT = float(np.finfo(np.float32).max)


def plain(what: Column | Target) -> dict[str, Any]:
    """The fields as lists, strings and numbers; floats survive JSON exactly."""
    found = {key: _lists(value) for key, value in asdict(what).items()}
    return {key: value for key, value in found.items() if value or key != "factors"}


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def column_of(saved: object) -> Column:
    """A column that `plain` made."""
    saved = {"ends": [], **saved} if isinstance(saved, dict) else saved
    parts = record(saved, [field.name for field in fields(Column)], "column")
    kind = text(parts["kind"], "kind")
    need(kind in KINDS, "kind")
    levels = texts(parts["levels"], "levels")
    need((kind == "category") == bool(levels), "levels")
    flags = {name: parts[name] for name in ("missing", "rare", "robust", "coded")}
    need(all(type(value) is bool for value in flags.values()), "missing")
    can_be = {"category": (False, True), "hashed": (True,)}.get(kind, (False,))
    need(flags["coded"] in can_be and not (flags["coded"] and flags["robust"]), "coded")
    most = MOST_CODES if flags["coded"] else MOST_LEVELS
    need(len(set(levels)) == len(levels) <= most, "levels")
    (fill,), values = floats([parts["fill"]], "fill"), floats(parts["values"], "values")
    need(not values or (kind == "numeric" and len(values) < MOST_CODES), "values")
    need(all(abs(v) <= LIMIT and float(np.float32(v)) == v for v in values), "values")
    need(all(a < b for a, b in pairwise(values)), "values")
    ends = floats(parts["ends"], "ends")
    need(not ends or (kind in NUMBERS and len(ends) == 2 and ends[0] < ends[1]), "ends")
    name = text(parts["name"], "name")
    column = Column(name, kind, fill=fill, levels=levels, values=values, ends=ends, **flags)
    return replace(
        column,
        centre=floats(parts["centre"], "centre", column.scales),
        spread=floats(parts["spread"], "spread", column.scales, least=0.0),
        knots=_knots(parts["knots"], column.widths[0]),
    )


def _knots(saved: object, numbers: int) -> tuple[tuple[float, ...], ...]:
    knots = tuple(floats(each, "knots") for each in sequence(saved, "knots"))
    need(len(knots) in (0, numbers), "knots")
    need(all(len(each) <= MOST_KNOTS for each in knots), "knots")
    need(all(a < b for each in knots for a, b in pairwise(each)), "knots")
    return knots


def target_of(saved: object) -> Target:
    """A target that `plain` made."""
    saved = {"factors": [], **saved} if isinstance(saved, dict) else saved
    parts = record(saved, [field.name for field in fields(Target)], "target")
    names = tuple(text(name, "target") for name in sequence(parts["names"], "names"))
    task, labels = text(parts["task"], "task"), tuple(sequence(parts["labels"], "labels"))
    need(task in TASKS and len(names) > 0, "task")
    kinds = {type(label) for label in labels}
    need(len(kinds) <= 1 and kinds <= {str, int, bool}, "labels")
    need(len(set(labels)) == len(labels), "labels")
    if task in CLASSES:
        need(len(names) == 1 and len(labels) >= 2, "labels")
        need(task == "multiclass" or len(labels) == 2, "labels")
    else:
        need(not labels, "labels")
    mean = floats(parts["mean"], "mean", len(names))
    std = floats(parts["std"], "std", len(names), least=5e-324)
    clamps = task == "regression" and parts["low"] != []
    low, high = (floats(parts[key], key, len(names) * clamps) for key in ("low", "high"))
    need(all(a <= b for a, b in zip(low, high, strict=True)), "low")
    reason, transform = text(parts["reason"], "reason"), text(parts["transform"], "transform")
    need(transform in (TRANSFORMS if task == "regression" else ("none",)), "transform")
    need(transform == "none" or all(value > 0 for value in low), "low")
    weight = None if parts["weight"] is None else text(parts["weight"], "weight")
    quantiles = floats(parts["quantiles"], "quantiles")
    need(task == "regression" or not quantiles, "quantiles")
    need(all(a < b for a, b in pairwise((0.0, *quantiles, 1.0))), "quantiles")
    factors = floats(parts["factors"], "factors", least=5e-324)
    need(len(factors) in (0, len(labels)), "factors")
    given = (names, task, labels, mean, std, reason, low, high, transform, weight, quantiles)
    return Target(*given, factors)


def need(fine: bool, what: str) -> None:
    """Raise ModelInvalid, which names a part, unless it is as it must be."""
    if not fine:
        raise ModelInvalid(f"the schema's {what} cannot be right")


def record(saved: object, names: Iterable[str], what: str) -> dict[str, Any]:
    """A dict with these keys and no others."""
    if not isinstance(saved, dict) or set(saved) != set(names):
        raise ModelInvalid(f"the schema's {what} lacks a part or has one too many")
    return dict(saved)


def sequence(saved: object, what: str) -> list[Any]:
    """A list."""
    need(isinstance(saved, list), what)
    return saved  # type: ignore[return-value]


def text(saved: object, what: str) -> str:
    """A text."""
    need(type(saved) is str, what)
    return saved  # type: ignore[return-value]


def texts(saved: object, what: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(text(each, what) for each in sequence(saved, what))


def floats(
    saved: object, what: str, count: int | None = None, least: float = -math.inf
) -> tuple[float, ...]:
    """A list of finite floats, so many (None: any number of them), and none below the least."""
    found = sequence(saved, what)
    need(count is None or len(found) == count, what)
    need(all(type(n) is float and math.isfinite(n) and n >= least for n in found), what)
    return tuple(found)
