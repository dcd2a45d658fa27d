"""Micro-batches: the gradients of a batch's parts add up to the step that the whole batch makes."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakecuda import opened
from test_engine import BASE, GRAPHS, ORDER, ROWS, check_plan, label, lowered

import gpunet
from gpunet.cli import _run
from gpunet.config import Config
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.kernels.slots import BEFORE, FAULT, FAULT_LOSS
from gpunet.kernels.update import OPTIMIZERS
from gpunet.launches import LaunchList, Store

BATCH = 9
SPLIT = [(task, config) for task, config in GRAPHS if config.norm != "batch"]


@pytest.fixture(params=["numpy", "native", "team", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """Whatever runs a list: NumPy, native loops on one lane and on three, CUDA's stand-in."""
    monkeypatch.setattr("gpunet.kernels.native.LEAST_ROWS", 1)
    names = {"numpy": Cpu("numpy", 1), "native": Cpu("auto", 1), "team": Cpu("auto", 3)}
    with opened() if request.param == "cuda" else nullcontext(names[request.param]) as found:
        yield found


def state(launches: LaunchList, store: Store) -> dict[str, np.ndarray]:
    """All that a step leaves behind; of padding between parameters nothing."""
    moved = {f"state{i}": store.named(each) for i, each in enumerate(store.state)}
    named = {"weights": store.weights(), **moved}
    flat = {f"{kind} {n}": a for kind, each in named.items() for n, a in each.items()}
    scalars = {name: getattr(launches, name) for name in ("clock", "hyper", "totals")}
    return flat | {name: np.array(store.device.to_host(a)) for name, a in scalars.items()}


def same_steps(
    device: Device, task: str, config: Config, micro_batch: int, steps: int = 8, **other: Any
) -> LaunchList:
    """The list in micro-batches; its steps, short batches among them, are those of whole ones."""
    whole, parted = (
        lowered(device, task, config, micro_batch=rows, **other) for rows in (None, micro_batch)
    )
    for launches, _ in (whole, parted):
        launches.run(steps)
    for (name, found), wanted in zip(state(*parted).items(), state(*whole).values(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11, err_msg=name)
    assert float(whole[0].loss) == pytest.approx(float(parted[0].loss), rel=1e-12)
    return parted[0]


@pytest.mark.parametrize(("task", "config"), SPLIT, ids=label)
def test_every_network_takes_the_same_steps(device: Device, task: str, config: Config) -> None:
    found = same_steps(device, task, config, 4)
    assert (found.batch, found.micro_batch) == (9, 4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_moves_by_the_sum(device: Device, name: str) -> None:
    config = replace(BASE, optimizer=name, lr=1e-2, clip_norm=0.05, dropout=0.4)
    same_steps(device, "multiclass", config, 2)


@pytest.mark.parametrize("rows", [1, 3, 5, 8, 9])
def test_any_size_takes_the_same_steps(device: Device, rows: int) -> None:
    config = replace(BASE, dropout=0.3, optimizer="adamw", norm="layer")
    found = same_steps(device, "multiclass", config, rows)
    names = [each.name for each in found.launches]
    count = -(-BATCH // rows)
    assert names.count("gather") == count
    assert names.count("accumulate") == names.count("micro_batch") == (count if count > 1 else 0)


def test_more_rows_than_a_batch_are_the_batch(device: Device) -> None:
    found = same_steps(device, "multiclass", BASE, 50)
    assert found.micro_batch == BATCH


def test_a_batch_of_all_rows_in_micro_batches(device: Device) -> None:
    same_steps(device, "multiclass", BASE, 6, batch=ROWS)


def test_bfloat16_adds_up_in_float32() -> None:
    with opened() as device:
        device.precision = "bf16"
        config = replace(BASE, hidden=(16, 8), optimizer="adamw", lr=1e-2)
        found = [
            lowered(device, "multiclass", config, "float32", micro_batch=rows) for rows in (None, 4)
        ]
        for launches, _ in found:
            launches.run(6)
        (whole, one), (parted, other) = found
        assert other.shadow is not None
        assert parted.loss == pytest.approx(whole.loss, rel=1e-2)
        for name, wanted in one.weights().items():
            np.testing.assert_allclose(other.weights()[name], wanted, rtol=0.05, atol=0.02)


def test_micro_batches_lie_in_the_same_memory_as_the_first(device: Device) -> None:
    config = replace(BASE, hidden=(200, 100))
    sizes = {}
    for rows in (None, 5, 3):
        launches, _ = lowered(device, "multiclass", config, micro_batch=rows)
        once = list({id(each): each for each in launches.launches}.values())
        if launches.program is None:
            check_plan(once, launches.arena_bytes)
        sizes[rows] = launches.arena_bytes
        places = {slot.array.ctypes.data for each in once for slot in each.slots}
        assert {s.array.ctypes.data for each in launches.launches for s in each.slots} == places
    assert sizes[3] < sizes[5] < sizes[None]


def test_layers_that_mix_rows_are_refused(device: Device) -> None:
    config = replace(BASE, norm="batch")
    with pytest.raises(TypeError, match="mixes rows"):
        lowered(device, "multiclass", config, micro_batch=4)
    lowered(device, "multiclass", config, micro_batch=BATCH)


def test_a_fault_in_a_later_micro_batch_holds_the_step_back(device: Device) -> None:
    config = replace(BASE, activation="sigmoid")
    launches, store = lowered(device, "multiclass", config, micro_batch=4)
    launches.run(1)
    before = store.weights()
    launches.feed.x[int(ORDER[BATCH + 5])] = np.nan  # the second micro-batch of the second step
    launches.run(1)
    clock = device.to_host(launches.clock)
    assert clock[FAULT] & FAULT_LOSS
    assert clock[BEFORE] == 0
    assert np.isnan(launches.loss)
    for name, weight in store.weights().items():
        np.testing.assert_array_equal(weight, before[name])


def test_deterministic_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.kernels.native.LEAST_ROWS", 1)
    found = []
    for threads in (1, 2, 3):
        device = Cpu("native", threads)
        device.deterministic = True
        config = replace(BASE, dropout=0.3)
        launches, store = lowered(device, "multiclass", config, "float32", micro_batch=4)
        launches.run(7)
        found.append((store.values.tobytes(), launches.totals.tobytes()))
    assert found[0] == found[1] == found[2]


def test_a_run_in_micro_batches_learns_what_whole_batches_teach() -> None:
    given = {"preset": "plain", "epochs": 20, "device": "cpu", "dropout": 0.2, "batch_size": 64}
    table = {"x": np.arange(400) / 400, "y": np.sin(np.arange(400) / 50)}
    whole, parted = (
        gpunet.train(table, "y", **given, micro_batch_size=rows) for rows in ("all", 24)
    )
    np.testing.assert_allclose(parted.predict(table), whole.predict(table), rtol=1e-2, atol=1e-2)


def test_sizes_that_make_no_sense_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    plain = ["train", "penguins", "--preset", "plain", "--batch-size", "32", "--micro-batch-size"]
    for more, said in (
        (["64"], "64 is more than a batch of 32 rows"),
        (["16", "--norm", "batch"], "conflicts with --norm batch"),
        (["0"], "--micro-batch-size 0"),
        (["few"], "--micro-batch-size few"),
    ):
        assert _run([*plain, *more]) == 2
        assert said in capsys.readouterr().err
    assert _run(["plan", "penguins", "--preset", "plain", "--micro-batch-size", "100"]) == 0
    assert "batch     32 rows on" in capsys.readouterr().out


def test_a_plan_tells_the_launches_of_a_micro_batch_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["plan", "penguins", "--preset", "plain", "-b", "64", "--micro-batch-size", "24"]
    assert _run(asked) == 0
    shown = capsys.readouterr().out
    assert "batch     64 rows in micro-batches of 24" in shown
    assert "softmax_cross_entropy ×3" in shown
    assert "adamw ×" not in shown
    assert shown.count("softmax_cross_entropy") == 1
    assert _run([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["batch"], found["micro_batch"]) == (64, 24)
    names = [each["launch"] for each in found["launches"]]
    assert names.count("softmax_cross_entropy") == 3
    assert names.count("adamw") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("config", [replace(BASE, dropout=0.3, optimizer="adamw"), BASE], ids=label)
def test_a_gpu_takes_the_same_steps(gpu: Any, config: Config) -> None:
    same_steps(gpu, "multiclass", config, 4)
