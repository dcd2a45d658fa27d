"""A run taken up again: the same bits, what is refused, what verify sees."""

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet
from gpunet import about, heldout, job, rerun
from gpunet.cli import main
from gpunet.device.cpu import Cpu
from gpunet.errors import (
    CheckFailed,
    InputMissing,
    ModelInvalid,
    RunBusy,
    Unavailable,
    UsageError,
)
from gpunet.predict import MODEL_FILE
from gpunet.run import METRICS, SPLIT, Run, checkpoints, pack, unpack

SETTINGS = {
    "device": "cpu",
    "hidden": (16, 8),
    "epochs": 6,
    "batch_size": 32,
    "dropout": 0.2,
    "patience": 0,
    "checkpoint_every": "5",
}


def begin(path: Path, **settings: object) -> job.Job:
    planned = job.plan("penguins", {**SETTINGS, **settings})
    planned.begin(Run.create(path, planned.name))
    return planned


def run_until(planned: job.Job, step: int | None = None) -> None:
    """Train and finish; stop after `step`, as a signal would."""

    def tick(done: int) -> None:
        planned.control.stop = step is not None and done >= step

    planned.control.tick = tick
    planned.follow()
    planned.run.close()


def train(path: Path, stop_after: int | None = None, **settings: object) -> Path:
    run_until(begin(path, **settings), stop_after)
    return path


def results(path: Path) -> tuple[bytes, bytes]:
    return (path / MODEL_FILE).read_bytes(), (path / METRICS).read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"norm": "batch"},
        {"kernels": "numpy"},
        {"schedule": "plateau", "lr": 0.1, "epochs": 12},
        {"patience": 2, "lr": 0.1},
        {"epochs": "auto", "steps": 37},
        {"validation": 0.0},
        {"validation": 0.0, "test": 0.0},
        {"clip_norm": 0.5, "optimizer": "lion"},
        {"micro_batch_size": 12},
    ],
    ids=str,
)
def test_a_resumed_run_ends_as_if_it_had_never_stopped(tmp_path: Path, settings: dict) -> None:
    whole = train(tmp_path / "whole", **settings)
    parted = train(tmp_path / "parted", stop_after=3, **settings)
    for step in (11, 11, 24, None):
        resumed, notes = rerun.take_up(parted)
        assert notes == []
        run_until(resumed, step)
    assert results(parted) == results(whole)


def test_the_rows_of_each_part_are_saved_and_the_same_again(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=3, group="island", validation=0.3, test=0.0)
    saved, state = unpack(path / SPLIT)
    assert state == {"split": "by island: whole groups"}
    resumed, _ = rerun.take_up(path)
    resumed.run.close()
    for part, rows in resumed.prepared.split.rows.items():
        np.testing.assert_array_equal(saved[part], rows)
    (path / SPLIT).write_bytes(pack({**saved, "train": saved["train"][1:]}, state))
    with pytest.raises(ModelInvalid, match="the parts are of other rows now"):
        rerun.take_up(path)
    resumed, notes = rerun.take_up(path, allow_inexact=True)
    resumed.run.close()
    assert any("other rows" in note for note in notes)


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    path = train(tmp_path / "a")
    assert [each.name for each in checkpoints(path)] == [
        "step-000000000048.safetensors",
        "step-000000000045.safetensors",
    ]


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    path, whole = train(tmp_path / "a", stop_after=22), train(tmp_path / "whole")
    newest = checkpoints(path)[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    resumed, (note,) = rerun.take_up(path)
    assert newest.name in note
    run_until(resumed)
    assert results(path) == results(whole)


def test_without_a_whole_checkpoint_nothing_is_touched(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=22)
    for each in checkpoints(path):
        each.write_bytes(b"")
    before = results(path)
    with pytest.raises(ModelInvalid, match="no good checkpoint of 2"):
        rerun.take_up(path)
    assert results(path) == before


def test_a_trained_run_without_checkpoints_is_not_trained_over(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=22)
    for each in checkpoints(path):
        each.unlink()
    before = results(path)
    with pytest.raises(ModelInvalid, match=r"none of its .* --config .*/a/config\.toml$"):
        rerun.take_up(path)
    assert results(path) == before
    (path / MODEL_FILE).unlink()  # as if it had been killed before its first checkpoint
    resumed, notes = rerun.take_up(path)
    run_until(resumed)
    assert notes == []
    assert results(path) == results(train(tmp_path / "whole"))


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path: Path) -> None:
    path, other = train(tmp_path / "a", stop_after=22), train(tmp_path / "b", stop_after=22)
    for mine, theirs in zip(checkpoints(path), checkpoints(other), strict=True):
        mine.write_bytes(theirs.read_bytes())
    with pytest.raises(ModelInvalid, match="no good checkpoint of 2"):
        rerun.take_up(path)


def test_changed_settings_are_refused_with_both_fingerprints(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=9)
    config = path / "config.toml"
    config.write_text(config.read_text().replace("dropout = 0.2", "dropout = 0.3"))
    then = json.loads((path / "run.json").read_text())["fingerprints"]["config"][:16]
    with pytest.raises(ModelInvalid, match=rf"have changed .*: {then} then, [0-9a-f]{{16}} now"):
        rerun.take_up(path)
    resumed, (note,) = rerun.take_up(path, allow_inexact=True)
    assert "settings have changed" in note
    run_until(resumed)


def test_changed_data_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = [f"{i},{i % 7},{'ab'[i % 2]}" for i in range(80)]
    table.write_text("\n".join(["u,v,y", *rows]) + "\n")
    planned = job.plan(str(table), {**SETTINGS, "target": ("y",)})
    planned.begin(Run.create(tmp_path / "a", planned.name))
    run_until(planned, 3)
    table.write_text("\n".join(["u,v,y", *rows[:-1], "79,0,b"]) + "\n")
    with pytest.raises(ModelInvalid, match="data have changed"):
        rerun.take_up(tmp_path / "a")
    moved = tmp_path / "moved.csv"
    moved.write_text("\n".join(["u,v,y", *rows]) + "\n")
    resumed, notes = rerun.take_up(tmp_path / "a", str(moved))
    assert notes == []
    resumed.run.close()


def test_another_environment_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = train(tmp_path / "a", stop_after=9)
    monkeypatch.setattr("gpunet.about.__version__", "9.9")
    resumed, notes = rerun.take_up(path)
    assert notes == ["not bit for bit: gpunet is 9.9, was 0.1.0"]
    run_until(resumed)


@pytest.mark.parametrize("name", ["", "loss", "lr", "validation", "none"])
def test_verify_in_another_environment_says_how_close_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = train(tmp_path / "a")
    lines = [json.loads(line) for line in (path / METRICS).read_text().splitlines()]
    if name == "none":
        lines[3]["validation"]["loss"] = None
    elif name:
        where = lines[3] if name in ("loss", "lr") else lines[3][name]
        where["loss" if name == "validation" else name] *= 1.01
    (path / METRICS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    monkeypatch.setattr("gpunet.about.__version__", "9.9")
    found = rerun.verify(path)
    assert {each.unlike for each in found} == {"gpunet is 9.9, was 0.1.0"}
    wrong = [each.epoch for each in found if each.wrong]
    assert wrong == ([4] if name else [])
    assert found[0].said == "within 0.1%"
    assert name in found[3].said


def test_a_way_without_native_loops_is_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Unavailable("no module below /one/place")

    monkeypatch.setattr("gpunet.about.native.load", refuse)
    assert about.environment(Cpu("auto", 1))["kernels"] == "numpy"


def test_a_checkpoint_of_another_network_changes_nothing(tmp_path: Path) -> None:
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(60)]
    (data := tmp_path / "t.csv").write_text("\n".join(["a,b,y", *rows]))
    gpunet.train(data, "y", out=tmp_path / "a", **SETTINGS)
    before = {p: p.read_bytes() for p in (tmp_path / "a").glob("*.json*")}
    data.write_text("\n".join(["a,y", *(row[0] + row[3:] for row in rows)]))
    with pytest.raises(ModelInvalid, match="does not fit the network: weight"):
        rerun.take_up(tmp_path / "a", more="+5", allow_inexact=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "a").glob("*.json*")}


def test_data_in_memory_must_be_given_again(tmp_path: Path) -> None:
    x, y = np.arange(120.0).reshape(60, 2), np.arange(60) % 2
    planned = job.plan((x, y), SETTINGS)
    planned.begin(Run.create(tmp_path / "a", planned.name))
    run_until(planned, 2)
    with pytest.raises(UsageError, match="data in memory"):
        rerun.take_up(tmp_path / "a")
    rerun.resume(tmp_path / "a", (x, y))
    assert json.loads((tmp_path / "a/status.json").read_text())["state"] == "done"


def test_epochs_are_added_behind_the_last(tmp_path: Path) -> None:
    path = train(tmp_path / "a")
    before = (path / METRICS).read_text()
    rerun.resume(path, epochs="+3")
    lines = (path / METRICS).read_text()
    assert lines.startswith(before)
    rates = [json.loads(line)["lr"] for line in lines.splitlines()]
    assert len(rates) == 9
    assert rates[5] < rates[6] > rates[8]
    assert all(not each.wrong for each in rerun.verify(path))
    assert [each.wrong for each in rerun.verify(path, 9, "cpu")] == [""]
    with pytest.raises(UsageError, match=r"--epochs \+1\d{18}: the learning rates of"):
        rerun.resume(path, epochs=f"+{10**18}")


def identity_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text())


def reported(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (path / METRICS).read_text().splitlines()]


def test_a_leg_ends_in_a_report_where_it_is_no_whole_epoch(tmp_path: Path) -> None:
    steps = {"epochs": "auto", "steps": 20, "checkpoint_every": "4"}  # 8 an epoch
    whole = train(tmp_path / "whole", **steps)
    rerun.resume(whole, epochs="+2")
    assert reported(whole) == [8, 16, 20, 28, 36]
    assert all(not each.wrong for each in rerun.verify(whole))
    for step in (16, 20):
        parted = begin(tmp_path / f"{step}", **steps)
        next(report for report in parted.reports() if report.step == step)
        parted.run.close()  # as if it was killed with this report to be made again
        rerun.resume(parted.out, epochs="+2")
        assert results(parted.out) == results(whole)


def test_an_early_stop_is_behind_what_is_added(tmp_path: Path) -> None:
    path = train(tmp_path / "a", patience=2, lr=0.3, epochs=40)
    ended = json.loads((path / "summary.json").read_text())
    assert ended["ended"] == "patience"
    rerun.resume(path, epochs="+2")
    assert json.loads((path / "summary.json").read_text())["epochs"] == ended["epochs"] + 2
    assert all(not each.wrong for each in rerun.verify(path))


def test_an_end_behind_what_was_planned_and_added_counts_no_more(tmp_path: Path) -> None:
    """Waiting in vain ends a run before the epochs that were added while it was stopped."""
    path = train(tmp_path / "a", 8, patience=2, lr=0.3, epochs=40)
    rerun.resume(path, epochs="+5")
    ended = json.loads((path / "summary.json").read_text())
    assert ended["ended"] == "patience"
    last = reported(path)[-1]
    rerun.resume(path, epochs="+2")
    assert identity_of(path)["legs"] == [[last, 16]]
    assert reported(path)[-3:] == [last, last + 8, last + 16]
    assert json.loads((path / "status.json").read_text())["state"] == "done"
    assert all(not each.wrong for each in rerun.verify(path))


def test_epochs_are_added_behind_those_that_were_never_begun(tmp_path: Path) -> None:
    path = train(tmp_path / "a")
    for _ in range(2):
        planned, _ = rerun.take_up(path, None, "+2")
        planned.run.close()
    assert planned.legs == [(48, 16), (64, 16)]


def test_the_device_of_a_run_is_its_own_however_it_is_named(tmp_path: Path) -> None:
    path = train(tmp_path / "a", kernels="numpy", threads=1)
    for device in ("cpu", "auto"):
        config = rerun.reopen(path, device=device).settings.config
        assert (config.kernels, config.threads) == ("numpy", 1)


def test_what_is_added_begins_at_the_rate_of_the_schedule(tmp_path: Path) -> None:
    path = train(tmp_path / "a", schedule="plateau", lr=0.3, epochs=20, patience=0)
    rerun.resume(path, epochs="+2")
    rates = [json.loads(line)["lr"] for line in (path / METRICS).read_text().splitlines()]
    assert rates[19] < 0.3
    assert rates[20:] == [0.3, 0.3]
    assert all(not each.wrong for each in rerun.verify(path))


@pytest.mark.parametrize("text", ["50", "+0", "+x", "-3", "+1.5", 2])
def test_what_is_added_is_a_number_of_epochs(tmp_path: Path, text: str) -> None:
    path = train(tmp_path / "a")
    with pytest.raises(UsageError, match="must be \\+ and a number"):
        rerun.take_up(path, more=text)
    Run.open(path).close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=3)
    resumed, _ = rerun.take_up(path)
    with pytest.raises(RunBusy, match="in use by process"):
        rerun.take_up(path)
    resumed.run.close()


FORKED = """
import os, sys, time
from gpunet.run import Run
held = Run.open(sys.argv[1])
ready, begun = os.pipe()
child = os.fork()
if not child:
    os.write(begun, b"!")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
held.close()
try:
    Run.open(sys.argv[1]).close()
finally:
    os.kill(child, 9)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_hold_its_parents_run(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=3)
    subprocess.run([sys.executable, "-P", "-c", FORKED, path], check=True, timeout=60)


def test_what_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        rerun.take_up(tmp_path / "none")
    with pytest.raises(ModelInvalid, match="no run was begun"):
        rerun.take_up(tmp_path)
    for content in ("{", "[]", '{"schema": "gpunet.run/2"}', '{"schema": "gpunet.run/1"}'):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ModelInvalid):
            rerun.take_up(tmp_path)


def test_verify_makes_every_epoch_again(tmp_path: Path) -> None:
    path = train(tmp_path / "a")
    found = rerun.verify(path)
    assert [(each.epoch, each.wrong) for each in found] == [(i, "") for i in range(1, 7)]


def test_a_fade_of_the_recipe_that_ends_nothing_is_no_fault_of_a_run(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(90, 3)).round(3)
    rows = "\n".join(",".join(map(str, (*row, row.sum()))) for row in x)
    (place := tmp_path / "t.csv").write_text(f"a,b,c,y\n{rows}\n")
    none = {"dropout": 0, "weight_decay": 0, "preset": "fast", "epochs": 2}
    model = gpunet.train(place, target="y", out=tmp_path / "run", **none)
    assert model.config.fade != "none"
    assert all(not each.wrong for each in rerun.verify(tmp_path / "run"))


def test_verify_starts_at_a_checkpoint_before_the_epoch(tmp_path: Path, monkeypatch) -> None:
    path = train(tmp_path / "a")
    starts = []
    reports = job.Job.reports

    def spied(self: job.Job):
        starts.append(None if self.start is None else self.start.step)
        return reports(self)

    monkeypatch.setattr(job.Job, "reports", spied)
    assert [each.wrong for each in rerun.verify(path, [6])] == [""]
    assert [each.wrong for each in rerun.verify(path, [2])] == [""]
    assert starts == [45, None]


@pytest.mark.parametrize("name", ["chain", "loss"])
def test_verify_sees_a_number_that_was_changed(tmp_path: Path, name: str) -> None:
    path = train(tmp_path / "a")
    lines = (path / METRICS).read_text().splitlines()
    changed = json.loads(lines[3])
    changed[name] = "0" * 64 if name == "chain" else changed[name] * (1 + 1e-15) + 1e-16
    lines[3] = json.dumps(changed)
    (path / METRICS).write_text("\n".join(lines) + "\n")
    assert [each.wrong for each in rerun.verify(path)] == ["", "", "", name, "", ""]


def command(*arguments: str) -> tuple[int, str]:
    """The exit code and stdout of a command."""
    with pytest.raises(SystemExit) as left, redirect_stdout(io.StringIO()) as out:
        main(list(arguments))
    return int(left.value.code or 0), out.getvalue()


def test_verify_on_the_command_line(tmp_path: Path) -> None:
    path = train(tmp_path / "a")
    assert command("verify", str(path), "--epochs", "2,5")[0] == 0
    assert command("verify", str(path), "--epochs", "70")[0] == UsageError.exit_code
    text = (path / METRICS).read_text()
    (path / METRICS).write_text(text.replace('"chain": "', '"chain": "0'))
    code, out = command("verify", str(path), "--json")
    assert code == CheckFailed.exit_code
    assert json.loads(out)["ok"] is False


def test_each_command_says_what_it_has_where_data_have_changed(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
    data = tmp_path / "t.csv"
    data.write_text(f"a,b,y\n{rows}")
    gpunet.train(data, "y", out=tmp_path / "a", **SETTINGS)
    data.write_text(f"a,b,y\n{rows.replace('3', '4')}")
    told = {
        rerun.take_up: "--allow-inexact goes on all the same",
        rerun.verify: "bring back what the run was trained with",
        heldout.held_out: "give DATA that it was not trained on",
    }
    for made, hint in told.items():
        with pytest.raises(ModelInvalid, match=f"the data have changed .*; {hint}$"):
            made(tmp_path / "a")


def test_rows_held_out_without_a_target_are_as_in_training(tmp_path: Path) -> None:
    lines = [f"{i % 7},{i % 5},{i % 2}\n" for i in range(60)]
    (data := tmp_path / "t.csv").write_text("a,b,y\n" + "".join(lines))
    (test := tmp_path / "u.csv").write_text("a,b,y\n1,2,\n" + "".join(lines[:20]))
    more = {"test": str(test), "drop_missing_target": True}
    gpunet.train(data, "y", out=tmp_path / "a", **{**SETTINGS, **more})
    assert heldout.held_out(tmp_path / "a")[1].rows == 20


def test_rows_held_out_of_weight_0_are_as_in_training(tmp_path: Path) -> None:
    lines = [f"{i % 7},{i % 5},{i % 2},{1 + i % 3}\n" for i in range(60)]
    (data := tmp_path / "t.csv").write_text("a,b,y,w\n" + "".join(lines))
    (test := tmp_path / "u.csv").write_text("a,b,y,w\n1,2,9,0\n" + "".join(lines[:20]))
    more = {"test": str(test), "weight": "w", "task": "binary"}
    gpunet.train(data, "y", out=tmp_path / "a", **{**SETTINGS, **more})
    assert heldout.held_out(tmp_path / "a")[1].rows == 20


def test_data_that_have_moved_are_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "t.csv"
    data.write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60)))
    gpunet.train(data, "y", out=tmp_path / "a", **SETTINGS)
    data.rename(tmp_path / "u.csv")
    gone = "a: its data are no longer at .*t.csv; "
    with pytest.raises(InputMissing, match=gone + "bring them back; resume and verify take DATA"):
        rerun.take_up(tmp_path / "a")
    with pytest.raises(InputMissing, match=gone + "give DATA that it was not trained on"):
        heldout.held_out(tmp_path / "a")
    found = rerun.verify(tmp_path / "a", data=tmp_path / "u.csv")
    assert found[0].wrong == ""


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_part_that_has_moved_is_asked_for(tmp_path: Path, name: str) -> None:
    rows = "a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(60))
    (data := tmp_path / "t.csv").write_text(rows)
    (part := tmp_path / "part.csv").write_text(rows)
    gpunet.train(data, "y", out=tmp_path / "a", **{**SETTINGS, name: str(part)})
    part.unlink()
    for made in (rerun.take_up, rerun.verify, heldout.held_out):
        gone = rf"a: its --{name} file is no longer at .*part\.csv; bring it back$"
        with pytest.raises(InputMissing, match=gone):
            made(tmp_path / "a")


def test_what_was_given_stays_where_the_device_is_of_the_same_kind(tmp_path: Path) -> None:
    given = {"kernels": "numpy", "precision": "fp64", "threads": 1}
    path = train(tmp_path / "a", stop_after=20, **given)
    found = rerun.verify(path, devices="cpu")
    assert [(each.wrong, each.unlike) for each in found] == [("", "")] * len(found)
    resumed, notes = rerun.take_up(path, device="cpu")
    resumed.run.close()
    assert notes == []
    config = resumed.settings.config
    assert {name: getattr(config, name) for name in given} == given
    on_cuda = rerun._for("cuda:1", config)
    assert on_cuda["threads"] == on_cuda["kernels"] == "auto"
    assert "precision" not in on_cuda


def test_another_precision_is_told(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=9)
    again = rerun.reopen(path)
    assert rerun._for("cuda", again.settings.config)["precision"] == "auto"
    again.settings = again.settings.resolve("precision", "tf32", "on CUDA")
    assert rerun._unlike(again, path) == ["precision is tf32, was fp32"]


def test_the_device_of_a_run_is_its_own(tmp_path: Path) -> None:
    path = train(tmp_path / "a", stop_after=9)
    assert rerun.reopen(path).choice.reason == "the run's own"
    assert rerun.reopen(path, device="cpu").choice.reason == "asked for"


def test_a_study_points_to_its_best_run(tmp_path: Path) -> None:
    (tmp_path / "st").mkdir()
    (tmp_path / "st/study.json").write_text("{}")
    begun = "st: is a study, no run; the same gpunet tune goes on with it"
    with pytest.raises(UsageError, match=begun):
        gpunet.load(tmp_path / "st")
    train(tmp_path / "st/best")
    for made in (gpunet.load, rerun.take_up, heldout.held_out, rerun.verify):
        with pytest.raises(UsageError, match=r"is a study, no run; its best run is .*st/best$"):
            made(tmp_path / "st")
