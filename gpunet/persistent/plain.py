"""Launch lists of plain layers, each with the same activation, and nothing beside them: what they
compute, so that a kernel of its own can do it for many steps."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gpunet.device import Array
from gpunet.kernels import REGISTRY
from gpunet.kernels.activation import ACTIVATIONS
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.registry import C_TYPES
from gpunet.kernels.update import OPTIMIZERS, SLOTS
from gpunet.launches import Launch, Store

RATE_WORDS = 10
"""Numbers of a Rate (kernels/formulas.h): each layer's weight and its bias have one."""
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

    def places(self, store: Store) -> dict[str, int]:
        """Where its parameters start in the store's vectors; -1 for none."""
        named = {"WEIGHT": self.weight, "BIAS": self.bias}
        return {name: -1 if at is None else store.views[at][0].start for name, at in named.items()}


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
    def inputs(self) -> int:
        return self.layers[0].ins

    @property
    def outputs(self) -> int:
        return self.layers[-1].outs

    @property
    def is_scaled(self) -> bool:
        return self.scale is not None or self.shift is not None

    @property
    def wide_bytes(self) -> int | None:
        """Of the numbers that inputs are scaled in; None: those of the network."""
        return None if self.x.dtype == "uint8" else 8

    @property
    def reads_input(self) -> bool:
        """Whether the slope of the activation is one of its input."""
        return ACTIVATIONS[self.act].reads_input

    @property
    def slots(self) -> int:
        """Vectors that the optimiser keeps."""
        return len(SLOTS[self.optimizer])

    @property
    def targets(self) -> int:
        """Numbers that a row is judged by."""
        return 1 if self.loss == "softmax_cross_entropy" else self.outputs

    def target(self, dtype: str) -> str:
        """The dtype of targets, beside parameters of that dtype."""
        return "int32" if self.loss == "softmax_cross_entropy" else dtype

    def definitions(
        self, dtype: str, names: Mapping[str, object], places: Sequence[Mapping[str, int]]
    ) -> str:
        """The names that the sources leave open, with those of one of them, and of each layer."""
        is_softmax = self.loss == "softmax_cross_entropy"
        known = {
            "BATCH": self.batch,
            "INPUTS": self.inputs,
            "OUTPUTS": self.outputs,
            "LAYERS": len(self.layers),
            "SLOTS": self.slots,
            "MOVE": f"{self.optimizer}_step",
            "ACT": f"f_{self.act}",
            "SLOPE": f"f_{self.act}_grad",
            "READS_INPUT": int(self.reads_input),
            "SOFTMAX": int(is_softmax),
            "LOSS": f"loss_{self.loss}",
            "LOSS_GRADIENT": f"loss_{self.loss}_grad",
            "CONSTANT(column)": f"parameter[{'column' if self.loss == 'pinball' else 0}]",
            "MEAN": int(self.loss != "sum_squares"),
            "SCALED": int(self.is_scaled),
            **names,
        }
        if self.x.dtype == "uint8":
            known["BYTES"] = 1
        target = {"int32": "int", **C_TYPES}[self.target(dtype)]
        lines = [f"#define {name} {value}" for name, value in known.items()]
        lines += [f"typedef {INPUTS[str(self.x.dtype)]} Input;", f"typedef {target} Target;"]
        lines.append("template <int L> struct Layer;")
        for number, own in enumerate(places, 1):
            parts = ", ".join(f"{name} = {value}" for name, value in own.items())
            lines.append(
                f"template <> struct Layer<{number}> {{ enum : long long {{ {parts} }}; }};"
            )
        return "\n".join((*lines, ""))


@dataclass(frozen=True)
class Form:
    """A network, for a kernel that computes many of its steps in one launch, and its dtype."""

    network: Network
    dtype: str

    @property
    def word(self) -> int:
        """Bytes of a number."""
        return np.dtype(self.dtype).itemsize

    @property
    def rates(self) -> int:
        """Numbers that say how a step moves parameters."""
        return RATE_WORDS * 2 * len(self.network.layers)


def recognised(launches: Sequence[Launch]) -> Network | None:
    """What a list computes; None where it is another kind of list. Moves of single weights before
    the others are passed over."""
    launches = [each for each in launches if not _is_early(each)]
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


def _is_early(launch: Launch) -> bool:
    """Whether it moves a weight before the others, or shows what such moves found."""
    kernel = REGISTRY.get(launch.name)
    if kernel is None or "found" not in kernel.parameters:
        return False
    return launch.arguments[kernel.parameters.index("found")] is not None


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
