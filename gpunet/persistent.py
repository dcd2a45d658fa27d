"""A network's training as one launch for many steps: the blocks of a GPU stay and meet in between.

Takes launch lists of plain layers, each with the same activation, and nothing beside them; for all
others, and where a step is large enough to be worth a launch of each product, there is the list,
which is its reference.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import numpy as np

from gpunet.device import Array
from gpunet.kernels.activation import ACTIVATIONS
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.registry import C_TYPES, source_text
from gpunet.kernels.slots import THREADS
from gpunet.kernels.update import OPTIMIZERS, SLOTS
from gpunet.launches import Launch, Store, rounded

MOST_FLOPS = {True: 1_000_000_000, False: 100_000_000}
"""Of a step, with products rounded to tf32 and without. Larger products are worth a launch."""
LEAST_STEPS = 50_000
"""It is compiled for the network's sizes, which takes as long as so many of its steps save."""
MOST_HEAD, MOST_INPUTS = 8192, 4096
"""Elements of the last weight, which every block keeps in shared memory; columns of the data."""
MOST_MEETINGS = 1 << 31
"""Of all blocks in a launch: they are counted in so many bits."""
TILE_M, TILE_N, WARPS = 32, 16, THREADS // 32
ALIGNMENT = 32
"""Elements, of each array in `work`."""
RATE_WORDS = 10
"""Numbers of a Rate (kernels/formulas.h)."""
LEAST_BLOCKS = 2
"""One works, one keeps the books."""
JUDGED = ("softmax_cross_entropy", "sigmoid_cross_entropy")
INPUTS = {"uint8": "unsigned char", "float32": "float", "float64": "double"}
LIST = re.compile(
    r"tick (?:gather )?(?:gather |gather_labels )?gemm (?P<act>\w+)_forward"
    r"(?: gemm (?P=act)_forward)* gemm (?:identity_forward )?(?P<loss>\w+) (?:column_sums )?gemm"
    r"(?: gemm (?P=act)_backward gemm)+ (?P<optimizer>\w+)"
)


@dataclass(frozen=True)
class Layer:
    """ins, outs: its sizes; weight, bias: names in the store, the bias's None where it has none."""

    ins: int
    outs: int
    weight: str
    bias: str | None

    @property
    def gradient_tiles(self) -> int:
        return ceil((self.ins + (self.bias is not None)) / TILE_M) * ceil(self.outs / TILE_N)


@dataclass(frozen=True)
class Network:
    """What a list computes on batches of so many rows. x, y: data, and the order in which rows are
    taken; scale and shift of x."""

    act: str
    loss: str
    optimizer: str
    batch: int
    layers: tuple[Layer, ...]
    x: Array
    y: Array
    scale: Array
    shift: Array
    order: Array

    @property
    def flops(self) -> int:
        return 6 * self.batch * sum(each.ins * each.outs for each in self.layers)

    @property
    def head(self) -> int:
        """Elements of the last weight."""
        return self.layers[-1].ins * self.layers[-1].outs

    @property
    def is_scaled(self) -> bool:
        return self.scale is not None or self.shift is not None

    @property
    def meetings(self) -> int:
        """Of all blocks, in a step."""
        return 2 * len(self.layers) - 1

    @property
    def rates(self) -> int:
        """Numbers that say how a step moves parameters."""
        return RATE_WORDS * 2 * len(self.layers)

    @property
    def useful_blocks(self) -> int:
        """That one part of a step or another keeps busy, and the clerk."""
        rows = ceil(self.batch / TILE_M)
        forward = max(rows * ceil(each.outs / TILE_N) for each in self.layers[:-1])
        gradients = sum(each.gradient_tiles for each in self.layers)
        return max(forward, gradients, ceil(self.batch / WARPS)) + 1

    def shared_bytes(self, dtype: str) -> int:
        """What a block keeps: see `persistent_train`."""
        word, outputs = np.dtype(dtype).itemsize, self.layers[-1].outs
        wide = word if self.x.dtype == "uint8" else 8
        inputs = 2 * wide * self.layers[0].ins if self.is_scaled else 0
        numbers = self.rates + WARPS * TILE_M * TILE_N + self.head + (1 + WARPS) * outputs
        return 8 * 16 + inputs + word * numbers + 4 * (2 * self.batch + 1)

    def places(self, store: Store) -> tuple[list[dict[str, int]], int]:
        """Where the parts of each layer lie: weight and bias in the store's vectors, -1 for none;
        the sums Z, the value Y and the gradient DZ of Z in `work`. And where that goes on."""
        found, end = [], 0
        for layer in self.layers:
            own = {"INS": layer.ins, "OUTS": layer.outs}
            for name, at in (("WEIGHT", layer.weight), ("BIAS", layer.bias)):
                own[name] = -1 if at is None else store.views[at][0].start
            for name in ("Z", "Y", "DZ"):
                own[name], end = end, rounded(end + self.batch * layer.outs, ALIGNMENT)
            found.append(own)
        return found, end

    def work(self, store: Store) -> int:
        """Elements that blocks hand to each other."""
        return self.places(store)[1] + 2 * (self.rates + self.batch)

    def definitions(self, store: Store, is_tf32: bool) -> str:
        """The names that persistent.cu leaves open."""
        dtype = str(store.values.dtype)
        is_softmax, (places, end) = self.loss == "softmax_cross_entropy", self.places(store)
        names = {
            "BATCH": self.batch,
            "INPUTS": self.layers[0].ins,
            "LAST": self.layers[-1].ins,
            "OUTPUTS": self.layers[-1].outs,
            "LAYERS": len(self.layers),
            "RATES": end,
            "LOSSES": end + 2 * self.rates,
            "HITS": end + 2 * self.rates + self.batch,
            "SLOTS": len(SLOTS[self.optimizer]),
            "MOVE": f"{self.optimizer}_step",
            "ACT": f"f_{self.act}",
            "SLOPE": f"f_{self.act}_grad",
            "READS_INPUT": int(ACTIVATIONS[self.act].reads_input),
            "SOFTMAX": int(is_softmax),
            "LOSS": f"loss_{self.loss}",
            "LOSS_GRADIENT": f"loss_{self.loss}_grad",
            "CONSTANT(column)": f"parameter[{'column' if self.loss == 'pinball' else 0}]",
            "MEAN": int(self.loss != "sum_squares"),
            "JUDGED": int(self.loss in JUDGED),
            "SCALED": int(self.is_scaled),
            "TF32": int(is_tf32),
        }
        if self.x.dtype == "uint8":
            names["BYTES"] = 1
        target = "int" if is_softmax else C_TYPES[dtype]
        lines = [f"#define {name} {value}" for name, value in names.items()]
        lines += [f"typedef {INPUTS[str(self.x.dtype)]} Input;", f"typedef {target} Target;"]
        lines.append("template <int L> struct Layer;")
        for number, own in enumerate(places, 1):
            parts = ", ".join(f"{name} = {value}" for name, value in own.items())
            lines.append(
                f"template <> struct Layer<{number}> {{ enum : long long {{ {parts} }}; }};"
            )
        return "\n".join((*lines, ""))


def recognised(launches: Sequence[Launch]) -> Network | None:
    """What a list computes; None where it is another kind of list."""
    known = LIST.fullmatch(" ".join(each.name for each in launches))
    if known is None or known["act"] not in ACTIVATIONS or known["loss"] not in LOSSES:
        return None
    (judge,) = (each.arguments for each in launches if each.name == known["loss"])
    if judge[2] is not None or known["optimizer"] not in OPTIMIZERS:
        return None
    gathers = {each.writes[0]: each.arguments for each in launches if "gather" in each.name}
    forward = launches[: [each.name for each in launches].index(known["loss"])]
    layers = _layers(forward)
    x = next(each.arguments[0] for each in forward if each.name == "gemm")
    data, scale, shift, order, *_ = gathers.get(x, (x, None, None, None))
    target = gathers.get(judge[1], (judge[1],))[0]
    given = {"x": data, "y": target, "scale": scale, "shift": shift, "order": order}
    return Network(
        known["act"],
        known["loss"],
        known["optimizer"],
        len(x),
        layers,
        **{name: None if slot is None else slot.array for name, slot in given.items()},
    )


def _layers(forward: Sequence[Launch]) -> tuple[Layer, ...]:
    """From the launches before the loss: products, with a bias and an activation behind each."""
    found = []
    for first, then in pairwise([*forward, None]):
        if first is not None and first.name == "gemm":
            weight = first.arguments[1]
            ins, outs = weight.shape
            bias = None if then is None else then.arguments[1]
            name = None if bias is None else bias.name
            found.append(Layer(ins, outs, weight.name, name))
    return tuple(found)


def bound(
    launches: Sequence[Launch], store: Store, otherwise: Callable[[int], None] | None
) -> "Persistent | None":
    """The list in one launch, where it is of such a network, the device has room for it and the
    schedule is long, or of one entry, which holds for any number of steps. Should the launch fail,
    it goes on as `otherwise` does."""
    most, room = store.device.room()
    network = recognised(launches) if most >= LEAST_BLOCKS else None
    if network is None or 1 < len(launches[0].arguments[2]) < LEAST_STEPS:
        return None
    is_tf32 = store.device.precision == "tf32" and store.values.dtype == "float32"
    if (
        network.flops > MOST_FLOPS[is_tf32]
        or network.head > MOST_HEAD
        or network.layers[0].ins > MOST_INPUTS
        or network.shared_bytes(str(store.values.dtype)) > room
    ):
        return None
    return Persistent(network, launches, store, is_tf32, otherwise)


class Persistent:
    """persistent(steps): so many steps in one launch."""

    def __init__(
        self,
        network: Network,
        launches: Sequence[Launch],
        store: Store,
        is_tf32: bool,
        otherwise: Callable[[int], None] | None,
    ) -> None:
        device, dtype = store.device, str(store.values.dtype)
        self.network, self.otherwise, self.reason = network, otherwise, ""
        self.blocks = min(device.room()[0], network.useful_blocks)
        self.most_steps = (MOST_MEETINGS - 1) // (self.blocks * network.meetings)
        self.shared = network.shared_bytes(dtype)
        generated = network.definitions(store, is_tf32)
        source = source_text("persistent.cu", dtype, generated=generated)
        self.open = device.launcher(source, "persistent_open")
        self.train = device.meeting(source, "persistent_train", self.blocks, self.shared)
        self.gate = device.zeros((1,), np.uint32)
        work = device.zeros((network.work(store),), dtype)
        data = (network.x, network.y, network.scale, network.shift, network.order)
        state = (*store.state, None, None)[:2]
        arrays = (*data, store.values, *state, *_paces(network, store), *_scalars(launches))
        given = (*arrays, work, self.gate)
        self.pointers = tuple(np.uint64(0) if each is None else each for each in given)
        self.entries = np.int64(len(launches[0].arguments[2]))

    def __str__(self) -> str:
        return str(self.otherwise) if self.reason else "CUDA, many steps a launch"

    def __call__(self, steps: int) -> None:
        while steps and not self.reason:
            some = min(steps, self.most_steps)
            try:
                self._launch(some)
            except Exception as reason:
                self._give_up(reason)
            else:
                steps -= some
        if steps:
            assert self.otherwise is not None
            self.otherwise(steps)

    def _launch(self, steps: int) -> None:
        assert self.open is not None
        assert self.train is not None
        block = (THREADS,)
        self.open((1,), block, 0, (self.gate,))
        given = (*self.pointers, np.int64(steps), self.entries)
        self.train((self.blocks,), block, self.shared, given)

    def _give_up(self, reason: Exception) -> None:
        if self.otherwise is None:
            raise reason
        self.reason = f"{type(reason).__name__}: {reason}".splitlines()[0]
        message = f"no launch of many steps, but one of each kernel: {self.reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _paces(network: Network, store: Store) -> tuple[Array, Array]:
    """Shares of the learning rate and of the decay: of each layer's weight, and of its bias."""
    starts, rates, decays = (
        store.device.to_host(each) for each in (store.starts, store.rates, store.decays)
    )
    names = [name for layer in network.layers for name in (layer.weight, layer.bias)]
    places = [0 if name is None else store.views[name][0].start for name in names]
    segments = np.searchsorted(starts[:-1], places, "right") - 1
    return tuple(store.device.asarray(each[segments], np.float64) for each in (rates, decays))


def _scalars(launches: Sequence[Launch]) -> tuple[Array, ...]:
    """hyper, schedule, clock, the loss's parameter, totals."""
    clock, hyper, table = (slot.array for slot in launches[0].arguments[:3])
    (judge,) = (each.arguments for each in launches if each.name in LOSSES)
    return hyper, table, clock, judge[3].array, judge[7].array
