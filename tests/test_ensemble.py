"""Ensembles: their members are who they would be alone, and no fold is judged by who learnt it."""

from pathlib import Path

import numpy as np
import pytest
from runs import begin, follow, results

from gpunet import data, ensemble, job, loop, metrics, model, predict, rerun
from gpunet.errors import DataError, ModelInvalid, UsageError
from gpunet.loop import Member
from gpunet.random import member_seed
from gpunet.run import checkpoints

QUICK = {"device": "cpu", "hidden": (8,), "epochs": 6, "batch_size": 64, "preset": "plain"}
FOLDS = {"folds": 3, "validation": 0.0}
rng = np.random.default_rng(0)
X = rng.standard_normal((120, 5))
KINDS = {
    "multiclass": np.digitize(X[:, 0], [-0.6, 0.5]),
    "binary": (X[:, 0] + X[:, 1] > 0).astype(np.int64),
    "regression": X[:, 0] - X[:, 1] ** 2,
}


def plan(kind: str = "multiclass", **settings: object) -> job.Job:
    return job.plan((X, KINDS[kind]), {**QUICK, **settings})


def trained(kind: str = "multiclass", **settings: object) -> job.Job:
    planned = plan(kind, **settings)
    planned.follow()
    return planned


def best_alone(member: Member, planned: job.Job) -> int:
    """The best epoch of a member that trains by itself, which leaves it with those weights."""
    reports = loop.train([member], planned.choice.device, planned.config.dtype)
    return max(report.epoch for report in reports if report.best)


def test_members_are_who_they_would_be_alone_each_with_its_best_epoch() -> None:
    settings = {"members": 3, "epochs": 40, "lr": 0.03, "schedule": "constant", "patience": 0}
    together, apart = trained(**settings), plan(**settings)
    best = [best_alone(member, apart) for member in apart.members]
    assert len(set(best)) > 1
    weights = [[m.network.weights for m in each.members] for each in (together, apart)]
    for mine, others in zip(*weights, strict=True):
        for name, array in mine.items():
            np.testing.assert_array_equal(array, others[name])


def test_members_differ_by_their_seeds_alone() -> None:
    planned = plan(members=3, seed=7)
    seeds = [member.config.seed for member in planned.members]
    assert seeds == [member_seed(7, i) for i in range(3)]
    assert (
        len({member.network.weights["hidden1.weight"].tobytes() for member in planned.members}) == 3
    )
    assert all(member.data is planned.prepared for member in planned.members)


def test_one_member_is_the_run_without_an_ensemble() -> None:
    (only,), plain = plan(seed=7).members, plan(seed=7)
    assert only.config.seed == 7
    assert plain.model.network.weights.keys() == only.network.weights.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{"members": 2}, FOLDS, {**FOLDS, "members": 2}], ids=str)
def test_predictions_are_the_mean_of_the_networks(kind: str, settings: dict) -> None:
    planned = trained(kind, calibrate=False, **settings)
    whole, device = planned.model, planned.choice.device
    source = data.read(X[:30])
    each = [whole.of(network).outcome(source, device).output for network in whole.network.networks]
    assert len(each) == settings.get("folds", 1) * settings.get("members", 1)
    assert np.ptp(each, axis=0).max() > 1e-3
    expected = np.mean(each, axis=0)
    np.testing.assert_allclose(whole.outcome(source, device).output, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("members", [1, 2])
def test_rows_of_a_fold_are_judged_by_networks_that_did_not_learn_them(members: int) -> None:
    planned = trained(members=members, **FOLDS)
    judged = ensemble.judged(planned.members, planned.model, planned.choice.device)
    part, raw = judged["validation"]
    whole = planned.prepared.train
    assert sorted(map(bytes, judged["train"][0].x)) == sorted(map(bytes, whole.x))
    assert sorted(map(bytes, part.x)) == sorted(map(bytes, whole.x))
    seen = [{bytes(row) for row in member.data.train.x} for member in planned.members]
    first = 0
    for i in range(3):
        held = planned.members[i].data.validation
        rows = slice(first, first := first + held.rows)
        np.testing.assert_array_equal(part.x[rows], held.x)
        blind = [j for j in range(3 * members) if not {bytes(row) for row in held.x} & seen[j]]
        assert blind == list(range(i, 3 * members, 3))
        networks = [planned.members[j].network for j in blind]
        raws = [planned.model.of(n).run(held, planned.choice.device) for n in networks]
        np.testing.assert_array_equal(raw[rows], model.combined("multiclass", raws))


def test_the_training_part_is_judged_whole() -> None:
    planned = trained(calibrate=False, **FOLDS)
    part = planned.prepared.train
    raw = planned.model.run(part, planned.choice.device)
    found = loop.judge(planned.prepared.schema, part.y, raw)
    told = planned.finish()["metrics"]["train"]
    assert told == pytest.approx(found, rel=1e-6)


def test_the_report_is_of_the_ensemble() -> None:
    planned = trained(members=2, epochs=1, calibrate=False)
    device, part = planned.choice.device, planned.prepared.validation
    found = loop.judge(planned.prepared.schema, part.y, planned.model.run(part, device))
    assert planned.last is not None
    assert planned.last.validation["log_loss"] == pytest.approx(found["log_loss"], rel=1e-5)


@pytest.mark.parametrize("settings", [{"members": 2, "best_by": "log_loss"}, FOLDS], ids=str)
def test_each_class_is_ranked_once_a_report(monkeypatch, settings: dict) -> None:
    planned, calls = plan(epochs=1, **settings), []
    monkeypatch.setattr(metrics, "auc", lambda *given: calls.append(given) or 0.5)
    for _ in planned.reports():
        pass
    assert len(calls) == planned.outputs


@pytest.mark.parametrize("settings", [{"members": 2}, {**FOLDS, "members": 2}], ids=str)
def test_a_run_of_several_is_resumed_and_verified_bit_for_bit(
    tmp_path: Path, settings: dict
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    follow(begin(whole, **settings))
    follow(begin(parted, **settings), stop_after=3)
    for step in (9, None):
        resumed, notes = rerun.take_up(parted)
        assert notes == []
        follow(resumed, stop_after=step)
    assert results(parted) == results(whole)
    assert [each.wrong for each in rerun.verify(parted)] == [""] * 4


def test_a_checkpoint_of_another_number_of_networks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    follow(begin(path, members=2), stop_after=9)
    assert checkpoints(path)
    config = path / "config.toml"
    config.write_text(config.read_text().replace("members = 2", "members = 3"))
    with pytest.raises(ModelInvalid, match="settings have changed"):
        rerun.take_up(path)
    with pytest.raises(ModelInvalid, match="the checkpoint is of 2 networks"):
        rerun.take_up(path, allow_inexact=True)


def test_a_saved_ensemble_predicts_as_it_did(tmp_path: Path) -> None:
    planned = trained(members=2, **FOLDS)
    planned.model.save(tmp_path / "model.safetensors")
    loaded = predict.load(tmp_path / "model.safetensors")
    assert len(loaded.network.networks) == 6
    np.testing.assert_array_equal(
        loaded.predict(X, proba=True), planned.model.predict(X, proba=True)
    )


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(DataError, match="too few for 200 folds"):
        plan(folds=200, validation=0.0)
    with pytest.raises(UsageError, match="conflict"):
        plan(folds=3, validation=0.2)
    with pytest.raises(UsageError, match="wants 2 or more"):
        plan(folds=1)
