"""gpunet's CUDA device over stand-ins for CuPy and cuBLASLt: graphs, products, precision."""

import gc
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from fakecuda import FakeGraph, opened
from runs import SETTINGS, begin, follow, results
from test_engine import (
    BASE,
    CPU,
    GRAPHS,
    OUTPUTS,
    ROWS,
    build,
    check_plan,
    label,
    lower,
    lowered,
)
from test_engine_cuda import agree

import gpunet
from gpunet import engine, fusion, job, loop, memory, model, rerun, view
from gpunet.config import Config
from gpunet.data import Dataset
from gpunet.data.windows import windows
from gpunet.device import Turn, cublaslt, cuda, resolve
from gpunet.device import _opened as opened_gpus
from gpunet.device.cuda import Cuda
from gpunet.device.replay import LONG
from gpunet.errors import OutOfMemory
from gpunet.gates import ACTIVATIONS
from gpunet.kernels.narrow import nearest, widened
from gpunet.kernels.slots import FAULT, STEP
from gpunet.launches import Feed, Launch, LaunchList, Slot, Store
from gpunet.optim import OPTIMIZERS
from gpunet.predict import MODEL_FILE
from gpunet.run import METRICS

WIDE = replace(BASE, hidden=(16, 8), lr=1e-2)
EPILOGUES = {2, 4, 6, 32, 36}


@pytest.fixture
def device() -> Iterator[Cuda]:
    with opened() as found:
        yield found


def step_list(
    device: Any, config: Config, task: str = "multiclass", dtype: str = "float64", batch: int = 9
) -> tuple[LaunchList, Store]:
    return lowered(device, task, config, dtype, batch)


@pytest.mark.parametrize("refused", [set(), {4}, EPILOGUES], ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid"])
def test_epilogues_change_no_result(activation: str, refused: set[int]) -> None:
    with opened(refused) as device:
        agree("multiclass", replace(WIDE, activation=activation), device, "float64", 1e-9)
        used = set(device.lt.calls)
    wanted = {4, 6} if activation == "relu" else {4}  # gelu keeps what it was given
    assert used - {1} == wanted - refused


@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_replayed_graphs_are_numpys(device: Cuda, task: str, config: Config) -> None:
    agree(task, config, device, "float64", 1e-9)
    assert graphs(device)


def graphs(device: Cuda) -> list[int]:
    """Nodes of every graph that was launched."""
    return [entry[1] for entry in device.cupy.stream.log if isinstance(entry, tuple)]


def test_many_steps_are_launches_of_few_graphs(device: Cuda) -> None:
    launches, _ = step_list(device, WIDE)
    launches.run()
    assert graphs(device) == []
    log, many = device.cupy.stream.log, launches.replay.many
    nodes = len(log) - 1  # the last is the copy of the scalars
    log.clear()
    launches.run(2 * many + 11)
    assert graphs(device) == [size * nodes for size in (many, many, 8, 2, 1)]
    assert log[-1] == "copy"
    assert len(log) == 5 + 1
    assert launches.step == 2 * many + 12


def test_the_host_touches_no_scalar_within_a_run(device: Cuda) -> None:
    launches, _ = step_list(device, WIDE)
    launches.run(2)
    for name in ("clock", "hyper", "totals"):  # kernels have arrays of their own of this memory
        view = getattr(launches, name).view()
        view.flags.writeable = False
        setattr(launches, name, view)
    done = launches.step
    launches.run(launches.replay.many + 1)
    assert launches.step == done + launches.replay.many + 1


def test_the_host_sees_step_loss_and_fault_when_a_run_is_over(device: Cuda) -> None:
    launches, _ = step_list(device, WIDE)
    launches.run(5)
    assert launches.seen is not launches.clock
    assert int(launches.seen[STEP]) == 5
    assert launches.loss == float(launches.totals[0])
    launches.clock[FAULT] = 4
    assert launches.fault == 0
    launches.run()
    assert launches.fault == 4


def test_what_cannot_be_captured_runs_launch_by_launch_and_says_why_once(device: Cuda) -> None:
    device.cupy.broken = "adamw"
    config = replace(WIDE, optimizer="adamw")
    launches, store = step_list(device, config)
    with pytest.warns(RuntimeWarning, match="adamw cannot be captured"):
        launches.run(5)
    assert launches.replay.is_forked is False  # else whoever waits for the choice would for good
    launches.run(40)  # a second warning would be an error
    assert device.cupy.capture is None
    assert launches.runs_on == "CUDA, launch by launch"
    expected, plain = step_list(CPU, config)
    expected.run(45)
    for name, value in plain.weights().items():
        np.testing.assert_allclose(store.weights()[name], value, rtol=1e-9, atol=1e-12)


def test_without_cublaslt_cupys_products_are_used_and_the_reason_is_told() -> None:
    with opened(without_blas=True) as device:
        launches, _ = step_list(device, WIDE)
        with pytest.warns(RuntimeWarning, match="no cuBLASLt: it is not there"):
            launches.run(3)
        assert launches.replay.is_forked is False
        assert graphs(device) == []
        assert launches.step == 3


def test_evaluation_is_captured_from_its_second_batch_on(device: Cuda) -> None:
    network, x, y = build("multiclass", WIDE)
    feed = Feed(device.asarray(x), device.asarray(y))
    store = engine.store(network, device, "float64")
    found = engine.lower(network, feed, store, 4, "evaluate").evaluate()
    assert len(graphs(device)) == -(-ROWS // 4) - 1
    plain = engine.store(network, CPU, "float64")
    wanted = engine.lower(network, Feed(x, y), plain, 4, "evaluate").evaluate()
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
    assert found[1] == pytest.approx(wanted[1])


# Two branches


def forked(device: Cuda) -> list[bool]:
    """Of every graph that was launched, whether it has two branches."""
    return [graph.is_forked for graph in device.cupy.launched]


def after(
    device: Cuda, task: str, config: Config, is_forked: bool | None, micro_batch: int | None
) -> dict[str, bytes]:
    """All that some steps leave behind: a few of many steps, and a few of one."""
    dtype = "float32" if device.precision == "bf16" else "float64"
    launches, store = lowered(device, task, config, dtype, micro_batch=micro_batch)
    launches.replay.many = 4
    if is_forked is not None:
        launches.replay.is_forked = is_forked
    device.cupy.launched.clear()
    for steps in (1, 4 * 4 + 3, 1):
        launches.run(steps)
    assert set(forked(device)) == ({is_forked} if is_forked is not None else {False, True})
    arrays = {"values": store.values, "gradient": store.gradient, **store.statistics}
    arrays |= {f"state{i}": each for i, each in enumerate(store.state)}
    arrays |= {name: getattr(launches, name) for name in ("clock", "hyper", "totals")}
    return {name: device.to_host(each).tobytes() for name, each in arrays.items()}


MANY = replace(WIDE, dropout=0.3, clip_norm=0.5, weight_decay=0.1)
FORKED = [
    *((task, config, "fp64", None) for task, config in GRAPHS),
    *(("multiclass", replace(MANY, optimizer=name), "fp64", None) for name in OPTIMIZERS),
    *(("multiclass", replace(MANY, activation=name), "bf16", None) for name in ("relu", "gelu")),
    *(("multiclass", replace(MANY, optimizer="adamw"), each, 4) for each in ("fp64", "bf16")),
    ("multiclass", replace(WIDE, norm="batch"), "bf16", None),
    ("multiclass", replace(WIDE, hidden=(16,) * 6), "fp64", None),
]


@pytest.mark.parametrize(("task", "config", "precision", "micro_batch"), FORKED, ids=label)
def test_two_branches_give_the_bits_of_one(
    device: Cuda, task: str, config: Config, precision: str, micro_batch: int | None
) -> None:
    """Whether the launches of the other are early or late, and while it is not known which is
    quicker."""
    device.precision = precision
    wanted = after(device, task, config, False, micro_batch)
    for is_forked, device.cupy.is_late in ((True, False), (True, True), (None, True)):
        assert after(device, task, config, is_forked, micro_batch) == wanted


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weights_that_move_early_give_the_bits_of_others(
    device: Cuda, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    device.precision = precision
    config = replace(WIDE, hidden=(16, 24, 16), optimizer=name, dropout=0.3, weight_decay=0.1)
    wanted = named_after(device, config)
    monkeypatch.setattr(engine, "LEAST_EARLY", 64)
    for device.cupy.is_late in (False, True):
        assert named_after(device, config, moves=3) == wanted


def named_after(device: Cuda, config: Config, moves: int = 0) -> dict[str, bytes]:
    """Weights and state after some steps in two branches, by name; `moves` are early."""
    dtype = "float32" if device.precision == "bf16" else "float64"
    launches, store = step_list(device, config, dtype=dtype)
    assert len(store.early) == moves
    launches.replay.is_forked = True
    launches.run(20)
    assert launches.replay.is_forked
    vectors = {"values": store.values, **dict(enumerate(store.state))}
    found = {f"{v}.{n}": a for v, each in vectors.items() for n, a in store.named(each).items()}
    found |= {"clock": launches.clock, "totals": launches.totals}
    return {name: device.to_host(each).tobytes() for name, each in found.items()}


def test_the_stand_in_tells_a_missing_wait(device: Cuda) -> None:
    """Each wait of a step, left out, is an error or another result, late or early."""
    turns = step_list(device, WIDE)[0].replay.fork.turns
    waiting = [i for i, turn in enumerate(turns) if turn.waits >= 0]
    assert len(waiting) > 3
    wanted = left_by(device, turns)
    assert len(wanted) == 1
    for i in waiting:
        without = [*turns[:i], turns[i]._replace(waits=-1), *turns[i + 1 :]]
        assert left_by(device, without) != wanted, i
        assert device.cupy.capture is None


def left_by(device: Cuda, turns: list[Turn]) -> set[bytes | None]:
    """The weights after some steps in such turns, late and early; None where they are refused."""
    found: set[bytes | None] = set()
    for device.cupy.is_late in (False, True):
        launches, store = step_list(device, WIDE)
        replay = launches.replay
        replay.fork, replay.is_forked = replace(replay.fork, turns=turns), True
        launches.run(21)
        found.add(store.values.tobytes() if replay.is_forked else None)
    return found


class Stopwatch:
    """A clock that stands still, but for graphs: seconds of those with one branch and with two."""

    def __init__(self, device: Cuda, *seconds: list[float]) -> None:
        self.launched, self.now, self.seen = device.cupy.launched, 0.0, 0
        self.seconds = [iter(each) for each in seconds]

    def __call__(self) -> float:
        for graph in self.launched[self.seen :]:
            self.now += next(self.seconds[graph.is_forked])
        self.seen = len(self.launched)
        return self.now


@pytest.mark.parametrize(
    ("one", "two", "wins"),
    [
        ([9, 5.0, 5.0, 5.0], [90, 4.8, 4.8, 4.8], True),
        ([9, 5.0, 5.0, 5.0], [0.1, 4.95, 4.95, 4.95], False),
        ([9, 5.0, 5.0, 5.0], [0.1, 6.0, 6.0, 6.0], False),
        ([9, 5.0, 50, 4.9], [9, 4.0, 70, 4.0], True),
    ],
)
@pytest.mark.parametrize("size", [32, 8])
def test_the_quicker_way_stays(
    device: Cuda,
    monkeypatch: pytest.MonkeyPatch,
    one: list[float],
    two: list[float],
    wins: bool,
    size: int,
) -> None:
    """Of graphs of eight steps and more, those that there are many of."""
    launches, _ = step_list(device, WIDE)
    replay, launched = launches.replay, device.cupy.launched
    more = [0.0] * 100
    monkeypatch.setattr(
        "gpunet.device.replay.perf_counter", Stopwatch(device, one + more, two + more)
    )
    launches.run(1)
    for _ in range(7):
        launches.run(size)
    assert replay.is_forked is None
    assert forked(device) == [False, True] * 3 + [False]
    assert launches.runs_on == "CUDA graphs"
    launches.run(size)
    assert replay.is_forked is wins
    launched.clear()
    launches.run(size + 4)
    assert forked(device) == [wins] * 2
    assert sorted(replay.graphs) == [4, size]
    assert not replay.rivals
    assert launches.runs_on == ("CUDA graphs, two branches" if wins else "CUDA graphs")
    assert launches.step == 1 + 8 * size + size + 4


def test_graphs_of_each_size_are_compared_among_themselves(
    device: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches, _ = step_list(device, WIDE)
    replay = launches.replay
    assert replay.many == 32
    clock = Stopwatch(device, [9.0, 3.0, 3.0, 3.0, 0.1, 0.1], [9.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr("gpunet.device.replay.perf_counter", clock)
    launches.run(1)
    for _ in range(7):
        launches.run(16)
    launches.run(32 + 8)
    assert replay.is_forked is None
    launches.run(16)
    assert replay.is_forked is True
    assert sorted(replay.graphs) == [16]


def test_a_graph_of_few_long_steps_is_tried_too(
    device: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one of few short steps is not, once that is known."""
    launches, _ = step_list(device, WIDE)
    short, long = 0.9 * LONG, 1.1 * LONG
    clock = Stopwatch(device, [short, *[long] * 4, short], [long / 2] * 4)
    monkeypatch.setattr("gpunet.device.replay.perf_counter", clock)
    launches.run(2)
    for _ in range(7):
        launches.run(4)
    launches.run(1)
    assert launches.replay.is_forked is None
    assert forked(device) == [False] + [False, True] * 3 + [False] * 2
    launches.run(4)
    assert launches.replay.is_forked is True


def test_graphs_in_two_branches_heed_priorities_and_are_destroyed(device: Cuda) -> None:
    launches, _ = step_list(device, WIDE)
    launches.replay.is_forked = True
    launches.run(32 + 8)
    assert len(device.cupy.ready) == len(launches.replay.graphs) > 1
    launches.replay.graphs.clear()
    gc.collect()
    assert not device.cupy.ready


@pytest.mark.parametrize("fails", ["capture", "end", "memory", "launch", "smaller"])
def test_where_two_branches_fail_one_goes_on(
    device: Cuda, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Without a word, and without a step lost; a warning would be an error."""

    def refuse(*given: Any) -> None:
        raise RuntimeError("it does not work")

    if fails == "memory":
        monkeypatch.setattr(device, "_beside", refuse)
    config = replace(WIDE, optimizer="adamw")
    launches, store = step_list(device, config)
    replay, cupy = launches.replay, device.cupy
    if fails == "capture":
        monkeypatch.setattr("fakecuda.FakeStream.wait_event", refuse)
    elif fails == "end":
        turns = [
            turn._replace(waits=max(turn.waits, 0) if turn.branch else -1)
            for turn in replay.fork.turns
        ]
        replay.fork = replace(replay.fork, turns=turns)
    elif fails == "launch":
        monkeypatch.setattr(
            "fakecuda.FakeGraph.launch",
            lambda graph, stream, real=FakeGraph.launch: (
                refuse() if graph.is_forked else real(graph, stream)
            ),
        )
    elif fails == "smaller":
        replay.is_forked = True
        launches.run(1 + replay.many)
        monkeypatch.setattr("fakecuda.FakeStream.wait_event", refuse)
    steps = replay.many
    launches.run(1 + 12 * steps + 3)
    assert replay.is_forked is False
    assert cupy.capture is None
    assert launches.runs_on.startswith("CUDA graphs; two branches failed: RuntimeError: ")
    assert not replay.rivals
    expected, plain = step_list(CPU, config)
    expected.run(launches.step)
    assert launches.step == (1 + steps) * (fails == "smaller") + 1 + 12 * steps + 3
    for name, value in plain.weights().items():
        np.testing.assert_allclose(store.weights()[name], value, rtol=1e-9, atol=1e-12)


def test_a_list_without_another_branch_never_tries(device: Cuda) -> None:
    network, x, y = build("regression", replace(WIDE, loss="mean_squared", hidden=()))
    feed = Feed(device.asarray(x[:4]), device.asarray(y[:4]))
    launches = engine.lower(network, feed, engine.store(network, device, "float64"), 4, "evaluate")
    assert {each.branch for each in launches.launches} == {0}
    launches.run(1 + 9 * launches.replay.many)
    assert not any(forked(device))
    assert len(device.cupy.streams) == 1
    calls = [lambda: None]
    assert device.replay(calls).is_forked is False


def test_the_second_workspace_is_taken_before_anything_runs(
    device: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is all memory: a run takes none, whatever it tries."""
    launches, _ = step_list(device, WIDE)
    other, _ = step_list(device, WIDE)
    monkeypatch.setattr(device.cupy, "empty", lambda shape, dtype: pytest.fail("it allocates"))
    for each in (launches, other):
        each.run(1 + 12 * each.replay.many)
        assert each.replay.tried
    assert sorted(device.lt.workspaces.values()) == sorted(device.cupy.streams)
    assert len(device.lt.workspaces) == 2


def test_an_activation_joins_a_product_of_its_own_branch(device: Cuda) -> None:
    launches, _ = step_list(device, WIDE)
    found = [replace(each, branch=0, waits=0) for each in launches.launches]
    at = [each.name for each in found].index("gemm")
    calls, turns = fusion.bound(found, device)
    assert set(turns) == {Turn()}
    assert len(calls) == len(turns) < len(found)
    found[at] = replace(found[at], branch=1, waits=at)
    found[at + 1] = replace(found[at + 1], branch=1, waits=1 + at - 1)
    one, turns = fusion.bound(found, device)
    assert len(one) == len(calls)
    assert turns[at] == Turn(1, 1)
    found[at + 1] = replace(found[at + 1], branch=0, waits=1)
    apart, turns = fusion.bound(found, device)
    assert len(apart) == len(calls) + 1
    assert turns[at : at + 2] == [Turn(1, 0), Turn(0, at)]


# Threads


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """A thread beside this one; each opens a GPU of its own."""
    opened_gpus.cache_clear()
    with ThreadPoolExecutor(1) as found:
        yield found
    opened_gpus.cache_clear()


def hooked(launches: LaunchList, device: Cuda, call: Callable[[], Any]) -> None:
    """Have `call` made within each capture of a list."""
    first, *rest = launches.replay.calls

    def meanwhile() -> None:
        first()
        if device.cupy.capture is not None:
            call()

    launches.replay.calls = (meanwhile, *rest)


def test_a_thread_works_while_another_captures(device: Cuda, pool: ThreadPoolExecutor) -> None:
    """On a device of its own: no step of one is in a graph of the other."""

    def listed() -> tuple[LaunchList, Store]:
        return step_list(resolve("cuda").device, WIDE)

    (mine, store), (plain, undisturbed), (other, _) = (
        listed(),
        listed(),
        pool.submit(listed).result(),
    )
    assert mine.device is plain.device is resolve("cuda").device
    assert other.device is not mine.device
    losses = []

    def step() -> None:
        other.run()
        losses.append(other.loss)

    hooked(mine, device, lambda: losses or pool.submit(step).result(60))
    for each in (mine, plain):
        each.run(20)
        assert each.runs_on == "CUDA graphs"
    assert (mine.step, plain.step, other.step) == (20, 20, 1)
    assert losses == [float(other.totals[0])]
    assert store.values.tobytes() == undisturbed.values.tobytes()


def test_nobody_waits_for_a_whole_gpu_that_captures(device: Cuda, pool: ThreadPoolExecutor) -> None:
    """As for arrays of other streams: the captures would be lost."""

    class Foreign(np.ndarray):
        __cuda_array_interface__: Any = None

    launches, _ = step_list(device, WIDE)
    asked: list[Future[Any]] = []

    def ask() -> None:
        asked.append(pool.submit(device.asarray, np.arange(3).view(Foreign)))
        with pytest.raises(TimeoutError):
            asked[0].result(0.02)

    hooked(launches, device, lambda: asked or ask())
    launches.run(2)
    assert asked[0].result(60).tolist() == [0, 1, 2]
    assert launches.runs_on == "CUDA graphs"


def test_what_the_caller_has_under_way_comes_first(device: Cuda) -> None:
    theirs = device.cupy.cuda.Stream(non_blocking=True)
    theirs.__enter__()
    for _ in range(2):
        device.use()
    assert device.cupy.current is device.stream
    assert device.stream.waited == [device.cupy.null, theirs]


# An activation and the dropout beside it


def apart(first: Launch, then: Launch, *given: Any, joined: Any = fusion._joined) -> Any:
    """Dropout as a launch of its own."""
    return None if "dropout" in (first.name, then.name) else joined(first, then, *given)


DROPPED = [
    *(("multiclass", replace(MANY, activation=name), "fp64", None) for name in ACTIVATIONS),
    *(("multiclass", replace(MANY, activation=name), "bf16", 4) for name in ("relu", "gelu")),
    ("multiclass", replace(MANY, parametric=True, activation="selu"), "bf16", None),
    ("multiclass", replace(MANY, parametric=True, activation="selu", bias=False), "fp64", 4),
    ("multiclass", replace(MANY, activation="x*sigmoid(1.702*x)", hidden=(33, 17)), "fp64", 4),
    ("regression", replace(MANY, loss="huber", parametric=True, dropout=0.9), "fp64", 5),
]


@pytest.mark.parametrize(("task", "config", "precision", "micro_batch"), DROPPED, ids=label)
def test_dropout_beside_an_activation_gives_the_bits_of_two_launches(
    device: Cuda,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
    config: Config,
    precision: str,
    micro_batch: int | None,
) -> None:
    """And none is launched alone, but behind an activation that a product does."""
    device.precision = precision
    log = device.cupy.stream.log
    found = [after(device, task, config, is_forked, micro_batch) for is_forked in (False, True)]
    assert ("dropout" in log) is (config.activation == "relu" and not config.parametric)
    log.clear()
    monkeypatch.setattr(fusion, "_joined", apart)
    assert [after(device, task, config, False, micro_batch)] * 2 == found
    assert "dropout" in log


def dropping(device: Cuda, **changes: Any) -> tuple[list[Launch], list[tuple[Any, ...]]]:
    """A list of one branch, and with what arguments activations take dropout along."""
    launches, _ = step_list(device, replace(WIDE, dropout=0.3, hidden=(16,), **changes))
    taken: list[tuple[Any, ...]] = []

    def take(*given: Any) -> Callable[[], None]:
        taken.append(given)
        return lambda: None

    found = [replace(each, branch=0, waits=0) for each in launches.launches]
    return [replace(each, dropped=each.dropped and take) for each in found], taken


@pytest.mark.parametrize(
    ("activation", "parametric", "is_kept"),
    [("tanh", True, False), ("tanh", False, True), ("gelu", False, True)],
)
def test_a_value_is_written_where_others_read_it(
    device: Cuda, activation: str, parametric: bool, is_kept: bool
) -> None:
    launches, taken = dropping(device, activation=activation, parametric=parametric)
    fusion.bound(launches, device)
    forward = next(each for each in launches if each.name.endswith(f"{activation}_forward"))
    assert len(taken) == 2
    assert (taken[0][-8] is forward.arguments[-2].array) is is_kept
    assert is_kept or taken[0][-8] is None


def test_what_dropout_needs_of_the_launch_beside_it(device: Cuda) -> None:
    launches, taken = dropping(device, activation="tanh")
    ahead, behind = (i for i, each in enumerate(launches) if each.name == "dropout")
    forward, dropout = launches[ahead - 1 : ahead + 1]
    z, _, y, _ = forward.arguments

    def joins(place: int, launch: Launch) -> bool:
        taken.clear()
        fusion.bound([*launches[:place], launch, *launches[place + 1 :]], device)
        return len(taken) == 2

    def with_ends(launch: Launch, first: Slot, last: Slot) -> Launch:
        return replace(launch, arguments=(first, *launch.arguments[1:-1], last), writes=(last,))

    other = Slot("other", y.shape, y.dtype, y.array.copy())
    result = dropout.arguments[-1]
    grad = launches[behind].arguments[0]
    assert joins(ahead, dropout)
    assert joins(ahead, with_ends(dropout, y, other))
    assert not joins(ahead, replace(dropout, branch=1, waits=1))
    assert not joins(ahead, with_ends(dropout, other, result))  # the dropout of something else
    over = Slot("over", y.shape, y.dtype, z.array.reshape(-1)[::-1].reshape(y.shape))
    assert not joins(ahead, with_ends(dropout, y, over))  # where others still read
    assert not joins(behind, replace(launches[behind], branch=1, waits=1))
    assert not joins(behind, with_ends(launches[behind], other, grad))
    assert not joins(behind, with_ends(launches[behind], grad, other))
    assert not joins(behind + 1, replace(launches[behind + 1], writes=(other,)))
    before = [with_ends(dropout, z, z), forward]  # the dropout of what an activation is given
    taken.clear()
    fusion.bound([*launches[: ahead - 1], *before, *launches[ahead + 1 :]], device)
    assert len(taken) == 1
    taken.clear()
    fusion.bound(launches, CPU)
    assert not taken


def test_the_stand_in_is_strict_about_streams(device: Cuda) -> None:
    """As strict as the tests above take it to be."""
    side, event = device.cupy.cuda.Stream(non_blocking=True), device.cupy.cuda.Event(True)
    with side, pytest.raises(AssertionError, match="has not waited"):
        side.submit("alone", lambda: None)
    device.stream.begin_capture()
    with side, pytest.raises(AssertionError, match="has not waited"):
        side.submit("alone", lambda: None)
    device.stream.record(event)
    side.wait_event(event)
    side.submit("beside", lambda: None)
    device.stream.submit("main", lambda: None)
    with pytest.raises(RuntimeError, match="nobody waits for"):
        device.stream.end_capture()
    device.stream.begin_capture()
    with pytest.raises(AssertionError, match="another capture"):
        side.wait_event(event)
    device.stream.end_capture()
    a, b = (device.zeros((2, 2), "float64") for _ in range(2))
    product = device.product(a, a, b)
    with side, pytest.raises(AssertionError):
        product()


# Precision


class Rounding(type(CPU)):
    """NumPy, whose products first round their operands to bfloat16."""

    def product(self, a: Any, b: Any, out: Any, flip_a: bool = False, flip_b: bool = False) -> Any:
        def run() -> None:
            left, right = (widened(nearest(each)) for each in (a, b))
            np.matmul(left.T if flip_a else left, right.T if flip_b else right, out=out)

        return run


BF16 = [
    *(("multiclass", replace(WIDE, optimizer=name)) for name in OPTIMIZERS),
    ("multiclass", replace(WIDE, activation="gelu")),
    ("multiclass", replace(WIDE, norm="batch", dropout=0.3)),
    ("regression", replace(WIDE, loss="huber", input_scale=True, parametric=True)),
]


@pytest.mark.parametrize(("task", "config"), BF16, ids=label)
def test_bf16_rounds_the_operands_of_products_and_little_else(
    device: Cuda, task: str, config: Config
) -> None:
    """Beside them the bias of a product with a ReLU behind it."""
    config = replace(config, clip_norm=0.5, weight_decay=0.1)
    device.precision = "bf16"
    found, store = step_list(device, config, task, "float32")
    wanted, plain = step_list(Rounding("numpy"), config, task, "float32")
    for each in (found, wanted):
        each.run(4)
    assert (store.shadow == nearest(store.values)).all()
    assert store.values.dtype == np.float32
    more = 10 if "relu_narrow_forward" in {each.name for each in found.launches} else 1
    assert found.loss == pytest.approx(float(wanted.totals[0]), rel=more * 1e-4)
    for name, value in plain.weights().items():
        got, atol = store.weights()[name], more * 2e-4
        np.testing.assert_allclose(got, value, rtol=2e-3, atol=atol, err_msg=name)
    operands = {a.dtype for each in found.launches if each.name == "gemm" for a in each.reads}
    assert operands == {"uint16"}


def test_a_loaded_store_has_a_new_shadow(device: Cuda) -> None:
    device.precision = "bf16"
    _, store = step_list(device, WIDE, dtype="float32")
    weights = {name: value + 1 for name, value in store.weights().items()}
    store.load(weights)
    assert (store.shadow == reference.bfloat16(store.values)).all()


def test_bf16_without_cublaslt_is_an_error() -> None:
    with opened(without_blas=True) as device:
        device.precision = "bf16"
        with pytest.raises(cublaslt.Unavailable, match="no products of bfloat16"):
            step_list(device, WIDE, dtype="float32")


def computed(device: Cuda) -> set[int]:
    """The compute types of all products so far."""
    made = device.lt.made.values()
    return {each.arguments[0] for each in made if len(each.arguments) == 2}


@pytest.mark.parametrize(
    ("precision", "dtype", "compute"),
    [("tf32", "float32", 77), ("fp32", "float32", 68), ("bf16", "float32", 68)]
    + [(precision, "float64", 70) for precision in ("fp64", "tf32", "bf16")],
)
def test_precision_is_the_compute_type(
    device: Cuda, precision: str, dtype: str, compute: int
) -> None:
    device.precision = precision
    step_list(device, WIDE, dtype=dtype)
    assert computed(device) == {compute}


def test_deterministic_products_split_no_sum(device: Cuda) -> None:
    step_list(device, WIDE)
    assert all(3 not in wish.attributes for wish in device.lt.searches)
    device.lt.searches.clear()
    device.deterministic = True
    step_list(device, WIDE)
    assert device.lt.searches
    assert all(wish.attributes[3] == 0 for wish in device.lt.searches)


def test_the_same_product_is_searched_for_once(device: Cuda) -> None:
    a, b, out = (device.zeros(shape, "float32") for shape in ((3, 4), (4, 5), (3, 5)))
    device.product(a, b, out)
    device.product(a, b, out)
    assert len(device.lt.searches) == 1
    device.product(out, b, a, flip_b=True)
    assert len(device.lt.searches) == 2


# Memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_slots_of_the_cuda_list_never_overlap_while_alive(
    device: Cuda, task: str, config: Config, precision: str
) -> None:
    device.precision = precision
    config = replace(config, optimizer="adamw", clip_norm=1.0)
    launches, _ = step_list(device, config, task, "float32")
    check_plan(launches.launches, launches.arena_bytes)


def test_every_parameter_is_aligned_for_wide_loads(device: Cuda) -> None:
    device.precision = "bf16"
    _, store = step_list(device, WIDE, dtype="float32")
    for where, _ in store.views.values():
        assert where.start % 128 == 0
    taken = sum(np.prod(shape) for _, shape in store.views.values())
    assert store.values.size >= taken
    assert store.values.size % 128 == 0


# Whole runs


@pytest.fixture
def stand_in(device: Cuda, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """What `--device cuda` finds."""
    facts = dict.fromkeys(("model", "driver", "runtime", "cupy"), "none")
    monkeypatch.setattr(device, "describe", lambda: facts)
    monkeypatch.setattr("gpunet.device._opened", lambda index, thread: device)
    return device


def test_a_plan_marks_what_runs_beside_others(
    stand_in: Cuda, capsys: pytest.CaptureFixture[str]
) -> None:
    launches = job.plan("penguins", {"device": "cuda", "precision": "fp32"}).launches
    beside = [each for each in launches.launches if each.branch]
    view.plan(launches)
    marked = [line for line in capsys.readouterr().out.splitlines() if "∥" in line]
    assert marked.pop().split() == ["∥", str(len(beside)), "launched", "beside", "others"]
    assert [line.split()[1] for line in marked] == [each.name for each in beside]
    found = view.plan_to_json(launches)["launches"]
    for i, each in enumerate(found):
        assert each["waits"] == 0 or found[i - each["waits"]]["branch"] != each["branch"]


@pytest.mark.parametrize("precision", ["fp64", "bf16"])
def test_a_whole_run_is_made_again_to_the_same_bits(
    stand_in: Cuda, precision: str, tmp_path: Path
) -> None:
    settings = {"hidden": (16,), "preset": "plain", "epochs": 3, "precision": precision, "lr": 0.05}
    found = gpunet.train("penguins", device="cuda", out=tmp_path / "run", **settings)
    assert graphs(stand_in)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["runs_on"] == "CUDA graphs"
    assert all(not each.wrong for each in rerun.verify(tmp_path / "run"))
    settings["precision"] = "fp64" if precision == "fp64" else "fp32"
    plain = gpunet.train("penguins", device="cpu", out=tmp_path / "plain", **settings)
    wanted, tolerance = plain.predict("penguins", proba=True), 1e-6 if precision == "fp64" else 0.05
    np.testing.assert_allclose(found.predict("penguins", proba=True), wanted, atol=tolerance)


def test_a_run_is_taken_up_with_what_bf16_needs(stand_in: Cuda, tmp_path: Path) -> None:
    settings = {"hidden": (16,), "preset": "plain", "precision": "bf16", "schedule": "constant"}
    first, out = {"device": "cuda", "epochs": 2}, tmp_path / "run"
    gpunet.train("penguins", out=out, **first, **settings)
    gpunet.resume(out, epochs="+2")
    assert all(not each.wrong for each in rerun.verify(out))


def test_a_run_of_the_cpu_goes_on_with_less_memory_on_another_device(
    stand_in: Cuda, tmp_path: Path
) -> None:
    settings = {"preset": "plain", "batch_size": 200, "precision": "fp32", "activation": "tanh"}
    follow(begin(tmp_path / "run", kernels="native", threads=2, **settings), 3)
    planned = job.plan("penguins", {**SETTINGS, **settings, "device": "cuda"})
    wanted = memory.needs(planned.members, stand_in, "float32")
    stand_in.cupy.free = wanted.total - wanted.step // 3
    assert all(not each.wrong for each in rerun.verify(tmp_path / "run", devices=["cuda"]))
    resumed, notes = rerun.take_up(tmp_path / "run", device="cuda")
    assert resumed.settings.config.micro_batch_size < 200
    assert any("bit for bit" in note for note in notes)
    follow(resumed)
    stand_in.cupy.free = 1000
    with pytest.raises(OutOfMemory, match="free memory, or use --device cpu"):
        rerun.reopen(tmp_path / "run", device="cuda")


# Rows that do not fit


def test_a_mirror_is_sent_from_pinned_memory_on_a_stream_of_its_own(device: Cuda) -> None:
    found = device.mirrored((4, 3), np.float32)
    own, (copies,) = device.cupy.stream, [*device.cupy.streams.values()][1:]
    assert not found.there.any()
    assert not np.may_share_memory(found.here, found.there)
    assert device.cupy.is_pinned(found.here.ctypes.data, found.here.nbytes)
    found.here[...] = np.arange(12).reshape(4, 3)
    own.log.clear()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(found.send, slice(1, 3)).result()
    np.testing.assert_array_equal(found.there, [[0, 0, 0], [3, 4, 5], [6, 7, 8], [0, 0, 0]])
    assert (own.log, copies.log) == ([], ["send"])


def test_mirrors_share_a_stream_and_nothing_is_sent_of_nothing(device: Cuda) -> None:
    for shape in ((4, 3), (4, 0), (0, 3)):
        found = device.mirrored(shape, np.float32)
        found.send(slice(2, 2))
        assert found.here.shape == found.there.shape == shape
        found.send(slice(0, 4))
    own, copies = device.cupy.streams.values()
    assert copies.log == ["send"]
    assert own.ptr != copies.ptr


def test_a_copy_that_nobody_waits_for_does_not_arrive(device: Cuda) -> None:
    """The stand-in is as strict as the test above takes it to be."""
    found, runtime = device.mirrored((4,), np.uint8), device.cupy.cuda.runtime
    found.here[...] = 1
    ends = found.there.ctypes.data, found.here.ctypes.data
    runtime.memcpyAsync(*ends, 4, runtime.memcpyHostToDevice, device._copies.ptr)
    assert not found.there.any()
    device._copies.synchronize()
    assert found.there.all()
    with pytest.raises(AssertionError, match="names no device"), ThreadPoolExecutor(1) as pool:
        pool.submit(runtime.memcpyAsync, *ends, 4, 1, device._copies.ptr).result()
    with pytest.raises(AssertionError, match="host and host"):
        runtime.memcpyAsync(ends[1], ends[1], 4, 1, device._copies.ptr)


def test_no_more_is_pinned_than_a_bound_and_what_is_gone_is_forgotten(
    device: Cuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "MOST_PINNED", 100)
    first, second, third = (device.mirrored((n,), np.uint8) for n in (60, 41, 40))
    pins = [device.cupy.is_pinned(each.here.ctypes.data, 1) for each in (first, second, third)]
    assert pins == [True, False, True]
    second.here[...] = 7
    second.send(slice(1, 3))
    assert second.there.tolist() == [0, 7, 7, *[0] * 38]
    del first
    gc.collect()
    fourth = device.mirrored((60,), np.uint8)
    assert device.cupy.is_pinned(fourth.here.ctypes.data, 60)


def test_rows_may_take_half_of_what_is_free_unless_told_otherwise(device: Cuda) -> None:
    device.cupy.free = 1000
    assert device.room_for_rows() == 500
    with device.leaving(None):
        assert device.room_for_rows() == 500
    with device.leaving(7):
        assert device.room_for_rows() == 7
    assert device.room_for_rows() == 500
    device.cupy.free = 0
    assert device.room_for_rows() == np.inf


def sent(device: Cuda) -> int:
    """Copies from the host on streams beside the device's own."""
    return sum(each.log.count("send") for each in device.cupy.streams.values())


@pytest.mark.parametrize("settings", [{}, {"shuffle": False}, {"dropout": 0.2, "norm": "batch"}])
def test_a_run_whose_rows_are_sent_in_turn_is_that_of_whole_rows_to_the_bit(
    stand_in: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(loop, "EVALUATION_ROWS", 16)
    settings = {"epochs": 3, "folds": 0, "batch_size": 16, "checkpoint_every": 10, **settings}
    settings["micro_batch_size"] = "all"
    settings |= {"hidden": (16,), "preset": "plain", "precision": "fp64", "lr": 0.05}
    found = []
    for room in (None, 4000):
        leave(stand_in, room, device="cuda", **settings)
        out = tmp_path / str(room)
        gpunet.train("penguins", device="cuda", out=out, **settings)
        files = [(out / n).read_bytes() for n in (MODEL_FILE, METRICS)]
        found.append((files, sent(stand_in)))
    assert graphs(stand_in)
    assert found[0][0] == found[1][0]
    assert found[0][1] == 0
    assert found[1][1] > 3 * 3 * 3  # windows an epoch, of x and y, and of two parts


def leave(gpu: Cuda, room: int | None, **settings: Any) -> None:
    """Have so much free that beside all else rows of a part have that room; None: plenty."""
    gpu.cupy.free = 1 << 34
    if room is not None:
        planned = job.plan("penguins", settings)
        wanted = memory.needs(planned.members, gpu, planned.config.dtype)
        gpu.cupy.free = wanted.weights + wanted.step + room * wanted.parts


@pytest.mark.parametrize("rooms", [(None, 4000), (4000, None)])
def test_a_run_goes_on_where_there_is_another_room(
    stand_in: Cuda, tmp_path: Path, rooms: tuple[int | None, int | None]
) -> None:
    settings = {"device": "cuda", "batch_size": 16, "preset": "plain", "precision": "fp64"}
    settings["micro_batch_size"] = "all"
    follow(begin(tmp_path / "whole", **settings))
    leave(stand_in, rooms[0], **{**SETTINGS, **settings})
    follow(begin(tmp_path / "run", **settings), 21)
    leave(stand_in, rooms[1], **{**SETTINGS, **settings})
    follow(rerun.take_up(tmp_path / "run")[0])
    assert sent(stand_in)
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def test_evaluation_of_rows_in_turn_is_that_of_the_whole(device: Cuda) -> None:
    network, x, y = build("multiclass", WIDE)
    found = []
    for room in (None, 700):
        device.rows_bytes = room
        rows = windows(Dataset(x, y), device, "float64", 4, None, 0)
        store = engine.store(network, device, "float64")
        launches = engine.lower(network, Feed(rows.x, rows.y), store, rows.batch, "evaluate")
        for _ in range(2):
            found.append((rows.windows, *launches.evaluate(rows.sweep(), rows.rows)))
        rows.close()
    assert [each[0] for each in found] == [1, 1, 6, 6]
    for _, raw, loss in found:
        np.testing.assert_array_equal(raw, found[0][1])
        assert loss == found[0][2]


# A GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_epilogues_on_a_gpu(gpu: Cuda, activation: str, dtype: str) -> None:
    config = replace(WIDE, activation=activation)
    agree("multiclass", config, gpu, dtype, 1e-8 if dtype == "float64" else 2e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_graphs_give_the_bits_of_eager_launches_on_a_gpu(gpu: Cuda, precision: str) -> None:
    gpu.precision = precision
    config = replace(WIDE, optimizer="adamw", dropout=0.2)
    found, store = step_list(gpu, config, dtype="float32")
    eager, plain = step_list(gpu, config, dtype="float32")
    eager.replay = None
    for steps in (1, 1, found.replay.many + 3):
        found.run(steps)
        eager.run(steps)
    assert sorted(found.replay.graphs) == [1, 2, found.replay.many]
    assert found.runs_on == "CUDA graphs"
    for name, value in plain.weights().items():
        assert (store.weights()[name] == value).all(), name
    assert found.loss == eager.loss


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes", [{"activation": name} for name in ACTIVATIONS] + [{"parametric": True}], ids=str
)
def test_dropout_beside_an_activation_gives_the_bits_of_two_launches_on_a_gpu(
    gpu: Cuda, monkeypatch: pytest.MonkeyPatch, precision: str, changes: dict[str, Any]
) -> None:
    gpu.precision, found = precision, []
    config = replace(MANY, hidden=(130, 64), optimizer="adamw", **changes)
    for joined in (fusion._joined, apart):
        monkeypatch.setattr(fusion, "_joined", joined)
        for micro_batch in (None, 4):
            launches, store = lowered(gpu, "multiclass", config, "float32", micro_batch=micro_batch)
            launches.run(50)
            found.append(gpu.to_host(store.values).tobytes())
    assert found[:2] == found[2:]


WIDTHS = [((64, 32), 32, None), ((1024, 1024), 1024, None), ((1024,) * 4, 1024, 300)]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(("hidden", "batch", "micro_batch"), WIDTHS, ids=str)
def test_two_branches_give_the_bits_of_one_on_a_gpu(
    gpu: Cuda, precision: str, hidden: tuple[int, ...], batch: int, micro_batch: int | None
) -> None:
    """Each way, and with the clock's choice between them; the stream goes on behind it."""
    gpu.precision = precision
    config = replace(BASE, hidden=hidden, optimizer="adamw", dropout=0.1, lr=1e-3)
    rng = np.random.default_rng(0)
    x, y = rng.random((4 * batch + 5, 784), np.float32), rng.integers(0, OUTPUTS, 4 * batch + 5)
    network = model.build(config, 784, OUTPUTS, "multiclass")
    order = gpu.asarray(rng.permutation(len(x)).astype(np.int32))
    feed = Feed(gpu.asarray(x), gpu.asarray(y.astype(np.int32)), order=order)
    found = []
    for is_forked in (False, True, None):
        launches, store = lower(network, feed, config, batch, "float32", gpu, micro_batch)
        if is_forked is not None:
            launches.replay.is_forked = is_forked
        for steps in (1, 3, 300, 9):
            launches.run(steps)
        assert is_forked is None or launches.replay.is_forked is is_forked
        assert not launches.replay.unforked
        assert launches.replay.is_forked is not None
        assert (launches.step, launches.fault) == (313, 0)
        arrays = (store.values, *store.state, launches.totals, gpu.zeros((3,), "float32") + 1)
        found.append([gpu.to_host(each).tobytes() for each in arrays])
    assert found[0] == found[1] == found[2]


@pytest.mark.gpu
@pytest.mark.parametrize(("task", "config"), BF16, ids=label)
def test_bf16_on_a_gpu(gpu: Cuda, task: str, config: Config) -> None:
    gpu.precision = "bf16"
    found, store = step_list(gpu, config, task, "float32")
    wanted, _ = step_list(Rounding("numpy"), config, task, "float32")
    for each in (found, wanted):
        each.run(4)
    assert (gpu.to_host(store.shadow) == nearest(gpu.to_host(store.values))).all()
    assert found.loss == pytest.approx(float(wanted.totals[0]), rel=3e-3)


@pytest.mark.gpu
def test_steps_take_no_memory_on_a_gpu(gpu: Cuda) -> None:
    launches, _ = step_list(gpu, replace(WIDE, hidden=(256, 256), dropout=0.2), dtype="float32")
    assert launches.runs_on == "CUDA graphs"
    launches.run(2 + launches.replay.many)
    gpu.synchronize()
    pool = gpu.xp.get_default_memory_pool()
    before = pool.used_bytes()
    launches.run(3 * launches.replay.many + 1)
    assert launches.fault == 0
    assert pool.used_bytes() == before


@pytest.mark.gpu
@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_two_runs_give_the_same_bits_on_a_gpu(
    gpu: Cuda, precision: str, is_deterministic: bool
) -> None:
    """Documented of --deterministic alone; without it the library is known to do so too."""
    gpu.precision, gpu.deterministic = precision, is_deterministic
    config = replace(WIDE, hidden=(256, 128), activation="gelu", optimizer="adamw")
    found = []
    for _ in range(2):
        launches, store = step_list(gpu, config, dtype="float32", batch=23)
        launches.run(50)
        found.append(gpu.to_host(store.values))
    assert (found[0] == found[1]).all()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp64", "fp32", "tf32", "bf16"])
def test_a_job_in_each_precision_on_a_gpu(gpu: Cuda, precision: str, tmp_path: Path) -> None:
    settings = {"device": gpu.name, "precision": precision, "epochs": 30, "out": tmp_path / "run"}
    assert gpunet.train("penguins", **settings).evaluate("penguins")["accuracy"] > 0.95


@pytest.mark.gpu
def test_rows_sent_in_turn_give_the_bits_of_whole_rows_on_a_gpu(
    gpu: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 32)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    settings = {"device": gpu.name, "precision": "fp32", "epochs": 3, "batch_size": 128}
    settings |= {"folds": 0, "hidden": (64, 64), "dropout": 0.1}
    found = []
    for room in (np.inf, x.nbytes // 8):
        monkeypatch.setattr(memory, "fitted", lambda *given, room=room: (None, room))
        out = tmp_path / str(room)
        gpunet.train((x, y), out=out, **settings)
        found.append([(out / n).read_bytes() for n in (MODEL_FILE, METRICS)])
        with gpu.leaving(room):
            rows = windows(Dataset(x, y), gpu, "float32", 128, 0, 0)
        assert (rows.windows > 8) == (room < np.inf)
        rows.close()
    assert found[0] == found[1]
