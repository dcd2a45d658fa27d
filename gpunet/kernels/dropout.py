"""Dropout: y = x / keep where a random lane is below the threshold, else 0.

The mask is a function of (key, step, layer), so nothing is kept: the same kernel, run on the
gradient, is the backward pass. Micro-batches take up the mask of their batch where the one before
them left it. `y` may be `x`. Activations have kernels that do the dropout beside them too: `beside`
makes those.
"""

from dataclasses import replace
from functools import partial
from inspect import signature
from math import ceil
from typing import Any

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Kernel, Reference, Run, Stage, named, register, run_all
from gpunet.kernels.slots import BEFORE, FADE, STEP, THREADS
from gpunet.kernels.tiles import TILE

LANES = 16
"""Elements that a Philox block decides: its four words are sixteen lanes of 16 bits, low first."""
MASK = ("rate", "hyper", "key", "clock", "layer")
"""The arguments that make the mask."""


def dropout(
    x: Array, rate: Array, hyper: Array, key: Array, clock: Array, layer: int, y: Array
) -> Run:
    """Element i of the batch, of which x (n, m) are rows from clock[BEFORE] on, stays where lane
    i % 16 of Philox block i // 16 is below keep16 = round((1 - rate * hyper[FADE]) * 65536), times
    65536 / keep16. rate (1,), key uint64 (2,)."""
    step = LANES * max(1, TILE // (LANES * max(1, x.shape[1])))
    parts = [slice(first, first + step) for first in range(0, len(x), step)]
    tiles = [(x[part], y[part]) for part in parts]

    def run() -> None:
        keep16 = int(np.rint((1.0 - float(rate[0]) * float(hyper[FADE])) * 65536))
        scale = 65536 / keep16 if keep16 else 0.0
        block, within = divmod(int(clock[BEFORE]) * x.shape[1], LANES)
        generator = np.random.Philox(key=key, counter=[block, 0, int(clock[STEP]), layer])
        left = _lanes(generator, within)[within:]
        for inside, outside in tiles:
            drawn = _lanes(generator, inside.size - len(left))
            lanes = np.concatenate([left, drawn]) if len(left) else drawn
            lanes, left = lanes[: inside.size], lanes[inside.size :]
            np.multiply(inside, scale, out=outside)
            np.copyto(outside, 0, where=lanes.reshape(inside.shape) >= keep16)

    return run


def beside(kernel: Kernel) -> Kernel:
    """An activation's forward with the dropout of its y behind it, or its backward behind the
    dropout of grad; among their arguments are those of the mask, and `dropped`, dropout's y.

    The forward's own y may be None: then it is kept nowhere.
    """
    stem, _, way = kernel.name.rpartition("_")
    is_forward = way == "forward"
    return replace(
        kernel,
        name=f"{stem}_dropped_{way}",
        reference=_Behind(kernel.reference) if is_forward else _Before(kernel.reference),
        source=f"mask.h {kernel.source}",
        outputs=(*kernel.outputs, "dropped") if is_forward else kernel.outputs,
        dropped=None,
    )


class _Behind:
    """The reference of a forward, and of the dropout of its y."""

    def __init__(self, forward: Reference) -> None:
        self.forward = forward
        *given, work = signature(forward).parameters
        self.__signature__ = named(*given, *MASK, "dropped", work)

    def __call__(self, *arguments: Any) -> Run:
        *given, y, rate, hyper, key, clock, layer, dropped, work = arguments
        value = dropped if y is None else y
        forward = self.forward(*given, value, work)
        mask = dropout(value, rate, hyper, key, clock, layer, dropped)
        return partial(run_all, (forward, mask))


class _Before:
    """The reference of the dropout of a gradient, and of a backward from there."""

    def __init__(self, backward: Reference) -> None:
        self.backward = backward
        grad, *others = signature(backward).parameters
        self.__signature__ = named(grad, *MASK, *others)
        self.place = others.index("dz")

    def __call__(self, grad: Array, *arguments: Any) -> Run:
        rate, hyper, key, clock, layer, *others = arguments
        dz = others[self.place]
        mask = dropout(grad, rate, hyper, key, clock, layer, dz)
        return partial(run_all, (mask, self.backward(dz, *others)))


def _lanes(generator: np.random.Philox, count: int) -> Array:
    """So many lanes, and the rest of the last one's block."""
    words = generator.random_raw(ceil(max(count, 0) / LANES) * 4)
    return words.astype("<u8", copy=False).view("<u2")


register(
    dropout,
    "mask.h dropout.cu",
    outputs="y",
    typed_by="x",
    stages=(Stage("dropout", lambda x, *rest: (min(ceil(x.size / (LANES * THREADS)), 65_536),)),),
)
