"""What is said beside a live bar, and to a stderr that nobody reads."""

import io
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Queue
from threading import Timer
from types import SimpleNamespace

import pytest
from rich.console import Console

from gpunet import view
from gpunet.data import ColumnProfile

REPORT = SimpleNamespace(
    step=8,
    steps=1600,
    epoch=1,
    epochs=200,
    loss=0.5,
    validation={"loss": 0.25, "accuracy": 0.75, "log_loss": 0.3},
    lr=0.002,
    best=True,
    rows_per_second=12_345.6,
)
LATER = SimpleNamespace(**{**vars(REPORT), "epoch": 3, "best": False, "loss": 0.125})


def shown_of(*reports: SimpleNamespace, by: str = "accuracy") -> view.Training:
    shown = view.Training(1600, "accuracy", by, quiet=True)
    for report in reports:
        shown.report(report)
    return shown


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (100, "epoch 3/200  loss 0.1250  {}loss 0.2500, {}  best 0.7500 @1  12,346 rows/s"),
        (90, "epoch 3/200  loss 0.1250  {}loss 0.2500, {}  best 0.7500 @1"),
        (70, "epoch 3/200  loss 0.1250  {}{}  best 0.7500 @1"),
        (60, "epoch 3/200  {}{}  best 0.7500 @1"),
        (46, "epoch 3/200  {}{}"),
        (12, "epoch 3/200"),
    ],
)
def test_the_bar_has_room(width: int, said: str) -> None:
    parts = shown_of(REPORT, LATER)._parts(LATER)
    assert view._fitting(parts, width) == said.format("validation ", "accuracy 0.7500")


def test_the_best_epoch_is_told_by_what_it_was_chosen_by() -> None:
    assert shown_of(REPORT, by="log_loss")._parts(LATER)["best"] == "best log_loss 0.3000 @1"
    taken_up = view.Training(1600, "accuracy", "accuracy", quiet=True, best=REPORT)
    assert taken_up._parts(LATER)["best"] == "best 0.7500 @1"
    alone = SimpleNamespace(**{**vars(LATER), "validation": {}})
    parts = shown_of(REPORT)._parts(alone)
    assert view._fitting(parts, 90) == "epoch 3/200  loss 0.1250  12,346 rows/s"


def test_off_a_terminal_a_report_is_a_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    view.Training(1600, "accuracy", "accuracy").report(REPORT)
    assert capsys.readouterr().err == (
        "epoch 1/200  step 8  loss 0.5000  validation loss 0.2500, accuracy 0.7500  "
        "best 0.7500 @1  lr 0.002  12,346 rows/s\n"
    )


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "broken pipe"])
def test_work_goes_on_without_stderr(closed: bool) -> None:
    code = "from gpunet import view\nview.facts([('a', 'b')]); view.gap(); view.say('c'); print(1)"
    reader, writer = os.pipe()
    os.close(reader)
    command = ["sh", "-c", '"$0" -c "$1" 2>&-'] if closed else []
    done = subprocess.run(
        [*command, sys.executable, *([] if closed else ["-c"]), code],
        stdout=subprocess.PIPE,
        stderr=writer,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, b"1\n")


def test_long_work_says_what_it_is_unless_it_is_to_be_quiet(monkeypatch) -> None:
    said = Queue()
    monkeypatch.setattr(view, "say", said.put)
    monkeypatch.setattr(view, "SILENCE", 0)
    with view.phase("reading t.csv"):
        assert said.get(timeout=60) == "reading t.csv …"
    before = threading.active_count()
    with view.phase("reading t.csv", quiet=True):
        assert threading.active_count() == before


def test_short_work_says_nothing(monkeypatch) -> None:
    made = []
    monkeypatch.setattr(view, "Timer", lambda *given: made.append(Timer(*given)) or made[-1])
    with suppress(KeyError), view.phase("reading t.csv"):
        raise KeyError
    made[0].join(60)
    assert made[0].finished.is_set()
    assert not made[0].is_alive()


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0013, "0.0013"), (12.3456, "12.35"), (1234.5, "1,234"), (2e-5, "2.000e-05")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert view.number(value) == text


def test_a_figure_has_its_interval_where_one_is_known() -> None:
    assert view.figure(0.5, (0.25, 0.75)) == "0.5000 (0.2500…0.7500)"
    assert view.figure(0.5, (float("nan"), float("nan"))) == view.figure(0.5, None) == "0.5000"


def test_control_and_direction_characters_are_made_visible() -> None:
    assert view.show("a\x1b[31m\u202eb\n[red]") == "a\\x1b[31m\\u202eb\\n[red]"


def test_errors_and_warnings_made_of_long_names_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    view.error("x" * 1_000_000)
    view.warn("y " * 500_000)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.endswith("…") and len(line) < 2 * view.MOST for line in lines)
    view.error("z" * view.MOST)
    assert capsys.readouterr().err.endswith("z\n")


def test_long_names_are_shortened_in_tables_and_warnings(capsys) -> None:
    question = "how often " * 20 + "in March"
    for name in (question, "n" * 300):
        column = looks(1)[0]
        column.name = name
        view.columns([column], view.err())
    view.warn(f"{'n' * 300}: odd; leave out --drop {'n' * 300},b; {'/folder' * 20} has more")
    *tables, warning = capsys.readouterr().err.splitlines()
    assert max(map(len, tables)) < 140
    assert "often in March  category" in tables[1]
    cut = f"{'n' * 39}…{'n' * 19}"
    said = f"{cut}: odd; leave out --drop {'n' * 300},b; {'/folder' * 20} has more"
    assert warning == f"gpunet: warning: {said}"


def test_a_range_is_written_as_its_column_is(capsys) -> None:
    ends = [(1879.0, 1950.5, 2010.0), (0.0, 2.0, 4.0), ("2024-01-01", "2024-01-02", "2024-01-03")]
    columns = [ColumnProfile("c", "numeric", 0, 9, *each) for each in ends]
    view.profile("t", 9, columns)
    values = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert values == ["1879 … 1950.5 … 2010", "0 … 2 … 4", "2024-01-01 … 2024-01-02 … 2024-01-03"]


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (None, f"{'Finished_' * 4}levels 1,146, red 85, green 3"),
        (120, "Finished_Finished_Fini…shed_levels 1,146"),
        (80, "Finished_Fini…levels 1,146"),
    ],
)
def test_a_narrow_terminal_gets_fewer_levels(capsys, monkeypatch, width, said) -> None:
    if width:
        console = Console(force_terminal=True, width=width, color_system=None, highlight=False)
        monkeypatch.setattr(view, "out", lambda: console)
    top = (("Finished_" * 4 + "levels", 1146), ("red", 85), ("green", 3))
    view.profile("t", 9, [ColumnProfile("colour", "category", 0, 3, top=top)])
    assert capsys.readouterr().out.splitlines()[2].split(maxsplit=4)[4] == said


def looks(count: int) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            name=f"column {i}",
            kind="numeric" if i % 3 else "category",
            values=1200,
            missing=34,
            evidence="1,200 of 1,234 values are numbers, 0 … 9",
            warnings=("column 7: odd",) if i == 7 else (),
        )
        for i in range(count)
    ]


def test_columns_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    view.columns(looks(30), view.err())
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["column", "kind", "values", "missing", "evidence"]
    assert len(lines) == 31
    assert lines[2].endswith("1,200       34  1,200 of 1,234 values are numbers, 0 … 9")


def test_many_columns_are_told_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    view.columns(looks(31), view.err())
    first, _, *rest = capsys.readouterr().err.splitlines()
    assert first == "columns  20 numeric · 11 category"
    assert [line.split()[:2] for line in rest] == [["column", "7"]]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            60,
            ["          train       validation", "accuracy  1.000  0.9 (0.8…1.000)"],
        ),
        (
            28,
            [
                "          train   validation",
                "accuracy  1.000          0.9",
                "                 (0.8…1.000)",
            ],
        ),
        (27, ["accuracy: train 1.000 ·", "validation 0.9 (0.8…1.000)"]),
    ],
)
def test_no_word_of_a_table_is_broken(width: int, expected: list[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    rows = [["accuracy", "1.000", "0.9 (0.8…1.000)"]]
    view.table(["", "train", "validation"], rows, right=(1, 2), console=console)
    assert console.file.getvalue().splitlines() == expected


def test_every_metric_is_shown_in_its_order(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"train": {"pinball": 1.5, "coverage": None}, "test": {"pinball": 2.5, "mae": 3}}
    view.metrics({"metrics": parts})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["train", "pinball", "coverage", "mae"]
    assert lines[1] == ["pinball", "1.500", "2.500"]


class Terminal(io.StringIO):
    """A stream that looks like a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        return re.sub(r"\x1b\[\d*m", "", self.getvalue()).splitlines()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    def of(width: int) -> Terminal:
        made = Terminal()
        monkeypatch.setattr(sys, "stderr", made)
        for name, value in (("COLUMNS", str(width)), ("TERM", "xterm"), ("NO_COLOR", "1")):
            monkeypatch.setenv(name, value)
        return made

    return of


def test_talk_wraps_at_words(terminal) -> None:
    made = terminal(40)
    view.warn("no better than the trivial baseline beyond noise")
    assert made.lines == [
        "gpunet: warning: no better than the",
        "trivial baseline beyond noise",
    ]


def test_a_terminal_that_cannot_move_lines_gets_plain_ones(terminal, monkeypatch) -> None:
    made = terminal(60)
    monkeypatch.setenv("TERM", "dumb")
    with view.Training(1600, "accuracy", "accuracy") as shown:
        shown.tick(8)
        shown.report(REPORT)
    view.facts([("training", "batch " * 12)])
    assert made.lines == [
        "epoch 1/200  step 8  loss 0.5000  validation loss 0.2500,",
        "accuracy 0.7500  best 0.7500 @1  lr 0.002  12,346 rows/s",
        "training  batch batch batch batch batch batch batch batch",
        "          batch batch batch batch",
    ]


def test_a_path_wider_than_the_terminal_stays_whole(terminal) -> None:
    made, path = terminal(40), "/folder" * 20
    view.error(f"{path}: no such file")
    assert made.lines == [f"gpunet: error: {path}: no such file"]


def test_a_terminal_too_narrow_for_words_gets_longer_lines(terminal) -> None:
    made = terminal(5)
    view.facts([("training", "batch 64")])
    view.table(["column", "kind"], [["flipper_length_mm", "numeric"]], console=view.err())
    assert made.lines == ["training  batch 64", "flipper_length_mm: kind", "numeric"]


def test_where_there_is_room_for_its_words_no_cell_is_broken(terminal) -> None:
    made = terminal(73)
    row = ["accuracy", "0.9918", *["0.9760 (0.9589...0.9897)"] * 2, "0.4423", "0.9808"]
    head = ["", "train", "validation", "test", "trivial, test", "linear, test"]
    view.table(head, [row], right=range(1, 6), console=view.err())
    assert max(map(len, made.lines)) <= 73
    assert made.lines[-1].split() == ["(0.9589...0.9897)"] * 2


def test_a_stream_of_ascii_gets_stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {}
    for name in ("stdout", "stderr"):
        streams[name] = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
        monkeypatch.setattr(sys, name, streams[name])
    judged = {"metrics": {"auc": 0.5, "r2": None}, "intervals": {"auc": (0.25, 0.75)}}
    view.metrics({name: {"test": of} for name, of in judged.items()})
    view.warn("64 → 128 · é")
    view.facts([("sizes", "3 × 4")])
    said = {}
    for name, stream in streams.items():
        stream.flush()
        said[name] = stream.buffer.getvalue().decode("ascii").splitlines()
    assert said["stdout"] == [
        "                         test",
        "auc  0.5000 (0.2500...0.7500)",
        "r2                          -",
    ]
    assert said["stderr"] == ["gpunet: warning: 64 -> 128 | \\xe9", "sizes  3 x 4"]
