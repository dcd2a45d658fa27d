"""A case for every gate, loss and kernel: doubted by central differences, in float64.

What has no gradient, such as an optimiser's step, is compared with its formula written out plainly.
A gate or a kernel that has no case here counts as wrong.
"""

from collections.abc import Callable, Sequence
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpunet import formula, gates
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.errors import UsageError
from gpunet.gradcheck import (
    Difference,
    Point,
    Result,
    check_graph,
    compare,
    gate_difference,
    matches,
)
from gpunet.graph import Gate
from gpunet.kernels import REGISTRY
from gpunet.kernels import slots as at
from gpunet.kernels.activation import PAIRS, PARAMETRIC
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.narrow import nearest, widened
from gpunet.kernels.update import SLOTS
from gpunet.random import Purpose, bits, stream

KNOTS = ((-1.6, -0.23, 0.45, 1.02), (), (0.0, 0.8))
"""Near none of the values that gates and kernels are checked at."""


def run(
    text: str | None, assignments: Sequence[str], everything: bool, seed: int = 0
) -> list[Result]:
    """What `gpunet gradcheck` is asked for: a formula at given inputs, or all there is."""
    if everything:
        if text or assignments:
            raise UsageError("--all and a formula at once", "ask for one of them")
        return check_all(seed)
    if not text:
        raise UsageError("nothing to check", "give a formula, or --all")
    graph = formula.parse(text)
    return check_graph(graph, formula.inputs(graph, assignments, seed), seed)


def check_all(seed: int = 0, device: Device | None = None) -> list[Result]:
    """Every gate and loss, and every kernel of REGISTRY as it runs on `device`, else the CPU."""
    rng = stream(seed, Purpose.CHECK)
    cases = _gate_cases(rng)
    results = [
        _result(
            kind.__name__,
            "loss" if issubclass(kind, gates.Loss) else "gate",
            [gate_difference(gate, inputs, rng) for gate, inputs in cases.get(kind, ())],
        )
        for kind in _all_gates()
    ]
    return results + [check_kernel(name, seed, device) for name in REGISTRY]


def check_kernel(name: str, seed: int = 0, device: Device | None = None) -> Result:
    """One kernel: value and gradient together where it has both, else against its formula."""
    bench = Bench(device or Cpu(), stream(seed, Purpose.CHECK))
    return _result(name, "kernel", [KERNELS[name](bench)] if name in KERNELS else [])


def _result(name: str, kind: str, found: Sequence[Difference]) -> Result:
    return Result(name, kind, *max(found, default=Difference(inf, "no case checks it")))


def _all_gates() -> list[type[Gate]]:
    """The gates of `gates` that no other gate there is made from."""
    kinds = [
        kind for kind in vars(gates).values() if isinstance(kind, type) and issubclass(kind, Gate)
    ]
    return [kind for kind in kinds if not any(o is not kind and issubclass(o, kind) for o in kinds)]


Case = tuple[Gate, Sequence[np.ndarray]]


def _gate_cases(rng: np.random.Generator) -> dict[type[Gate], list[Case]]:
    return {**_elementwise_cases(rng), **_array_cases(rng), **_loss_cases(rng)}


def _trained_norm() -> gates.BatchNorm:
    """A batch norm as it is used after training."""
    gate = gates.BatchNorm(3)
    gate.running_mean, gate.running_var = np.array([0.5, -1.0, 0.0]), np.array([0.3, 2.0, 1.0])
    gate.training = False
    return gate


def _elementwise_cases(rng: np.random.Generator) -> dict[type[Gate], list[Case]]:
    """At values clear of their kinks; the second input is broadcast, and wins half the time."""
    one = (
        gates.Negate(),
        gates.Exp(),
        gates.Abs(),
        gates.Sin(),
        gates.Cos(),
        gates.Softplus(),
        gates.Identity(),
        gates.Sigmoid(),
        gates.Tanh(),
        gates.ReLU(),
        gates.SELU(),
        gates.GELU(),
        gates.SiLU(),
        gates.Mish(),
        gates.Dropout(0.3, seed=1, layer=2, step=3),
    )
    two = (gates.Add(), gates.Subtract(), gates.Multiply(), gates.Divide(), gates.Power())
    cases: dict[type[Gate], list[Case]] = {
        type(gate): [(gate, _apart(rng, (2, 3)))] for gate in (*one, gates.Log(), gates.Sqrt())
    }
    cases |= {type(gate): [(gate, _apart(rng, (2, 3), (2, 1)))] for gate in two}
    for extreme in (gates.Maximum, gates.Minimum):
        cases[extreme] = [(extreme(), [*_apart(rng, (2, 3)), np.array([[0.1], [-0.1]])])]
    for positive in (gates.Log, gates.Sqrt, gates.Power):
        [(gate, (x, *others))] = cases[positive]
        cases[positive] = [(gate, [np.abs(x) + 0.1, *others])]
    return cases


def _array_cases(rng: np.random.Generator) -> dict[type[Gate], list[Case]]:
    def case(gate: Gate, *shapes: tuple[int, ...]) -> Case:
        return gate, _apart(rng, *(shapes or ((2, 3),)))

    table, index = _apart(rng, (4, 2)), np.array([0, 2, 1, 2])
    codes = np.array([[0, 1], [2, 1], [2, 0]])
    return {
        gates.MatMul: [
            case(gates.MatMul(), (2, 3), (3, 2)),
            case(gates.MatMul(), (3,), (3,)),
            case(gates.MatMul(), (2, 3), (3,)),
            case(gates.MatMul(), (3,), (2, 3, 2)),
            case(gates.MatMul(), (2, 1, 2, 3), (2, 3, 1)),
        ],
        gates.Parametric: [
            case(gates.Parametric(gates.Mish()), (2, 3), (3,)),
            case(gates.Parametric(gates.SELU()), (2, 3), (3,)),
        ],
        gates.Sum: [case(gates.Sum()), case(gates.Sum(0)), case(gates.Sum(-1, True))],
        gates.Mean: [case(gates.Mean()), case(gates.Mean(0)), case(gates.Mean((0, 1), True))],
        gates.Max: [case(gates.Max()), case(gates.Max(0)), case(gates.Max(1, True))],
        gates.Reshape: [case(gates.Reshape(3, -1))],
        gates.Transpose: [case(gates.Transpose()), case(gates.Transpose(0, 2, 1), (2, 3, 1))],
        gates.Broadcast: [case(gates.Broadcast(4, 2, 3))],
        gates.Take: [(gates.Take(), [*table, index])],
        gates.Concatenate: [case(gates.Concatenate(axis=0), (2, 3), (1, 3), (3, 3))],
        gates.Columns: [case(gates.Columns(1, 3), (2, 4))],
        gates.Periodic: [case(gates.Periodic(), (5, 2), (2, 3), (2, 3), (2, 3, 2), (2, 2))],
        gates.Piecewise: [case(gates.Piecewise(KNOTS), (5, 3))],
        gates.Embedding: [(gates.Embedding((0, 3)), [codes, *_apart(rng, (5, 2))])],
        gates.LayerNorm: [case(gates.LayerNorm(), (2, 2, 3), (3,), (3,))],
        gates.BatchNorm: [
            case(gate, (4, 3), (3,), (3,)) for gate in (gates.BatchNorm(3), _trained_norm())
        ],
    }


def _loss_cases(rng: np.random.Generator) -> dict[type[Gate], list[Case]]:
    """With row weights and without."""
    classes, weight = np.array([0, 2, 1, 2]), rng.uniform(0.5, 2, 4)
    plain = (
        gates.SigmoidCrossEntropy(0.1),
        gates.SumSquares(),
        gates.MeanSquared(),
        gates.MeanAbsolute(),
        gates.Huber(0.9),
        gates.Pinball.of((0.1, 0.3, 0.8)),
        gates.Poisson(),
    )
    cases: dict[type[Gate], list[Case]] = {
        type(gate): [(gate, each), (gate, [*each, weight])]
        for gate in plain
        for each in [_apart(rng, (4, 3), (4, 3))]
    }
    (pred,), gate = _apart(rng, (4, 3)), gates.SoftmaxCrossEntropy(0.1)
    cases[type(gate)] = [(gate, [pred, classes]), (gate, [pred, classes, weight])]
    return cases


def _apart(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of values between -2 and 2, none near another or near 0."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    total = sum(sizes) + sum(sizes) % 2
    values = rng.permutation(np.linspace(-2, 2, total))[: sum(sizes)]
    parts = np.split(values, np.cumsum(sizes))[:-1]
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


# ---- kernels


class Bench:
    """Runs kernels on a device, on copies of host arrays, in float64 where they can."""

    def __init__(self, device: Device, rng: np.random.Generator) -> None:
        self.device, self.rng = device, rng

    def run(self, name: str, *arguments: Any) -> dict[str, np.ndarray]:
        """The kernel's outputs, by name."""
        kernel = REGISTRY[name]
        arrays = [
            self.device.asarray(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments
        ]
        if kernel.work is not None:
            dtype = np.float64 if kernel.typed_by else np.float32
            arrays.append(self.device.empty((max(1, kernel.work(*arrays)),), dtype))
        kernel.bind(self.device, *arrays)()
        self.device.synchronize()
        named = dict(zip(kernel.parameters, arrays, strict=True))
        return {name: self.device.to_host(named[name]) for name in kernel.outputs}

    def apart(self, *shapes: tuple[int, ...]) -> list[np.ndarray]:
        return _apart(self.rng, *shapes)

    def pair(
        self,
        start: Point,
        forward: Callable[[Point], np.ndarray],
        backward: Callable[[np.ndarray], Point],
    ) -> Difference:
        """A weighted sum of what `forward` gives, against what `backward` says of the weights."""
        weight = self.rng.standard_normal(forward(start).shape)

        def loss(point: Point) -> float:
            return float(np.sum(weight * forward(point)))

        return compare(loss, start, backward(weight), self.rng)


def _clock(**places: int) -> np.ndarray:
    clock = np.zeros(8, np.int64)
    for name, number in places.items():
        clock[getattr(at, name)] = number
    return clock


def _hyper(**places: float) -> np.ndarray:
    hyper = np.zeros(16)
    for name, number in places.items():
        hyper[getattr(at, name)] = number
    return hyper


def _activation(name: str) -> Callable[[Bench], Difference]:
    """Parametric or not."""

    def case(bench: Bench) -> Difference:
        start, none, sums = _pre_activations(bench, name)

        def forward(at: Point) -> np.ndarray:
            return bench.run(f"{name}_forward", *at.values(), none)["y"]

        def backward(grad: np.ndarray) -> Point:
            y = [] if "share" in start else [forward(start)]
            found = bench.run(f"{name}_backward", grad, *start.values(), *y, none, *sums)
            return {each: found[f"d{each}"] for each in start}

        return bench.pair(start, forward, backward)

    return case


def _pre_activations(
    bench: Bench, name: str
) -> tuple[dict[str, np.ndarray], np.ndarray, list[np.ndarray]]:
    """What an activation is given, by name; unset arrays for its value and for column sums."""
    z, bias, *share = bench.apart((5, 3), (3,), *[(3,)] * name.startswith("parametric"))
    start = {"z": z, "bias": bias / 100, **dict(zip(("share",), share))}
    return start, np.full_like(z, nan), [np.full(3, nan)] * (1 + len(share))


def _scale(bench: Bench) -> Difference:
    x, scale = bench.apart((5, 3), (3,))

    def backward(grad: np.ndarray) -> Point:
        found = bench.run("scale_backward", grad, x, scale, np.full_like(x, nan), np.full(3, nan))
        return {"x": found["dx"], "scale": found["dscale"]}

    def forward(at: Point) -> np.ndarray:
        return bench.run("scale_forward", at["x"], at["scale"], np.full_like(x, nan))["y"]

    return bench.pair({"x": x, "scale": scale}, forward, backward)


def _mask(shape: tuple[int, int]) -> tuple[tuple[Any, ...], np.ndarray]:
    """What makes a mask of rows of a batch from its third row on, and its factors."""
    key, rate = np.array([1, Purpose.DROPOUT], np.uint64), np.array([0.6])
    words = bits(1, Purpose.DROPOUT, step=3, layer=2).random_raw(16)
    first, size = 2 * shape[1], shape[0] * shape[1]
    lanes = words.astype("<u8").view("<u2")[first : first + size]
    kept = lanes.reshape(shape) < round(0.7 * 65536)
    given = (rate, _hyper(FADE=0.5), key, _clock(STEP=3, BEFORE=2), 2)
    return given, kept * 65536 / round(0.7 * 65536)


def _dropout(bench: Bench) -> Difference:
    (x,) = bench.apart((5, 7))
    mask, factors = _mask((5, 7))

    def masked(array: np.ndarray) -> np.ndarray:
        return bench.run("dropout", array, *mask, np.full_like(x, nan))["y"]

    value = matches({"y": masked(x)}, {"y": x * factors})
    slope = bench.pair({"x": x}, lambda at: masked(at["x"]), lambda grad: {"x": masked(grad)})
    return max(value, slope)


def _dropped(name: str) -> Callable[[Bench], Difference]:
    """An activation, parametric or not, with the dropout of its value, or of its gradient."""

    def case(bench: Bench) -> Difference:
        start, none, sums = _pre_activations(bench, name)
        mask, factors = _mask((5, 3))

        def forward(at: Point) -> dict[str, np.ndarray]:
            return bench.run(f"{name}_dropped_forward", *at.values(), none, *mask, none)

        def backward(grad: np.ndarray) -> Point:
            y = [] if "share" in start else [forward(start)["y"]]
            given = (grad, *mask, *start.values(), *y, none, *sums)
            found = bench.run(f"{name}_dropped_backward", *given)
            return {each: found[f"d{each}"] for each in start}

        y = bench.run(f"{name}_forward", *start.values(), none)["y"]
        value = matches(forward(start), {"y": y, "dropped": y * factors})
        return max(value, bench.pair(start, lambda at: forward(at)["dropped"], backward))

    return case


def _layer_norm(bench: Bench) -> Difference:
    x, gain, bias = bench.apart((4, 3), (3,), (3,))
    start = {"x": x, "gain": gain, "bias": bias}
    none, rows, columns = np.full_like(x, nan), np.full(4, nan), np.full(3, nan)

    def run(at: Point) -> dict[str, np.ndarray]:
        return bench.run("layer_norm_forward", *at.values(), none, rows, rows)

    def backward(grad: np.ndarray) -> Point:
        saved = run(start)
        given = (grad, x, gain, saved["mean"], saved["rstd"], none, columns, columns)
        return _norm_gradients(bench.run("layer_norm_backward", *given))

    return bench.pair(start, lambda at: run(at)["y"], backward)


def _norm_gradients(found: Point) -> Point:
    return {"x": found["dx"], "gain": found["dgain"], "bias": found["dbias"]}


def _batch_norm(bench: Bench) -> Difference:
    """Four valid rows of five: the fifth changes nothing and gets no gradient."""
    x, gain, bias, running = bench.apart((5, 3), (3,), (3,), (3,))
    start, clock = {"x": x, "gain": gain, "bias": bias}, _clock(VALID=4)
    none, columns = np.full_like(x, nan), np.full(3, nan)

    def run(at: Point) -> dict[str, np.ndarray]:
        given = (running, running**2, clock, none, columns, columns)
        return bench.run("batch_norm_forward", *at.values(), *given)

    def backward(grad: np.ndarray) -> Point:
        saved = run(start)
        whole = np.concatenate([grad, np.ones((1, 3))])
        given = (whole, x, gain, saved["mean"], saved["rstd"], clock, none, columns, columns)
        return _norm_gradients(bench.run("batch_norm_backward", *given))

    wanted = {
        "running_mean": 0.9 * running + 0.1 * x[:4].mean(axis=0),
        "running_var": 0.9 * running**2 + 0.1 * x[:4].var(axis=0, ddof=1),
    }
    return max(
        bench.pair(start, lambda at: run(at)["y"][:4], backward), matches(run(start), wanted)
    )


def _batch_norm_apply(bench: Bench) -> Difference:
    x, gain, bias, mean, root = bench.apart((5, 3), (3,), (3,), (3,), (3,))
    found = bench.run("batch_norm_apply", x, gain, bias, mean, root**2, np.full_like(x, nan))
    return matches(found, {"y": (x - mean) / np.sqrt(root**2 + 1e-5) * gain + bias})


def _loss(name: str) -> Callable[[Bench], Difference]:
    """Three valid rows of four, weighted."""

    def case(bench: Bench) -> Difference:
        pred, target = bench.apart((4, 3), (4, 3))
        if name == "softmax_cross_entropy":
            target = np.array([2, 0, 1, 1], np.int32)
        elif name == "sigmoid_cross_entropy":
            target = (target + 2) / 4
        weight = bench.rng.uniform(0.5, 2, 4)
        parameter = np.array([0.1, 0.3, 0.8] if name == "pinball" else [0.3])

        def run(at: Point) -> dict[str, np.ndarray]:
            buffers = (_clock(VALID=3), np.full((4, 3), nan), np.full(4, nan), np.zeros(3))
            return bench.run(name, at["pred"], target, weight, parameter, *buffers)

        start = {"pred": pred}
        gradients = {"pred": run(start)["grad"]}
        return compare(lambda at: float(run(at)["totals"][0]), start, gradients, bench.rng)

    return case


def _gather(bench: Bench) -> Difference:
    """Two valid rows of three, from the second place of the order on; bytes, then floats."""
    (x,) = bench.apart((5, 4))
    scale, shift = bench.apart((4,), (4,))
    order, clock = np.array([3, 0, 4, 1, 2], np.int32), _clock(START=1, VALID=2)
    none = np.full((3, 4), nan)
    pixels = np.arange(20, dtype=np.uint8).reshape(5, 4)
    bare = bench.run("gather", x, None, None, order, clock, none)
    scaled = bench.run("gather", pixels, scale, shift, None, clock, none)
    return max(
        matches(bare, {"out": np.vstack([x[[0, 4]], np.zeros((1, 4))])}),
        matches(scaled, {"out": np.vstack([pixels[1:3] * scale + shift, np.zeros((1, 4))])}),
    )


def _gather_each(name: str, dtype: str) -> Callable[[Bench], Difference]:
    def case(bench: Bench) -> Difference:
        y, order = np.array([7, 8, 9], dtype), np.array([2, 0, 1], np.int32)
        found = bench.run(name, y, order, _clock(START=1, VALID=2), np.full(3, -1, dtype))
        return matches(found, {"out": np.array([7.0, 8.0, 0.0])})

    return case


def _take(bench: Bench) -> Difference:
    (x,) = bench.apart((4, 3))
    index = np.array([3, 0, 3, 1, 3], np.int32)
    none = np.full((5, 3), nan)
    return bench.pair(
        {"x": x},
        lambda at: bench.run("take", at["x"], index, none)["y"],
        lambda grad: {"x": bench.run("scatter_add", grad, index, np.full_like(x, nan))["dx"]},
    )


def _periodic(bench: Bench) -> Difference:
    """Two features between other columns, as three columns each between others."""
    shapes = {
        "x": (7, 4),
        "frequency": (2, 3),
        "phase": (2, 3),
        "weight": (2, 3, 2),
        "bias": (2, 2),
    }
    start = dict(zip(shapes, bench.apart(*shapes.values()), strict=True))
    unset = [np.full(shape, nan) for shape in shapes.values()][1:]

    def forward(at: Point) -> np.ndarray:
        return bench.run("periodic_forward", *at.values(), np.zeros((7, 9)), 1, 2)["y"]

    def backward(grad: np.ndarray) -> Point:
        x, *waves, _ = start.values()
        given = (grad, x, *waves, np.zeros_like(x), *unset, 1, 2)
        found = bench.run("periodic_backward", *given)
        return {name: found[f"d{name}"] for name in shapes}

    return bench.pair(start, forward, backward)


def _piecewise(bench: Bench) -> Difference:
    """Three features, one without bins, between other columns, as bins between others."""
    (x,) = bench.apart((7, 5))
    gate = gates.Piecewise(KNOTS)
    constants, width = gate.constants(np.float64), gate.bins + 3

    def forward(at: Point) -> np.ndarray:
        found = bench.run("piecewise_forward", at["x"], *constants, np.zeros((7, width)), 1, 2)
        return found["y"]

    def backward(grad: np.ndarray) -> Point:
        given = (grad, x, *constants, np.zeros_like(x), 1, 2, 3)
        return {"x": bench.run("piecewise_backward", *given)["dx"]}

    return bench.pair({"x": x}, forward, backward)


def _embedding(bench: Bench) -> Difference:
    (table,) = bench.apart((5, 2))
    x = np.array([[9.0, 0, 1], [9, 2, 1], [9, 2, 0]])
    starts = np.array([0, 3], np.int32)

    def forward(at: Point) -> np.ndarray:
        return bench.run("embedding_forward", x, starts, at["table"], np.zeros((3, 6)), 1, 1)["y"]

    def backward(grad: np.ndarray) -> Point:
        given = (grad, x, starts, np.full_like(table, nan), 1, 1)
        return {"table": bench.run("embedding_backward", *given)["dtable"]}

    return bench.pair({"table": table}, forward, backward)


def _copy_columns(bench: Bench) -> Difference:
    x, y = bench.apart((5, 4), (5, 6))
    wanted = np.hstack([y[:, :3], x[:, 1:3], y[:, 5:]])
    return matches(bench.run("copy_columns", x, y, 1, 3, 2), {"y": wanted})


def _column_sums(bench: Bench) -> Difference:
    (x,) = bench.apart((70, 3))
    return matches(bench.run("column_sums", x, np.full(3, nan)), {"out": x.sum(axis=0)})


def _squared_norm(bench: Bench) -> Difference:
    (grad,) = bench.apart((700,))
    return matches(
        bench.run("squared_norm", grad, np.full(1, nan)), {"out": np.array([grad @ grad])}
    )


def _clip(bench: Bench) -> Difference:
    found = [bench.run("clip", np.array([n]), _hyper(LIMIT=1.5))["hyper"] for n in (9.0, 0.04)]
    return max(
        matches({"hyper": each}, {"hyper": _hyper(LIMIT=1.5, CLIP=scale)})
        for each, scale in zip(found, (0.5, 1.0), strict=True)
    )


def _tick(bench: Bench) -> Difference:
    """The last batch of an epoch, past the end of the table of rates."""
    clock, hyper = _clock(STEP=4, START=16, ROWS=22), _hyper(BETA1=0.9, BETA2=0.99, SCALE=0.5)
    wanted = hyper.copy()
    wanted[[at.LR, at.DECAY, at.FADE]] = 0.5 * 0.3, 0.2, 0.1
    wanted[[at.CORRECTION1, at.CORRECTION2]] = 1 - 0.9**5, 1 - 0.99**5
    table = np.array([[0.1, 0.4, 1.0], [0.2, 0.3, 0.5], [0.3, 0.2, 0.1]])
    return matches(
        bench.run("tick", clock, hyper, table, 4),
        {"clock": _clock(STEP=5, START=20, ROWS=22, VALID=2), "hyper": wanted},
    )


def _micro_batch(bench: Bench) -> Difference:
    """The second of two, and back to the first."""
    first, second = (
        _clock(START=8, VALID=5),
        _clock(START=11, VALID=2, BEFORE=3),
    )
    return max(
        matches(bench.run("micro_batch", now, 3, 6), {"clock": then})
        for now, then in ((first, second), (second, first))
    )


def _accumulate(bench: Bench) -> Difference:
    grad, total = bench.apart((700,), (700,))
    return max(
        matches(bench.run("accumulate", grad, total, _clock(BEFORE=before)), {"total": wanted})
        for before, wanted in ((0, grad), (1, total + grad))
    )


def _show_faults(bench: Bench) -> Difference:
    found = bench.run("show_faults", np.array([0, 4, 1]), _clock(FAULT=2))
    return matches(found, {"found": np.zeros(3), "clock": _clock(FAULT=7)})


def _narrow(bench: Bench) -> Difference:
    x = np.array([1.0, 257.0, 259.0, -3.1415926, 1e-30, 0.0], np.float32)
    found = bench.run("narrow", x, np.zeros(6, np.uint16))["y"]
    return matches({"y": widened(found)}, {"y": _eight_bits(x)})


def _relu_narrow_forward(bench: Bench) -> Difference:
    z = np.array([[1.0, -2.0, 3.14159], [-0.5, 0.25, 100.7]], np.float32)
    bias = np.array([0.5, 3.0, -1.0], np.float32)
    found = bench.run("relu_narrow_forward", z, nearest(bias), np.zeros((2, 3), np.uint16))["y"]
    return matches({"y": widened(found)}, {"y": _eight_bits(np.maximum(z + bias, 0))})


def _relu_narrow_backward(bench: Bench) -> Difference:
    grad = np.array([[1.0, -2.0, 3.14159], [-0.5, 0.25, 100.7]], np.float32)
    y = np.array([[0.0, 2.0, 1.0], [4.0, 0.0, 0.5]], np.float32)
    empty = np.zeros((2, 3), np.uint16), np.zeros(3, np.float32)
    found = bench.run("relu_narrow_backward", grad, nearest(y), *empty)
    slope = np.where(y > 0, grad, 0)
    wanted = {"dz": _eight_bits(slope), "dbias": slope.sum(0)}
    return matches({**found, "dz": widened(found["dz"])}, wanted)


def _eight_bits(x: np.ndarray) -> np.ndarray:
    """Each number rounded to a mantissa of 8 bits, as bfloat16 has; of two the even one."""
    mantissa, exponent = np.frexp(np.float64(x))
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def _update(name: str, is_narrow: bool = False) -> Callable[[Bench], Difference]:
    """Two segments, the second of half the rate and with decay; gradients are clipped to a half.
    `is_narrow`: with the parameters in bfloat16 beside them."""

    def case(bench: Bench) -> Difference:
        p, g = bench.apart((7,), (7,))
        slots = [np.abs(slot) for slot in bench.apart(*[(7,)] * len(SLOTS[name]))]
        starts, rates, decays = np.array([0, 3, 7]), np.array([1.0, 0.5]), np.array([0.0, 1.0])
        hyper = _hyper(LR=0.1, DECAY=0.2, BETA1=0.9, BETA2=0.99, EPSILON=1e-8, CLIP=0.5)
        hyper[[at.CORRECTION1, at.CORRECTION2]] = 1 - 0.9**3, 1 - 0.99**3
        shadow = [np.zeros(7, np.uint16)] if is_narrow else []
        given = (p, g, *slots, *shadow, starts, rates, decays, hyper, _clock(STEP=3), None)
        found = bench.run(f"{name}_narrow" if is_narrow else name, *given)
        rate = SimpleNamespace(lr=np.repeat([0.1, 0.05], [3, 4]), c1=1 - 0.9**3, c2=1 - 0.99**3)
        wanted = UPDATES[name](rate, p, g / 2, np.repeat([0, 0.2], [3, 4]) * p, *slots)
        outputs = dict(zip(REGISTRY[name].outputs, wanted, strict=False))
        if is_narrow:
            found = {**found, "shadow": widened(found["shadow"])}
            outputs["shadow"] = _eight_bits(wanted[0])
        return matches(found, outputs)

    return case


def _sgd(rate: Any, p: Any, g: Any, decay: Any) -> tuple[Any, ...]:
    return (p - rate.lr * (g + decay),)


def _momentum(rate: Any, p: Any, g: Any, decay: Any, v: Any) -> tuple[Any, ...]:
    v = 0.9 * v + g + decay
    return p - rate.lr * v, v


def _nesterov(rate: Any, p: Any, g: Any, decay: Any, v: Any) -> tuple[Any, ...]:
    v = 0.9 * v + g + decay
    return p - rate.lr * (g + decay + 0.9 * v), v


def _rmsprop(rate: Any, p: Any, g: Any, decay: Any, s: Any) -> tuple[Any, ...]:
    s = 0.99 * s + 0.01 * (g + decay) ** 2
    return p - rate.lr * (g + decay) / (np.sqrt(s) + 1e-8), s


def _adam(rate: Any, p: Any, g: Any, decay: Any, m: Any, v: Any) -> tuple[Any, ...]:
    m, v = 0.9 * m + 0.1 * (g + decay), 0.99 * v + 0.01 * (g + decay) ** 2
    return p - rate.lr * (m / rate.c1) / (np.sqrt(v / rate.c2) + 1e-8), m, v


def _adamw(rate: Any, p: Any, g: Any, decay: Any, m: Any, v: Any) -> tuple[Any, ...]:
    return _adam(rate, p - rate.lr * decay, g, 0, m, v)


def _lion(rate: Any, p: Any, g: Any, decay: Any, m: Any) -> tuple[Any, ...]:
    return p - rate.lr * (decay + np.sign(0.9 * m + 0.1 * g)), 0.99 * m + 0.01 * g


UPDATES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "nesterov": _nesterov,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
    "lion": _lion,
}
CURVES = (*PAIRS, *(f"parametric_{name}" for name in PARAMETRIC))
BOTH_WAYS: dict[str, Callable[[Bench], Difference]] = {
    **{name: _activation(name) for name in CURVES},
    **{f"{name}_dropped": _dropped(name) for name in CURVES},
    "scale": _scale,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "periodic": _periodic,
    "piecewise": _piecewise,
    "embedding": _embedding,
}
"""Kernels of value and gradient, which one case checks together."""
KERNELS: dict[str, Callable[[Bench], Difference]] = {
    **{f"{name}_{way}": BOTH_WAYS[name] for name in BOTH_WAYS for way in ("forward", "backward")},
    **{name: _loss(name) for name in LOSSES},
    **{name: _update(name) for name in UPDATES},
    **{f"{name}_narrow": _update(name, is_narrow=True) for name in UPDATES},
    "narrow": _narrow,
    "relu_narrow_forward": _relu_narrow_forward,
    "relu_narrow_backward": _relu_narrow_backward,
    "dropout": _dropout,
    "batch_norm_apply": _batch_norm_apply,
    "gather": _gather,
    "gather_labels": _gather_each("gather_labels", "int32"),
    "gather_weights": _gather_each("gather_weights", "float64"),
    "take": _take,
    "scatter_add": _take,
    "copy_columns": _copy_columns,
    "column_sums": _column_sums,
    "accumulate": _accumulate,
    "squared_norm": _squared_norm,
    "clip": _clip,
    "tick": _tick,
    "micro_batch": _micro_batch,
    "show_faults": _show_faults,
}
"""Every kernel and what checks it."""
