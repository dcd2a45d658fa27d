"""The training loop: what it reports, what it keeps, when it stops."""

from dataclasses import replace

import lecture
import numpy as np
import pytest

from gpunet import data, engine, job, loop, model
from gpunet.config import Config, gather
from gpunet.device import resolve
from gpunet.errors import Diverged
from gpunet.kernels.slots import LR
from gpunet.loop import Control, Report

CPU = resolve("cpu").device
rng = np.random.default_rng(0)
X = rng.standard_normal((90, 5))
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).astype(np.int64)


def plan(**settings: object) -> job.Job:
    return job.plan((X, Y), {"device": "cpu", "hidden": (16,), "epochs": 5, **settings})


def reports(planned: job.Job) -> list[Report]:
    return list(planned.reports())


def test_the_lectures_network_is_the_lectures_to_the_step() -> None:
    planned = job.plan("lecture", {"precision": "fp64", "steps": 300, "device": "cpu"})
    weights = planned.model.network.weights
    x, y = planned.prepared.train.x, planned.prepared.train.y
    assert x.shape == (64, 1000)
    assert y.shape == (64, 10)
    w1, w2 = weights["hidden1.weight"], weights["output.weight"]
    assert (w1.shape, w2.shape) == ((1000, 100), (100, 10))
    expected = lecture.losses(x, y, w1, w2, 1e-4, 300)
    found = reports(planned)
    assert [report.step for report in found] == list(range(15, 301, 15))
    for report in found:
        assert report.loss == pytest.approx(expected[report.step - 1], rel=1e-6)
    assert planned.control.first_loss == pytest.approx(expected[0], rel=1e-12)


def test_reports_say_where_the_run_is() -> None:
    planned = plan(batch_size=16)
    found = reports(planned)
    per_epoch = -(-planned.prepared.train.rows // 16)
    assert [report.epoch for report in found] == [1, 2, 3, 4, 5]
    assert [report.step for report in found] == [per_epoch * e for e in range(1, 6)]
    assert found[-1].steps == planned.steps == 5 * per_epoch
    assert found[0].lr > found[-1].lr > 0
    assert set(found[0].validation) >= {"loss", "accuracy", "log_loss", "auc"}
    assert found[0].validation["loss"] == pytest.approx(found[0].validation["log_loss"], rel=1e-5)


def test_steps_end_a_run_inside_an_epoch() -> None:
    planned = plan(batch_size=16, epochs="auto", steps=7)
    found = reports(planned)
    assert found[-1].step == 7
    assert planned.control.ended == "done"


def test_the_loss_reported_is_the_mean_over_the_epochs_rows() -> None:
    planned = plan(batch_size=16, lr=1e-12, epochs=1, weight_decay=0.0)
    (report,) = planned.reports()
    raw = planned.model.run(planned.prepared.train, CPU)
    p = model.outcome("binary", raw)[:, 0]
    t = planned.prepared.train.y[:, 0]
    expected = -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))
    assert report.loss == pytest.approx(expected, rel=1e-5)


def test_the_best_epoch_is_what_is_kept() -> None:
    planned = plan(epochs=40, lr=0.05, hidden=(64, 64), patience=0, schedule="constant")
    found = reports(planned)
    losses = [report.validation["loss"] for report in found]
    best = min(range(len(losses)), key=lambda i: (losses[i], -i))
    assert planned.best is not None
    assert planned.best.epoch == best + 1 < len(losses)
    kept = loop.judge(
        planned.prepared.schema,
        planned.prepared.validation.y,
        planned.model.run(planned.prepared.validation, CPU),
    )
    assert kept["log_loss"] == pytest.approx(losses[best], rel=1e-5)


def test_patience_ends_a_run() -> None:
    planned = plan(epochs=400, lr=0.05, hidden=(64, 64), patience=5, schedule="constant")
    found = reports(planned)
    assert planned.control.ended == "patience"
    assert len(found) < 400
    assert planned.best is not None
    assert found[-1].epoch - planned.best.epoch >= 5


def test_a_plateau_lowers_the_rate() -> None:
    planned = plan(epochs=60, lr=0.05, hidden=(64, 64), patience=0, schedule="plateau")
    rates = {report.lr for report in reports(planned)}
    assert len(rates) > 1
    assert min(rates) == pytest.approx(0.05 * 0.3 ** (len(rates) - 1))


def test_networks_of_folds_go_through_one_schedule() -> None:
    """Folds of 64 and of 65 rows would make 1 and 2 steps an epoch."""
    x, y = np.random.default_rng(0).normal(size=(97, 2)), np.arange(97.0)
    settings = {"validation": 0, "test": 0, "folds": 3, "batch_size": 64, "epochs": 4}
    planned = job.plan((x, y), {**settings, "preset": "plain", "schedule": "onecycle"})
    sizes = [member.data.train.rows for member in planned.members]
    assert sizes == [64, 65, 65]
    ends = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Net, "close", lambda net: ends.append(float(net.list.hyper[LR])))
        list(planned.reports())
    assert ends == [ends[0]] * 3


def test_steps_that_are_added_do_not_change_how_the_first_ones_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    monkeypatch.setattr(engine.persistent, "bound", lambda *given: found.append(given[-1]))
    planned = plan(kernels="numpy", epochs=3, batch_size=16)
    steps = planned.steps
    for legs in ((), [(2, 60_000)], [(steps, 10), (steps + 10, 60_000)]):
        planned.identity["legs"] = legs
        assert planned.launches is not None
    assert found == [steps] * 3


def test_a_run_stops_after_the_step_in_hand_and_keeps_its_weights() -> None:
    planned = plan(batch_size=16, epochs=50)

    def tick(step: int) -> None:
        planned.control.stop = step >= 3

    planned.control.tick = tick
    found = reports(planned)
    assert 3 <= found[-1].step < planned.steps
    assert planned.control.ended == "stopped"
    fresh = plan(batch_size=16, epochs=50).model.network.weights
    moved = planned.model.network.weights
    assert any((moved[name] != fresh[name]).any() for name in fresh)


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    def final(seed: int) -> np.ndarray:
        planned = plan(seed=seed, dropout=0.2, norm="batch")
        reports(planned)
        return planned.model.network.weights["hidden1.weight"]

    assert (final(1) == final(1)).all()
    assert (final(1) != final(2)).any()


def test_divergence_names_the_step_and_keeps_the_best() -> None:
    settings = {"optimizer": "sgd", "lr": 1e6, "norm": "none", "activation": "relu"}
    planned = plan(**settings, epochs=50)
    with pytest.raises(Diverged, match=r"diverged at step \d+, epoch \d+: \S+ \(\w+, \w+\) is"):
        reports(planned)
    assert planned.control.ended == "diverged"
    assert all(np.isfinite(w).all() for w in planned.model.network.weights.values())


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
def test_figures_of_batch_norm_stay_finite_before_a_divergence(kernels: str) -> None:
    """A variance is too large before any loss is."""
    settings = {"norm": "batch", "hidden": (7, 9, 4), "activation": "mish", "preset": "plain"}
    rates = {"optimizer": "momentum", "schedule": "constant", "lr": 1e15, "validation": 0}
    on = {"device": "cpu", "kernels": kernels, "threads": 1}
    planned = job.plan("penguins", {**settings, **rates, **on})
    with pytest.raises(Diverged):
        reports(planned)
    assert all(np.isfinite(w).all() for w in planned.model.network.weights.values())


def test_without_a_validation_part_the_last_weights_are_kept() -> None:
    planned = plan(validation=0.0)
    found = reports(planned)
    assert all(report.best and report.validation == {} for report in found)
    assert planned.prepared.validation is None


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "lion"])
@pytest.mark.parametrize("schedule", ["constant", "linear", "onecycle"])
def test_every_optimiser_learns_under_every_schedule(optimizer: str, schedule: str) -> None:
    lr = 2e-3 if optimizer == "lion" else "auto"
    planned = plan(optimizer=optimizer, schedule=schedule, epochs=60, batch_size=16, lr=lr)
    found = reports(planned)
    assert found[-1].loss < 0.75 * planned.control.first_loss


def test_one_batch_is_learnt_by_heart() -> None:
    settings = {"hidden": (64, 64), "epochs": 300, "validation": 0.0, "test": 0.0, "lr": 0.01}
    planned = plan(**settings, batch_size=128)
    assert reports(planned)[-1].loss < 0.01


def test_images_stay_bytes_until_the_gather() -> None:
    images = rng.integers(0, 256, (60, 4, 4)).astype(np.uint8)
    planned = job.plan((images, Y[:60]), {"epochs": 2, "device": "cpu"})
    assert planned.prepared.train.x.dtype == np.uint8
    assert planned.prepared.schema.scale is not None
    reports(planned)


def test_a_control_is_optional() -> None:
    settings = gather({"hidden": (4,), "epochs": 1, "device": "cpu", "loss": "mean_squared"})
    config = replace(settings.config, lr=0.1, batch_size=8, patience=0, init="he", precision="fp32")
    prepared = data.prepare(data.read((X, X[:, 0])), validation=0.0, test=0.0)
    network = model.build(config, 5, 1, "regression")
    member = loop.Member(network, prepared, config)
    assert len(list(loop.train([member], CPU, "float32"))) == 1
    assert isinstance(config, Config)
    assert Control().ended == ""


def test_targets_beyond_the_limits_of_a_clamp_are_judged_as_they_are() -> None:
    y = np.arange(40.0) + 0.5
    table = {"x": list(X[:40, 0]), "y": y, "part": ["train"] * 34 + ["validation"] * 6}
    prepared = data.prepare(data.read(table), target=("y",), split_column="part", clamp=True)
    part, schema = prepared.validation, prepared.schema
    assert part is not None
    found = loop.judge(schema, part.y, np.full((part.rows, 1), 1e6, np.float32))
    assert found["mae"] == pytest.approx(np.mean(y[-part.rows :] - y[-part.rows - 1]))
