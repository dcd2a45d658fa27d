"""What is said of a trained model: calibrated, with intervals, beside simple models."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

import gpunet
from gpunet import baselines, evaluation, job, linear, loop, metrics, model
from gpunet import run as runs
from gpunet.bootstrap import Difference
from gpunet.cli import _run
from gpunet.data import read
from gpunet.device import resolve
from gpunet.errors import GpunetWarning, ModelInvalid, UsageError

pytest.importorskip("sklearn")
rng = np.random.default_rng(0)
CPU = resolve("cpu").device
N = 400
X = rng.standard_normal((N, 3))
NOISY = pa.table(
    {
        "a": X[:, 0],
        "b": X[:, 1],
        "c": X[:, 2],
        "y": np.where(X[:, 0] + rng.logistic(size=N) > 0.8, "yes", "no"),
    }
)
BENT = pa.table({"a": X[:, 0], "b": X[:, 1], "y": np.abs(X[:, 0]) + 0.1 * X[:, 2]})
SHORT = {"preset": "plain", "device": "cpu", "hidden": (32,), "epochs": 30, "patience": 0}


def planned(table: pa.Table, **settings: object) -> job.Job:
    return job.plan(table, {"target": "y", **SHORT, **settings})


def summary(table: pa.Table, **settings: object) -> tuple[job.Job, dict]:
    found = planned(table, **settings)
    for _ in found.reports():
        pass
    return found, found.finish()


def put(done: job.Job, **parts: object) -> None:
    """Other parts in a job that is planned."""
    done.prepared = dataclasses.replace(done.prepared, **parts)
    done.members = [
        dataclasses.replace(each, data=dataclasses.replace(each.data, **parts))
        for each in done.members
    ]


@pytest.fixture(scope="module")
def overfitted() -> tuple[job.Job, dict]:
    """Trained far past its best epoch: the last of the settings make the loop keep the last one."""
    found = planned(NOISY, lr=0.01, epochs=150, hidden=(64, 64))
    validation = found.prepared.validation
    put(found, validation=None)
    for _ in found.reports():
        pass
    put(found, validation=validation)
    return found, found.finish()


RARE = X[:, 0] + np.random.default_rng(1).logistic(size=N) > 2


def test_class_weights_move_labels_and_no_probability(tmp_path: Path) -> None:
    """A line is as good a model of weighted rows as of others, so that both learn the same."""
    table = pa.table({"a": X[:, 0], "b": X[:, 1], "y": np.where(RARE, "yes", "no")})
    each = {
        asked: summary(table, class_weight=asked, hidden=(), epochs=60, lr=0.03, weight_decay=0.0)
        for asked in ("none", "no=1,yes=9")
    }
    (plain, before), (done, after) = each.values()
    assert done.settings.config.threshold == 0.1
    loss = [found["metrics"]["test"]["log_loss"] for found in (before, after)]
    assert loss[1] == pytest.approx(loss[0], rel=0.1)
    assert not any("worse" in text for text in after["warnings"])
    done.model.save(tmp_path / "m.safetensors")
    again = gpunet.load(tmp_path / "m.safetensors")
    p = again.predict(table, proba=True)[:, 1]
    assert p.mean() == pytest.approx(RARE.mean(), rel=0.25)
    assert ((p > 0.1) == (again.predict(table) == "yes")).all()
    assert again.evaluate(table)["recall"] > 2 * plain.model.evaluate(table)["recall"]
    told = done.last.validation
    assert told["log_loss"] < 1.2 * plain.last.validation["log_loss"]


def test_class_weights_of_several_classes_move_labels_and_no_probability() -> None:
    kind = np.where(RARE, "c", np.where(X[:, 1] > 0, "b", "a"))
    table = pa.table({"a": X[:, 0], "b": X[:, 1], "y": kind})
    done, _ = summary(table, class_weight="balanced", hidden=(), epochs=60, lr=0.03)
    p, factors = done.model.predict(table, proba=True), done.model.schema.target.factors
    assert p.mean(axis=0) == pytest.approx([(kind == each).mean() for each in "abc"], abs=0.05)
    label = np.array(["a", "b", "c"])[(p * factors).argmax(axis=1)]
    assert (done.model.predict(table) == label).all()
    assert (label != np.array(["a", "b", "c"])[p.argmax(axis=1)]).any()
    assert done.model.evaluate(table)["accuracy"] == (label == kind).mean()
    rows = done.model.row_values(*done.model.answers(read(table), CPU))
    assert rows.metrics["accuracy"] == pytest.approx((label == kind).mean())


def test_a_threshold_that_is_given_stands_beside_class_weights() -> None:
    done = planned(NOISY, class_weight="yes=4", threshold=0.5)
    assert done.settings.config.threshold == 0.5
    assert planned(NOISY, class_weight="yes=4").settings.config.threshold == 0.2


def test_calibration_lowers_the_log_loss_and_moves_no_label(overfitted) -> None:
    done, found = overfitted
    told = found["calibration"]
    assert told["temperature"] > 1.2
    assert told["log_loss"]["after"] < told["log_loss"]["before"] - 0.01
    assert found["metrics"]["validation"]["log_loss"] == told["log_loss"]["after"]
    plain = dataclasses.replace(done.model, temperature=1.0)
    test = done.prepared.test
    raw = plain.run(test, done.choice.device)
    assert done.model.judge(test, raw)["log_loss"] < plain.judge(test, raw)["log_loss"]
    assert (done.model.predict(NOISY) == plain.predict(NOISY)).all()
    assert (done.model.predict(NOISY, proba=True) != plain.predict(NOISY, proba=True)).any()


def test_calibration_ranks_no_rows(overfitted, monkeypatch) -> None:
    done, _ = overfitted
    part = done.prepared.validation
    raw = done.model.run(part, done.choice.device)
    monkeypatch.setattr(metrics, "auc", None)
    assert evaluation.decide(done.model, (part, raw))[1]["log_loss"]["before"] > 0


def test_the_temperature_is_saved_with_the_model(overfitted, tmp_path: Path) -> None:
    done, found = overfitted
    done.model.save(tmp_path / "m.safetensors")
    again = gpunet.load(tmp_path / "m.safetensors")
    assert again.temperature == found["calibration"]["temperature"]
    assert (again.predict(NOISY, proba=True) == done.model.predict(NOISY, proba=True)).all()
    assert again.evaluate(NOISY) == done.model.evaluate(NOISY)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": "1"}, {"temperature": 1}, {"threshold": 1.0}]
)
def test_a_file_with_another_kind_of_temperature_is_refused(overfitted, tmp_path, wrong) -> None:
    path = tmp_path / "m.safetensors"
    overfitted[0].model.save(path)
    tensors, state = runs.unpack(path)
    runs.write(path, runs.pack(tensors, {**state, **wrong}))
    with pytest.raises(ModelInvalid, match=next(iter(wrong))):
        gpunet.load(path)


def test_a_file_without_a_temperature_is_refused(overfitted, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    overfitted[0].model.save(path)
    tensors, state = runs.unpack(path)
    del state["temperature"]
    runs.write(path, runs.pack(tensors, state))
    with pytest.raises(ModelInvalid, match="temperature"):
        gpunet.load(path)


def test_held_out_rows_of_the_test_part_fit_nothing() -> None:
    _, found = summary(NOISY)
    done = planned(NOISY)
    changed = dataclasses.replace(done.prepared.test, y=1 - done.prepared.test.y)
    put(done, test=changed)
    for _ in done.reports():
        pass
    again = done.finish()
    assert again["calibration"] == found["calibration"]
    assert again["baselines"]["linear"]["validation"] == found["baselines"]["linear"]["validation"]
    assert again["metrics"]["test"] != found["metrics"]["test"]


def test_intervals_lie_around_the_metrics_of_the_parts_held_out() -> None:
    _, found = summary(NOISY)
    assert set(found["intervals"]) == {"validation", "test"}
    for part, intervals in found["intervals"].items():
        for name, (low, high) in intervals.items():
            assert low < found["metrics"][part][name] < high


def visits(n: int) -> pa.Table:
    """Each patient has a level that nothing tells of."""
    own = np.random.default_rng(0)
    patient = own.integers(0, n // 10, n)
    level, x = 2 * own.standard_normal(n // 10), own.standard_normal(n)
    return pa.table({"x": x, "patient": patient, "y": level[patient] + x})


@pytest.mark.parametrize("by", [{"group": "patient"}, {"time": "day"}])
def test_what_belongs_together_is_drawn_together(by, tmp_path: Path, capsys) -> None:
    table = visits(2400)
    table = table.append_column("day", table["patient"])
    done, found = summary(table, features=("x",), epochs=2, **by)
    assert done.model.schema.group == by.get("group")
    alone = done.model.row_values(
        dataclasses.replace(done.prepared.test, cluster=None),
        done.model.run(done.prepared.test, done.choice.device),
    ).intervals(0)["rmse"]
    low, high = found["intervals"]["test"]["rmse"]
    assert high - low > 1.5 * (alone[1] - alone[0])
    said = "group" if "group" in by else "block"
    assert re.fullmatch(rf"\d+ {said}s of {next(iter(by.values()))}", found["resampled"]["test"])
    done.model.save(tmp_path / "m.safetensors")
    csv.write_csv(table, tmp_path / "new.csv")
    csv.write_csv(table.select(["x", "y"]), tmp_path / "bare.csv")
    for name, words in (("new", "resampled"), ("bare", "rows: there is no column")):
        given = [str(tmp_path / each) for each in ("m.safetensors", f"{name}.csv")]
        assert _run(["evaluate", *given]) == 0
        assert words in capsys.readouterr().out


def test_a_network_that_is_no_better_than_a_line_is_told_so() -> None:
    _, found = summary(NOISY)
    assert any("linear" in text for text in found["warnings"])
    _, bent = summary(BENT, epochs=60)
    assert bent["warnings"] == []
    loss = {name: each["test"]["rmse"] for name, each in bent["baselines"].items()}
    assert bent["metrics"]["test"]["rmse"] < 0.5 * min(loss.values())


@pytest.mark.parametrize(
    ("value", "interval", "said"),
    [
        (0.1, (-0.2, 0.3), "no better than the linear baseline beyond noise: rmse on test differs"),
        (2.4, (1.9, 2.9), "worse than the linear baseline: rmse on test differs by +2.4 (+1.9…+2"),
        (4.5, (np.nan, np.nan), "no better than the linear baseline beyond noise: rmse on test d"),
    ],
)
def test_what_a_warning_says_of_a_difference(value, interval, said) -> None:
    difference = Difference(value, interval, 0.5)
    found = evaluation._unbeaten("linear", "test", "rmse", difference)
    assert found.startswith(said)
    assert ("…" in found) == difference.is_known


def test_one_test_row_gives_no_interval_but_a_warning(tmp_path: Path) -> None:
    csv.write_csv(BENT.slice(0, 1), tmp_path / "one.csv")
    _, found = summary(BENT.slice(1), test=str(tmp_path / "one.csv"))
    assert found["intervals"]["test"] == {}
    assert set(found["metrics"]["test"]) >= {"rmse", "mae"}
    assert all("…" not in text for text in found["warnings"])


def test_the_baselines_are_scikit_learns() -> None:
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    done = planned(NOISY)
    p, config = done.prepared, done.model.config
    x, y = p.train.x, p.train.y.ravel()
    predictors = baselines.baselines(p, config)
    for name, oracle in {"linear": LogisticRegression(), "trivial": DummyClassifier()}.items():
        expected = log_loss(p.test.y.ravel(), oracle.fit(x, y).predict_proba(p.test.x))
        found = loop.judge(p.schema, p.test.y, predictors[name](p.test))["log_loss"]
        assert found == pytest.approx(expected, rel=0.03), name


def test_ridge_is_least_squares_where_that_is_best() -> None:
    line = pa.table({"a": X[:, 0], "b": X[:, 1], "y": 3 * X[:, 0] - 2 * X[:, 1] + 5.0})
    p = planned(line).prepared
    predict = linear.ridge(p)
    assert loop.judge(p.schema, p.test.y, predict(p.test))["rmse"] < 1e-4
    twice = pa.table({"a": X[:, 0], "b": X[:, 0], "y": X[:, 0] + 0.3 * X[:, 1]})
    p = planned(twice).prepared
    best = loop.judge(p.schema, p.test.y, linear.ridge(p)(p.test))["rmse"]
    assert best == pytest.approx(0.3, rel=0.3)


MANY = np.random.default_rng(3)
LEVELS = MANY.integers(0, 60, 700)
PULL = MANY.standard_normal(60)[LEVELS]
NOISE = MANY.standard_normal((700, 3))
CODED = {"x": NOISE[:, 0], "patient": [f"p{level}" for level in LEVELS]}


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize(
    ("answer", "settings"),
    [
        (lambda pull: {"y": 9 * (pull + NOISE[:, 1])}, {}),
        (lambda pull: {"y": pull + NOISE[:, 1]}, {"quantiles": (0.1, 0.5, 0.9)}),
        (lambda pull: {"y": np.where(pull + NOISE[:, 1] > 0, "yes", "no")}, {}),
        (
            lambda pull: {
                "y": np.array(list("abc"))[(NOISE + pull[:, None] * [0, 1, -1]).argmax(1)]
            },
            {},
        ),
        (lambda pull: {"y": MANY.poisson(np.exp(pull))}, {"task": "count", "weight": "w"}),
        (lambda pull: {"y": pull + NOISE[:, 1], "z": NOISE[:, 2] - pull}, {"target": ("y", "z")}),
    ],
    ids=["numbers", "quantiles", "two classes", "three classes", "counts", "two numbers"],
)
def test_a_category_of_many_levels_is_learnt_and_not_by_heart(answer, settings, is_told) -> None:
    data = {**CODED, "w": MANY.integers(1, 4, 700), **answer(PULL if is_told else 0 * PULL)}
    settings = {"drop": () if "weight" in settings else ("w",), **settings}
    done = job.plan(pa.table(data), {"target": "y", "device": "cpu", "preset": "fast", **settings})
    p = done.prepared
    assert p.schema.layout.codes == (61,)
    found = {
        name: loop.judge(p.schema, p.test.y, predict(p.test), p.test.sample_weight)
        for name, predict in baselines.baselines(p, done.model.config).items()
    }
    ratio = found["linear"][done.model.loss_metric] / found["trivial"][done.model.loss_metric]
    assert ratio < (0.95 if is_told else 1.03)


def test_levels_are_inputs_of_the_ridge() -> None:
    from sklearn.linear_model import RidgeCV

    p = job.plan(
        pa.table({**CODED, "y": PULL + NOISE[:, 1]}),
        {"target": "y", "device": "cpu", "preset": "fast"},
    ).prepared
    one_hot = [np.hstack([x[:, :1], x[:, 1:] == np.arange(61)]) for x in (p.train.x, p.test.x)]
    oracle = RidgeCV(np.logspace(-2, 3, 60)).fit(one_hot[0], p.train.y.ravel())
    expected = oracle.predict(one_hot[1])
    assert linear.ridge(p)(p.test).ravel() == pytest.approx(expected, abs=0.15)


def test_more_inputs_than_are_solved_are_descended_to_the_same(monkeypatch) -> None:
    done = planned(pa.table({"a": X[:, 0], "b": X[:, 1], "y": X[:, 0] + 0.3 * X[:, 2]}))
    p, config = done.prepared, done.model.config
    solved = baselines.baselines(p, config)["linear"](p.test)
    monkeypatch.setattr(baselines, "WIDEST", 1)
    assert baselines.baselines(p, config)["linear"](p.test) == pytest.approx(solved, abs=0.01)
    config = dataclasses.replace(config, max_memory=linear.BYTES * 3 * 150)
    of_some = baselines.baselines(p, config)["linear"](p.test)
    assert of_some == pytest.approx(solved, abs=0.1)
    assert (of_some == baselines.baselines(p, config)["linear"](p.test)).all()


def test_a_descent_is_as_long_in_all_units() -> None:
    found = []
    for unit in (1.0, 1e6):
        counts = COUNTS.set_column(0, "a", pa.array(1e3 * unit + unit * X[:, 0]))
        done = planned(counts, task="count", standardise=False)
        found.append(
            baselines.baselines(done.prepared, done.model.config)["linear"](done.prepared.test)
        )
    assert found[0] == pytest.approx(found[1], abs=0.02)
    assert found[0].std() > 0.5


def test_the_trivial_model_of_absolute_errors_is_the_median() -> None:
    skewed = pa.table({"a": X[:, 0], "y": np.exp(2 * X[:, 1])})
    done = planned(skewed, loss="mean_absolute")
    level = baselines.trivial(done.prepared, done.model.config)
    value = done.prepared.schema.decode(level[None])[0, 0]
    train = done.prepared.schema.decode(done.prepared.train.y)
    assert value == pytest.approx(np.median(train))


@pytest.mark.parametrize("weight", [None, "w"])
def test_the_trivial_model_of_logarithms_is_the_mean_of_the_values(weight) -> None:
    skewed = pa.table({"a": X[:, 0], "w": rng.integers(1, 4, N), "y": np.exp(2 * X[:, 1])})
    done = planned(skewed, target_transform="log", weight=weight)
    part, schema = done.prepared.train, done.prepared.schema
    value = schema.decode(baselines.trivial(done.prepared, done.model.config)[None])[0, 0]
    mean = np.average(schema.decode_target(part.y)[:, 0], weights=part.sample_weight)
    assert value == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("threshold", ["auto", 0.2])
def test_a_threshold_is_kept_and_used(threshold, tmp_path: Path) -> None:
    done, found = summary(NOISY, threshold=threshold)
    done.model.save(tmp_path / "m.safetensors")
    again = gpunet.load(tmp_path / "m.safetensors")
    p = again.predict(NOISY, proba=True)[:, 1]
    assert ((p > again.threshold) == (again.predict(NOISY) == "yes")).all()
    assert again.threshold == found["calibration"]["threshold"] != 0.5
    assert (p > 0.5).sum() != (p > again.threshold).sum()
    if threshold == "auto":
        assert found["calibration"]["f1"]["after"] >= found["calibration"]["f1"]["before"]
    else:
        assert again.threshold == threshold
    right = again.predict(NOISY) == np.array(NOISY["y"])
    assert again.evaluate(NOISY)["accuracy"] == right.mean()


def test_another_threshold_may_be_asked_for(tmp_path: Path, capsys) -> None:
    done, found = summary(NOISY, threshold="auto")
    model, p = done.model, done.model.predict(NOISY, proba=True)[:, 1]
    assert (model.predict(NOISY, threshold=0.7) == np.where(p > 0.7, "yes", "no")).all()
    true = np.array(NOISY["y"]) == "yes"
    recall = model.evaluate(NOISY, threshold=0.7)["recall"]
    assert recall == pytest.approx(((p > 0.7) & true).sum() / true.sum())
    assert found["metrics"]["validation"]["f1"] == found["calibration"]["f1"]["after"]
    assert found["intervals"]["test"]["f1"][0] < found["metrics"]["test"]["f1"]
    model.save(tmp_path / "m.safetensors")
    csv.write_csv(NOISY, tmp_path / "t.csv")
    given = [str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv")]
    assert _run(["evaluate", *given, "--threshold", "0.7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["recall"] == recall
    assert _run(["predict", *given, "--threshold", "0.7"]) == 0
    assert capsys.readouterr().out.count("yes") == (p > 0.7).sum()
    assert _run(["train", given[1], "-t", "y", "--dry-run", "--device", "cpu"]) == 0
    assert "binary, F1 is of yes" in capsys.readouterr().out
    for wrong in ("0", "1", "nan"):
        assert _run(["predict", *given, "--threshold", wrong]) == 2
    with pytest.raises(UsageError, match="no meaning for a regression"):
        planned(BENT).model.at(0.5)


MIXED = pa.table(
    {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "small": X[:, 0], "large": 1e6 * np.sin(3 * X[:, 1])}
)


def test_of_several_targets_each_is_told_and_none_decides_by_its_unit(tmp_path, capsys) -> None:
    csv.write_csv(MIXED, tmp_path / "t.csv")
    done, found = summary(MIXED, target=("small", "large"), epochs=5)
    assert done.model.loss_metric == next(iter(found["metrics"]["test"])) == "relative_rmse"
    assert set(found["targets"]) == {"train", "validation", "test"}
    each = found["targets"]["test"]
    assert [*each] == ["small", "large"]
    mean = np.mean([1 - of["r2"] for of in each.values()])
    assert found["metrics"]["test"]["relative_rmse"] == pytest.approx(mean**0.5)
    done.model.save(tmp_path / "m.safetensors")
    given = ["evaluate", str(tmp_path / "m.safetensors"), str(tmp_path / "t.csv")]
    assert _run(given) == 0
    assert capsys.readouterr().out.splitlines()[-3].split() == "target, t rmse mae r2".split()
    assert _run([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["targets"]["small"]
    assert told == done.model.judge_each(*done.model.answers(read(MIXED), CPU))["small"]
    assert summary(BENT, epochs=1)[1]["targets"] == {}


def test_of_several_labels_each_is_told_as_a_binary_target() -> None:
    table = pa.table({"a": X[:, 0], "one": X[:, 0] > 0, "two": X[:, 1] > 1})
    _, found = summary(table, target=("one", "two"), task="multilabel", epochs=2)
    assert "average_precision" in found["targets"]["test"]["two"]


def test_the_library_warns_of_the_data_and_of_the_model() -> None:
    leak = pa.table({"leak": 2 * X[:, 0] + 1, "b": X[:, 1], "y": X[:, 0]})
    with pytest.warns(GpunetWarning) as told:
        gpunet.train(leak, "y", **{**SHORT, "epochs": 1})
    first, *_, last = (str(each.message) for each in told)
    assert first.startswith("leak: puts the rows in the order of y")
    assert "the linear baseline" in last
    assert {each.filename for each in told} == {__file__}
    with pytest.warns(GpunetWarning) as told:
        gpunet.repeat(leak, "y", seeds=2, **{**SHORT, "epochs": 1})
    texts = [str(each.message) for each in told]
    assert texts[0].startswith("leak: ")
    assert {text[:18] for text in texts[1:]} == {"seed0: worse than ", "seed1: worse than "}
    assert {each.filename for each in told} == {__file__}


def test_without_a_validation_part_nothing_is_fitted() -> None:
    _, found = summary(NOISY, validation=0.0)
    assert found["calibration"]["reason"] == "no validation part"
    assert set(found["intervals"]) == {"test"}
    _, alone = summary(NOISY, validation=0.0, test=0.0)
    assert (alone["intervals"], alone["baselines"], alone["warnings"]) == ({}, {}, [])


def test_switched_off() -> None:
    done, found = summary(NOISY, calibrate=False, baselines=False)
    assert (done.model.temperature, found["baselines"]) == (1.0, {})


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (BENT, {"calibrate": True}),
        (BENT, {"threshold": 0.3}),
        (BENT, {"threshold": "auto"}),
        (NOISY, {"threshold": 1.0}),
        (NOISY, {"threshold": "auto", "validation": 0.0}),
        (NOISY, {"calibrate": True, "validation": 0.0}),
        (NOISY, {"baselines": True, "validation": 0.0, "test": 0.0}),
    ],
)
def test_a_setting_without_meaning_is_refused(table, settings) -> None:
    with pytest.raises(UsageError):
        planned(table, **settings)


def test_a_run_that_was_stopped_is_not_judged() -> None:
    done = planned(NOISY)
    done.control.stop = True
    for _ in done.reports():
        pass
    found = done.finish()
    assert found["metrics"] == {"train": {}, "validation": {}, "test": {}}
    assert (found["intervals"], found["calibration"]) == ({}, None)


def test_the_terminal_shows_intervals_and_baselines(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "penguins", "--device", "cpu", "--epochs", "5", "-o", "r"]
    assert _run([*words, "--no-calibrate"]) == 0
    shown = capsys.readouterr()
    assert (
        shown.out.splitlines()[0].split()
        == "train validation test trivial, test linear, test".split()
    )
    assert shown.out.count("…") == 6
    assert "calibrated" not in shown.err
    assert _run(["evaluate", "r", "penguins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name, value in found["metrics"].items():
        low, high = found["intervals"][name]
        assert low <= value <= high


def test_rows_count_by_their_weight() -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    heavy = (X[:, 2] > 0) * rng.integers(1, 4, N)
    found = planned(NOISY.append_column("w", pa.array(heavy)), weight="w", validation=0.0)
    p, config = found.prepared, found.model.config
    w, train = p.train.sample_weight, p.train.y.ravel()
    oracle = LogisticRegression().fit(p.train.x, train, w)
    raw, expected = (
        baselines.baselines(p, config)["linear"](p.test),
        oracle.decision_function(p.test.x),
    )
    assert np.corrcoef(raw.ravel(), expected)[0, 1] > 0.99
    share = 1 / (1 + np.exp(-baselines.trivial(p, config)[0]))
    assert share == pytest.approx(np.average(train, weights=w))
    line = pa.table({"a": X[:, 0], "b": X[:, 1], "w": heavy, "y": X[:, 0] + 0.3 * X[:, 2]})
    p = planned(line, weight="w").prepared
    ridge = Ridge(alpha=1e-3).fit(p.train.x, p.train.y.ravel(), p.train.sample_weight)
    assert linear.ridge(p)(p.test).ravel() == pytest.approx(
        ridge.predict(p.test.x).ravel(), abs=0.02
    )
    y = np.array([[0.0], [1.0], [2.0], [9.0]])
    heavy = np.array([1.0, 1.0, 1.0, 4.0])
    twice = np.hstack([y, y])
    assert baselines._quantiles(twice, (0.4, 0.5), heavy).tolist() == [2.0, 9.0]
    assert baselines._quantiles(twice, (0.0, 0.5), None).tolist() == [0.0, 1.5]


def test_folds_are_calibrated_on_rows_that_their_network_never_saw() -> None:
    done, found = summary(NOISY, folds=4, hidden=(64, 64), lr=0.01, epochs=60, patience=0)
    assert set(found["intervals"]) == {"validation", "test"}
    assert set(found["baselines"]["linear"]) == {"test"}  # it has learned from all other rows
    told = found["calibration"]
    assert told["temperature"] != 1
    assert told["log_loss"]["after"] < told["log_loss"]["before"]
    assert told["log_loss"]["after"] == found["metrics"]["validation"]["log_loss"]
    assert len(done.model.network.networks) == 4
    p = done.model.predict(NOISY, proba=True)
    plain = dataclasses.replace(done.model, temperature=1.0).predict(NOISY, proba=True)
    logits, sharper = (np.log(each[:, 1] / each[:, 0]) for each in (plain, p))
    assert logits / told["temperature"] == pytest.approx(sharper)


RATES = np.exp(1 + X[:, 0])
COUNTS = pa.table({"a": X[:, 0], "b": X[:, 1], "y": rng.poisson(RATES)})
SPREAD = pa.table({"a": X[:, 0], "b": X[:, 1], "y": X[:, 0] + np.exp(X[:, 1]) * X[:, 2]})
QUANTILES = (0.1, 0.5, 0.9)


@pytest.mark.parametrize(
    ("table", "settings", "metric"),
    [
        (COUNTS, {"task": "count"}, "poisson_deviance"),
        (SPREAD, {"quantiles": QUANTILES}, "pinball"),
        (COUNTS, {"task": "count", "folds": 3}, "poisson_deviance"),
        (SPREAD, {"quantiles": QUANTILES, "folds": 3}, "pinball"),
    ],
)
def test_counts_and_quantiles_have_intervals_and_baselines(table, settings, metric) -> None:
    done, found = summary(table, lr=0.01, **settings)
    assert found["calibration"] is None
    assert (done.model.loss_metric, done.settings.config.calibrate) == (metric, False)
    for part, intervals in found["intervals"].items():
        assert set(intervals) == set(found["metrics"][part])
        low, high = intervals[metric]
        assert low < found["metrics"][part][metric] < high
    trivial, ours = found["baselines"]["trivial"]["test"], found["metrics"]["test"]
    assert set(trivial) == set(ours)
    assert ours[metric] < trivial[metric]
    assert found["baselines"]["linear"]["test"][metric] < trivial[metric]


def test_the_baselines_of_counts_are_scikit_learns() -> None:
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import PoissonRegressor
    from sklearn.metrics import mean_poisson_deviance

    heavy = rng.integers(0, 4, N)
    done = planned(COUNTS.append_column("w", pa.array(heavy)), task="count", weight="w")
    p, config = done.prepared, done.model.config
    y, w = p.train.y.ravel(), p.train.sample_weight
    predictors = baselines.baselines(p, config)
    for name, oracle in {"linear": PoissonRegressor(alpha=0), "trivial": DummyRegressor()}.items():
        rates = oracle.fit(p.train.x, y, sample_weight=w).predict(p.train.x)
        expected = mean_poisson_deviance(y, rates, sample_weight=w)
        found = loop.judge(p.schema, p.train.y, predictors[name](p.train), w)["poisson_deviance"]
        assert found == pytest.approx(expected, rel=0.02), name


def test_the_baselines_of_quantiles_are_scikit_learns() -> None:
    from sklearn.linear_model import QuantileRegressor

    done = planned(SPREAD, quantiles=QUANTILES)
    p, schema = done.prepared, done.prepared.schema
    predictors = baselines.baselines(p, done.model.config)
    value = schema.decode(predictors["trivial"](p.test))[0]
    train = schema.decode_target(p.train.y)[:, 0]
    assert value == pytest.approx(np.quantile(train, QUANTILES))
    found = loop.judge(schema, p.train.y, predictors["linear"](p.train))
    for quantile in QUANTILES:
        oracle = QuantileRegressor(quantile=quantile, alpha=0, solver="highs").fit(p.train.x, train)
        away = train - oracle.predict(p.train.x)
        expected = np.maximum(quantile * away, (quantile - 1) * away).mean()
        assert found[f"pinball_{quantile}"] == pytest.approx(expected, rel=0.05)


def test_the_rates_of_several_networks_are_averaged() -> None:
    raws = [np.array([[0.0], [709.0], [-800.0]]), np.array([[2.0], [709.0], [-800.0]])]
    found = model.combined("count", raws)
    assert found.ravel() == pytest.approx([np.log((1 + np.exp(2)) / 2), 709.0, -800.0])


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression", "count"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (5, 3), (5, 1), (9, 1), (2, 40)])
def test_blocks_of_rows_are_combined_as_all_at_once(
    task: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = np.random.default_rng(1).normal(size=(9, *shape))
    raws = list(draws.astype(np.float32))
    whole = model.combined(task, raws)
    monkeypatch.setattr(model, "BLOCK", 4)
    found = model.combined(task, raws)
    assert (found.shape, found.dtype) == (shape, whole.dtype)
    np.testing.assert_array_equal(found, whole)
    means = [model.outcome(task, each) for each in (found, *raws)]
    assert means[0] == pytest.approx(np.mean(means[1:], axis=0), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (COUNTS, {"task": "count", "calibrate": True}),
        (COUNTS, {"task": "count", "threshold": 0.3}),
        (SPREAD, {"quantiles": QUANTILES, "calibrate": True}),
        (COUNTS, {"task": "count", "best_by": "accuracy"}),
        (BENT, {"best_by": "log_loss"}),
    ],
)
def test_a_setting_without_meaning_for_numbers_is_refused(table, settings) -> None:
    with pytest.raises(UsageError, match="has no meaning for a"):
        planned(table, **settings)


def test_a_linear_model_of_very_many_classes_is_found_in_bounded_work(monkeypatch) -> None:
    """The strongest penalties leave it at the constant; and few steps beat that all the same."""
    centre, y = rng.standard_normal((150, 3)), np.repeat(np.arange(150), 8)
    x = centre[y] + 0.3 * rng.standard_normal((len(y), 3))
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": [f"c{i}" for i in y]})
    monkeypatch.setattr(linear, "WORK", 1)
    done = planned(table)
    p, config = done.prepared, done.model.config
    cost = {
        n: loop.judge(p.schema, p.test.y, f(p.test))
        for n, f in baselines.baselines(p, config).items()
    }
    assert cost["linear"]["log_loss"] < 0.8 * cost["trivial"]["log_loss"]


@pytest.mark.parametrize("settings", [{}, {"folds": 3}])
def test_baselines_are_judged_as_the_network_is(settings) -> None:
    """Each by a threshold of its own; the temperature of rows that it has learned from is 1."""
    rare = pa.table({"a": X[:, 0], "y": np.where(RARE, "yes", "no")})
    done = planned(rare, threshold="auto", epochs=1, **settings)
    p = done.prepared
    predict = baselines.baselines(p, done.model.config)["linear"]
    fitted = p.train if settings else p.validation
    config = dataclasses.replace(done.model.config, calibrate=not settings)
    alike, _ = evaluation.decide(
        dataclasses.replace(done.model, config=config), (fitted, predict(fitted))
    )
    assert (alike.temperature == 1.0) == bool(settings)
    _, found = summary(rare, threshold="auto", epochs=1, **settings)
    assert alike.threshold < 0.4
    expected = alike.judge(p.test, predict(p.test))
    assert found["baselines"]["linear"]["test"] == pytest.approx(expected)
    assert expected != alike.at(0.5).judge(p.test, predict(p.test))
