"""Plain networks of one hidden layer, trained for many steps in one launch: parameters stay in the
shared memory of blocks, which meet once or twice a step. What kernels/resident.cu wants to know of
a network, and how it is divided among blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from gpunet.kernels.slots import THREADS
from gpunet.launches import Store, rounded
from gpunet.persistent.plain import Network

MOST_SHARES, MOST_UNITS, MOST_OUTPUTS = 16, 32, 32
MOST_CLOCKS = 15_000
"""Of a step, as expected. What takes longer is worth launches, or the tensor cores of tiles."""
MULTIPLIED, LOADED, MEETING, BETWEEN = 64, 48, 1_900, 2_500
"""Multiplications and bytes from other blocks that a block does in a clock, half of what the units
of an H100 can; clocks of a meeting, and of all that a step has between these: estimates."""
RATES = 40
"""Numbers that say how a step moves two layers' parameters."""
APART = 32
"""Words between the places where blocks meet."""
LANES = 32


@dataclass(frozen=True)
class Resident:
    """`strips` of hidden units times `shares` of the inputs: a block each, and the clerk."""

    network: Network
    dtype: str
    strips: int
    units: int
    shares: int
    share: int
    source: ClassVar[str] = "meetings.h resident.cu"
    meetings: ClassVar[int] = 1

    @property
    def blocks(self) -> int:
        return self.strips * self.shares + 1

    @property
    def gates(self) -> int:
        return (1 + self.strips) * APART

    @property
    def changes(self) -> bool:
        """Whether one step's rows are others than the next one's."""
        return len(self.network.x) > self.network.batch

    @property
    def clocks(self) -> float:
        """That a step should take: its products, and what blocks hand to each other."""
        network, word = self.network, np.dtype(self.dtype).itemsize
        products = 2 * network.batch * self.units * (self.share + network.outputs) / MULTIPLIED
        handed = self.strips * network.batch * network.outputs
        if self.shares > 1:
            handed += self.shares * network.batch * self.units
        met = MEETING * (1 + (self.shares > 1))
        return BETWEEN + products + word * handed / LOADED + met

    @property
    def shared_bytes(self) -> int:
        """What a block keeps: see `lay_out`."""
        network, word = self.network, np.dtype(self.dtype).itemsize
        batch, outputs, padded = network.batch, network.outputs, rounded(self.units, 4)
        fours, columns, buffers = ceil(batch / 4), self.share + 1, 1 + self.changes
        held = self.share * padded + padded + rounded(self.units * outputs, 4) + rounded(outputs, 4)
        inputs = rounded(columns * 4 * (fours | 1), 4)
        rows = (1 + network.reads_input) * batch * padded + 4 * fours * padded
        outs, targets = rounded(batch * (outputs | 1), 4), rounded(batch * network.targets, 4)
        numbers = RATES + (1 + network.slots) * held + buffers * (inputs + targets) + rows + outs
        scales = 2 * (network.wide_bytes or word) * self.share if network.is_scaled else 0
        return 8 * 16 + scales + word * (numbers + self.parts) + 4 * (batch + 2)

    @property
    def parts(self) -> int:
        """Elements of the sums that single warps and threads make."""
        word = np.dtype(self.dtype).itemsize
        padded, columns = rounded(self.units, 4), self.share + 1
        beside = (self.units + 1) * self.network.outputs
        team = max(1, THREADS // LANES // ceil(self.network.batch / (2 * LANES)))
        crew = max(1, THREADS // ceil(columns / 2))
        hands = max(1, THREADS // beside)
        back = crew * columns * padded + hands * beside
        return rounded(max(team * self.network.batch * padded, back, THREADS * 8 // word), 4)

    @property
    def work(self) -> int:
        """Elements that blocks hand to each other."""
        return self._places()["END"]

    def _places(self) -> dict[str, int]:
        """Where the rates of two steps, sums of units and outputs of strips lie in `work`."""
        batch, found = self.network.batch, {"RATES": 0, "SUMS": 2 * RATES}
        sums = self.strips * self.shares * batch * rounded(self.units, 4)
        found["LOGITS"] = found["SUMS"] + sums
        outs = rounded(batch * self.network.outputs, 4)
        found["END"] = found["LOGITS"] + 2 * self.strips * outs
        return found

    def definitions(self, store: Store) -> str:
        """The names that the source leaves open."""
        names = {
            "HIDDEN": self.network.layers[0].outs,
            "STRIPS": self.strips,
            "UNITS": self.units,
            "SHARES": self.shares,
            "SHARE": self.share,
            "PARTS": self.parts,
            "CHANGE": int(self.changes),
            "GATES": self.gates,
            "APART": APART,
            **self._places(),
        }
        known = [each.places(store) for each in self.network.layers]
        return self.network.definitions(self.dtype, names, known)


def divided(network: Network, dtype: str, most: int, room: int) -> Resident | None:
    """How a network is divided among at most `most` blocks, each with `room` bytes of shared
    memory, so that a step takes the least time; None where that is too long."""
    if len(network.layers) != 2 or network.outputs > MOST_OUTPUTS:
        return None
    found = [
        each
        for each in _divisions(network, dtype, most - 1)
        if each.shared_bytes <= room and each.clocks <= MOST_CLOCKS
    ]
    return min(found, key=lambda each: each.clocks, default=None)


def _divisions(network: Network, dtype: str, workers: int) -> Iterator[Resident]:
    hidden = network.layers[0].outs
    for wanted in range(1, min(MOST_SHARES, workers) + 1):
        share = rounded(ceil(network.inputs / wanted), 4)
        shares = ceil(network.inputs / share)
        units = ceil(hidden / min(hidden, workers // shares))
        if units <= MOST_UNITS:
            yield Resident(network, dtype, ceil(hidden / units), units, shares, share)
