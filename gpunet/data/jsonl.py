"""JSON lines: one object a line, as a typed table. Refuses to read nested values and
mixed columns."""

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.files import Bytes, check_text
from gpunet.data.limits import check_fits
from gpunet.data.source import Source, check_names
from gpunet.data.words import quoted
from gpunet.errors import DataError
from gpunet.sizes import shown

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_BYTES = 32  # that reading takes at its peak, for each byte of text
KINDS = {bool: "true or false", int: "a number", float: "a number", str: "text"}


def read_jsonl(data: Bytes, name: str, budget: int) -> Source:
    """A typed table; a key that a line lacks is a missing value there, and so is NaN.

    Raises OutOfMemory when reading would take more than `budget` bytes.
    """
    if data.lstrip()[:1] == b"[":
        raise DataError(f"{name}: a JSON array", "wanted JSON lines: one object a line")
    check_fits(f"{name}, {shown(len(data))} of JSON", TEXT_BYTES * len(data), budget, "use Parquet")
    check_text(data, name)
    rows, lines = [], []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), 1):
        if line and not line.isspace():
            rows.append(_row(line, number, name))
            lines.append(number)
    if not rows:
        raise DataError(f"{name}: no rows, the file is empty")
    table, unfit = _table(rows, lines, name)
    return Source(name, table, lines=np.array(lines), unfit=unfit)


def _row(line: str, number: int, name: str) -> dict[str, object]:
    try:
        row = json.loads(line, object_pairs_hook=_object)
    except _Repeated as error:
        raise DataError(f"{name}: line {number:,} has the key {error} twice") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{name}: line {number:,} is not a JSON object on one line ({error})"
        ) from None
    if not isinstance(row, dict):
        raise DataError(f"{name}: line {number:,} holds {quoted(line)}; wanted a JSON object")
    return row


class _Repeated(Exception):
    pass


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _Repeated(quoted(next(key for key in keys if keys.count(key) > 1)))
    return row


def _table(
    rows: list[dict[str, object]], lines: list[int], name: str
) -> tuple["pa.Table", dict[str, str]]:
    """A table of the columns that hold one plain type, and why others do not."""
    import pyarrow as pa

    names = list(dict.fromkeys(key for row in rows for key in row))
    if not names:
        raise DataError(f"{name}: the objects are empty")
    check_names(names, name)
    columns, unfit = {}, {}
    for key in names:
        try:
            columns[key] = _column(key, [row.get(key) for row in rows], lines)
        except UnicodeEncodeError as error:
            unfit[key] = f"{key}: half of a surrogate pair in the text ({error.reason})"
        except DataError as error:
            unfit[key] = error.message
    if not columns:
        raise DataError(unfit[names[0]])
    return pa.table(columns), unfit


def _column(key: str, values: list[object], lines: list[int]) -> "pa.Array":
    import pyarrow as pa

    types = set(map(type, values)) - {type(None)}
    kinds = {KINDS.get(kind) for kind in types}
    if len(kinds) > 1 or None in kinds:
        odd = _odd(values)
        raise DataError(
            f"{key}: not one type throughout (line {lines[odd]:,}: {quoted(values[odd])})"
            if None not in kinds
            else f"{key}: wanted numbers, text, true or false, null "
            f"(line {lines[odd]:,}: {quoted(json.dumps(values[odd]))})"
        )
    for kind in [pa.float64()] if float in types else [None, pa.decimal128(38)]:
        with suppress(pa.ArrowException, OverflowError):
            return pa.array(values, kind, from_pandas=True)
    return pa.array([None if v is None else float(str(v)) for v in values])


def _odd(values: list[object]) -> int:
    """The first value that is not of the commonest kind."""
    kinds = [KINDS.get(type(value)) for value in values if value is not None]
    if None in kinds:
        nested = (i for i, v in enumerate(values) if v is not None and type(v) not in KINDS)
        return next(nested)
    common = max(sorted(set(kinds)), key=kinds.count)  # type: ignore[type-var]
    return next(i for i, v in enumerate(values) if v is not None and KINDS.get(type(v)) != common)
