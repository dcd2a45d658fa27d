"""Whatever was named, read: a built-in set, a file of any known format; or an object in memory.

A file's format is told by its content first and by its name second. Files are parsed in a process
of their own: a reader that crashes is a DataError. Refuses pickles and everything else that could
run code.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpunet import isolation
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
from gpunet.data.objects import from_object
from gpunet.data.parcel import pack, pack_piece, unpack
from gpunet.data.parquet import ParquetTable, read_parquet, stream_parquet
from gpunet.data.source import Source
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
WANTED = "wanted CSV, TSV, JSON lines, Parquet, NPZ, NPY or IDX"


@dataclass(frozen=True)
class Reading:
    """How files are read: `delimiter` and `header` are for CSV alone; within `budget` bytes."""

    delimiter: str | None
    header: bool
    budget: int

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked that is for CSV alone."""
        return self.delimiter is None and self.header

    def check_plain(self, what: str) -> None:
        """Raise UsageError where what is no CSV is to be read as if it was."""
        if not self.is_plain:
            said = f"{what} takes no delimiter and has no header"
            raise UsageError(said, "leave those options out")


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
        return _read_path(data, Reading(delimiter, header, budget or automatic()))
    if delimiter is not None or not header:
        raise UsageError("a delimiter and a header are for CSV files")
    return data if isinstance(data, Source) else from_object(data)


def _read_path(path: str | Path, how: Reading) -> Source:
    text = os.fspath(path)
    if isinstance(path, str) and path in BUILTIN:
        how.check_plain(f"{path}: a built-in set")
        return builtin(path)
    if text != "-" and os.path.isdir(text):
        how.check_plain(f"{text}: a folder")
    try:
        return _read_apart(text, how)
    except InputMissing as error:
        near = error.hint or closest(text, list(BUILTIN))
        raise InputMissing(error.message, near) from None


def _read_apart(path: str, how: Reading) -> Source:
    """A Source of files, parsed in a process of its own where there can be one."""
    if not isolation.enabled:
        return _read_here(path, how)
    name, feed = titled(path), chunks(path) if is_passing(path) else None
    folder = "" if feed is not None else seen_from(path)
    request = {"path": path, "folder": folder, "fed": feed is not None, **asdict(how)}
    try:
        worker = isolation.take(ENTRY)
    except OSError as reason:
        source = _read_here(path, how)
        note = f"{source.title}: parsed without a process of its own ({reason.strerror})"
        return replace(source, notes=(*source.notes, note))
    with worker:
        try:
            head, parts = worker.ask(request, _room(how.budget), feed)
            if not head.get("streams"):
                return unpack(head, parts)
        except isolation.Crashed as reason:
            raise DataError(f"reader crashed on {name} ({reason})", CRASH_HINT) from None
        except NONSENSE as reason:
            raise DataError(f"reader crashed on {name} (it left {reason})", CRASH_HINT) from None
    return _read_here(path, how)


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
    how = Reading(request["delimiter"], request["header"], budget)
    fed = chunks() if request["fed"] else None
    if request["folder"]:
        os.chdir(request["folder"])
    isolation.limit(_room(budget), PROCESSOR_SECONDS + budget // BYTES_A_SECOND)
    try:
        source = _read_here(path, how, hand, fed)
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
    how: Reading,
    hand: "Callable[[pa.Table], None] | None" = None,
    fed: Iterable[bytes] | None = None,
) -> Source:
    """`fed` is the content of a file that another process has open."""
    is_whole = fed is None and not is_passing(path)
    name, suffix = _name(path) if is_whole else ("stdin", "")
    if is_whole and os.path.isdir(path):
        name = Path(path).resolve().name or "data"
        reader = read_npy_folder if is_npy_folder(path) else read_idx_folder
        return replace(reader(path, name, how.budget), file=path)
    if is_whole and how.is_plain and (source := _stream(path, how.budget)) is not None:
        return replace(source, name=name, file=path)
    content = load(path, how.budget, fed)
    source = _parsed(content, titled(path), suffix, how, hand)
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
    how: Reading,
    hand: "Callable[[pa.Table], None] | None",
) -> Source:
    if content[:4] == b"PAR1":
        how.check_plain(f"{path}: a Parquet file")
        return read_parquet(content, path, how.budget)
    if content[:2] == b"PK" and content[2:4] in (b"\3\4", b"\5\6"):
        how.check_plain(f"{path}: an NPZ file")
        return read_npz(content, path, how.budget)
    if content[:6] == NPY_MAGIC:
        how.check_plain(f"{path}: an NPY file")
        return read_npy(content, path)
    if is_idx(content):
        how.check_plain(f"{path}: an IDX file")
        return read_idx(content, path)
    _no_stranger(content, path, suffix)
    if suffix in JSON_NAMES or JSON_HEAD.match(content):
        how.check_plain(f"{path}: JSON lines")
        return read_jsonl(content, path, how.budget)
    return read_delimited(content, path, how.budget, how.delimiter, how.header, hand)


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
