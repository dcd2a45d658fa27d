"""Launches beside each other: which are, what they wait for, and that none is missed."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import test_engine_columns
from fakecuda import opened
from hypothesis import given
from hypothesis import strategies as st
from test_engine import (
    BASE,
    CPU,
    GRAPHS,
    build,
    check_order,
    check_plan,
    label,
    lower,
    lowered,
)
from test_engine_columns import CONFIG, NETWORKS

from gpunet import branches
from gpunet.config import Config
from gpunet.device.cpu import Cpu
from gpunet.launches import Feed, Launch, LaunchList, Slot, plan, windows
from gpunet.model import Network
from gpunet.optim import OPTIMIZERS
from gpunet.persistent.plain import recognised

CHANGES: list[dict[str, Any]] = [
    {},
    {"micro_batch": 4},
    {"micro_batch": 4, "dropout": 0.3, "clip_norm": 0.5, "optimizer": "adamw"},
]


class Forked(Cpu):
    """NumPy's lists, divided as for a GPU; they run straight on."""

    branches = 2


TWO = Forked("numpy")


def divided(
    task: str, config: Config, micro_batch: int | None = None, **changes: Any
) -> LaunchList:
    return lowered(TWO, task, replace(config, **changes), micro_batch=micro_batch)[0]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_whatever_shares_memory_waits(task: str, config: Config, changes: dict[str, Any]) -> None:
    if config.norm == "batch":
        changes = {**changes, "micro_batch": None}
    launches = divided(task, config, **changes)
    assert launches.program is None
    assert {each.branch for each in launches.launches} == {0, 1}
    check_order(launches.launches)
    once = list({id(each): each for each in launches.launches}.values())
    check_plan(once, launches.arena_bytes)


@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_the_first_layers_of_tables_wait(build: Callable[[], Network]) -> None:
    network, (x, y) = build(), test_engine_columns.table()
    launches, _ = lower(network, Feed(x, y), CONFIG, 9, device=TWO)
    check_plan(launches.launches, launches.arena_bytes)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("task", "config"), GRAPHS, ids=label)
def test_bfloat16_waits_too(task: str, config: Config, optimizer: str) -> None:
    config = replace(config, optimizer=optimizer, hidden=(16, 8, 8))
    with opened() as device:
        device.precision = "bf16"
        launches, _ = lowered(device, task, config, "float32")
        check_plan(launches.launches, launches.arena_bytes)


def test_gradients_of_weights_go_beside_what_hands_the_gradient_down() -> None:
    found = divided("multiclass", BASE).launches
    waits = {i: i - each.waits for i, each in enumerate(found) if each.waits}
    beside = [(i, each.name, waits.get(i)) for i, each in enumerate(found) if each.branch]
    names = [each.name for each in found]
    loss = names.index("softmax_cross_entropy")
    assert beside == [
        (2, "gather_labels", 0),
        (loss + 1, "column_sums", loss),
        (loss + 2, "gemm", None),
        (loss + 5, "gemm", loss + 4),
    ]
    assert names[loss + 3 :] == "gemm relu_backward gemm gemm relu_backward gemm sgd".split()
    main = {i: waits[i] for i in waits if not found[i].branch}
    assert main == {loss: 2, len(found) - 1: loss + 5}


def test_no_wait_can_be_left_out() -> None:
    """The check itself can fail."""
    for config in (BASE, replace(BASE, hidden=(8, 8, 8), activation="gelu")):
        found = divided("multiclass", config).launches
        check_order(found)
        waiting = [i for i, each in enumerate(found) if each.waits]
        assert len(waiting) > 3
        for i in waiting:
            if i - found[i].waits in open_long_ago(found, i):
                continue
            without = [*found[:i], replace(found[i], waits=0), *found[i + 1 :]]
            with pytest.raises(AssertionError):
                check_order(without)


def open_long_ago(launches: list[Launch], i: int) -> set[int]:
    """Launches beside the main branch that launch `i` waits for lest too many are open."""
    beside = [j for j in range(i) if launches[j].branch]
    return set() if launches[i].branch or i == len(launches) - 1 else set(beside[: -branches.OPEN])


def test_a_part_that_is_repeated_parts_and_joins_within_itself() -> None:
    found = divided("multiclass", BASE, micro_batch=4).launches
    names = [each.name for each in found]
    ends = [i for i, name in enumerate(names) if name == "micro_batch"]
    assert len(ends) == 3
    for start, stop in pairwise([0, *ends]):
        check_order(found[start + 1 : stop + 1])


def test_a_cpu_has_one_branch() -> None:
    network, x, y = build("multiclass", BASE)
    launches, _ = lower(network, Feed(x, y), BASE, 9)
    assert all((each.branch, each.waits) == (0, 0) for each in launches.launches)
    count = len(launches.launches)
    assert windows(launches.launches) == [(i, i) for i in range(count)]


def test_a_deep_network_takes_a_few_layers_more() -> None:
    """What a launch beside the rest reads stays: a layer's value and its gradient."""
    config, rows = replace(BASE, hidden=(64,) * 30), 1000
    network, x, y = build("multiclass", config)
    straight, forked = (
        lower(network, Feed(x, y), config, rows, device=device)[0].arena_bytes
        for device in (CPU, Forked("numpy"))
    )
    layer = rows * 64 * 8
    assert straight < forked < straight + (branches.OPEN + 1) * layer


def launch(reads: list[Slot], writes: list[Slot]) -> Launch:
    return Launch("x", (*reads, *writes), tuple(writes), lambda *_: lambda: None)


def test_a_chain_stays_on_the_main_branch() -> None:
    slots = [Slot(f"s{i}", (9,), "uint8") for i in range(6)]
    chain = [launch([a], [b]) for a, b in pairwise(slots)]
    assert branches.divided(chain, (), CPU.address) == chain
    assert branches.divided([], (), CPU.address) == []


@pytest.mark.parametrize(("other", "waits"), [(slice(0, 3), 3), (slice(5, 9), 0)])
def test_arrays_that_overlap_are_the_same_memory(other: slice, waits: int) -> None:
    memory = np.zeros(9, np.uint8)
    first, second = (Slot("s", (a.size,), "uint8", a) for a in (memory[2:5], memory[other]))
    a, b, c, d = (Slot(name, (9,), "uint8") for name in "abcd")
    given = [([], [a]), ([a], [first]), ([a], [b]), ([b], [c]), ([second, c], [d]), ([d], [a])]
    found = branches.divided([launch(*each) for each in given], (), CPU.address)
    assert [each.branch for each in found] == [0, 1, 0, 0, 0, 0]
    assert found[4].waits == waits


def test_memory_is_neither_taken_before_others_are_done_nor_given_back_too_early() -> None:
    """Launch 3 may run from behind 0 until 6 waits for it: over none of what 1 to 5 use there."""
    a, b, c, d, e, f, g = (Slot(name, (1000,), "uint8") for name in "abcdefg")
    given = [([], [a]), ([a], [b]), ([b], [c]), ([a], [d]), ([c], [e]), ([e], [f]), ([d, f], [g])]
    found = branches.divided([launch(*each) for each in given], (), CPU.address)
    assert [each.branch for each in found] == [0, 0, 0, 1, 0, 0, 0]
    assert windows(found) == [(0, 0), (1, 1), (2, 2), (1, 5), (4, 4), (5, 5), (6, 6)]
    straight, forked = (plan(each)[0] for each in ([launch(*one) for one in given], found))
    assert straight[d] == straight[b]
    assert straight[e] == straight[a]
    assert not {forked[a], forked[d]} & {forked[each] for each in (b, c, e, f)}


RUN = st.tuples(
    st.sets(st.integers(0, 9), max_size=3), st.sets(st.integers(0, 9), min_size=1, max_size=2)
)


@given(st.lists(RUN, min_size=1, max_size=25), st.sets(st.integers(0, 25), max_size=2), st.data())
def test_any_list_is_in_order(
    runs: list[tuple[set[int], set[int]]], cuts: set[int], data: st.DataObject
) -> None:
    """Slots 0 to 5 are in the arena, 6 is outside it, and 7 to 9 are views of it."""
    outside = np.zeros(90, np.uint16)
    slots = [Slot(f"s{i}", (data.draw(st.integers(1, 5000)),), "uint8") for i in range(6)]
    parts = (outside, outside[:30], outside[20:50], outside[50:])
    slots += [Slot(f"s{i}", a.shape, "uint16", a) for i, a in enumerate(parts, 6)]
    launches = [
        launch([slots[i] for i in reads - writes], [slots[i] for i in writes])
        for reads, writes in runs
    ]
    ends = tuple(cut for cut in cuts if cut < len(launches))
    found = branches.divided(launches, ends, CPU.address)
    assert [each.arguments for each in found] == [each.arguments for each in launches]
    places, size = plan(found)
    arena = np.zeros(max(1, size), np.uint8)
    for slot, offset in places.items():
        slot.array = arena[offset : offset + slot.nbytes]
    check_order(found)


# Weights that move before the whole gradient is there

WIDER = replace(BASE, hidden=(9, 8, 7), lr=1e-2, weight_decay=0.1)
MOVED = ("hidden2.weight", "hidden3.weight", "output.weight")


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.engine.LEAST_EARLY", 28)


def moves(launches: LaunchList) -> list[Launch]:
    return [each for each in launches.launches if "faults" in {w.name for w in each.writes}]


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_large_weights_move_early_to_the_same_bits(name: str) -> None:
    config = replace(WIDER, optimizer=name)
    (found, store), (wanted, plain) = (lowered(each, "multiclass", config) for each in (TWO, CPU))
    *own, shown = moves(found)
    assert store.early == MOVED
    assert [each.branch for each in own] == [1, 1, 1]
    assert [each.name for each in found.launches[-2:]] == [name, "show_faults"]
    assert shown.branch == 0
    products = [each for each in found.launches if each.sizes[-1:] == (1,) and each.name == "gemm"]
    assert [each.branch for each in products] == [1, 1, 1, 0]  # each but the last beside the next
    check_order(found.launches)
    check_plan(found.launches, found.arena_bytes)
    for each in (found, wanted):
        each.run(20)
    assert found.clock.tolist() == wanted.clock.tolist()
    for vector, expected in zip((store.values, *store.state), (plain.values, *plain.state)):
        for key, value in plain.named(expected).items():
            assert (store.named(vector)[key] == value).all(), key


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("lr", [1e308, 1e200])
def test_what_early_moves_find_stops_the_next_step(lr: float) -> None:
    """Other weights of the step move all the same, as they do at once."""
    config = replace(WIDER, lr=lr, weight_decay=0.0)
    (found, store), (wanted, plain) = (lowered(each, "multiclass", config) for each in (TWO, CPU))
    for each in (found, wanted):
        each.run(6)
    assert found.fault == wanted.fault != 0
    assert found.clock.tolist() == wanted.clock.tolist()
    for name, value in plain.weights().items():
        np.testing.assert_array_equal(store.weights()[name], value, err_msg=name)


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("changes", [{"clip_norm": 1.0}, {"micro_batch": 4}], ids=str)
def test_a_gradient_that_is_clipped_or_added_up_is_wanted_whole(changes: dict[str, Any]) -> None:
    micro_batch = changes.pop("micro_batch", None)
    config = replace(WIDER, **changes)
    launches, store = lowered(TWO, "multiclass", config, micro_batch=micro_batch)
    assert store.early == MOVED
    assert not moves(launches)


def test_small_weights_and_those_of_a_cpu_move_at_once() -> None:
    wide = replace(WIDER, hidden=(600, 600))
    pairs = ((TWO, WIDER), (TWO, wide), (CPU, wide))
    found = [lowered(device, "multiclass", config)[1].early for device, config in pairs]
    assert found == [(), MOVED[:1], ()]


@pytest.mark.usefixtures("early")
def test_early_moves_of_plain_layers_are_passed_over() -> None:
    launches, _ = lowered(TWO, "multiclass", replace(WIDER, optimizer="adamw"))
    assert moves(launches)
    found = recognised(launches.launches)
    assert found is not None
    assert [each.weight for each in found.layers] == ["hidden1.weight", *MOVED]
