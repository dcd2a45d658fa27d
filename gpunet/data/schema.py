"""How data become a network's inputs and targets: fitted on training rows, saved with the model.

Matches columns by name, never by place. Refuses a saved schema with anything unexpected in it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain, pairwise, repeat
from typing import Any

import numpy as np

from gpunet.commas import split
from gpunet.data.cells import read_cells
from gpunet.data.columns import (
    KINDS,
    MOST_CODES,
    MOST_KNOTS,
    MOST_LEVELS,
    NUMBERS,
    Column,
    Writer,
)
from gpunet.data.rows import RowFile, Rows
from gpunet.data.source import Source
from gpunet.data.stream import spool
from gpunet.data.targets import (
    CLASSES,
    TASKS,
    TRANSFORMS,
    Answer,
    Target,
    check_present,
    decode_answers,
    decode_values,
    encode_answers,
    read_answers,
    unanswered,
)
from gpunet.data.unseen import Unseen
from gpunet.data.weights import counting, read_weights, scaled
from gpunet.data.words import HEADERLESS, closest, like_data, listed, option
from gpunet.errors import DataError, ModelInvalid
from gpunet.sizes import counted

VERSION = 4
DTYPES = ("uint8", "float32", "float64")
LIMIT = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Layout:
    """What x's columns are, from the left: `numeric` numbers (years and days among them), `plain`
    other ones (booleans, one-hot, cycles, indicators), and for each coded column one with row
    numbers of its embedding, which has as many rows as `codes` says. `knots`: where the bins of
    each of the numbers meet; () if none has any."""

    numeric: int
    plain: int
    codes: tuple[int, ...]
    knots: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, columns: Iterable[Column]) -> "Layout":
        """The layout of a table's columns."""
        columns = tuple(columns)
        codes = tuple(column.codes for column in columns if column.widths[2])
        numeric, plain = (sum(column.widths[i] for column in columns) for i in range(2))
        each = (column.knots or ((),) * column.widths[0] for column in columns)
        knots = tuple(chain.from_iterable(each))
        return cls(numeric, plain, codes, knots if any(knots) else ())

    @property
    def width(self) -> int:
        """The number of x's columns."""
        return self.numeric + self.plain + len(self.codes)

    @property
    def bins(self) -> int:
        """The bins of all numbers."""
        return sum(max(0, len(each) - 1) for each in self.knots)


@dataclass(frozen=True, eq=False)
class Schema:
    """What a network was trained on, and how to turn more of it into x and y.

    Of tables: `columns`, encoded as float32. Of arrays: `dtype`, `scale` and `shift` (width,)
    float64, by which the network takes x * scale + shift; None leaves x as it is.
    `na`, `decimal`: how text is read, as in a Source.
    """

    kind: str
    columns: tuple[Column, ...]
    target: Target
    width: int
    dtype: str = "float32"
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    na: tuple[str, ...] = ()
    decimal: str | None = None

    @property
    def layout(self) -> Layout:
        """What x's columns are; of arrays all are plain."""
        return Layout.of(self.columns) if self.kind == "table" else Layout(0, self.width, ())

    @property
    def owners(self) -> tuple[Column, ...]:
        """What column each of x's columns was made of; () of arrays."""
        runs = (repeat(each, each.widths[part]) for part in range(3) for each in self.columns)
        return tuple(chain.from_iterable(runs))

    def encode(self, source: Source) -> tuple[Rows, Unseen]:
        """x (n, width) of a source, and what of it training never saw.

        Of a source that streams x lies in a spool. Raises DataError when columns are missing or
        hold another type than in training.
        """
        self._check_kind(source)
        source = self.read_so(source)
        if source.streams:
            parts, unseen = self.spool(source, {"all": np.arange(source.rows)})
            return parts["all"], unseen
        if self.kind == "arrays":
            return self._flat(source), Unseen(source.rows)
        check_columns(source, [column.name for column in self.columns])
        writers = (
            column.writer(read_cells(source, column.name, column.cell_kind))
            for column in self.columns
        )
        return encode_cells(self.columns, writers, slice(None), source.rows)

    def encode_rows(self, source: Source, rows: np.ndarray | None) -> tuple[Rows, Unseen]:
        """As `encode`, of some rows (ascending numbers), or of all for None; of a source that
        streams what training never saw is counted in all rows."""
        if rows is None or len(rows) == source.rows:
            return self.encode(source)
        if not source.streams:
            return self.encode(source.take(rows))
        found, unseen = self.spool(source, {"some": rows})
        return found["some"], unseen

    def spool(
        self, source: Source, parts: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, RowFile], Unseen]:
        """x of each part (ascending row numbers), in a spool unless it lies in one file as it is;
        and what of all rows training never saw."""
        whole = all(len(rows) == source.rows for rows in parts.values())
        if isinstance(source.x, RowFile) and whole and self._takes(source.x):
            return dict.fromkeys(parts, source.x.flat()), Unseen(source.rows)
        unseen = Unseen()

        def encode(piece: Source) -> np.ndarray:
            nonlocal unseen
            x, new = self.encode(piece)
            unseen += new
            return np.asarray(x)

        names = [column.name for column in self.columns]
        if source.table is not None:
            check_columns(source, names)
        return spool(source, names, parts, self.width, self.dtype, encode), unseen

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Rows x (n, width) as the network takes them, float64."""
        x = np.asarray(x, np.float64)
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift

    def encode_target(self, source: Source, rows: np.ndarray | None = None) -> np.ndarray:
        """y of some rows, or of all, as `Dataset.y` has it; raises DataError for gaps, unknown
        labels, no target at all."""
        answers = self._answers(source)
        if rows is None:
            rows = np.arange(source.rows)
            check_present(source, answers, rows)
        return encode_answers(self.target, source, answers, rows, self.target_dtype)

    def answered(self, source: Source) -> np.ndarray:
        """The rows (ascending numbers) that have the target; raises DataError where none has."""
        answers = self._answers(source)
        kept = np.flatnonzero(~unanswered(answers))
        if not len(kept):
            raise DataError(f"{source.title}: no row has all of {listed(self.target.names)}")
        return kept

    def _answers(self, source: Source) -> tuple[Answer, ...]:
        if source.table is not None:
            check_columns(source, self.target.names)
        source = self.read_so(source)
        answers = read_answers(source, self.target.names, self.target.task in CLASSES)
        for answer in answers:
            if answer.missing.all():
                said = f"{source.title}: {answer.name} has no value in any row"
                raise DataError(said, "gpunet predict needs none")
        return answers

    def counting(self, source: Source, rows: np.ndarray) -> np.ndarray:
        """Of some rows those that have a weight above 0, or all where training had no weights."""
        return counting(self.read_so(source), self.target.weight, rows)[0]

    def encode_weight(self, source: Source, rows: np.ndarray, part: str) -> np.ndarray | None:
        """The weights (n,) of some rows, of mean 1; None where training had none.

        Raises DataError, which names the `part`, for weights that are missing, negative or all 0.
        """
        name = self.target.weight
        if name is None:
            return None
        check_columns(source, [name])
        weights = read_weights(self.read_so(source), name, rows)[rows]
        if not weights.any():
            raise DataError(f"{name}: every weight of the {part} part is 0; no row counts")
        return scaled(weights)

    def decode(self, output: np.ndarray) -> np.ndarray:
        """Regression outputs (n, k) in the target's own units, float64, within its limits."""
        return decode_values(self.target, output)

    def decode_target(self, y: np.ndarray) -> np.ndarray:
        """Encoded regression targets (n, k) in their own units, float64."""
        return decode_answers(self.target, y)

    @property
    def target_dtype(self) -> np.dtype:
        """Regression targets are float64 where x is, else float32."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def read_so(self, source: Source) -> Source:
        """A source with the words for missing and the decimal mark of training."""
        return replace(source, na=self.na, decimal=self.decimal)

    def _check_kind(self, source: Source) -> None:
        if self.kind == "table" and source.table is None:
            message = f"{source.title}: holds arrays; wanted a table with named columns"
            raise DataError(message, "one row of a frame is a table as frame.iloc[[0]]")
        if self.kind == "arrays" and source.x is None:
            wanted = f"wanted arrays with {self.width:,} features"
            raise DataError(f"{source.title}: a table; {wanted}", "give its values: x.to_numpy()")

    def _takes(self, x: RowFile) -> bool:
        return str(x.dtype) == self.dtype and x.size == len(x) * self.width

    def _flat(self, source: Source) -> np.ndarray:
        assert isinstance(source.x, np.ndarray)
        x = source.x.reshape(len(source.x), -1)
        if x.shape[1] != self.width:
            raise DataError(
                f"{source.title}: {counted(x.shape[1], 'feature')} a row; wanted {self.width:,}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            same = flat(x, self.dtype)
        exact = same.dtype.kind == "u" and x.dtype != same.dtype
        if (exact and not np.array_equal(same, x)) or not np.isfinite(same).all():
            raise DataError(
                f"{source.title}: x is {source.x.dtype} and does not fit {self.dtype}, which the "
                "network was trained on"
            )
        return same

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; floats survive JSON exactly."""
        saved = {
            "version": VERSION,
            "kind": self.kind,
            "columns": [_plain(asdict(column)) for column in self.columns],
            "target": _plain(asdict(self.target)),
            "width": self.width,
            "dtype": self.dtype,
            "scale": None if self.scale is None else self.scale.tolist(),
            "shift": None if self.shift is None else self.shift.tolist(),
            "na": list(self.na),
        }
        return saved if self.decimal is None else {**saved, "decimal": self.decimal}

    @classmethod
    def from_dict(cls, saved: object) -> "Schema":
        """A schema from `to_dict`; raises ModelInvalid at anything unexpected."""
        return _schema(saved)


def check_columns(source: Source, names: Sequence[str], flag: str = "") -> None:
    """Raise DataError naming all columns that a table lacks, and what comes near them, or one that
    cannot be learnt from; `flag` is the option with commas that named them."""
    if flag != "--drop" and (unfit := [name for name in names if name in source.unfit]):
        raise DataError(source.unfit[unfit[0]])
    have = [*source.columns, *source.unfit]
    known = set(have)
    lacking = [name for name in names if name not in known]
    if not lacking:
        return
    spare = [name for name in have if name not in set(names)]
    hints = [_in_quotes(names, have, flag) or closest(lacking[:3], spare)]
    if source.text and len(lacking) == len(names) and like_data(have):
        hints.append(HEADERLESS)
    raise DataError(
        f"{source.title}: no column {listed(lacking)}"
        if len(lacking) == 1
        else f"{source.title}: {counted(len(lacking), 'column')} missing: {listed(lacking)}",
        "; ".join(dict.fromkeys(filter(None, hints))) or f"the columns are {listed(have)}",
    )


def _in_quotes(names: Sequence[str], have: Sequence[str], flag: str) -> str | None:
    """A hint where names in a row are parts of one that has a comma."""
    for name in have if flag else ():
        parts = split(name)
        places = range(len(names) - len(parts) + 1) if len(parts) > 1 else ()
        if any(tuple(names[i : i + len(parts)]) == parts for i in places):
            return f"write it in quotes: {option(flag, name)}"
    return None


def encode_cells(
    columns: Iterable[Column], writers: Iterable[Writer], rows: np.ndarray | slice, count: int
) -> tuple[np.ndarray, Unseen]:
    """x (count, d) float32 of `rows`, laid out as Layout says, and what training never saw."""
    columns = tuple(columns)
    layout = Layout.of(columns)
    x = np.empty((count, layout.width), np.float32)
    unseen, at = Unseen(count), [0, layout.numeric, layout.numeric + layout.plain]
    for column, write in zip(columns, writers, strict=True):
        ends = [first + width for first, width in zip(at, column.widths, strict=True)]
        views = [x[:, first:end] for first, end in zip(at, ends, strict=True)]
        found, at = write(rows, views), ends
        for what, cells in found.items():
            if cells:
                getattr(unseen, what)[column.name] = cells
    return x, unseen


def flat(x: np.ndarray, dtype: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Arrays (n, …) as (n, d) of `dtype`."""
    x = x.reshape(len(x), -1)
    return np.ascontiguousarray(x if rows is None else x[rows], dtype)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _lists(value) for key, value in values.items()}


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def _schema(saved: object) -> Schema:
    names = ("version", *(field.name for field in fields(Schema)))
    saved = {"decimal": None, **saved} if isinstance(saved, dict) else saved
    parts = _record(saved, names, "schema")
    if parts.pop("version") != VERSION:
        raise ModelInvalid(f"the schema is not of version {VERSION}")
    columns = tuple(_column(item) for item in _sequence(parts["columns"], "columns"))
    target = _target(parts["target"])
    titles = [column.name for column in columns] + list(target.names)
    titles += [] if target.weight is None else [target.weight]
    _need(len(set(titles)) == len(titles), "column names")
    width, is_table = parts["width"], parts["kind"] == "table"
    _need(parts["kind"] in ("table", "arrays") and parts["dtype"] in DTYPES, "kind")
    _need(type(width) is int and 0 < width < 1 << 31, "width")
    _need(is_table == bool(columns), "columns")
    _need((parts["scale"] is None) == (parts["shift"] is None), "scale")
    if is_table:
        _need(parts["dtype"] == "float32" and parts["scale"] is None, "dtype")
        _need(width == Layout.of(columns).width, "width")
    scale, shift = (_affine(parts[key], width, key) for key in ("scale", "shift"))
    na = tuple(_text(word, "na") for word in _sequence(parts["na"], "na"))
    _need(is_table or not na, "na")
    decimal = parts["decimal"]
    _need(decimal in (None, ",", ".") and (is_table or not decimal), "decimal")
    return Schema(parts["kind"], columns, target, width, parts["dtype"], scale, shift, na, decimal)


def _affine(values: object, width: int, what: str) -> np.ndarray | None:
    if values is None:
        return None
    numbers = np.array(_numbers(values, width, what))
    numbers.flags.writeable = False
    return numbers


def _column(saved: object) -> Column:
    saved = {"ends": [], **saved} if isinstance(saved, dict) else saved
    parts = _record(saved, [field.name for field in fields(Column)], "column")
    kind = _text(parts["kind"], "kind")
    _need(kind in KINDS, "kind")
    levels = tuple(_text(level, "levels") for level in _sequence(parts["levels"], "levels"))
    _need((kind == "category") == bool(levels), "levels")
    flags = {name: parts[name] for name in ("missing", "rare", "robust", "coded")}
    _need(all(type(value) is bool for value in flags.values()), "missing")
    can_be = {"category": (False, True), "hashed": (True,)}.get(kind, (False,))
    _need(flags["coded"] in can_be and not (flags["coded"] and flags["robust"]), "coded")
    most = MOST_CODES if flags["coded"] else MOST_LEVELS
    _need(len(set(levels)) == len(levels) <= most, "levels")
    fill = _numbers([parts["fill"]], 1, "fill")[0]
    values = _numbers(parts["values"], len(_sequence(parts["values"], "values")), "values")
    _need(not values or (kind == "numeric" and len(values) < MOST_CODES), "values")
    _need(all(abs(v) <= LIMIT and float(np.float32(v)) == v for v in values), "values")
    _need(all(a < b for a, b in pairwise(values)), "values")
    ends = _numbers(parts["ends"], len(_sequence(parts["ends"], "ends")), "ends")
    _need(not ends or (kind in NUMBERS and len(ends) == 2 and ends[0] < ends[1]), "ends")
    column = Column(_text(parts["name"], "name"), kind, fill=fill, levels=levels, **flags)
    column = replace(column, values=values, ends=ends)
    return replace(
        column,
        centre=_numbers(parts["centre"], column.scales, "centre"),
        spread=_numbers(parts["spread"], column.scales, "spread", least=0.0),
        knots=_knots(parts["knots"], column.widths[0]),
    )


def _knots(saved: object, numbers: int) -> tuple[tuple[float, ...], ...]:
    found = _sequence(saved, "knots")
    _need(len(found) in (0, numbers), "knots")
    knots = tuple(_numbers(each, len(_sequence(each, "knots")), "knots") for each in found)
    _need(all(len(each) <= MOST_KNOTS for each in knots), "knots")
    _need(all(a < b for each in knots for a, b in pairwise(each)), "knots")
    return knots


def _target(saved: object) -> Target:
    parts = _record(saved, [field.name for field in fields(Target)], "target")
    names = tuple(_text(name, "target") for name in _sequence(parts["names"], "names"))
    task, labels = _text(parts["task"], "task"), tuple(_sequence(parts["labels"], "labels"))
    _need(task in TASKS and len(names) > 0, "task")
    kinds = {type(label) for label in labels}
    _need(len(kinds) <= 1 and kinds <= {str, int, bool}, "labels")
    _need(len(set(labels)) == len(labels), "labels")
    if task in CLASSES:
        _need(len(names) == 1 and len(labels) >= 2, "labels")
        _need(task == "multiclass" or len(labels) == 2, "labels")
    else:
        _need(not labels, "labels")
    mean = _numbers(parts["mean"], len(names), "mean")
    std = _numbers(parts["std"], len(names), "std", least=5e-324)
    clamps = task == "regression" and parts["low"] != []
    low, high = (_numbers(parts[key], len(names) * clamps, key) for key in ("low", "high"))
    _need(all(a <= b for a, b in zip(low, high, strict=True)), "low")
    reason, transform = _text(parts["reason"], "reason"), _text(parts["transform"], "transform")
    _need(transform in (TRANSFORMS if task == "regression" else ("none",)), "transform")
    _need(transform == "none" or all(value > 0 for value in low), "low")
    weight = None if parts["weight"] is None else _text(parts["weight"], "weight")
    held = len(_sequence(parts["quantiles"], "quantiles"))
    quantiles = _numbers(parts["quantiles"], held, "quantiles")
    _need(task == "regression" or not quantiles, "quantiles")
    _need(all(a < b for a, b in pairwise((0.0, *quantiles, 1.0))), "quantiles")
    return Target(names, task, labels, mean, std, reason, low, high, transform, weight, quantiles)


def _need(fine: bool, what: str) -> None:
    if not fine:
        raise ModelInvalid(f"the schema's {what} cannot be right")


def _record(saved: object, names: Iterable[str], what: str) -> dict[str, Any]:
    if not isinstance(saved, dict) or set(saved) != set(names):
        raise ModelInvalid(f"the schema's {what} lacks a part or has one too many")
    return dict(saved)


def _sequence(saved: object, what: str) -> list[Any]:
    _need(isinstance(saved, list), what)
    return saved  # type: ignore[return-value]


def _text(saved: object, what: str) -> str:
    _need(type(saved) is str, what)
    return saved  # type: ignore[return-value]


def _numbers(saved: object, count: int, what: str, least: float = -math.inf) -> tuple[float, ...]:
    numbers = _sequence(saved, what)
    _need(len(numbers) == count, what)
    _need(all(type(n) is float and math.isfinite(n) and n >= least for n in numbers), what)
    return tuple(numbers)
