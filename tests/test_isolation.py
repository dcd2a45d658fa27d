"""Work in a process of its own: whatever happens there is an error here, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpunet import isolation
from gpunet.errors import DataError, OutOfMemory
from gpunet.isolation import HEAD, MAGIC, Crashed

pytestmark = pytest.mark.isolated
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and /proc are Linux's")


@pytest.fixture
def worker():
    with isolation.take("crashing") as made:
        yield made


def test_requests_are_answered_one_after_the_other(worker) -> None:
    for _ in range(2):
        head, parts = worker.ask({"way": "echo"}, 1 << 22)
        assert (head["got"], head["pid"]) == ("echo", worker.process.pid)
        assert [bytes(part) for part in parts] == [b"abc", b"", bytes(3_000_000)]


def test_what_went_ahead_comes_first(worker) -> None:
    for sizes in ([5, 0, 3_000_000], [], [7]):
        head, parts = worker.ask({"way": "echo", "ahead": sizes}, 1 << 23)
        assert head["got"] == "echo"
        assert list(map(len, parts)) == [*sizes, 3, 0, 3_000_000]
    with pytest.raises(DataError):
        worker.ask({"way": "fault", "ahead": [1 << 20] * 3}, 1 << 22)
    with pytest.raises(Crashed, match="larger"):
        worker.ask({"way": "print", "ahead": [6, 6]}, 11)


@linux
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGBUS"])
def test_a_signal_is_named(worker, name: str) -> None:
    with pytest.raises(Crashed, match=name):
        worker.ask({"way": "signal", "signal": name}, 0)


def test_a_status_is_named_and_that_of_memory_is_told(worker) -> None:
    with pytest.raises(Crashed, match="status 3"):
        worker.ask({"way": "leave", "status": 3}, 0)
    with isolation.take("crashing") as other, pytest.raises(OutOfMemory, match="--max-memory"):
        other.ask({"way": "leave", "status": 71}, 0)


def test_errors_come_back_as_they_were(worker) -> None:
    with pytest.raises(DataError) as caught:
        worker.ask({"way": "fault"}, 0)
    assert (caught.value.message, caught.value.hint) == ("not data: \x1b[31m", "a hint")


def test_a_bug_is_a_bug_with_its_traceback(worker) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'inner'") as caught:
        worker.ask({"way": "bug"}, 0)
    assert "crashing.py" in caught.value.__notes__[0]


@linux
def test_more_memory_than_allowed(worker) -> None:
    with pytest.raises(OutOfMemory):
        worker.ask({"way": "exhaust"}, 0)


@linux
def test_more_processor_time_than_allowed(worker) -> None:
    with pytest.raises(Crashed, match="SIGXCPU"):
        worker.ask({"way": "spin"}, 0)


@linux
def test_files_cannot_be_written(worker, tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert "refused" in worker.ask({"way": "write", "path": str(path)}, 0)[0]
    assert path.read_bytes() == b""


def test_what_libraries_print_reaches_nobody(worker, capfd) -> None:
    assert worker.ask({"way": "print"}, 0)[1] == []
    assert capfd.readouterr() == ("", "")


def raw(head: object) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return HEAD.pack(MAGIC, len(text)) + text


@linux
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"GPN1",
        b"JUNK\0\0\0\0",
        HEAD.pack(MAGIC, 1 << 31),
        raw(b"{"),
        raw(b"[" * 100_000),
        raw([]),
        raw({}),
        raw({"sizes": 5}),
        raw({"sizes": [1.5]}),
        raw({"sizes": [True]}),
        raw({"sizes": [-1, 1]}),
        raw({"sizes": [11]}),
        raw({"sizes": [10**30]}),
        raw({"sizes": [8]}) + b"1234567",
        raw({"sizes": [8], "ahead": True}) + b"12345678",
        (raw({"sizes": [8], "ahead": True}) + b"12345678") * 2,
        raw({"sizes": [0], "ahead": True}) * 10,
        raw({"error": 5}),
        raw({"error": ["Exception", "", None]}),
        raw({"error": ["__builtins__", "", None]}),
        raw({"error": ["DataError", ""]}),
    ],
)
def test_answers_that_make_no_sense(worker, answer: bytes) -> None:
    with pytest.raises(Crashed):
        worker.ask({"way": "head", "raw": answer.hex()}, 10)


def test_a_feed_is_handed_on(worker) -> None:
    feed = (bytes(100_000) for _ in range(30))
    assert worker.ask({"way": "feed"}, 0, feed)[0]["length"] == 3_000_000


def test_an_answer_before_the_feed_ends_is_heard(worker) -> None:
    def endless():
        while True:
            yield bytes(1 << 20)

    with pytest.raises(DataError, match="enough"):
        worker.ask({"way": "deaf"}, 0, endless())


def test_an_early_process_is_taken_and_an_unused_one_ends(monkeypatch) -> None:
    isolation.start_early("crashing")
    early = isolation._early["crashing"]
    isolation.start_early("crashing")
    assert isolation.take("crashing") is early
    early.close()
    isolation.start_early("crashing")
    unused = isolation._early["crashing"]
    isolation._close_early()
    assert unused.process.returncode is not None


def test_where_no_process_can_be_started(monkeypatch) -> None:
    assert isolation.is_possible()
    monkeypatch.setattr(sys, "executable", "")
    assert not isolation.is_possible()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    isolation.start_early("crashing")
    assert not isolation._early
    with pytest.raises(OSError, match="nowhere"):
        isolation.take("crashing")


@linux
def test_a_program_that_python_is_a_part_of_parses_files_itself(tmp_path, monkeypatch) -> None:
    from gpunet.data import read

    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    monkeypatch.setattr(isolation, "_is_foreign", False)
    monkeypatch.setattr(isolation, "GREETING", 1)
    for name, line in (("ends", "exit 0"), ("talks", "echo GPN"), ("waits", "exec sleep 60")):
        assert isolation.is_possible()
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / name))
        before = set(children(os.getpid()))
        source = read(tmp_path / "t.csv")
        assert source.rows == 2
        assert "parsed without a process of its own (this interpreter" in source.notes[0]
        assert set(children(os.getpid())) == before
    assert not isolation.is_possible()


def children(pid: int) -> list[int]:
    """Living processes whose parent is `pid`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, NotADirectoryError):
            continue
        if entry.name.isdigit() and int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def waits(condition) -> bool:
    """Whether a condition comes true within a minute: a shared machine may be that slow."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@linux
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_outlives_its_parent(name: str) -> None:
    command = [sys.executable, "-P", "-m", "gpunet", "data", "show", "-"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, **pipes) as parent:
        assert waits(lambda: children(parent.pid))
        (child,) = children(parent.pid)
        time.sleep(0.5)
        parent.send_signal(signal.Signals[name])
        parent.wait(10)
        assert waits(lambda: is_gone(child))
        assert parent.returncode == {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}[name]


def test_a_parent_that_died_before_its_process_began_leaves_no_work(monkeypatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(OSError, match="cannot be started again"):
        isolation.take("crashing")


@linux
def test_nothing_is_left_behind_by_reading(tmp_path: Path) -> None:
    from gpunet.data import read

    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    before = set(children(os.getpid()))
    descriptors = len(os.listdir("/proc/self/fd"))
    assert read(path).rows == 2
    assert set(children(os.getpid())) == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
