"""The search: its first trial is the default, what is given stays, and nothing is done twice."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tables import csv, mixed, text_of

import gpunet
from gpunet import evaluation, job, loop, rerun, space, tuning
from gpunet.config import gather
from gpunet.errors import (
    CheckFailed,
    Diverged,
    ModelInvalid,
    OutOfMemory,
    OutputExists,
    Unavailable,
    UsageError,
    WriteError,
)
from gpunet.run import Run
from gpunet.space import Range
from gpunet.tuning import Tuner

pytest.importorskip("optuna")
SMALL: dict[str, Any] = {"device": "cpu", "hidden": "8", "folds": 0, "epochs": 3, "threads": 1}


def tuner(out: Path, trials: int = 3, data: object = "penguins", **more: object) -> Tuner:
    return Tuner(data, {**SMALL, **more}, None, out, trials)


def searched(out: Path, trials: int = 3, **more: object) -> list[tuning.Trial]:
    made = tuner(out, trials, **more)
    try:
        return list(made.search())
    finally:
        made.close()


def test_the_first_trial_is_the_default_recipe(tmp_path: Path) -> None:
    first, *_ = searched(tmp_path / "study", 2)
    planned = job.plan("penguins", SMALL)
    for name, value in first.settings.items():
        assert getattr(planned.settings.config, name) == value, name
    costs = [
        loop.cost(report.validation, planned.settings.config.best_by)
        for report in planned.reports()
    ]
    assert first.value == min(costs)


def test_given_settings_stay_and_others_are_searched(tmp_path: Path) -> None:
    found = searched(tmp_path / "study", 3, dropout=0.4)
    assert not any({"dropout", "hidden"} & trial.settings.keys() for trial in found)
    assert len({trial.settings["lr"] for trial in found}) == 3


def test_what_a_file_gives_stays_though_it_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('dropout = 0.0\nlr = "auto"\n')
    first = job.plan("penguins", SMALL, tmp_path / "run.toml")
    found, _ = space.space(job.settle("penguins", SMALL, tmp_path / "run.toml"), first)
    assert "dropout" not in found
    assert "lr" in found


def test_a_directory_that_is_no_study_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(OutputExists, match=r"there already; name another study with -o$"):
        tuner(tmp_path)


def test_standard_input_is_read_once_for_all_trials(tmp_path: Path, monkeypatch) -> None:
    table = text_of(mixed()).encode()
    for trials in (2, 3):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(table)))
        made = tuner(tmp_path / "study", trials, "-", target="kind")
        try:
            assert [each.number for each in made.search()][-1] == trials - 1
            planned, _ = made.best_job(made.best())
            planned.run.close()
        finally:
            made.close()
    assert planned.used_by == "gpunet train - --config THIS_FILE"
    with pytest.raises(UsageError, match="read the data themselves"):
        Tuner("/dev/fd/99", {**SMALL}, None, tmp_path / "other", workers=2)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("flags", "there", "absent"),
    [
        ({}, {"lr", "layers", "width", "beta2", "label_smoothing", "one_hot_levels"}, {"norm"}),
        ({"hidden": "none"}, {"lr"}, {"layers", "width", "dropout", "activation"}),
        ({"hidden": "32"}, {"lr", "dropout"}, {"layers", "width"}),
        ({"optimizer": "sgd"}, {"dropout"}, {"lr", "beta2"}),
        ({"loss": "softmax_cross_entropy"}, {"lr"}, {"label_smoothing"}),
        ({"lr": "auto"}, {"lr"}, set()),
        ({"preset": "plain"}, {"lr", "layers", "norm", "batch_size"}, {"numeric_embedding"}),
        ({"preset": "plain", "micro_batch_size": "16"}, {"lr"}, {"norm", "batch_size"}),
        (
            {"target": "body_mass_g", "drop_missing_target": True},
            {"lr", "one_hot_levels"},
            {"label_smoothing"},
        ),
        ({"features": "year,bill_depth_mm"}, {"lr"}, {"one_hot_levels"}),
    ],
    ids=str,
)
def test_what_is_searched(flags: dict[str, Any], there: set[str], absent: set[str]) -> None:
    flags = {"device": "cpu", **flags}
    first = job.plan("penguins", flags)
    found, default = space.space(job.settle("penguins", flags, None), first)
    assert there <= found.keys()
    assert not absent & found.keys()
    config = first.settings.config
    assert found.keys() == default.keys()
    for name, value in default.items():
        each = found[name]
        assert each.low <= value <= each.high if isinstance(each, Range) else value in each
    for name, value in space.settings(config, default).items():
        if name == "betas" and config.betas is None:
            assert value == (0.9, 0.999)
        else:
            assert getattr(config, name) == value


def test_arrays_are_searched_around_a_plain_network() -> None:
    x, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
    first = job.plan((x, y), {"device": "cpu"})
    found, default = space.space(gather({"device": "cpu"}), first)
    assert {"norm", "batch_size"} <= found.keys()
    assert "numeric_embedding" not in found
    assert space.settings(first.settings.config, default)["hidden"] == (128, 64)
    assert space.settings(first.settings.config, {"layers": 3, "width": 64}) == {
        "hidden": (64, 32, 16)
    }


def test_the_same_command_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    out = tmp_path / "study"
    first = searched(out, 3)
    assert [trial.number for trial in first] == [0, 1, 2]
    assert searched(out, 3) == []
    more = searched(out, 5)
    assert [trial.number for trial in more] == [3, 4]
    made = tuner(out, 5)
    assert made.trials() == [*first, *more]
    made.close()
    assert len({trial.settings["lr"] for trial in made.trials()}) == 5


def test_the_best_is_a_run_and_meets_the_test_part_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, real = [], evaluation.judge
    monkeypatch.setattr(evaluation, "judge", lambda *given: judged.append(1) or real(*given))
    out, flags = tmp_path / "study", {**SMALL, "calibrate": False}
    model = gpunet.tune("penguins", out=out, trials=3, **flags)
    assert len(judged) == 1
    made = tuner(out, **flags)
    best, summary = made.best(), json.loads((out / "best" / "summary.json").read_text())
    made.close()
    again = job.plan("penguins", {**flags, **best.settings})
    again.follow()
    assert again.finish()["metrics"] == summary["metrics"]
    assert rerun.reopen(out / "best").settings.config.lr == best.settings["lr"]
    lines = (out / "best" / "config.toml").read_text().splitlines()
    origins = {line.partition(" ")[0]: line.rpartition("  # ")[2] for line in lines}
    assert origins["epochs"] == "flag"
    assert {origins[name] for name in best.settings} == {f"trial {best.number}"}
    assert summary["metrics"]["validation"]["log_loss"] == pytest.approx(best.value)
    np.testing.assert_array_equal(model.predict("penguins"), again.model.predict("penguins"))
    judged.clear()
    gpunet.tune("penguins", out=out, trials=3, **flags)
    assert not judged


def test_of_equals_the_least_loss_is_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        tuning.Trial(0, "done", 0.1, 0.5, {}, 1, 1.0),
        tuning.Trial(1, "done", 0.1, 0.4, {}, 1, 1.0),
        tuning.Trial(2, "pruned", None, None, {}, 1, 1.0),
    ]
    made = tuner(tmp_path / "study")
    monkeypatch.setattr(Tuner, "trials", lambda self: found)
    assert made.best().number == 1
    made.close()


def test_a_better_trial_moves_the_best_before_it(tmp_path: Path) -> None:
    out = tmp_path / "study"
    gpunet.tune("penguins", out=out, trials=1, **SMALL)
    before = (out / "best" / "model.safetensors").read_bytes()
    made = tuner(out, 4)
    list(made.search())
    other = made.trials()[-1]
    planned, _ = made.best_job(other)
    with planned.run:
        planned.follow()
    made.close()
    assert (out / "best-trial0" / "model.safetensors").read_bytes() == before
    assert made.summary(other)["run"] == str(out / "best")
    assert made.summary(made.trials()[0]) is None


def test_a_study_that_was_moved_points_to_its_own_best(tmp_path: Path) -> None:
    gpunet.tune("penguins", out=tmp_path / "study", trials=1, **SMALL)
    (tmp_path / "study").rename(tmp_path / "moved")
    made = tuner(tmp_path / "moved", 1)
    assert made.summary(made.best())["run"] == str(tmp_path / "moved" / "best")
    made.close()


def test_trials_that_diverge_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "RECIPE", {"lr": Range(1e30, 1e35, log=True)})
    first, *others = searched(tmp_path / "study", 4)
    assert first.state == "done"
    assert any(trial.state == "failed" for trial in others)
    assert all("diverged at step" in trial.why for trial in others if trial.state == "failed")
    made = tuner(tmp_path / "study", 4)
    assert made.best().state == "done"
    made.close()


def test_trials_that_cannot_be_are_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    settings = {**SMALL, "preset": "plain", "warmup": 30, "epochs": 4}
    settings = {name: value for name, value in settings.items() if name != "hidden"}
    made = Tuner("penguins", settings, None, tmp_path / "study", 12)
    try:
        found = list(made.search())
    finally:
        made.close()
    assert len(found) == 12
    failed = [trial for trial in found if trial.state == "failed"]
    assert {trial.settings["batch_size"] for trial in failed} <= {64, 128, 256, 512}
    assert failed
    assert all("never ends" in trial.why and not trial.epochs for trial in failed)


def test_a_study_without_a_good_trial_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Tuner, planned: job.Job, trial: Any) -> None:
        raise Diverged("diverged at step 1")

    monkeypatch.setattr(Tuner, "_train", fail)
    with pytest.raises(Diverged, match="none of 2 trials came to its end"):
        gpunet.tune("penguins", out=tmp_path / "study", trials=2, **SMALL)


def test_a_trial_far_behind_is_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = iter([0.1] * 5 + [0.9])

    def train(self: Tuner, planned: job.Job, trial: Any) -> tuple[float | None, bool]:
        trial.set_user_attr("loss", 0.0)
        cost = next(costs)
        for place in range(1, 32):
            trial.report(cost, place)
            if trial.should_prune():
                return None, True
        return cost, False

    monkeypatch.setattr(Tuner, "_train", train)
    found = searched(tmp_path / "study", 6)
    assert [trial.state for trial in found] == ["done"] * 5 + ["pruned"]


def test_a_stopped_trial_waits_for_whoever_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = searched(tmp_path / "whole", 2, epochs=30)
    made = tuner(tmp_path / "study", 2, epochs=30)
    steps: list[int] = []
    real = loop.cost

    def cost(*given: Any) -> float | None:
        steps.append(1)
        made.control.stop = len(steps) > 130
        return real(*given)

    monkeypatch.setattr(tuning.loop, "cost", cost)
    assert len(list(made.search())) == 1
    made.close()
    monkeypatch.setattr(tuning.loop, "cost", real)
    (again,) = searched(tmp_path / "study", 2, epochs=30)
    assert again.settings == whole[1].settings
    assert (again.value, again.loss) == (whole[1].value, whole[1].loss)


def test_a_killed_trial_is_made_again(tmp_path: Path) -> None:
    made = tuner(tmp_path / "study", 2)
    study = made._study()
    study.enqueue_trial(made.default)
    trial = study.ask()
    for name, each in made.space.items():
        tuning._suggested(trial, name, each)
    made.close()
    found = searched(tmp_path / "study", 2)
    assert len(found) == 2
    assert found[0].settings == made._settings(made.default)


@pytest.mark.parametrize("tail", [b'{"op_code":', b"\0" * 25], ids=["torn", "NULs"])
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, tail: bytes) -> None:
    first = searched(tmp_path / "study", 2)
    journal = tmp_path / "study" / tuning.JOURNAL
    journal.write_bytes(journal.read_bytes() + tail)
    second = searched(tmp_path / "study", 3)
    assert [trial.number for trial in second] == [2]
    made = tuner(tmp_path / "study")
    assert made.trials() == [*first, *second]
    made.close()


@pytest.mark.parametrize("line", [b"garbage", b"5", b"{}", b'{"op_code":4}'])
def test_a_journal_with_a_foreign_line_is_not_valid(tmp_path: Path, line: bytes) -> None:
    searched(tmp_path / "study", 1)
    journal = tmp_path / "study" / tuning.JOURNAL
    first, *rest = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([first, line, *rest, b""]))
    with pytest.raises(ModelInvalid, match=r"journal\.log: a line is not as gpunet wrote it; take"):
        searched(tmp_path / "study", 2)


def test_a_full_disk_is_the_journals_fault_and_the_study_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    backend = optuna.storages.journal.JournalFileBackend
    real, left = backend.append_logs, [25]

    def append(self: Any, logs: list[Any]) -> None:
        left[0] -= 1
        if left[0] < 0:
            with open(self._file_path, "ab") as file:
                file.write(b'{"op_')
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, logs)

    monkeypatch.setattr(backend, "append_logs", append)
    with pytest.raises(WriteError, match=r"study/journal\.log: No space left on device; .* room"):
        searched(tmp_path / "study", 3)
    monkeypatch.setattr(backend, "append_logs", real)
    assert len(searched(tmp_path / "study", 3)) == 2


def test_trials_are_compared_at_like_shares_of_their_steps(tmp_path: Path) -> None:
    made, places = tuner(tmp_path / "study"), []
    trial = SimpleNamespace(
        report=lambda cost, place: places.append(place),
        should_prune=lambda: False,
        set_user_attr=lambda *given: None,
    )
    plain = {**SMALL, "epochs": "auto", "steps": 40, "preset": "plain", "batch_size": 16}
    made._train(job.plan("penguins", plain), trial)
    made.close()
    assert places == [step * tuning.REPORTS // 40 for step in (15, 30)]  # 15 an epoch


def test_no_more_trials_than_wanted_are_kept(tmp_path: Path) -> None:
    made = tuner(tmp_path / "study", 1)
    study = made._study()
    numbers = [study.ask().number for _ in range(2)]
    assert [made._is_spare(study, number) for number in numbers] == [False, True]
    made.close()


def test_a_deadline_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Tuner("penguins", SMALL, None, tmp_path / "study", 2, timeout=0.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a clock that is put back
    assert list(made.search()) == []
    with pytest.raises(UsageError, match="no trial began before --timeout was over; give more"):
        made.best()
    made.close()


def test_getting_ready_takes_nothing_of_the_time_for_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, plan = [0.0], job.plan

    def slow(*given: Any) -> job.Job:
        now[0] += 100
        return plan(*given)

    monkeypatch.setattr(job, "plan", slow)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: now[0]))
    made = Tuner("penguins", SMALL, None, tmp_path / "study", 2, timeout=50.0)
    assert not made._is_over(made._study())
    made.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"validation": 0}, "validation part"),
        ({"lr": -1}, "--lr -1"),
        (
            dict.fromkeys(("dropout", "label_smoothing", "weight_decay"), 0.1)
            | {"lr": 0.1, "activation": "relu", "betas": "0.9,0.99"}
            | {"numeric_embedding": "none", "one_hot_levels": 8},
            "nothing is left to search",
        ),
    ],
    ids=["validation", "lr", "all"],
)
def test_what_cannot_be_searched(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tuner(tmp_path / "study", **flags)
    assert not (tmp_path / "study").exists()


def test_a_study_of_other_settings_or_data_is_refused(tmp_path: Path) -> None:
    searched(tmp_path / "study", 1)
    with pytest.raises(UsageError, match="other data or settings"):
        tuner(tmp_path / "study", seed=1)
    with pytest.raises(UsageError, match="other data or settings"):
        tuner(tmp_path / "study", data=csv(text_of(mixed(60))), target="kind")
    (tmp_path / "study" / "study.json").write_text("[]")
    with pytest.raises(ModelInvalid, match="not as gpunet wrote it"):
        tuner(tmp_path / "study")


def test_workers_need_data_that_they_can_read(tmp_path: Path) -> None:
    data = {name: ["" if v is None else str(v) for v in of] for name, of in mixed(60).items()}
    with pytest.raises(UsageError, match="several workers read the data"):
        Tuner(data, {**SMALL, "target": "kind"}, None, tmp_path / "study", workers=2)


def test_without_optuna_the_way_to_install_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Unavailable, match=r"gpunet\[tune\]"):
        tuner(tmp_path / "study")


def test_what_a_worker_died_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SERVE", "raise SystemExit('no room')")
    made = Tuner("penguins", SMALL, None, tmp_path / "study", 2, workers=2)
    with pytest.raises(CheckFailed, match="2 of 2 workers ended early: no room"):
        list(made.search())
    monkeypatch.setattr(tuning, "SERVE", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(OutOfMemory, match="2 of 2 workers ended early: it was killed"):
        list(made.search())
    monkeypatch.setattr(tuning, "SERVE", "raise SystemExit(74)")
    with pytest.raises(WriteError, match="2 of 2 workers ended early"):
        list(made.search())
    made.close()


def command(place: Path, *flags: str) -> subprocess.Popen[str]:
    given = ["tune", "penguins", "--device", "cpu", "--hidden", "8", "--folds", "0", *flags]
    given += ["-o", "study"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "gpunet", *given],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_workers_share_a_study(tmp_path: Path) -> None:
    done = command(tmp_path, "--epochs", "3", "--trials", "5", "--workers", "2", "--json")
    out, err = done.communicate()
    assert done.returncode == 0, err
    found = json.loads(out)
    assert found["schema"] == "gpunet.tune/1"
    assert len(found["trials"]) == 5
    assert len({json.dumps(trial["settings"]) for trial in found["trials"]}) == 5
    assert found["run"]["run"] == "study/best"


def test_json_hides_no_warning(tmp_path: Path) -> None:
    done = command(tmp_path, "--epochs", "1", "--trials", "1", "--json", "-q")
    out, err = done.communicate()
    warnings = json.loads(out)["run"]["warnings"]
    assert warnings
    assert err == "".join(f"gpunet: warning: {text}\n" for text in warnings)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_ends_the_search_and_it_goes_on(tmp_path: Path, workers: str) -> None:
    flags = ("--epochs", "60", "--trials", "200", "--workers", workers, "-q")
    done = command(tmp_path, *flags)
    journal = tmp_path / "study" / "journal.log"
    while done.poll() is None and not (journal.exists() and '"seconds"' in journal.read_text()):
        time.sleep(0.05)
    os.kill(done.pid, signal.SIGINT)
    _, err = done.communicate()
    assert done.returncode == 130, err
    said = err.splitlines()[-1]
    assert "of 200 trials; the same command goes on" in said
    count = int(said.split("stopped after ")[1].split()[0])
    assert count >= 1
    again = command(tmp_path, "--epochs", "60", "--trials", str(count), "-q")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert out.splitlines()[0].split()[:2] == ["trial", "log-loss"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    done = command(tmp_path, "--epochs", "100000", "--patience", "0", "--workers", "2", "-q")
    crew = Path(f"/proc/{done.pid}/task/{done.pid}/children")
    journal = tmp_path / "study" / "journal.log"
    who: set[str] = set()
    while len(who) < 3:  # the process itself, and both workers
        assert done.poll() is None
        time.sleep(0.05)
        if journal.exists():
            who.update(re.findall(r'"worker_id":"\S+?"', journal.read_text()))
    workers = [Path(f"/proc/{number}/stat") for number in crew.read_text().split()]
    done.kill()
    done.communicate()

    def alive() -> bool:
        return any(each.exists() and each.read_text().split()[2] != "Z" for each in workers)

    assert len(workers) >= 2
    late = time.monotonic() + 20
    while alive() and time.monotonic() < late:
        time.sleep(0.05)
    assert not alive()


def test_what_is_said_of_the_best_is_aligned(tmp_path: Path) -> None:
    _, err = command(tmp_path, "--epochs", "3", "--trials", "1").communicate()
    words = ("best", "calibrated", "kept", "next")
    lines = [line for line in err.splitlines() if line.startswith(words)]
    assert [line[:12].rstrip() for line in lines] == list(words)


def test_a_timeout_is_a_time(tmp_path: Path) -> None:
    done = command(tmp_path, "--timeout", "10")
    assert "must be a time above 0, such as" in done.communicate()[1]
    assert done.returncode == 2


@pytest.mark.parametrize("timeout", ["10", "soon", -1, float("nan"), [3]])
def test_a_timeout_that_is_no_time_makes_nothing(tmp_path: Path, timeout: Any) -> None:
    with pytest.raises(UsageError, match=r"--timeout .*: must be a time above 0, such as"):
        gpunet.tune("penguins", out=tmp_path / "study", timeout=timeout, **SMALL)
    assert not (tmp_path / "study").exists()


def test_a_timeout_may_be_text_as_on_the_command_line(tmp_path: Path) -> None:
    made = Tuner("penguins", SMALL, None, tmp_path / "study", timeout="10m")
    made.close()
    assert 590 < made.deadline - time.monotonic() <= 600


@pytest.mark.parametrize("content", [None, "{"])
def test_a_study_that_cannot_be_held_is_let_go(tmp_path: Path, monkeypatch, content) -> None:
    out = tmp_path / "study"
    if content is None:
        monkeypatch.setattr(Run, "write_json", failing)
    else:
        tuner(out).close()
        (out / "study.json").write_text(content)
    with pytest.raises((WriteError, ModelInvalid)) as caught:
        tuner(out)
    monkeypatch.undo()
    Run(out).close()
    assert caught.value.exit_code in (74, 76)


def failing(*_: object) -> None:
    raise WriteError("no room")
