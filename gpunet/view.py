"""How gpunet looks in a terminal. Is handed plain objects; computes nothing and reads no file.

Results go to stdout, everything else to stderr. Text that came from data passes through `show`.
"""

import json
import os
import re
import select
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Timer
from typing import Any, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gpunet.errors import WriteError
from gpunet.sizes import counted, plain, shown

WIDE, NARROW = 1000, 24
"""Columns of lines off a terminal, and at least: a terminal that is narrower wraps them."""
ROOM = 14
"""Columns for a bar that can be seen, and the time left."""
WHOLE = ("epoch", "step", "loss", "validation", "best", "lr", "rate")
BESIDE_BAR = (
    ("epoch", "loss", "validation", "best", "rate"),
    ("epoch", "loss", "validation", "best"),
    ("epoch", "loss", "metric", "best"),
    ("epoch", "metric", "best"),
    ("epoch", "metric"),
    ("epoch",),
)
"""What is told of a report in a line of its own, and beside a bar that leaves less and less room.
"""
MANY_COLUMNS = 30
"""Above it the columns of a table are told by kind."""
MOST = 4000
"""Characters of an error or a warning: names that data made may be as long as they like."""
LONG = 60
"""Characters of a name in a table, or of a word in a warning."""
SILENCE = 10.0
"""Seconds after which work that shows nothing says what it is at."""
MARKS = {"…": "...", "→": "->", "·": "|", "–": "-", "×": "x", "µ": "u", "∥": "||"}
"""Marks that are written here, and what stands for them where a stream has ASCII alone."""


def out() -> Console:
    """The console of results: markup and highlighting off."""
    return _console()


def err() -> Console:
    """The console of talk; live pieces only where stderr is a terminal."""
    live, file = _is_terminal(), None if sys.stderr is None else _Talk(sys.stderr)
    return _console(stderr=True, file=file, force_interactive=live)


def _console(**more: Any) -> Console:
    made = Console(markup=False, highlight=False, emoji=False, **more)
    if made.is_dumb_terminal:  # rich takes it to have 80 columns
        made.size = shutil.get_terminal_size()
    return made


class _Talk:
    """stderr, but for its faults: work goes on where nobody reads it any more."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except OSError:
            _hush()

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError:
            _hush()


def _hush() -> None:
    """What is still said, and what stderr holds, is dropped."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)


def show(text: object, stream: object = None) -> str:
    """Text that came from data, with control and direction characters made visible, and marks as
    a stream has them."""
    seen = "".join(c if c.isprintable() else _escape(c) for c in str(text))
    return seen.translate(_stand_ins(getattr(stream, "encoding", None) or "utf-8"))


@cache
def _stand_ins(encoding: str) -> dict[int, str]:
    """What stands for the marks that an encoding lacks."""
    lacking = {}
    for mark, words in MARKS.items():
        try:
            mark.encode(encoding)
        except UnicodeEncodeError:
            lacking[ord(mark)] = words
    return lacking


def short(name: object, most: int = LONG) -> str:
    """A name that may be as long as it likes: of a long one its ends."""
    text, tail = str(name), most // 3
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[-tail:]}"


def put(content: str | bytes) -> None:
    """A result on stdout, all of it. Raises BrokenPipeError, and WriteError for other faults."""
    stream: Any = sys.stdout
    binary = getattr(stream, "buffer", None)
    if binary is None:  # a notebook's, or a test's
        stream.write(content if isinstance(content, str) else content.decode())
        return
    data = content.encode(stream.encoding, stream.errors) if isinstance(content, str) else content
    try:
        stream.flush()
        _pour(getattr(binary, "raw", binary), data)
    except BrokenPipeError:
        raise
    except OSError as reason:
        raise WriteError(f"stdout: {reason.strerror or reason}") from reason


def _pour(raw: Any, data: bytes) -> None:
    """Write past Python's buffer, which drops the rest where a pipe does not block."""
    rest = memoryview(data)
    while rest:
        taken = raw.write(rest)
        if taken is None:
            select.select([], [raw], [])
        else:
            rest = rest[taken:]


def print_json(value: Any) -> None:
    """One JSON document on stdout; numbers that are not finite become null."""
    put(json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any, other: Callable[[float], Any] = lambda number: None) -> Any:
    """The same value, NaN and infinities as None, or what `other` makes of them: JSON has no word
    for them."""
    if isinstance(value, float):
        return value if value - value == 0 else other(value)
    if isinstance(value, Mapping):
        return {key: finite(each, other) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(each, other) for each in value]
    return value


def error(message: str) -> None:
    """One line on stderr."""
    say(f"gpunet: error: {_cut(show(message))}")


def warn(message: str) -> None:
    """One line on stderr that is not fatal; of long words in it the ends, but for paths and what
    stands behind an option, which may be copied."""
    words = rf"(--\S+ )?([^\s/\\,]{{{LONG},}})"
    seen = re.sub(words, lambda found: found[0] if found[1] else short(found[0]), show(message))
    say(f"gpunet: warning: {_cut(seen)}")


def say(message: str) -> None:
    """One line of talk on stderr, which wraps at words in a terminal that is wide enough for each:
    a path stays whole."""
    line = show(message, sys.stderr)
    if _is_terminal() and max(map(cell_len, line.split()), default=0) <= _room(err()):
        _print(err(), Text(line, overflow="fold"))
    else:
        _talk(line + "\n")


@contextmanager
def phase(what: str, quiet: bool = False) -> Iterator[None]:
    """Work that shows nothing: one line of talk if it takes long."""
    timer = Timer(SILENCE, say, [f"{what} …"])
    timer.daemon = True
    if not quiet:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def gap() -> None:
    """An empty line, on a terminal alone."""
    if _is_terminal():
        _talk("\n")


def facts(rows: Iterable[tuple[str, str]], console: Console | None = None) -> None:
    """Pairs of a word and what there is to say of it, aligned."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    console = console or err()
    for word, text in rows:
        grid.add_row(Text(show(word, console.file)), Text(show(text, console.file)))
    _print(console, grid)


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Iterable[int] = (),
    title: str | None = None,
    console: Console | None = None,
) -> None:
    """A table on stdout, or on a console; columns in `right` are numbers. In a terminal that is too
    narrow for its words a row becomes a sentence."""
    console, numbers = console or out(), set(right)
    header, *lines = [[show(cell, console.file) for cell in row] for row in (header, *rows)]
    room, least = _room(console), _words([header, *lines])
    widths = [max(map(cell_len, column)) for column in zip(header, *lines, strict=True)]
    if console.is_terminal and sum(least) + 2 * len(least) - 2 > room:
        sentences = [show(_sentence(header, line), console.file) for line in lines]
        said = [*([title] if title else []), *sentences]
        _print(console, Text("\n".join(said), overflow="fold"))
        return
    grid = Table(box=None, pad_edge=False, title=title, title_justify="left", padding=(0, 2, 0, 0))
    for i, (word, width) in enumerate(zip(header, _narrowed(widths, least, room), strict=True)):
        side: Literal["left", "right"] = "right" if i in numbers else "left"
        grid.add_column(Text(word), width=width, justify=side, overflow="fold")
    for line in lines:
        grid.add_row(*map(Text, line))
    _print(console, grid)


def _words(lines: Sequence[Sequence[str]]) -> list[int]:
    """How wide columns are with each word on a line of its own; the first one's stay together."""
    first, *others = zip(*lines, strict=True)
    words = ((word for cell in column for word in cell.split()) for column in others)
    return [max(map(cell_len, each), default=0) for each in (first, *words)]


def _narrowed(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Widths of columns that are together in a room: the widest of those that can give way do."""
    fitted = list(widths)
    while sum(fitted) + 2 * len(fitted) - 2 > room and fitted != least:
        _, i = max((width, i) for i, width in enumerate(fitted) if width > least[i])
        fitted[i] -= 1
    return fitted


def _sentence(header: Sequence[str], line: Sequence[str]) -> str:
    """A row in words: what it is of, and each cell that is not empty behind its column's name."""
    said = [
        f"{word} {cell}".strip() for word, cell in zip(header[1:], line[1:], strict=True) if cell
    ]
    return f"{line[0]}: {' · '.join(said)}"


Metrics = Mapping[str, float | None]


def metrics(judged: Mapping[str, Any]) -> None:
    """Metrics by part, in the order in which they are given, a column a part: 0.861 (0.852…0.869)
    where an interval is known; what was resampled for it unless it is rows. Behind them the
    baselines, on the last part of theirs; below them each of several targets."""
    intervals = judged.get("intervals", {})
    shown = {part: values for part, values in judged["metrics"].items() if values}
    for name, parts in judged.get("baselines", {}).items():
        part = list(parts)[-1]
        shown[f"{name}, {part}"] = parts[part]
    names = dict.fromkeys(name for values in shown.values() for name in values)
    rows = [
        [
            name,
            *(
                figure(of.get(name), intervals.get(part, {}).get(name))
                for part, of in shown.items()
            ),
        ]
        for name in names
    ]
    table(["", *shown], rows, right=range(1, len(shown) + 1))
    _targets(judged.get("targets", {}))
    resampled = judged.get("resampled", {}).items()
    if drawn := [f"{part}: {said}" for part, said in resampled if said != "rows"]:
        facts([("resampled", " · ".join(drawn))], out())


def _targets(found: Mapping[str, Mapping[str, Metrics]]) -> None:
    """The last part's metrics of each of several targets, a line each, of the first if they are
    many."""
    parts = [(part, each) for part, each in found.items() if each]
    if not parts:
        return
    part, each = parts[-1]
    names = dict.fromkeys(name for values in each.values() for name in values)
    rows = [
        [short(target), *(number(values.get(name)) for name in names)]
        for target, values in list(each.items())[:MANY_COLUMNS]
    ]
    if len(each) > len(rows):
        rows.append([f"and {len(each) - len(rows):,} more", *[""] * len(names)])
    table([f"target, {part}", *names], rows, right=range(1, len(names) + 1))


def figure(value: float | None, interval: Sequence[float | None] | None) -> str:
    """A number, with its interval where that is known."""
    if interval is None or value is None or None in finite(interval):
        return number(finite(value))
    return f"{number(value)} ({number(interval[0])}…{number(interval[1])})"


def trail(fault: Any) -> None:
    """The last steps before a value was not finite."""
    if fault is None:
        return
    lines = [(f"step {each['step']:,}", f"loss {each['loss']:g}") for each in fault.trail]
    facts(lines)


def profile(name: str, rows: int, columns: Iterable[Any]) -> None:
    """What a file holds, a line a column; the values take a third of a terminal at most."""
    room = _room(out()) // 3
    lines = [
        [
            short(c.name),
            c.kind,
            "" if c.missing is None else f"{c.missing:,}",
            "" if c.distinct is None else f"{c.distinct:,}",
            _values(c, room),
            c.note,
        ]
        for c in columns
    ]
    head = ["column", "kind", "missing", "distinct", "values", "note"]
    table(head, lines, right=(2, 3), title=f"{show(name)}: {counted(rows, 'row')}")


def columns(seen: Sequence[Any], console: Console) -> None:
    """What columns were taken for, a line each; of many, how many of each kind, and those with a
    warning."""
    shown = seen
    if len(seen) > MANY_COLUMNS:
        kinds = Counter(each.kind for each in seen).most_common()
        facts([("columns", " · ".join(f"{count:,} {kind}" for kind, count in kinds))], console)
        shown = [each for each in seen if each.warnings][:MANY_COLUMNS]
    if not shown:
        return
    rows = [
        [short(each.name), each.kind, f"{each.values:,}", f"{each.missing:,}", each.evidence]
        for each in shown
    ]
    head = ["column", "kind", "values", "missing", "evidence"]
    table(head, rows, right=(2, 3), console=console)


def plan(launches: Any) -> None:
    """A launch list, a line a launch, those of a micro-batch once, and what it comes to."""
    found = plan_to_json(launches)
    times = Counter(map(id, launches.launches))
    once = dict(zip(map(id, launches.launches), found["launches"]))
    rows = [
        [
            i,
            each["launch"]
            + (f" ×{times[which]}" if times[which] > 1 else "")
            + (" ∥" if each["branch"] else ""),
            " ".join(map(_shape, each["reads"])),
            " ".join(_shape(slot) for slot in each["writes"] if not slot[0].endswith(".work")),
            shown(each["bytes"]),
            "" if each["flops"] is None else f"{each['flops'] / 1e6:,.2f} M",
        ]
        for i, (which, each) in enumerate(once.items(), 1)
    ]
    table(["", "launch", "reads", "writes", "bytes", "FLOPs"], rows, right=(0, 4, 5))
    total = sum(each["flops"] or 0 for each in found["launches"])
    at_a_time = found["micro_batch"]
    where = f"{found['device']}, {found['kernels']}"
    parts = "" if at_a_time == found["batch"] else f" in micro-batches of {at_a_time:,}"
    beside = sum(each["branch"] for each in once.values())
    facts(
        [
            ("batch", f"{counted(found['batch'], 'row')}{parts} on {where}"),
            ("arena", shown(found["arena_bytes"])),
            ("products", f"{total / 1e6:,.2f} MFLOP a step"),
            *[("∥", f"{beside:,} launched beside others")] * (beside > 0),
        ],
        out(),
    )


def plan_to_json(launches: Any) -> dict[str, Any]:
    """The same in plain values."""
    return {
        "schema": "gpunet.plan/1",
        "device": launches.device.name,
        "kernels": launches.runs_on,
        "batch": launches.batch,
        "micro_batch": launches.micro_batch,
        "arena_bytes": launches.arena_bytes,
        "launches": [
            {
                "launch": each.name,
                "reads": [[slot.name, list(slot.shape), slot.dtype] for slot in each.reads],
                "writes": [[slot.name, list(slot.shape), slot.dtype] for slot in each.writes],
                "bytes": each.nbytes,
                "flops": each.flops,
                "branch": each.branch,
                "waits": each.waits,
            }
            for each in launches.launches
        ],
    }


def _shape(slot: Sequence[Any]) -> str:
    name, shape, _ = slot
    return f"{name}({','.join(map(str, shape))})"


def _values(column: Any, room: int) -> str:
    """The range and middle of numbers, or as many of the commonest levels as there is room for."""
    if column.top:
        longest = min(LONG, max(NARROW // 2, room - len(f" {column.top[0][1]:,}")))
        levels = [f"{short(level, longest)} {count:,}" for level, count in column.top]
        while len(levels) > 1 and len(", ".join(levels)) > room:
            levels.pop()
        return ", ".join(levels)
    ends = (column.minimum, column.median, column.maximum)
    words = [plain(end) if isinstance(end, float) else str(end) for end in ends if end is not None]
    return " … ".join(words)


def _print(console: Console, thing: Any) -> None:
    """A grid as wide as the terminal, or off one as wide as it likes; no spaces at line ends."""
    console.width = _room(console)
    with console.capture() as captured:
        console.print(thing)
    lines = captured.get().splitlines()
    text = "".join(line.rstrip() + "\n" for line in lines)
    if console.stderr:
        _talk(text)
    elif console.file is sys.stdout:
        put(text)
    else:
        console.file.write(text)


def _room(console: Console) -> int:
    return max(NARROW, console.width) if console.is_terminal else WIDE


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _talk(text: str) -> None:
    if sys.stderr is not None:
        _Talk(sys.stderr).write(text)


def number(value: float | None) -> str:
    """Four decimals below 1, else four digits or more, and a dash for what is not known."""
    if value is None:
        return "–"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        whole = len(str(int(abs(value))))
        return f"{value:,.{max(0, 4 - whole)}f}" if abs(value) >= 1 else f"{value:.4f}"
    return f"{value:.3e}"


def duration(seconds: float) -> str:
    """Seconds in words: 0.52 s, 12 s, 3 min 20 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


class Training:
    """A run while it goes: a live bar on a terminal that can move lines, else a plain line a
    report.

    metric: what is told of the validation part beside its loss; by: what the best epoch has least
    or most of. best: the best report of a run that was taken up.
    """

    def __init__(
        self, steps: int, metric: str, by: str, quiet: bool = False, best: Any = None
    ) -> None:
        self.metric, self.by, self.quiet, self.best = metric, by, quiet, best
        self.console = err()
        live = self.console.is_terminal and not self.console.is_dumb_terminal and not quiet
        self.bar = _bar(self.console, steps) if live else None

    def __enter__(self) -> "Training":
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *reason: object) -> None:
        if self.bar is not None:
            task = self.bar.tasks[0]
            self.bar.update(task.id, total=max(1, task.completed))
            self.bar.stop()

    def tick(self, step: int) -> None:
        """A step is done."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=step)

    def report(self, report: Any) -> None:
        """A report is in."""
        if report.best:
            self.best = report
        parts = self._parts(report)
        if self.bar is not None:
            said = _fitting(parts, self.console.width - ROOM)
            self.bar.update(self.bar.task_ids[0], said=show(said, sys.stderr))
        elif not self.quiet:
            say(_line(parts, WHOLE))

    def _parts(self, report: Any) -> dict[str, str]:
        found = report.validation
        parts = {"epoch": f"epoch {report.epoch:,}/{report.epochs:,}"}
        if report.epochs != report.steps:
            parts["step"] = f"step {report.step:,}"
        parts["loss"] = f"loss {number(report.loss)}"
        if found:
            metric = f"{self.metric} {number(found.get(self.metric))}"
            parts["validation"] = f"validation loss {number(found['loss'])}, {metric}"
            parts["metric"] = f"validation {metric}"
        if found and self.best is not None:
            name = "" if self.by == self.metric else f"{self.by} "
            value = number(self.best.validation.get(self.by))
            parts["best"] = f"best {name}{value} @{self.best.epoch:,}"
        parts["lr"] = f"lr {report.lr:.3g}"
        parts["rate"] = f"{report.rows_per_second:,.0f} rows/s"
        return parts


def _fitting(parts: Mapping[str, str], width: int) -> str:
    """The parts that there is room for beside a bar."""
    lines = [_line(parts, names) for names in BESIDE_BAR]
    return next((line for line in lines if len(line) <= width), lines[-1])


def _line(parts: Mapping[str, str], names: Iterable[str]) -> str:
    return "  ".join(parts[name] for name in names if name in parts)


def _bar(console: Console, steps: int) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.fields[said]}", markup=False), BarColumn(bar_width=None)]
    bar = Progress(
        *columns,
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        console=console,
        refresh_per_second=8,
        expand=True,
    )
    bar.add_task("", total=steps, said="starting")
    return bar


def _cut(text: str) -> str:
    return text if len(text) <= MOST else f"{text[: MOST - 1]}…"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
