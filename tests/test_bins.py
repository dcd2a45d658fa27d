"""Bins of numbers end to end: what is encoded, built, learnt, saved and predicted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet
from gpunet import job, model, permutation
from gpunet.config import Config, gather
from gpunet.data import Layout, read
from gpunet.data.columns import MOST_BINS, Column, thinned
from gpunet.device import resolve
from gpunet.errors import Unavailable
from gpunet.kernels import native

CPU = resolve("cpu").device
rng = np.random.default_rng(0)
N = 1600
X, Z = rng.uniform(0, 100, N), rng.exponential(1, N)
TABLE = {
    "x": X,
    "z": Z,
    "town": rng.choice([f"t{i}" for i in range(12)], N),
    "y": np.floor(X / 10) % 2 * 3 + Z,
}
USUAL: dict[str, Any] = {
    "folds": 0,
    "target": "y",
    "device": "cpu",
    "threads": 1,
    "epochs": 6,
    "hidden": (32,),
}
KNOTS = ((-1.0, 0.0, 1.0, 2.0), (), (0.0, 0.5, 2.0))


def built(embedding: str, layout: Layout, **flags: Any) -> model.Network:
    flags |= {"numeric_embedding": embedding, "hidden": (4,), "loss": "mean_squared"}
    config: Config = gather({**flags, "activation": "relu", "init": "he"}).config
    assert (
        model.input_width(config, layout)
        == model.build(config, layout, 1, "regression").weights["hidden1.weight"].shape[0]
    )
    return model.build(config, layout, 1, "regression")


@pytest.mark.parametrize(
    ("embedding", "width"), [("none", 15), ("periodic", 24), ("piecewise", 20), ("both", 29)]
)
def test_the_first_layer_takes_numbers_waves_bins_then_codes(embedding: str, width: int) -> None:
    layout = Layout(3, 4, (9,), KNOTS)
    network = built(embedding, layout, input_scale=True)
    x = np.hstack([rng.standard_normal((5, 7)), rng.integers(0, 9, (5, 1))])
    network.graph.forward(x=x, target=np.zeros((5, 1)))
    found, scale = network.graph.node("inputs").value, network.weights["scale"]
    assert found.shape == (5, width)
    bins = np.zeros(width, bool)
    if embedding in ("piecewise", "both"):
        bins[width - 8 - 5 : width - 8] = True
        edges = [(0, -1.0, 0.0), (0, 0.0, 1.0), (0, 1.0, 2.0), (2, 0.0, 0.5), (2, 0.5, 2.0)]
        wanted = [np.interp(x[:, j], (a, b), (0, 1)) for j, a, b in edges]
        np.testing.assert_allclose(found[:, bins], np.transpose(wanted), rtol=1e-12)
    np.testing.assert_array_equal(scale, np.where(bins, 5 / 3, 1.0))
    numbers = slice(0, 7) if embedding in ("none", "piecewise") else slice(3, 12, 4)
    np.testing.assert_array_equal(found[:, numbers], x[:, : 3 if numbers.step else 7])


@pytest.mark.parametrize("layout", [Layout(3, 1, (9,)), Layout(2, 0, ()), Layout(0, 3, (4,))])
@pytest.mark.parametrize(("embedding", "same"), [("piecewise", "none"), ("both", "periodic")])
def test_without_knots_there_is_nothing_more(embedding: str, same: str, layout: Layout) -> None:
    found, wanted = (built(each, layout, input_scale=True) for each in (embedding, same))
    assert [node.name for node in found.graph.nodes] == [n.name for n in wanted.graph.nodes]
    assert found.weights.keys() == wanted.weights.keys()
    for name, array in wanted.weights.items():
        np.testing.assert_array_equal(found.weights[name], array)


@pytest.mark.parametrize("embedding", ["none", "periodic", "piecewise", "both"])
def test_bins_are_fitted_when_they_are_asked_for(embedding: str) -> None:
    planned = job.plan(TABLE, {**USUAL, "numeric_embedding": embedding})
    knots = planned.prepared.schema.layout.knots
    if embedding in ("none", "periodic"):
        assert knots == ()
        return
    assert [len(each) for each in knots] == [MOST_BINS + 1] * 2
    inputs = np.asarray(planned.prepared.train.x)[:, :2]
    for each, x in zip(knots, inputs.T, strict=True):
        assert (each[0], each[-1]) == (x.min(), x.max())
        counts, _ = np.histogram(x, each)
        assert counts.min() > 0.9 * counts.mean()


def test_few_rows_have_fewer_bins() -> None:
    small = {name: values[:200] for name, values in TABLE.items()}
    planned = job.plan(small, {**USUAL, "numeric_embedding": "both"})
    assert planned.prepared.train.rows == 140
    assert [len(each) for each in planned.prepared.schema.layout.knots] == [5, 5]


@pytest.mark.parametrize(("numbers", "bins"), [(6, 32), (20, 6), (34, 2), (35, 0)])
def test_a_table_of_many_numbers_has_few_bins_each(numbers: int, bins: int) -> None:
    knots = tuple(np.linspace(0, 1, MOST_BINS + 1).tolist())
    columns = [Column(f"c{i}", "numeric", False, knots=(knots,)) for i in range(numbers)]
    found = thinned(columns, 100_000, MOST_BINS)
    spaces = {len(each) - 1 for column in found for each in column.knots}
    assert spaces == ({bins} if bins else set())


@pytest.fixture(scope="module", params=["native", "numpy"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "native":
        try:
            native.load()
        except Unavailable as reason:
            pytest.skip(f"{reason}")
    place = tmp_path_factory.mktemp("runs") / request.param
    gpunet.train(
        TABLE, numeric_embedding="both", kernels=request.param, dropout=0, out=place, **USUAL
    )
    return place


def test_a_saved_model_predicts_the_same(run: Path) -> None:
    trained, again = gpunet.load(run), gpunet.load(run / "model.safetensors")
    assert again.schema.layout.bins == 2 * MOST_BINS
    assert again.schema.layout == trained.schema.layout
    found = again.predict(TABLE)
    np.testing.assert_array_equal(found, trained.predict(TABLE))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["loss"]["last"] < summary["loss"]["first"]
    graph, (x, _) = again.network.networks[0].graph, again.schema.encode(read(TABLE))
    raw = graph.forward(x=np.asarray(x, float), target=np.zeros((N, 1)))
    assert np.isfinite(raw)
    by_gates = again.schema.decode(again.network.networks[0].prediction.value)
    np.testing.assert_allclose(found, by_gates[:, 0], rtol=1e-3, atol=1e-3)


def test_bins_learn_what_numbers_alone_do_not() -> None:
    flags = {**USUAL, "epochs": 30, "lr": 0.02, "preset": "plain"}
    found = [
        gpunet.train(TABLE, numeric_embedding=each, **flags).evaluate(TABLE)["rmse"]
        for each in ("none", "piecewise")
    ]
    assert found[1] < 0.8 * found[0]


def test_importance_sees_through_bins(run: Path) -> None:
    first = permutation.importance(gpunet.load(run), read(TABLE))[0]
    assert first.column in ("x", "z")
