"""Metrics against scikit-learn's."""

from functools import partial

import numpy as np
import pytest

from gpunet import metrics
from gpunet.model import outcome

sklearn_metrics = pytest.importorskip("sklearn.metrics")
rng = np.random.default_rng(0)


def test_classification_of_several_classes() -> None:
    target = rng.integers(0, 4, 300).astype(np.int32)
    p = rng.dirichlet(np.ones(4), 300)
    found = metrics.of_logits(target, np.log(p))
    assert found["accuracy"] == pytest.approx(
        sklearn_metrics.accuracy_score(target, p.argmax(axis=1))
    )
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(target, p))
    assert found["auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(target, p, multi_class="ovr", average="macro")
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_logits_give_the_bits_of_their_probabilities(kind, monkeypatch) -> None:
    raw = (5 * rng.standard_normal((300, 4))).astype(kind)
    raw[::7] = 0
    raw[3] = [800, -800, 0, 0]
    target = rng.integers(0, 4, 300).astype(np.int32)
    p = outcome("multiclass", raw)
    true = np.clip(p[np.arange(300), target].astype(float), metrics.TINY, 1 - metrics.TINY)
    expected = {
        "accuracy": np.mean(p.argmax(axis=1) == target),
        "log_loss": np.mean(-np.log(true)),
        "auc": np.mean([metrics.auc(target == j, p[:, j]) for j in range(4)]),
    }
    assert metrics.of_logits(target, raw) == expected
    monkeypatch.setattr(metrics, "CELLS", 64)
    assert metrics.of_logits(target, raw) == expected


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression"])
def test_weighted_metrics_are_scikit_learns(task: str) -> None:
    n, weight = 300, rng.choice([0.0, 0.5, 1.0, 3.0], 300)
    raw = np.round(rng.standard_normal((n, 1 if task == "binary" else 3)), 1)
    p = outcome(task, raw)
    target = rng.integers(0, 3, n) if task == "multiclass" else rng.integers(0, 2, raw.shape)
    target = target + 0.5 * raw if task == "regression" else target
    sk, of = sklearn_metrics, {"sample_weight": weight}
    if task == "regression":
        expected = {
            "relative_rmse": (1 - sk.r2_score(target, p, **of)) ** 0.5,
            "rmse": sk.mean_squared_error(target, p, **of) ** 0.5,
            "mae": sk.mean_absolute_error(target, p, **of),
            "r2": sk.r2_score(target, p, **of),
        }
    elif task == "multiclass":
        expected = {
            "accuracy": sk.accuracy_score(target, p.argmax(axis=1), **of),
            "log_loss": sk.log_loss(target, p, **of),
            "auc": np.mean([sk.roc_auc_score(target == j, p[:, j], **of) for j in range(3)]),
        }
    else:
        each = [sk.log_loss(target[:, j], p[:, j], **of) for j in range(raw.shape[1])]
        expected = {
            "accuracy": sk.accuracy_score(target, p > 0.5, **of),
            "log_loss": np.mean(each),
            "auc": sk.roc_auc_score(target, p, average="macro", **of),
        }
    if task == "binary":
        said = p[:, 0] > 0.5
        expected |= {
            "average_precision": sk.average_precision_score(target[:, 0], p[:, 0], **of),
            "f1": sk.f1_score(target[:, 0], said, **of),
            "precision": sk.precision_score(target[:, 0], said, **of),
            "recall": sk.recall_score(target[:, 0], said, **of),
        }
    if task == "multiclass":
        found = metrics.of_logits(target, raw, weight)
    else:
        found = metrics.of_task(task, target, p, weight)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, rng.uniform(0, 2, 80)])
def test_quantiles_are_judged_as_scikit_learn_does(weight: np.ndarray | None) -> None:
    quantiles, target = (0.1, 0.5, 0.8), rng.standard_normal((80, 2))
    value = np.sort(rng.standard_normal((80, 2, 3)), axis=2)
    found = metrics.of_quantiles(target, value, quantiles, weight)
    each = [
        sklearn_metrics.mean_pinball_loss(target, value[:, :, i], sample_weight=weight, alpha=q)
        for i, q in enumerate(quantiles)
    ]
    assert [found[f"pinball_{q}"] for q in quantiles] == pytest.approx(each)
    assert found["pinball"] == pytest.approx(np.mean(each))
    alone = [metrics.of_quantiles(target[:, [j]], value[:, [j]], quantiles, weight) for j in (0, 1)]
    relative = np.mean([of["pinball"] for of in alone] / metrics.spread(target, weight))
    assert found["relative_pinball"] == pytest.approx(relative)
    inside = ((value[:, :, 0] <= target) & (target <= value[:, :, 2])).mean(axis=1)
    assert found["coverage"] == pytest.approx(np.average(inside, weights=weight))
    median = metrics.of_task("regression", target, value[:, :, 1], weight)
    assert median.items() <= found.items()
    one = metrics.of_quantiles(target, value[:, :, :1], (0.9,), weight)
    assert set(one) == {"relative_pinball", "pinball"}


@pytest.mark.parametrize("weight", [None, rng.uniform(0, 2, 80)])
def test_counts_are_judged_as_scikit_learn_does(weight: np.ndarray | None) -> None:
    target = rng.poisson(1.5, (80, 1)).astype(np.float32)
    value = outcome("count", rng.standard_normal((80, 1)))
    found, of = metrics.of_task("count", target, value, weight), {"sample_weight": weight}
    assert found == pytest.approx(
        {
            "poisson_deviance": sklearn_metrics.mean_poisson_deviance(target, value, **of),
            "rmse": sklearn_metrics.mean_squared_error(target, value, **of) ** 0.5,
            "mae": sklearn_metrics.mean_absolute_error(target, value, **of),
        }
    )


def test_counts_far_out_are_judged() -> None:
    far = outcome("count", np.array([[-1e4], [1e4], [0.0]]))
    assert np.isfinite(far).all()
    found = metrics.of_task("count", np.array([[1.0], [2.0], [0.0]]), far)
    assert all(np.isfinite(value) for value in found.values())


def test_rows_without_weight_are_as_if_not_there() -> None:
    target, value = np.array([[1.0], [1.0], [5.0]]), np.array([[1.0], [2.0], [3.0]])
    assert metrics.of_task("regression", target, value, np.array([1.0, 1.0, 0.0]))["r2"] is None
    p, weight = np.array([[0.2], [0.7], [0.6]]), np.array([2.0, 0.0, 1.0])
    assert metrics.of_task("binary", np.array([[0], [1], [0]]), p, weight)["auc"] is None


def test_binary_with_ties() -> None:
    target = rng.integers(0, 2, (500, 1)).astype(np.float32)
    p = np.round(rng.random((500, 1)), 1).clip(0.01, 0.99)
    found = metrics.of_task("binary", target, p)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(target, p > 0.5))
    assert found["log_loss"] == pytest.approx(sklearn_metrics.log_loss(target[:, 0], p[:, 0]))
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(target, p))
    mean_precision = sklearn_metrics.average_precision_score(target[:, 0], p[:, 0])
    assert found["average_precision"] == pytest.approx(mean_precision)


def test_a_model_that_knows_nothing_has_the_share_of_positives() -> None:
    target = np.array([[1.0], [0.0], [0.0], [0.0]])
    found = metrics.of_task("binary", target, np.full((4, 1), 0.4), threshold=0.3)
    assert (found["average_precision"], found["auc"]) == (0.25, 0.5)
    assert (found["f1"], found["precision"], found["recall"]) == (0.4, 0.25, 1.0)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_the_auc_is_the_same_however_it_is_found(share: float) -> None:
    target, score = rng.random(700) < share, np.round(rng.standard_normal(700), 1)
    found = metrics.auc(target, score)
    assert found == metrics.auc(target, score, np.ones(700))
    assert found == pytest.approx(sklearn_metrics.roc_auc_score(target, score))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_metrics_without_the_auc_are_the_others(task: str) -> None:
    raw = rng.standard_normal((60, 1 if task == "binary" else 3))
    if task == "multiclass":
        judge = partial(metrics.of_logits, rng.integers(0, 3, 60), raw)
    else:
        judge = partial(metrics.of_task, task, rng.integers(0, 2, raw.shape), outcome(task, raw))
    whole, few = judge(), judge(ranked=False)
    sorting = {"auc", "average_precision"} & set(whole)
    assert "auc" in sorting
    assert few == {name: value for name, value in whole.items() if name not in sorting}


def test_multilabel_accuracy_wants_every_label_right() -> None:
    target = rng.integers(0, 2, (200, 3)).astype(np.float32)
    p = rng.random((200, 3))
    found = metrics.of_task("multilabel", target, p)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(target, p > 0.5))
    assert found["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(target, p, average="macro"))


def test_regression_with_two_targets() -> None:
    target = rng.standard_normal((100, 2))
    value = target + rng.standard_normal((100, 2))
    found = metrics.of_task("regression", target, value)
    mse = sklearn_metrics.mean_squared_error(target, value)
    assert found["rmse"] == pytest.approx(mse**0.5)
    assert found["mae"] == pytest.approx(sklearn_metrics.mean_absolute_error(target, value))
    assert found["r2"] == pytest.approx(sklearn_metrics.r2_score(target, value))


def test_what_is_not_defined_is_none() -> None:
    assert metrics.auc(np.ones(5), rng.random(5)) is None
    assert metrics.of_logits(np.zeros(5, np.int32), rng.random((5, 3)))["auc"] is None
    assert metrics.r2(np.ones((5, 1)), rng.random((5, 1))) is None
    assert metrics.average_precision(np.zeros(5), rng.random(5)) is None
    one, none = np.array([True, False]), np.zeros(2, bool)
    assert metrics.at_threshold(one, none) == {"f1": 0.0, "precision": None, "recall": 0.0}
    assert metrics.at_threshold(none, one) == {"f1": 0.0, "precision": 0.0, "recall": None}
    assert set(metrics.at_threshold(none, none).values()) == {None}


def test_certainty_that_is_wrong_costs_a_finite_log_loss() -> None:
    assert np.isfinite(metrics.log_loss(np.array([[1]]), np.array([[0.0]])))
    assert np.isfinite(metrics.of_logits(np.array([0]), np.array([[-800.0, 0.0]]))["log_loss"])
