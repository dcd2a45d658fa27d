"""Which columns predict which: as options say.

Refuses to guess a target, names that are not there, and names with two meanings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gpunet.config import VALUES_HINT
from gpunet.data.answers import array_names
from gpunet.data.kinds import check_types
from gpunet.data.schema import check_columns
from gpunet.data.source import Source, check_fit
from gpunet.data.split import Ways
from gpunet.data.words import HEADERLESS, like_data, listed, option
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted


def target_names(source: Source, target: tuple[str, ...]) -> tuple[str, ...]:
    """The columns that are predicted, or the names of an array y's.

    Raises UsageError where none is named, or one twice, and DataError for one that is not there.
    """
    if source.table is None:
        return array_names(source, target)
    target = target or source.target
    if not source.file and len(target) > (count := len(source.columns)):
        said = f"{counted(len(target), 'target')} of {counted(count, 'column')}"
        raise UsageError(f"{source.title}: {said}", VALUES_HINT)
    if twice := [name for name, times in Counter(target).items() if times > 1]:
        raise UsageError(f"{option('--target', *target)}: {listed(twice)} is named twice")
    if not target:
        doubt = f"{HEADERLESS}; " if source.text and like_data(source.columns) else ""
        raise UsageError(
            f"{source.title}: no target was given",
            f"{doubt}choose one with --target: {listed(source.columns, 40)}",
        )
    check_columns(source, target, "--target")
    return target


def feature_names(
    source: Source,
    target: tuple[str, ...],
    features: Sequence[str],
    drop: Sequence[str],
    ways: Ways,
    weight: str | None,
    types: Mapping[str, str],
) -> list[str]:
    """The columns that are learnt from, in their order: all, or `features`, but for those that are
    named for something else; a group or time is learnt from where it is among `features`.

    Raises UsageError for a name with two meanings, and DataError where no column is left.
    """
    rest = [n for n in (ways.group, ways.time, ways.column, weight) if n is not None]
    if source.table is None:
        if features or drop or rest or types:
            raise UsageError(f"{source.title}: arrays have no columns to choose from")
        return []
    for flag, given in (("--features", features), ("--drop", drop), ("", rest)):
        check_columns(source, list(dict.fromkeys(given)), flag)
    _check_meanings({*target}, {*features}, {*drop}, ways, weight)
    apart = {*drop, *target, *({*rest} - {*features})}
    wanted = {*(features or source.columns)} - apart
    names = [name for name in source.columns if name in wanted]
    if not features:
        check_fit(source, drop)
    if not names:
        raise DataError(f"{source.title}: no feature column is left")
    check_types(source, types, names if ways.time is None else [*names, ways.time])
    return names


def _check_meanings(
    target: set[str], features: set[str], drop: set[str], ways: Ways, weight: str | None
) -> None:
    """Raise UsageError where a column is named for two things that do not go together."""
    by, place = {ways.group, ways.time}, {ways.column}
    others: dict[str, tuple[set[Any], set[Any]]] = {
        "the weight and a target, feature, split or left out column": (
            {weight},
            target | features | drop | by | place,
        ),
        "both a feature and left out": (features, drop),
        "the target and named as another": (target, features | drop | by | place | {weight}),
        "the split column and named as another": (place, features | drop | by),
    }
    for what, (one, other) in others.items():
        clash = (one & other) - {None}
        if clash:
            raise UsageError(f"{listed(sorted(map(str, clash)))}: {what}; wanted one of the two")
