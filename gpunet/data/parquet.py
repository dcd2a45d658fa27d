"""Parquet files and Arrow tables: only columns of plain types, checked before and after reading.

Refuses nested and binary columns, pages with a wrong checksum, and files larger than memory.
"""

import json
from typing import TYPE_CHECKING

from gpunet.data.files import FEWER, Bytes
from gpunet.data.limits import check_fits
from gpunet.data.source import MAX_ROWS, Source, check_names
from gpunet.data.words import listed
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(data: Bytes, name: str, budget: int) -> Source:
    """A typed table; raises DataError for anything that is damaged or not plain, and OutOfMemory
    for what would take more than `budget` bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(
            pa.BufferReader(data),
            page_checksum_verification=True,
            thrift_string_size_limit=16 << 20,
            thrift_container_size_limit=1 << 20,
        )
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise _damaged(name, error) from None
    check_names(schema.names, name)
    _check_types(schema, name)
    _check_size(file.metadata, schema, name, budget)
    try:
        table = file.read()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise _damaged(name, error) from None
    return from_table(table, name)


def from_table(table: "pa.Table", name: str) -> Source:
    """A Source of an Arrow table; a pandas index is left out, with a note if it was in a file."""
    check_names(table.column_names, name)
    _check_types(table.schema, name)
    table, notes = _without_index(table, name)
    if table.num_rows == 0:
        raise DataError(f"{name}: no rows")
    if table.num_columns == 0:
        raise DataError(f"{name}: no columns")
    return Source(name, table, notes=notes)


def _damaged(name: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{name}: not a whole Parquet file ({reason[:200]})")


def _check_types(schema: "pa.Schema", name: str) -> None:
    import pyarrow as pa

    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not _is_plain(kind):
            raise DataError(
                f"{name}: column {field.name} is of type {str(field.type)[:60]}; "
                "wanted numbers, text, booleans or dates"
            )


def _is_plain(kind: "pa.DataType") -> bool:
    from pyarrow import types

    is_view = getattr(types, "is_string_view", lambda _: False)(kind)
    is_text = types.is_string(kind) or types.is_large_string(kind) or is_view
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal128(kind)
    is_day = types.is_date(kind) or types.is_timestamp(kind)
    return is_text or is_number or is_day or types.is_boolean(kind) or types.is_null(kind)


def _check_size(
    metadata: "pa.parquet.FileMetaData", schema: "pa.Schema", name: str, budget: int
) -> None:
    groups = range(metadata.num_row_groups)
    unpacked = sum(metadata.row_group(i).total_byte_size for i in groups)
    cells = metadata.num_rows * len(schema.names) * 8
    what = f"{name}, {metadata.num_rows:,} rows of {len(schema.names):,} columns"
    if metadata.num_rows > MAX_ROWS:
        raise DataError(f"{what}; the limit is {MAX_ROWS:,} rows")
    check_fits(what, max(unpacked, cells), budget, FEWER)


def _without_index(table: "pa.Table", name: str) -> tuple["pa.Table", tuple[str, ...]]:
    try:
        index = list(json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return table, ()
    kept = [title for title in index if isinstance(title, str) and title in table.column_names]
    if not kept:
        return table, ()
    return table.drop_columns(kept), (f"{name}: left the pandas index out: {listed(kept)}",)
