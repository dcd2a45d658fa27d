"""From a source to what a network trains on: target, split, schema, encoded parts.

Everything that is fitted is fitted on the training part alone. Refuses to guess a target.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np

from gpunet.data.answers import Answer, check_present, read_answers, unanswered
from gpunet.data.cells import EXACT, LOST_DIGITS, Cells, unmet
from gpunet.data.choice import feature_names, target_names
from gpunet.data.columns import (
    MOST_LEVELS,
    Column,
    Encoding,
    fit,
    thinned,
)
from gpunet.data.dataset import Dataset, duplicates
from gpunet.data.kinds import Evidence, Observer
from gpunet.data.limits import automatic, check_fits
from gpunet.data.notes import class_notes, formula_notes, left_out_notes, skew_notes
from gpunet.data.rows import PER_ROW, RowFile, Rows, blocks
from gpunet.data.scales import byte_moments, column_moments
from gpunet.data.schema import DTYPES, Layout, Schema, check_columns, encode_cells, flat
from gpunet.data.source import Source
from gpunet.data.split import Fold, Parts, Ways, fold_of, groups_of, overlap
from gpunet.data.targets import (
    CLASSES,
    Aim,
    Target,
    check_counts,
    check_positive,
    check_transform,
    choose_task,
    doubts,
    encode_answers,
    fit_target,
)
from gpunet.data.weights import class_factors, counting, scaled
from gpunet.data.words import listed, option
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted

SHARE = 0.15
EXACT_SINGLE = 2**24  # above it float32 skips whole numbers
TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A fitted schema, the encoded parts, and warnings in plain words.

    split: the source's rows in each part (none in one that has a source of its own); how: the way
    they were chosen, in words. seen: what each column of a table was taken for, and why.
    """

    schema: Schema
    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    notes: tuple[str, ...]
    split: Parts
    how: str
    seen: tuple[Evidence, ...] = ()

    @property
    def parts(self) -> dict[str, Dataset | None]:
        """The parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def folds(self, count: int, seed: int) -> list["Prepared"]:
        """The training part in `count` folds: each in turn is a validation part, the others train.

        What was fitted to the training part stays. Raises DataError for data that stream.
        """
        if isinstance(self.train.x, RowFile):
            raise DataError("folds want the training part in memory", "raise --max-memory")
        strata = self.train.y if self.schema.target.task in CLASSES else None
        strata = None if strata is None else strata.reshape(-1).astype(np.int64)
        found = fold_of(self.train.rows, count, seed=seed, strata=strata)
        sides = [(np.flatnonzero(found != i), np.flatnonzero(found == i)) for i in range(count)]
        return [
            replace(
                self,
                train=self.train.take(learnt),
                validation=self.train.take(held),
                split=self.split.fold(learnt, held),
            )
            for learnt, held in sides
        ]

    def with_reason(self, reason: str) -> "Prepared":
        """The same, with other words on how the task was found."""
        target = replace(self.schema.target, reason=reason)
        return replace(self, schema=replace(self.schema, target=target))

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Of each part that was taken from the source its row numbers there, ascending."""
        return self.split.used

    def fingerprint(self) -> str:
        """A SHA-256 of the schema and of every row of every part, in order."""
        schema = self.schema.to_dict()
        for column in schema["columns"]:
            del column["ends"]  # follows from the rows
        digest = sha256(json.dumps(schema, sort_keys=True).encode())
        for name, part in self.parts.items():
            for array in () if part is None else (part.x, part.y, part.weight):
                if array is not None:
                    digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
                    for _, rows in blocks(array):
                        digest.update(rows.reshape(-1).view(np.uint8).data)
        return digest.hexdigest()


def prepare(
    source: Source,
    *,
    target: Sequence[str] = (),
    features: Sequence[str] = (),
    drop: Sequence[str] = (),
    types: Mapping[str, str] = MappingProxyType({}),
    na: tuple[str, ...] = (),
    decimal: str | None = None,
    task: str = "auto",
    validation: float | Source = SHARE,
    test: float | Source | Fold = SHARE,
    split_column: str | None = None,
    weight: str | None = None,
    class_weight: tuple[str, ...] = (),
    group: str | None = None,
    time: str | None = None,
    quantiles: tuple[float, ...] = (),
    drop_missing_target: bool = False,
    standardise: bool = True,
    scaling: str = "standard",
    one_hot_levels: int | None = None,
    bins: int = 0,
    rough: bool = False,
    clamp: bool = False,
    target_transform: str = "none",
    seed: int = 0,
    budget: int | None = None,
) -> Prepared:
    """Choose the task, split, fit the schema on the training part, encode every part.

    `features` (all) less `drop` predict `target`. Over `budget`: a file. Others: Source, Ways, Aim.
    """
    encoding = _encoding(source, standardise, scaling, one_hot_levels, bins, rough)
    aim = Aim(standardise, target_transform, clamp, weight, quantiles)
    ways = Ways(split_column, group, time, seed, types.get(time or ""), _fold(test))
    source, validation, test = (read_so(each, na, decimal) for each in (source, validation, test))
    names = target_names(source, tuple(target))
    inputs = feature_names(source, names, features, drop, ways, weight, types)
    answers, kept, weights, notes = _with_target(source, names, task, drop_missing_target, weight)
    shares, others = _shares(source, validation, test, ways)
    fitted, parts, how, told = _divide(source, answers, kept, shares, ways, task, aim)
    observer = Observer(types, answers, fitted.task, parts.train)
    schema, x, more = _fit(source, inputs, observer, fitted, parts, encoding, ways, budget)
    own = _own_parts(schema, source, answers, weights, parts, x)
    given = own | _others(schema, others, drop_missing_target)
    schema, held = _weigh(given, schema, class_weight)
    notes += [*source.notes, *told, *more, *_twice(source, ways, parts, others, given)]
    notes += _unmet(source, [*inputs, *names, weight, group, time])
    return Prepared(schema, *_three(held), tuple(notes), parts, how, tuple(observer.seen))


def _divide(
    source: Source,
    answers: tuple[Answer, ...],
    kept: np.ndarray,
    shares: list[float],
    ways: Ways,
    task: str,
    aim: Aim,
) -> tuple[Target, Parts, str, list[str]]:
    """The target, the rows `kept` of each part, how they were chosen, and notes."""
    marked = ways.marked(source, kept)
    seen = marked.train if marked else kept
    asked = task
    task, reason, strata = _task(source, answers, seen, task, aim.transform)
    if task == "count":
        _check_counts(source, answers, kept, marked)
    parts, how, notes = ways.divide(source, kept, shares, strata, marked)
    parts = replace(parts, first=source.first, lines=source.lines)
    fitted = fit_target(answers, seen, parts.train, task, reason, aim)
    if task in CLASSES:
        notes += class_notes(answers[0], seen, parts.train, parts.test)
    if task == "regression" and aim.transform == "none":
        notes += [note for answer in answers for note in skew_notes(answer, parts.train)]
    if asked == "auto":
        notes += doubts(tuple(each.take(seen) for each in answers), task, source.table is None)
    return fitted, parts, how, notes


def _encoding(
    source: Source,
    standardise: bool,
    scaling: str,
    one_hot_levels: int | None,
    bins: int,
    rough: bool,
) -> Encoding:
    """The encoding that is wanted; raises UsageError where it has no meaning."""
    if scaling not in ("standard", "robust"):
        raise UsageError(f"scaling {scaling}: wanted standard or robust")
    if scaling == "robust" and not standardise:
        raise UsageError("robust scaling of inputs in their own units: wanted one of the two")
    if one_hot_levels is not None and not 1 <= one_hot_levels <= MOST_LEVELS:
        raise UsageError(f"one-hot levels {one_hot_levels}: wanted 1 to {MOST_LEVELS}")
    for_tables = {
        "robust scaling is": scaling == "robust",
        "one-hot levels are": one_hot_levels is not None,
        "embeddings of values are": rough,
    }
    if source.table is None and (found := [what for what, is_on in for_tables.items() if is_on]):
        raise UsageError(f"{source.title}: {found[0]} for tables; these are arrays")
    return Encoding(scaling if standardise else "none", one_hot_levels, bins, rough)


def read_so(part: Any, na: tuple[str, ...], decimal: str | None) -> Any:
    """A source with more words for missing, and a decimal mark; a share of the rows as it is."""
    if not isinstance(part, Source):
        return part
    if na and part.table is None:
        raise UsageError(f"{part.title}: arrays hold no words that could mean missing")
    if decimal and not part.text:
        raise UsageError(f"{part.title}: its numbers are no text; --decimal is for CSV files")
    return replace(part, na=na, decimal=decimal)


def _twice(
    source: Source,
    ways: Ways,
    parts: Parts,
    others: dict[str, Source],
    data: dict[str, Dataset],
) -> list[str]:
    """Notes of the rows, and in parts that were given the groups, that train and are held out."""
    name = ways.group
    if name is None or not (ways.column or others):
        return duplicates(data)
    held = [groups_of(source, name, rows) for rows in (parts.validation, parts.test)]
    for part, other in others.items():
        with _naming(part):
            check_columns(other, [name])
            held.append(groups_of(other, name, np.arange(other.rows)))
    groups = overlap(name, groups_of(source, name, parts.train), np.concatenate(held))
    return [*groups, *duplicates(data)]


def _unmet(source: Source, used: Sequence[str | None]) -> list[str]:
    """A note of words for missing that no cell of these columns is."""
    words = unmet(source, list(filter(None, used))) if source.na else ()
    return [f"{option('--na', *words)}: found in no column that is used"] if words else []


def _with_target(
    source: Source, targets: tuple[str, ...], task: str, drop_missing: bool, weight: str | None
) -> tuple[tuple[Answer, ...], np.ndarray, np.ndarray | None, list[str]]:
    """The targets, the rows that have them and count at all, the weights of all if they have any,
    and notes of the rows that are left out."""
    answers = read_answers(source, targets, task in CLASSES)
    kept, weights = _kept(source, answers, drop_missing, weight)
    names = listed(answer.name for answer in answers)
    gone = int(np.count_nonzero(unanswered(answers))) if drop_missing else 0
    notes = [f"left out {counted(gone, 'row')} without {names}"] if gone else []
    notes += [answer.note for answer in answers if answer.note]
    if nothing := source.rows - gone - len(kept):
        notes.append(f"left out {counted(nothing, 'row')} of which {weight} is 0")
    if len(kept) < 2:
        which = "with a target" if weight is None else f"with a target and a {weight} above 0"
        raise DataError(f"{source.title}: one row {which}; wanted 2 or more")
    return answers, kept, weights, notes


def _kept(
    source: Source, answers: tuple[Answer, ...], drop_missing: bool, weight: str | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The rows that count, all of which have a target, and the weights of all rows if they have
    any; raises DataError where one that counts has no target."""
    kept = np.flatnonzero(~unanswered(answers))
    if drop_missing and len(kept):
        return counting(source, weight, kept)
    kept, weights = counting(source, weight, np.arange(source.rows))
    check_present(source, answers, kept)
    return kept, weights


def _shares(
    source: Source, validation: float | Source, test: float | Source | Fold, ways: Ways
) -> tuple[list[float], dict[str, Source]]:
    """The shares of validation and test to take from the rows, and parts that have their own
    source: of a source that has a test part this goes before a share."""
    test = 0.0 if _fold(test) else test
    given = {"validation": validation, "test": test}
    others = {part: share for part, share in given.items() if isinstance(share, Source)}
    if ways.column and others:
        raise UsageError(
            f"split column {ways.column} and a {listed(others)} source; wanted one of the two"
        )
    if source.test is not None and not ways.column and isinstance(test, float) and test > 0:
        others["test"] = source.test
    shares = [0.0 if part in others else float(given[part]) for part in given]  # type: ignore[arg-type]
    ways.check(source, any(shares) and not ways.column, bool(others))
    return shares, others


def _fold(test: float | Source | Fold) -> Fold | None:
    """The fold that is the test part, if one is."""
    return test if isinstance(test, tuple) else None


def _task(
    source: Source, answers: tuple[Answer, ...], seen: np.ndarray, task: str, transform: str
) -> tuple[str, str, np.ndarray | None]:
    """The task, why, and the classes of the rows `seen`, to split by; checks the transform."""
    chosen = tuple(answer.take(seen) for answer in answers)
    task, reason = choose_task(chosen, task, source.has_codes)
    check_transform(transform, task)
    if transform == "log":
        check_positive(source, answers, seen)
    return task, reason, chosen[0].codes if task in CLASSES else None


def _check_counts(
    source: Source, answers: tuple[Answer, ...], kept: np.ndarray, marked: Parts | None
) -> None:
    """Raise DataError where a row of any part has a target that is no count."""
    used = np.sort(np.concatenate([*marked.rows.values()])) if marked else kept
    for answer in answers:
        check_counts(source, answer, used)


def _fit(
    source: Source,
    inputs: list[str],
    observer: Observer,
    target: Target,
    parts: Parts,
    encoding: Encoding,
    ways: Ways,
    budget: int | None,
) -> tuple[Schema, Mapping[str, Rows], list[str]]:
    """The schema, x of each part, and notes."""
    budget = automatic() if budget is None else budget
    if source.streams:
        outputs = max(len(target.labels), 2 * target.each)
        row = PER_ROW + 4 * max(0, outputs - 2)  # a prediction is in PER_ROW
        row += 0 if target.weight is None else 3 * 8  # as read, of a part, on the device
        check_fits(source.title, source.rows * row, budget, "use fewer rows or fewer classes")
    if source.x is not None:
        dtype, notes = _dtype(source.x)
        schema, x = _fit_arrays(source, target, parts, dtype, encoding.scaling != "none", budget)
        return schema, _settled(x, budget), notes + formula_notes(schema)
    columns, cells, notes = _fit_columns(source, inputs, observer, parts.train, encoding)
    width = Layout.of(columns).width
    schema = Schema("table", tuple(columns), target, width, na=source.na, decimal=source.decimal)
    schema = replace(schema, group=ways.group, time=ways.time)
    notes += formula_notes(schema)
    if source.streams or 4 * width * source.rows > budget:
        return schema, _settled(schema.spool(source, parts.used)[0], budget), notes
    writers = [column.writer(each) for column, each in zip(columns, cells, strict=True)]
    x = {
        part: encode_cells(columns, writers, rows, len(rows))[0]
        for part, rows in parts.used.items()
    }
    return schema, x, notes


def _settled(x: Mapping[str, Rows], budget: int) -> dict[str, Rows]:
    """Training rows that fit into half of the memory are read into it after all."""
    fits = isinstance(x["train"], RowFile) and x["train"].nbytes <= budget // 2
    return {**x, "train": x["train"][:] if fits else x["train"]}


def _fit_columns(
    source: Source,
    inputs: list[str],
    observer: Observer,
    train: np.ndarray,
    encoding: Encoding,
) -> tuple[list[Column], list[Cells], list[str]]:
    """The columns, notes, and the cells where they are in memory anyway."""
    columns, cells, dropped, notes = [], [], {}, []
    for name in inputs:
        read = observer.read(source, name)
        column, note = fit(name, read, train, encoding)
        own = [note] if note and column else []
        if encoding.rough and column is not None and column.kind == "numeric":
            column = replace(column, values=observer.own_values(read))
            if column.values:
                own.append(
                    f"{name}: neighbouring values differ by more than chance: the "
                    f"{len(column.values)} that recur have an embedding"
                )
        notes += observer.note(name, read, own, is_left_out=column is None)
        if column is None:
            dropped[name] = note
            continue
        columns.append(column)
        if not source.streams:
            cells.append(read)
    notes = [*left_out_notes(dropped), *notes]
    if not columns:
        raise DataError(f"{source.title}: no column is left to learn from ({'; '.join(notes)})")
    return thinned(columns, len(train), encoding.bins), cells, notes


def _dtype(x: Rows) -> tuple[str, list[str]]:
    """What arrays are learnt from as, and a note where that loses digits: whole numbers but for
    bytes are float32 where that has all of their digits, else float64."""
    if str(x.dtype) in DTYPES:
        return str(x.dtype), []
    ends = (end for _, part in blocks(x) for end in (part.min(), part.max()))
    largest = max(abs(int(end)) for end in ends)
    notes = [f"x: {LOST_DIGITS}"] if largest > EXACT else []
    return "float64" if largest > EXACT_SINGLE else "float32", notes


def _fit_arrays(
    source: Source, target: Target, parts: Parts, dtype: str, standardise: bool, budget: int
) -> tuple[Schema, Mapping[str, Rows]]:
    assert source.x is not None
    used, width = parts.used, math.prod(source.x.shape[1:])
    plain = Schema("arrays", (), target, width, dtype)
    if isinstance(source.x, RowFile) or source.x.nbytes > budget:
        x: Mapping[str, Rows] = plain.spool(source, used)[0]
    else:
        whole = len(parts.train) == len(source.x)
        x = {part: flat(source.x, dtype, None if whole else rows) for part, rows in used.items()}
    if not standardise:
        return plain, x
    means, stds = byte_moments(x["train"]) if dtype == "uint8" else column_moments(x["train"])
    means, stds = np.broadcast_to(means, width), np.broadcast_to(stds, width)
    scale = np.divide(1.0, stds, out=np.zeros(width), where=stds > TINY)
    shift = -means * scale
    for numbers in (scale, shift):
        numbers.flags.writeable = False
    return replace(plain, scale=scale, shift=shift), x


def _own_parts(
    schema: Schema,
    source: Source,
    answers: tuple[Answer, ...],
    weights: np.ndarray | None,
    parts: Parts,
    x: Mapping[str, Rows],
) -> dict[str, Dataset]:
    """The parts that are rows of the source."""
    return {
        part: _dataset(schema, source, answers, weights, rows, x[part])
        for part, rows in parts.used.items()
    }


def _dataset(
    schema: Schema,
    source: Source,
    answers: tuple[Answer, ...],
    weights: np.ndarray | None,
    rows: np.ndarray,
    x: Rows,
) -> Dataset:
    """Some rows of a source, encoded as x, with their targets and weights as they were given."""
    y = encode_answers(schema.target, source, answers, rows, schema.target_dtype)
    weight = None if weights is None else weights[rows]
    return Dataset(x, y, weight, cluster=schema.clusters(source, rows))


def _three(held: Mapping[str, Dataset]) -> tuple[Dataset, Dataset | None, Dataset | None]:
    return held["train"], held.get("validation"), held.get("test")


def _others(schema: Schema, others: Mapping[str, Source], drop_missing: bool) -> dict[str, Dataset]:
    """The parts that have a source of their own."""
    held, target = {}, schema.target
    for part, source in others.items():
        with _naming(part):
            if source.table is not None:
                check_columns(source, [*target.names, *filter(None, [target.weight])])
            answers = read_answers(source, target.names, target.task in CLASSES)
            kept, weights = _kept(source, answers, drop_missing, target.weight)
            x, _ = schema.encode_rows(source, kept)
            held[part] = _dataset(schema, source, answers, weights, kept, x)
    return held


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """A DataError of a part that has a source of its own names it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{part} part: {error.message}", error.hint) from None


def _weigh(
    held: dict[str, Dataset], schema: Schema, class_weight: tuple[str, ...]
) -> tuple[Schema, dict[str, Dataset]]:
    """The parts with weights of mean 1, and for the loss the rows' times their classes', these
    found in the training part alone and kept in the schema."""
    target = schema.target
    held = {
        part: data
        if data.sample_weight is None
        else replace(data, sample_weight=scaled(data.sample_weight))
        for part, data in held.items()
    }
    if not class_weight:
        alike = {part: replace(data, weight=data.sample_weight) for part, data in held.items()}
        return schema, alike
    if target.task not in CLASSES:
        raise UsageError(f"--class-weight has no meaning for a {target.task} target")
    codes = {part: np.asarray(data.y, np.int64).ravel() for part, data in held.items()}
    factors = class_factors(class_weight, target, codes["train"], held["train"].sample_weight)
    result = {}
    for part, data in held.items():
        own = 1.0 if data.sample_weight is None else data.sample_weight
        result[part] = replace(data, weight=scaled(factors[codes[part]] * own))
    return replace(schema, target=replace(target, factors=tuple(factors.tolist()))), result
