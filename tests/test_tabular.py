"""The figures of many tables are right on known values; the script fills its document."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpunet import presets
from gpunet.config import Config, gather
from gpunet.data import Source

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
PEERS = {
    "catboost": {"rmse": 2.0, "fit_seconds": 1.0},
    "realmlp_td": {"rmse": 4.0, "fit_seconds": 10.0},
    "sklearn_mlp": {"rmse": 3.0, "fit_seconds": 1.0},
}
CLASS_PEERS = {
    "catboost": {"accuracy": 0.9, "log_loss": 0.2, "fit_seconds": 1.0},
    "realmlp_td": {"accuracy": 0.8, "log_loss": 0.4, "fit_seconds": 30.0},
    "sklearn_mlp": {"accuracy": 0.9, "log_loss": 0.5, "fit_seconds": 1.0},
    "tabm_d": {"accuracy": 0.99, "log_loss": 0.1, "fit_seconds": 1.0},
}


@pytest.fixture
def tabular(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(SCRIPTS)
    from tabular import figures, work

    return SimpleNamespace(figures=figures, work=work)


def two_tables(ours: dict[str, float], classes: dict[str, float]) -> dict[str, Any]:
    shared: dict[str, Any] = {"here": {"sklearn_mlp": {"seconds": 2.0}}, "test_rows": 100}
    return {
        "a": {**shared, "metric": "rmse", "gpunet": {"auto": ours}, "peers": PEERS},
        "b": {**shared, "metric": "accuracy", "gpunet": {"auto": classes}, "peers": CLASS_PEERS},
    }


def test_ranks_and_ratios_are_those_of_known_values(tabular: SimpleNamespace) -> None:
    ours = {"rmse": 3.0, "seconds": 2.0}
    tables = two_tables(ours, {"accuracy": 0.85, "log_loss": 0.3, "seconds": 6.0})
    found = tabular.figures.summary(tables, "auto")
    assert found["rank"]["networks"] == {"auto": 1.75, "realmlp_td": 3.0, "sklearn_mlp": 1.25}
    assert found["rank"]["all"]["auto"] == pytest.approx((2.5 + 3) / 2)
    assert found["rank_log_loss"]["all"]["auto"] == 3.0
    over = found["error_over"]
    assert over["realmlp_td"] == pytest.approx(np.sqrt(3 / 4 * 0.16 / 0.21))
    assert over["catboost"] == pytest.approx(np.sqrt(3 / 2 * 0.16 / 0.11))
    assert found["log_loss_over_best"]["each"] == {"b": pytest.approx(3.0)}
    assert found["seconds_over_realmlp_td"] == pytest.approx(8 / 40)
    assert found["behind_sklearn_mlp"] == ["a rmse", "b accuracy"]
    assert tabular.figures.machine_factor(tables) == pytest.approx(2.0)


def test_a_failed_fit_is_named_and_left_out(tabular: SimpleNamespace) -> None:
    tables = two_tables({"failed": "diverged"}, {"accuracy": 0.9, "log_loss": 0.2, "seconds": 1.0})
    found = tabular.figures.summary(tables, "auto")
    assert (found["tables"], found["failed"]) == (["b"], ["a"])
    assert found["error_over"]["catboost"] == pytest.approx(1.0)


def test_an_ablation_divides_by_the_whole(tabular: SimpleNamespace) -> None:
    fits = {"auto": {"rmse": 2.0}, "dropout": {"rmse": 3.0}, "init": {"failed": "diverged"}}
    found = tabular.figures.ablation({"a": {"gpunet": fits}}, "auto")
    assert found["dropout"]["error"] == {"each": {"a": 1.5}, "mean": pytest.approx(1.5)}
    assert found["init"]["error"] == {"each": {}, "mean": None}


@pytest.mark.parametrize("is_regression", [True, False])
def test_each_piece_is_turned_off_alone(tabular: SimpleNamespace, is_regression: bool) -> None:
    pieces = tabular.work.pieces(is_regression, "auto")
    task = "regression" if is_regression else "binary"

    def settled(off: dict[str, Any]) -> Config:
        table = Source("table", table=pa.table({"a": range(300)}))
        return presets.of_network(presets.of_data(gather(off), table), task, 300).config

    whole = settled({})
    assert {"dropout", "folds", "numeric_embedding", "schedule"} <= pieces.keys()
    for name, off in pieces.items():
        found = settled(off)
        changed = {n for n, value in vars(found).items() if value != getattr(whole, n)}
        assert name in changed
        assert changed <= off.keys()


def folder(place: Path) -> Path:
    """Two small tables, with peers' figures of the first."""
    rng = np.random.default_rng(0)
    for name, task in (("numbers", "regression"), ("classes", "binary")):
        (place / name).mkdir(parents=True)
        meta = {"name": name, "target": "y", "task": task, "categorical": ["word"]}
        (place / name / "meta.json").write_text(json.dumps(meta))
        for part, rows in (("train", 80), ("test", 40)):
            x = rng.normal(size=rows)
            y = x + rng.normal(size=rows) / 5
            answers = y if task == "regression" else np.where(y > 0, "yes", "no")
            words = [None if i % 9 == 0 else "ab"[i % 2] for i in range(rows)]
            table = pa.table({"x": x, "word": words, "y": answers})
            pq.write_table(table, place / name / f"{part}.parquet")
    (place / "peers.json").write_text(json.dumps({"numbers": PEERS}))
    return place


def run(*flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "tables.py"), *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_quick_run_fills_the_document(tmp_path: Path) -> None:
    path = tmp_path / "out" / "tables.json"
    tables = folder(tmp_path / "tables")
    done = run("--tables", tables, "--quick", "--presets", "auto,plain", "--json", path)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert (found["schema"], found["quick"], found["failed"]) == ("gpunet.tables/1", True, [])
    assert {"machine", "environment", "commit", "versions", "seconds"} <= found.keys()
    assert set(found["tables"]) == {"classes", "numbers"}
    assert set(found["tables"]["numbers"]["gpunet"]) == {"auto", "plain"}
    (each,) = found["tables"]["classes"]["gpunet"]["plain"]["runs"]
    assert each.keys() == {"accuracy", "log_loss", "seconds"}
    here = {"sklearn_mlp", "sklearn_hgb"} if find_spec("sklearn") else set()
    bars = {"pytabkit": "realmlp_td", "catboost": "catboost"} if here else {}
    here |= {name for module, name in bars.items() if find_spec(module)}
    assert set(found["tables"]["classes"]["here"]) == here
    plain = found["tables"]["numbers"]["gpunet"]["plain"]["rmse"]
    assert found["summary"]["plain"]["error_over"]["catboost"] == pytest.approx(plain / 2)
    assert "seconds of a fit" in done.stdout


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    done = run("--tables", folder(tmp_path), "--only", "nonsense")
    assert done.returncode == 66
    assert "not all these tables are there" in done.stderr
