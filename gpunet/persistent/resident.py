"""Plain networks of one hidden layer, trained for many steps in one launch: parameters stay in the
shared memory of blocks, which hand each other sums. What kernels/resident.cu wants to know of
a network, and how it is divided among blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from gpunet.kernels.slots import THREADS
from gpunet.launches import Store, rounded
from gpunet.persistent.plain import Form, Network

MOST_SHARES, MOST_UNITS, MOST_OUTPUTS = 16, 32, 32
MOST_STEPS = 8192
"""Of a launch: the rates of all of them are worked out before."""
MOST_CLOCKS = 15_000
"""Of a step, as expected. What takes longer is worth launches, or the tensor cores of tiles."""
MULTIPLIED, LOADED, HANDED, BETWEEN = 64, 48, 1_300, 2_500
"""Multiplications and bytes from other blocks that a block does in a clock, half of what the units
of an H100 can; clocks until something handed over has arrived, and of all that a step has between
these: estimates."""
LANES = 32


@dataclass(frozen=True)
class Resident(Form):
    """`strips` of hidden units times `shares` of the inputs: a block each."""

    strips: int
    units: int
    shares: int
    share: int
    source: ClassVar[str] = "persistent.h resident.cu"
    opening: ClassVar[int] = 64
    most_steps: ClassVar[int] = MOST_STEPS

    @property
    def blocks(self) -> int:
        return self.strips * self.shares

    @property
    def is_possible(self) -> bool:
        """Whether every block has rows whose outputs it begins: those of others wait for them."""
        each = ceil(self.network.batch / self.shares)
        return each * (self.shares - 1) < self.network.batch

    @property
    def changes(self) -> bool:
        """Whether one step's rows are others than the next one's."""
        return len(self.network.x) > self.network.batch

    @property
    def clocks(self) -> float:
        """That a step should take: its products, and what blocks hand to each other."""
        network = self.network
        products = 2 * network.batch * self.units * (self.share + network.outputs) / MULTIPLIED
        handed = self.strips * network.batch * network.outputs
        if self.shares > 1:
            handed += self.shares * network.batch * self.units
        waited = HANDED * (1 + (self.shares > 1))
        return BETWEEN + products + 2 * self.word * handed / LOADED + waited

    @property
    def shared_bytes(self) -> int:
        """What a block keeps: see `lay_out`."""
        network, word = self.network, self.word
        batch, outputs, padded = network.batch, network.outputs, rounded(self.units, 4)
        fours, columns, buffers = ceil(batch / 4), self.share + 1, 1 + self.changes
        held = self.share * padded + padded + rounded(self.units * outputs, 4) + rounded(outputs, 4)
        inputs = rounded(columns * 4 * (fours | 1), 4)
        rows = (1 + network.reads_input) * batch * padded + 4 * fours * padded + rounded(batch, 4)
        outs, targets = rounded(batch * (outputs | 1), 4), rounded(batch * network.targets, 4)
        numbers = (
            self.rates + (1 + network.slots) * held + buffers * (inputs + targets) + rows + outs
        )
        scales = 2 * (network.wide_bytes or word) * self.share if network.is_scaled else 0
        return scales + word * (numbers + self.parts) + 4 * (batch + 3)

    @property
    def parts(self) -> int:
        """Elements of the sums that single warps and threads make."""
        padded, columns = rounded(self.units, 4), self.share + 1
        beside = (self.units + 1) * self.network.outputs
        team = max(1, THREADS // LANES // ceil(self.network.batch / (2 * LANES)))
        crew = max(1, THREADS // ceil(columns / 2))
        hands = max(1, THREADS // beside)
        back = crew * columns * padded + hands * beside
        return rounded(max(team * self.network.batch * padded, back), 4)

    @property
    def work(self) -> int:
        """Elements of the rates of a launch."""
        return MOST_STEPS * self.rates

    @property
    def signs(self) -> int:
        """Words of four bytes of all packets."""
        return 4 * self._packets()[1]

    def _packets(self) -> tuple[int, int]:
        """Pairs of packets of the sums of units, and of all: a packet has a word of a number."""
        batch, words = self.network.batch, self.word // 4
        sums = self.blocks * batch * rounded(self.units, 4) * words // 2
        outs = rounded(batch * self.network.outputs, 4) * words // 2
        return sums, sums + 2 * self.strips * outs

    def definitions(self, store: Store) -> str:
        """The names that the source leaves open."""
        logits, packets = self._packets()
        names = {
            "HIDDEN": self.network.layers[0].outs,
            "STRIPS": self.strips,
            "UNITS": self.units,
            "SHARES": self.shares,
            "SHARE": self.share,
            "PARTS": self.parts,
            "CHANGE": int(self.changes),
            "PACKETS": packets,
            "LOGITS": logits,
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
        for each in _divisions(network, dtype, most)
        if each.is_possible and each.shared_bytes <= room and each.clocks <= MOST_CLOCKS
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
