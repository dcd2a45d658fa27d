"""float32 to bfloat16, in which products may take their operands. NumPy has no such type: its bits
are uint16, the upper half of those of the float32."""

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, per_element, register


def narrow(x: Array, y: Array) -> Run:
    """y = the bfloat16 nearest to x, of two the even one; NaN stays NaN."""

    def run() -> None:
        y[...] = nearest(x)

    return run


def nearest(x: Array) -> Array:
    """The bits of the bfloat16 nearest to each number."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    even = bits >> 16 & 1
    rounded = np.where(np.isnan(x), bits | 0x400000, bits + (0x7FFF + even))
    return (rounded >> 16).astype(np.uint16)


def widened(bits: Array) -> Array:
    """The float32 numbers whose bfloat16 bits these are."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


NARROW = register(
    narrow,
    "narrow.cu",
    outputs="y",
    typed_by=None,
    sizes=lambda x, y: (x.size,),
    stages=(Stage("narrow", lambda x, y: per_element(x)),),
)
