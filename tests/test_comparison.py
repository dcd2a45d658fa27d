"""Two runs on the same rows: what is told, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import gpunet
from gpunet import comparison, heldout, rerun
from gpunet.bootstrap import Difference
from gpunet.cli import _run
from gpunet.data import read
from gpunet.errors import DataError, GpunetError, UsageError

SHORT = {"preset": "plain", "device": "cpu", "hidden": (32,), "patience": 0, "epochs": 30}


def table(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 2))
    y = np.abs(x[:, 0]) + 0.3 * rng.standard_normal(n)
    return pa.table({"a": x[:, 0], "b": x[:, 1], "y": y, "z": y > 1, "w": -y})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    data, other = place / "t.parquet", place / "new.parquet"
    pa.parquet.write_table(table(600, 0), data)
    pa.parquet.write_table(table(300, 1), other)
    named = {"features": ("a", "b"), **SHORT}
    gpunet.train(data, "y", out=place / "good", **named)
    gpunet.train(data, "y", out=place / "flat", **{**named, "hidden": ()})
    gpunet.train(data, "y", out=place / "other_split", seed=1, **named)
    gpunet.train(data, "w", out=place / "other_target", **named)
    gpunet.train(other, "y", out=place / "other_data", **named)
    gpunet.train(data, "y", out=place / "with_file", test=str(other), **named)
    gpunet.train(data, "y", out=place / "with_file_too", test=str(other), **{**named, "hidden": ()})
    gpunet.train(data, "y", out=place / "without", test=0.0, validation=str(other), **named)
    gpunet.train(table(600, 0), "y", out=place / "memory", **named)
    return place


def test_a_bent_target_is_not_for_a_line(runs: Path) -> None:
    found = comparison.compare(runs / "good", runs / "flat")
    assert found.rows == 90
    rmse = found.differences["rmse"]
    assert rmse.value > 0.2
    assert rmse.interval[0] > 0.1
    assert rmse.share < 0.01
    assert found.verdict.startswith(f"{runs / 'good'} is better in rmse by ")
    back = comparison.compare(runs / "flat", runs / "good")
    assert back.differences["rmse"].value == pytest.approx(-rmse.value)
    assert back.verdict == found.verdict
    told = json.loads((runs / "good/summary.json").read_text())["metrics"]["test"]
    assert found.metrics[0] == pytest.approx(told)


def test_the_same_model_is_no_better(runs: Path) -> None:
    found = comparison.compare(runs / "good", runs / "good")
    assert found.verdict == "no difference beyond noise"
    assert {each.share for each in found.differences.values()} == {1.0}


def test_data_that_are_of_both_are_prepared_once(runs: Path, monkeypatch) -> None:
    reopen, opened = rerun.reopen, []
    monkeypatch.setattr(rerun, "reopen", lambda *given: opened.append(given) or reopen(*given))
    comparison.compare(runs / "good", runs / "flat")
    assert len(opened) == 1
    with pytest.raises(DataError, match="has seen"):
        comparison.compare(runs / "good", runs / "other_split")
    assert len(opened) == 3


def test_on_other_rows(runs: Path) -> None:
    found = comparison.compare(runs / "good", runs / "flat", runs / "new.parquet")
    assert found.rows == 300
    model = gpunet.load(runs / "good")
    assert found.metrics[0] == model.evaluate(runs / "new.parquet")
    assert "good is better" in found.verdict
    model.save(runs / "model.safetensors")
    again = comparison.compare(runs / "model.safetensors", runs / "flat", table(300, 1))
    assert again.differences == found.differences


def test_groups_are_drawn_whole_if_one_of_both_has_them(runs: Path, tmp_path: Path) -> None:
    rows = table(600, 0).append_column("who", pa.array(np.arange(600) // 20))
    new = table(300, 1).append_column("who", pa.array(np.arange(300) // 20))
    gpunet.train(rows, "y", out=tmp_path / "r", features=("a", "b"), group="who", **SHORT)
    for pair in ((runs / "flat", tmp_path / "r"), (tmp_path / "r", runs / "flat")):
        assert comparison.compare(*pair, new).resampled == "15 groups of who"
    assert comparison.compare(*pair, table(300, 1)).resampled == "rows: there is no column who"
    assert comparison.compare(runs / "flat", runs / "good", new).resampled == "rows"


def test_on_a_test_part_of_its_own(runs: Path) -> None:
    found = comparison.compare(runs / "with_file", runs / "with_file_too")
    assert found.rows == 300
    assert "with_file is better" in found.verdict


@pytest.mark.parametrize(
    ("a", "b", "data", "kind", "said"),
    [
        ("good", "other_split", None, DataError, "has seen [0-9]+ of 90 rows"),
        ("good", "other_target", None, UsageError, "do not share the target"),
        ("good", "other_data", None, UsageError, "of different data"),
        ("good", "with_file", None, DataError, "different test parts"),
        ("good", "without", None, UsageError, "has no test part"),
        ("good", "memory", None, UsageError, "in memory"),
        ("good", "flat", "t.parquet", DataError, "has seen rows of"),
        ("other_data", "good", "new.parquet", DataError, "other_data has seen rows of"),
        ("good", "without", "new.parquet", DataError, "without has seen rows of"),
        ("good", "good/model.safetensors", None, UsageError, "does not say which rows"),
    ],
)
def test_what_cannot_be_compared(runs: Path, a, b, data, kind, said) -> None:
    with pytest.raises(kind, match=said):
        comparison.compare(runs / a, runs / b, None if data is None else runs / data)


@pytest.mark.parametrize("kind", ["symlink", "copy", "csv", "rows"])
def test_training_data_are_known_in_another_place(runs: Path, tmp_path: Path, kind: str) -> None:
    copy: object = tmp_path / "copy"
    if kind == "symlink":
        copy.symlink_to(runs / "t.parquet")
    elif kind == "copy":
        shutil.copy(runs / "t.parquet", copy)
    elif kind == "csv":
        pa.csv.write_csv(table(600, 0), copy)
    else:
        copy = table(600, 0)
    for run in ("good", "memory")[: 1 if kind == "symlink" else 2]:
        of_rows = f"^these rows are those that {runs / run} was trained on; leave"
        said = f"{run} has seen rows of" if kind == "symlink" else of_rows
        with pytest.raises(DataError, match=said):
            comparison.compare(runs / run, runs / "flat", copy)


@pytest.mark.parametrize("kind", ["set", "pair", "arrays", "two targets"])
def test_training_data_that_brought_their_target_are_known_without_it(
    tmp_path: Path, kind: str
) -> None:
    held = table(60, 0)
    x, y = held.select(["a", "b"]), np.array(held["y"])
    arrays = np.stack([held["a"], held["b"]], 1)
    given, copy = {
        "set": ("penguins", read("penguins").table),
        "pair": ((x, y), x.append_column("y", held["y"])),
        "arrays": ("digits", (read("digits").x, read("digits").y)),
        "two targets": ((arrays, arrays), (arrays, arrays)),
    }[kind]
    gpunet.train(given, out=tmp_path / "run", **{**SHORT, "epochs": 1})
    if isinstance(copy, pa.Table):
        pa.csv.write_csv(copy, tmp_path / "copy.csv")
        copy = tmp_path / "copy.csv"
    assert heldout.seen_by(tmp_path / "run", copy, read(copy)) == "rows"


def test_a_run_on_text_without_a_header_knows_its_rows(tmp_path: Path) -> None:
    text = "".join(f"{i % 7};{i % 5};{i % 3 + i / 100}\n" for i in range(90))
    for name in ("t.csv", "copy.csv"):
        (tmp_path / name).write_text(text)
    written = {"delimiter": ";", "header": False}
    gpunet.train(tmp_path / "t.csv", "c3", out=tmp_path / "run", **written, **SHORT)
    copy = read(tmp_path / "copy.csv", **written)
    assert heldout.seen_by(tmp_path / "run", tmp_path / "copy.csv", copy) == "rows"
    assert heldout.held_out(tmp_path / "run")[1].rows == 14
    with pytest.raises(UsageError, match="are for CSV files"):
        gpunet.train(copy, "c3", **written)


def test_rows_that_memory_is_too_small_to_tell_are_judged_all_the_same(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(rerun, "reopen", full)
    shutil.copy(runs / "t.parquet", tmp_path / "copy.parquet")
    assert _run(["evaluate", str(runs / "good"), str(tmp_path / "copy.parquet")]) == 0


def test_a_link_is_the_place_itself_whatever_it_holds_by_now(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(runs / "t.parquet")
    for place, how in ((tmp_path / "link", "place"), (runs / "new.parquet", "")):
        assert heldout.seen_by(runs / "good", place, read(table(300, 1))) == how


def test_a_link_to_the_data_or_to_the_test_part_is_the_same(runs: Path, tmp_path: Path) -> None:
    for name in ("t.parquet", "new.parquet"):
        (tmp_path / name).symlink_to(runs / name)
    named = {"features": ("a", "b"), **SHORT, "epochs": 1}
    test = {"whole": {}, "own": {"test": str(tmp_path / "new.parquet")}}
    for out, more in test.items():
        gpunet.train(tmp_path / "t.parquet", "y", out=tmp_path / out, **named, **more)
    assert comparison.compare(runs / "good", tmp_path / "whole").rows == 90
    assert comparison.compare(runs / "with_file", tmp_path / "own").rows == 300


def test_evaluate_warns_of_a_copy_of_the_training_data(runs: Path, tmp_path: Path, capsys) -> None:
    shutil.copy(runs / "t.parquet", tmp_path / "copy.parquet")
    for data, is_seen in ((tmp_path / "copy.parquet", True), (runs / "new.parquet", False)):
        assert _run(["evaluate", str(runs / "good"), str(data)]) == 0
        assert ("was trained on" in capsys.readouterr().err) == is_seen


def test_data_that_have_changed_are_refused(runs: Path, tmp_path: Path) -> None:
    data = tmp_path / "t.parquet"
    pa.parquet.write_table(table(200, 2), data)
    for name, hidden in (("a", (4,)), ("b", ())):
        gpunet.train(data, "y", drop=("z", "w"), out=tmp_path / name, epochs=1, hidden=hidden)
    assert comparison.compare(tmp_path / "a", tmp_path / "b").rows == 30
    pa.parquet.write_table(table(200, 3), data)
    with pytest.raises(GpunetError, match="data have changed"):
        comparison.compare(tmp_path / "a", tmp_path / "b")


def test_the_sentence_names_who_is_better_at_what() -> None:
    clear = {
        "accuracy": Difference(0.02, (0.01, 0.03), 0.002),
        "log_loss": Difference(0.1, (0.05, 0.2), 0.002),
        "auc": Difference(-0.01, (-0.03, 0.01), 0.4),
    }
    assert comparison.verdict(clear, ("A", "B")) == (
        "B is better in accuracy by 0.02 (0.01 to 0.03); "
        "A is better in log_loss by 0.1 (0.05 to 0.2)"
    )


def test_a_share_that_was_asked_for_is_no_better_when_larger() -> None:
    wide = {"coverage": Difference(0.1, (0.05, 0.15), 0.002)}
    assert comparison.verdict(wide, ("A", "B")) == "no difference beyond noise"


@pytest.mark.parametrize(
    ("settings", "metric"),
    [({"task": "count"}, "poisson_deviance"), ({"quantiles": (0.1, 0.5, 0.9)}, "pinball")],
)
def test_counts_and_quantiles(tmp_path: Path, settings, metric) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 2))
    bent = pa.table({"a": x[:, 0], "b": x[:, 1], "y": rng.poisson(np.exp(2 * np.abs(x[:, 0])))})
    pa.parquet.write_table(bent, tmp_path / "t.parquet")
    for name, hidden in (("good", (32,)), ("flat", ())):
        named = {**SHORT, "lr": 0.02, "hidden": hidden, **settings}
        gpunet.train(tmp_path / "t.parquet", "y", out=tmp_path / name, **named)
    found = comparison.compare(tmp_path / "flat", tmp_path / "good")
    assert found.differences[metric].interval[1] < 0
    assert f"good is better in {metric} by " in found.verdict
    gpunet.train(tmp_path / "t.parquet", "y", out=tmp_path / "one", quantiles=(0.5,), **SHORT)
    with pytest.raises(UsageError, match=r"do not share the (quantiles|task)"):
        comparison.compare(tmp_path / "good", tmp_path / "one")


def test_rows_of_weight_0_are_not_left_out_for_want_of_a_target(tmp_path: Path, capsys) -> None:
    weighed = table(200, 0).append_column("n", pa.array([0, 1] * 100))
    for name in ("a", "b"):
        out = tmp_path / name
        gpunet.train(weighed, "y", drop=("z", "w"), weight="n", out=out, **{**SHORT, "epochs": 1})
        assert heldout.seen_by(out, None, read(weighed)) == "rows"
    rows = table(60, 1).append_column("n", pa.array([0, 1, 1] * 20)).to_pydict()
    rows["y"][1] = None
    pa.parquet.write_table(pa.table(rows), tmp_path / "new.parquet")
    words = ["compare", *(str(tmp_path / name) for name in ("a", "b", "new.parquet"))]
    assert _run([*words, "--drop-missing-target", "--json"]) == 0
    done = capsys.readouterr()
    assert "left out 1 row without a target" in done.err
    assert (json.loads(done.out)["rows"], json.loads(done.out)["left_out"]) == (39, 1)


def test_the_command(runs: Path, capsys, monkeypatch) -> None:
    words = ["compare", str(runs / "good"), str(runs / "flat")]
    assert _run(words) == 0
    shown = capsys.readouterr().out
    assert "is better in rmse" in shown
    assert comparison.SHARE in shown
    assert _run([*words, str(runs / "new.parquet"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "gpunet.compare/1"
    assert (found["rows"], set(found["metrics"])) == (300, {"a", "b"})
    low, high = found["differences"]["rmse"]["interval"]
    assert 0 < low < found["differences"]["rmse"]["value"] < high
    assert _run([*words, "--no-header"]) == 2
    assert _run([words[0], words[1], str(runs / "other_split")]) == 65


def test_rows_of_a_source_keep_their_numbers() -> None:
    taken = read(table(10, 0)).take(np.array([2, 5, 9]))
    assert taken.rows == 3
    assert taken.table["y"].to_pylist() == table(10, 0)["y"].take([2, 5, 9]).to_pylist()
    assert [taken.row(i) for i in range(3)] == ["row 3", "row 6", "row 10"]
    assert taken.take(np.array([1])).row(0) == "row 6"
    arrays = read((np.arange(20.0).reshape(10, 2), np.arange(10))).take(np.array([0, 7]))
    assert (arrays.x[:, 0].tolist(), arrays.y.tolist()) == ([0.0, 14.0], [0, 7])


def test_rows_of_a_file_that_streams(tmp_path: Path, monkeypatch) -> None:
    pa.parquet.write_table(table(500, 0), tmp_path / "t.parquet")
    rows = np.array([0, 63, 64, 499])
    monkeypatch.setattr("gpunet.data.source.PIECE", 64)
    streamed = read(tmp_path / "t.parquet", budget=69_488)
    assert streamed.streams
    taken = streamed.take(rows)
    assert not taken.streams
    assert taken.table["y"].to_pylist() == table(500, 0)["y"].take(rows).to_pylist()
