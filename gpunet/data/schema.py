"""How data become a network's inputs and targets: fitted on training rows, saved with the model.

Matches columns by name, never by place. Refuses a saved schema with anything unexpected in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain, repeat
from typing import Any

import numpy as np

from gpunet.commas import split
from gpunet.data.answers import Answer, check_present, read_answers, unanswered
from gpunet.data.cells import read_cells
from gpunet.data.columns import Column, Writer
from gpunet.data.rows import RowFile, Rows
from gpunet.data.saved import (
    column_of,
    floats,
    need,
    plain,
    record,
    sequence,
    target_of,
    text,
    texts,
)
from gpunet.data.source import Source
from gpunet.data.split import clusters
from gpunet.data.stream import spool
from gpunet.data.targets import CLASSES, Target, decode_answers, decode_values, encode_answers
from gpunet.data.unseen import Unseen
from gpunet.data.weights import counting, read_weights, scaled
from gpunet.data.words import HEADERLESS, closest, like_data, listed, option
from gpunet.errors import DataError, ModelInvalid
from gpunet.sizes import counted

VERSION = 4
DTYPES = ("uint8", "float32", "float64")
MORE = ("decimal", "group", "time")
"""What is written down where there is one."""


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
    `na`, `decimal`: how text is read, as in a Source. `group`, `time`: the column whose groups, or
    by whose order, rows were parted.
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
    group: str | None = None
    time: str | None = None

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

    def encode_weight(self, source: Source, rows: np.ndarray) -> np.ndarray | None:
        """The weights (n,) of some rows, of mean 1; None where training had none.

        Raises DataError for weights that are missing, negative or all 0.
        """
        name = self.target.weight
        if name is None:
            return None
        check_columns(source, [name])
        weights = read_weights(self.read_so(source), name, rows)[rows]
        if not weights.any():
            raise DataError(f"{name}: every weight of the whole part is 0; no row counts")
        return scaled(weights)

    def clusters(self, source: Source, rows: np.ndarray) -> np.ndarray | None:
        """Which of some rows are alike because they belong together, as codes (n,): those of a
        group, or of a block of time; None where training had neither, or the source lacks it."""
        name = self.group or self.time
        if name is None or name not in source.columns:
            return None
        with suppress(DataError):
            return clusters(self.read_so(source), self.group, self.time, rows)
        return None

    def clustering(self, count: int | None) -> str:
        """So many clusters in words; of none that these are rows, and why where others could be."""
        noun, name = ("group", self.group) if self.group else ("block", self.time)
        if count is None:
            return "rows" if name is None else f"rows: there is no column {name}"
        return f"{counted(count, noun)} of {name}"

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
            "columns": [plain(column) for column in self.columns],
            "target": plain(self.target),
            "width": self.width,
            "dtype": self.dtype,
            "scale": None if self.scale is None else self.scale.tolist(),
            "shift": None if self.shift is None else self.shift.tolist(),
            "na": list(self.na),
        }
        more = {name: getattr(self, name) for name in MORE}
        return saved | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_dict(cls, saved: object) -> "Schema":
        """A schema from `to_dict`; raises ModelInvalid at anything unexpected."""
        names = ("version", *(field.name for field in fields(cls)))
        saved = {**dict.fromkeys(MORE), **saved} if isinstance(saved, dict) else saved
        parts = record(saved, names, "schema")
        if parts.pop("version") != VERSION:
            raise ModelInvalid(f"the schema is not of version {VERSION}")
        columns = tuple(column_of(item) for item in sequence(parts["columns"], "columns"))
        target = target_of(parts["target"])
        titles = [column.name for column in columns] + list(target.names)
        titles += [] if target.weight is None else [target.weight]
        need(len(set(titles)) == len(titles), "column names")
        width, is_table = parts["width"], parts["kind"] == "table"
        need(parts["kind"] in ("table", "arrays") and parts["dtype"] in DTYPES, "kind")
        need(type(width) is int and 0 < width < 1 << 31, "width")
        need(is_table == bool(columns), "columns")
        need((parts["scale"] is None) == (parts["shift"] is None), "scale")
        if is_table:
            need(parts["dtype"] == "float32" and parts["scale"] is None, "dtype")
            need(width == Layout.of(columns).width, "width")
        scale, shift = (_affine(parts[key], width, key) for key in ("scale", "shift"))
        na = texts(parts["na"], "na")
        need(is_table or not na, "na")
        decimal = parts["decimal"]
        need(decimal in (None, ",", ".") and (is_table or not decimal), "decimal")
        by = [None if parts[name] is None else text(parts[name], name) for name in MORE[1:]]
        need(by == [None, None] or (is_table and None in by), "group")
        dtype = parts["dtype"]
        return cls(parts["kind"], columns, target, width, dtype, scale, shift, na, decimal, *by)


def check_columns(source: Source, names: Sequence[str], flag: str = "") -> None:
    """Raise DataError naming all columns that a table lacks, and what comes near them, or one that
    cannot be learnt from; `flag` is the option with commas that named them."""
    if flag != "--drop" and (unfit := [name for name in names if name in source.unfit]):
        raise DataError(source.unfit[unfit[0]])
    have = [*source.columns, *source.unfit]
    known, asked = set(have), set(names)
    lacking = [name for name in names if name not in known]
    if not lacking:
        return
    spare = [name for name in have if name not in asked]
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


def _affine(values: object, width: int, what: str) -> np.ndarray | None:
    if values is None:
        return None
    numbers = np.array(floats(values, what, width))
    numbers.flags.writeable = False
    return numbers
