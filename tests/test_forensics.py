"""Where a run broke: the value that is named is the first that is not finite."""

import json
from pathlib import Path

import numpy as np
import pytest

from gpunet import forensics, job, loop
from gpunet.config import Config
from gpunet.errors import Diverged
from gpunet.run import Run, checkpoints, unpack

rng = np.random.default_rng(0)
X = rng.standard_normal((96, 5)).astype(np.float32)
Y = X @ np.ones((5, 1), np.float32)


def plan(**settings: object) -> job.Job:
    base = {"device": "cpu", "hidden": (8,), "epochs": 20, "batch_size": 16, "patience": 0}
    return job.plan((X, Y), {**base, **settings})


def broken(planned: job.Job) -> forensics.Fault:
    with pytest.raises(Diverged) as caught:
        planned.follow()
    assert isinstance(caught.value.fault, forensics.Fault)
    return caught.value.fault


def test_an_infinite_weight_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, open_step = plan(), loop._Net.open_step

    def poisoned(self: loop._Net, done: int) -> None:
        open_step(self, done)
        if done == 3 * self.taken.steps:
            where, _ = self.store.views["output.weight"]
            self.store.values[where.start + 5] = np.inf

    monkeypatch.setattr(loop._Net, "open_step", poisoned)
    fault = broken(planned)
    place = fault.place
    assert place is not None
    assert (place.stage, place.node, place.gate, place.index) == (
        "forward",
        "output.weight",
        "parameter",
        (5, 0),
    )
    assert (fault.step, fault.epoch) == (16, 4)
    assert [each["step"] for each in fault.trail] == list(range(1, 17))


def test_a_value_of_the_batch_is_named_by_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan(shuffle=False, standardise=False, lr=1e-9)
    planned.prepared.train.x[37, 2] = np.float32(3e38)
    planned.model.network.networks[0].graph.node("hidden1.weight").value[:] = 2.0
    fault = broken(planned)
    assert fault.place is not None
    assert fault.place.node == "hidden1.product"
    assert int(fault.rows[fault.place.index[0]]) == 37
    where = int(planned.prepared.split.train[37]) + 1
    assert f"in column 1 for row {where} of the data" in fault.where
    assert (
        fault.advice(planned.model.config)
        == f"column 3 is 3e+38 to the network in row {where}: clean it"
    )
    assert fault.x[fault.place.index[0], 2] == np.float32(3e38)


@pytest.mark.parametrize("folds", [0, 3])
def test_a_row_and_a_column_are_named_as_they_stand_in_the_file(tmp_path: Path, folds: int) -> None:
    lines = [f"{x[0]:.3f},{'uvw'[i % 3]},{x[1]:.3f},{x[2]:.3f}" for i, x in enumerate(X)]
    lines[50:50] = ["", "0.5,u,3e38,1.0", ""]
    (place := tmp_path / "t.csv").write_text("\n".join(["a,c,a b,y", *lines]) + "\n")
    settings = {"target": ("y",), "standardise": False, "preset": "plain", "test": 0.0}
    settings |= {"folds": folds} if folds else {"validation": 0.0}
    planned = job.plan(str(place), {"device": "cpu", "epochs": 20, "seed": 1, **settings})
    fault = broken(planned)
    assert 53 in fault.numbers
    advice = "a b is 1e+15 to the network in row 53: clean it, or --drop 'a b'"
    assert fault.advice(planned.model.config) == advice


def test_the_columns_of_x_are_known_by_name() -> None:
    table = {"n": [1.5, 2.5] * 30, "c": ["u", "v", "w"] * 20, "b": [True, False, None] * 20}
    table |= {"m": [1.0, None] * 30, "y": [0.0, 1.0] * 30}
    schema = job.plan(table, {"target": ("y",), "device": "cpu", "preset": "plain"}).prepared.schema
    found = [column.name for column in schema.owners]
    assert found == ["n", "m", *["c"] * 4, "b", "b", "m"]
    assert len(found) == schema.width


@pytest.mark.parametrize("kernels", ["native", "numpy"])
def test_a_run_that_breaks_keeps_its_last_finite_state(tmp_path: Path, kernels: str) -> None:
    settings = {"kernels": kernels, "checkpoint_every": "2", "standardise": False}
    planned = plan(optimizer="sgd", lr=1e4, **settings)
    with Run.create(tmp_path / "a", "x") as run:
        planned.begin(run)
        fault = broken(planned)
    newest = checkpoints(tmp_path / "a")[0]
    assert newest.name == f"step-{fault.step - 1:012d}.safetensors"
    tensors, _ = unpack(newest)
    assert all(np.isfinite(a).all() for a in tensors.values())
    batch, state = unpack(tmp_path / "a" / "fault.safetensors")
    assert state == {"step": fault.step}
    np.testing.assert_array_equal(batch["x"], planned.prepared.train.x[batch["rows"]])
    np.testing.assert_array_equal(batch["x"], X[batch["numbers"] - 1])
    told = json.loads((tmp_path / "a" / "fault.json").read_text())
    assert told["step"] == fault.step
    assert told["place"]["node"] == fault.place.node
    assert json.loads((tmp_path / "a" / "status.json").read_text())["state"] == "diverged"


def test_a_gradient_alone_can_break() -> None:
    planned = plan(loss="mean(sqrt((pred - target)**2) + 0*pred)", optimizer="sgd", lr=1e-6)
    network = planned.model.network.networks[0]
    for name in ("output.weight", "output.bias"):
        network.graph.node(name).value[...] = 0
    planned.prepared.train.y[...] = 0
    fault = broken(planned)
    assert fault.place is not None
    assert fault.place.stage == "backward"
    assert fault.advice(planned.model.config) == "try --clip-norm 1"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"lr": 1e30}, "try --lr 0.002"),
        ({"optimizer": "sgd", "lr": 1e4}, "try --lr 0.1"),
        ({"lr": 0.1}, "try --lr 0.01"),
        ({"lr": 0.001, "weight_decay": 1e30}, "try --weight-decay 0.01"),
    ],
)
def test_the_flag_to_try_is_of_what_is_far_off(settings: dict, advice: str) -> None:
    x = np.zeros((1, 2))
    place = forensics.Place("forward", "hidden1.product", "matmul", (0, 0), np.inf, 1, 2)
    rows = np.zeros(1, np.int64)
    fault = forensics.Fault(1, 1, "loss", place, rows, rows, None, x, None, ())
    assert fault.advice(Config(**settings)) == advice


def test_weights_that_an_update_cannot_move() -> None:
    before = np.arange(6.0).reshape(2, 3)
    after = before + 1
    after[1, 1] = before[1, 1]
    grad = np.ones_like(before)
    place = forensics.unmoved(before, after, grad, "hidden1.weight")
    assert place is not None
    assert (place.stage, place.index, place.count) == ("update", (1, 1), 1)
    assert forensics.unmoved(before, before + 1, grad, "hidden1.weight") is None
    grad[1, 1] = 0  # as of a unit that gives nothing
    assert forensics.unmoved(before, after, grad, "hidden1.weight") is None


def test_a_first_step_is_looked_at_with_its_dropout() -> None:
    """What it keeps of a hidden layer is doubled, and then too large."""
    planned = plan(dropout=0.5, standardise=False)
    graph = planned.members[0].network.graph
    planned.prepared.train.x[:] = 1
    graph.node("hidden1.weight").value[:] = 5e37
    graph.node("output.weight").value[:] = 1e-38
    fault = broken(planned)
    assert fault.step == 1
    assert fault.place is not None
    assert (fault.place.stage, fault.place.node) == ("forward", "hidden1.dropout")
