"""Runs survive: kills, full disks, power cuts, flipped bits, signals; and each check can fail."""

import errno
import itertools
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import power
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import SETTINGS, begin, follow, results

import gpunet
from gpunet import evaluation, job, rerun
from gpunet.device.cpu import Cpu
from gpunet.errors import GpunetError, ModelInvalid, WriteError
from gpunet.launches import LaunchList
from gpunet.loop import Report
from gpunet.predict import MODEL_FILE
from gpunet.run import Run, checkpoints, files, pack, unpack
from gpunet.run.tensors import parse

COMMAND = [sys.executable, "-P", "-m", "gpunet"]
LONG = ["digits", "--epochs", "40", "--patience", "0", "--checkpoint-every", "20", "-d", "cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    follow(begin(path))
    return path


# Any schedule of stops


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(stops=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_any_schedule_of_stops_ends_in_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, stops: list[int]
) -> None:
    path = tmp_path_factory.mktemp("stops") / "run"
    follow(begin(path), stops[0])
    for stop in [*stops[1:], None]:
        resumed, notes = rerun.take_up(path)
        assert notes == []
        follow(resumed, stop)
    assert results(path) == results(whole)


def newest(path: Path) -> dict[str, bytes]:
    """The arrays of the newest checkpoint."""
    tensors, _ = unpack(checkpoints(path)[0])
    return {name: array.tobytes() for name, array in tensors.items()}


SMALL = 7500
"""Bytes on a device in which two windows of two batches have room."""


@pytest.mark.parametrize("stops", [[5], [7, 17], [14, 20, 21]])
@pytest.mark.parametrize("rooms", [[None, SMALL], [SMALL, None], [SMALL, SMALL // 2]])
def test_rows_may_be_whole_or_come_in_windows_after_any_stop(
    tmp_path: Path, whole: Path, monkeypatch, rooms: list[int | None], stops: list[int]
) -> None:
    path, planned = tmp_path / "run", None
    for stop, room in zip([*stops, None], itertools.cycle(rooms)):
        monkeypatch.setattr(Cpu, "rows_bytes", room)
        planned = rerun.take_up(path)[0] if planned else begin(path)
        follow(planned, stop)
    assert results(path) == results(whole)


def test_checkpoints_after_a_stop_are_those_of_an_uninterrupted_run(
    tmp_path: Path, whole: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Cpu, "rows_bytes", SMALL)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    follow(begin(straight))
    follow(begin(stopped), 17)
    follow(rerun.take_up(stopped)[0])
    assert newest(stopped) == newest(straight)
    different = {n for n, array in newest(straight).items() if array != newest(whole)[n]}
    assert different == {"clock"}


# Every system call of a run fails once, by the module's own seam


class Faulty:
    """The `os` of gpunet.run.files, in which the k-th call that changes a disk fails."""

    def __init__(self, number: int, fails: Callable[[], None]) -> None:
        self.left, self.fails = number, fails

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in ("open", "write", "fsync", "replace", "unlink", "mkdir"):
            return real

        def call(*given: object, **more: object) -> object:
            self.left -= 1
            if self.left == 0 or (self.left < 0 and self.fails is kill):
                self.fails()
            return real(*given, **more)

        return call


class Killed(BaseException):
    """Stands for the end of the process, which calls nothing more."""


def refuse(code: int) -> Callable[[], None]:
    def fails() -> None:
        raise OSError(code, os.strerror(code))

    return fails


def kill() -> None:
    raise Killed


def interrupted(path: Path, fails: Callable[[], None], number: int, patch) -> bool:
    """A run in which one call fails; whether the call was reached."""
    faulty = Faulty(number, fails)
    with patch.context() as inner:
        inner.setattr(files, "os", faulty)
        try:
            follow(begin(path))
        except (GpunetError, Killed):
            return True
    return faulty.left <= 0


@pytest.mark.parametrize("fails", [kill, refuse(errno.ENOSPC), refuse(errno.EIO)])
def test_a_failing_call_loses_nothing(tmp_path: Path, monkeypatch, whole: Path, fails) -> None:
    for number in itertools.count(1, 4):
        path = tmp_path / str(number)
        reached = interrupted(path, fails, number, monkeypatch)
        if not reached:
            break
        finish(path)
        assert results(path) == results(whole)
        assert not list(path.rglob(f"{files.TEMPORARY}*"))
        shutil.rmtree(path)
    assert number > 40


def finish(path: Path) -> None:
    """Resume a run; begin it anew where the fault came before there was one."""
    if not (path / "run.json").exists():
        follow(begin(path))
        return
    resumed, _ = rerun.take_up(path)
    follow(resumed)


def test_a_full_disk_is_exit_74_and_names_the_file(tmp_path: Path, monkeypatch) -> None:
    planned = begin(tmp_path / "run")
    monkeypatch.setattr(files, "os", Faulty(8, refuse(errno.ENOSPC)))
    with pytest.raises(WriteError, match=r"run/.*No space left") as caught:
        follow(planned)
    assert caught.value.exit_code == 74
    assert "MB are free" in str(caught.value)


@pytest.mark.parametrize(("call", "advice"), [(1, "try again"), (3, "try again"), (60, "resume")])
def test_a_full_disk_asks_to_resume_only_what_was_begun(
    tmp_path: Path, monkeypatch, call: int, advice: str
) -> None:
    monkeypatch.setattr(files, "os", Faulty(call, refuse(errno.ENOSPC)))
    with pytest.raises(WriteError, match=f"make room, then {advice}$"):
        follow(begin(tmp_path / "run"))


# Power cuts


def test_no_power_cut_tears_or_loses_a_checkpoint(tmp_path: Path) -> None:
    recorded = power.record(tmp_path / "run")
    found = power.judge(recorded)
    assert found.states > 50
    assert (found.torn, found.lost) == (0, 0)


@pytest.mark.parametrize("mutant", power.MUTANTS)
def test_a_protocol_with_a_step_less_is_caught(tmp_path: Path, mutant: str) -> None:
    found = power.judge(power.record(tmp_path / "run", mutant))
    assert found.torn + found.lost > 0


# Damage


def test_no_flipped_bit_or_cut_goes_unseen(whole: Path) -> None:
    rng = random.Random(0)
    small = pack({"a": np.arange(4, dtype=np.float32)}, {"step": 3})
    for content in (small, checkpoints(whole)[0].read_bytes(), (whole / MODEL_FILE).read_bytes()):
        for bit in rng.sample(range(8 * len(content)), min(1500, 8 * len(content))):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(ModelInvalid):
                parse(bytes(damaged), "x")
        for size in rng.sample(range(len(content)), min(200, len(content))):
            with pytest.raises(ModelInvalid):
                parse(content[:size], "x")
        with pytest.raises(ModelInvalid):
            parse(content + b"\0", "x")


# Real processes


def start(*arguments: str, **more: object) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.Popen([*COMMAND, *arguments], text=True, **pipes)  # type: ignore[call-overload]


def run_to_end(path: Path) -> None:
    """Resume until the run is done."""
    while True:
        running = start("resume", str(path), "-q")
        running.communicate(timeout=120)
        if running.returncode == 0:
            return


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "run"
    done = start("train", *LONG, "-o", str(path), "-q")
    done.communicate(timeout=120)
    assert done.returncode == 0
    return path


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_instants_change_nothing(
    tmp_path: Path, uninterrupted: Path, seed: int
) -> None:
    rng, path, kills = random.Random(seed), tmp_path / "run", 0
    while kills < 4:
        known = (path / "run.json").exists()
        arguments = ("resume", str(path)) if known else ("train", *LONG, "-o", str(path))
        running = start(*arguments, "-q")
        time.sleep(rng.uniform(0.2, 1.6))
        running.kill()
        running.communicate()
        kills += 1
        if running.returncode == 0:
            break
    if not (path / "run.json").exists():
        start("train", *LONG, "-o", str(path), "-q").communicate(timeout=120)
    run_to_end(path)
    assert results(path) == results(uninterrupted)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_run_that_goes_on_to_the_same_bytes(
    tmp_path: Path, uninterrupted: Path, name: str
) -> None:
    path, number = tmp_path / "run", getattr(signal, name)
    running = start("train", *LONG, "-o", str(path))
    while not list(path.glob("checkpoints/step-*")):
        time.sleep(0.01)
    running.send_signal(number)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert f"gpunet resume {path}" in err
    assert json.loads((path / "status.json").read_text())["state"] == "stopped"
    run_to_end(path)
    assert results(path) == results(uninterrupted)


# Calls of the library


def raises(report: Report) -> None:
    if report.epoch == 2:
        raise LookupError("the caller's own")


def interrupts(report: Report) -> None:
    if report.epoch == 2:
        signal.raise_signal(signal.SIGINT)


def press(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """So many Ctrl-C as the first network, not yet the others, has made its 17th step."""
    real, left = LaunchList.run, [None] * times

    def run(self: LaunchList, steps: int = 1) -> None:
        real(self, steps)
        while left and self.step >= 17:
            left.pop()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(LaunchList, "run", run)


def from_python(path: Path, on_report: Callable[[Report], None] | None = None) -> None:
    gpunet.train(
        "penguins", out=path, patience=0, checkpoint_every="7", **SETTINGS, on_report=on_report
    )


def state_of(path: Path) -> str:
    return json.loads((path / "status.json").read_text())["state"]


@pytest.mark.parametrize(
    ("on_report", "kind"), [(raises, LookupError), (interrupts, KeyboardInterrupt)]
)
def test_what_comes_with_a_report_is_raised_after_a_checkpoint(
    tmp_path: Path, whole: Path, on_report: Callable[[Report], None], kind: type[BaseException]
) -> None:
    path = tmp_path / "run"
    with pytest.raises(kind):
        from_python(path, on_report)
    assert state_of(path) == "stopped"
    epochs = [
        json.loads(line)["epoch"] for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert epochs == [1, 2]
    assert unpack(checkpoints(path)[0])[1]["loop"]["reported"] == 2
    gpunet.resume(path)
    assert results(path) == results(whole)


@pytest.mark.parametrize(("times", "least"), [(1, 17), (2, 14)])
def test_ctrl_c_ends_a_call_behind_the_steps_in_hand_and_a_second_one_at_once(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, times: int, least: int
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        press(patch, times)
        with pytest.raises(KeyboardInterrupt):
            from_python(path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert state_of(path) == "stopped"
    assert least <= unpack(checkpoints(path)[0])[1]["loop"]["done"] <= least + 4
    gpunet.resume(path)
    assert results(path) == results(whole)


def test_a_run_that_is_ended_as_it_is_judged_says_so_and_goes_on(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "judge", lambda *given: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            from_python(path)
    assert state_of(path) == "stopped"
    gpunet.resume(path)
    assert (state_of(path), results(path)) == ("done", results(whole))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files here")
def test_a_file_that_may_not_grow_is_exit_74_and_the_run_goes_on_with_room(
    tmp_path: Path, uninterrupted: Path
) -> None:
    import resource

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    path = tmp_path / "run"
    running = start("train", *LONG, "-o", str(path), "-q", preexec_fn=small)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 74
    assert "step-000000000020.safetensors: File too large" in err
    assert not list(path.rglob(f"{files.TEMPORARY}*"))
    run_to_end(path)
    assert results(path) == results(uninterrupted)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no SIGUSR1 here")
def test_sigusr1_asks_for_a_checkpoint_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    long = ["digits", "--epochs", "4000", "--patience", "0", "--checkpoint-every", "1h"]
    running = start("train", *long, "-o", str(path), "-d", "cpu")
    try:
        for line in running.stderr or ():
            if line.startswith("epoch 2/"):
                break
        assert not list(path.glob("checkpoints/*"))
        running.send_signal(signal.SIGUSR1)
        limit = time.monotonic() + 20
        while not list(path.glob("checkpoints/step-*")) and time.monotonic() < limit:
            time.sleep(0.01)
        assert list(path.glob("checkpoints/step-*"))
        assert running.poll() is None
    finally:
        running.kill()
        running.communicate()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_the_slurm_script_of_the_page_stops_a_run_and_goes_on(
    tmp_path: Path, uninterrupted: Path
) -> None:
    page = Path(__file__).parent.parent / "docs" / "survival.md"
    script = page.read_text().split("```sh\n")[1].split("```")[0]
    script = script.replace("big.parquet -t y", " ".join([*LONG, "-q"]))
    for name, does in (("gpunet", shlex.join(COMMAND)), ("scontrol", "echo")):
        (tool := tmp_path / name).write_text(f'#!/bin/sh\nexec {does} "$@"\n')
        tool.chmod(0o755)
    known = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    known |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run, job_of = tmp_path / "runs" / "big", ["bash", "-c", script]
    batch = subprocess.Popen(job_of, cwd=tmp_path, env=known, **pipes)
    while not list(run.glob("checkpoints/step-*")):
        time.sleep(0.01)
    batch.send_signal(signal.SIGTERM)
    out, err = batch.communicate(timeout=60)
    assert out == "requeue 7\n"
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    assert "go on with: gpunet resume runs/big" in err
    subprocess.run(job_of, cwd=tmp_path, env=known, capture_output=True, timeout=120, check=True)
    assert results(run) == results(uninterrupted)


def test_a_second_process_is_refused_and_readers_are_not(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Run.create(path, "x") as held:
        planned = job.plan("penguins", SETTINGS)
        planned.begin(held)
        for other in (("train", "penguins", "-o", str(path)), ("resume", str(path))):
            running = start(*other)
            _, err = running.communicate(timeout=60)
            assert running.returncode in (73, 75), err
        assert f"process {os.getpid()}" in err
        planned.follow()
        assert rerun.verify(path, [1])[0].wrong == ""


def states() -> Iterator[str]:
    yield from ("running", "done", "patience", "stopped", "diverged", "failed")


def test_the_status_says_what_a_run_does(whole: Path) -> None:
    told = json.loads((whole / "status.json").read_text())
    assert told["schema"] == "gpunet.status/1"
    assert told["state"] in set(states())
    assert told["step"] == told["steps"] == unpack(checkpoints(whole)[0])[1]["loop"]["done"]
