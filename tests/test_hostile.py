"""Hostile files, the short form: every case through the command line, parsed by one reading process
that is started again when it dies. The long form, a process a command, is `corpora.run_all`."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import corpora
import pytest
from corpora import ALLOWED, NAUGHTY, Case

from gpunet import isolation
from gpunet.cli import _run
from gpunet.data import delimited, formats, read
from gpunet.data.parcel import pack, pack_piece
from gpunet.errors import DataError

pytestmark = pytest.mark.isolated
FILES = {case.name: case for case in corpora.files()}
MODELS = {case.name: case for case in corpora.models(bytes(64))}


class Kept(isolation.Worker):
    """A process that stays for the next case, unless it has died or is through."""

    is_through = False

    def close(self) -> None:
        self.is_through = self.is_through or self.process.poll() is not None

    def ask(self, *request, **more):
        try:
            return super().ask(*request, **more)
        except isolation.Crashed:
            self.is_through = True
            raise


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `table.csv` and `model.safetensors`, a model of its columns."""
    folder = tmp_path_factory.mktemp("hostile")
    corpora.trained(folder)
    return folder


@pytest.fixture(scope="module")
def keeper():
    """Hands out one process as long as it lives."""
    kept: list[Kept] = []

    def take(entry: str) -> Kept:
        if not kept or kept[-1].is_through:
            kept.append(Kept(entry).greeted())
        return kept[-1]

    yield take
    for each in kept:
        isolation.Worker.close(each)


@pytest.fixture
def call(keeper, trained, tmp_path, monkeypatch, capfd):
    """Runs a command in a folder of its own; gives its code and what it said on both streams."""
    monkeypatch.setattr(isolation, "take", keeper)
    monkeypatch.setattr(isolation, "start_early", lambda entry: None)
    monkeypatch.setattr(sys, "argv", ["gpunet"])
    monkeypatch.chdir(tmp_path)

    def run(*command: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = _run(list(command))
        out, err = capfd.readouterr()
        assert not list(corpora.said_wrong(err.encode(errors="surrogateescape")))
        return code, out, err

    return run


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_or_refused(call, trained: Path, tmp_path: Path, name: str) -> None:
    case = FILES[name]
    (tmp_path / name).write_bytes(case.content())
    code, _, err = call("data", "show", name, *case.options)
    assert code in (ALLOWED if case.code < 0 else {case.code}), err
    for command in (
        ("train", name, *case.target, "--steps", "1", "--device", "cpu", "-o", "run"),
        ("predict", str(trained / "model.safetensors"), name),
    ):
        code, _, err = call(*command, *case.options)
        assert code in ALLOWED, err
    assert set(os.listdir(tmp_path)) <= {name, "run"}


@pytest.fixture(scope="module")
def models(trained: Path) -> dict[str, Case]:
    sound = (trained / "model.safetensors").read_bytes()
    return {case.name: case for case in corpora.models(sound)}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_loaded_or_refused(call, trained, models, tmp_path: Path, name: str) -> None:
    case = models[name]
    (tmp_path / case.name).write_bytes(case.content())
    for command in ("predict", "evaluate"):
        code, _, err = call(command, case.name, str(trained / "table.csv"))
        assert code in (ALLOWED if case.code < 0 else {case.code}), err


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.npz"])
def test_a_bomb_takes_neither_time_nor_memory(trained: Path, tmp_path: Path, name: str) -> None:
    table, model = trained / "table.csv", trained / "model.safetensors"
    for outcome in corpora.judge(FILES[name], tmp_path, model, table):
        assert outcome.faults == ()


def test_the_judge_finds_fault(trained: Path, tmp_path: Path, monkeypatch) -> None:
    """A wrong exit code, too much time, too much memory, and a file left behind."""
    monkeypatch.setattr(corpora, "SECONDS", 0)
    monkeypatch.setattr(corpora, "SPARE", 0)
    case = Case("t.csv", lambda: corpora.PLAIN, 65)
    monkeypatch.setattr(corpora, "commands", lambda *_: [(("data", "show", "t.csv"), {65})])
    (outcome,) = corpora.judge(case, tmp_path, trained, trained)
    assert re.search("exit 0.* s.*MiB of memory", " ".join(outcome.faults), re.DOTALL)
    left = [("train", "t.csv", "-t", "y", "--steps", "1", "-o", "other"), {0}]
    monkeypatch.setattr(corpora, "commands", lambda *_: [left])
    assert "left ['other']" in " ".join(
        fault for each in corpora.judge(case, tmp_path, trained, trained) for fault in each.faults
    )
    assert list(corpora.said_wrong(b"Traceback (most recent call last)"))
    assert list(corpora.said_wrong(b"\x1b[31m"))


# A reader that dies


@pytest.mark.skipif(sys.platform != "linux", reason="signals")
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_reader_that_crashes_is_a_data_error(tmp_path: Path, monkeypatch, name: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(corpora.PLAIN)
    monkeypatch.setattr(formats, "ENTRY", "crashing")
    asked = isolation.Worker.ask
    way = {"way": "signal", "signal": name}
    monkeypatch.setattr(
        isolation.Worker, "ask", lambda self, request, *rest: asked(self, way, *rest)
    )
    with pytest.raises(DataError, match=rf"reader crashed on .*t\.csv \(signal {name}\)"):
        read(path)


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"name": "t", "text": True, "first": 1, "notes": [], "arrays": {}},
        {"name": "t", "text": False, "first": 1, "notes": 5, "arrays": {"x": ["<f8", [1, 2]]}},
        {"name": "t", "text": False, "first": 1, "notes": [], "arrays": {"x": ["<f8", [-1, -2]]}},
        {"name": "t", "text": False, "first": 1, "notes": [], "arrays": {"x": ["|O", [2]]}},
        {"name": "t", "text": False, "first": 1, "notes": [], "arrays": {"x": ["<f8", [3]]}},
        {"name": "t", "text": False, "first": 1, "notes": [], "arrays": {"z": ["<f8", [2]]}},
        {"name": "t", "text": False, "first": 1, "notes": [], "arrays": {"x": ["<f8", "ab"]}},
    ],
)
def test_a_reader_that_answers_nonsense_is_a_data_error(tmp_path: Path, monkeypatch, head) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(corpora.PLAIN)
    answer = (head, [memoryview(bytes(16))])
    monkeypatch.setattr(isolation.Worker, "ask", lambda self, *request: answer)
    with pytest.raises(DataError, match="reader crashed on"):
        read(path)


def test_where_no_process_can_be_started_files_are_parsed_here_with_a_note(
    tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(corpora.PLAIN)
    assert read(path).notes == ()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    (note,) = read(path).notes
    assert "parsed without a process of its own" in note
    monkeypatch.setattr(sys, "executable", "")
    assert "parsed without a process of its own" in read(path).notes[0]


def test_what_comes_back_is_what_was_read(tmp_path: Path, monkeypatch) -> None:
    for case in FILES.values():
        if case.code or case.options or "bomb" in case.name:
            continue
        path = tmp_path / case.name
        path.write_bytes(content := case.content())
        scan = max(10, len(content) // 1000)
        monkeypatch.setattr(delimited, "SCAN", scan)
        monkeypatch.setattr(delimited, "PIECE", 3 * scan)
        monkeypatch.setattr(isolation, "enabled", False)
        here = read(path)
        monkeypatch.setattr(isolation, "enabled", True)
        with monkeypatch.context() as patch:
            patch.setattr(isolation, "take", _in_memory)
            apart = read(path)
        for name in ("name", "text", "first", "notes", "columns", "rows"):
            assert getattr(here, name) == getattr(apart, name), (case.name, name)
        assert here.table is None or here.table.equals(apart.table), case.name
        for name in ("x", "y", "lines"):
            mine, theirs = getattr(here, name), getattr(apart, name)
            assert (mine is None) == (theirs is None)
            assert mine is None or (mine.dtype == theirs.dtype and (mine == theirs).all())


class _InMemory(isolation.Worker):
    """The same bytes without a process between."""

    def __init__(self) -> None:
        pass

    def close(self) -> None:
        pass

    def ask(self, request, most, feed=None):
        how = formats.Reading(*(request[key] for key in ("delimiter", "header", "budget")))
        path, ahead = request["path"], []
        source = formats._read_here(path, how, lambda table: ahead.append(pack_piece(table)))
        head, parts = pack(source, len(ahead))
        parts = ahead + parts
        sent = [memoryview(bytearray(b"".join(map(_bytes, part)))) for part in parts]
        return json.loads(json.dumps(head)), sent


def _bytes(piece: object) -> bytes:
    return bytes(memoryview(piece).cast("B"))


def _in_memory(entry: str) -> _InMemory:
    return _InMemory()


# Names from data, wherever they are shown


def test_naughty_names_are_shown_harmlessly(call, tmp_path: Path) -> None:
    rows = "".join(
        f"{i},{i % 3},{i % 5},{i % 7},{i % 2},{i},{['[/b]', '=1+1'][i % 2]}\n" for i in range(40)
    )
    names = ",".join('"' + name.replace('"', '""') + '"' for name in NAUGHTY)
    for file, target in (("t.csv", "\u202ey\x1b[0m"), ("u.csv", "[/red]y\x07")):
        Path(file).write_text(f'{names},"{target}"\n{rows}', newline="")
        train = ("train", file, "-t", target, "--steps", "2", "-o", file + ".run")
        for command in (
            ("data", "show", file, "-t", target),
            ("data", "show", file, "-t", target, "--json"),
            train,
            ("evaluate", file + ".run", file),
            ("evaluate", file + ".run", file, "--json"),
            ("predict", file + ".run", file, "-o", file + ".out.csv", "--json"),
            ("plan", file, "-t", target),
        ):
            code, out, err = call(*command)
            assert code == 0, err
            assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", out), command
        code, out, _ = call("data", "show", file, "-t", target)
        assert "[/red]" in out
        assert "\\x1b[31ma\\x1b[0m" in out
        assert "\\u202egnp.exe" in out
        assert "a\\nb" in out
    Path("less.csv").write_text("q\n1\n")
    code, _, err = call("predict", "t.csv.run", "less.csv")
    assert code == 65
    assert len(err.splitlines()) == 1


def test_names_of_files_are_shown_harmlessly(call) -> None:
    for name in NAUGHTY[:5]:
        file = name.replace("/", "_") + ".csv"
        Path(file).write_bytes(b"a,b\n1,2,3\n")
        code, _, err = call("data", "show", file)
        assert code == 65
        assert len(err.splitlines()) == 1
        Path(file).unlink()


def test_standard_input_is_parsed_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "gpunet", "data", "show", "-", "--json"]
    content = io.BytesIO(corpora.PLAIN).getvalue() * 2
    for given, code in ((corpora.PLAIN, 0), (content, 0), (b"", 65)):
        done = subprocess.run(command, input=given, capture_output=True)
        assert done.returncode == code
        assert code or json.loads(done.stdout)["rows"] == given.count(b"\n") - 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_what_is_handed_to_a_process_is_read_as_standard_input_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(corpora.PLAIN)
    show = f"{sys.executable} -P -m gpunet data show --json"
    for line in (
        f"{show} /dev/stdin < t.csv",
        f"cat t.csv | {show} /dev/stdin",
        f"cat t.csv | gzip | {show} /proc/self/fd/0",
        f"{show} <(cat t.csv)",
        f"{show} /dev/fd/5 5< t.csv",
        f"mkfifo pipe; cat t.csv > pipe & {show} pipe",
    ):
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 0, (line, done.stderr)
        found = json.loads(done.stdout)
        assert (found["data"], found["rows"]) == ("stdin", corpora.PLAIN.count(b"\n") - 1)
    done = subprocess.run([*show.split(), "/dev/fd/99"], capture_output=True, timeout=60)
    assert done.returncode == 66
