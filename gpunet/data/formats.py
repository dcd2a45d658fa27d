"""Whatever was named, read: a built-in set, a file of any known format, or an object in memory.

A file's format is told by its content first and by its name second. Files are parsed in a process
of their own: a reader that crashes is a DataError. Refuses pickles and everything else that could
run code.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpunet import isolation
from gpunet.data.arrays import from_arrays
from gpunet.data.builtin import BUILTIN, builtin
from gpunet.data.delimited import read_delimited
from gpunet.data.files import Bytes, chunks, is_passing, load, seen_from, titled
from gpunet.data.idx import is_idx, read_idx, read_idx_folder
from gpunet.data.jsonl import read_jsonl
from gpunet.data.limits import automatic
from gpunet.data.npy import (
    NPY_MAGIC,
    is_npy_folder,
    read_npy,
    read_npy_folder,
    read_npz,
    stream_npy,
)
from gpunet.data.parcel import pack, pack_piece, unpack
from gpunet.data.parquet import ParquetTable, from_table, read_parquet, stream_parquet
from gpunet.data.source import Source, check_names
from gpunet.data.words import closest
from gpunet.errors import DataError, InputMissing, OutOfMemory, UsageError
from gpunet.sizes import shown

if TYPE_CHECKING:
    import pyarrow as pa

ENTRY = "gpunet.data.formats"
PROCESSOR_SECONDS = 120
BYTES_A_SECOND = 1 << 24  # of the budget: far below what any of the readers manages
SPARE = 1 << 28
CRASH_HINT = "the file is damaged, made to do harm, or needs a larger --max-memory"
NONSENSE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of an answer that was not made by `pack`."""
STRANGERS = {
    b"\x89HDF": "an HDF5 file",
    b"SQLite format 3": "an SQLite database",
    b"ARROW1": "a Feather file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"PARE": "an encrypted Parquet file",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"\x1f\x8b": "packed with gzip twice",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
BINARY = {".parquet": "Parquet", ".npz": "NPZ", ".npy": "NPY"}
IDX_FILE = re.compile(r"idx\d-ubyte(\.gz)?$")
JSON_HEAD = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*["}]')
JSON_NAMES = (".jsonl", ".ndjson", ".json")
TOO_LONG, AS_TEXT = "whole numbers of more than 64 bits", "give their column as text, or as floats"
WANTED = "wanted CSV, TSV, JSON lines, Parquet, NPZ, NPY or IDX"


def read(
    data: object,
    *,
    delimiter: str | None = None,
    header: bool = True,
    budget: int | None = None,
) -> Source:
    """A Source from a name, a path, or an object.

    A str or Path names a built-in set (`penguins`; `./penguins` is a file), a file, a folder with
    MNIST's files or with x.npy and y.npy, or standard input (`-`). Objects: a Source, anything
    with `__arrow_c_stream__` (pyarrow, pandas, polars), a dict of columns, an array x, a tuple
    (x, y) of arrays, or of a table and the target y, which becomes its last column.
    `delimiter` and `header` are for CSV alone. Data may take `budget` bytes of memory, by default
    half of what this process may use: Parquet and NPY files that need more stream, others are
    OutOfMemory.
    """
    if isinstance(data, (str, Path)):
        return _read_path(data, delimiter, header, budget or automatic())
    if delimiter is not None or not header:
        raise UsageError("a delimiter and a header are for CSV files")
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping) or hasattr(data, "__arrow_c_stream__"):
        return _read_table(data)
    if isinstance(data, tuple):
        if len(data) != 2:
            raise TypeError(f"a tuple of {len(data)}; wanted (x, y)")
        if isinstance(data[0], Mapping) or _is_frame(data[0]):
            return _with_target(_read_table(data[0]), data[1])
        return from_arrays("data", _array(data[0]), _array(data[1]))
    return from_arrays("data", _array(data))


def _read_path(path: str | Path, delimiter: str | None, header: bool, budget: int) -> Source:
    text = os.fspath(path)
    plain = delimiter is None and header
    if isinstance(path, str) and path in BUILTIN:
        _only_csv(plain, f"{path}: a built-in set")
        return builtin(path)
    if text != "-" and os.path.isdir(text):
        _only_csv(plain, f"{text}: a folder")
    try:
        return _read_apart(text, delimiter, header, budget)
    except InputMissing as error:
        near = error.hint or closest(text, list(BUILTIN))
        raise InputMissing(error.message, near) from None


def _read_apart(path: str, delimiter: str | None, header: bool, budget: int) -> Source:
    """A Source of files, parsed in a process of its own where there can be one."""
    if not isolation.enabled:
        return _read_here(path, delimiter, header, budget)
    name, feed = titled(path), chunks(path) if is_passing(path) else None
    folder = "" if feed is not None else seen_from(path)
    request = {"path": path, "folder": folder, "budget": budget, "fed": feed is not None}
    request |= {"delimiter": delimiter, "header": header}
    try:
        worker = isolation.take(ENTRY)
    except OSError as reason:
        source = _read_here(path, delimiter, header, budget)
        note = f"{source.title}: parsed without a process of its own ({reason.strerror})"
        return replace(source, notes=(*source.notes, note))
    with worker:
        try:
            head, parts = worker.ask(request, _room(budget), feed)
            if not head.get("streams"):
                return unpack(head, parts)
        except isolation.Crashed as reason:
            raise DataError(f"reader crashed on {name} ({reason})", CRASH_HINT) from None
        except NONSENSE as reason:
            raise DataError(f"reader crashed on {name} (it left {reason})", CRASH_HINT) from None
    return _read_here(path, delimiter, header, budget)


def answer(
    request: Mapping[str, Any], ahead: Callable[[Any], None]
) -> tuple[dict[str, Any], list[Any]]:
    """What the reading process does: parse a file within limits, and pack what it holds, `ahead`
    what it can; or say that it streams, once all of it was decoded here: whoever trains on it
    decodes it again."""
    pieces = count(0)

    def hand(table: "pa.Table") -> None:
        ahead(pack_piece(table))
        next(pieces)

    path, budget = request["path"], request["budget"]
    fed = chunks() if request["fed"] else None
    if request["folder"]:
        os.chdir(request["folder"])
    isolation.limit(_room(budget), PROCESSOR_SECONDS + budget // BYTES_A_SECOND)
    try:
        source = _read_here(path, request["delimiter"], request["header"], budget, hand, fed)
        if not source.streams:
            return pack(source, next(pieces))
        if isinstance(source.table, ParquetTable):
            cells = 8 * source.rows * len(source.columns)
            isolation.limit(_room(budget), PROCESSOR_SECONDS + cells // BYTES_A_SECOND)
            source.table.vet()
            if isinstance(source.aside, ParquetTable):
                source.aside.vet()
        return {"streams": True}, []
    except MemoryError:
        allowed = f"twice the {shown(budget)} of --max-memory"
        raise OutOfMemory(f"{path}: reading takes more than {allowed}", "raise it") from None


def _room(budget: int) -> int:
    """Bytes that reading may take at its peak: a file and what it holds, and a little."""
    return 2 * budget + SPARE


def _read_here(
    path: str,
    delimiter: str | None,
    header: bool,
    budget: int,
    hand: "Callable[[pa.Table], None] | None" = None,
    fed: Iterable[bytes] | None = None,
) -> Source:
    """`fed` is the content of a file that another process has open."""
    is_whole = fed is None and not is_passing(path)
    name, suffix = _name(path) if is_whole else ("stdin", "")
    if is_whole and os.path.isdir(path):
        name = Path(path).resolve().name or "data"
        reader = read_npy_folder if is_npy_folder(path) else read_idx_folder
        return replace(reader(path, name, budget), file=path)
    is_plain = delimiter is None and header
    if is_whole and is_plain and (source := _stream(path, budget)) is not None:
        return replace(source, name=name, file=path)
    content = load(path, budget, fed)
    source = _parsed(content, titled(path), suffix, delimiter, header, budget, hand)
    return replace(source, name=name, file=titled(path))


def _stream(path: str, budget: int) -> Source | None:
    """A file that can stream and does not fit into `budget` bytes; else None."""
    try:
        with open(path, "rb") if os.path.isfile(path) else io.BytesIO() as file:
            head = file.read(6)
    except (OSError, ValueError):
        return None
    if head[:4] == b"PAR1":
        return stream_parquet(path, path, budget)
    return stream_npy(path, path, budget) if head == NPY_MAGIC else None


def _parsed(
    content: Bytes,
    path: str,
    suffix: str,
    delimiter: str | None,
    header: bool,
    budget: int,
    hand: "Callable[[pa.Table], None] | None",
) -> Source:
    plain = delimiter is None and header
    if content[:4] == b"PAR1":
        _only_csv(plain, f"{path}: a Parquet file")
        return read_parquet(content, path, budget)
    if content[:2] == b"PK" and content[2:4] in (b"\3\4", b"\5\6"):
        _only_csv(plain, f"{path}: an NPZ file")
        return read_npz(content, path, budget)
    if content[:6] == NPY_MAGIC:
        _only_csv(plain, f"{path}: an NPY file")
        return read_npy(content, path)
    if is_idx(content):
        _only_csv(plain, f"{path}: an IDX file")
        return read_idx(content, path)
    _no_stranger(content, path, suffix)
    if suffix in JSON_NAMES or JSON_HEAD.match(content):
        _only_csv(plain, f"{path}: JSON lines")
        if content.lstrip()[:1] == b"[":
            raise DataError(f"{path}: a JSON array", "wanted JSON lines: one object a line")
        return read_jsonl(content, path, budget)
    return read_delimited(content, path, budget, delimiter, header, hand)


def _only_csv(plain: bool, what: str) -> None:
    if not plain:
        raise UsageError(f"{what} takes no delimiter and has no header", "leave those options out")


def _no_stranger(content: Bytes, path: str, suffix: str) -> None:
    for magic, what in STRANGERS.items():
        if content.startswith(magic):
            raise DataError(f"{path}: {what}", WANTED)
    if suffix in BINARY:
        raise DataError(f"{path}: the content is not {BINARY[suffix]}")
    if IDX_FILE.search(path) or content.startswith(b"\0"):
        raise DataError(f"{path}: binary data of no known kind", WANTED)


def _name(path: str) -> tuple[str, str]:
    """The name of a run made from a file, and the file's ending, without .gz."""
    file = Path(path).name
    bare = Path(file[:-3]) if file.casefold().endswith(".gz") else Path(file)
    return bare.stem or "data", bare.suffix.casefold()


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
    raise TypeError(f"cannot read data from {type(data).__name__}")


def _host(data: Any) -> Any:
    """An array in device memory comes to the host by its own `get`, as CuPy's do."""
    return data.get() if hasattr(data, "get") and hasattr(data, "__dlpack__") else data
