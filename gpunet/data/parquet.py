"""Parquet files and Arrow tables: only columns of plain types, checked before and after reading.

A file larger than memory is a table that is read a column, or a few rows, at a time. Refuses to
read nested and binary columns, and pages with a wrong checksum.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from gpunet.data.cells import is_text, is_view
from gpunet.data.files import Bytes
from gpunet.data.limits import check_fits
from gpunet.data.rows import PER_PLACED_ROW, PER_ROW
from gpunet.data.source import MAX_ROWS, Source, check_names
from gpunet.data.words import listed
from gpunet.errors import DataError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

PAGES = 4 << 20
"""Bytes that a column takes while its rows are read in order: a dictionary and a page or two."""
BUFFER = 1 << 16
VETTED = 1 << 26
"""Bytes of cells that are decoded at a time only to see whether they can be."""
TEXT_COPIES, PER_TEXT, LEAST_TEXT = 3, 220, 5
"""Of a text column while its distinct texts are found: copies of it, bytes for each text beside
them, and the bytes that a file spends on a text at least."""


class ParquetTable:
    """A Parquet file as a table that is read a column, or a few rows, at a time.

    Whole columns of texts come as dictionaries. Every read raises DataError for what is damaged.
    """

    def __init__(self, path: str, name: str, columns: list[str]) -> None:
        self.name, self.column_names = name, columns
        self.file = _open(path, name, BUFFER)
        schema = self.file.schema_arrow
        self.texts = [title for title in columns if is_text(schema.field(title).type)]
        self.encoded = _open(path, name, BUFFER, self.texts)

    @property
    def num_rows(self) -> int:
        return int(self.file.metadata.num_rows)

    def column(self, name: str) -> "pa.ChunkedArray":
        """All of one column."""
        _release()
        with _reading(self.name):
            table = self.encoded.read(columns=[name], use_threads=False)
            return _without_views(_checked(table)).column(name)

    def tables(self, names: list[str], size: int) -> Iterator["pa.Table"]:
        """The rows in order, `size` at a time, with the columns `names`."""
        import pyarrow as pa

        _release()
        batches = self.file.iter_batches(size, columns=names, use_threads=False)
        while True:
            with _reading(self.name):
                if (batch := next(batches, None)) is None:
                    break
                table = _checked(pa.Table.from_batches([batch]))
            yield _without_views(table.select(names))
        _release()

    def vet(self) -> None:
        """Decode every page once, in each way that it will be, and keep nothing."""
        for name in self.texts:
            self.column(name)
        for _ in self.tables(self.column_names, max(1, VETTED // (16 * len(self.column_names)))):
            pass

    @cached_property
    def _sizes(self) -> dict[str, list[int]]:
        """Bytes of each column in each row group."""
        metadata, used = self.file.metadata, set(self.column_names)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        paths = [self.file.schema.column(j).path for j in range(metadata.num_columns)]
        return {
            path: [group.column(j).total_uncompressed_size for group in groups]
            for j, path in enumerate(paths)
            if path in used
        }

    @property
    def pages(self) -> int:
        """Bytes that the columns take side by side while the rows are read in order."""
        return sum(min(PAGES, 2 * max(sizes)) for sizes in self._sizes.values())

    @property
    def need(self) -> int:
        """Bytes that streaming it takes at its peak, beside windows of rows."""
        largest = max((sum(self._sizes[title]) for title in self.texts), default=0)
        distinct = min(self.num_rows, largest // LEAST_TEXT) * PER_TEXT
        fitting = self.num_rows * PER_ROW + TEXT_COPIES * largest + distinct
        return int(max(fitting, self.num_rows * PER_PLACED_ROW + self.pages))


def read_parquet(data: Bytes, name: str, budget: int) -> Source:
    """A typed table; raises DataError for anything that is damaged or not plain, and OutOfMemory
    for a table that needs more than `budget` bytes."""
    import pyarrow as pa

    file = _open(pa.BufferReader(data), name)
    check_fits(name, _unpacked(file), budget, "name a file: it is read bit by bit")
    unfit = _unfit(file.schema_arrow, name)
    aside = _aside(file.schema_arrow, unfit)
    names = [title for title in file.schema_arrow.names if title not in unfit or title in aside]
    with _reading(name):
        table = _checked(file.read(columns=names).select(names) if unfit else file.read())
    return replace(from_table(table, name), unfit=unfit)


def stream_parquet(path: str, name: str, budget: int) -> Source | None:
    """A file as a Source that streams; None where all of it fits into `budget` bytes.

    Raises as `read_parquet` does, OutOfMemory where even the columns one by one do not fit.
    """
    file = _open(path, name)
    schema = file.schema_arrow
    cells = 8 * file.metadata.num_rows * len(schema.names)
    if os.path.getsize(path) + _unpacked(file) + cells + cells // 2 <= budget:
        return None
    index, unfit = _index(schema), _unfit(schema, name)
    left_out = {*index, *unfit}
    table = ParquetTable(path, name, [title for title in schema.names if title not in left_out])
    _check_shape(name, table.num_rows, len(table.column_names))
    is_of_columns = 2 * table.pages > table.need
    hint = "use fewer columns, or smaller row groups" if is_of_columns else "use fewer rows"
    check_fits(name, table.need, budget, hint)
    source = Source(name, table, notes=_index_note(name, index), streams=True, unfit=unfit)
    aside = _aside(schema, unfit)
    return replace(source, aside=ParquetTable(path, name, aside)) if aside else source


def from_table(table: "pa.Table", name: str) -> Source:
    """A Source of an Arrow table; a pandas index is left out, with a note if it was in a file."""
    check_names(table.column_names, name)
    table = _without_views(table)
    index, unfit = _index(table.schema), _unfit(table.schema, name)
    left_out, aside = {*index, *unfit}, _aside(table.schema, unfit)
    plain = table.drop_columns(list(left_out)) if left_out else table
    _check_shape(name, plain.num_rows, plain.num_columns)
    source = Source(name, plain, notes=_index_note(name, index), unfit=unfit)
    return replace(source, aside=table.select(aside)) if aside else source


def _open(
    place: Any, name: str, buffer: int = 0, texts: Sequence[str] = ()
) -> "pa.parquet.ParquetFile":
    """A file whose names and types are as they should be, read `buffer` bytes at a time (0: a
    column of a row group at once); `texts` are read as dictionaries."""
    from pyarrow import parquet

    with _reading(name):
        file = parquet.ParquetFile(
            place,
            read_dictionary=list(texts),
            page_checksum_verification=True,
            thrift_string_size_limit=16 << 20,
            thrift_container_size_limit=1 << 20,
            pre_buffer=buffer == 0,
            buffer_size=buffer,
        )
        schema = file.schema_arrow
    check_names(schema.names, name)
    if file.metadata.num_rows > MAX_ROWS:
        raise DataError(f"{name}: {file.metadata.num_rows:,} rows; the limit is {MAX_ROWS:,}")
    return file


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """What Arrow says of a file that is damaged, as ours."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = first_line(error)[:200]
        raise DataError(f"{name}: not a whole Parquet file ({reason})") from None


def _checked(table: "pa.Table") -> "pa.Table":
    table.validate(full=True)
    return table


def _without_views(table: "pa.Table") -> "pa.Table":
    """The same with views of text as text: on views Arrow does next to nothing."""
    import pyarrow as pa

    kinds = [*map(_without_view, table.schema.types)]
    if kinds == table.schema.types:
        return table
    each = zip(table.schema, kinds, strict=True)
    schema = pa.schema([field.with_type(kind) for field, kind in each], table.schema.metadata)
    return table.cast(schema)


def _without_view(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, _without_view(kind.value_type), kind.ordered)
    return pa.large_string() if is_view(kind) else kind


def _release() -> None:
    """Give memory that Arrow holds for later back to the system."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def _unpacked(file: "pa.parquet.ParquetFile") -> int:
    """Bytes of the whole table, at least: what the pages hold, and 8 a cell."""
    metadata = file.metadata
    pages = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return int(max(pages, 8 * metadata.num_rows * len(file.schema_arrow.names)))


def _unfit(schema: "pa.Schema", name: str) -> dict[str, str]:
    """The columns that are not plain, and why, but for an index; raises DataError where all are."""
    import pyarrow as pa

    found, index = {}, _index(schema)
    for field in schema:
        kind = field.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not _is_plain(kind) and field.name not in index:
            found[field.name] = (
                f"{name}: column {field.name} is of type {str(field.type)[:60]}; "
                "wanted numbers, text, booleans or dates"
            )
    if found and len(found) == len(schema):
        raise DataError(next(iter(found.values())))
    return found


def _aside(schema: "pa.Schema", unfit: Iterable[str]) -> list[str]:
    """Of the columns that are not plain, those of times and durations, of 8 bytes a cell."""
    from pyarrow import types

    kinds = {title: schema.field(title).type for title in unfit}
    return [name for name, kind in kinds.items() if types.is_time(kind) or types.is_duration(kind)]


def _is_plain(kind: "pa.DataType") -> bool:
    from pyarrow import types

    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal128(kind)
    is_day = types.is_date(kind) or types.is_timestamp(kind)
    return is_text(kind) or is_number or is_day or types.is_boolean(kind) or types.is_null(kind)


def _check_shape(name: str, rows: int, columns: int) -> None:
    for count, what in ((rows, "rows"), (columns, "columns")):
        if count == 0:
            raise DataError(f"{name}: no {what}")


def _index(schema: "pa.Schema") -> list[str]:
    """The columns that hold a pandas index."""
    try:
        index = list(json.loads((schema.metadata or {})[b"pandas"])["index_columns"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [title for title in index if isinstance(title, str) and title in schema.names]


def _index_note(name: str, index: list[str]) -> tuple[str, ...]:
    return (f"{name}: left the pandas index out: {listed(index)}",) if index else ()
