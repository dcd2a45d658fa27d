"""The order in which steps take a part's rows: all of them from memory, or window by window.

An epoch of a part that lies in a file is a keyed order of its blocks (runs of rows that lie side by
side), cut into windows; the rows of a window are in memory, and in a keyed order of their own.
Which rows a step takes is a function of the seed and the step. Refuses to keep any other state.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from gpunet.data.prepared import Dataset
from gpunet.data.rows import RowFile
from gpunet.device import Array, Device
from gpunet.kernels.native import permutation
from gpunet.random import Purpose

BLOCK_BYTES = 1 << 17
LEAST_BLOCKS = 64
"""A window mixes as many blocks at least: where it is small, so are they."""
ORDER_BYTES = 32
"""What making the order of a window's rows takes, for each."""


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

    def left(self, step: int) -> int:
        """Steps from `step` on to the end of its window."""
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
        number, place = self._number(step), self.locate(step)
        rows = self._rows_of(number)
        rows = rows if self.seed is None else rows[self._order_of(number)]
        return rows[place.step * self.batch :][: self.batch]

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

    def _rows_of(self, number: int) -> np.ndarray:
        """The numbers in the part of a window's rows, as they lie in x."""
        raise NotImplementedError

    def _order_of(self, number: int) -> np.ndarray:
        """The order in which a window's rows are taken."""
        raise NotImplementedError


def windows(
    part: Dataset, device: Device, dtype: str, batch: int, seed: int | None, room: int
) -> Windows:
    """A part's rows in the order of `seed` (None: as they lie), float targets and weights in
    `dtype`.

    A part that lies in a file takes `room` bytes of memory, or two batches where that is more.
    """
    y, weight = part.y, part.weight
    part = replace(
        part,
        y=y.astype(dtype) if y is not None and y.ndim > 1 else y,
        weight=None if weight is None else weight.astype(dtype),
    )
    batch = min(batch, part.rows)
    if isinstance(part.x, RowFile):
        return _Buffered(part, part.x, device, batch, seed, room)
    return _Whole(part, device, batch, seed)


class _Whole(Windows):
    """A part in memory: one window, and no buffer."""

    def __init__(self, part: Dataset, device: Device, batch: int, seed: int | None) -> None:
        super().__init__(part.rows, batch, part.rows, seed)
        self.device, self.x = device, device.asarray(part.x)
        self.y, self.weight = (
            None if each is None else device.asarray(each) for each in (part.y, part.weight)
        )
        if seed is not None:
            self.order = device.asarray(np.arange(part.rows, dtype=np.int32))

    def _bring(self, number: int) -> None:
        if self.seed is not None:
            self.order[...] = self.device.asarray(self._order_of(number))

    def _base(self, number: int) -> int:
        return 0

    def _rows_of(self, number: int) -> np.ndarray:
        return np.arange(self.rows)

    def _order_of(self, number: int) -> np.ndarray:
        assert self.seed is not None
        return permutation(self.rows, self.seed, epoch=number)


class _Buffered(Windows):
    """A part in a file: two windows in memory, of which a thread fills one while the other is
    in use. Even windows lie in the first half of the arrays, odd ones in the second."""

    def __init__(
        self,
        part: Dataset,
        file: RowFile,
        device: Device,
        batch: int,
        seed: int | None,
        room: int,
    ) -> None:
        self.part, self.file, self.device = part, file, device
        beside = [each for each in (part.y, part.weight) if each is not None]
        beside_bytes = sum(each.nbytes // len(each) for each in beside)
        row = 2 * (file.row_bytes + beside_bytes + 4) + ORDER_BYTES
        size = min(part.rows, max(batch, room // row // batch * batch))
        super().__init__(part.rows, batch, size, seed)
        self.block = max(1, min(BLOCK_BYTES // file.row_bytes, size // LEAST_BLOCKS))
        self.host_x = np.empty((2 * size, *file.shape[1:]), file.dtype)
        self.host_y, self.host_weight = (
            None if each is None else np.empty((2 * size, *each.shape[1:]), each.dtype)
            for each in (part.y, part.weight)
        )
        self.host_order = None if seed is None else np.zeros(2 * size, np.int32)
        self.x, self.y, self.weight, self.order = (
            None if each is None else device.asarray(each)
            for each in (self.host_x, self.host_y, self.host_weight, self.host_order)
        )
        self.reader = ThreadPoolExecutor(1)
        self.ahead: tuple[int, Future[None]] | None = None

    def close(self) -> None:
        self.reader.shutdown()

    def _bring(self, number: int) -> None:
        ahead, self.ahead = self.ahead, None
        if ahead is not None:
            ahead[1].result()
        if ahead is None or ahead[0] != number:
            self._fill(number)
        if self.device.kind != "cpu":
            self._upload(self._base(number))
        self.ahead = number + 1, self.reader.submit(self._fill, number + 1)

    def _fill(self, number: int) -> None:
        """Read a window's rows and make their order, in the host's arrays."""
        at = base = self._base(number)
        for first, stop in self._runs(number):
            here = slice(at, at + stop - first)
            self.file.read(first, self.host_x[here])
            for host, whole in self._beside:
                host[here] = whole[first:stop]
            at = here.stop
        if self.host_order is not None:
            np.add(self._order_of(number), base, out=self.host_order[base:at])

    @property
    def _beside(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """What lies in memory beside the file: its window in the host's arrays, and all of it."""
        pairs = ((self.host_y, self.part.y), (self.host_weight, self.part.weight))
        return [(host, whole) for host, whole in pairs if host is not None and whole is not None]

    def _upload(self, base: int) -> None:
        half = slice(base, base + self.window_rows)
        arrays = (
            (self.x, self.host_x),
            (self.y, self.host_y),
            (self.weight, self.host_weight),
            (self.order, self.host_order),
        )
        for there, here in arrays:
            if here is not None:
                there[half] = self.device.asarray(here[half])

    def _runs(self, number: int) -> list[tuple[int, int]]:
        """The rows of a window as first and stop of the blocks, or ends of blocks, in the file's
        order; the last block, which may be shorter, comes last in every epoch."""
        epoch, window = divmod(number, self.windows)
        low = window * self.window_rows
        high = low + self._count(window)
        if self.seed is None:
            return [(low, high)]
        places = np.arange(low // self.block, -(-high // self.block))
        whole = self.rows // self.block
        order = permutation(whole, self.seed, Purpose.BLOCKS, epoch=epoch)
        starts = np.append(order, whole).astype(np.int64)[places] * self.block
        firsts = starts + np.maximum(low - places * self.block, 0)
        stops = starts + np.minimum(high - places * self.block, self.block)
        return sorted(zip(firsts.tolist(), stops.tolist()))

    def _base(self, number: int) -> int:
        return number % 2 * self.window_rows

    def _rows_of(self, number: int) -> np.ndarray:
        return np.concatenate([np.arange(*run) for run in self._runs(number)])

    def _order_of(self, number: int) -> np.ndarray:
        assert self.seed is not None
        rows = self._count(number % self.windows)
        return permutation(rows, self.seed, Purpose.WINDOW, epoch=number)
