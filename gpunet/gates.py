"""The gates: each one's value and local gradients, forward and backward on one screen.

Every gate multiplies the upstream gradient by its local one. `local` spells the local gradients
in the gate's own names: inputs x, y (or a, b, … in the order taken), output z. Elementwise gates
broadcast as NumPy does, and sum their gradients back to each input's shape.
"""

import operator
from collections.abc import Sequence
from itertools import pairwise
from math import inf, prod
from typing import Any

import numpy as np

from gpunet import kernels
from gpunet.device import Array
from gpunet.graph import Gate, Shape
from gpunet.kernels import REGISTRY
from gpunet.kernels.slots import FADE, NORM_EPSILON, STEP, VALID
from gpunet.random import Purpose
from gpunet.sizes import counted


class Elementwise(Gate):
    """A gate whose Jacobian is diagonal: `_pull` writes grad * dz/d(input i), never a matrix."""

    local: tuple[str, ...]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        given = len(getattr(cls, "local", ()))
        if given not in (0, cls.least):
            found = f"{counted(given, 'local gradient')} of {counted(cls.least, 'input')}"
            raise TypeError(f"{cls.__name__} spells {found}")

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> object:
        raise NotImplementedError

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        for i, out in enumerate(grads):
            if out is None:
                continue
            whole = out if out.shape == grad.shape else xp.empty_like(grad, order="C")
            self._demand_written(self._pull(xp, grad, i, whole), whole)
            if whole is not out:
                sum_to_shape(xp, whole, out)


def sum_to_shape(xp: Any, whole: Array, out: Array) -> None:
    """Undo a broadcast: write the sums of `whole` over the broadcast axes to `out`."""
    lead = whole.ndim - out.ndim
    axes = (*range(lead), *(lead + i for i, n in enumerate(out.shape) if n == 1))
    xp.sum(whole, axis=axes, keepdims=True, out=out.reshape((1,) * lead + out.shape))


class Add(Elementwise):
    """z = x + y; dx = dz, dy = dz."""

    local = ("1", "1")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.add(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.copyto(out, grad)


class Subtract(Elementwise):
    """z = x - y; dx = dz, dy = -dz."""

    local = ("1", "-1")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.subtract(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.multiply(grad, -1 if i else 1, out=out)


class Multiply(Elementwise):
    """z = x * y; dx = dz * y, dy = dz * x."""

    saves = ("inputs",)
    local = ("y", "x")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.multiply(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.multiply(grad, self.inputs[1 - i], out=out)


class Divide(Elementwise):
    """z = x / y; dx = dz / y, dy = -dz * z / y."""

    saves = ("inputs", "output")
    local = ("1 / y", "-z / y")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.divide(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.divide(grad, self.inputs[1], out=out)
        if i == 1:
            xp.multiply(out, self.output, out=out)
            xp.negative(out, out=out)


class Negate(Elementwise):
    """z = -x; dx = -dz."""

    local = ("-1",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.negative(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.negative(grad, out=out)


class Power(Elementwise):
    """z = x ** y; dx = dz * y * x ** (y - 1), 0 where y is 0; dy = dz * z * log(x), 0 where x is 0
    and y is not negative."""

    saves = ("inputs", "output")
    local = ("y * x ** (y - 1)", "z * log(x)")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.power(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        x, y = self.inputs
        if i == 0:
            xp.power(x, xp.where(y == 0, 1, y) - 1, out=out)
            xp.multiply(out, y, out=out)
        else:
            xp.log(xp.where((x == 0) & (y >= 0), 1, x), out=out)
            xp.multiply(out, self.output, out=out)
        xp.multiply(out, grad, out=out)


class Exp(Elementwise):
    """z = exp(x); dx = dz * z."""

    saves = ("output",)
    local = ("z",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.exp(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.multiply(grad, self.output, out=out)


class Log(Elementwise):
    """z = log(x); dx = dz / x."""

    saves = ("inputs",)
    local = ("1 / x",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.log(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.divide(grad, self.inputs[0], out=out)


class Sqrt(Elementwise):
    """z = sqrt(x); dx = dz / (2 z)."""

    saves = ("output",)
    local = ("0.5 / z",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.sqrt(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.divide(grad, self.output, out=out)
        xp.multiply(out, 0.5, out=out)


class Abs(Elementwise):
    """z = |x|; dx = dz * sign(x), 0 at 0."""

    saves = ("inputs",)
    local = ("sign(x)",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.abs(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        _share(xp, grad, xp.sign(self.inputs[0]), out)


def _share(xp: Any, grad: Array, share: Array, out: Array) -> None:
    """grad * share, and 0 where the share is, of an infinite gradient too."""
    xp.multiply(grad, share, out=out)
    if xp.isnan(out).any():  # to look takes less than to select
        xp.copyto(out, 0, where=share == 0)


def _ahead(xp: Any, x: Array, y: Array) -> Array:
    """1 where x is larger, 0.5 at a tie, 0 where it is smaller, and NaN where either is."""
    return xp.where(x == y, 0, xp.sign(x - y)) / 2 + 0.5


class Maximum(Elementwise):
    """z = max(x, y); the larger takes dz, at a tie each takes half."""

    saves = ("inputs",)
    local = ("(1 + sign(x - y)) / 2", "(1 + sign(y - x)) / 2")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.maximum(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        _share(xp, grad, _ahead(xp, self.inputs[i], self.inputs[1 - i]), out)


class Minimum(Elementwise):
    """z = min(x, y); the smaller takes dz, at a tie each takes half."""

    saves = ("inputs",)
    local = ("(1 + sign(y - x)) / 2", "(1 + sign(x - y)) / 2")

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.minimum(x, y, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        _share(xp, grad, _ahead(xp, self.inputs[1 - i], self.inputs[i]), out)


class Sin(Elementwise):
    """z = sin(x); dx = dz * cos(x)."""

    saves = ("inputs",)
    local = ("cos(x)",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.sin(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.multiply(grad, xp.cos(self.inputs[0]), out=out)


class Cos(Elementwise):
    """z = cos(x); dx = -dz * sin(x)."""

    saves = ("inputs",)
    local = ("-sin(x)",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.cos(x, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.multiply(grad, -xp.sin(self.inputs[0]), out=out)


class Softplus(Elementwise):
    """z = log(1 + exp(x)); dx = dz * (1 - exp(-z))."""

    saves = ("output",)
    local = ("1 - exp(-z)",)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.logaddexp(x, 0, out=out)

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        xp.negative(self.output, out=out)
        xp.expm1(out, out=out)
        xp.multiply(out, grad, out=out)
        xp.negative(out, out=out)


class Activation(Elementwise):
    """z = f(x) by the fused kernel pair of that name; its bias is the Add before it."""

    @property
    def pair(self) -> tuple[kernels.Kernel, kernels.Kernel]:
        """The forward and the backward kernel."""
        return kernels.activation.PAIRS[self.op]

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        self.pair[0](_matrix(x), None, _matrix(out))

    def _pull(self, xp: Any, grad: Array, i: int, out: Array) -> None:
        x, y = _matrix(self.inputs[0]), _matrix(self.output)
        self.pair[1](_matrix(grad), x, None, y, _matrix(out), None)


def _matrix(x: Array) -> Array:
    """`x` as a kernel takes it: rows of its last axis; a view of what is contiguous."""
    return x.reshape(prod(x.shape[:-1]), prod(x.shape[-1:]))


class Identity(Activation):
    """z = x; dx = dz."""

    local = ("1",)


class Sigmoid(Activation):
    """z = 1 / (1 + exp(-x)); dx = dz * z * (1 - z)."""

    saves = ("output",)
    local = ("z * (1 - z)",)


class Tanh(Activation):
    """z = tanh(x); dx = dz * (1 - z²)."""

    saves = ("output",)
    local = ("1 - z ** 2",)


class ReLU(Activation):
    """z = max(x, 0); dx = dz where z > 0, else 0."""

    saves = ("output",)
    local = ("sign(z)",)


class SELU(Activation):
    """z = s * x where x > 0, else s * a * (exp(x) - 1); dx = dz * s, or dz * (z + s * a)."""

    saves = ("output",)
    local = ("minimum(z, 0) + 1.7580993408473766 - maximum(sign(z), 0) * 0.7073983534918961",)


class GELU(Activation):
    """z = x/2 * (1 + t), t = tanh(c * (x + 0.044715 x³)), c = sqrt(2/π);
    dx = dz * ((1 + t)/2 + x/2 * (1 - t²) * c * (1 + 0.134145 x²))."""

    saves = ("inputs",)
    local = (
        "(1 + tanh(0.7978845608 * (x + 0.044715 * x ** 3))) / 2 + x / 2"
        " * (1 - tanh(0.7978845608 * (x + 0.044715 * x ** 3)) ** 2)"
        " * 0.7978845608 * (1 + 0.134145 * x ** 2)",
    )


class SiLU(Activation):
    """z = x * g, g = 1 / (1 + exp(-x)); dx = dz * g * (1 + x * (1 - g))."""

    saves = ("inputs",)
    local = ("sigmoid(x) * (1 + x * (1 - sigmoid(x)))",)


class Mish(Activation):
    """z = x * t, t = tanh(log(1 + exp(x))); dx = dz * (t + x * (1 - t²) / (1 + exp(-x)))."""

    saves = ("inputs",)
    local = ("tanh(softplus(x)) + x * (1 - tanh(softplus(x)) ** 2) * sigmoid(x)",)


class Parametric(Gate):
    """z = x + a * (f(x) - x), a the share of an activation f that each column takes;
    dx = dz * (1 + a * (f'(x) - 1)), da = dz * (f(x) - x), added up by column."""

    saves = ("inputs",)

    def __init__(self, activation: Activation) -> None:
        self.activation = activation

    @property
    def op(self) -> str:
        return f"parametric_{self.activation.op}"

    @property
    def pair(self) -> tuple[kernels.Kernel, kernels.Kernel]:
        """The forward and the backward kernel."""
        return kernels.activation.PARAMETRIC[self.activation.op]

    def shape(self, *shapes: Shape) -> Shape:
        x, share = shapes
        if not x or share != x[-1:]:
            raise ValueError(f"a {self.op} of {x} with a share of {share}")
        return x

    def _forward(self, xp: Any, out: Array, x: Array, share: Array) -> None:
        self.pair[0](_matrix(x), None, share, _matrix(out))

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        x, share = self.inputs
        dx, dshare = _all(xp, self.inputs, grads)
        self.pair[1](_matrix(grad), _matrix(x), None, share, _matrix(dx), None, dshare)


class MatMul(Gate):
    """z = x @ y; dx = dz @ yᵀ, dy = xᵀ @ dz. Vectors count as a row on the left, a column on
    the right; leading axes broadcast."""

    saves = ("inputs",)

    def shape(self, *shapes: Shape) -> Shape:
        x, y = shapes
        if not x or not y or x[-1] != y[-2:][0]:
            raise ValueError(f"matmul of {x} and {y}")
        lead = np.broadcast_shapes(x[:-2], y[:-2])
        return (*lead, *x[-2:-1], *y[-1:][: len(y) - 1])

    def _forward(self, xp: Any, out: Array, x: Array, y: Array) -> None:
        xp.matmul(x, y, out=out)

    def _backward(self, xp: Any, grad: Array, dx: Array | None, dy: Array | None) -> None:
        x, y = self.inputs
        rows = x[None, :] if x.ndim == 1 else x
        columns = y[:, None] if y.ndim == 1 else y
        grad = grad.reshape(
            (
                *grad.shape[: grad.ndim - (x.ndim > 1) - (y.ndim > 1)],
                rows.shape[-2],
                columns.shape[-1],
            )
        )
        if dx is not None:
            _product(xp, grad, columns.swapaxes(-1, -2), dx.reshape(rows.shape))
        if dy is not None:
            _product(xp, rows.swapaxes(-1, -2), grad, dy.reshape(columns.shape))


def _product(xp: Any, a: Array, b: Array, out: Array) -> None:
    """a @ b into out, summed over the leading axes that out was broadcast along."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if lead == out.shape[:-2]:
        xp.matmul(a, b, out=out)
    else:
        sum_to_shape(xp, xp.matmul(a, b), out)


class Reduction(Gate):
    """A gate over one axis, several, or all (`axis` None); `keepdims` keeps them as ones."""

    needs_values = False

    def __init__(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> None:
        self.axis, self.keepdims = None if axis is None else _whole(axis), keepdims

    def shape(self, *shapes: Shape) -> Shape:
        kept = self._kept_shape(shapes[0])
        reduced = self._reduced(shapes[0])
        if self.needs_values and 0 in (shapes[0][axis] for axis in reduced):
            raise ValueError(f"the {self.op} of no values, in the shape {shapes[0]}")
        return kept if self.keepdims else tuple(n for i, n in enumerate(kept) if i not in reduced)

    def _reduced(self, shape: Shape) -> set[int]:
        ndim = len(shape)
        found = range(ndim) if self.axis is None else [a + ndim * (a < 0) for a in self.axis]
        if len(set(found)) != len(found) or any(not 0 <= axis < ndim for axis in found):
            wanted = ", ".join(map(str, self.axis or ()))
            raise ValueError(f"axis {wanted} of the shape {shape}")
        return set(found)

    def _kept_shape(self, shape: Shape) -> Shape:
        reduced = self._reduced(shape)
        return tuple(1 if i in reduced else n for i, n in enumerate(shape))

    def _kept(self, array: Array) -> Array:
        """`array`, an output, with the reduced axes as ones."""
        return array.reshape(self._kept_shape(self.inputs[0].shape))


def _whole(*given: int | Sequence[int]) -> tuple[int, ...]:
    """Whole numbers side by side or in one sequence, of any type that NumPy takes for them."""
    numbers: Any = given[0] if len(given) == 1 and np.ndim(given[0]) else given
    return tuple(map(operator.index, numbers))


class Sum(Reduction):
    """z = sum of x; dx = dz, spread."""

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.sum(x, axis=self.axis, keepdims=self.keepdims, out=out)

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        xp.copyto(dx, self._kept(grad))


class Mean(Reduction):
    """z = mean of x over n values; dx = dz / n, spread."""

    needs_values = True

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.mean(x, axis=self.axis, keepdims=self.keepdims, out=out)

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        shape = self.inputs[0].shape
        count = prod(shape[axis] for axis in self._reduced(shape))
        xp.divide(self._kept(grad), count, out=dx)


class Max(Reduction):
    """z = max of x; the largest takes dz, at a tie each takes its share."""

    saves = ("inputs", "output")
    needs_values = True

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.max(x, axis=self.axis, keepdims=self.keepdims, out=out)

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        x, highest = self.inputs[0], self._kept(self.output)
        largest = x == highest
        share = self._kept(grad) / largest.sum(axis=self.axis, keepdims=True)
        xp.multiply(largest, share, out=dx)
        xp.copyto(dx, 0, where=x < highest)  # of an infinite gradient too


class Reshape(Gate):
    """The same values in another shape; one -1 is worked out."""

    def __init__(self, *shape: int | Sequence[int]) -> None:
        self.target = _whole(*shape)

    def shape(self, *shapes: Shape) -> Shape:
        size, known = prod(shapes[0]), prod(n for n in self.target if n != -1)
        rest = size // known if known else 0
        shape = tuple(rest if n == -1 else n for n in self.target)
        if prod(shape) != size or self.target.count(-1) > 1 or min(shape, default=0) < 0:
            raise ValueError(f"a reshape of {shapes[0]} to {self.target}")
        return shape

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.copyto(out, x.reshape(out.shape))

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        xp.copyto(dx, grad.reshape(dx.shape))


class Transpose(Gate):
    """The axes in another order: reversed, or as given."""

    def __init__(self, *axes: int | Sequence[int]) -> None:
        self.axes = _whole(*axes) or None

    def shape(self, *shapes: Shape) -> Shape:
        return np.broadcast_to(np.float64(0), shapes[0]).transpose(self.axes).shape

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.copyto(out, x.transpose(self.axes))

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        xp.copyto(dx.transpose(self.axes), grad)


class Broadcast(Gate):
    """x repeated to a larger shape; its mirror is a sum over the repeats."""

    def __init__(self, *shape: int | Sequence[int]) -> None:
        self.target = _whole(*shape)

    def shape(self, *shapes: Shape) -> Shape:
        return np.broadcast_to(np.broadcast_to(np.float64(0), shapes[0]), self.target).shape

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.copyto(out, xp.broadcast_to(x, out.shape))

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        sum_to_shape(xp, grad, dx)


class Take(Gate):
    """z[i] = x[index[i]], rows of a table; dx adds dz up row by row, in order."""

    saves = ("inputs",)
    indices = (1,)

    def shape(self, *shapes: Shape) -> Shape:
        if not shapes[0]:
            raise ValueError("a number has no rows to take")
        return shapes[1] + shapes[0][1:]

    def _forward(self, xp: Any, out: Array, x: Array, index: Array) -> None:
        if index.dtype.kind == "b":
            raise TypeError("rows are taken by their numbers, not by true and false")
        _check_index(index, len(x))
        table, rows = (len(x), prod(x.shape[1:])), out.reshape(index.size, prod(x.shape[1:]))
        REGISTRY["take"](x.reshape(table), _row_numbers(index), rows)
        if not out.flags.c_contiguous:  # then the rows are a copy
            xp.copyto(out, rows.reshape(out.shape))

    def _backward(self, xp: Any, grad: Array, dx: Array, _: None) -> None:
        x, index = self.inputs
        table, rows = (len(x), prod(x.shape[1:])), (index.size, prod(x.shape[1:]))
        REGISTRY["scatter_add"](grad.reshape(rows), _row_numbers(index), dx.reshape(table))


def _row_numbers(index: Array) -> Array:
    return index.reshape(-1).astype(np.int32)


def _check_index(index: Array, rows: int) -> None:
    if index.size and (int(index.min()) < 0 or int(index.max()) >= rows):
        raise IndexError(f"rows {int(index.min())} to {int(index.max())} of a table of {rows}")


class Concatenate(Gate):
    """The inputs one behind another along an axis; dz is cut in the same places."""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def shape(self, *shapes: Shape) -> Shape:
        if not shapes:
            raise ValueError("a join of nothing")
        shape, axis = list(shapes[0]), self.axis + len(shapes[0]) * (self.axis < 0)
        rests = {(*s[:axis], *s[axis + 1 :], len(s)) for s in shapes}
        if len(rests) != 1 or not 0 <= axis < len(shape):
            raise ValueError(f"a join along axis {self.axis} of {', '.join(map(str, shapes))}")
        shape[axis] = sum(s[axis] for s in shapes)
        return tuple(shape)

    def _forward(self, xp: Any, out: Array, *inputs: Array) -> None:
        xp.concatenate(inputs, axis=self.axis, out=out)

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        ends = np.cumsum([x.shape[self.axis] for x in self.inputs])[:-1].tolist()
        for dx, part in zip(grads, xp.split(grad, ends, axis=self.axis)):
            if dx is not None:
                xp.copyto(dx, part)


class Columns(Gate):
    """z = x[…, first:stop]; dx is dz there, and 0 elsewhere."""

    def __init__(self, first: int, stop: int) -> None:
        if not 0 <= first <= stop:
            raise ValueError(f"columns {first} to {stop}")
        self.first, self.stop = first, stop

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if not x or self.stop > x[-1]:
            raise ValueError(f"columns {self.first} to {self.stop} of the shape {x}")
        return (*x[:-1], self.stop - self.first)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        xp.copyto(out, x[..., self.first : self.stop])

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        dx[...] = 0
        dx[..., self.first : self.stop] = grad


class Periodic(Gate):
    """z = [cos(a) @ weight + bias, x] for each feature of x (n, f), side by side: (n, f (e + 1));
    a = 2π frequency x + phase, of frequency and phase (f, k), weight (f, k, e), bias (f, e).

    With u = -sin(a) * (dz @ weightᵀ): dx = 2π frequency · u + the dz of x, and summed over the rows
    dfrequency = 2π x u, dphase = u, dweight = cos(a)ᵀ @ dz, dbias = dz. Known as PBLD: periodic,
    bias, linear, dense (Holzmüller et al., 2024, after Gorishniy et al., 2022).
    """

    saves = ("inputs",)

    def shape(self, *shapes: Shape) -> Shape:
        x, frequency, phase, weight, bias = shapes
        fits = len(weight) == 3 and frequency == phase == weight[:2] and bias == weight[::2]
        if not x or not fits or x[-1] != weight[0]:
            raise ValueError(f"waves of {', '.join(map(str, shapes))}")
        return (*x[:-1], x[-1] * (weight[2] + 1))

    def _forward(
        self,
        xp: Any,
        out: Array,
        x: Array,
        frequency: Array,
        phase: Array,
        weight: Array,
        bias: Array,
    ) -> None:
        given = (_matrix(x), frequency, phase, weight, bias)
        REGISTRY["periodic_forward"](*given, _matrix(out), 0, 0)

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        x, *waves, _ = self.inputs
        dx, *parts = _all(xp, self.inputs, grads)
        given = (_matrix(grad), _matrix(x), *waves, _matrix(dx))
        REGISTRY["periodic_backward"](*given, *parts, 0, 0)


class Piecewise(Gate):
    """z = clip((x_j - a) / (b - a), 0, 1) for each feature j of x (n, f) and each bin from a to b
    between neighbours of its rising knots, side by side: (n, bins).

    dx_j is the sum over its bins of dz / (b - a) where a < x_j < b. A feature of fewer than two
    knots has no bins. Gorishniy et al., 2022: a piecewise linear encoding.
    """

    saves = ("inputs",)

    def __init__(self, knots: Sequence[Sequence[float]]) -> None:
        self.knots = tuple(map(tuple, knots))
        for each in self.knots:
            if not np.isfinite(each).all() or any(a >= b for a, b in pairwise(each)):
                raise ValueError(f"knots that do not rise: {each}")

    @property
    def bins(self) -> int:
        return sum(max(0, len(each) - 1) for each in self.knots)

    def constants(self, dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each bin the feature, int32, where it starts, and 1 / its width."""
        found = [(j, *bin) for j, each in enumerate(self.knots) for bin in pairwise(each)]
        feature, low, high = np.array(found).reshape(-1, 3).T
        most = float(np.finfo(dtype).max)  # of a bin as narrow as a subnormal
        slope = np.minimum(1 / np.maximum(high - low, 1 / most), most)
        return feature.astype(np.int32), low.astype(dtype), slope.astype(dtype)

    def shape(self, *shapes: Shape) -> Shape:
        (x,) = shapes
        if x[-1:] != (len(self.knots),):
            raise ValueError(f"knots of {len(self.knots)} features for the shape {x}")
        return (*x[:-1], self.bins)

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        given = (_matrix(x), *map(xp.asarray, self.constants(x.dtype)))
        REGISTRY["piecewise_forward"](*given, _matrix(out), 0, 0)

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        (x,) = self.inputs
        given = (_matrix(grad), _matrix(x), *map(xp.asarray, self.constants(x.dtype)))
        REGISTRY["piecewise_backward"](*given, _matrix(dx), 0, 0, len(self.knots))


class Embedding(Gate):
    """z = rows of a table, side by side, (n, c e): for column j of codes (n, c), whole numbers, row
    starts[j] + code of table (v, e), in which the columns' tables lie one below the other. dtable
    adds dz up row by row."""

    saves = ("inputs",)
    indices = (0,)

    def __init__(self, starts: Sequence[int]) -> None:
        self.starts = tuple(starts)
        if self.starts[:1] != (0,) or any(a >= b for a, b in pairwise(self.starts)):
            raise ValueError(f"tables that start at {self.starts}")

    def shape(self, *shapes: Shape) -> Shape:
        codes, table = shapes
        if codes[-1:] != (len(self.starts),) or len(table) != 2 or table[0] <= self.starts[-1]:
            raise ValueError(f"codes of {codes} in tables of {table} that start at {self.starts}")
        return (*codes[:-1], codes[-1] * table[1])

    def _forward(self, xp: Any, out: Array, codes: Array, table: Array) -> None:
        for column, (first, stop) in enumerate(pairwise((*self.starts, len(table)))):
            _check_index(codes[..., column], stop - first)
        given = (_matrix(codes).astype(table.dtype), xp.asarray(self.starts, np.int32), table)
        REGISTRY["embedding_forward"](*given, _matrix(out), 0, 0)

    def _backward(self, xp: Any, grad: Array, _: None, dtable: Array) -> None:
        codes = self.inputs[0]
        given = (_matrix(codes).astype(grad.dtype), xp.asarray(self.starts, np.int32))
        REGISTRY["embedding_backward"](_matrix(grad), *given, dtable, 0, 0)


class Dropout(Gate):
    """z = x * mask / keep while training, else x; the mask is a function of (seed, step, layer).

    `fade` multiplies the rate at the step.
    """

    fade = 1.0

    def __init__(self, rate: float = 0.5, seed: int = 0, layer: int = 0, step: int = 0) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"a dropout rate lies in [0, 1), not {rate}")
        self.rate, self.seed, self.layer, self.step = rate, seed, layer, step

    def _forward(self, xp: Any, out: Array, x: Array) -> None:
        if not self.training:
            xp.copyto(out, x)
            return
        clock = _clock(xp, 0)
        clock[STEP] = self.step
        key = xp.asarray([self.seed, Purpose.DROPOUT], np.uint64)
        rate, hyper = xp.asarray([self.rate], x.dtype), xp.ones(16)
        hyper[FADE] = self.fade
        REGISTRY["dropout"](_matrix(x), rate, hyper, key, clock, self.layer, _matrix(out))

    def _backward(self, xp: Any, grad: Array, dx: Array) -> None:
        self._forward(xp, dx, grad)


class LayerNorm(Gate):
    """z = gain * (x - mean) / sqrt(var + 1e-5) + bias, over the last axis; Ba et al., 2016."""

    saves = ("inputs",)

    def shape(self, *shapes: Shape) -> Shape:
        return _norm_shape(*shapes)

    def _forward(self, xp: Any, out: Array, x: Array, gain: Array, bias: Array) -> None:
        rows = _matrix(x)
        self.mean, self.rstd = xp.empty((2, len(rows)), x.dtype)
        REGISTRY["layer_norm_forward"](rows, gain, bias, _matrix(out), self.mean, self.rstd)

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        x, gain, _ = self.inputs
        dx, dgain, dbias = _all(xp, self.inputs, grads)
        REGISTRY["layer_norm_backward"](
            _matrix(grad), _matrix(x), gain, self.mean, self.rstd, _matrix(dx), dgain, dbias
        )


def _norm_shape(x: Shape, gain: Shape, bias: Shape) -> Shape:
    if not x or gain != x[-1:] or bias != x[-1:]:
        raise ValueError(f"a norm of {x} with a gain of {gain} and a bias of {bias}")
    return x


class BatchNorm(Gate):
    """z = gain * (x - mean) / sqrt(var + 1e-5) + bias, over the rows while training, by the
    running figures after; Ioffe and Szegedy, 2015."""

    saves = ("inputs",)
    mixes_rows = True

    def __init__(self, columns: int) -> None:
        self.running_mean = np.zeros(columns)
        self.running_var = np.ones(columns)

    def shape(self, *shapes: Shape) -> Shape:
        wanted = len(self.running_mean)
        if len(shapes[0]) != 2 or shapes[0][1] != wanted:
            raise ValueError(f"a batch norm of {shapes[0]}, not of rows of {wanted} columns")
        return _norm_shape(*shapes)

    def _forward(self, xp: Any, out: Array, x: Array, gain: Array, bias: Array) -> None:
        running = (
            xp.asarray(self.running_mean, x.dtype),
            xp.asarray(self.running_var, x.dtype),
        )
        self.is_of_batch = self.training
        if self.training:
            self.mean, self.rstd = xp.empty_like(gain), xp.empty_like(gain)
            clock = _clock(xp, len(x))
            REGISTRY["batch_norm_forward"](
                x, gain, bias, *running, clock, out, self.mean, self.rstd
            )
            self.running_mean, self.running_var = running
        else:
            self.mean, self.rstd = running[0], 1 / xp.sqrt(running[1] + NORM_EPSILON)
            REGISTRY["batch_norm_apply"](x, gain, bias, *running, out)

    def _backward(self, xp: Any, grad: Array, *grads: Array | None) -> None:
        x, gain, _ = self.inputs
        dx, dgain, dbias = _all(xp, self.inputs, grads)
        if self.is_of_batch:
            REGISTRY["batch_norm_backward"](
                grad, x, gain, self.mean, self.rstd, _clock(xp, len(x)), dx, dgain, dbias
            )
            return
        xp.multiply(grad, gain * self.rstd, out=dx)
        xp.sum(grad * ((x - self.mean) * self.rstd), axis=0, out=dgain)
        xp.sum(grad, axis=0, out=dbias)


class Loss(Gate):
    """z = the loss of a batch of predictions (n, k), by the fused kernel of that name.

    `parameter` is the loss's own number, if it has one. It is the default, or between 0 and
    `below`; ValueError where it is not. A third input may weigh the rows (n,): each row's loss is
    multiplied by its own, and the mean is over n as before. It has no gradient.
    """

    saves = ("inputs",)
    mixes_rows = True
    needs_values = True
    default = below = 0.0

    def __init__(self, parameter: float | None = None) -> None:
        self.parameter = self.default if parameter is None else parameter
        if self.parameter != self.default and not 0 < self.parameter < self.below:
            wanted = f"a parameter between 0 and {self.below:g}" if self.below else "none"
            raise ValueError(f"{self.op} takes {wanted}, not {self.parameter}")

    def constants(self, columns: int) -> list[float]:
        """What the kernel is given as its parameter, for so many columns."""
        return [self.parameter]

    @property
    def op(self) -> str:
        return self.kernel.name

    def shape(self, *shapes: Shape) -> Shape:
        pred, target, *weight = shapes
        wanted = pred[:-1] if self.indices else pred
        fits = target == wanted and weight in ([], [(prod(pred[:-1]),)])
        if not fits or (self.indices and not pred):
            raise ValueError(f"a loss of {pred} against {' and '.join(map(str, shapes[1:]))}")
        if self.needs_values and not prod(pred):
            raise ValueError(f"the {self.op} of no values, in the shape {pred}")
        return ()

    def _forward(
        self, xp: Any, out: Array, pred: Array, target: Array, weight: Array | None = None
    ) -> None:
        rows = _matrix(pred)
        self._grad, totals = xp.empty_like(rows, order="C"), xp.zeros(3)
        self.kernel(
            rows,
            target if self.indices else target.astype(rows.dtype).reshape(rows.shape),
            None if weight is None else weight.astype(rows.dtype),
            xp.asarray(self.constants(rows.shape[1]), rows.dtype),
            _clock(xp, len(rows)),
            self._grad,
            xp.empty(len(rows), rows.dtype),
            totals,
        )
        out[...] = totals[0]

    def _backward(
        self, xp: Any, grad: Array, dpred: Array | None, dtarget: Array | None, *_: None
    ) -> None:
        if dpred is not None:
            xp.multiply(self._grad.reshape(dpred.shape), grad, out=dpred)
        if dtarget is not None:
            self._pull_target(xp, grad, dtarget)

    def _pull_target(self, xp: Any, grad: Array, out: Array) -> None:
        """Most losses see pred - target alone."""
        xp.multiply(self._grad.reshape(out.shape), -grad, out=out)

    def _pull_linear(self, xp: Any, grad: Array, out: Array) -> None:
        """dtarget of a mean of -target * pred and what has no target in it."""
        pred, _, *weight = self.inputs
        rows = _matrix(pred)
        weighted = rows * weight[0][:, None] if weight else rows
        xp.multiply(weighted.reshape(out.shape), -grad / max(1, rows.size), out=out)

    def _gradient_buffer(self, xp: Any, index: int) -> Array | None:
        return super()._gradient_buffer(xp, index) if index < 2 else None

    @property
    def kernel(self) -> kernels.Kernel:
        """Value and gradient in one pass."""
        return REGISTRY[next(name for name, kind in LOSSES.items() if kind is type(self))]


class SoftmaxCrossEntropy(Loss):
    """z = mean over rows of -log softmax(pred)[target]; dpred = (softmax(pred) - target) / n.

    The parameter, 0 unless given, is label smoothing: that share of each row's target is spread
    evenly over all k classes. Rows may be weighed, as in every loss.
    """

    indices = (1,)
    below = 1.0

    def _forward(
        self, xp: Any, out: Array, pred: Array, target: Array, weight: Array | None = None
    ) -> None:
        _check_index(target, pred.shape[-1])
        super()._forward(xp, out, pred, _row_numbers(target), weight)


class SigmoidCrossEntropy(Loss):
    """z = mean of log(1 + exp(pred)) - target * pred; dpred = (sigmoid(pred) - target) / n,
    dtarget = -pred / n.

    The parameter s, 0 unless given, is label smoothing: target * (1 - s) + s / 2 takes its place.
    """

    below = 1.0

    def _pull_target(self, xp: Any, grad: Array, out: Array) -> None:
        self._pull_linear(xp, grad * (1 - self.parameter), out)


class SumSquares(Loss):
    """z = sum of (pred - target)²; dpred = 2 (pred - target), dtarget = -dpred."""

    needs_values = False


class MeanSquared(Loss):
    """z = mean of (pred - target)²; dpred = 2 (pred - target) / n, dtarget = -dpred."""


class MeanAbsolute(Loss):
    """z = mean of |pred - target|; dpred = sign(pred - target) / n, dtarget = -dpred."""


class Huber(Loss):
    """z = mean of r²/2 where |r| ≤ δ, else δ(|r| - δ/2), r = pred - target;
    dpred = clip(r, ±δ) / n, dtarget = -dpred. The parameter δ is 1 unless given."""

    default, below = 1.0, inf


class Pinball(Loss):
    """z = mean of max(q r, (q - 1) r), r = target - pred; dpred = -q / n, or (1 - q) / n,
    dtarget = -dpred. The parameter q is 0.5 unless given; `Pinball.of((0.1, 0.9))` has several,
    which the columns take in turn."""

    default, below = 0.5, 1.0
    quantiles: tuple[float, ...] = ()

    @classmethod
    def of(cls, quantiles: tuple[float, ...]) -> "Pinball":
        """The loss of several quantiles, which the columns take in turn."""
        gate = cls()
        gate.quantiles = tuple(cls(each).parameter for each in quantiles)
        return gate

    def shape(self, *shapes: Shape) -> Shape:
        columns = prod(shapes[0][-1:])
        if columns % max(1, len(self.quantiles)):
            raise ValueError(f"{len(self.quantiles)} quantiles of {columns} columns")
        return super().shape(*shapes)

    def constants(self, columns: int) -> list[float]:
        each = self.quantiles or (self.parameter,)
        return [*each] * (columns // len(each))


class Poisson(Loss):
    """z = mean of exp(pred) - target * pred; dpred = (exp(pred) - target) / n,
    dtarget = -pred / n."""

    def _pull_target(self, xp: Any, grad: Array, out: Array) -> None:
        self._pull_linear(xp, grad, out)


ACTIVATIONS: dict[str, type[Activation]] = {
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "relu": ReLU,
    "gelu": GELU,
    "silu": SiLU,
    "mish": Mish,
    "selu": SELU,
}
LOSSES: dict[str, type[Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy,
    "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "sum_squares": SumSquares,
    "mean_squared": MeanSquared,
    "mean_absolute": MeanAbsolute,
    "huber": Huber,
    "pinball": Pinball,
    "poisson": Poisson,
}
"""By the names of the command line, which are those of their kernels."""


def _clock(xp: Any, valid: int) -> Array:
    clock = xp.zeros(8, np.int64)
    clock[VALID] = valid
    return clock


def _all(xp: Any, inputs: tuple[Array, ...], grads: tuple[Array | None, ...]) -> list[Array]:
    """Every gradient buffer; one that nobody wants is made, for a kernel that writes them all."""
    return [xp.empty(x.shape, x.dtype) if g is None else g for x, g in zip(inputs, grads)]
