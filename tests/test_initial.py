"""First weights fitted to rows: how far each unit spreads, where it bends, what is left alone."""

import numpy as np
import pytest

import gpunet
from gpunet import initial, model
from gpunet.config import Config, gather
from gpunet.data import Layout
from gpunet.model import Network

rng = np.random.default_rng(0)
X = rng.normal(3.0, [0.01, 1.0, 50.0, 2.0], (400, 4))


def built(**settings: object) -> Network:
    config = gather({"init": "data", "hidden": (7, 5), "loss": "mean_squared", **settings}).config
    return model.build(config, X.shape[1], 2, "regression")


def fitted(x: np.ndarray = X, seed: int = 0, **settings: object) -> Network:
    network = built(**settings)
    initial.fit(network, x, seed)
    return network


def layers(network: Network, x: np.ndarray = X) -> dict[str, np.ndarray]:
    """What each layer of a plain ReLU network takes."""
    found, h, w = {}, x, network.weights
    for name in ("hidden1", "hidden2", "output"):
        found[name] = h
        h = np.maximum(h @ w[f"{name}.weight"] + w[f"{name}.bias"], 0)
    return found


def products(network: Network, x: np.ndarray = X) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each of its layers: x @ w (n, units), and its bias."""
    w = network.weights
    return [(h @ w[f"{n}.weight"], w[f"{n}.bias"]) for n, h in layers(network, x).items()]


def test_every_units_product_has_variance_one() -> None:
    for product, _ in products(fitted()):
        np.testing.assert_allclose(product.std(axis=0), 1, rtol=1e-9)
    for product, _ in products(built()):
        assert np.abs(product.std(axis=0) - 1).min() > 1e-3


def test_every_unit_is_zero_among_the_rows() -> None:
    for product, bias in products(fitted()):
        assert (product.min(axis=0) < -bias).all()
        assert (-bias < product.max(axis=0)).all()
        assert len(np.unique(bias)) == len(bias)


def test_the_directions_of_the_first_weights_stay() -> None:
    before, after = (n.weights["hidden1.weight"] for n in (built(), fitted()))
    ratio = after / before
    np.testing.assert_allclose(ratio, ratio[:1].repeat(4, axis=0), rtol=1e-9)
    assert (ratio > 0).all()


def test_the_seed_decides_where_units_bend() -> None:
    first, again, other = fitted(), fitted(), fitted(seed=1)
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])
    assert (first.weights["hidden1.bias"] != other.weights["hidden1.bias"]).all()


def test_nothing_is_dropped_and_the_figures_of_batch_norms_are_left_alone() -> None:
    for product, _ in products(fitted(dropout=0.9)):
        np.testing.assert_allclose(product.std(axis=0), 1, rtol=1e-9)
    network = fitted(norm="batch")
    assert {name.rpartition(".")[2] for name in network.statistics} == {
        "running_mean",
        "running_var",
    }
    for name, array in network.statistics.items():
        np.testing.assert_array_equal(array, 1.0 if name.endswith("var") else 0.0)


@pytest.mark.parametrize(
    "x", [np.zeros((50, 4)), np.full((50, 4), 3.5), X[:1]], ids=["zeros", "constant", "one row"]
)
@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_rows_that_are_all_alike_leave_finite_weights(x: np.ndarray, norm: str) -> None:
    network = fitted(x, norm=norm)
    assert all(np.isfinite(array).all() for array in network.weights.values())
    np.testing.assert_allclose(
        network.weights["hidden1.weight"], built(norm=norm).weights["hidden1.weight"]
    )


@pytest.mark.parametrize("different", [2, 3])
def test_no_weight_is_enormous_where_few_rows_differ(different: int) -> None:
    x = X[:different].repeat(50, axis=0)
    network = fitted(x, hidden=(128, 128), dropout=0.1)
    for name, inputs in layers(network, x).items():
        weight = network.weights[f"{name}.weight"]
        assert (inputs @ weight).std(axis=0).max() < 1 + 1e-9
        assert np.sqrt(inputs.var(axis=0) @ weight**2).max() < different - 1 + 1e-9


@pytest.mark.parametrize("is_text", [False, True])
def test_a_table_of_one_feature_with_two_values_trains(is_text: bool) -> None:
    treated = np.arange(400) % 2
    y = treated + np.random.default_rng(0).normal(size=400)
    feature = np.where(treated, "b", "a") if is_text else treated
    losses = []
    table = {"treated": feature.tolist(), "y": y.tolist()}
    gpunet.train(table, "y", preset="fast", on_report=lambda report: losses.append(report.loss))
    assert max(losses) < 20
    assert losses[-1] < 1


@pytest.mark.parametrize("embedding", ["periodic", "piecewise", "both"])
def test_layers_behind_waves_embeddings_and_scales_are_fitted(embedding: str) -> None:
    flags = {"init": "data", "hidden": (6,), "numeric_embedding": embedding, "input_scale": True}
    flags |= {"parametric": True, "activation": "selu", "loss": "softmax_cross_entropy"}
    config: Config = gather(flags).config
    network = model.build(config, Layout(2, 1, (9,), ((-1.0, 0.0, 1.0), ())), 3, "multiclass")
    x = np.hstack([rng.standard_normal((300, 3)), rng.integers(0, 9, (300, 1))])
    initial.fit(network, x, 0)
    network.graph.forward({"x": x, "target": np.zeros(300, np.int32)})
    for name in ("hidden1.product", "output.product"):
        spread = network.graph.node(name).value.std(axis=0)
        np.testing.assert_allclose(spread, 1, rtol=1e-9)


def test_a_large_part_is_sampled() -> None:
    rows = initial.sample(100_000, 128, 0)
    assert len(rows) == initial.ROWS
    assert (np.diff(rows) > 0).all()
    assert 45_000 < rows.mean() < 55_000
    np.testing.assert_array_equal(initial.sample(50, 128, 0), np.arange(50))
    assert len(initial.sample(100_000, 1 << 20, 0)) == initial.VALUES >> 20
    assert len(initial.sample(100_000, 1 << 40, 0)) == initial.LEAST_ROWS


def test_no_value_is_kept_beside_the_weights() -> None:
    network = fitted()
    for node in network.graph.nodes:
        assert (node.value is None) == (node.kind != "parameter"), node.name
        assert not hasattr(node.gate, "output")
