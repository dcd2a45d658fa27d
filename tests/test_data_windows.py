"""Windows: every row once an epoch, in an order that follows from the seed and the step alone."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.data import Dataset
from gpunet.data.rows import RowFile, Spool
from gpunet.data.windows import Place, Windows, windows
from gpunet.device import Device, Mirror
from gpunet.device.cpu import Cpu
from gpunet.errors import DataError
from gpunet.random import permutation

CPU = Cpu("numpy")
ROW = 2 * (12 + 4 + 4) + 32  # of three float32, a target, a place, twice, and making the order


def file_of(x: np.ndarray) -> RowFile:
    spool = Spool(x.shape[1], x.dtype)
    spool.add(x)
    return spool.rows()


def data(rows: int) -> Dataset:
    """Rows that know their number, and so do their targets."""
    x = np.arange(rows, dtype=np.float32)[:, None] + np.zeros(3, np.float32)
    return Dataset(x, np.arange(rows, dtype=np.int32))


def streamed(rows: int, batch: int, window: int, seed: int | None = 0) -> Windows:
    part = data(rows)
    return windows(Dataset(file_of(part.x), part.y), CPU, "float32", batch, seed, window * ROW)


def taken(given: Windows, step: int) -> np.ndarray:
    """What a launch list would take at a step, from the arrays."""
    first, stop = given.open(step)
    places = np.arange(first, min(first + given.batch, stop))
    places = places if given.order is None else given.order[places]
    np.testing.assert_array_equal(given.x[places, 0], given.y[places])
    return given.y[places].copy()


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 120), st.integers(0, 3))
def test_every_row_is_taken_once_an_epoch(rows: int, batch: int, window: int, epoch: int) -> None:
    given = streamed(rows, batch, window)
    steps = range(epoch * given.steps, (epoch + 1) * given.steps)
    found = [taken(given, step) for step in steps]
    given.close()
    assert sorted(np.concatenate(found).tolist()) == list(range(rows))
    assert [len(part) for part in found[:-1]] == [given.batch] * (given.steps - 1)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 120), st.integers(0, 10**6))
def test_steps_are_located_by_arithmetic(rows: int, batch: int, window: int, step: int) -> None:
    given = streamed(rows, batch, window, None)
    place = given.locate(step)
    assert 0 <= place.window < given.windows
    assert given.left(step) >= 1
    within = place.window * (given.window_rows // given.batch) + place.step
    assert place.epoch * given.steps + within == step
    after = given.locate(step + given.left(step))
    assert after.step == 0
    assert (after.epoch, after.window) > (place.epoch, place.window)
    given.close()


def test_a_window_holds_what_it_has_room_for_in_whole_batches() -> None:
    given = streamed(1000, 16, 100)
    assert (given.window_rows, given.windows, given.steps) == (96, 11, 63)
    assert len(given.x) == len(given.y) == len(given.order) == 192
    assert given.locate(given.steps + 7) == Place(1, 1, 1)
    assert streamed(1000, 16, 0).window_rows == 16
    assert streamed(10, 16, 100).window_rows == 10


def test_any_step_may_be_the_first() -> None:
    through = streamed(500, 8, 64)
    want = [taken(through, step) for step in range(2 * through.steps)]
    for step in (0, 5, 9, 70, 100, 33):
        again = streamed(500, 8, 64)
        np.testing.assert_array_equal(taken(again, step), want[step])
        np.testing.assert_array_equal(taken(again, step + 1), want[step + 1])
        np.testing.assert_array_equal(again.taken(step), want[step])


def test_the_arrays_stay_where_they_are() -> None:
    given = streamed(300, 8, 64)
    before = [array.ctypes.data for array in (given.x, given.y, given.order)]
    for step in range(given.steps + 3):
        taken(given, step)
    assert [array.ctypes.data for array in (given.x, given.y, given.order)] == before


def test_a_window_is_not_touched_while_it_is_open() -> None:
    given = streamed(4000, 8, 512)
    first, stop = given.open(0)
    assert given.ahead is not None
    given.ahead[1].result()
    np.testing.assert_array_equal(np.sort(given.order[first:stop]), np.arange(first, stop))
    held = given.x[given.order[first : first + 8], 0]
    np.testing.assert_array_equal(held, given.taken(0))


def test_epochs_seeds_and_windows_have_orders_of_their_own() -> None:
    given, other = streamed(512, 8, 64), streamed(512, 8, 64, seed=1)
    orders = [
        [taken(each, epoch * 64 + step).tolist() for step in range(64)]
        for each in (given, other)
        for epoch in (0, 1)
    ]
    assert len({str(order) for order in orders}) == 4
    inside = given.order[:64] % 64
    assert inside.tolist() != given.order[64:128].tolist()


def test_without_a_seed_rows_come_as_they_lie() -> None:
    given = streamed(300, 7, 64, None)
    assert given.order is None
    for _ in range(2):
        spans = list(given.sweep())
        assert len(spans) == given.windows == 5
    rows = [given.y[slice(*span)].copy() for span in given.sweep()]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(300))


def test_a_window_mixes_rows_from_all_over_a_file() -> None:
    given = streamed(100_000, 100, 10_000)
    rows = np.sort(np.concatenate([given.taken(step) for step in range(100)]))
    gaps = np.diff(rows)
    assert len(rows) == 10_000
    assert rows[0] < 5_000
    assert rows[-1] > 95_000
    assert gaps.max() < 10_000  # 64 runs or more, spread over the file


def test_rows_in_memory_are_one_window_in_the_order_of_permutation() -> None:
    given = windows(data(50), CPU, "float32", 8, 3, 0)
    assert (given.windows, given.window_rows, given.steps) == (1, 50, 7)
    for epoch in (0, 1, 0):
        found = [taken(given, epoch * 7 + step) for step in range(7)]
        np.testing.assert_array_equal(np.concatenate(found), permutation(50, 3, epoch=epoch))
    assert given.taken(8).tolist() == permutation(50, 3, epoch=1)[8:16].tolist()


def test_a_fault_in_reading_ahead_comes_up_when_the_window_is_due() -> None:
    given = streamed(512, 8, 64)
    given.open(0)
    given.ahead[1].result()
    given.file.handle.file.truncate(100)
    due = given.left(0)
    given.open(due)  # was read ahead before
    with pytest.raises(DataError, match="the file has become shorter"):
        given.open(due + given.left(due))


def test_targets_take_the_precision_of_the_network() -> None:
    part = Dataset(data(20).x, np.ones((20, 1), np.float32))
    assert windows(part, CPU, "float64", 4, None, 0).y.dtype == np.float64
    assert windows(data(20), CPU, "float64", 4, None, 0).y.dtype == np.int32


class Elsewhere(Cpu):
    """A device whose arrays are not the host's."""

    kind = "elsewhere"

    def asarray(self, values: object, dtype: object = None) -> np.ndarray:
        return np.array(values, dtype)

    def mirrored(self, shape: tuple[int, ...], dtype: object) -> Mirror:
        here, there = self.zeros(shape, dtype), self.zeros(shape, dtype)
        return Mirror(here, there, partial(_copy, here, there))


def _copy(here: np.ndarray, there: np.ndarray, part: slice) -> None:
    there[part] = here[part]


def holds_what_the_cpu_holds(device: Device) -> None:
    part = data(500)
    part = Dataset(file_of(part.x), part.y)
    here, there = (windows(part, on, "float32", 8, 0, 64 * ROW) for on in (CPU, device))
    for step in (*range(2 * here.steps), 5):
        first, stop = span = here.open(step)
        assert there.open(step) == span
        order = device.to_host(there.order)[first:stop]
        np.testing.assert_array_equal(order, here.order[first:stop])
        np.testing.assert_array_equal(device.to_host(there.x)[order], here.x[order])
        np.testing.assert_array_equal(device.to_host(there.y)[order], here.y[order])
    here.close()
    there.close()


def test_windows_are_copied_to_a_device_with_memory_of_its_own() -> None:
    holds_what_the_cpu_holds(Elsewhere("numpy"))


@pytest.mark.gpu
def test_windows_on_a_gpu_hold_what_those_of_the_cpu_hold(gpu) -> None:
    holds_what_the_cpu_holds(gpu)


@pytest.mark.parametrize("in_memory", [True, False])
def test_weights_go_with_their_rows(in_memory: bool) -> None:
    part, rows = data(200), np.arange(200)
    x = part.x if in_memory else file_of(part.x)
    part = Dataset(x, part.y, None, rows + 0.5)
    given = windows(part, CPU, "float32", 8, 3, 32 * (ROW + 8))
    for step in range(2 * given.steps):
        first, stop = given.open(step)
        places = given.order[first : min(first + given.batch, stop)]
        assert given.weight.dtype == np.float32
        np.testing.assert_array_equal(given.weight[places], given.y[places] + 0.5)
    given.close()
    assert (given.windows == 1) == in_memory


# Rows in memory that do not fit the device

WIDE = 12 + 4  # bytes of a row of three float32 and its target


class Limited(Elsewhere):
    """Rows of one part may take so many bytes on it."""

    def __init__(self, room: int) -> None:
        super().__init__("numpy")
        self.rows_bytes = room


def in_turn(
    rows: int, batch: int, window: int, seed: int | None = 0, to: str = "device"
) -> Windows:
    """Rows in memory, two windows of which fit the device."""
    device = Limited(2 * window * WIDE)
    if to == "cpu":
        device = Cpu("numpy")
        device.rows_bytes = 2 * window * WIDE
    return windows(data(rows), device, "float32", batch, seed, 0)


def whole(rows: int, batch: int, seed: int | None = 0) -> Windows:
    return windows(data(rows), CPU, "float32", batch, seed, 0)


@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(0, 120),
    st.sampled_from([None, 0, 7]),
    st.sampled_from(["device", "cpu"]),
)
def test_windows_of_rows_in_memory_hold_the_rows_of_each_step_of_the_whole(
    rows: int, batch: int, window: int, seed: int | None, to: str
) -> None:
    want, found = whole(rows, batch, seed), in_turn(rows, batch, window, seed, to)
    assert (found.steps, found.batch) == (want.steps, want.batch)
    assert found.window_rows % found.batch == 0 or found.windows == 1
    for step in range(2 * want.steps + 1):
        np.testing.assert_array_equal(taken(found, step), taken(want, step))
        np.testing.assert_array_equal(found.taken(step), want.taken(step))
    found.close()


def test_rows_that_do_not_fit_take_no_more_than_they_may() -> None:
    found = in_turn(1000, 16, 100)
    assert (found.window_rows, found.windows, found.steps) == (96, 11, 63)
    assert len(found.x) == len(found.y) == 192
    assert found.order is None
    assert in_turn(1000, 16, 0).window_rows == 16
    assert in_turn(1000, 16, 500).windows == 3  # the order that all of them need takes room too
    assert in_turn(1000, 16, 500, None).windows == in_turn(1000, 16, 625).windows == 1
    assert in_turn(1000, 700, 0).windows == 1  # two windows of a batch would take more


def test_a_window_of_rows_in_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.data.windows.WINDOW_BYTES", 64 * WIDE)
    assert in_turn(1000, 16, 300).window_rows == 64


def test_a_window_is_gathered_by_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpunet.data.windows.GATHERED_BYTES", 1)
    monkeypatch.setattr("gpunet.data.windows.wanted_threads", lambda: 3)
    found, want = in_turn(1000, 8, 200), whole(1000, 8)
    assert found.piece == 67
    for step in range(2 * want.steps):
        np.testing.assert_array_equal(taken(found, step), taken(want, step))
    found.close()


def test_any_step_may_be_the_first_of_rows_in_turn() -> None:
    want = whole(500, 8)
    for step in (0, 5, 9, 70, 100, 33):
        again = in_turn(500, 8, 64)
        np.testing.assert_array_equal(taken(again, step), want.taken(step))
        np.testing.assert_array_equal(taken(again, step + 1), want.taken(step + 1))
        again.close()


def test_arrays_of_rows_in_turn_stay_where_they_are() -> None:
    found = in_turn(300, 8, 64)
    before = [array.ctypes.data for array in (found.x, found.y)]
    for step in range(2 * found.steps):
        taken(found, step)
    assert [array.ctypes.data for array in (found.x, found.y)] == before


@pytest.mark.parametrize("to", ["device", "cpu"])
def test_a_window_in_use_is_neither_filled_nor_sent(to: str) -> None:
    found = in_turn(4000, 8, 512, to=to)
    for step in range(0, 3 * found.steps, 64):
        first, stop = found.open(step)
        before = found.x[first:stop].copy()
        assert found.ahead is not None
        found.ahead[1].result()
        np.testing.assert_array_equal(found.x[first:stop], before)
        np.testing.assert_array_equal(found.x[first : first + 8, 0], found.taken(step))
    found.close()


def test_the_order_of_an_epoch_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(*given: object, epoch: int = 0) -> np.ndarray:
        made.append(epoch)
        return permutation(*given, epoch=epoch)

    monkeypatch.setattr("gpunet.data.windows.permutation", counted)
    found = in_turn(400, 8, 40)
    for step in range(2 * found.steps):
        found.open(step)
    found.close()
    assert found.windows == 10
    assert made == [0, 1, 2]  # the last was read ahead


def test_a_fault_in_gathering_ahead_comes_up_when_the_window_is_due() -> None:
    found = in_turn(512, 8, 64)
    found.open(0)
    found.ahead[1].result()

    def fails(part: slice) -> None:
        raise OSError("the bus is full")

    x = found.mirrors[0]
    found.mirrors[0] = Mirror(x.here, x.there, fails)
    due = found.left(0)
    found.open(due)  # was sent before
    with pytest.raises(OSError, match="the bus is full"):
        found.open(due + found.left(due))
    found.close()


def test_weights_go_with_rows_in_turn() -> None:
    part, weight = data(200), np.arange(200) + 0.5
    part = Dataset(part.x, np.stack([part.y, -part.y], axis=1).astype(float), None, weight)
    found = windows(part, Limited(64 * (WIDE + 8)), "float32", 8, 3, 0)
    assert found.windows > 3
    for step in range(2 * found.steps):
        first, stop = found.open(step)
        at = slice(first, min(first + 8, stop))
        assert found.weight.dtype == found.y.dtype == np.float32
        np.testing.assert_array_equal(found.x[at, 0], found.taken(step))
        np.testing.assert_array_equal(found.weight[at], found.x[at, 0] + 0.5)
        np.testing.assert_array_equal(found.y[at], found.x[at, :1] * [1, -1])
    found.close()


def test_a_window_that_is_all_of_a_file_is_brought_for_each_epoch() -> None:
    given = streamed(100, 8, 1000, None)
    assert given.windows == 1
    assert given.left(0) == given.steps
    for step in (0, given.steps, 2 * given.steps + 3):
        np.testing.assert_array_equal(taken(given, step), np.arange(100)[step % 13 * 8 :][:8])
    given.close()


def test_rows_that_lie_on_a_device_as_they_are_never_have_to_be_brought_again() -> None:
    assert whole(100, 8, None).left(3) == np.inf
    assert whole(100, 8).left(3) == 10


def sends_the_rows_of_the_whole(device: Device) -> None:
    want = whole(500, 8)
    device.rows_bytes = 128 * WIDE
    found = windows(data(500), device, "float32", 8, 0, 0)
    assert (found.windows, found.order) == (8, None)
    for step in (*range(2 * want.steps), 5):
        first, stop = found.open(step)
        at = slice(first, min(first + 8, stop))
        np.testing.assert_array_equal(device.to_host(found.x[at])[:, 0], want.taken(step))
        np.testing.assert_array_equal(device.to_host(found.y[at]), want.taken(step))
    found.close()


def test_rows_of_the_whole_are_sent_to_a_device_with_memory_of_its_own() -> None:
    sends_the_rows_of_the_whole(Elsewhere("numpy"))


@pytest.mark.gpu
def test_rows_of_the_whole_are_sent_to_a_gpu(gpu: Device) -> None:
    sends_the_rows_of_the_whole(gpu)
