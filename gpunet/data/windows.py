"""The order in which steps take a part's rows: all of them from the device, or window by window.

An epoch of a part in memory is a keyed order of its rows, on the device or cut into windows. One of
a part that lies in a file is a keyed order of its blocks (runs of rows that lie side by side), cut
into windows; the rows of a window are in memory, and in a keyed order of their own.
Which rows a step takes is a function of the seed and the step. Refuses to keep any other state.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf

import numpy as np

from gpunet.data.dataset import Dataset
from gpunet.data.rows import RowFile, Rows
from gpunet.device import Array, Device, Mirror
from gpunet.device.cpu import wanted_threads
from gpunet.kernels.native import permutation
from gpunet.kernels.rows import picker
from gpunet.random import Purpose

BLOCK_BYTES = 1 << 17
LEAST_BLOCKS = 64
"""A window mixes as many blocks at least: where it is small, so are they."""
ORDER_BYTES = 32
"""What making the order of a window's rows takes, for each."""
PLACE_BYTES = 4
"""A row's place in an order on a device."""
WINDOW_BYTES = 1 << 28
"""Of a window of rows in memory, at most: a bus takes milliseconds for it, far longer than to start
a copy; and pinned memory is taken from all else that runs."""
GATHERERS, GATHERED_BYTES = 4, 1 << 22
"""Threads that gather a window, at most, and what is worth one: alone it gathers 6 GB/s of narrow
rows, and a bus takes several times that."""


@dataclass(frozen=True)
class Place:
    """Where a step stands: its epoch, the window in the epoch, the step in the window, from 0."""

    epoch: int
    window: int
    step: int


class Windows:
    """The rows of a part for one step after the other; steps are counted from 0 over all epochs.

    x (N, d), y, weight (N,) and order (N,) int32 are arrays on a device that stay where they are,
    while `open` changes what they hold; order is None where rows are taken as they lie.
    """

    x: Array
    y: Array = None
    weight: Array = None
    order: Array = None

    def __init__(self, rows: int, batch: int, window_rows: int, seed: int | None) -> None:
        self.rows, self.batch, self.window_rows, self.seed = rows, batch, window_rows, seed
        self.opened = -1

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.rows // self.batch)

    @property
    def windows(self) -> int:
        """Windows of an epoch."""
        return -(-self.rows // self.window_rows)

    def locate(self, step: int) -> Place:
        """Where a step stands."""
        epoch, within = divmod(step, self.steps)
        return Place(epoch, *divmod(within, -(-self.window_rows // self.batch)))

    def left(self, step: int) -> int | float:
        """Steps from `step` on that can be made before a window has to be opened."""
        place = self.locate(step)
        return -(-self._count(place.window) // self.batch) - place.step

    def open(self, step: int) -> tuple[int, int]:
        """Bring the window of `step` into memory; where in x (or order) the rows of `step` begin,
        and where the window ends."""
        place, number = self.locate(step), self._number(step)
        if self.opened != number:
            self._bring(number)
            self.opened = number
        base = self._base(number)
        return base + place.step * self.batch, base + self._count(place.window)

    def sweep(self) -> Iterator[tuple[int, int]]:
        """Open every window once, in order; where each begins and ends."""
        first = (self.opened // self.windows + 1) * self.windows
        for number in range(first, first + self.windows):
            epoch, window = divmod(number, self.windows)
            yield self.open(epoch * self.steps + window * (self.window_rows // self.batch))

    def taken(self, step: int) -> np.ndarray:
        """The numbers in the part of the rows that a step takes."""
        first = self.locate(step).step * self.batch
        return self._taken(self._number(step))[first : first + self.batch]

    def close(self) -> None:
        """End reading ahead."""

    def _number(self, step: int) -> int:
        """A step's window, counted over all epochs."""
        place = self.locate(step)
        return place.epoch * self.windows + place.window

    def _count(self, window: int) -> int:
        return min(self.window_rows, self.rows - window * self.window_rows)

    def _bring(self, number: int) -> None:
        """Have the rows of a window, and their order, in the arrays."""
        raise NotImplementedError

    def _base(self, number: int) -> int:
        """Where in the arrays a window begins."""
        raise NotImplementedError

    def _taken(self, number: int) -> np.ndarray:
        """The numbers in the part of a window's rows, in the order in which they are taken."""
        raise NotImplementedError


def windows(
    part: Dataset, device: Device, dtype: str, batch: int, seed: int | None, room: int
) -> Windows:
    """A part's rows in the order of `seed` (None: as they lie), float targets and weights in
    `dtype`.

    A part that lies in a file takes `room` bytes of memory and of the device's, or two batches
    where that is more. Of one in memory a step takes the same rows whether all of it fits the
    device or not.
    """
    y, weight = part.y, part.weight
    part = replace(
        part,
        y=y.astype(dtype) if y is not None and y.ndim > 1 else y,
        weight=None if weight is None else weight.astype(dtype),
    )
    batch = min(batch, part.rows)
    if isinstance(part.x, RowFile):
        return _Streamed(part, part.x, device, batch, seed, room)
    row, most = _row_bytes(part), device.room_for_rows()
    whole = part.rows * (row + (0 if seed is None else PLACE_BYTES))
    size = _whole_batches(part.rows, batch, int(min(most / 2, WINDOW_BYTES)) // row)
    if whole > most and 2 * size * row < whole:
        return _Gathered(part, device, batch, seed, size)
    return _Whole(part, device, batch, seed)


def _row_bytes(part: Dataset) -> int:
    """Of a row with its target and weight."""
    arrays = [each for each in (part.x, part.y, part.weight) if each is not None]
    return max(1, sum(each.nbytes // len(each) for each in arrays))


def _whole_batches(rows: int, batch: int, most: int) -> int:
    """The rows of a window, as many as `most` where that is a batch or more; or all there are."""
    return min(rows, max(batch, most // batch * batch))


class _Whole(Windows):
    """A part in memory that fits the device: one window, and no buffer."""

    def __init__(self, part: Dataset, device: Device, batch: int, seed: int | None) -> None:
        super().__init__(part.rows, batch, part.rows, seed)
        self.device, self.x = device, device.asarray(part.x)
        self.y, self.weight = (
            None if each is None else device.asarray(each) for each in (part.y, part.weight)
        )
        if seed is not None:
            self.order = device.asarray(np.arange(part.rows, dtype=np.int32))

    def left(self, step: int) -> int | float:
        """Without a seed no epoch changes anything."""
        return inf if self.seed is None else super().left(step)

    def _bring(self, number: int) -> None:
        if self.seed is not None:
            self.order[...] = self.device.asarray(self._taken(number))

    def _base(self, number: int) -> int:
        return 0

    def _taken(self, number: int) -> np.ndarray:
        if self.seed is None:
            return np.arange(self.rows)
        return permutation(self.rows, self.seed, epoch=number)


class _Buffered(Windows):
    """Two windows of a part, of which a thread fills one, and sends it to the device, while the
    other is in use. Even windows lie in the first half of the arrays, odd ones in the second.
    """

    def __init__(
        self,
        part: Dataset,
        device: Device,
        batch: int,
        seed: int | None,
        window_rows: int,
        has_order: bool,
    ) -> None:
        super().__init__(part.rows, batch, window_rows, seed)
        room = 2 * window_rows

        def mirrored(rows: Rows | None) -> Mirror | None:
            return rows if rows is None else device.mirrored((room, *rows.shape[1:]), rows.dtype)

        x, y, weight = map(mirrored, (part.x, part.y, part.weight))
        order = device.mirrored((room,), np.int32) if has_order else None
        self.mirrors = [each for each in (x, y, weight, order) if each is not None]
        self.x, self.y, self.weight, self.order = (
            None if each is None else each.there for each in (x, y, weight, order)
        )
        given = [rows for rows in (part.x, part.y, part.weight) if rows is not None]
        self.pairs = list(zip(given, (each.here for each in self.mirrors)))
        self.reader = ThreadPoolExecutor(1)
        self.ahead: tuple[int, Future[None]] | None = None

    def close(self) -> None:
        self.reader.shutdown()

    def _bring(self, number: int) -> None:
        # The device is idle here: the loop waits for its steps before it opens a window, and an
        # evaluation reads each prediction. So no step still takes rows from either half, and until
        # the next call none will from the one that is filled meanwhile.
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            ahead[1].result()
        if ahead is None or ahead[0] != number:
            self._deliver(number)
        self.ahead = number + 1, self.reader.submit(self._deliver, number + 1)

    def _deliver(self, number: int) -> None:
        self._fill(number)
        base = self._base(number)
        for mirror in self.mirrors:
            mirror.send(slice(base, base + self._count(number % self.windows)))

    def _fill(self, number: int) -> None:
        """Have a window's rows, and their order if there is one, in the host's arrays."""
        raise NotImplementedError

    def _base(self, number: int) -> int:
        return number % 2 * self.window_rows


class _Gathered(_Buffered):
    """A part in memory that is too large for the device: rows are put in their order here, and
    taken as they lie there."""

    def __init__(
        self, part: Dataset, device: Device, batch: int, seed: int | None, window_rows: int
    ) -> None:
        super().__init__(part, device, batch, seed, window_rows, has_order=False)
        threads = min(GATHERERS, wanted_threads())
        self.gatherers = ThreadPoolExecutor(threads)
        self.piece = max(-(-window_rows // threads), GATHERED_BYTES // _row_bytes(part))
        self.picks = [(picker(rows), here) for rows, here in self.pairs]
        if seed is not None:
            self.shuffled = _shuffles(part.rows, seed, Purpose.SHUFFLE)

    def close(self) -> None:
        super().close()
        self.gatherers.shutdown()

    def _fill(self, number: int) -> None:
        rows, base = self._taken(number), self._base(number)

        def gather(first: int) -> None:
            index = rows[first : first + self.piece].astype(np.intp)
            at = base + first
            for pick, here in self.picks:
                pick(index, here[at : at + len(index)])

        list(self.gatherers.map(gather, range(0, len(rows), self.piece)))

    def _taken(self, number: int) -> np.ndarray:
        epoch, window = divmod(number, self.windows)
        low = window * self.window_rows
        high = low + self._count(window)
        return np.arange(low, high) if self.seed is None else self.shuffled(epoch)[low:high]


class _Streamed(_Buffered):
    """A part in a file: its rows lie as they were read, with their order beside them."""

    def __init__(
        self,
        part: Dataset,
        file: RowFile,
        device: Device,
        batch: int,
        seed: int | None,
        room: int,
    ) -> None:
        row = 2 * (_row_bytes(part) + PLACE_BYTES) + ORDER_BYTES
        size = _whole_batches(part.rows, batch, room // row)
        super().__init__(part, device, batch, seed, size, has_order=seed is not None)
        self.file, (_, self.host_x), *self.beside = file, *self.pairs
        self.block = max(1, min(BLOCK_BYTES // file.row_bytes, size // LEAST_BLOCKS))
        if seed is not None:
            self.shuffled = _shuffles(part.rows // self.block, seed, Purpose.BLOCKS)

    def _fill(self, number: int) -> None:
        at = base = self._base(number)
        for first, stop in self._runs(number):
            here = slice(at, at + stop - first)
            self.file.read(first, self.host_x[here])
            for rows, host in self.beside:
                host[here] = rows[first:stop]
            at = here.stop
        if self.seed is not None:
            np.add(self._order_of(number), base, out=self.mirrors[-1].here[base:at])

    def _runs(self, number: int) -> list[tuple[int, int]]:
        """The rows of a window as first and stop of the blocks, or ends of blocks, in the file's
        order; the last block, which may be shorter, comes last in every epoch."""
        epoch, window = divmod(number, self.windows)
        low = window * self.window_rows
        high = low + self._count(window)
        if self.seed is None:
            return [(low, high)]
        places = np.arange(low // self.block, -(-high // self.block))
        blocks = np.append(self.shuffled(epoch), self.rows // self.block)
        starts = blocks.astype(np.int64)[places] * self.block
        firsts = starts + np.maximum(low - places * self.block, 0)
        stops = starts + np.minimum(high - places * self.block, self.block)
        return sorted(zip(firsts.tolist(), stops.tolist()))

    def _taken(self, number: int) -> np.ndarray:
        rows = np.concatenate([np.arange(*run) for run in self._runs(number)])
        return rows if self.seed is None else rows[self._order_of(number)]

    def _order_of(self, number: int) -> np.ndarray:
        """The order in which rows are taken that lie as they were read."""
        assert self.seed is not None
        count = self._count(number % self.windows)
        return permutation(count, self.seed, Purpose.WINDOW, epoch=number)


def _shuffles(n: int, seed: int, purpose: Purpose) -> Callable[..., np.ndarray]:
    """The order of n things in an epoch; that of the epoch last asked for is kept."""

    def shuffled(epoch: int) -> np.ndarray:
        return permutation(n, seed, purpose, epoch=epoch)

    return lru_cache(1)(shuffled)
