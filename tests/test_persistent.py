"""One launch for many steps: what it computes is what the list does."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import ceil
from typing import Any

import emulation
import numpy as np
import pytest
from meeting import Meeting
from nvrtc import nvrtc
from test_engine import BASE, CPU, ORDER, ROWS, build, label, lower, lowered
from test_kernels_cuda import ARCHITECTURES

from gpunet import model
from gpunet.config import Config
from gpunet.gates import ACTIVATIONS
from gpunet.kernels.registry import source_text
from gpunet.kernels.slots import FAULT, STEP
from gpunet.launches import Feed, LaunchList, Store
from gpunet.persistent import Persistent, bound, plain, tiled, training
from gpunet.persistent.resident import Resident, divided
from gpunet.persistent.tiled import Tiled

emulated = pytest.mark.skipif(emulation.COMPILER is None, reason="no g++")
ONE = replace(BASE, hidden=(9,), lr=1e-2, weight_decay=0.1)
DEEP = replace(ONE, hidden=(36, 20, 8), lr=1e-3)
CASES = [
    ("multiclass", replace(ONE, activation="gelu", optimizer="adamw", label_smoothing=0.1)),
    ("multiclass", replace(ONE, activation="relu", optimizer="lion", bias=False)),
    ("binary", replace(ONE, loss="sigmoid_cross_entropy", activation="silu", optimizer="adam")),
    ("regression", replace(ONE, loss="huber", activation="tanh", optimizer="rmsprop")),
    ("regression", replace(ONE, loss="sum_squares", activation="sigmoid", bias=False)),
    ("regression", replace(ONE, loss="mean_absolute", activation="mish", optimizer="momentum")),
    ("regression", replace(ONE, loss="mean_squared", activation="selu", optimizer="nesterov")),
    (
        "regression",
        replace(ONE, loss="pinball", quantiles=(0.1, 0.8), activation="tanh", hidden=(1,)),
    ),
    ("multiclass", replace(DEEP, activation="relu", optimizer="adamw")),
    ("regression", replace(DEEP, activation="gelu", loss="mean_squared", bias=False)),
    ("multiclass", replace(DEEP, hidden=(34, 35), activation="sigmoid", optimizer="nesterov")),
]


@pytest.fixture(params=["tiled", "resident"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Networks of one hidden layer in either form."""
    if request.param == "tiled":
        monkeypatch.setattr(training, "divided", lambda *given: None)
    return str(request.param)


def agree(
    device: Meeting, task: str, config: Config, dtype: str, rtol: float, **changes: Any
) -> None:
    """Eight steps, of two and a half epochs, in three launches."""
    found, store = lowered(device, task, config, dtype, **changes)
    wanted, plain = lowered(CPU, task, config, dtype, **changes)
    for steps in (1, 4, 3):
        found.run(steps)
        wanted.run(steps)
    assert device.launches == [1, 4, 3]
    assert found.clock.tolist() == wanted.clock.tolist()
    np.testing.assert_allclose(found.hyper, wanted.hyper, rtol=1e-15)
    np.testing.assert_allclose(found.totals, wanted.totals, rtol=rtol)
    for vector, expected in zip((store.values, *store.state), (plain.values, *plain.state)):
        for name, value in plain.named(expected).items():
            got = store.named(vector)[name]
            np.testing.assert_allclose(got, value, rtol=rtol, atol=rtol, err_msg=name)


@emulated
@pytest.mark.parametrize(("task", "config"), CASES, ids=label)
def test_it_is_the_list(form: str, task: str, config: Config) -> None:
    agree(Meeting(), task, config, "float64", 1e-9)


@emulated
def test_it_is_the_list_in_float32_but_for_roundings(form: str) -> None:
    agree(Meeting(), *CASES[0], "float32", 1e-5)


@emulated
@pytest.mark.parametrize("case", [0, 4])
def test_how_steps_are_divided_among_launches_changes_no_bit(form: str, case: int) -> None:
    """Nor the order of threads: a run's launches are as long as the clock on the wall allows."""

    def bits(*launches: int) -> list[bytes]:
        device = Meeting(lanes=4 if form == "resident" else 1, seed=len(launches))
        found, store = lowered(device, *CASES[case])
        for steps in launches:
            found.run(steps)
        vectors = (found.totals, found.clock, found.hyper, store.values, *store.state)
        return [vector.tobytes() for vector in vectors]

    whole = bits(40)
    assert all(bits(*each) == whole for each in ((20, 20), (1, 9, 30), (1, 1, 3, 5, 10, 20)))


@emulated
@pytest.mark.parametrize("blocks", [2, 3, 10])
def test_any_number_of_blocks_computes_the_same(blocks: int) -> None:
    device = Meeting(blocks)
    found, _ = lowered(device, "multiclass", DEEP)
    form = found.replay.form
    assert form.blocks == min(blocks, form.useful_blocks)
    device.launches.clear()
    agree(device, "multiclass", DEEP, "float64", 1e-9)


def as_divided(network: plain.Network, dtype: str, units: int, share: int) -> Resident:
    hidden = network.layers[0].outs
    counts = ceil(hidden / units), ceil(network.inputs / share)
    return Resident(network, dtype, counts[0], units, counts[1], share)


@emulated
@pytest.mark.parametrize(("units", "share"), [(1, 8), (2, 4), (4, 8), (5, 4), (9, 8)])
@pytest.mark.parametrize(("case", "lanes"), [(0, 1), (1, 4), (2, 2), (5, 4), (7, 4)])
def test_any_division_computes_the_same(
    case: int, lanes: int, units: int, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(network: plain.Network, dtype: str, *given: int) -> Resident:
        return as_divided(network, dtype, units, share)

    monkeypatch.setattr(training, "divided", divide)
    agree(Meeting(lanes=lanes), *CASES[case], "float64", 1e-9)


@emulated
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize(("case", "units", "share"), [(0, 2, 4), (2, 5, 8), (7, 1, 4), (8, 0, 0)])
def test_any_order_of_threads_and_blocks_computes_the_same(
    case: int, units: int, share: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        training, "divided", lambda network, dtype, *given: as_divided(network, dtype, units, share)
    )
    if units == 0:  # tiles, whose products are of one lane or of 32
        monkeypatch.setattr(training, "divided", lambda *given: None)
    lanes = 2 ** (seed % 3) if units else 1
    agree(Meeting(lanes=lanes, seed=seed), *CASES[case], "float64", 1e-9)


@emulated
@pytest.mark.parametrize(
    ("case", "waits", "goes"),
    [
        (0, "if (is_of(found[i], step)) continue;", "continue;"),
        (8, "(now & COUNTED) < met", "false"),
    ],
)
def test_who_does_not_wait_is_caught(case: int, waits: str, goes: str) -> None:
    """By an order that is not that of the threads."""

    class Hasty(Meeting):
        def meeting(self, source: str, entry: str, *given: int) -> Callable[..., None]:
            assert source.count(waits) == 1
            return super().meeting(source.replace(waits, goes), entry, *given)

    caught = 0
    for seed in range(1, 5):
        with suppress(AssertionError):
            agree(Hasty(seed=seed), *CASES[case], "float64", 1e-9)
            continue
        caught += 1
    assert caught > 2


@emulated
@pytest.mark.parametrize("rows", [7, 9, 23])
@pytest.mark.parametrize(("inputs", "share"), [(1, 4), (10, 4), (10, 12), (16, 8), (21, 4)])
def test_any_number_of_inputs_and_rows_is_divided(
    inputs: int, share: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where batches are all of the rows, or some of them."""
    monkeypatch.setattr(
        training, "divided", lambda network, dtype, *given: as_divided(network, dtype, 3, share)
    )
    rng = np.random.default_rng(inputs)
    x, y = rng.standard_normal((rows, inputs)), rng.standard_normal((rows, 3))
    feed = Feed(x, y, order=rng.permutation(rows).astype(np.int32))
    config = replace(ONE, activation="tanh", optimizer="adam", loss="mean_squared")
    network = model.build(config, inputs, 3, "regression")
    found, wanted = (lower(network, feed, config, 9, "float64", each) for each in (Meeting(), CPU))
    for first in (0, 5):
        for launches, _ in (found, wanted):
            launches.rewind(first, rows - 1)
            launches.run(3)
    np.testing.assert_allclose(found[0].totals, wanted[0].totals, rtol=1e-9)
    for name, value in wanted[1].weights().items():
        np.testing.assert_allclose(found[1].weights()[name], value, rtol=1e-9, err_msg=name)


@emulated
def test_bytes_are_scaled_and_rows_may_lie_in_order(form: str) -> None:
    x = np.random.default_rng(3).integers(0, 256, (ROWS, 7)).astype(np.uint8)
    scale, shift = np.full(7, 1 / 255), np.arange(7) / 10
    agree(Meeting(), *CASES[1], "float64", 1e-9, x=x, scale=scale, shift=shift, order=None)
    agree(Meeting(), *CASES[0], "float64", 1e-9, x=x, scale=None, shift=shift)


@emulated
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("lr", [1e308, 1e200])
def test_what_is_not_finite_stops_it_as_it_stops_the_list(form: str, lr: float, seed: int) -> None:
    """1e308 spoils weights at once; 1e200 gives weights with which the next loss is spoilt."""
    config = replace(ONE, lr=lr, weight_decay=0.0)
    found, store = lowered(Meeting(seed=seed), "multiclass", config)
    wanted, plain = lowered(CPU, "multiclass", config)
    with np.errstate(all="ignore"):
        found.run(6)
        wanted.run(6)
    assert found.fault == wanted.fault != 0
    assert found.step == wanted.step < 6
    assert found.clock.tolist() == wanted.clock.tolist()
    for name, value in plain.weights().items():
        np.testing.assert_allclose(store.weights()[name], value, rtol=1e-9, err_msg=name)
    before = store.values.copy()
    found.run(2)
    assert (store.values == before).all()
    assert int(found.clock[STEP]) == wanted.step
    assert int(found.clock[FAULT]) == wanted.fault


@emulated
def test_a_launch_that_fails_leaves_the_steps_to_the_list() -> None:
    device = Meeting()
    found, store = lowered(device, *CASES[0])
    wanted, plain = lowered(CPU, *CASES[0])
    graphs: list[int] = []

    def otherwise(steps: int) -> None:
        graphs.append(steps)

    def fail(*given: Any) -> None:
        raise RuntimeError("no room\nat all")

    found.replay.train, found.replay.otherwise = fail, otherwise
    with pytest.warns(RuntimeWarning, match="one of each kernel: RuntimeError: no room$"):
        found.run(3)
    found.run(2)
    assert graphs == [3, 2]
    assert wanted.step == 0
    for name, value in plain.weights().items():
        assert (store.weights()[name] == value).all()


@emulated
def test_what_cannot_be_built_is_left_to_the_list() -> None:
    class Old(Meeting):
        def launcher(self, source: str, entry: str) -> Callable[..., None]:
            if entry.startswith("persistent"):
                raise RuntimeError("no such instruction\nin line 1")
            return super().launcher(source, entry)

    launches, store = lowered(CPU, *CASES[0])
    store.device = Old()
    with pytest.warns(
        RuntimeWarning, match="one of each kernel: RuntimeError: no such instruction$"
    ):
        assert bound(launches.launches, store, lambda steps: None) is None
    with pytest.raises(RuntimeError, match="no such instruction"):
        bound(launches.launches, store, None)


@emulated
@pytest.mark.parametrize(("case", "dtype"), [(0, "int64"), (4, "float32")])
def test_targets_of_another_dtype_are_left_to_the_list(case: int, dtype: str) -> None:
    launches, store = lowered(CPU, *CASES[case])
    store.device = Meeting()
    assert bound(launches.launches, store, None) is not None
    y = {slot for each in launches.launches for slot in each.slots if slot.name == "data.y"}
    for slot in y:
        slot.array = slot.array.astype(dtype)
    assert bound(launches.launches, store, None) is None


@pytest.mark.parametrize(
    "config",
    [
        replace(ONE, hidden=()),
        replace(ONE, norm="layer"),
        replace(ONE, dropout=0.1),
        replace(ONE, clip_norm=1.0),
        replace(ONE, parametric=True),
        replace(ONE, activation="maximum(x, 0.1*x)"),
    ],
    ids=label,
)
def test_other_lists_are_not_taken(config: Config) -> None:
    launches, _ = lowered(CPU, "multiclass", config)
    assert plain.recognised(launches.launches) is None


def test_every_list_of_plain_layers_is_recognised() -> None:
    for activation in ACTIVATIONS:
        launches, _ = lowered(CPU, "multiclass", replace(DEEP, activation=activation))
        found = plain.recognised(launches.launches)
        assert found is not None
        assert (found.act, found.loss, found.batch) == (activation, "softmax_cross_entropy", 9)
        assert [(each.ins, each.outs) for each in found.layers] == [
            (7, 36),
            (36, 20),
            (20, 8),
            (8, 4),
        ]
        assert found.layers[-1].weight == "output.weight"
        assert found.layers[-1].bias == "output.bias"


def test_what_has_no_room_or_is_large_is_left_to_the_list() -> None:
    class Full(Meeting):
        def room(self) -> tuple[int, int]:
            return 4, 100

    launches, store = lowered(CPU, *CASES[0])
    store.device = Full()
    assert bound(launches.launches, store, None) is None
    store.device = Meeting(blocks=1)
    assert bound(launches.launches, store, None) is None
    found = plain.recognised(launches.launches)
    assert found is not None
    first, last = found.layers
    wide = replace(found, batch=4096, layers=(replace(first, ins=1000, outs=1000), last))
    assert wide.flops > tiled.MOST_FLOPS[True]
    small = replace(found, batch=64, layers=(replace(first, ins=1000, outs=100), last))
    assert small.flops < tiled.MOST_FLOPS[False]


@emulated
@pytest.mark.parametrize(
    ("inputs", "start", "is_taken"), [(8, 0, True), (8, 1, False), (7, 1, True)]
)
def test_inputs_that_begin_between_fours_are_left_to_the_list(
    inputs: int, start: int, is_taken: bool
) -> None:
    x = aligned(ROWS * inputs + start)[start:].reshape(ROWS, inputs)
    network = model.build(ONE, inputs, 4, "multiclass")
    feed = Feed(x, np.zeros(ROWS, np.int32), order=ORDER)
    launches, _ = lower(network, feed, ONE, 9, "float64", Meeting())
    assert (launches.replay is not None) == is_taken


def aligned(size: int) -> np.ndarray:
    whole = np.zeros(size + 2)
    return whole[whole.ctypes.data % 16 // 8 :][:size]


@emulated
@pytest.mark.parametrize(
    ("planned", "is_taken"),
    [(None, True), (training.LEAST_STEPS - 1, False), (training.LEAST_STEPS, True)],
)
def test_few_steps_are_not_worth_compiling_for(planned: int | None, is_taken: bool) -> None:
    launches, store = lowered(CPU, *CASES[0])
    store.device = Meeting()
    found = bound(launches.launches, store, None, planned)
    assert (found is not None) == is_taken


def compiles(
    compiled: Any, launches: LaunchList, store: Store, is_tf32: bool, architecture: str
) -> None:
    """In both forms, without a warning, and without spills."""
    network, dtype = plain.recognised(launches.launches), "float32"
    assert network is not None
    forms = [divided(network, dtype, 132, 227 << 10), Tiled(network, dtype, is_tf32, 132, 1 << 20)]
    assert (forms[0] is None) == (len(network.layers) > 2)
    for each in forms:
        if each is not None:
            text = source_text(each.source, dtype, generated=each.definitions(store))
            log = compiled(text, architecture)
            assert "warning" not in log
            assert set(re.findall(r"(\d+) bytes spill", log)) == {"0"}


def test_compiles() -> None:
    """On each architecture, with products in float32 and rounded to tf32."""
    with nvrtc() as compiled:
        for i, (task, config) in enumerate(CASES):
            launches, store = lowered(CPU, task, config, "float32")
            compiles(compiled, launches, store, i % 3 != 0, ARCHITECTURES[i % 4])


LECTURE = Config(hidden=(100,), init="he", activation="sigmoid", loss="sum_squares", lr=1e-4)
IMAGES = Config(hidden=(256, 128), init="he", loss="softmax_cross_entropy", optimizer="adamw")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_networks_of_the_benchmark_compile(architecture: str) -> None:
    with nvrtc() as compiled:
        for config, sizes, task in (
            (LECTURE, (64, 1000), "regression"),
            (IMAGES, (256, 784), "multiclass"),
        ):
            network = model.build(config, sizes[1], 10, task)
            y = np.zeros((sizes[0], 10)) if task == "regression" else np.zeros(sizes[0], np.int32)
            x, y = np.zeros(sizes, np.float32), y.astype("f4" if y.ndim == 2 else "i4")
            feed = Feed(x, y, order=np.arange(len(x), dtype=np.int32))
            launches, store = lower(network, feed, replace(config, lr=1e-3), len(x), "float32")
            compiles(compiled, launches, store, True, architecture)


# A GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize(("task", "config"), CASES, ids=label)
def test_on_a_gpu(gpu: Any, form: str, task: str, config: Config, precision: str) -> None:
    """1e-5 over a few steps, and what roundings make of that in many."""
    gpu.precision = precision
    found, store = lowered(gpu, task, config, "float32")
    wanted, plain = lowered(gpu, task, config, "float32")
    assert isinstance(found.replay, Persistent)
    if len(config.hidden) == 1:
        assert found.replay.form.source == f"persistent.h {form}.cu"
    wanted.replay = wanted.replay.otherwise
    first, later = (1e-5, 1e-4) if precision == "fp32" else (1e-3, 1e-2)
    for steps, rtol in ((1, first), (4, first), (200, later)):
        if precision == "tf32" and config.optimizer == "lion" and steps > 4:
            return  # it takes the sign of a gradient, which roundings turn
        found.run(steps)
        wanted.run(steps)
        assert found.fault == wanted.fault == 0
        assert found.step == wanted.step
        assert found.loss == pytest.approx(wanted.loss, rel=rtol)
    np.testing.assert_allclose(
        gpu.to_host(found.totals), gpu.to_host(wanted.totals), rtol=later, atol=later
    )
    rtol, atol = (1e-2, 1e-3) if precision == "fp32" else (1e-1, 1e-1)
    for name, value in plain.weights().items():
        np.testing.assert_allclose(store.weights()[name], value, rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_bytes_of_many_columns_on_a_gpu(gpu: Any, precision: str) -> None:
    gpu.precision = precision
    x = np.random.default_rng(3).integers(0, 256, (ROWS, 64)).astype(np.uint8)
    scale, shift = np.full(64, 1 / 128), np.full(64, -1.0)
    config = replace(DEEP, hidden=(64, 48), optimizer="adamw")
    network = model.build(config, 64, 4, "multiclass")
    y = build("multiclass", config)[2]
    given = {"x": x, "y": y, "order": ORDER, "scale": scale, "shift": shift}
    feed = Feed(**{name: gpu.asarray(each) for name, each in given.items()})
    found, wanted = (lower(network, feed, config, 9, "float32", gpu)[0] for _ in range(2))
    wanted.replay = wanted.replay.otherwise
    for each in (found, wanted):
        each.run(20)
    assert found.loss == pytest.approx(wanted.loss, rel=1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [64, 1000])
@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adamw", "bias": True, "activation": "gelu"}]
)
def test_the_lecture_on_a_gpu(gpu: Any, changes: dict[str, Any], rows: int) -> None:
    """In float32: 1e-5 over the first steps; a launch of thousands stays with the list."""
    gpu.precision = "fp32"
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((rows, n)).astype(np.float32) for n in (1000, 10))
    order = rng.permutation(rows).astype(np.int32)
    feed = Feed(*map(gpu.asarray, (x, y)), order=gpu.asarray(order))
    config = replace(LECTURE, **changes)
    network = model.build(config, 1000, 10, "regression")
    (found, _), (wanted, _) = (lower(network, feed, config, 64, "float32", gpu) for _ in range(2))
    assert isinstance(found.replay.form, Resident)
    wanted.replay = wanted.replay.otherwise
    for steps, rtol in ((1, 1e-5), (9, 1e-5), (90, 1e-4), (3000, 1e-2)):
        for each in (found, wanted):
            each.run(steps)
        assert found.fault == wanted.fault == 0
        assert found.step == wanted.step
        assert found.loss == pytest.approx(wanted.loss, rel=rtol)
