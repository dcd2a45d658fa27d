"""Columns that matter and columns that do not; slices where a model fails, planted."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import gpunet
from gpunet import bootstrap, permutation, slicing
from gpunet.cli import _run
from gpunet.data import Column, read
from gpunet.device import resolve
from gpunet.errors import DataError

CPU = resolve("cpu").device
SHORT = {"preset": "plain", "device": "cpu", "hidden": (32,), "patience": 0, "epochs": 40}


def planted(n: int, seed: int) -> pa.Table:
    """`strong`, `weak` and `town` tell the class; `useless` does not; in `Bath` it is a coin's."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 3))
    town = rng.choice(["York", "Bath", "Wells", "Ely"], n)
    day = np.datetime64("2021-01-01") + rng.integers(0, 700, n).astype("m8[D]")
    z = 4 * x[:, 0] + 1.5 * x[:, 1] + 2 * (town == "Ely")
    y = np.where(town == "Bath", rng.random(n) < 0.5, rng.logistic(size=n) < z)
    gaps = np.where(rng.random(n) < 0.1, np.nan, x[:, 2])
    return pa.table(
        {
            "strong": x[:, 0],
            "useless": gaps,
            "weak": x[:, 1],
            "town": town,
            "day": pa.array(day),
            "y": np.where(y, "yes", "no"),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    pa.parquet.write_table(planted(3000, 0), place / "t.parquet")
    gpunet.train(place / "t.parquet", "y", out=place / "r", **SHORT)
    return place / "r"


@pytest.fixture(scope="module")
def model(run: Path) -> gpunet.Model:
    return gpunet.load(run)


def test_columns_are_ranked_and_a_useless_one_is_worth_nothing(model) -> None:
    found = permutation.importance(model, read(planted(2000, 1)))
    assert found[0].column == "strong"
    assert {each.column for each in found[:3]} == {"strong", "weak", "town"}
    by_name = {each.column: each.growth for each in found}
    assert by_name["strong"].interval[0] > 0.5
    assert by_name["weak"].interval[0] > 0
    assert abs(by_name["useless"].value) < 0.02
    assert by_name["useless"].interval[0] < 0.005


def test_importance_is_what_shuffled_cells_cost(model) -> None:
    """By predicting a table whose column is in another order; the inputs are not touched."""
    table = planted(2000, 1)
    before = model.evaluate(table)["log_loss"]
    rng, costs = np.random.default_rng(0), []
    for _ in range(8):
        order = rng.permutation(2000)
        moved = table.set_column(3, "town", table["town"].take(order))
        costs.append(model.evaluate(moved)["log_loss"] - before)
    found = {e.column: e.growth for e in permutation.importance(model, read(table), repeats=8)}
    assert found["town"].value == pytest.approx(np.mean(costs), abs=4 * np.std(costs))
    low, high = found["town"].interval
    assert low < np.mean(costs) < high


def test_importance_of_arrays_and_of_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 3)).astype(np.float32)
    y = 5 * x[:, 2] + 0.1 * rng.standard_normal(600)
    model = gpunet.train((x, y), task="regression", **SHORT)
    found = permutation.importance(model, read((x, y)))
    assert (found[0].column, found[0].metric) == ("x3", "rmse")
    assert found[0].growth.value == pytest.approx(5 * 2**0.5, rel=0.2)
    assert max(each.growth.value for each in found[1:]) < 0.3
    with pytest.raises(DataError, match="no columns"):
        slicing.slices(model, read((x, y)))


def test_of_many_rows_some_are_taken(model, monkeypatch) -> None:
    monkeypatch.setattr(permutation, "MOST_ROWS", 500)
    source = permutation.sample(read(planted(2000, 1)), 0)
    assert source.rows == 500
    assert permutation.importance(model, read(planted(2000, 1)))[0].column == "strong"


def test_the_planted_slice_is_the_worst(model) -> None:
    table = planted(2000, 1)
    whole, found = slicing.slices(model, read(table))
    assert (found[0].column, found[0].slice, found[0].is_worse) == ("town", "Bath", True)
    rows = np.flatnonzero(np.array(table["town"]) == "Bath")
    assert found[0].rows == len(rows)
    assert found[0].value == pytest.approx(model.evaluate(table.take(rows))["log_loss"])
    assert whole == pytest.approx(model.evaluate(table)["log_loss"])
    low, high = found[0].interval
    assert whole < low < found[0].value < high
    useless = [e for e in slicing.slices(model, read(table), most=99)[1] if e.column == "day"]
    assert len(useless) == 4
    assert not any(each.is_worse for each in useless)


def test_a_slice_of_one_group_ranks_behind_those_that_say_how_groups_differ(model) -> None:
    rows = bootstrap.RowValues(np.arange(6.0)[:, None], dict)
    alone, groups = (
        slicing._lower_end(rows.values[:, 0], each)
        for each in (
            dataclasses.replace(rows, cluster=np.zeros(6)),
            dataclasses.replace(rows, cluster=np.arange(6) // 3),
        )
    )
    assert alone == -np.inf
    assert groups < slicing._lower_end(rows.values[:, 0], rows) < 2.5


def test_slices_part_the_rows_of_each_column(model) -> None:
    table = planted(2000, 1)
    found = slicing.slices(model, read(table), least=1, most=999)[1]
    for name in ("strong", "useless", "town", "day"):
        assert sum(each.rows for each in found if each.column == name) == 2000, name
    gaps = int(np.isnan(np.array(table["useless"])).sum())
    missing = next(e for e in found if e.slice == "missing")
    assert (missing.column, missing.rows) == ("useless", gaps)
    assert all(e.rows >= 300 for e in slicing.slices(model, read(table), least=300)[1])


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (
            [f"2024-05-01T{hour:02d}:30" for hour in (0, 6, 12, 18)],
            "date",
            [f"2024-05-01T{hour:02d}:30:00" for hour in (0, 6, 12, 18)],
        ),
        (
            [f"2024-05-01T{hour:02d}:00" for hour in range(0, 17, 2)],
            "date",
            [
                f"2024-05-01T{low:02d}:00:00 … 2024-05-01T{high:02d}:00:00"
                for low, high in ((0, 4), (6, 8), (10, 12), (14, 16))
            ],
        ),
        ([2007, 2008, 2009], "numeric", ["2007", "2008", "2009"]),
        (
            list(range(2000, 2009)),
            "numeric",
            ["2000 … 2002", "2003 … 2004", "2005 … 2006", "2007 … 2008"],
        ),
        ([0] * 5 + [1, 2, 3, 4, 5], "numeric", ["0", "1 … 2", "3 … 5"]),
        ([0] * 6 + [1, 2, 3, 4, 5, 6], "numeric", ["0", "1 … 3", "4 … 6"]),
    ],
    ids=["times", "ranges of times", "years", "ranges of years", "ties", "an empty quarter"],
)
def test_slices_are_told_apart_by_their_words(values, kind: str, words: list[str]) -> None:
    source = read({"when": values})
    found = list(slicing._slices(Column("when", kind, missing=False), source))
    assert [word for word, _ in found] == ["missing", *(w.replace("T00:00:00", "") for w in words)]
    assert sum(rows.sum() for _, rows in found) == len(values)


def test_slices_take_cells_as_the_model_reads_them(tmp_path: Path) -> None:
    rows = [f"{'none' if i % 9 == 0 else i - 50.5};{i % 7}.5" for i in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["x;y", *rows]).replace(".", ","))
    model = gpunet.train(tmp_path / "t.csv", "y", decimal=",", na="none", **{**SHORT, "epochs": 1})
    found = slicing.slices(model, read(tmp_path / "t.csv"), least=1, most=99)[1]
    assert {each.slice: each.rows for each in found}["missing"] == 10
    assert len(found) == 5


def test_where_no_slice_is_large_enough_it_is_said(run: Path, capsys) -> None:
    assert _run(["slices", str(run), "--least", "5000"]) == 0
    shown = capsys.readouterr().out
    assert "no slice has 5,000 rows; lower --least" in shown
    assert "column" not in shown
    assert _run(["slices", str(run), "--least", "5000", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["slices"] == []


def test_the_commands_take_the_rows_held_out(run: Path, tmp_path, capsys, monkeypatch) -> None:
    held = json.loads((run / "summary.json").read_text())
    assert _run(["slices", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["rows"]) == ("gpunet.slices/1", held["rows"]["test"])
    assert found["all"] == pytest.approx(held["metrics"]["test"]["log_loss"])
    assert found["slices"][0]["slice"] == "Bath"
    assert _run(["importance", str(run), "--json", "--repeats", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["columns"][0]["column"] == "strong"
    assert found["rows"] == held["rows"]["test"]
    pa.parquet.write_table(planted(400, 3), tmp_path / "new.parquet")
    for command in ("slices", "importance"):
        assert _run([command, str(run), str(tmp_path / "new.parquet")]) == 0
        assert "log_loss" in capsys.readouterr().out
        with monkeypatch.context() as fewer:
            fewer.setattr(permutation, "MOST_ROWS", 150)
            assert _run([command, str(run), str(tmp_path / "new.parquet"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["rows"], found["rows_given"]) == (150, 400)
        assert _run([command, str(run / "model.safetensors")]) == 2
        assert _run([command, str(run), "--max-memory", "1G"]) == 2


@pytest.mark.parametrize(
    ("settings", "metric"),
    [({"task": "count"}, "poisson_deviance"), ({"quantiles": (0.2, 0.9)}, "pinball")],
)
def test_counts_and_quantiles(settings, metric) -> None:
    rng = np.random.default_rng(0)
    x, town = rng.standard_normal((1000, 2)), rng.choice(["York", "Bath"], 1000)
    y = rng.poisson(np.where(town == "Bath", 20, np.exp(1 + x[:, 0])))
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "town": town, "y": y})
    model = gpunet.train(table, "y", **{**SHORT, "lr": 0.02, **settings})
    found = {each.column: each for each in permutation.importance(model, read(table))}
    assert {each.metric for each in found.values()} == {metric}
    assert found["a"].growth.interval[0] > 0
    assert found["town"].growth.value > 10 * abs(found["b"].growth.value)
    whole, worst = slicing.slices(model, read(table))
    assert whole == pytest.approx(model.evaluate(table)[metric])
    assert {each.metric for each in worst} == {metric}
    held = [each for each in worst if each.slice == "Bath"]
    rows = np.flatnonzero(town == "Bath")
    assert held[0].value == pytest.approx(model.evaluate(table.take(rows))[metric])
