"""Counts end to end: Poisson with a log link, from the target to the prediction."""

import numpy as np
import pytest
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_poisson_deviance

import gpunet
from gpunet import job, loop
from gpunet.device import resolve
from gpunet.errors import DataError, Diverged, UsageError

CPU = resolve("cpu").device
rng = np.random.default_rng(0)
N = 1200
X, Z = rng.uniform(-1, 1, (2, N))
TABLE = {
    "x": X,
    "z": Z,
    "calls": rng.poisson(np.exp(5 + X)).astype(float),
    "visits": rng.poisson(np.exp(Z)).astype(float),
}
USUAL = {"target": "calls", "features": ("x", "z"), "device": "cpu", "hidden": "none", "folds": 0}


def test_it_learns_what_a_poisson_regression_learns() -> None:
    flags = {"lr": 0.02, "weight_decay": 0.0, "numeric_embedding": "periodic"}
    planned = job.plan(TABLE, {**USUAL, "task": "count", **flags})
    model = planned.follow()
    part = planned.prepared.train
    peer = PoissonRegressor(alpha=0).fit(part.x, part.y[:, 0])
    ours = loop.judge(model.schema, part.y, model.run(part, CPU))["poisson_deviance"]
    theirs = mean_poisson_deviance(part.y[:, 0], peer.predict(part.x))
    assert ours == pytest.approx(theirs, rel=2e-2)
    assert set(planned.best.validation) == {"loss", "poisson_deviance", "rmse", "mae"}


def test_it_begins_at_the_mean_of_the_training_part() -> None:
    planned = job.plan(TABLE, {**USUAL, "target": ("calls", "visits"), "task": "count"})
    mean = planned.prepared.train.y.mean(axis=0)
    start = planned.model.predict(TABLE)
    np.testing.assert_allclose(start, np.tile(mean, (N, 1)), rtol=1e-5)
    for other in ({"standardise": False}, {"bias": False}):
        model = job.plan(TABLE, {**USUAL, "task": "count", **other}).model
        assert (model.predict(TABLE) == 1).all()


def test_predictions_are_rates_and_the_target_is_as_it_was() -> None:
    planned = job.plan(TABLE, {**USUAL, "loss": "poisson", "epochs": 5})
    assert planned.settings.config.task == planned.prepared.schema.target.task == "count"
    assert set(planned.prepared.train.y[:, 0]) <= set(TABLE["calls"])
    model = planned.follow()
    found = model.predict(TABLE)
    assert found.shape == (N,)
    assert (found > 0).all()
    assert np.log(found) == pytest.approx(model.run(loaded(model), CPU)[:, 0], rel=1e-5)
    with pytest.raises(DataError, match="count model has no probabilities"):
        model.predict(TABLE, proba=True)
    far = model.predict({"x": [1e30, -1e30], "z": [0.0, 0.0]})
    assert np.isfinite(far).all()


def loaded(model):
    from gpunet.data import Dataset, read

    return Dataset(model.schema.encode(read(TABLE))[0])


def test_counts_of_several_targets_are_weighted_and_saved(tmp_path) -> None:
    both = USUAL | {"target": ("calls", "visits"), "epochs": 2}
    table = TABLE | {"w": np.arange(N) % 3}
    model = gpunet.train(table, task="count", weight="w", out=tmp_path / "run", **both)
    again = gpunet.load(tmp_path / "run")
    assert (again.predict(TABLE) == model.predict(TABLE)).all()
    assert (
        again.evaluate(table) == model.evaluate(table) != model.evaluate(table | {"w": X * 0 + 1})
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [(1.5, r'1 of 1,200 values are no counts \(row \S+: "1.5"\)'), (-2.0, r"no counts .*\"-2\"")],
)
def test_what_is_no_count_is_refused_in_every_part(changed: float, message: str) -> None:
    for row in (0, N // 2, N - 1):
        calls = TABLE["calls"].copy()
        calls[row] = changed
        with pytest.raises(DataError, match=message):
            job.plan(TABLE | {"calls": calls}, {**USUAL, "task": "count"})
    model = gpunet.train(TABLE, task="count", epochs=1, **USUAL)
    with pytest.raises(DataError, match=message):
        model.evaluate(TABLE | {"calls": calls})


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"task": "count", "loss": "huber"}, UsageError, "does not fit a count target"),
        ({"task": "regression", "loss": "poisson"}, UsageError, "does not fit a regression"),
        ({"task": "count", "quantiles": "0.5"}, UsageError, "no meaning for --task count"),
        ({"loss": "poisson", "quantiles": "0.5"}, UsageError, "conflict"),
        ({"task": "count", "class_weight": "balanced"}, UsageError, "no meaning for a count"),
        ({"task": "count", "label_smoothing": 0.1}, UsageError, "no meaning for --loss poisson"),
        ({"task": "count", "target": "kind"}, DataError, "count wants numbers"),
    ],
)
def test_what_has_no_meaning_is_refused(settings, error, message) -> None:
    with pytest.raises(error, match=message):
        job.plan(TABLE | {"kind": ["a", "b"] * (N // 2)}, {**USUAL, **settings})


def test_a_rate_that_overflows_ends_the_run() -> None:
    planned = job.plan(TABLE, {**USUAL, "task": "count", "optimizer": "sgd", "lr": 1e6})
    with pytest.raises(Diverged):
        list(planned.reports())


def test_auto_suggests_and_never_chooses_it() -> None:
    target = job.plan(TABLE, USUAL).prepared.schema.target
    assert target.task == "regression"
    found = job.plan({**TABLE, "calls": (TABLE["calls"] - TABLE["calls"].min()).astype(int)}, USUAL)
    assert found.prepared.schema.target.reason.endswith("if they are counts, --task count")
