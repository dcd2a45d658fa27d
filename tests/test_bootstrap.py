"""Intervals against plain resampling of scikit-learn's metrics, and what they promise: coverage."""

from dataclasses import replace

import numpy as np
import pytest

from gpunet import bootstrap, metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")
rng = np.random.default_rng(0)


def cases() -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    truth = rng.integers(0, 2, (200, 1)).astype(np.float32)
    p = np.round(1 / (1 + np.exp(-(2 * truth - 1 + rng.standard_normal(truth.shape)))), 2)
    several = rng.integers(0, 2, (150, 3)).astype(np.float32)
    y = rng.standard_normal((120, 2)) * [1, 100]
    return {
        "binary": ("binary", truth, p),
        "multilabel": ("multilabel", several, rng.random((150, 3))),
        "regression": ("regression", y, y + rng.standard_normal((120, 2))),
        "count": ("count", rng.poisson(3, (120, 2)).astype(np.float32), rng.random((120, 2)) * 6),
    }


@pytest.mark.parametrize("name", ["binary", "multilabel", "regression", "count"])
def test_the_means_of_all_rows_give_the_metrics(name: str) -> None:
    task, target, output = cases()[name]
    rows = bootstrap.of_task(task, target, output)
    found = rows.combine(rows.values.mean(axis=0))
    assert found == pytest.approx(metrics.of_task(task, target, output))


@pytest.mark.parametrize("quantiles", [(0.5,), (0.2, 0.9), (0.1, 0.5, 0.8)])
@pytest.mark.parametrize("weight", [None, np.arange(120) % 3.0])
def test_the_means_of_all_rows_give_the_metrics_of_quantiles(quantiles, weight) -> None:
    target = rng.standard_normal((120, 2)) * [1, 100]
    output = np.sort(rng.standard_normal((120, 2, len(quantiles))) * [[1], [100]], axis=2)
    rows = bootstrap.of_quantiles(target, output, quantiles, weight)
    assert rows.metrics == pytest.approx(metrics.of_quantiles(target, output, quantiles, weight))
    assert next(iter(rows.metrics)) == "relative_pinball"
    one = bootstrap.of_quantiles(target[:, :1], output[:, :1], quantiles, weight)
    assert next(iter(one.metrics)) == "pinball"


def test_the_means_of_all_rows_give_the_metrics_of_logits() -> None:
    target, raw = rng.integers(0, 4, 300).astype(np.int32), rng.standard_normal((300, 4))
    for temperature in (1.0, 2.5):
        rows = bootstrap.of_logits(target, raw, None, temperature)
        expected = metrics.of_logits(target, raw, None, temperature)
        assert rows.combine(rows.values.mean(axis=0)) == pytest.approx(expected)
        assert expected == pytest.approx(metrics.of_logits(target, raw / temperature))


def test_intervals_are_those_of_plain_resampling() -> None:
    _, target, p = cases()["binary"]
    found = bootstrap.of_task("binary", target, p).intervals(seed=0)
    oracle = {
        "accuracy": lambda i: sklearn_metrics.accuracy_score(target[i], p[i] > 0.5),
        "log_loss": lambda i: sklearn_metrics.log_loss(target[i, 0], p[i, 0]),
        "auc": lambda i: sklearn_metrics.roc_auc_score(target[i], p[i]),
    }
    for name, of in oracle.items():
        drawn = [of(rng.integers(0, len(target), len(target))) for _ in range(1000)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert found[name] == pytest.approx((low, high), abs=0.15 * (high - low)), name


@pytest.mark.parametrize("n", [60, 5000])
def test_intervals_hold_the_truth_as_often_as_they_say(n: int) -> None:
    """The mean absolute error of standard normals is the square root of 2 / pi."""
    held = 0
    for seed in range(200):
        error = np.random.default_rng(seed).standard_normal((n, 1))
        low, high = bootstrap.of_task("regression", error * 0, error).intervals(seed)["mae"]
        held += low <= np.sqrt(2 / np.pi) <= high
    assert 0.88 <= held / 200 <= 0.99


def visits(groups: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of unequal sizes that each have a level of their own: y, p and groups (n,)."""
    own = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), own.integers(1, 40, groups))
    level, n = own.normal(size=groups)[group], len(group)
    y = (own.random(n) < 1 / (1 + np.exp(-level))).astype(float)
    return y, 1 / (1 + np.exp(-(level + y + own.normal(size=n)) / 2)), group


def test_whole_groups_are_drawn_for_every_metric() -> None:
    """Against each metric of plainly drawn groups; rows by themselves would seem far surer."""
    y, p, group = visits(80, 0)
    rows = bootstrap.of_task("binary", y[:, None], p[:, None])
    found = replace(rows, cluster=group).intervals(0)
    held = [np.flatnonzero(group == each) for each in range(80)]
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(400):
        i = np.concatenate([held[each] for each in rng.integers(0, 80, 80)])
        for name, value in metrics.of_task("binary", y[i, None], p[i, None]).items():
            drawn[name].append(value)
    for name, (low, high) in found.items():
        ends = np.percentile(drawn[name], [2.5, 97.5])
        assert (low, high) == pytest.approx(ends, abs=0.2 * (high - low)), name
    alone = rows.intervals(0)["log_loss"]
    low, high = found["log_loss"]
    assert high - low > 1.2 * (alone[1] - alone[0])


@pytest.mark.parametrize("cells", [bootstrap.CELLS, 64])
def test_intervals_of_groups_hold_the_truth_as_often_as_they_say(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that are alike within their group, whose mean error is that of groups."""
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    held, groups = 0, 150
    for seed in range(200):
        level = np.random.default_rng(seed).standard_normal((groups, 1))
        error = np.repeat(level, 4, axis=0)
        rows = bootstrap.of_task("regression", error * 0, error)
        rows = replace(rows, cluster=np.repeat(np.arange(groups), 4))
        assert (rows.rows, rows.units) == (4 * groups, groups)
        low, high = rows.intervals(seed)["mae"]
        held += low <= np.sqrt(2 / np.pi) <= high
    assert 0.88 <= held / 200 <= 0.99


def test_one_group_says_nothing_of_how_groups_differ() -> None:
    error = rng.standard_normal((30, 1))
    rows = bootstrap.of_task("regression", error * 0, error, np.repeat([1.0, 0.0], 15))
    rows = replace(rows, cluster=np.repeat([7, 9], 15))
    assert rows.intervals(0) == {}
    assert not bootstrap.differences(rows, rows, 0)["rmse"].is_known
    assert rows.of(np.arange(30) > 20).cluster.tolist() == [9] * 9


def test_a_share_without_a_mistake_has_the_exact_interval() -> None:
    truth = np.array([[0.0], [1.0]] * 15)
    found = bootstrap.of_task("binary", truth, truth).intervals(0)["accuracy"]
    assert found == pytest.approx((0.8843, 1.0), abs=1e-4)  # of 30 of 30, by Clopper and Pearson
    wide = np.array([-1.0, 2.0]) + np.zeros((30, 1, 1))
    found = bootstrap.of_quantiles(truth, wide, (0.1, 0.9)).intervals(0)["coverage"]
    assert found == pytest.approx((0.8843, 1.0), abs=1e-4)
    few = np.where(np.arange(30) < 28, 0.0, 1.0)[:, None]
    found = bootstrap.of_task("binary", few, few).intervals(0)
    assert found["precision"] == found["recall"] == pytest.approx((0.1581, 1.0), abs=1e-4)
    wrong = bootstrap.of_task("binary", truth, 1 - truth).intervals(0)["accuracy"]
    assert wrong == pytest.approx((0.0, 1 - 0.8843), abs=1e-4)


def test_what_is_not_defined_has_no_interval() -> None:
    one = bootstrap.of_task("binary", np.ones((9, 1)), rng.random((9, 1))).intervals(0)
    assert set(one) == {"accuracy", "log_loss", "average_precision", "f1", "precision", "recall"}
    zero = bootstrap.of_task("binary", np.zeros((9, 1)), np.zeros((9, 1)))
    assert set(zero.intervals(0)) == {"accuracy", "log_loss"}
    constant = bootstrap.of_task("regression", np.ones((9, 1)), rng.random((9, 1))).intervals(0)
    assert set(constant) == {"rmse", "mae"}


def test_the_same_seed_gives_the_same_interval() -> None:
    _, target, p = cases()["binary"]
    rows = bootstrap.of_task("binary", target, p)
    assert rows.intervals(3) == rows.intervals(3) != rows.intervals(4)


def test_no_target_decides_by_its_unit() -> None:
    """One of thousands that is guessed, and one of ones that is known, then the other way round."""
    y = rng.standard_normal((200, 2)) * [1000, 1] + [5, 1e6]
    for known in (0, 1):
        guessed = np.where(np.arange(2) == known, y, y.mean(axis=0))
        rows = bootstrap.of_task("regression", y, guessed)
        assert rows.metrics["relative_rmse"] == pytest.approx(0.5**0.5)
        low, high = rows.intervals(0)["relative_rmse"]
        assert low < 0.5**0.5 < high
    same = np.where(np.arange(2) == 0, y, 7.0)  # a target without a spread counts in its own units
    rows = bootstrap.of_task("regression", same, same + np.array([0.0, 2.0]), np.arange(200) % 2.0)
    assert rows.metrics["relative_rmse"] == pytest.approx(2**0.5)


def test_differences_are_paired() -> None:
    y = 100 * rng.standard_normal((300, 1))
    error = 10 * rng.standard_normal((300, 1))
    a = bootstrap.of_task("regression", y, y + error)
    b = bootstrap.of_task("regression", y, y + 0.9 * error)
    found = bootstrap.differences(a, b, seed=0)["rmse"]
    expected = metrics.rmse(y, y + 0.9 * error) - metrics.rmse(y, y + error)
    assert found.value == pytest.approx(expected)
    assert not found.is_noise  # unpaired, the intervals of a and b overlap
    assert 0 < found.share < 0.01
    assert a.intervals(0)["rmse"][0] < b.intervals(0)["rmse"][1]


@pytest.mark.parametrize("n", [2, 16, 17, 52, 300])
def test_what_is_the_same_differs_by_nothing_not_even_by_rounding(n: int) -> None:
    random = np.random.default_rng(n)
    y = random.standard_normal((n, 1))
    for weight in (None, random.random(n)):
        rows = bootstrap.of_task("regression", y, y + random.standard_normal((n, 1)), weight)
        for same in bootstrap.differences(rows, rows, seed=0).values():
            assert (same.value, same.interval, same.share) == (0.0, (0.0, 0.0), 1.0)
            assert same.is_noise


def test_resamples_of_equal_rows_do_not_count_in_a_difference() -> None:
    """Of 3 rows each ninth resample is one row three times: R² is not defined for it."""
    y = np.array([[0.0], [1.0], [3.0]])
    rows = [bootstrap.of_task("regression", y, y + off) for off in ([[0.2]], [[0.9]])]
    found = bootstrap.differences(*rows, seed=0)["r2"]
    assert np.isfinite(found.interval).all()
    assert found.share < 0.01


@pytest.mark.parametrize("weight", [None, np.array([0.0, 1.0, 0.0])])
def test_one_row_has_no_interval(weight: np.ndarray | None) -> None:
    y = np.zeros((1 if weight is None else len(weight), 1))
    a, b = (bootstrap.of_task("regression", y, y + off, weight) for off in (1, 2))
    assert a.intervals(0) == {}
    found = bootstrap.differences(a, b, seed=0)["rmse"]
    assert found.value == pytest.approx(1)
    assert (found.is_known, found.is_noise, found.share) == (False, True, 1.0)
    bits = bootstrap.of_task("binary", y, y + 0.2, weight)
    assert bits.intervals(0) == {}


@pytest.mark.parametrize("name", ["binary", "multilabel", "regression", "multiclass"])
def test_rows_count_by_their_weight(name: str) -> None:
    if name == "multiclass":
        target, output = rng.integers(0, 3, 200).astype(np.int32), rng.standard_normal((200, 3))
        weight = rng.integers(0, 3, 200).astype(float)
        rows, expected = (each.of_logits(target, output, weight) for each in (bootstrap, metrics))
    else:
        task, target, output = cases()[name]
        weight = rng.integers(0, 3, len(target)).astype(float)
        rows, expected = (
            each.of_task(task, target, output, weight) for each in (bootstrap, metrics)
        )
    assert rows.metrics == pytest.approx(expected)
    found = rows.intervals(0)
    for metric, (low, high) in found.items():
        assert low < expected[metric] < high, metric


def test_weights_widen_an_interval_as_repeated_rows_do() -> None:
    """Ten rows that count a thousandfold leave little of what a thousand others say."""
    error = rng.standard_normal((1000, 1))
    weight = np.where(np.arange(1000) < 10, 1000.0, 1.0)
    rows = bootstrap.of_task("regression", error * 0, error, weight).intervals(0)["mae"]
    alike = bootstrap.of_task("regression", error * 0, error).intervals(0)["mae"]
    assert rows[1] - rows[0] > 5 * (alike[1] - alike[0])


@pytest.mark.parametrize("n", [100, 4000])
def test_equally_good_predictions_rarely_differ_by_more_than_noise(n: int) -> None:
    false, shares = 0, []
    for seed in range(100):
        noise = np.random.default_rng(seed).standard_normal((2, n, 1))
        y = np.zeros((n, 1))
        a, b = (bootstrap.of_task("regression", y, y + each) for each in noise)
        found = bootstrap.differences(a, b, seed)["rmse"]
        false += not found.is_noise
        shares.append(found.share)
    assert false <= 12
    assert 0.35 < np.mean(shares) < 0.65  # p-values of no difference are uniform


def test_a_difference_that_is_not_defined_is_noise() -> None:
    def nowhere(means: np.ndarray) -> dict[str, np.ndarray]:
        return {"r2": np.full(means.shape[:-1], -np.inf)}

    rows = bootstrap.RowValues(np.ones((9, 1)), nowhere)
    found = bootstrap.differences(rows, rows, seed=0)["r2"]
    assert found.is_noise
    assert found.share == 1
