"""Activations with their bias: y = f(z + bias), and dz = grad * f'(z + bias) with its column sums.

`z` may be `y`, and `dz` may be `grad`. Where f' follows from y alone, `z` is not read, so a
caller that has no other use for it may let `y` take its place. A parametric activation has a share
a of f for each column: y = u + a * (f(u) - u), u = z + bias; its backward reads z.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from gpunet.device import Array
from gpunet.kernels import dropout
from gpunet.kernels.registry import Kernel, Reference, Run, Stage, register
from gpunet.kernels.tiles import (
    bias_folds,
    column_chunks,
    column_folds,
    column_tiles,
    scratch,
    tile_size,
    tiled,
)

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
GELU_SCALE, GELU_CUBE = 0.7978845608028654, 0.044715


Work = Sequence[Array]


class Activation(NamedTuple):
    """`value(y, work)` turns pre-activations into activations in place; `slope(s, y, out, work)`
    writes f' to `out`, from the pre-activation `s` where `reads_input`, else from `y` alone.
    `work` is scratch: two arrays of y's shape. Where a `selects` slope is 0, so is the gradient, be
    the one from upstream infinite."""

    value: Callable[[Array, Work], None]
    slope: Callable[[Array, Array, Array, Work], None]
    reads_input: bool
    selects: bool = False


def identity(y: Array, work: Work) -> None:
    """y = x."""


def identity_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    out.fill(1)


def sigmoid(y: Array, work: Work) -> None:
    """y = 1 / (1 + exp(-x))."""
    np.negative(y, out=y)
    np.exp(y, out=y)
    np.add(y, 1, out=y)
    np.reciprocal(y, out=y)


def sigmoid_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """y * (1 - y)."""
    np.subtract(1, y, out=out)
    np.multiply(out, y, out=out)


def tanh(y: Array, work: Work) -> None:
    """y = tanh(x)."""
    np.tanh(y, out=y)


def tanh_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """1 - y²."""
    np.multiply(y, y, out=out)
    np.subtract(1, out, out=out)


def relu(y: Array, work: Work) -> None:
    """y = max(x, 0)."""
    np.maximum(y, _zeros(work[0]), out=y)


def relu_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """1 where y > 0, else 0."""
    np.greater(y, 0, out=out)


def selu(y: Array, work: Work) -> None:
    """y = scale * (x if x > 0 else alpha * (exp(x) - 1)); Klambauer et al., 2017."""
    below, zeros = work[0], _zeros(work[1])
    np.minimum(y, zeros, out=below)
    np.expm1(below, out=below)
    np.multiply(below, SELU_ALPHA, out=below)
    np.maximum(y, zeros, out=y)
    np.add(y, below, out=y)
    np.multiply(y, SELU_SCALE, out=y)


def selu_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """scale where y > 0, else y + scale * alpha."""
    np.minimum(y, 0, out=out)
    np.add(out, SELU_SCALE * SELU_ALPHA, out=out)
    np.greater(y, 0, out=work[0])
    np.multiply(work[0], SELU_SCALE * (SELU_ALPHA - 1), out=work[0])
    np.subtract(out, work[0], out=out)


def gelu(y: Array, work: Work) -> None:
    """y = x/2 * (1 + tanh(u)) = x * sigmoid(2u), u = c * (x + 0.044715 x³), c = sqrt(2/π)."""
    share = _gelu_share(y, work[0])
    np.multiply(y, share, out=y)


def gelu_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """g + x * 2u' * g * (1 - g), g = sigmoid(2u), u' = c * (1 + 3 * 0.044715 x²)."""
    g, rest = _gelu_share(s, work[0]), work[1]
    np.multiply(s, s, out=out)
    np.multiply(out, 3 * GELU_CUBE, out=out)
    np.add(out, 1, out=out)
    np.subtract(1, g, out=rest)
    np.multiply(rest, g, out=rest)
    np.multiply(out, rest, out=out)
    np.multiply(out, s, out=out)
    np.multiply(out, 2 * GELU_SCALE, out=out)
    np.add(out, g, out=out)


def silu(y: Array, work: Work) -> None:
    """y = x * sigmoid(x)."""
    np.copyto(work[0], y)
    sigmoid(work[0], work)
    np.multiply(y, work[0], out=y)


def silu_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """g * (1 + x * (1 - g)), g = sigmoid(x)."""
    g = work[0]
    np.copyto(g, s)
    sigmoid(g, work)
    np.subtract(1, g, out=out)
    np.multiply(out, s, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, g, out=out)


def mish(y: Array, work: Work) -> None:
    """y = x * tanh(softplus(x)); Misra, 2019."""
    t = _tanh_softplus(y, work[0])
    np.multiply(y, t, out=y)


def mish_slope(s: Array, y: Array, out: Array, work: Work) -> None:
    """t + x * (1 - t²) * sigmoid(x), t = tanh(softplus(x))."""
    t, rest = _tanh_softplus(s, work[0]), work[1]
    np.copyto(out, s)
    sigmoid(out, work)
    np.multiply(out, s, out=out)
    np.multiply(t, t, out=rest)
    np.subtract(1, rest, out=rest)
    np.multiply(out, rest, out=out)
    np.add(out, t, out=out)


def _zeros(out: Array) -> Array:
    """NumPy compares two arrays several times as quickly as an array and a number."""
    out.fill(0)
    return out


def _tanh_softplus(x: Array, out: Array) -> Array:
    np.logaddexp(x, 0, out=out)
    return np.tanh(out, out=out)


def _gelu_share(x: Array, out: Array) -> Array:
    np.multiply(x, x, out=out)
    np.multiply(out, GELU_CUBE, out=out)
    np.add(out, 1, out=out)
    np.multiply(out, x, out=out)
    np.multiply(out, 2 * GELU_SCALE, out=out)
    sigmoid(out, ())
    return out


ACTIVATIONS = {
    "identity": Activation(identity, identity_slope, False),
    "sigmoid": Activation(sigmoid, sigmoid_slope, False),
    "tanh": Activation(tanh, tanh_slope, False),
    "relu": Activation(relu, relu_slope, False, selects=True),
    "selu": Activation(selu, selu_slope, False),
    "gelu": Activation(gelu, gelu_slope, True),
    "silu": Activation(silu, silu_slope, True),
    "mish": Activation(mish, mish_slope, True),
}


def forward_of(activation: Activation) -> Reference:
    """The reference of y = f(z + bias)."""

    def forward(z: Array, bias: Array | None, y: Array, work: Array) -> Run:
        tiles = [(before, after, scratch(work, after, 2)) for before, after in tiled(z, y)]

        def run() -> None:
            for before, after, spare in tiles:
                _add_bias(before, bias, after)
                activation.value(after, spare)

        return run

    return forward


def backward_of(activation: Activation) -> Reference:
    """The reference of dz = grad * f'(z + bias), with its column sums."""

    def backward(
        grad: Array,
        z: Array,
        bias: Array | None,
        y: Array,
        dz: Array,
        dbias: Array | None,
        work: Array,
    ) -> Run:
        tiles = [(scratch(work, each[0], 4), *each) for each in tiled(grad, z, y, dz)]
        ones = np.ones(len(dz), dz.dtype)

        def run() -> None:
            for (s, slope, *spare), upstream, before, after, out in tiles:
                if activation.reads_input:
                    _add_bias(before, bias, s)
                activation.slope(s, after, slope, spare)
                np.multiply(upstream, slope, out=out)
                if activation.selects and np.isnan(out).any():
                    np.copyto(out, 0, where=slope == 0)
            if dbias is not None:
                np.matmul(ones, dz, out=dbias)

        return run

    return backward


def parametric_forward_of(activation: Activation) -> Reference:
    """The reference of y = u + share * (f(u) - u), u = z + bias."""

    def forward(z: Array, bias: Array | None, share: Array, y: Array, work: Array) -> Run:
        tiles = [(before, after, scratch(work, after, 3)) for before, after in tiled(z, y)]

        def run() -> None:
            for before, after, (u, *spare) in tiles:
                _add_bias(before, bias, after)
                np.copyto(u, after)
                activation.value(after, spare)
                np.subtract(after, u, out=after)
                np.multiply(after, share, out=after)
                np.add(after, u, out=after)

        return run

    return forward


def parametric_backward_of(activation: Activation) -> Reference:
    """The reference of dz = grad * (1 + share * (f'(u) - 1)), with its column sums, and of
    dshare = the column sums of grad * (f(u) - u)."""

    def backward(
        grad: Array,
        z: Array,
        bias: Array | None,
        share: Array,
        dz: Array,
        dbias: Array | None,
        dshare: Array,
        work: Array,
    ) -> Run:
        tiles = [(scratch(work, each[0], 5), *each) for each in tiled(grad, z, dz)]
        ones, part = np.ones(len(dz), dz.dtype), np.empty_like(dshare)

        def run() -> None:
            dshare.fill(0)
            for (u, value, slope, *spare), upstream, before, out in tiles:
                _add_bias(before, bias, u)
                np.copyto(value, u)
                activation.value(value, spare)
                activation.slope(u, value, slope, spare)
                np.subtract(value, u, out=value)
                np.multiply(value, upstream, out=value)
                np.add(dshare, np.matmul(ones[: len(value)], value, out=part), out=dshare)
                np.subtract(slope, 1, out=slope)
                np.multiply(slope, share, out=slope)
                np.add(slope, 1, out=slope)
                np.multiply(upstream, slope, out=out)
            if dbias is not None:
                np.matmul(ones, dz, out=dbias)

        return run

    return backward


def _add_bias(z: Array, bias: Array | None, out: Array) -> None:
    if bias is None:
        np.copyto(out, z)
    else:
        np.add(z, bias, out=out)


_register = partial(register, beside=dropout.beside)


def _register_pair(name: str, activation: Activation) -> tuple[Kernel, Kernel]:
    forward = _register(
        forward_of(activation),
        "activation.cu",
        name=f"{name}_forward",
        variant=name,
        outputs="y",
        typed_by="z",
        stages=(Stage("forward", column_tiles),),
        work=lambda z, *rest: 2 * tile_size(z),
    )
    backward = _register(
        backward_of(activation),
        "activation.cu",
        name=f"{name}_backward",
        variant=name,
        outputs="dz dbias",
        typed_by="grad",
        stages=(Stage("backward", column_tiles), Stage("fold_bias_gradient", bias_folds)),
        work=lambda grad, *rest: max(4 * tile_size(grad), column_chunks(grad) * grad.shape[1]),
    )
    return forward, backward


def _register_parametric(name: str, activation: Activation) -> tuple[Kernel, Kernel]:
    forward = _register(
        parametric_forward_of(activation),
        "parametric.cu",
        name=f"parametric_{name}_forward",
        variant=name,
        outputs="y",
        typed_by="z",
        stages=(Stage("forward", column_tiles),),
        work=lambda z, *rest: 3 * tile_size(z),
    )
    backward = _register(
        parametric_backward_of(activation),
        "parametric.cu",
        name=f"parametric_{name}_backward",
        variant=name,
        outputs="dz dbias dshare",
        typed_by="grad",
        stages=(Stage("backward", column_tiles), Stage("fold_gradients", column_folds)),
        work=lambda grad, *rest: max(5 * tile_size(grad), 2 * column_chunks(grad) * grad.shape[1]),
    )
    return forward, backward


PAIRS = {name: _register_pair(name, activation) for name, activation in ACTIVATIONS.items()}
"""Name of the activation → its forward and backward kernel."""
PARAMETRIC = {
    name: _register_parametric(name, activation)
    for name, activation in ACTIVATIONS.items()
    if name != "identity"
}
"""The same of its parametric form."""
