"""CSV and its kin: text with a delimiter, as a table of strings.

The layout is checked byte by byte before pyarrow sees it, so that every fault has its line.
Refuses to give cells a type, to pad short rows and to guess at broken quotes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.files import Bytes, check_text, line_of
from gpunet.data.limits import check_fits, shown
from gpunet.data.source import Source, check_names
from gpunet.data.words import counted, is_number, listed
from gpunet.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = "\t;|,"  # on a tie the rarer character wins
BLOCK = 1 << 22
HEAD = 1 << 18  # bytes that the delimiter is judged by
MAX_CELL = 1 << 20
MAX_ROW = 1 << 28
MAX_BLOCK = (1 << 31) - 1
TEXT_BYTES = 8  # that reading takes at its peak, for each byte of text
CELL_BYTES = 48  # that reading takes at its peak, for each cell
PARQUET = "use Parquet, fewer columns or fewer rows"
BOM = b"\xef\xbb\xbf"
LF, CR, QUOTE = b'\n\r"'


@dataclass(frozen=True)
class Layout:
    """Where the records of a text stand; blank lines are left out."""

    cells: np.ndarray  # (records,) cells of each
    lines: np.ndarray  # (records,) the line on which each begins, from 1
    sizes: np.ndarray  # (records,) bytes of each
    widest: int  # bytes of the longest cell
    wraps: bool  # whether a quoted cell holds a line end


def read_delimited(
    data: Bytes, name: str, budget: int, delimiter: str | None = None, header: bool = True
) -> Source:
    """A table of strings.

    Without `delimiter` it is a tab, `;`, `|` or a comma, whichever cuts the head most evenly.
    Blank lines are skipped. Raises DataError with the line of the first fault, and OutOfMemory
    when reading would take more than `budget` bytes.
    """
    check_fits(f"{name}, {shown(len(data))} of text", TEXT_BYTES * len(data), budget, PARQUET)
    check_text(data, name)
    if data.startswith(BOM):
        data = data[len(BOM) :]
    if data and data[-1:] not in (b"\n", b"\r"):
        data = data + b"\n"
    mark = _checked(delimiter) if delimiter else _sniff(data, budget)
    layout = scan(data, mark, name, budget)
    _check(layout, header, name)
    table = _parse(data, mark, layout, name)
    return _source(table, layout, header, name)


def scan(data: Bytes, delimiter: bytes, name: str, budget: int, strict: bool = True) -> Layout:
    """Where the records of a text that ends in a line end stand.

    A quote opens a cell at its very start and closes it at its very end; inside it is doubled.
    `strict` makes anything else a DataError. OutOfMemory for more cells than `budget` bytes hold.
    """
    text = np.frombuffer(data, np.uint8)
    marks, breaks = _marks(data, text, delimiter[0], name, budget, strict)
    last = np.flatnonzero(text[marks] != delimiter[0])
    ends = marks[last]
    cells = np.diff(last, prepend=-1)
    sizes = np.diff(ends, prepend=-1) - 1
    lines = np.concatenate(([0], np.searchsorted(breaks, ends) + 1))[:-1] + 1
    blank = (sizes == 0) | ((sizes == 1) & (text[ends - 1] == CR))
    widest = int(np.diff(marks, prepend=-1).max(initial=1)) - 1
    wraps = len(breaks) > len(ends)
    return Layout(cells[~blank], lines[~blank], sizes[~blank], widest, wraps)


def _marks(
    data: Bytes, text: np.ndarray, delimiter: int, name: str, budget: int, strict: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The places of the delimiters and line ends outside quotes, and of all line ends."""
    any_quote, any_cr = QUOTE in data, CR in data
    marks, breaks, seen, cells = [], [], 0, 0
    for low in range(0, len(text), BLOCK):
        block = text[low : low + BLOCK]
        is_break = _line_ends(text, low, block) if any_cr else block == LF
        found = np.flatnonzero(is_break | (block == delimiter)) + low
        if any_quote:
            quotes = np.flatnonzero(block == QUOTE) + low
            if strict:
                _check_quotes(data, text, quotes, seen, delimiter, name)
            found = found[(np.searchsorted(quotes, found) + seen) % 2 == 0]
            seen += len(quotes)
        cells += len(found)
        check_fits(f"{name}, {cells:,} cells", cells * CELL_BYTES, budget, PARQUET)
        marks.append(found)
        breaks.append(np.flatnonzero(is_break) + low)
    if strict and seen % 2:
        raise _bad_quote(data, data.rfind(b'"'), name)
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *marks]), np.concatenate([nothing, *breaks])


def _line_ends(text: np.ndarray, low: int, block: np.ndarray) -> np.ndarray:
    after = text[low + 1 : low + 1 + len(block)]
    alone = block == CR  # a CR of its own ends a line too, as in files of old
    alone[: len(after)] &= after != LF
    return (block == LF) | alone


def _check_quotes(
    data: Bytes, text: np.ndarray, quotes: np.ndarray, seen: int, delimiter: int, name: str
) -> None:
    opens = np.arange(seen, seen + len(quotes)) % 2 == 0
    beside = np.where(opens, quotes - 1, quotes + 1)
    byte = text[np.clip(beside, 0, len(text) - 1)]
    fine = (beside < 0) | np.isin(byte, np.array([delimiter, LF, CR, QUOTE], np.uint8))
    if not fine.all():
        bad = int(np.argmin(fine))
        at = int(quotes[bad])
        raise _bad_quote(data, at if opens[bad] else data.rfind(b'"', 0, at), name)


def _bad_quote(data: Bytes, at: int, name: str) -> DataError:
    return DataError(
        f"{name}: line {line_of(data, at):,} has a quote that does not enclose a whole cell, "
        "or that is never closed",
        'a cell with a quote in it is written "like ""this"""',
    )


def _sniff(data: Bytes, budget: int) -> bytes:
    stop = max(data.rfind(b"\n", 0, HEAD), data.rfind(b"\r", 0, HEAD)) + 1
    head = data[:stop] if stop else data[:HEAD] + b"\n"
    best, best_score = b",", (False, 0.0, 0)
    for mark in DELIMITERS.encode():
        cells = scan(head, bytes([mark]), "", budget, strict=False).cells
        if len(cells):
            score = (bool(cells[0] > 1), float(np.mean(cells == cells[0])), int(cells[0]))
            if score[0] and score > best_score:
                best, best_score = bytes([mark]), score
    return best


def _checked(delimiter: str) -> bytes:
    mark = {"tab": "\t", "\\t": "\t"}.get(delimiter, delimiter)
    if len(mark) != 1 or not mark.isascii() or mark in '"\r\n\0':
        raise UsageError(
            f"delimiter {delimiter!r}: wanted one character", 'such as ";", "|" or "tab"'
        )
    return mark.encode()


def _check(layout: Layout, header: bool, name: str) -> None:
    if len(layout.cells) == 0:
        raise DataError(f"{name}: no rows, the file is empty")
    if header and len(layout.cells) == 1:
        raise DataError(f"{name}: no rows below the header")
    wanted = int(layout.cells[0])
    wrong = layout.cells != wanted
    if wrong.any():
        first = int(np.argmax(wrong))
        raise DataError(
            f"{name}: line {int(layout.lines[first]):,} has "
            f"{counted(int(layout.cells[first]), 'cell')}, line {int(layout.lines[0]):,} has "
            f"{wanted:,}"
        )
    if layout.widest > MAX_CELL or layout.sizes.max() > MAX_ROW:
        line = int(layout.lines[np.argmax(layout.sizes)])
        raise DataError(
            f"{name}: a cell near line {line:,} has {shown(layout.widest)}; the limit is "
            f"{shown(MAX_CELL)}"
            if layout.widest > MAX_CELL
            else f"{name}: line {line:,} is longer than {shown(MAX_ROW)}"
        )


def _parse(data: Bytes, delimiter: bytes, layout: Layout, name: str) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    names = [f"f{i}" for i in range(int(layout.cells[0]))]
    # Between blocks pyarrow loses a line end inside quotes: such files are read as one block.
    block = len(data) if layout.wraps else max(BLOCK, 2 * int(layout.sizes.max()) + 2)
    reading = csv.ReadOptions(autogenerate_column_names=True, block_size=min(block, MAX_BLOCK))
    parsing = csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=layout.wraps)
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    try:
        table = csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
    except pa.ArrowException as error:
        raise DataError(f"{name}: could not be read as CSV ({error})") from None
    if table.num_rows != len(layout.cells):
        raise DataError(
            f"{name}: {len(layout.cells):,} records were counted and {table.num_rows:,} read"
        )
    return table


def _source(table: "pa.Table", layout: Layout, header: bool, name: str) -> Source:
    lines = layout.lines
    if header:
        titles = [column[0].as_py() for column in table.columns]
        table, lines = table.slice(1), lines[1:]
        names, notes = _names(titles, name)
    else:
        names, notes = [f"c{i + 1}" for i in range(table.num_columns)], ()
    first = 2 if header else 1
    plain = int(lines[0]) == first and int(lines[-1]) == first + len(lines) - 1
    return Source(
        name,
        table.rename_columns(names),
        text=True,
        first=first,
        lines=None if plain else lines,
        notes=notes,
    )


def _names(titles: list[str], name: str) -> tuple[list[str], tuple[str, ...]]:
    names = [title.strip() for title in titles]
    check_names(names, name)
    notes = []
    if names != titles:
        padded = [new for new, old in zip(names, titles, strict=True) if new != old]
        notes.append(f"{name}: took the spaces around column names away: {listed(padded)}")
    if all(map(is_number, names)):
        notes.append(f"{name}: the first line was taken as names though it holds only numbers")
    return names, tuple(notes)
