"""A Source as bytes, and back: what a reading process hands over.

What arrives is checked in full: the process that sent it has read a file that nobody vouches for.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet.data.arrays import MAX_POINT
from gpunet.data.parquet import from_table
from gpunet.data.source import Source, check_names
from gpunet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = {"x": "biuf", "y": "biufU", "lines": "i"}
LONG = 1 << 12  # bytes of a chunk

Part = list[Any]


def pack_piece(table: "pa.Table") -> Part:
    """Some rows of a table as one part: a list of buffers, none of them copied."""
    import pyarrow as pa

    pieces = _Pieces()
    with pa.ipc.new_stream(pa.PythonFile(pieces, "w"), table.schema) as writer:
        writer.write_table(table)
    return list(pieces)


def pack(source: Source, pieces: int = 0) -> tuple[dict[str, Any], list[Part]]:
    """A head of plain values, and parts as above. `pieces` of the table went ahead."""
    arrays = {name: getattr(source, name) for name in KINDS if getattr(source, name) is not None}
    head: dict[str, Any] = {
        "name": source.name,
        "file": source.file,
        "text": source.text,
        "first": source.first,
        "notes": source.notes,
        "unfit": dict(source.unfit),
        "pieces": pieces,
        "aside": source.aside is not None,
        "arrays": {name: (array.dtype.str, array.shape) for name, array in arrays.items()},
    }
    parts: list[Part] = [[np.ascontiguousarray(array).reshape(-1)] for array in arrays.values()]
    if source.table is not None:
        tables = [source.table] if source.aside is None else [source.table, source.aside]
        parts[:0] = map(pack_piece, tables)
    if source.test is not None:
        head["test"], more = pack(source.test)
        parts += more
    return head, parts


def unpack(head: Mapping[str, Any], parts: list[Any]) -> Source:
    """The Source of a head and its parts, views of bytes that it keeps.

    Raises DataError, and anything else for what `pack` never makes.
    """
    source, rest = _unpacked(head, parts)
    if rest:
        raise ValueError("parts are left over")
    return source


def _unpacked(head: Mapping[str, Any], parts: list[Any]) -> tuple[Source, list[Any]]:
    name, is_text, given = str(head["name"]), bool(head["text"]), dict(head["arrays"])
    table = aside = None
    if "x" not in given:
        pieces = head["pieces"]
        if type(pieces) is not int or not 0 <= pieces < len(parts):
            raise ValueError(f"pieces: {pieces}")
        table, parts = _table(parts[: pieces + 1], name, is_text), parts[pieces + 1 :]
        if head["aside"]:
            aside, parts = _aside(parts[0], table.num_rows, head["unfit"]), parts[1:]
    arrays = {
        key: _array(key, dtype, shape, part)
        for (key, (dtype, shape)), part in zip(given.items(), parts, strict=False)
    }
    parts, test = parts[len(given) :], None
    if "test" in head:
        test, parts = _unpacked(head["test"], parts)
    notes = tuple(map(str, head["notes"]))
    first = int(head["first"])
    x, y, lines = (arrays.get(key) for key in KINDS)
    unfit = {str(column): str(reason) for column, reason in dict(head["unfit"]).items()}
    source = Source(name, table, x, y, test, text=is_text, first=first, lines=lines, notes=notes)
    source = replace(source, unfit=unfit, aside=aside, file=str(head["file"]))
    if source.lines is not None and source.lines.shape != (source.rows,):
        raise ValueError("not a line a row")
    return source, parts


def _array(key: str, dtype: str, shape: list[int], part: memoryview) -> np.ndarray:
    kind = np.dtype(dtype)
    sides = [int(side) for side in shape]
    if kind.kind not in KINDS[key] or not kind.isnative or min(sides, default=-1) < 0:
        raise ValueError(f"{key} of {dtype} {shape}")
    if math.prod(sides) * kind.itemsize != part.nbytes or kind.itemsize == 0:
        raise ValueError(f"{key} of {dtype} {shape} in {part.nbytes} bytes")
    if kind.kind == "U" and np.frombuffer(part, np.uint32).max(initial=0) > MAX_POINT:
        raise ValueError(f"{key} holds what is no character")
    return np.frombuffer(part, kind).reshape(sides)


class _Pieces(list[Any]):
    """A file that keeps what is written to it as it is."""

    closed = False

    def write(self, piece: Any) -> int:
        self.append(piece)
        return memoryview(piece).nbytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _is_plain_text(table: "pa.Table") -> bool:
    """Whether all cells are ASCII, none is missing and each begins where the one before it ends,
    which is sound. Of long columns, finding that out takes a tenth of full validation's time."""
    import pyarrow as pa

    chunks = [chunk for column in table.columns for chunk in column.chunks]
    if table.nbytes < LONG * len(chunks):
        return False
    for chunk in chunks:
        valid, starts, text = chunk.buffers() if pa.types.is_string(chunk.type) else [None] * 3
        if valid is not None or starts is None or text is None or chunk.offset:
            return False
        starts, text = np.frombuffer(starts, np.int32)[: len(chunk) + 1], np.frombuffer(text, "i1")
        if len(starts) <= len(chunk) or starts[0] < 0 or starts[-1] > len(text):
            return False
        if (starts[1:] < starts[:-1]).any() or text.min(initial=0) < 0:
            return False
    return True


def _aside(part: memoryview, rows: int, unfit: Mapping[str, str]) -> "pa.Table":
    """The columns that can be copied alone."""
    import pyarrow as pa

    try:
        table = pa.ipc.open_stream(pa.py_buffer(part)).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no table ({error})") from None
    if len(table) != rows or not unfit.keys() >= set(table.column_names):
        raise ValueError("no columns that were put aside")
    return table


def _table(parts: list[memoryview], name: str, is_text: bool) -> "pa.Table":
    import pyarrow as pa

    try:
        pieces = [pa.ipc.open_stream(pa.py_buffer(part)).read_all() for part in parts]
        for piece in pieces:
            piece.validate(full=not _is_plain_text(piece))
        table = pa.concat_tables(pieces)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"no table ({error})") from None
    if is_text:
        check_names(table.column_names, name)
        if any(not pa.types.is_string(kind) for kind in table.schema.types) or not table.num_rows:
            raise ValueError("no table of text")
        return table
    found = from_table(table, name).table
    if found is None or list(found.column_names) != table.column_names:
        raise DataError(f"{name}: not a plain table")
    return table
