"""Runs on several seeds and folds: whole jobs, and what their metrics come to."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from runs import SETTINGS
from tables import mixed

import gpunet
from gpunet import heldout, job, repeats, rerun
from gpunet.config import fold, gather
from gpunet.data.split import fold_of
from gpunet.errors import DataError, InputMissing, OutputExists, UsageError, WriteError

SMALL = {**SETTINGS, "epochs": 2, "baselines": False}


def table() -> dict[str, list[object]]:
    values = mixed(120)
    values["size"] = [None if v == "NA" else v for v in values["size"]]
    return {**values, "person": [f"p{i % 24}" for i in range(120)]}


def test_seeds_are_runs_of_their_own(tmp_path: Path) -> None:
    found = gpunet.repeat("penguins", seeds=3, seed=4, out=tmp_path / "run", **SMALL)
    assert [run["label"] for run in found.runs] == ["seed4", "seed5", "seed6"]
    alone = job.plan("penguins", {**SMALL, "seed": 5})
    alone.follow()
    assert found.runs[1]["metrics"] == alone.finish()["metrics"]
    values = [run["metrics"]["test"]["log_loss"] for run in found.runs]
    assert len(set(values)) == 3
    assert found.mean["test"]["log_loss"] == pytest.approx(np.mean(values))
    assert found.deviation["test"]["log_loss"] == pytest.approx(np.std(values, ddof=1))
    splits = [rerun.reopen(tmp_path / f"run-seed{i}").prepared.split.test for i in (4, 5)]
    assert set(splits[0]) != set(splits[1])
    saved = gpunet.load(tmp_path / "run-seed6")
    np.testing.assert_array_equal(saved.predict("penguins"), found.models[2].predict("penguins"))


def test_every_run_is_where_the_first_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pa.table({"a": [float(i % 7) for i in range(60)], "y": list(range(60))})
    for name in ("t.parquet", "new.parquet"):
        pa.parquet.write_table(rows, name)
    Path("c.toml").write_text('test = "new.parquet"\n')
    (tmp_path / "elsewhere").mkdir()
    found = gpunet.repeat(
        "t.parquet",
        "y",
        seeds=3,
        out="rep",
        config="c.toml",
        on_report=lambda _: monkeypatch.chdir(tmp_path / "elsewhere"),
        **SMALL,
    )
    assert found.runs[0]["run"] == "rep-seed0"
    assert [str(tmp_path / f"rep-seed{i}") for i in (1, 2)] == [r["run"] for r in found.runs[1:]]
    assert list(Path().iterdir()) == []
    for i in range(3):
        assert rerun.reopen(tmp_path / f"rep-seed{i}").prepared.test.rows == 60


@pytest.mark.usefixtures("gone")
def test_repeats_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    assert len(gpunet.repeat("penguins", seeds=2, out=tmp_path / "rep", **SMALL).models) == 2
    with pytest.raises(InputMissing, match=r"^t\.csv: the working directory is no longer there"):
        gpunet.repeat("t.csv", "y", seeds=2, **SMALL)
    with pytest.raises(WriteError, match=r"^the working directory: No such file"):
        gpunet.repeat("penguins", seeds=2, out="rep", **SMALL)


def test_every_row_is_tested_once_and_fits_nothing_then() -> None:
    data = table()
    tested = []
    for each in repeats.asked(data, {**SMALL, "target": "kind"}, None, None, 4, None).jobs:
        planned = job.plan(data, each.flags)
        split = planned.prepared.split
        tested += split.test.tolist()
        rows = np.concatenate([split.train, split.validation, split.test])
        assert sorted(rows.tolist()) == list(range(120))
        assert len(split.validation) == 18
        changed = {name: list(values) for name, values in data.items()}
        for row in split.test:
            changed["size"][row], changed["town"][row] = 1e6, "Elsewhere"
        again = job.plan(changed, each.flags).prepared
        assert again.schema.to_dict() == planned.prepared.schema.to_dict()
        np.testing.assert_array_equal(again.train.x, planned.prepared.train.x)
    assert sorted(tested) == list(range(120))


def test_folds_keep_groups_whole_and_classes_in_their_shares() -> None:
    data = table()
    flags = {**SMALL, "target": "kind", "group": "person"}
    people = np.array(data["person"])
    for each in repeats.asked(data, flags, None, None, 3, None).jobs:
        rows = job.plan(data, each.flags).prepared.split.rows.values()
        parts = [set(people[part]) for part in rows]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 24
    groups = np.repeat(np.arange(30), 4)
    strata = (np.arange(120) // 4) % 3 == 0
    found = fold_of(120, 5, seed=0, strata=strata.astype(int), groups=groups)
    assert np.bincount(found).tolist() == [24] * 5
    assert [int(strata[found == i].sum()) for i in range(5)] == [8] * 5


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_no_fold_of_groups_is_empty(folds: int) -> None:
    sizes = [50, 1, 1, 1, 1, 1, 1]
    found = fold_of(56, folds, seed=1, groups=np.repeat(np.arange(7), sizes))
    assert np.unique(found).tolist() == list(range(folds))
    with pytest.raises(DataError, match="7 groups are too few for 8 folds"):
        fold_of(56, 8, seed=1, groups=np.repeat(np.arange(7), sizes))


def test_a_fold_is_a_setting_that_a_run_keeps(tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = gpunet.repeat("penguins", cv=2, out=out, **SMALL)
    assert [run["run"] for run in found.runs] == [f"{out}-fold1", f"{out}-fold2"]
    assert found.runs[0]["rows"]["test"] + found.runs[1]["rows"]["test"] == 344
    reopened, rows = heldout.held_out(f"{out}-fold2")
    assert reopened.settings.config.test_fold == "2/2"
    assert rows.rows == found.runs[1]["rows"]["test"]


def test_what_a_fold_is() -> None:
    assert fold("2/5") == (2, 5)
    for wrong in ("0/5", "6/5", "1/1", "1", "a/b", "1/ 2", "-1/3"):
        with pytest.raises(ValueError, match="no fold"):
            fold(wrong)
        with pytest.raises(UsageError, match="such as 2/5"):
            gather({"test_fold": wrong})


@pytest.mark.parametrize(
    ("flags", "seeds", "cv", "message"),
    [
        ({"time": "year"}, None, 3, "--cv 3 and --time conflict"),
        ({"test": 0.2}, None, 3, "--cv 3 and --test conflict"),
        ({"test_fold": "1/3"}, None, 3, "--cv 3 and --test-fold conflict"),
        ({"split_column": "sex"}, None, 3, "--cv 3 and --split-column conflict"),
        ({}, 2, 3, "one of --seeds and --cv"),
        ({}, 1, None, "--seeds 1: must be a whole number, 2 or more"),
        ({}, None, 2.5, "--cv 2.5: must be a whole number, 2 or more"),
        ({"lr": -1}, 2, None, "--lr -1"),
    ],
)
def test_what_cannot_be_repeated(
    flags: dict[str, object], seeds: int | None, cv: float | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        repeats.asked("penguins", flags, None, seeds, cv, None)


def test_a_table_is_repeated_and_its_first_column_may_be_the_target() -> None:
    table = pa.table({"0": [float(i % 7) for i in range(60)], "1": list(range(60))})
    found = gpunet.repeat(table, 0, seeds=2, preset="plain", epochs=1)
    assert found.about["target"] == ["0"]


def test_standard_input_is_read_once() -> None:
    with pytest.raises(UsageError, match="can be read once"):
        repeats.asked("-", {}, None, 2, None, None)


def test_a_time_in_a_file_of_settings_clashes_with_folds(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('time = "year"\n')
    with pytest.raises(UsageError, match="--test-fold 1/3 and --time year conflict"):
        repeats.asked("penguins", {}, tmp_path / "c.toml", None, 3, None)


def test_nothing_is_trained_where_a_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "run-seed1").mkdir()
    (tmp_path / "run-seed1" / "file").write_text("mine")
    with pytest.raises(OutputExists):
        gpunet.repeat("penguins", seeds=2, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run-seed0").exists()


def command(place: Path, *flags: str, **more: object) -> subprocess.Popen[str]:
    given = ["train", "penguins", "--device", "cpu", "--hidden", "8", "-o", "run", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "gpunet", *given], cwd=place, **pipes, **more
    )


def test_the_command_prints_each_run_mean_and_deviation(tmp_path: Path) -> None:
    done = command(tmp_path, "--epochs", "2", "--cv", "2", "-q")
    out, err = done.communicate()
    assert done.returncode == 0, err
    lines = [line.split()[0] for line in out.splitlines()]
    assert lines == ["accuracy,", "fold1", "fold2", "mean", "deviation"]
    done = command(tmp_path, "--epochs", "2", "--seeds", "2", "-q", "--json")
    found = json.loads(done.communicate()[0])
    assert found["schema"] == "gpunet.seeds/1"
    assert [run["run"] for run in found["runs"]] == ["run-seed0", "run-seed1"]
    each = [run["metrics"]["test"]["accuracy"] for run in found["runs"]]
    assert found["mean"]["test"]["accuracy"] == pytest.approx(sum(each) / 2)


def test_dry_run_is_for_one_run(tmp_path: Path) -> None:
    done = command(tmp_path, "--seeds", "2", "--dry-run")
    assert "--dry-run is for one run" in done.communicate()[1]
    assert done.returncode == 2


def test_a_signal_ends_the_run_in_hand_and_says_what_is_done(tmp_path: Path) -> None:
    done = command(tmp_path, "--epochs", "1000", "--patience", "0", "--seeds", "2", "-q")
    second = tmp_path / "run-seed1" / "metrics.jsonl"
    while done.poll() is None and not second.exists():
        time.sleep(0.01)
    os.kill(done.pid, signal.SIGTERM)
    _, err = done.communicate()
    assert done.returncode == 143, err
    said = err.splitlines()[-1]
    assert "seed1: stopped after step" in said
    assert "1 of 2 runs are done (run-seed0)" in said
    assert "gpunet resume run-seed1" in said
    assert json.loads((tmp_path / "run-seed0" / "summary.json").read_text())["ended"] == "done"
