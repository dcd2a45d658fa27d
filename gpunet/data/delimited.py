"""CSV and its kin: text with a delimiter, as a table of strings.

The layout is checked byte by byte before pyarrow sees it, so that every fault has its line.
Refuses to give cells a type, to pad short rows and to guess at broken quotes.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.files import Bytes, check_text, line_of
from gpunet.data.limits import check_fits
from gpunet.data.source import Source, check_names
from gpunet.data.words import HEADERLESS, like_data, listed, quoted
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted, shown

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = "\t;|,"  # on a tie the rarer character wins
PIECE = 1 << 24  # bytes that are parsed, and handed on, at a time
BLOCK = 1 << 22  # bytes that one thread parses at a time, at least
CELLS_A_BLOCK = 256  # of each column, at least: each is an array of its own
SCAN = 1 << 19  # bytes that are looked through at a time: what comes of them stays in the cache
HEAD = 1 << 18  # bytes that the delimiter is judged by
MAX_CELL = 1 << 20
MAX_ROW = 1 << 28
MAX_BLOCK = (1 << 31) - 1
TEXT_BYTES = 8  # that reading takes at its peak, for each byte of text
CELL_BYTES = 48  # that reading takes at its peak, for each cell
SEPARATOR = re.compile(rb"sep=([^\r\n\0\"\x80-\xff])(?=[\r\n])", re.IGNORECASE)
"""A first line by which Excel is told the delimiter."""
TITLES = "remove the lines above the one that names the columns"
PARQUET = "use Parquet, fewer columns or fewer rows"
BOM = b"\xef\xbb\xbf"
LF, CR, QUOTE = b'\n\r"'


@dataclass
class Cut:
    """How the records of a text are cut; blank lines are left out."""

    records: int = 0
    cells: int = 0  # of the first record
    alike: int = 0  # records with as many
    odd: tuple[int, int] | None = None  # the first with more or fewer: its line, its cells
    longest: tuple[int, int] = (0, 1)  # bytes of the longest record, and its line
    widest: tuple[int, int] = (0, 1)  # bytes of the longest cell, and the line of its record
    wraps: bool = False  # whether a quoted cell holds a line end
    lines: list[np.ndarray | range] = field(default_factory=list)  # where each begins, from 1

    def add(self, cells: np.ndarray, sizes: np.ndarray, lines: np.ndarray | range) -> None:
        """Count some more records, which are of `sizes` bytes and begin on `lines`."""
        if not len(cells):
            return
        self.cells = self.cells or int(cells[0])
        alike = cells == self.cells
        if self.odd is None and not alike.all():
            first = int(np.argmin(alike))
            self.odd = int(lines[first]), int(cells[first])
        if sizes.max() > self.longest[0]:
            at = int(np.argmax(sizes))
            self.longest = int(sizes[at]), int(lines[at])
        self.records += len(cells)
        self.alike += int(np.count_nonzero(alike))
        self.lines.append(lines)

    def numbers(self) -> np.ndarray:
        """(records,) The line on which each begins."""
        return np.concatenate([_array(part) for part in self.lines])

    @property
    def is_plain(self) -> bool:
        """Whether each line is a record."""
        return self.lines[0][0] == 1 and self.lines[-1][-1] == self.records


def read_delimited(
    data: Bytes,
    name: str,
    budget: int,
    delimiter: str | None = None,
    header: bool = True,
    hand: "Callable[[pa.Table], None] | None" = None,
) -> Source:
    """A table of strings.

    Without `delimiter` it is what a first line `sep=;` says, else a tab, `;`, `|` or a comma,
    whichever cuts the head most evenly. Blank lines are skipped, and so is a first column without
    a name: the index that pandas and R write. `hand` is given the rows as they are read, and the
    Source then has none. Raises DataError with the line of the first fault, and OutOfMemory when
    reading would take more than `budget` bytes.
    """
    import pyarrow as pa

    check_fits(f"{name}, {shown(len(data))} of text", TEXT_BYTES * len(data), budget, PARQUET)
    check_text(data, name)
    if data.startswith(BOM):
        data = data[len(BOM) :]
    if data and data[-1:] not in (b"\n", b"\r"):
        data = data + b"\n"
    if told := SEPARATOR.match(data):
        delimiter = delimiter or told[1].decode()
        data = data[told.end() :]  # a blank line is left: lines keep their numbers
    mark = _checked(delimiter) if delimiter else _sniff(data, budget)
    pieces: list[pa.Table] = []
    names, notes = _read(data, mark, cut := Cut(), name, budget, header, hand or pieces.append)
    empty = pa.Table.from_batches([], pa.schema([(title, pa.string()) for title in names]))
    return Source(
        name,
        pa.concat_tables([empty, *pieces]),
        text=True,
        first=2 if header else 1,
        lines=None if cut.is_plain else cut.numbers()[1 if header else 0 :],
        notes=notes,
    )


def _read(
    data: Bytes,
    delimiter: bytes,
    cut: Cut,
    name: str,
    budget: int,
    header: bool,
    hand: "Callable[[pa.Table], object]",
) -> tuple[list[str], tuple[str, ...]]:
    """The names of the columns, and warnings about them; `hand` gets the rows, piece by piece."""
    text, begin, read = memoryview(data), 0, 0
    names: list[str] = []
    notes: tuple[str, ...] = ()
    for end in scan(data, delimiter, cut, name, budget):
        _check(cut, name)
        if (end - begin < PIECE and end < len(data)) or read == cut.records:
            continue
        table = _parse(_sound(text[begin:end]), delimiter, cut, name)
        if table.num_rows != cut.records - read:
            raise DataError(
                f"{name}: {cut.records - read:,} records were counted and {table.num_rows:,} read"
            )
        begin, read = end, cut.records
        if not names:
            names = [f"c{i + 1}" for i in range(cut.cells)]
            if header:
                titles = [column[0].as_py() for column in table.columns]
                names, notes = _names(titles, name, delimiter.decode())
                table = table.slice(1)
        hand(table.select(range(cut.cells - len(names), cut.cells)).rename_columns(names))
    if not read:
        raise DataError(f"{name}: no rows, the file is empty")
    if header and read == 1:
        raise DataError(f"{name}: no rows below the header")
    return names, notes


def _sound(piece: memoryview) -> memoryview:
    """A piece as pyarrow takes it: it fails at blank lines at the front, and leaves a BOM out."""
    if piece[0] in (LF, CR):
        piece = piece[-len(bytes(piece).lstrip(b"\r\n")) :]
    return memoryview(BOM + bytes(piece)) if piece[: len(BOM)] == BOM else piece


def scan(
    data: Bytes, delimiter: bytes, cut: Cut, name: str, budget: int, strict: bool = True
) -> Iterator[int]:
    """How the records of a text that ends in a line end are cut: `cut` grows as it is learned,
    and where the last of them ends is told block by block.

    A quote opens a cell at its very start and closes it at its very end; inside it is doubled.
    `strict` makes anything else a DataError. OutOfMemory for more cells than `budget` bytes hold.
    """
    text = np.frombuffer(data, np.uint8)
    mark, end, line = -1, -1, 1
    cells_open = ends_seen = breaks_seen = 0
    for marks, breaks in _marks(data, text, delimiter[0], name, budget, strict):
        last = np.flatnonzero(text[marks] != delimiter[0])
        ends = marks[last]
        lines: np.ndarray | range = range(line, line + len(ends) + 1)
        if line != breaks_seen + 1 or len(breaks) != len(ends):
            lines = np.concatenate(([line], np.searchsorted(breaks, ends) + breaks_seen + 2))
        if len(marks):
            widths = np.diff(marks, prepend=mark) - 1
            if (width := int(widths.max())) > cut.widest[0]:
                record = np.searchsorted(ends, marks[widths.argmax()])
                cut.widest = width, int(lines[record])
            mark = int(marks[-1])
        if len(ends):
            cells = np.diff(last, prepend=-1 - cells_open)
            sizes = np.diff(ends, prepend=end) - 1
            full = (sizes > 1) | ((sizes == 1) & (text[ends - 1] != CR))
            if full.all():
                cut.add(cells, sizes, lines[:-1])
            else:
                cut.add(cells[full], sizes[full], _array(lines)[:-1][full])
            cells_open, end, line = -1 - int(last[-1]), int(ends[-1]), int(lines[-1])
        cells_open += len(marks)
        ends_seen += len(ends)
        breaks_seen += len(breaks)
        cut.wraps = breaks_seen > ends_seen
        yield end + 1


def _array(numbers: np.ndarray | range) -> np.ndarray:
    return np.arange(numbers.start, numbers.stop) if isinstance(numbers, range) else numbers


def _marks(
    data: Bytes, text: np.ndarray, delimiter: int, name: str, budget: int, strict: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Block by block, the places of delimiters and line ends outside quotes, and of all line
    ends."""
    any_quote, any_cr = QUOTE in data, CR in data
    seen = cells = 0
    for low in range(0, len(text), SCAN):
        block = text[low : low + SCAN]
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
        yield found, np.flatnonzero(is_break) + low
    if strict and seen % 2:
        raise _bad_quote(data, data.rfind(b'"'), name)


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
        found = Cut()
        for _ in scan(head, bytes([mark]), found, "", budget, strict=False):
            pass
        if found.records:
            score = (found.cells > 1, found.alike / found.records, found.cells)
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


def _check(cut: Cut, name: str) -> None:
    if cut.odd is not None:
        line, cells = cut.odd
        raise DataError(
            f"{name}: line {line:,} has {counted(cells, 'cell')}, line {cut.lines[0][0]:,} has "
            f"{cut.cells:,}",
            f"if line {cut.lines[0][0]:,} is a title, {TITLES}" if cut.cells == 1 else None,
        )
    width, line = cut.widest
    if width > MAX_CELL:
        raise DataError(
            f"{name}: a cell near line {line:,} has {shown(width)}; the limit is {shown(MAX_CELL)}"
        )
    size, line = cut.longest
    if size > MAX_ROW:
        raise DataError(f"{name}: line {line:,} is longer than {shown(MAX_ROW)}")


def _parse(text: memoryview, delimiter: bytes, cut: Cut, name: str) -> "pa.Table":
    import pyarrow as pa
    from pyarrow import csv

    names = [f"f{i}" for i in range(cut.cells)]
    # Between blocks pyarrow loses a line end inside quotes: such pieces are read as one block.
    block = max(BLOCK, 2 * cut.longest[0] + 2, CELLS_A_BLOCK * cut.cells)
    block = min(len(text) if cut.wraps else block, MAX_BLOCK)
    how = {"block_size": block, "autogenerate_column_names": True}
    parsing = csv.ParseOptions(delimiter=delimiter.decode(), newlines_in_values=cut.wraps)
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
    )
    for has_threads in (True, False):  # a system may refuse more of them
        reading = csv.ReadOptions(use_threads=has_threads, **how)
        try:
            return csv.read_csv(pa.BufferReader(text), reading, parsing, converting)
        except pa.ArrowException as error:
            reason = error
        if isinstance(reason, pa.ArrowInvalid):  # the text is at fault
            break
    if isinstance(reason, MemoryError):
        raise reason
    raise DataError(f"{name}: could not be read as CSV ({reason})")


def _names(titles: list[str], name: str, mark: str) -> tuple[list[str], tuple[str, ...]]:
    names = [title.strip() for title in titles]
    notes = []
    if not names[0] and len(names) > 1 and all(names[1:]) and not like_data(names):
        titles, names = titles[1:], names[1:]
        notes.append(f"{name}: left out the first column, which has no name, as an index has none")
    try:
        check_names(names, name)
    except DataError as error:
        raise DataError(error.message, error.hint or _mend(names, mark)) from None
    if names != titles:
        padded = [new for new, old in zip(names, titles, strict=True) if new != old]
        notes.append(f"{name}: took the spaces around column names away: {listed(padded)}")
    if like_data(names):
        notes.append(f"{name}: {HEADERLESS}")
    return names, tuple(notes)


def _mend(names: list[str], mark: str) -> str | None:
    """What to do about names that are not there or come twice."""
    if like_data(names):
        return HEADERLESS
    if all(names):
        return None
    last = quoted("tab" if mark == "\t" else mark)
    nameless = names.count("")
    ways = [TITLES] if nameless > 1 else []
    ways.append(f"name {'them' if nameless > 1 else 'it'} in the first line")
    if not names[-1] and len(names) > nameless + 1:
        ways.append(f"remove the {last} at the end of every line")
    return ", or ".join(ways)
