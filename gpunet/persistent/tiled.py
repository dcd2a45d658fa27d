"""Plain layers of any number, trained for many steps in one launch: their products are cut into
tiles, and blocks meet behind each layer. What kernels/tiled.cu wants to know of a network."""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from gpunet.kernels.slots import THREADS
from gpunet.launches import Store, rounded
from gpunet.persistent.plain import Form, Layer

MOST_FLOPS = {True: 1_000_000_000, False: 100_000_000}
"""Of a step, with products rounded to tf32 and without. Larger products are worth a launch."""
MOST_HEAD, MOST_INPUTS = 8192, 4096
"""Elements of the last weight, which every block keeps in shared memory; columns of the data."""
TILE_M, TILE_N, WARPS = 32, 16, THREADS // 32
ALIGNMENT = 32
"""Elements, of each array in `work`."""
MOST_MEETINGS = 1 << 30
"""Of all blocks in a launch: they are counted in so many bits."""


@dataclass(frozen=True)
class Tiled(Form):
    """On at most `most` blocks, each with `room` bytes of shared memory."""

    is_tf32: bool
    most: int
    room: int
    source: ClassVar[str] = "persistent.h tiled.cu"
    opening: ClassVar[int] = 1
    signs: ClassVar[int] = 1

    @property
    def is_apt(self) -> bool:
        """Whether it has room, and its products are not worth launches of their own."""
        return (
            self.network.flops <= MOST_FLOPS[self.is_tf32]
            and self.head <= MOST_HEAD
            and self.network.inputs <= MOST_INPUTS
            and self.shared_bytes <= self.room
        )

    @property
    def blocks(self) -> int:
        return min(self.most, self.useful_blocks)

    @property
    def useful_blocks(self) -> int:
        """That one part of a step or another keeps busy, and the clerk."""
        rows, layers = ceil(self.network.batch / TILE_M), self.network.layers
        forward = max(rows * ceil(each.outs / TILE_N) for each in layers[:-1])
        gradients = sum(map(_gradient_tiles, layers))
        return max(forward, gradients, ceil(self.network.batch / WARPS)) + 1

    @property
    def most_steps(self) -> int:
        """Of a launch."""
        return (MOST_MEETINGS - 1) // (self.blocks * (2 * len(self.network.layers) - 1))

    @property
    def head(self) -> int:
        """Elements of the last weight."""
        return self.network.layers[-1].ins * self.network.outputs

    @property
    def shared_bytes(self) -> int:
        """What a block keeps: see `persistent_train`."""
        network = self.network
        inputs = 2 * (network.wide_bytes or self.word) * network.inputs if network.is_scaled else 0
        sums = WARPS * TILE_M * TILE_N
        numbers = self.rates + sums + self.head + (1 + WARPS) * network.outputs
        return 8 * 16 + inputs + self.word * numbers + 4 * (2 * network.batch + 1)

    @property
    def work(self) -> int:
        """Elements that blocks hand to each other."""
        return self._places()[1] + 2 * self.rates + self.network.batch

    def definitions(self, store: Store) -> str:
        """The names that the source leaves open."""
        places, end = self._places()
        names = {
            "LAST": self.network.layers[-1].ins,
            "RATES": end,
            "LOSSES": end + 2 * self.rates,
            "TF32": int(self.is_tf32),
        }
        layers = zip(self.network.layers, places)
        known = [{**each.places(store), **own} for each, own in layers]
        return self.network.definitions(self.dtype, names, known)

    def _places(self) -> tuple[list[dict[str, int]], int]:
        """The sizes of each layer, and where its sums Z, value Y and gradient DZ of Z lie in
        `work`. And where that goes on."""
        found, end = [], 0
        for layer in self.network.layers:
            own = {"INS": layer.ins, "OUTS": layer.outs}
            for name in ("Z", "Y", "DZ"):
                size = self.network.batch * layer.outs
                own[name], end = end, rounded(end + size, ALIGNMENT)
            found.append(own)
        return found, end


def _gradient_tiles(layer: Layer) -> int:
    return ceil((layer.ins + (layer.bias is not None)) / TILE_M) * ceil(layer.outs / TILE_N)
