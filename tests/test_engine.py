"""Lowering: the launch list computes what the graph computes, in memory that is planned."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet import engine, model, optim
from gpunet.config import Config
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.gates import ACTIVATIONS
from gpunet.kernels.slots import FAULT, SCALE, VALID
from gpunet.launches import ALIGNMENT, Feed, Launch, LaunchList, Slot, Store, plan
from gpunet.model import TASK_LOSSES, Network

CPU = Cpu("numpy")
ROWS, COLUMNS, OUTPUTS = 23, 7, 4
BASE = Config(hidden=(9, 6), init="he", loss="softmax_cross_entropy", lr=0.1, optimizer="sgd")
ORDER = np.random.default_rng(5).permutation(ROWS).astype(np.int32)
GRAPHS = [
    *(("multiclass", replace(BASE, activation=name)) for name in ACTIVATIONS),
    ("multiclass", replace(BASE, activation="x*sigmoid(1.702*x)")),
    ("multiclass", replace(BASE, activation="maximum(x, 0.1*x)", bias=False)),
    ("multiclass", replace(BASE, norm="layer")),
    ("multiclass", replace(BASE, norm="batch")),
    ("multiclass", replace(BASE, hidden=())),
    ("multiclass", replace(BASE, label_smoothing=0.1)),
    ("multiclass", replace(BASE, dropout=0.3)),
    ("multiclass", replace(BASE, parametric=True, activation="selu", bias=False)),
    ("regression", replace(BASE, loss="huber", input_scale=True, parametric=True)),
    *((task, replace(BASE, loss=names[0], weight="w")) for task, names in TASK_LOSSES.items()),
    ("regression", replace(BASE, loss="sum_squares", weight="w")),
    ("regression", replace(BASE, loss="pinball", quantiles=(0.1, 0.8), weight="w")),
    ("binary", replace(BASE, loss="mean(softplus(pred) - target*pred)", weight="w")),
    *((task, replace(BASE, loss=name)) for task, names in TASK_LOSSES.items() for name in names),
    ("regression", replace(BASE, loss="sqrt(1 + (pred - target)**2) - 1")),
    ("regression", replace(BASE, loss="sum(abs(pred - target)**1.5)")),
    ("binary", replace(BASE, loss="mean(softplus(pred) - target*pred)")),
]


def label(value: object) -> str:
    if not isinstance(value, Config):
        return str(value)
    changed = {k: v for k, v in vars(value).items() if v != getattr(BASE, k)}
    return ",".join(f"{k}={v}" for k, v in changed.items()) or "base"


def target(task: str, rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(1)
    if task == "multiclass":
        return rng.integers(0, OUTPUTS, rows).astype(np.int32)
    values = rng.standard_normal((rows, 1 if task == "binary" else OUTPUTS))
    return values if task == "regression" else (values > 0).astype(np.float64)


def build(task: str, config: Config) -> tuple[Network, np.ndarray, np.ndarray]:
    network = model.build(config, COLUMNS, 1 if task == "binary" else OUTPUTS, task)
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
    return network, x, target(task)


def weights(config: Config, dtype: str = "float64") -> np.ndarray | None:
    """Weights of rows for a config that has them, some of them 0."""
    drawn = np.random.default_rng(2).choice([0.0, 0.5, 2.0], ROWS).astype(dtype)
    return drawn if config.is_weighted else None


def lower(
    network: Network,
    feed: Feed,
    config: Config,
    batch: int,
    dtype: str = "float64",
    device: Device = CPU,
    micro_batch: int | None = None,
) -> tuple[LaunchList, Store]:
    optimizer = optim.optimizer(config.optimizer, config.momentum, config.betas)
    store = engine.store(network, device, dtype, optimizer.slots)
    launches = engine.lower(
        network,
        feed,
        store,
        batch,
        "train",
        optimizer=optimizer,
        schedule=np.array([[float(config.lr), config.weight_decay, 1.0]]),
        clip_norm=config.clip_norm,
        micro_batch=micro_batch,
    )
    launches.rewind()
    return launches, store


def lowered(
    device: Device,
    task: str,
    config: Config,
    dtype: str = "float64",
    batch: int = 9,
    *,
    micro_batch: int | None = None,
    **changes: Any,
) -> tuple[LaunchList, Store]:
    """The list of steps over rows in an order of their own; `changes`: fields of the feed."""
    network, x, y = build(task, config)
    y, weight = y if y.ndim == 1 else y.astype(dtype), weights(config, dtype)
    fields = {"x": x.astype(dtype), "y": y, "order": ORDER, "weight": weight, **changes}
    given = {name: None if a is None else device.asarray(a) for name, a in fields.items()}
    return lower(network, Feed(**given), config, batch, dtype, device, micro_batch)


@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_the_list_gives_the_graphs_loss_and_gradients(task: str, config: Config) -> None:
    network, x, y = build(task, config)
    weight = weights(config)
    launches, store = lower(network, Feed(x, y, weight=weight), config, ROWS)
    launches.run()
    for node in network.graph.nodes:
        if hasattr(node.gate, "step"):
            node.gate.step = launches.step
    given = {"x": x, "target": y} | ({"weight": weight} if config.is_weighted else {})
    loss = network.graph.forward(given)
    grads = network.graph.backward()
    assert float(launches.totals[0]) == pytest.approx(float(loss), rel=1e-12)
    for name, (where, shape) in store.views.items():
        found = store.gradient[where].reshape(shape)
        np.testing.assert_allclose(found, grads[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_depth_is_no_limit() -> None:
    config = replace(BASE, hidden=(2,) * 300, dropout=0.1)
    network, x, y = build("multiclass", config)
    launches, _ = lower(network, Feed(x, y), config, ROWS)
    launches.run()
    assert np.isfinite(launches.totals[0])


@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_a_short_batch_is_as_if_the_other_rows_were_not_there(task: str, config: Config) -> None:
    network, x, y = build(task, replace(config, dropout=0.0))
    feed = Feed(x, y, weight=weights(config))
    alone, store_alone = lower(network, feed, config, ROWS)
    padded, store_padded = lower(network, feed, config, ROWS + 5)
    alone.run()
    padded.run()
    assert int(padded.clock[VALID]) == ROWS
    np.testing.assert_allclose(padded.totals, alone.totals, rtol=1e-12)
    np.testing.assert_allclose(store_padded.gradient, store_alone.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_slots_never_overlap_while_alive_and_are_written_before_they_are_read(
    task: str, config: Config
) -> None:
    network, x, y = build(task, replace(config, optimizer="adamw", clip_norm=1.0))
    feed = Feed(x, y, order=np.arange(ROWS, dtype=np.int32), weight=weights(config))
    launches, _ = lower(network, feed, replace(config, optimizer="adamw", clip_norm=1.0), 8)
    check_plan(launches.launches, launches.arena_bytes)


def check_plan(launches: list[Launch], size: int) -> None:
    spans: dict[Slot, tuple[int, int]] = {}
    written: set[Slot] = set()
    for i, launch in enumerate(launches):
        for slot in launch.reads:
            inside = slot.array is not None and slot.array.base is not None
            assert slot in written or not is_planned(slot), f"{launch.name} reads {slot.name}"
            assert inside or not is_planned(slot)
        written |= set(launch.writes)
        for slot in launch.slots:
            if is_planned(slot):
                spans[slot] = (spans.get(slot, (i - launch.follows, i))[0], i)
    places = {slot: (address(slot), address(slot) + slot.nbytes) for slot in spans}
    for a in spans:
        for b in spans:
            alive = spans[a][0] <= spans[b][1] and spans[b][0] <= spans[a][1]
            if a is not b and alive:
                assert places[a][1] <= places[b][0] or places[b][1] <= places[a][0], (a, b)
    if places:
        low = min(start for start, _ in places.values())
        assert max(end for _, end in places.values()) - low <= size
    check_order(launches)


def check_order(launches: list[Launch]) -> None:
    """Launches that share memory which one of them writes run one behind the other, by the order of
    a branch or by what it waits for; the other branch leaves the main one and is back at the end.
    """
    before: list[set[int]] = []
    for i, launch in enumerate(launches):
        follows = [j for j in range(i) if launches[j].branch == launch.branch][-1:]
        if launch.waits:
            follows.append(i - launch.waits)
            assert launches[follows[-1]].branch != launch.branch
        assert i == 0 or follows
        before.append(set(follows).union(*(before[j] for j in follows)))
    assert {launches[0].branch, launches[-1].branch} == {0}
    assert len(before[-1]) == len(launches) - 1
    for j, launch in enumerate(launches):
        for i in set(range(j)) - before[j]:
            assert not share(launch, launches[i]), (launches[i].name, launch.name)


def share(one: Launch, other: Launch) -> bool:
    """Whether one writes what the other reads or writes."""
    pairs = [(a, b) for a in one.slots for b in other.slots if a in one.writes or b in other.writes]
    return any(
        address(a) < address(b) + b.nbytes and address(b) < address(a) + a.nbytes for a, b in pairs
    )


def address(slot: Slot) -> int:
    return int(slot.array.__array_interface__["data"][0])


def is_planned(slot: Slot) -> bool:
    """Whether a slot lies in the arena: its array is a view of bytes."""
    base = slot.array
    while base.base is not None:
        base = base.base
    return base.dtype == np.uint8


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5000)), min_size=1))
def test_any_plan_is_free_of_overlaps(wanted: list[tuple[int, int, int]]) -> None:
    slots = [Slot(f"s{i}", (size,), "uint8") for i, (_, _, size) in enumerate(wanted)]
    launches = []
    for step in range(10):
        alive = tuple(
            slot
            for slot, (a, b, _) in zip(slots, wanted, strict=True)
            if step in (min(a, b), max(a, b))
        )
        launches.append(Launch("x", alive, alive, lambda *_: lambda: None))
    places, size = plan(launches)
    arena = np.zeros(max(1, size), np.uint8)
    for slot, offset in places.items():
        slot.array = arena[offset : offset + slot.nbytes]
        assert offset % ALIGNMENT == 0
    check_plan(launches, size)


def test_a_plan_reuses_memory() -> None:
    network, x, y = build("multiclass", replace(BASE, hidden=(64,) * 6))
    launches, _ = lower(network, Feed(x, y), BASE, ROWS)
    slots = {slot for launch in launches.launches for slot in launch.slots if is_planned(slot)}
    assert launches.arena_bytes < 0.8 * sum(slot.nbytes for slot in slots)


def test_a_step_allocates_no_array() -> None:
    config = replace(BASE, hidden=(256, 128), optimizer="adamw")
    rows, columns = 460, 300
    network = model.build(config, columns, OUTPUTS, "multiclass")
    x = np.random.default_rng(0).integers(0, 256, (rows, columns)).astype(np.uint8)
    scale, order = np.full(columns, 1 / 255), np.arange(rows, dtype=np.int32)
    feed = Feed(x, target("multiclass", rows), scale, -scale, order)
    launches, _ = lower(network, feed, config, rows, "float32")
    peak = peak_of_a_step(launches)
    numbers_a_row = peak / (4 * rows)
    assert numbers_a_row < 32, f"{peak:,} bytes"


def peak_of_a_step(launches: LaunchList) -> int:
    """Bytes that a step takes, at most, after two others."""
    launches.run(2)
    launches.rewind()
    tracemalloc.start()
    try:
        launches.run()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        launches.rewind()
        launches.run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def test_evaluation_is_the_graphs_and_leaves_weights_alone() -> None:
    config = replace(BASE, norm="batch", dropout=0.5)
    network, x, y = build("multiclass", config)
    store = engine.store(network, CPU, "float64")
    before = store.values.copy()
    raw, loss = engine.lower(network, Feed(x, y), store, 8, "evaluate").evaluate()
    for node in network.graph.nodes:
        if node.gate is not None:
            node.gate.training = False
    expected = network.graph.forward(x=x, target=y)
    assert loss == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(raw, network.prediction.value, rtol=1e-12)
    assert (store.values == before).all()
    assert (store.statistics["hidden1.norm.running_mean"] == 0).all()


def test_bytes_are_scaled_on_the_way_in() -> None:
    network, _, y = build("multiclass", BASE)
    x = np.random.default_rng(3).integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)
    scale, shift = np.full(COLUMNS, 1 / 255), np.arange(COLUMNS) / 10
    store = engine.store(network, CPU, "float64")
    fed = engine.lower(network, Feed(x, y, scale, shift), store, 10, "evaluate").evaluate()
    plain = engine.lower(network, Feed(x * scale + shift, y), store, 10, "evaluate").evaluate()
    np.testing.assert_allclose(fed[0], plain[0], rtol=1e-12)


def test_weight_decay_is_for_matrices_alone() -> None:
    network, x, y = build("multiclass", BASE)
    config = replace(BASE, optimizer="adamw", weight_decay=0.5, lr=1e-12)
    launches, store = lower(network, Feed(x, y), config, ROWS)
    decays = dict(zip(store.starts.tolist(), store.decays.tolist(), strict=False))
    first_bias = min(at.start for at, shape in store.views.values() if len(shape) == 1)
    assert decays == {0: 1.0, first_bias: 0.0}
    launches.run()


def test_clipping_keeps_the_norm() -> None:
    network, x, y = build("regression", replace(BASE, loss="sum_squares"))
    config = replace(BASE, loss="sum_squares", clip_norm=0.5, lr=1.0, weight_decay=0.0)
    launches, store = lower(network, Feed(x, y), config, ROWS)
    before = store.values.copy()
    launches.run()
    assert np.linalg.norm(store.values - before) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_moves_after_a_non_finite_loss(bad: float) -> None:
    network, x, y = build("regression", replace(BASE, loss="mean_squared"))
    x[3, 2] = bad
    config = replace(BASE, loss="mean_squared")
    launches, store = lower(network, Feed(x, y), config, ROWS)
    before = store.values.copy()
    launches.run(3)
    assert launches.fault & 1
    assert launches.step == 1
    assert (store.values == before).all()


def test_the_plateau_scale_multiplies_the_rate() -> None:
    network, x, y = build("multiclass", BASE)
    launches, store = lower(network, Feed(x, y), replace(BASE, weight_decay=0.0), ROWS)
    launches.hyper[SCALE] = 0.0
    before = store.values.copy()
    launches.run()
    assert (store.values == before).all()
    assert int(launches.clock[FAULT]) == 0
