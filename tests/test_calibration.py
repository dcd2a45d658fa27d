"""Temperature and threshold against searches over a grid, by scikit-learn's metrics."""

import numpy as np
import pytest

from gpunet import calibration, metrics
from gpunet.model import outcome

sklearn_metrics = pytest.importorskip("sklearn.metrics")
rng = np.random.default_rng(0)


def f1(true: np.ndarray, p: np.ndarray, threshold: float, weight=None) -> float:
    return metrics.at_threshold(true, p > threshold, weight)["f1"]


def drawn(task: str, n: int, true_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from the probabilities of true_scale * logits, and the logits, float32."""
    raw = 2 * rng.standard_normal((n, {"multiclass": 5, "binary": 1, "multilabel": 3}[task]))
    p = outcome(task, true_scale * raw)
    if task == "multiclass":
        return (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1), raw.astype(np.float32)
    return (rng.random(p.shape) < p).astype(np.float32), raw.astype(np.float32)


def loss(task: str, y: np.ndarray, raw: np.ndarray, t: float) -> float:
    p = outcome(task, raw / t)
    if task == "multiclass":
        return sklearn_metrics.log_loss(y, p, labels=range(p.shape[1]))
    return np.mean([sklearn_metrics.log_loss(y[:, j], p[:, j]) for j in range(p.shape[1])])


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_has_the_lowest_log_loss(task: str, scale: float) -> None:
    y, raw = drawn(task, 4000, scale)
    found = calibration.temperature(task, y, raw)
    assert found == pytest.approx(1 / scale, rel=0.15)
    grid = np.exp(np.linspace(np.log(found) - 1, np.log(found) + 1, 81))
    best = min(loss(task, y, raw, t) for t in grid)
    assert loss(task, y, raw, found) <= best + 1e-5
    assert loss(task, y, raw, found) <= loss(task, y, raw, 1.0)


@pytest.mark.parametrize("rows", [1, 5, 50])
def test_a_few_rows_that_are_all_right_do_not_freeze_it(rows: int) -> None:
    y, raw = np.ones((rows, 1)), np.full((rows, 1), 3.0)
    found = calibration.temperature("binary", y, raw)
    assert 0.3 < found < 1
    assert 1 < calibration.temperature("binary", 1 - y, raw) <= calibration.HOTTEST


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e30])
def test_extreme_logits_give_a_finite_temperature(size: float) -> None:
    y = rng.integers(0, 3, 40)
    raw = size * rng.standard_normal((40, 3))
    found = calibration.temperature("multiclass", y, raw)
    assert calibration.COLDEST <= found <= calibration.HOTTEST


def test_the_threshold_has_the_best_f1() -> None:
    true = rng.random(300) < 0.2
    p = np.round(1 / (1 + np.exp(-(2 * true - 2 + rng.standard_normal(300)))), 2)
    best = calibration.best_threshold(true, p)
    scores = [sklearn_metrics.f1_score(true, p > t) for t in np.linspace(0, 1, 401)[:-1]]
    assert f1(true, p, best) == pytest.approx(max(scores))
    assert 0 < best < 1


def test_no_threshold_between_equal_probabilities() -> None:
    true, p = np.array([True, False, True, False]), np.array([0.9, 0.5, 0.5, 0.1])
    assert calibration.best_threshold(true, p) == pytest.approx(0.3)


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_whole_weights_are_repeated_rows(task: str) -> None:
    y, raw = drawn(task, 300, 0.5)
    weight = rng.integers(0, 4, 300)
    twice = calibration.temperature(task, y.repeat(weight, axis=0), raw.repeat(weight, axis=0))
    weighed = calibration.temperature(task, y, raw, weight / weight.mean())
    assert weighed == pytest.approx(twice, rel=0.01)
    if task == "binary":
        true, p = y[:, 0] > 0.5, outcome(task, raw)[:, 0]
        many = true.repeat(weight), p.repeat(weight)
        assert f1(true, p, 0.4, weight) == pytest.approx(f1(*many, 0.4))
        at = calibration.best_threshold(true, p, weight)
        best = f1(*many, calibration.best_threshold(*many))
        assert f1(*many, at) == pytest.approx(best)
