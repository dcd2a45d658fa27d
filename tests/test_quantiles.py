"""Quantiles end to end: what is learnt, judged, saved, predicted and refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

import gpunet
from gpunet import job, predict
from gpunet.config import gather
from gpunet.data import Schema, prepare, read
from gpunet.device import resolve
from gpunet.errors import DataError, ModelInvalid, UsageError

CPU = resolve("cpu").device
rng = np.random.default_rng(0)
N = 1500
X = rng.uniform(-1, 1, N)
TABLE = {
    "x": X,
    "y": 100 + 10 * X + (1 + X) * rng.standard_normal(N),
    "z": X + 0.2 * rng.standard_normal(N),
    "kind": np.where(X > 0, "up", "down"),
}
USUAL = {"target": "y", "features": ("x",), "device": "cpu", "epochs": 40, "hidden": (32,)}
QUANTILES = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "q"
    gpunet.train(TABLE, quantiles=QUANTILES, lr=0.02, out=place, **USUAL)
    return place


@pytest.fixture(scope="module")
def model(run: Path) -> predict.Model:
    return gpunet.load(run)


def test_each_quantile_has_its_share_below(model: predict.Model) -> None:
    found = model.predict(TABLE, quantiles=True)
    assert found.shape == (N, 3)
    for i, quantile in enumerate(QUANTILES):
        assert (TABLE["y"] <= found[:, i]).mean() == pytest.approx(quantile, abs=0.05)
    width = found[:, 2] - found[:, 0]
    assert width[X > 0.7].mean() > 2 * width[X < -0.7].mean()


def test_quantiles_rise_and_the_median_is_the_prediction(model: predict.Model) -> None:
    far = {"x": np.linspace(-50, 50, 101)}
    found = model.predict(far, quantiles=True)
    assert (np.diff(found, axis=1) >= 0).all()
    assert (model.predict(far) == found[:, 1]).all()


def test_the_run_tells_pinball_losses_and_coverage(run: Path, model: predict.Model) -> None:
    metrics = json.loads((run / "summary.json").read_text())["metrics"]["test"]
    named = {"pinball", "pinball_0.1", "pinball_0.5", "pinball_0.9", "coverage"}
    assert set(metrics) == named | {"rmse", "mae", "r2"}
    assert metrics["coverage"] == pytest.approx(0.8, abs=0.1)
    found, y = model.predict(TABLE, quantiles=True), TABLE["y"]
    away = y[:, None] - found
    pinball = np.maximum(np.array(QUANTILES) * away, (np.array(QUANTILES) - 1) * away).mean(axis=0)
    judged = model.evaluate(TABLE)
    assert [judged[f"pinball_{q}"] for q in QUANTILES] == pytest.approx(pinball.tolist(), rel=1e-5)
    assert judged["rmse"] == pytest.approx(np.sqrt(np.mean(away[:, 1] ** 2)), rel=1e-5)


def test_a_file_of_predictions_has_a_column_a_quantile(model: predict.Model) -> None:
    source = read(TABLE)
    found = predict.columns(model.schema, source, model.outcome(source, CPU), ["z"], False)
    assert list(found) == ["z", "prediction", "q0.1", "q0.5", "q0.9"]
    assert (found["q0.5"] == found["prediction"]).all()
    table = pa.csv.read_csv(pa.BufferReader(predict._encode(found, ".csv")))
    assert table.column_names == list(found)


def test_quantiles_that_hardly_differ_have_names_of_their_own() -> None:
    near = gpunet.train(TABLE, quantiles=(0.1, 0.10000001), **{**USUAL, "epochs": 1})
    source = read(TABLE)
    found = predict.columns(near.schema, source, near.outcome(source, CPU), [], False)
    assert list(found) == ["prediction", "q0.1", "q0.10000001"]
    assert {"pinball_0.1", "pinball_0.10000001"} < near.evaluate(TABLE).keys()


def test_several_targets_and_weights() -> None:
    both = USUAL | {"target": ("y", "z"), "epochs": 3}
    model = gpunet.train(TABLE | {"w": np.arange(N) % 2}, quantiles=(0.2, 0.9), weight="w", **both)
    assert model.schema.target.outputs == 4
    source = read(TABLE)
    outcome = model.outcome(source, CPU)
    assert outcome.labels.shape == (N, 2)
    found = predict.columns(model.schema, source, outcome, [], False)
    names = ["prediction_y", "prediction_z", "q0.2_y", "q0.9_y", "q0.2_z", "q0.9_z"]
    assert list(found) == names
    assert (found["prediction_y"] == found["q0.2_y"]).all()  # 0.2 is nearer to 0.5 than 0.9
    assert abs(found["q0.9_z"].mean()) < 5 < found["q0.9_y"].mean()
    assert set(model.evaluate(TABLE | {"w": np.ones(N)})) == {
        "relative_pinball", "pinball", "pinball_0.2", "pinball_0.9", "coverage"
    }  # fmt: skip


def test_one_quantile_is_the_loss_of_that_name() -> None:
    named = gpunet.train(TABLE, loss="pinball(0.9)", **{**USUAL, "epochs": 3})
    listed = gpunet.train(TABLE, quantiles=(0.9,), **{**USUAL, "epochs": 3})
    assert (named.predict(TABLE) == listed.predict(TABLE)).all()


def test_targets_are_repeated_for_every_quantile() -> None:
    part = prepare(
        read(TABLE), target=("y", "z"), features=("x",), task="regression", quantiles=(0.3, 0.7)
    ).train
    assert part.y.shape == (part.rows, 4)
    assert (part.y[:, 0] == part.y[:, 1]).all()
    assert (part.y[:, 2] == part.y[:, 3]).all()
    assert (part.y[:, 1] != part.y[:, 2]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantiles": "0.9,0.1"}, "--quantiles 0.9,0.1: must rise"),
        ({"quantiles": "0.5,0.5"}, "must rise"),
        ({"quantiles": "0,0.5"}, "--quantiles"),
        ({"quantiles": "0.5,1"}, "--quantiles"),
        ({"quantiles": "half"}, "--quantiles"),
        ({"quantiles": "0.5", "task": "binary"}, "no meaning for --task binary"),
    ],
)
def test_quantiles_that_mean_nothing_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gather(settings)


@pytest.mark.parametrize("loss", ["huber", "pinball(0.3)", "mean_squared", "abs(pred - target)"])
def test_quantiles_with_another_loss_conflict(loss: str) -> None:
    with pytest.raises(UsageError, match="conflict"):
        job.plan(TABLE, {**USUAL, "quantiles": QUANTILES, "loss": loss})


def test_quantiles_are_of_numbers() -> None:
    with pytest.raises(DataError, match="regression wants numbers"):
        job.plan(TABLE, {**USUAL, "target": "kind", "quantiles": QUANTILES})
    plain = gpunet.train(TABLE, **{**USUAL, "epochs": 1})
    with pytest.raises(UsageError, match="no quantiles"):
        plain.predict(TABLE, quantiles=True)


@pytest.mark.parametrize("wrong", [[0.5, 0.1], [0.0], [1.0], ["a"], [float("nan")], 0.5, None])
def test_a_schema_with_impossible_quantiles_is_refused(model: predict.Model, wrong: object) -> None:
    saved = model.schema.to_dict()
    assert Schema.from_dict(saved).target == model.schema.target
    saved["target"]["quantiles"] = wrong
    with pytest.raises(ModelInvalid):
        Schema.from_dict(saved)
