"""Objects in memory as a Source: tables of any library, dicts of columns, arrays on any device.

Refuses what holds no columns in order, and columns that are not of one type throughout.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.data.arrays import from_arrays
from gpunet.data.parquet import from_table
from gpunet.data.source import Source, check_names
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TOO_LONG, AS_TEXT = "whole numbers of more than 64 bits", "give their column as text, or as floats"


def from_object(data: object) -> Source:
    """A Source of a table, a dict of columns, an array x, or a tuple: (x, y), or a table and y.

    Raises TypeError for what is none of these.
    """
    if isinstance(data, Mapping) or hasattr(data, "__arrow_c_stream__"):
        return _read_table(data)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise TypeError(f"a tuple of {len(data)}; wanted (x, y)")
        if isinstance(data[0], Mapping) or _is_frame(data[0]):
            return _with_target(_read_table(data[0]), data[1])
        return from_arrays("data", _array(data[0]), _array(data[1]))
    return from_arrays("data", _array(data))


def _is_frame(data: object) -> bool:
    """Whether an object with an Arrow stream is a table, and no column of one."""
    return hasattr(data, "__arrow_c_stream__") and hasattr(data, "columns")


def _read_table(data: Any) -> Source:
    return _read_columns(data.items()) if isinstance(data, Mapping) else _read_stream(data)


def _with_target(source: Source, y: Any) -> Source:
    """A table whose last columns are the targets: y, or y1, y2, … of several."""
    import pyarrow as pa

    whole: Any = source.table
    columns = _side_by_side(_host(y))
    each = tuple(f"y{i + 1}" for i in range(len(columns)))
    names = ("y",) if len(columns) == 1 else each
    targets = {}
    for name, values in zip(names, columns, strict=True):
        if name in (*source.columns, *source.unfit):
            hint = f"rename it, or give x alone with target={name!r}"
            raise DataError(f"data: x has a column {name}, as the target is called", hint)
        _check_several(name, values)
        try:
            targets[name] = _column(values)
        except ValueError as reason:
            raise DataError(f"{name}: {reason}") from None
        if len(targets[name]) != len(whole):
            raise DataError(f"data: x has {len(whole):,} rows, y has {len(targets[name]):,}")
    beside: Any = from_table(pa.table(targets), "data")
    for message in beside.unfit.values():
        raise DataError(message)
    for name in targets:
        whole = whole.append_column(name, beside.table.column(name))
    return replace(source, table=whole, target=names)


def _side_by_side(y: Any) -> list[Any]:
    with suppress(ValueError):  # lists of several lengths are no columns
        if np.ndim(y) == 2:
            return list(np.transpose(y.to_numpy() if hasattr(y, "to_numpy") else y))
    return [y]


def _read_stream(data: Any) -> Source:
    """A table of an object; column by column where one of a frame's is no column of Arrow's."""
    import pyarrow as pa

    try:
        table = data if isinstance(data, pa.Table) else pa.table(data)
    except (OverflowError, pa.ArrowException, ValueError, TypeError) as error:
        if _is_frame(data):
            return _read_columns((name, data[name]) for name in data.columns)
        if hasattr(data, "__array__"):  # a column of a frame
            return from_arrays("data", _array(data))
        raise DataError(f"data: not a table of plain columns ({error})") from None
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"data: not a table of plain columns ({error})") from None
    return from_table(table, "data")


def _read_columns(data: Iterable[tuple[object, Any]]) -> Source:
    import pyarrow as pa

    data = list(data)
    check_names([str(name) for name, _ in data], "data")
    columns, unfit = {}, {}
    for name, values in data:
        _check_several(name, values)
        try:
            columns[str(name)] = _column(values)
        except ValueError as reason:
            unfit[str(name)] = f"{name}: {reason}"
    if unfit and not columns:
        raise DataError(next(iter(unfit.values())))
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length:,}" for name, length in list(lengths.items())[:10])
        raise DataError(f"data: columns of different lengths: {shown}")
    source = from_table(pa.table(columns), "data")
    return replace(source, unfit={**unfit, **source.unfit})


def _check_several(name: object, values: object) -> None:
    if isinstance(values, (Mapping, set, frozenset)):
        hint = "give a list; a frame as it is, or its to_dict('list')"
        kind = type(values).__name__
        raise DataError(f"{name}: a {kind}; wanted a column of values in order", hint)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise DataError(f"{name}: a single value; wanted a column, as [{values!r}]")


def _column(values: Any) -> "pa.Array":
    """A column of values; ValueError says why they are none."""
    import pyarrow as pa

    values = _host(values)
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise ValueError(f"has the shape {values.shape}; wanted one dimension")
        if values.dtype.kind == "T":
            values = values.astype(object)
        kind = np.dtype(np.float64) if values.dtype.char == "g" else values.dtype
        values = values.astype(kind.newbyteorder("="), copy=False)
    elif isinstance(values, Iterator):
        values = list(values)
    try:
        return pa.array(values, from_pandas=True)
    except OverflowError:
        raise ValueError(f"{TOO_LONG}; {AS_TEXT}") from None
    except pa.ArrowNotImplementedError:
        kind = getattr(values, "dtype", "unknown")
        raise ValueError(f"of type {kind}; wanted numbers, text, booleans or dates") from None
    except (pa.ArrowException, ValueError, TypeError) as reason:
        raise ValueError(f"not one type throughout ({reason})") from None


def _array(data: object) -> np.ndarray:
    data = _host(data)
    if np.ma.is_masked(data):
        raise DataError("data: an array with masked values", "fill them: array.filled(…)")
    if hasattr(data, "__dlpack__") and not hasattr(data, "__array__"):
        return np.from_dlpack(data)
    if hasattr(data, "__array__"):
        return np.asarray(data)
    if isinstance(data, list):
        try:
            return np.asarray(data)
        except ValueError:
            hint = "x and y are given as a tuple: (x, y)"
            raise DataError("data: a list of parts of different shapes", hint) from None
    if hasattr(data, "toarray"):
        said = f"data: a sparse {type(data).__name__}; wanted an array with every value"
        raise DataError(said, "give data.toarray(), where memory holds it")
    raise TypeError(f"cannot read data from {type(data).__name__}")


def _host(data: Any) -> Any:
    """An array in device memory comes to the host by its own `get`, as CuPy's do."""
    return data.get() if hasattr(data, "get") and hasattr(data, "__dlpack__") else data
