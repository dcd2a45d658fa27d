"""A small network's training as one launch for many steps: its weights stay in shared memory.

Takes launch lists of one hidden layer and nothing beside it; for all others, and where the device
has no room, there is the list, which is its reference.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from gpunet.device import Array
from gpunet.kernels.activation import ACTIVATIONS
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.registry import C_TYPES, source_text
from gpunet.kernels.slots import THREADS
from gpunet.kernels.update import OPTIMIZERS, SLOTS

if TYPE_CHECKING:
    from gpunet.engine import Launch, Store

MOST_FLOPS = 50_000_000
"""Of a step. Larger products are worth the whole GPU, which they get one after the other."""
UNITS = (1, 2, 4, 8)
"""Hidden units of a block: as few as keep all blocks on the GPU at once."""
MOST_STEPS = 1 << 20
"""Of a launch: it counts in 32 bits how often blocks have met."""
JUDGED = ("softmax_cross_entropy", "sigmoid_cross_entropy")
INPUTS = {"uint8": "unsigned char", "float32": "float", "float64": "double"}
LIST = re.compile(
    r"tick (?:gather )?(?:gather |gather_labels )?gemm (?P<act>\w+)_forward gemm"
    r" (?:identity_forward )?(?P<loss>\w+) (?:column_sums )?gemm gemm (?P=act)_backward gemm"
    r" (?P<optimizer>\w+)"
)


@dataclass(frozen=True)
class Network:
    """What a list computes. `weights`: matrix and bias of each layer, by the names of their slots;
    x, y: data, and the order in which rows are taken; scale and shift of x."""

    act: str
    loss: str
    optimizer: str
    weights: tuple[str | None, ...]
    sizes: tuple[int, int, int, int]  # rows of the batch, inputs, hidden units, outputs
    x: Array
    y: Array
    scale: Array
    shift: Array
    order: Array

    @property
    def flops(self) -> int:
        batch, inputs, hidden, outputs = self.sizes
        return 6 * batch * hidden * (inputs + outputs)

    def shared_bytes(self, units: int, dtype: str) -> int:
        """What a block of so many hidden units keeps: see `tiny_train`."""
        batch, inputs, _, outputs = self.sizes
        own = (1 + len(SLOTS[self.optimizer])) * (units * (inputs + outputs + 1) + outputs)
        numbers = own + batch * (3 * units + outputs) + 4 * 10
        return numbers * np.dtype(dtype).itemsize + 8 * (batch + THREADS + 7 + 16)

    def definitions(self, units: int, dtype: str) -> str:
        """The names that tiny.cu leaves open."""
        is_softmax = self.loss == "softmax_cross_entropy"
        names = {
            "UNITS": units,
            "SLOTS": len(SLOTS[self.optimizer]),
            "MOVE": f"{self.optimizer}_step",
            "ACT": f"f_{self.act}",
            "SLOPE": f"f_{self.act}_grad",
            "SOFTMAX": int(is_softmax),
            "LOSS": f"loss_{self.loss}",
            "LOSS_GRADIENT": f"loss_{self.loss}_grad",
            "CONSTANT(column)": f"parameter[{'column' if self.loss == 'pinball' else 0}]",
            "MEAN": int(self.loss != "sum_squares"),
            "JUDGED": int(self.loss in JUDGED),
        }
        types = {
            "Input": INPUTS[str(self.x.dtype)],
            "Target": "int" if is_softmax else C_TYPES[dtype],
        }
        lines = [f"#define {name} {value}" for name, value in names.items()]
        return "\n".join((*lines, *(f"typedef {c} {name};" for name, c in types.items()), ""))


def recognised(launches: "Sequence[Launch]") -> Network | None:
    """What a list computes; None where it is another kind of list."""
    known = LIST.fullmatch(" ".join(each.name for each in launches))
    if known is None or known["act"] not in ACTIVATIONS or known["loss"] not in LOSSES:
        return None
    gathers = {each.writes[0]: each.arguments for each in launches if "gather" in each.name}
    rest = [each.arguments for each in launches if each.writes[0] not in gathers]
    (x, w1, _), (_, b1, *_), (_, w2, _), then = rest[1:5]
    (judge,) = (each.arguments for each in launches if each.name == known["loss"])
    if judge[2] is not None or known["optimizer"] not in OPTIMIZERS:
        return None
    slots = (w1, w2, b1, None if then is judge else then[1])
    data, scale, shift, order, *_ = gathers.get(x, (x, None, None, None))
    target = gathers.get(judge[1], (judge[1],))[0]
    given = {"x": data, "y": target, "scale": scale, "shift": shift, "order": order}
    return Network(
        known["act"],
        known["loss"],
        known["optimizer"],
        tuple(None if slot is None else slot.name for slot in slots),
        (x.shape[0], *w1.shape, w2.shape[1]),
        **{name: None if slot is None else slot.array for name, slot in given.items()},
    )


def bound(
    launches: "Sequence[Launch]", store: "Store", otherwise: Callable[[int], None] | None
) -> "Tiny | None":
    """The list in one launch, where it is of such a network and the device has room for it; should
    that fail, it goes on as `otherwise` does."""
    most, room = store.device.room()
    network = recognised(launches) if most else None
    if network is None or network.flops > MOST_FLOPS:
        return None
    for units in UNITS:
        blocks = ceil(network.sizes[2] / units)
        shared = network.shared_bytes(units, str(store.values.dtype))
        if blocks <= most and shared <= room:
            return Tiny(network, launches, store, units, otherwise)
    return None


class Tiny:
    """tiny(steps): so many steps in one launch. `units`: hidden units of a block."""

    def __init__(
        self,
        network: Network,
        launches: "Sequence[Launch]",
        store: "Store",
        units: int,
        otherwise: Callable[[int], None] | None,
    ) -> None:
        device, dtype = store.device, str(store.values.dtype)
        self.otherwise, self.reason = otherwise, ""
        self.blocks = ceil(network.sizes[2] / units)
        self.shared = network.shared_bytes(units, dtype)
        source = source_text("tiny.cu", dtype, generated=network.definitions(units, dtype))
        self.open = device.launcher(source, "tiny_open")
        self.train = device.meeting(source, "tiny_train", self.blocks, self.shared)
        batch, inputs, hidden, outputs = network.sizes
        self.gate = device.zeros((2,), np.uint32)
        shares = device.zeros((2 * self.blocks * batch * outputs,), dtype)
        data = (network.x, network.y, network.scale, network.shift, network.order)
        state = (*store.state, None, None)[:2]
        arrays = (*data, store.values, *state, *_places(network, store), *_scalars(launches))
        given = (*arrays, shares, self.gate)
        self.pointers = tuple(np.uint64(0) if each is None else each for each in given)
        entries = len(launches[0].arguments[2])
        self.sizes = tuple(map(np.int64, (batch, inputs, hidden, outputs, entries)))

    def __str__(self) -> str:
        return str(self.otherwise) if self.reason else "CUDA, many steps a launch"

    def __call__(self, steps: int) -> None:
        while steps and not self.reason:
            some = min(steps, MOST_STEPS)
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
        given = (*self.pointers, np.int64(steps), *self.sizes)
        self.train((self.blocks,), block, self.shared, given)

    def _give_up(self, reason: Exception) -> None:
        if self.otherwise is None:
            raise reason
        self.reason = f"{type(reason).__name__}: {reason}".splitlines()[0]
        message = f"no launch of many steps, but one of each kernel: {self.reason}"
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _places(network: Network, store: "Store") -> tuple[Array, Array, Array]:
    """Where each layer's matrix and bias lie in the flat vectors, -1 where there is none; their
    shares of the learning rate and of the decay."""
    starts, rates, decays = (
        store.device.to_host(each) for each in (store.starts, store.rates, store.decays)
    )
    places = [-1 if name is None else store.views[name][0].start for name in network.weights]
    segments = [np.searchsorted(starts[:-1], max(place, 0), "right") - 1 for place in places]
    return tuple(
        store.device.asarray(each, dtype)
        for each, dtype in (
            (places, np.int64),
            (rates[segments], np.float64),
            (decays[segments], np.float64),
        )
    )


def _scalars(launches: "Sequence[Launch]") -> tuple[Array, ...]:
    """hyper, schedule, clock, the loss's parameter, totals."""
    clock, hyper, table = (slot.array for slot in launches[0].arguments[:3])
    (judge,) = (each.arguments for each in launches if each.name in LOSSES)
    return hyper, table, clock, judge[3].array, judge[7].array
