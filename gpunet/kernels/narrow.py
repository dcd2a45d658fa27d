"""float32 to bfloat16, in which products may take their operands. NumPy has no such type: its bits
are uint16, the upper half of those of the float32."""

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Run, Stage, per_four, register
from gpunet.kernels.tiles import bias_folds, column_chunks, column_tiles


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


def relu_narrow_forward(z: Array, bias: Array | None, y: Array) -> Run:
    """y = max(z + bias, 0): z (n, m) float32; bias (m,) and y (n, m) bfloat16, for products of
    that alone, which take their bias in it too."""

    def run() -> None:
        total = z if bias is None else z + widened(bias)
        y[...] = nearest(np.maximum(total, 0))

    return run


def relu_narrow_backward(grad: Array, y: Array, dz: Array, dbias: Array | None, work: Array) -> Run:
    """dz = grad where y > 0, else 0, with its column sums before they are rounded: grad (n, m)
    float32, y and dz (n, m) bfloat16, dbias (m,) float32."""

    def run() -> None:
        slope = np.where(widened(y) > 0, grad, np.float32(0))
        dz[...] = nearest(slope)
        if dbias is not None:
            slope.sum(0, out=dbias)

    return run


register(
    narrow,
    "narrow.cu",
    outputs="y",
    typed_by=None,
    sizes=lambda x, y: (x.size,),
    stages=(Stage("narrow", lambda x, y: per_four(x)),),
)
RELU = (
    register(
        relu_narrow_forward,
        "narrow.cu",
        outputs="y",
        typed_by=None,
        stages=(Stage("relu_narrow_forward", column_tiles),),
    ),
    register(
        relu_narrow_backward,
        "narrow.cu",
        outputs="dz dbias",
        typed_by=None,
        stages=(
            Stage("relu_narrow_backward", column_tiles),
            Stage("fold_narrow_gradient", bias_folds),
        ),
        work=lambda grad, *rest: column_chunks(grad) * grad.shape[1],
    ),
)
"""The ReLU between products of bfloat16: its slope follows from signs, which bfloat16 keeps."""
