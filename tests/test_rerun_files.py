"""A run taken up again: whatever its directory holds, it goes on exactly, or is refused with 76."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet
from gpunet import job, rerun, run
from gpunet.errors import InputMissing, ModelInvalid, RunBusy, UsageError
from gpunet.kernels.slots import ARRIVED, BEFORE, FAULT, PENDING, ROWS, START, STEP, VALID
from gpunet.run import Run

SETTINGS = {
    "folds": 0,
    **{"epochs": 6, "hidden": (8,), "batch_size": 32, "patience": 0},
    **{"device": "cpu", "checkpoint_every": 10},
}
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "penguins"
    gpunet.train("penguins", out=place, **SETTINGS)
    return place


@pytest.fixture
def ended(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def newest(path: Path) -> Path:
    return run.checkpoints(path)[0]


def bytes_of(path: Path) -> dict[str, bytes]:
    return {
        name: (path / name).read_bytes()
        for name in ("model.safetensors", "metrics.jsonl", "config.toml", "run.json")
    }


def identity(**values: Any) -> Edit:
    """Set values in run.json; `...` takes one away."""

    def edit(path: Path) -> None:
        found = json.loads((path / "run.json").read_text()) | values
        kept = {key: value for key, value in found.items() if value is not ...}
        (path / "run.json").write_text(json.dumps(kept))

    return edit


def changed_state(*names: str, value: Any) -> Edit:
    """Leave one checkpoint, whole and with a right hash, with one value of its state changed."""

    def edit(path: Path) -> None:
        tensors, state = run.unpack(newest(path))
        inner = state
        for name in names[:-1]:
            inner = inner[name]
        inner[names[-1]] = value
        _put_alone(path, tensors, state)

    return edit


def changed_tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def edit(path: Path) -> None:
        tensors, state = run.unpack(newest(path))
        _put_alone(path, {**tensors, name: change(tensors[name])}, state)

    return edit


def _put_alone(path: Path, tensors: dict[str, np.ndarray], state: Any) -> None:
    kept, *others = run.checkpoints(path)
    kept.write_bytes(run.pack(tensors, state))
    for each in others:
        each.unlink()


def renamed(old: str, new: str) -> Edit:
    return lambda path: (path / "config.toml").write_text(
        (path / "config.toml").read_text().replace(old, new)
    )


def linked(name: str) -> Edit:
    """Move a file of a run out of it, and leave a link."""

    def edit(path: Path) -> None:
        file = newest(path) if name == "newest" else path / name
        file.rename(path.parent / "outside")
        file.symlink_to(path.parent / "outside")

    return edit


def piped(name: str) -> Edit:
    def edit(path: Path) -> None:
        file = newest(path) if name == "newest" else path / name
        file.unlink()
        os.mkfifo(file)

    return edit


REFUSED: dict[str, Edit] = {
    **{f"no {n}": identity(**{n: ...}) for n in run.forms.IDENTITY},
    "an unknown name": identity(more=1),
    "legs that are no pairs": identity(legs=[[1]]),
    "a leg before the start": identity(legs=[[-5, 3]]),
    "an environment that is a list": identity(environment=[]),
    "a data path that is a number": identity(data=3),
    "run.json of another version": identity(schema="gpunet.run/2"),
    "run.json that is none": lambda path: (path / "run.json").write_text("{"),
    "deep run.json": lambda path: (path / "run.json").write_text("[" * 100_000),
    "no config.toml": lambda path: (path / "config.toml").unlink(),
    "config.toml that is none": lambda path: (path / "config.toml").write_text("a = ["),
    "a setting of another kind": renamed('optimizer = "adamw"', "optimizer = 3"),
    "another setting": renamed("hidden = [8]", "hidden = [9]"),
    **{f"{n} is a link": linked(n) for n in ("metrics.jsonl", "run.json", "newest", ".lock")},
    **{f"{n} is a pipe": piped(n) for n in ("config.toml", "run.json", "newest")},
    "a checkpoint that is a directory": lambda path: [
        (each.unlink(), each.mkdir()) for each in run.checkpoints(path)
    ],
    "a state that is a list": lambda path: _put_alone(path, run.unpack(newest(path))[0], [1, {}]),
    **{
        f"{'.'.join(names)} is {value!r}": changed_state(*names, value=value)
        for *names, value in (
            ("loop", 3),
            ("loop", "done", "x"),
            ("loop", "done", -1),
            ("loop", "done", 10**9),
            ("loop", "done", True),
            ("loop", "reported", 10**9),
            ("loop", "lowest", "x"),
            ("loop", "stale", None),
            ("loop", "ended", "so"),
            ("last", 3),
            ("last", {"step": 1}),
            ("best", "validation", [1]),
            ("id", "another"),
            ("environment", 3),
            ("more", 1),
        )
    },
    "metrics of another type": changed_tensor("metrics", lambda a: np.ones(3, np.float32)),
    **{
        f"a clock that is far ahead at {place}": changed_tensor(
            "clock", lambda a, place=place: a + 10**6 * (np.arange(8) == place)
        )
        for place in (STEP, VALID, FAULT, PENDING, ARRIVED, BEFORE)
    },
    "weights of another shape": changed_tensor("weight.output.weight", lambda a: a[:, :2]),
    "weights of another type": changed_tensor("weight.output.weight", lambda a: a.astype(float)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_gpunet_did_not_write_is_refused(ended: Path, case: str) -> None:
    REFUSED[case](ended)
    before = sorted(ended.rglob("*"))
    with pytest.raises(ModelInvalid):
        gpunet.resume(ended)
    assert sorted(ended.rglob("*")) == before


@pytest.mark.parametrize("past", [0, 3])  # steps made since the second epoch's end
@pytest.mark.parametrize("far", [-(10**12), 10**12, 10**6])
@pytest.mark.parametrize("place", [START, ROWS])
def test_rows_are_found_by_the_step_whatever_the_clock_says(
    finished: Path, tmp_path: Path, place: int, far: int, past: int
) -> None:
    planned = job.plan("penguins", {**SETTINGS, "checkpoint_every": 1})
    planned.begin(Run.create(tmp_path / "run", planned.name))
    stop = planned.steps // 3 + past
    planned.control.tick = lambda done: setattr(planned.control, "stop", done >= stop)
    with planned.run:
        planned.follow()
    path = tmp_path / "run"
    assert run.unpack(newest(path))[1]["loop"]["done"] == stop
    changed_tensor("clock", lambda a: np.where(np.arange(8) == place, far, a))(path)
    gpunet.resume(path)
    for name in ("model.safetensors", "metrics.jsonl"):
        assert (path / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("content", [b"[1]\n", b'{"step": 1}\n', b"\xff\n", b"{\n", b""])
def test_metrics_that_are_none_cannot_be_verified(ended: Path, content: bytes) -> None:
    (ended / "metrics.jsonl").write_bytes(content)
    with pytest.raises(ModelInvalid):
        gpunet.verify(ended)


def test_verify_sees_a_changed_number_and_a_line_that_was_taken_out(ended: Path) -> None:
    file = ended / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert [each.wrong for each in gpunet.verify(ended)] == [""] * 6
    file.write_text("".join(lines).replace(lines[2], lines[2].replace('"lr": ', '"lr": 1')))
    assert [each.wrong for each in gpunet.verify(ended)] == ["", "", "lr", "", "", ""]
    file.write_text("".join(lines[1:3] + lines[4:]))
    found = [each.wrong for each in gpunet.verify(ended)]
    assert found == ["not in metrics.jsonl", "", "", "not in metrics.jsonl", "", ""]


def test_chosen_epochs_are_made_again_from_the_checkpoint_before_them(ended: Path) -> None:
    (found,) = gpunet.verify(ended, epochs=[6])
    assert (found.epoch, found.wrong) == (6, "")
    tensors, state = run.unpack(run.checkpoints(ended)[1])
    run.checkpoints(ended)[1].write_bytes(run.pack(tensors | {"totals": tensors["totals"]}, state))
    wrong = {n: a + (n == "weight.output.bias") for n, a in tensors.items()}
    run.checkpoints(ended)[1].write_bytes(run.pack(wrong, state))
    (found,) = gpunet.verify(ended, epochs=[6])
    assert "chain" in found.wrong


def test_an_epoch_that_was_not_recorded_is_told_with_the_nearest_one(ended: Path) -> None:
    file = ended / "metrics.jsonl"
    with pytest.raises(UsageError, match=r"epoch 7; the nearest of 6 is 6$"):
        gpunet.verify(ended, epochs=[7])
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1::2]))
    with pytest.raises(UsageError, match=r"epoch 1; the nearest of 3 is 2$"):
        gpunet.verify(ended, epochs=[6, 1])
    file.write_text("")
    with pytest.raises(ModelInvalid, match="no epoch was finished"):
        gpunet.verify(ended, epochs=[6])


def test_a_finished_run_is_left_as_it_is(ended: Path) -> None:
    before = bytes_of(ended)
    gpunet.resume(ended)
    assert bytes_of(ended) == before


def test_what_a_run_lost_is_made_again_from_its_checkpoint(ended: Path) -> None:
    before = bytes_of(ended)
    for name in ("model.safetensors", "metrics.jsonl", "summary.json", "status.json"):
        (ended / name).unlink()
    timing = ended / "timing.jsonl"
    lines = timing.read_text().splitlines(keepends=True)
    timing.write_text("".join([*lines[:5], '{"seconds": 1}\n', lines[5][:20]]))
    gpunet.resume(ended)
    assert bytes_of(ended) == before
    assert timing.read_text() == "".join(lines[:5])


def test_a_damaged_checkpoint_is_passed_over_and_never_outlives_a_good_one(ended: Path) -> None:
    before, damaged = bytes_of(ended), newest(ended)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    planned, notes = rerun.take_up(ended)
    with planned.run:
        planned.follow()
    assert len(notes) == 1
    assert "taking the one before it" in notes[0]
    assert bytes_of(ended) == before
    assert run.unpack(newest(ended))


def test_checkpoints_of_later_steps_do_not_push_out_what_is_saved(ended: Path) -> None:
    kept = run.checkpoints(ended)[1]
    newest(ended).unlink()
    foreign = [ended / "checkpoints" / f"step-{step:012d}.safetensors" for step in (900, 901)]
    for each in foreign:
        each.write_bytes(b"of another run")
    tensors, state = run.unpack(kept)
    with Run.open(ended) as held:
        held.save(41, tensors, state)
    assert run.checkpoints(ended) == [
        *reversed(foreign),
        kept.with_name(f"step-{41:012d}.safetensors"),
        kept,
    ]


def test_the_place_of_the_data_and_of_the_work_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    rows = "".join(f"{i % 7},{i % 3},{i % 7 > 3}\n" for i in range(60))
    Path("t.csv").write_text("a,b,y\n" + rows)
    gpunet.train("t.csv", target="y", out="run", **SETTINGS)
    monkeypatch.chdir(tmp_path)
    gpunet.resume("here/run", epochs="+2")
    (tmp_path / "here" / "t.csv").rename(tmp_path / "there.csv")
    with pytest.raises(InputMissing):
        gpunet.resume("here/run", epochs="+2")
    gpunet.resume("here/run", "there.csv", epochs="+2")
    (tmp_path / "there.csv").write_text("a,b,y\n" + rows.replace("6,", "5,", 1))
    with pytest.raises(ModelInvalid, match="the data have changed"):
        gpunet.resume("here/run", "there.csv")


def test_data_of_memory_have_to_be_given_again(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 3))
    gpunet.train((x, x[:, 0]), out=tmp_path / "run", **SETTINGS)
    with pytest.raises(UsageError, match="give the data again"):
        gpunet.resume(tmp_path / "run")
    gpunet.resume(tmp_path / "run", (x, x[:, 0]))


def test_one_at_a_time(ended: Path) -> None:
    with Run.open(ended):
        for second in (lambda: gpunet.resume(ended), lambda: Run.check(ended)):
            with pytest.raises(RunBusy, match=f"in use by process {os.getpid()} on"):
                second()
    gpunet.resume(ended)


def test_every_number_of_extra_epochs_is_checked(ended: Path) -> None:
    for wrong in ("5", "+", "+0", "+x", "+-1", "+²"):
        with pytest.raises(UsageError, match=r"must be \+ and a number"):
            gpunet.resume(ended, epochs=wrong)
