"""A plan: what it counts, and that nothing of it stays."""

import json
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from gpunet import job, outlook
from gpunet.cli import _run
from gpunet.errors import Diverged

SETTINGS = {"device": "cpu", "hidden": (16,), "epochs": 6, "preset": "plain"}


def plan(**settings: object) -> job.Job:
    return job.plan("penguins", {**SETTINGS, **settings})


def test_a_plan_counts_what_the_run_holds() -> None:
    planned = plan()
    found = outlook.look(planned)
    assert found.layers == (
        ("hidden1.weight", (planned.prepared.schema.width, 16)),
        ("hidden1.bias", (16,)),
        ("output.weight", (16, 3)),
        ("output.bias", (3,)),
    )
    assert (found.steps, found.epochs) == (48, 6.0)
    parts = planned.prepared.parts.values()
    assert found.data_bytes == sum(part.x.nbytes + part.y.nbytes for part in parts)
    assert found.weight_bytes == planned.parameters * 4 * 4
    assert 1 <= found.timed <= 48
    assert found.seconds > 0
    assert found.prediction_bytes == 344 * 3 * 4
    in_steps = job.plan("penguins", {"device": "cpu", "steps": 400, "preset": "plain"})
    assert (found.validations, outlook.look(in_steps, 0).validations) == (6, 20)
    expected = 48 * found.seconds / found.timed + 6 * found.validation_seconds
    assert found.total_seconds == pytest.approx(expected)


@pytest.mark.parametrize("steps", [7, 30, 41])
def test_a_plan_counts_the_reports_that_a_run_makes(steps: int) -> None:
    settings = {"device": "cpu", "hidden": (16,), "preset": "plain", "batch_size": 256}
    planned = job.plan("penguins", {**settings, "steps": steps})
    assert outlook.look(planned, 0).validations == len(list(planned.reports()))
    assert outlook.look(plan(precision="fp64", optimizer="sgd")).weight_bytes == (
        planned.parameters * 8 * 2
    )


def test_timing_ends_and_leaves_the_network_as_it_was() -> None:
    planned = plan(epochs=1_000_000, patience=0)
    before = {name: weight.copy() for name, weight in planned.model.network.weights.items()}
    found = outlook.look(planned, patience=0.05)
    assert found.timed < found.steps
    for name, weight in planned.model.network.weights.items():
        np.testing.assert_array_equal(weight, before[name])
    assert not planned.control.stop


@pytest.mark.parametrize("patience", [0.0, 60.0])
@pytest.mark.parametrize("settings", [{}, {"folds": 2, "validation": 0.0}, {"validation": 0.0}])
def test_a_validation_is_timed_whether_steps_come_to_one_or_not(
    monkeypatch, patience: float, settings: dict
) -> None:
    clock = count()
    monkeypatch.setattr(outlook.time, "perf_counter", lambda: float(next(clock)))
    found = outlook.look(plan(epochs=2, **settings), patience)
    is_judged = settings.get("validation") != 0 or "folds" in settings
    assert (found.validation_seconds > 0) == (is_judged or patience > 0)


def test_a_run_that_diverges_at_once_is_told() -> None:
    with pytest.raises(Diverged):
        outlook.look(plan(optimizer="sgd", lr=1e38, loss="softmax_cross_entropy"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [
        "train",
        "penguins",
        "--dry-run",
        "--hidden",
        "8",
        "-e",
        "2",
        "--folds",
        "0",
        "--device",
        "cpu",
    ]
    assert _run(flags) == 0
    shown = capsys.readouterr().out
    for words in ("bill_depth_mm", "hidden1.weight", "train 240", "memory", "steps", "time"):
        assert words in shown
    assert _run([*flags, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "gpunet.plan/1"
    assert found["rows"] == {"train": 240, "validation": 52, "test": 52}
    assert found["steps"] == 8
    assert [each["name"] for each in found["columns"]][:2] == ["island", "bill_length_mm"]
    assert found["launches"][-1]["launch"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert _run([*flags, "-o", "there"]) == 73
