"""Calls of every kernel with what they must give, made from tests/reference.py.

`CASES[name](kernel, of)` makes the cases of one kernel at one size.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import reference
from kernel_check import Array, Case, Slopes

from gpunet.kernels import REGISTRY, Kernel
from gpunet.kernels import slots as at

SHAPES = ((1, 1), (3, 5), (67, 33), (140, 20), (2, 300), (270, 40), (2100, 1), (0, 4))
LOSS_PARAMETERS = {"softmax_cross_entropy": 0.1, "sigmoid_cross_entropy": 0.1, "huber": 0.5}
EXTREMES = (1e4, -1e4, 30.0, -30.0, 0.0, -0.0, 1e-40, -1e-40, 5e-324, np.nan)
KEY = np.array([12345678901234567890, 3], np.uint64)


class Size(NamedTuple):
    """What a kernel's cases are made of: n rows, m columns, random numbers; `sparse` leaves out the
    optional arguments."""

    n: int
    m: int
    sparse: bool
    dtype: str
    rng: np.random.Generator

    @property
    def valid(self) -> int:
        """Rows of the batch."""
        return self.n if self.sparse else self.n - self.n // 3

    @property
    def is_single(self) -> bool:
        """Whether it is one number and no more."""
        return self.sparse and self.n == self.m == 1

    def normal(self, *shape: int, scale: float = 1) -> Array:
        """(n, m) unless another shape is given."""
        drawn = self.rng.standard_normal(shape or (self.n, self.m))
        return (scale * drawn).astype(self.dtype)

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        return self.rng.uniform(low, high, shape).astype(self.dtype)


Maker = Callable[[Kernel, Size], Iterator[Case]]
CASES: dict[str, Maker] = {}


def cases(name: str, dtype: str, shapes: tuple[tuple[int, int], ...] = SHAPES) -> Iterator[Case]:
    """The cases of a kernel, with all optional arguments and with none, at each size."""
    for n, m in shapes:
        for sparse in (False, True):
            of = Size(n, m, sparse, dtype, np.random.default_rng(n + m))
            for case in CASES[name](REGISTRY[name], of):
                yield replace(case, label=f"({n}, {m}){' sparse' * sparse} {case.label}")


def kernels_and_dtypes() -> list[tuple[str, str]]:
    return [(name, dtype) for name, kernel in REGISTRY.items() for dtype in kernel.dtypes]


def wide(*arrays: Array | None) -> list[Any]:
    """The same values in float64."""
    return [None if a is None else a.astype(np.float64) for a in arrays]


def clock_at(**places: int) -> Array:
    clock = np.zeros(8, np.int64)
    for name, value in places.items():
        clock[getattr(at, name)] = value
    return clock


def maker(*names: str) -> Callable[[Maker], Maker]:
    """Register the maker of `names`."""

    def add(make: Maker) -> Maker:
        CASES.update(dict.fromkeys(names, make))
        return make

    return add


class Mask(NamedTuple):
    """What dropout does: the arguments that say so, and the factor of each element."""

    label: str
    given: dict[str, Any]
    factors: Array


def masks(kernel: Kernel, of: Size) -> Iterator[Mask]:
    """Of a whole batch and of a later part of one; for a kernel without dropout there is none."""
    if "dropped" not in kernel.name:
        yield Mask("", {}, np.ones((of.n, of.m)))
        return
    hyper, rest = np.zeros(16), {"key": KEY, "layer": 5}
    hyper[at.FADE] = 0.5
    for label, rate, before in (("", 0.0 if of.sparse else 0.6, 0), ("from row 3 on", 0.6, 3)):
        clock = clock_at(STEP=7, BEFORE=before, VALID=of.n // 2)
        given = {"rate": np.array([rate], of.dtype), "hyper": hyper, "clock": clock, **rest}
        factors = _factors((before + of.n) * of.m, float(given["rate"][0]) * 0.5)
        yield Mask(label, given, factors[before * of.m :].reshape(of.n, of.m))


@cache
def _factors(size: int, rate: float) -> Array:
    return reference.dropout(np.ones(size), rate, KEY, 7, 5)


WITH_DROPOUT = ("", "_dropped")
CURVED = [name for name in reference.ACTIVATIONS if name != "identity"]


@maker(*(f"{name}{with_}_forward" for name in reference.ACTIVATIONS for with_ in WITH_DROPOUT))
def activation_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    f = reference.ACTIVATIONS[kernel.name.split("_")[0]]
    z = of.normal(scale=3)
    bias = None if of.sparse else of.normal(of.m)
    wide_z, wide_bias = wide(z, bias)
    y = f(wide_z + (0 if of.sparse else wide_bias))
    for mask in masks(kernel, of):
        yield valued(kernel, {"z": z, "bias": bias}, y, mask, of.sparse)
    for value in EXTREMES if of.is_single else ():
        given = {"z": np.array([[value]], of.dtype), "bias": None}
        for mask in masks(kernel, of):
            found = valued(kernel, given, f(given["z"].astype(float)), mask, of.sparse)
            yield replace(found, label=f"{mask.label} at {value}", shares={})


def valued(kernel: Kernel, given: dict[str, Any], y: Array, mask: Mask, sparse: bool) -> Case:
    """A forward that gives y; or, with dropout, its dropout and, unless sparse, y beside it."""
    expected: dict[str, Array | None] = {"y": y}
    if mask.given:
        dropped = np.where(mask.factors, y * mask.factors, 0)
        expected = {"y": None if sparse else y, "dropped": dropped}
    shares = {"y" if expected["y"] is not None else "dropped": "z"}
    return Case(kernel, mask.label, {**given, **mask.given}, expected, shares=shares)


@maker(*(f"{name}{with_}_backward" for name in reference.ACTIVATIONS for with_ in WITH_DROPOUT))
def activation_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    name = kernel.name.split("_")[0]
    grad, z = of.normal(), of.normal(scale=3)
    bias = None if of.sparse else of.normal(of.m)
    wide_grad, wide_z, wide_bias = wide(grad, z, np.zeros(of.m) if bias is None else bias)
    y = reference.ACTIVATIONS[name](wide_z + wide_bias)
    given = {"grad": grad, "z": z, "bias": bias, "y": y.astype(of.dtype)}
    for mask in masks(kernel, of):
        masked = wide_grad * mask.factors
        dz = masked * reference.SLOPES[name](wide_z + wide_bias)
        yield Case(
            kernel,
            mask.label,
            {**given, **mask.given},
            {"dz": dz, "dbias": None if of.sparse else dz.sum(0)},
            shares={"dz": "grad"},
            slopes=Slopes(
                lambda z, bias, g=masked: float((g * reference.ACTIVATIONS[name](z + bias)).sum()),
                {"z": wide_z, "bias": wide_bias},
                {"z": "dz"} if of.sparse else {"z": "dz", "bias": "dbias"},
            ),
        )
    for value in EXTREMES if of.is_single and "dropped" not in kernel.name else ():
        z = np.array([[value]], of.dtype)
        y, dz = reference.ACTIVATIONS[name](*wide(z)), reference.SLOPES[name](*wide(z))
        given = {"grad": np.ones((1, 1), of.dtype), "z": z, "bias": None, "y": y.astype(of.dtype)}
        yield Case(kernel, f"at {value}", given, {"dz": dz, "dbias": None}, sizes={"dz": 1.0})


@maker(*(f"parametric_{name}{with_}_forward" for name in CURVED for with_ in WITH_DROPOUT))
def parametric_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    z, share = of.normal(scale=3), of.uniform(-1, 2, of.m)
    bias = None if of.sparse else of.normal(of.m)
    u, wide_share = wide(z, share)
    u = u if bias is None else u + bias.astype(float)
    value = reference.ACTIVATIONS[kernel.name.split("_")[1]](u)
    given = {"z": z, "bias": bias, "share": share}
    for mask in masks(kernel, of):
        yield valued(kernel, given, u + wide_share * (value - u), mask, of.sparse)


@maker(*(f"parametric_{name}{with_}_backward" for name in CURVED for with_ in WITH_DROPOUT))
def parametric_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    name = kernel.name.split("_")[1]
    f, slope = reference.ACTIVATIONS[name], reference.SLOPES[name]
    grad = of.normal()
    z, share = of.normal(scale=3), of.uniform(-1, 2, of.m)
    bias = None if of.sparse else of.normal(of.m)
    wide_grad, wide_z, a, b = wide(grad, z, share, np.zeros(of.m) if bias is None else bias)
    u = wide_z + b
    given = {"grad": grad, "z": z, "bias": bias, "share": share}
    for mask in masks(kernel, of):
        masked = wide_grad * mask.factors
        dz, dshare = masked * (1 + a * (slope(u) - 1)), (masked * (f(u) - u)).sum(0)
        yield Case(
            kernel,
            mask.label,
            {**given, **mask.given},
            {"dz": dz, "dbias": None if of.sparse else dz.sum(0), "dshare": dshare},
            shares={"dz": "grad"},
            sizes={"dshare": float(np.sqrt(of.n)), "dbias": float(np.sqrt(of.n))},
            slopes=Slopes(
                lambda z, share, g=masked: float((g * (z + b + share * (f(z + b) - z - b))).sum()),
                {"z": wide_z, "share": a},
                {"z": "dz", "share": "dshare"},
            ),
        )


@maker("scale_forward")
def scale_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, scale = of.normal(), of.normal(of.m)
    wide_x, wide_scale = wide(x, scale)
    yield Case(kernel, "", {"x": x, "scale": scale}, {"y": wide_x * wide_scale}, shares={"y": "x"})


@maker("scale_backward")
def scale_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    (grad, x), scale = of.normal(2, of.n, of.m), of.normal(of.m)
    g, wide_x, wide_scale = wide(grad, x, scale)
    dx = None if of.sparse else g * wide_scale
    yield Case(
        kernel,
        "",
        {"grad": grad, "x": x, "scale": scale},
        {"dx": dx, "dscale": (g * wide_x).sum(0)},
        sizes={"dscale": float(np.sqrt(of.n))},
        shares={} if of.sparse else {"dx": "grad"},
        slopes=Slopes(
            lambda x, scale: float((g * x * scale).sum()),
            {"x": wide_x, "scale": wide_scale},
            {"scale": "dscale"} if of.sparse else {"x": "dx", "scale": "dscale"},
        ),
    )


@maker("dropout")
def dropout(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, hyper = of.normal(), np.zeros(16)
    hyper[at.FADE] = 0.5
    rate, clock = np.array([0.0 if of.sparse else 0.6], of.dtype), clock_at(STEP=7)
    y = reference.dropout(x.astype(float), float(rate[0]) * 0.5, KEY, 7, 5)
    given = {"x": x, "rate": rate, "hyper": hyper, "key": KEY, "clock": clock, "layer": 5}
    yield Case(kernel, "", given, {"y": y}, shares={"y": "x"})
    for before in () if of.sparse else (3, 16):
        rest = {**given, "x": x[before:].copy(), "clock": clock_at(STEP=7, BEFORE=before)}
        yield Case(kernel, f"from row {before} on", rest, {"y": y[before:]}, shares={"y": "x"})


@maker(*reference.LOSS_ROWS)
def loss(kernel: Kernel, of: Size) -> Iterator[Case]:
    name, pred = kernel.name, of.normal(scale=2)
    target = {
        "softmax_cross_entropy": of.rng.integers(0, of.m, of.n).astype(np.int32),
        "sigmoid_cross_entropy": of.rng.integers(0, 2, (of.n, of.m)).astype(of.dtype),
    }.get(name, of.normal())
    weight = None if of.sparse else of.uniform(0, 2, of.n)
    usual = 0.0 if of.sparse and "cross_entropy" in name else LOSS_PARAMETERS.get(name, 0.0)
    numbers = np.linspace(0.1, 0.9, of.m) if name == "pinball" else [usual]
    parameter, valid = np.array(numbers, of.dtype), of.valid
    inner = [wide(target)[0] if target.ndim == 2 else target, *wide(weight, parameter)]
    batch, rows, grad = reference.loss(name, *wide(pred), *inner, valid)
    totals = np.array([5.0, 1.0, 3.0])
    given = {"pred": pred, "target": target, "weight": weight, "parameter": parameter}
    clock = clock_at(VALID=valid)
    expected: dict[str, Any] = {
        "clock": clock,
        "grad": grad,
        "rows": rows,
        "totals": np.array([batch, 1 + rows.sum(), 3 + valid]),
    }
    state = {"clock": clock, "totals": totals}
    slopes = Slopes(
        lambda pred: reference.loss(name, pred, *inner, valid)[0], {"pred": wide(pred)[0]},
        {"pred": "grad"},
    )  # fmt: skip
    shares = {"grad": "pred"}
    yield Case(kernel, "", given, expected, state, shares, slopes=slopes)
    if of.sparse:
        given = {**given, "grad": None}
        yield Case(kernel, "no gradient", given, {**expected, "grad": None}, state)
    if of.n > 1:
        yield _faulty_loss(kernel, given, expected, state)
    if not of.sparse:
        clock = clock_at(VALID=valid, BEFORE=7)
        share, rows, grad = reference.loss(name, *wide(pred), *inner, valid, before=7)
        totals = np.array([5 + share, *expected["totals"][1:]])
        expected = {"clock": clock, "grad": grad, "rows": rows, "totals": totals}
        yield Case(kernel, "micro-batch", given, expected, {**state, "clock": clock}, shares)


def _faulty_loss(
    kernel: Kernel, given: dict[str, Any], expected: dict[str, Any], state: dict[str, Array]
) -> Case:
    """A NaN in the first row: its loss, the batch's and a fault."""
    name, pred = kernel.name, given["pred"].copy()
    pred[0, 0] = np.nan
    valid = int(state["clock"][at.VALID])
    target, weight, parameter = given["target"], given["weight"], given["parameter"]
    with np.errstate(invalid="ignore"):
        batch, rows, grad = reference.loss(
            name, *wide(pred), target, *wide(weight, parameter), valid
        )
    grad = grad[1:] if name == "softmax_cross_entropy" else grad
    totals = np.array([batch, np.nan, 3 + valid])
    return Case(
        replace(kernel, outputs=("clock", "rows", "totals")),
        "NaN",
        {**given, "pred": pred, "grad": None},
        {"clock": clock_at(VALID=valid, FAULT=at.FAULT_LOSS), "rows": rows, "totals": totals},
        state,
    )


@maker("layer_norm_forward")
def layer_norm_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, gain, bias = _normed(of)
    y, mean, rstd = reference.layer_norm(*wide(x, gain, bias))
    given = {"x": x, "gain": gain, "bias": bias}
    yield Case(kernel, "", given, {"y": y, "mean": mean, "rstd": rstd})


@maker("layer_norm_backward")
def layer_norm_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, gain, bias = _normed(of)
    grad = of.normal()
    wide_grad, wide_x, wide_gain, wide_bias = wide(grad, x, gain, bias)
    _, mean, rstd = reference.layer_norm(wide_x, wide_gain, wide_bias)
    dx, dgain, dbias = reference.layer_norm_gradients(wide_grad, wide_x, wide_gain)
    given = {"grad": grad, "x": x, "gain": gain, "mean": mean.astype(of.dtype)}
    yield Case(
        kernel,
        "",
        {**given, "rstd": rstd.astype(of.dtype)},
        {"dx": dx, "dgain": dgain, "dbias": dbias},
        shares={"dx": "grad"},
        sizes={"dx": float(np.abs(wide_grad * wide_gain * rstd[:, None]).max(initial=0))},
        slopes=Slopes(
            lambda **at: float((wide_grad * reference.layer_norm(**at)[0]).sum()),
            {"x": wide_x, "gain": wide_gain, "bias": wide_bias},
            {"x": "dx", "gain": "dgain", "bias": "dbias"},
        ),
    )


@maker("batch_norm_forward")
def batch_norm_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, gain, bias = _normed(of)
    valid, faulty = (of.n, False) if of.sparse else (of.n - of.n // 3, of.n == 3)
    clock = clock_at(VALID=valid, FAULT=int(faulty))
    running = {"running_mean": of.normal(of.m), "running_var": of.uniform(0.5, 2, of.m)}
    y, mean, rstd = reference.batch_norm(*wide(x, gain, bias), valid)
    new = reference.running(*wide(*running.values()), *wide(x), valid)
    after = running if faulty else dict(zip(running, new))
    expected = {**after, "y": y, "mean": mean, "rstd": rstd}
    given = {"x": x, "gain": gain, "bias": bias, "clock": clock}
    yield Case(kernel, "", given, expected, running)
    if valid < 2:
        return
    spoilt = {name: array.copy() for name, array in {"x": x, **expected}.items()}
    for name in ("x", "y", "mean", "rstd"):
        spoilt[name][..., 0] = np.nan
    for name, before in running.items():
        spoilt[name][0] = before[0]
    given = {**given, "x": spoilt.pop("x")}
    yield Case(kernel, "of a column that is not finite", given, spoilt, running)


@maker("batch_norm_backward")
def batch_norm_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, gain, bias = _normed(of)
    grad, valid = of.normal(), of.valid
    wide_grad, wide_x, wide_gain, wide_bias = wide(grad, x, gain, bias)
    _, mean, rstd = reference.batch_norm(wide_x, wide_gain, wide_bias, valid)
    dx, dgain, dbias = reference.batch_norm_gradients(wide_grad, wide_x, wide_gain, valid)

    def number(x: Array, gain: Array, bias: Array) -> float:
        y = reference.batch_norm(x, gain, bias, valid)[0]
        return float((wide_grad * y)[:valid].sum())

    given = {"grad": grad, "x": x, "gain": gain, "mean": mean.astype(of.dtype)}
    yield Case(
        kernel,
        "",
        {**given, "rstd": rstd.astype(of.dtype), "clock": clock_at(VALID=valid)},
        {"dx": dx, "dgain": dgain, "dbias": dbias},
        shares={"dx": "grad"},
        sizes={"dx": float(np.abs(wide_grad * rstd).max(initial=0))},
        slopes=Slopes(
            number,
            {"x": wide_x, "gain": wide_gain, "bias": wide_bias},
            {"x": "dx", "gain": "dgain", "bias": "dbias"},
        ),
    )


@maker("batch_norm_apply")
def batch_norm_apply(kernel: Kernel, of: Size) -> Iterator[Case]:
    x, gain, bias = _normed(of)
    mean, variance = of.normal(of.m), of.uniform(0.5, 2, of.m)
    x_, gain_, bias_, mean_, variance_ = wide(x, gain, bias, mean, variance)
    y = (x_ - mean_) / np.sqrt(variance_ + reference.EPSILON) * gain_ + bias_
    given = {"x": x, "gain": gain, "bias": bias, "running_mean": mean, "running_var": variance}
    yield Case(kernel, "", given, {"y": y}, shares={"y": "x"})


def _normed(of: Size) -> tuple[Array, Array, Array]:
    x = (of.rng.standard_normal((of.n, of.m)) * 2 + 1).astype(of.dtype)
    return x, of.uniform(0.5, 2, of.m), of.normal(of.m)


@maker("gather")
def gather(kernel: Kernel, of: Size) -> Iterator[Case]:
    length, start, valid = of.n + 9, 4, of.valid
    order = None if of.sparse else of.rng.permutation(length).astype(np.int32)
    scale = None if of.sparse else of.rng.uniform(0.5, 2, of.m)
    shift = None if of.sparse else of.rng.standard_normal(of.m)
    rows = (np.arange(length) if of.sparse else order)[start : start + valid]
    for kind in ("uint8", "float32", "float64"):
        shape = length, of.m
        x = of.rng.integers(0, 256, shape) if kind == "uint8" else of.rng.normal(size=shape)
        x = x.astype(kind)
        out = np.zeros((of.n, of.m))
        out[:valid] = x[rows] * (1 if of.sparse else scale) + (0 if of.sparse else shift)
        given = {"x": x, "scale": scale, "shift": shift, "order": order}
        clock = clock_at(START=start, VALID=valid)
        yield Case(kernel, kind, {**given, "clock": clock}, {"out": out})


@maker("gather_labels")
def gather_labels(kernel: Kernel, of: Size) -> Iterator[Case]:
    length, start, valid = of.n + 9, 4, of.valid
    order = None if of.sparse else of.rng.permutation(length).astype(np.int32)
    y, out = of.rng.integers(0, 50, length).astype(np.int32), np.zeros(of.n)
    out[:valid] = y[(np.arange(length) if of.sparse else order)[start : start + valid]]
    given = {"y": y, "order": order, "clock": clock_at(START=start, VALID=valid)}
    yield Case(kernel, "", given, {"out": out}, dtypes={"out": "int32"})


@maker("gather_weights")
def gather_weights(kernel: Kernel, of: Size) -> Iterator[Case]:
    for case in gather_labels(kernel, of):
        y = case.given["y"].astype(of.dtype) + 0.5
        valid = int(case.given["clock"][at.VALID])
        out = case.expected["out"] + np.where(np.arange(of.n) < valid, 0.5, 0)
        yield replace(case, given={**case.given, "y": y}, expected={"out": out}, dtypes={})


@maker("take")
def take(kernel: Kernel, of: Size) -> Iterator[Case]:
    x = of.normal(11, of.m)
    index = of.rng.integers(0, 11, of.n).astype(np.int32)
    yield Case(kernel, "", {"x": x, "index": index}, {"y": x[index]})


@maker("scatter_add")
def scatter_add(kernel: Kernel, of: Size) -> Iterator[Case]:
    grad, rows = of.normal(), 11
    index = of.rng.integers(0, rows - 3, of.n).astype(np.int32)
    dx, wide_grad = np.zeros((rows, of.m)), grad.astype(float)
    for i in range(of.n):
        dx[index[i]] += wide_grad[i]
    slopes = Slopes(lambda x: float((wide_grad * x[index]).sum()), {"x": dx + 1}, {"x": "dx"})
    yield Case(kernel, "", {"grad": grad, "index": index}, {"dx": dx}, slopes=slopes)


def _window(of: Size, inside: Array) -> tuple[Array, int, slice]:
    """`inside` between other columns, unless sparse; its first column, and where it is."""
    before, after = (0, 0) if of.sparse else (2, 3)
    whole = of.normal(len(inside), before + inside.shape[1] + after)
    where = slice(before, before + inside.shape[1])
    whole[:, where] = inside
    return whole, before, where


def _written(whole: Array, where: slice, inside: Array) -> Array:
    """What `whole` is, in float64, when the window holds `inside`."""
    written = whole.astype(float)
    written[:, where] = inside
    return written


def _waves(of: Size) -> dict[str, Array]:
    f, k, e = min(of.m, 6), 1 + of.m % 17, 1 + of.m % 3
    shapes = {
        "x": (of.n, f),
        "frequency": (f, k),
        "phase": (f, k),
        "weight": (f, k, e),
        "bias": (f, e),
    }
    found = {name: of.normal(*shape) for name, shape in shapes.items()}
    found["frequency"] /= 4
    return found


@maker("periodic_forward")
def periodic_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    waves = _waves(of)
    inside = reference.periodic(*wide(*waves.values()))
    x, x_first, _ = _window(of, waves["x"])
    y, y_first, where = _window(of, np.zeros_like(inside))
    given = {**waves, "x": x, "x_first": x_first, "y_first": y_first}
    yield Case(kernel, "", given, {"y": _written(y, where, inside)}, {"y": y})


@maker("periodic_backward")
def periodic_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    waves = _waves(of)
    y = reference.periodic(*wide(*waves.values()))
    inside = of.normal(*y.shape)
    x, *others, _ = wide(*waves.values())
    inner, *sums = reference.periodic_gradients(*wide(inside), x, *others)
    whole, x_first, where = _window(of, waves["x"])
    grad, y_first, _ = _window(of, inside)
    given = {**waves, "grad": grad, "x": whole, "x_first": x_first, "y_first": y_first}
    del given["bias"]
    names = ("dfrequency", "dphase", "dweight", "dbias")
    dx = of.normal(*whole.shape)
    expected = {"dx": _written(dx, where, inner), **dict(zip(names, sums, strict=True))}
    size = {name: float(np.sqrt(of.n) * 2 * np.pi) for name in names}
    slopes = Slopes(
        lambda **at: float((inside * reference.periodic(**at)).sum()),
        dict(zip(waves, wide(*waves.values()), strict=True)),
        {name.removeprefix("d"): name for name in ("dx", *names)},
    )
    yield Case(
        kernel, "", given, expected, {"dx": dx}, sizes=size, slopes=slopes if of.sparse else None
    )
    if of.sparse:
        yield Case(kernel, "no dx", {**given, "dx": None}, {**expected, "dx": None}, sizes=size)


def _bins(of: Size) -> tuple[Array, dict[str, Array]]:
    """x (n, f), between bins and within, none on a knot, and bins side by side, of the features
    but each third; without a row none has any."""
    f, counts = min(of.m, 5), (1 + of.m % 7, 3, 0) if of.n else (0, 0, 0)
    feature = np.repeat(np.arange(f), [counts[j % 3] for j in range(f)]).astype(np.int32)
    low = of.rng.integers(-8, 8, len(feature)) / 4
    slope = 1 / (0.25 + of.rng.integers(0, 8, len(feature)) / 4)
    x = of.rng.integers(-16, 16, (of.n, f)) / 4 + of.rng.uniform(0.02, 0.2, (of.n, f))
    bins = {"feature": feature, "low": low.astype(of.dtype), "slope": slope.astype(of.dtype)}
    return x.astype(of.dtype), bins


@maker("piecewise_forward")
def piecewise_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    found, bins = _bins(of)
    feature, *sizes = bins.values()
    for label, given in (("", found), ("far off", found * 10**9), ("NaN", found * np.nan)):
        at = np.where(np.isnan(given), -np.inf, given)
        inside = reference.piecewise(at.astype(float), feature, *wide(*sizes))
        x, x_first, _ = _window(of, given)
        y, y_first, where = _window(of, np.zeros_like(inside))
        arguments = {**bins, "x": x, "x_first": x_first, "y_first": y_first}
        yield Case(kernel, label, arguments, {"y": _written(y, where, inside)}, {"y": y})


@maker("piecewise_backward")
def piecewise_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    found, bins = _bins(of)
    feature, *sizes = bins.values()
    others = (feature, *wide(*sizes))
    inside = of.normal(of.n, len(feature))
    (x, grad) = wide(found, inside)
    inner = reference.piecewise_gradient(grad, x, *others)
    whole, x_first, where = _window(of, found)
    given, y_first, _ = _window(of, inside)
    dx = of.normal(*whole.shape)
    arguments = {**bins, "grad": given, "x": whole, "x_first": x_first, "y_first": y_first}
    slopes = Slopes(
        lambda x: float((grad * reference.piecewise(x, *others)).sum()), {"x": x}, {"x": "dx"}
    )
    yield Case(
        kernel,
        "",
        {**arguments, "features": found.shape[1]},
        {"dx": _written(dx, where, inner)},
        {"dx": dx},
        slopes=slopes if of.sparse else None,
    )


def _coded(of: Size) -> tuple[Array, Array, tuple[int, int]]:
    """Codes (n, c), the starts of their tables, the shape of the table."""
    sizes = of.rng.integers(1, 9, 1 + of.m % 4)
    starts = np.cumsum([0, *sizes])
    codes = np.stack([of.rng.integers(0, size, of.n) for size in sizes], axis=1)
    return codes, starts[:-1].astype(np.int32), (int(starts[-1]), 1 + of.m % 40)


@maker("embedding_forward")
def embedding_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    codes, starts, shape = _coded(of)
    table = of.normal(*shape)
    inside = reference.embedding(codes, starts, table.astype(float))
    y, y_first, where = _window(of, np.zeros_like(inside))
    expected = {"y": _written(y, where, inside)}
    for label, given in _within_and_outside(codes, starts, shape[0]):
        x, x_first, _ = _window(of, given)
        arguments = {"x": x, "starts": starts, "table": table, "x_first": x_first}
        yield Case(kernel, label, {**arguments, "y_first": y_first}, expected, {"y": y})


@maker("embedding_backward")
def embedding_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    codes, starts, shape = _coded(of)
    inside = of.normal(of.n, len(starts) * shape[1])
    wide_grad = inside.astype(float)
    dtable = reference.embedding_gradient(wide_grad, codes, starts, shape[0])
    grad, y_first, _ = _window(of, inside)
    slopes = Slopes(
        lambda table: float((wide_grad * reference.embedding(codes, starts, table)).sum()),
        {"table": dtable + 1},
        {"table": "dtable"},
    )
    for label, found in _within_and_outside(codes, starts, shape[0]):
        x, x_first, _ = _window(of, found)
        given = {"grad": grad, "x": x, "starts": starts, "x_first": x_first, "y_first": y_first}
        yield Case(kernel, label, given, {"dtable": dtable}, slopes=slopes)


def _within_and_outside(codes: Array, starts: Array, rows: int) -> Iterator[tuple[str, Array]]:
    """Codes, and others beside their tables that count as the same."""
    yield "", codes.astype(float)
    last = np.diff([*starts, rows]) - 1
    outside = np.where(
        codes == 0, np.where(np.arange(len(codes))[:, None] % 2, -3.0, np.nan), codes
    )
    yield "outside", np.where((codes == last) & (last > 0), 1e6, outside)


@maker("copy_columns")
def copy_columns(kernel: Kernel, of: Size) -> Iterator[Case]:
    inside = of.normal()
    x, x_first, _ = _window(of, inside)
    y, y_first, where = _window(of._replace(sparse=not of.sparse), np.zeros_like(inside))
    given = {"x": x, "x_first": x_first, "y_first": y_first, "width": of.m}
    yield Case(kernel, "", given, {"y": _written(y, where, inside)}, {"y": y})


@maker("column_sums")
def column_sums(kernel: Kernel, of: Size) -> Iterator[Case]:
    x = of.normal()
    yield Case(kernel, "", {"x": x}, {"out": x.sum(0, dtype=float)})


@maker(*reference.OPTIMIZERS)
def update(kernel: Kernel, of: Size) -> Iterator[Case]:
    size, count = of.n * of.m, reference.OPTIMIZERS[kernel.name][1]
    param, grad = of.normal(2, size)
    slots = of.uniform(0.1, 1, count, size)
    starts = [0, size // 3, size] if of.sparse else [0, size // 3, size // 3, size]
    segments = {
        "starts": np.array(starts),
        "rates": np.full(2, 0.7) if of.sparse else of.rng.uniform(0.5, 1.5, 3),
        "decays": np.zeros(2) if of.sparse else np.array([1.0, 2.0, 0.5]),
    }
    hyper = _hyper(clip=1.0 if of.sparse else 0.7)
    given = {"grad": grad, **segments, "hyper": hyper}
    state = {"param": param, **dict(zip(kernel.outputs[1:-2], slots)), "clock": clock_at(STEP=3)}
    after = _updated(kernel.name, given, state)
    at_once: dict[str, Array | None] = {"found": None}
    yield Case(kernel, "", given, after | at_once, state)
    stopped = {**state, "clock": clock_at(STEP=3, FAULT=at.FAULT_LOSS)}
    yield Case(kernel, "after a fault", given, stopped | at_once, stopped)
    if size > 2:
        both, bit = at.FAULT_GRADIENT | at.FAULT_PARAMETER, at.FAULT_GRADIENT
        for case in (
            _faulty_update(kernel, given, state, {0: np.nan, -1: np.inf}, {1: np.nan}, both),
            _faulty_update(kernel, given, state, {1: -np.inf}, {}, bit),
            *_infinite_squares(kernel, given, state),
        ):
            yield replace(case, expected=case.expected | at_once)
            yield _waiting(case)
    for found in (0, at.FAULT_GRADIENT):
        waits = {"found": np.array([found])}
        yield Case(kernel, f"beside {found}", given, after | waits, state | waits)
    yield Case(kernel, "beside a fault", given, stopped | waits, stopped | waits)


def _waiting(case: Case) -> Case:
    """The same, but that faults wait beside the clock."""
    clock = case.expected["clock"]
    assert clock is not None
    expected = {"clock": case.state["clock"], "found": clock[[at.FAULT]]}
    return replace(
        case,
        label=f"{case.label} beside",
        expected=case.expected | expected,
        state=case.state | {"found": np.zeros(1, np.int64)},
    )


@maker("show_faults")
def show_faults(kernel: Kernel, of: Size) -> Iterator[Case]:
    found = of.rng.integers(0, 8, max(1, of.n))
    clock = clock_at(STEP=3, FAULT=at.FAULT_LOSS if of.sparse else 0)
    shown = clock.copy()
    shown[at.FAULT] |= np.bitwise_or.reduce(found)
    state = {"found": found, "clock": clock}
    yield Case(kernel, "", {}, {"found": np.zeros_like(found), "clock": shown}, state)


@maker(*(f"{name}_narrow" for name in reference.OPTIMIZERS))
def narrowing_update(kernel: Kernel, of: Size) -> Iterator[Case]:
    """As the plain update; `shadow` follows the parameter wherever that is written."""
    plain = kernel.name.removesuffix("_narrow")
    for case in CASES[plain](REGISTRY[plain], of):
        before, after = case.state["param"], case.expected["param"]
        assert after is not None
        state = {**case.state, "shadow": reference.bfloat16(before)}
        expected = {**case.expected, "shadow": reference.bfloat16(after)}
        yield replace(case, kernel=kernel, state=state, expected=expected)


def _faulty_update(
    kernel: Kernel,
    given: dict[str, Any],
    state: dict[str, Array],
    gradients: dict[int, float],
    parameters: dict[int, float],
    fault: int,
) -> Case:
    """Some gradients and parameters, by place, that are not finite: those elements stay."""
    param, grad = state["param"].copy(), given["grad"].copy()
    for array, values in ((grad, gradients), (param, parameters)):
        array[list(values)] = list(values.values())
    given, state = {**given, "grad": grad}, {**state, "param": param}
    with np.errstate(invalid="ignore", over="ignore"):
        after = _updated(kernel.name, given, state)
    stay = [*gradients, *parameters]
    for slot in after:
        if slot != "clock":
            after[slot][stay] = state[slot][stay]
    after["clock"] = clock_at(STEP=3, FAULT=fault)
    return Case(kernel, f"not finite {fault}", given, after, state)


def _infinite_squares(
    kernel: Kernel, given: dict[str, Any], state: dict[str, Array]
) -> Iterator[Case]:
    """A finite gradient whose square is not: the slot that keeps it would never move again."""
    if kernel.name in ("rmsprop", "adam", "adamw"):
        huge = {1: float(np.finfo(given["grad"].dtype).max) / 4}
        yield _faulty_update(kernel, given, state, huge, {}, at.FAULT_PARAMETER)


def _updated(name: str, given: dict[str, Any], state: dict[str, Array]) -> dict[str, Any]:
    step, _ = reference.OPTIMIZERS[name]
    hyper, starts = given["hyper"], given["starts"]
    names = [slot for slot in state if slot != "clock"]
    after = {slot: state[slot].astype(float) for slot in names}
    grad = given["grad"].astype(float) * hyper[at.CLIP]
    for j, (first, last) in enumerate(pairwise(starts)):
        part = slice(int(first), int(last))
        values = {
            "lr": hyper[at.LR] * given["rates"][j],
            "decay": hyper[at.DECAY] * given["decays"][j],
        }
        for place in ("BETA1", "BETA2", "EPSILON", "CORRECTION1", "CORRECTION2"):
            values[place.lower()] = hyper[getattr(at, place)]
        slots = [after[slot][part] for slot in names[1:]]
        after["param"][part] = step(after["param"][part], grad[part], slots, values)
        for slot, value in zip(names[1:], slots):
            after[slot][part] = value
    return {**after, "clock": state["clock"]}


def _hyper(step: int = 3, clip: float = 1.0) -> Array:
    hyper = np.zeros(16)
    hyper[[at.LR, at.DECAY, at.BETA1, at.BETA2]] = 0.1, 0.05, 0.9, 0.99
    hyper[[at.EPSILON, at.CLIP, at.SCALE, at.LIMIT]] = 1e-8, clip, 0.5, 2.0
    hyper[[at.CORRECTION1, at.CORRECTION2]] = 1 - 0.9**step, 1 - 0.99**step
    return hyper


@maker("narrow")
def narrow(kernel: Kernel, of: Size) -> Iterator[Case]:
    drawn = of.rng.integers(0, 2**32, of.n * of.m, np.uint32).view(np.float32)
    halves = (of.rng.integers(0, 2**16, of.n * of.m, np.uint32) << 16 | 0x8000).view(np.float32)
    x = (halves if of.sparse else drawn).reshape(of.n, of.m)
    yield Case(kernel, "", {"x": x}, {"y": reference.bfloat16(x)}, dtypes={"y": "uint16"})


@maker("relu_narrow_forward")
def relu_narrow_forward(kernel: Kernel, of: Size) -> Iterator[Case]:
    z = of.normal(scale=3)
    bias = None if of.sparse else reference.bfloat16(of.rng.standard_normal(of.m))
    total = z if bias is None else z + reference.widened(bias)
    y = reference.bfloat16(np.maximum(total, 0))
    yield Case(kernel, "", {"z": z, "bias": bias}, {"y": y}, dtypes={"y": "uint16"})


@maker("relu_narrow_backward")
def relu_narrow_backward(kernel: Kernel, of: Size) -> Iterator[Case]:
    grad = of.normal()
    y = reference.bfloat16(np.maximum(of.rng.standard_normal((of.n, of.m)), 0))
    slope = np.where(reference.widened(y) > 0, grad, 0)
    dbias = None if of.sparse else slope.sum(0, dtype=np.float64)
    expected = {"dz": reference.bfloat16(slope), "dbias": dbias}
    given, sizes = {"grad": grad, "y": y}, {"dbias": float(np.sqrt(of.n))}
    yield Case(kernel, "", given, expected, dtypes={"dz": "uint16"}, sizes=sizes)


@maker("tick")
def tick(kernel: Kernel, of: Size) -> Iterator[Case]:
    table, hyper, batch = of.rng.uniform(0.1, 1, (4, 3)), _hyper(), of.m
    for label, step, rows, fault in (
        ("", 1, 3 * of.m + of.n, 0),
        ("past the table", 9, 3 * of.m + of.n, 0),
        ("past the rows", 1, 3 * of.m, 0),
        ("after a fault", 1, 3 * of.m + of.n, 4),
    ):
        clock = clock_at(STEP=step, START=2 * of.m, ROWS=rows, FAULT=fault)
        expected = {"clock": clock.copy(), "hyper": hyper.copy()}
        if not fault:
            start = 3 * of.m if 3 * of.m < rows else 0
            valid = min(of.m, rows - start)
            expected["clock"][[at.STEP, at.START, at.VALID]] = step + 1, start, valid
            expected["hyper"][[at.LR, at.DECAY, at.FADE]] = table[min(step + 1, 3)] * [0.5, 1, 1]
            expected["hyper"][at.CORRECTION1] = 1 - 0.9 ** (step + 1)
            expected["hyper"][at.CORRECTION2] = 1 - 0.99 ** (step + 1)
        given = {"table": table, "batch": batch}
        yield Case(kernel, label, given, expected, {"clock": clock, "hyper": hyper})


@maker("micro_batch")
def micro_batch(kernel: Kernel, of: Size) -> Iterator[Case]:
    m, batch = of.m, 2 * of.m + 1
    for label, before, after in (("second", 0, m), ("last", m, 2 * m), ("back", 2 * m, 0)):
        start, valid = of.n + before, batch - 1 - before
        clock = clock_at(STEP=4, START=start, VALID=valid, ROWS=9 * m, BEFORE=before)
        expected = clock.copy()
        by = after - before
        expected[[at.START, at.VALID, at.BEFORE]] = start + by, valid - by, after
        given = {"rows": m, "batch": batch}
        yield Case(kernel, label, given, {"clock": expected}, {"clock": clock})


@maker("accumulate")
def accumulate(kernel: Kernel, of: Size) -> Iterator[Case]:
    grad, total = of.normal(2, of.n * of.m)
    for label, before, expected in (("first", 0, grad), ("later", of.n + 1, grad + total)):
        given = {"grad": grad, "clock": clock_at(BEFORE=before, VALID=of.m)}
        yield Case(kernel, label, given, {"total": expected}, {"total": total})


@maker("squared_norm")
def squared_norm(kernel: Kernel, of: Size) -> Iterator[Case]:
    grad = of.normal(of.n * of.m)
    out = np.array([(grad.astype(float) ** 2).sum()])
    yield Case(kernel, "", {"grad": grad}, {"out": out}, dtypes={"out": "float64"})


@maker("clip")
def clip(kernel: Kernel, of: Size) -> Iterator[Case]:
    for label, squared, factor in (
        ("below", 1.0, 1.0),
        ("above", 16.0, 0.5),
        ("zero", 0.0, 1.0),
        ("infinite", np.inf, 0.0),
        ("NaN", np.nan, np.nan),
    ):
        hyper = _hyper()
        expected = hyper.copy()
        expected[at.CLIP] = factor
        given = {"squared": np.array([squared])}
        yield Case(kernel, label, given, {"hyper": expected}, {"hyper": hyper})
