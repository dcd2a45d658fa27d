"""Every gate: its value by an independent formula, its gradients by differences, its promises."""

import tracemalloc
from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import pytest
from reference import ACTIVATIONS, LOSS_ROWS, SELU_ALPHA, SELU_SCALE, periodic, sigmoid

import gpunet
from gpunet import formula, gates
from gpunet.device import Device
from gpunet.gates import Elementwise
from gpunet.graph import Gate, Graph

Oracle = Callable[..., Any]
gelu, selu, mish = (ACTIVATIONS[name] for name in ("gelu", "selu", "mish"))


def normed(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, axis: int) -> np.ndarray:
    away = x - x.mean(axis, keepdims=True)
    return gain * away / np.sqrt((away**2).mean(axis, keepdims=True) + 1e-5) + bias


def loss(name: str, parameter: Any = 0.0) -> Oracle:
    def oracle(p: np.ndarray, t: np.ndarray, weight: Any = 1.0) -> float:
        return float(np.mean(LOSS_ROWS[name](p, t, parameter)[0] * weight))

    return oracle


KNOTS = ((-0.7, 0.1, 0.6), (0.2,), (-0.4, 1.3))


def shares(x: np.ndarray) -> np.ndarray:
    bins = [(j, *bin) for j, each in enumerate(KNOTS) for bin in pairwise(each)]
    return np.stack([np.interp(x[..., j], (a, b), (0, 1)) for j, a, b in bins], axis=-1)


RNG = np.random.default_rng(7)
X, Y, COLUMN = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)), RNG.normal(size=(4, 1))
POSITIVE, ROW, STACK = np.abs(X) + 0.2, RNG.normal(size=3), RNG.normal(size=(2, 4, 3))
QUANTILES = (0.1, 0.3, 0.8)
CLASSES, WEIGHT = np.array([0, 2, 1, 2]), np.array([0.5, 1.0, 2.0, 0.1])
WAVES = [RNG.normal(size=shape) / 2 for shape in ((3, 5), (3, 5), (3, 5, 2), (3, 2))]
CODES = np.array([[0, 1], [1, 1], [1, 0]])

CASES: list[tuple[Gate, Sequence[np.ndarray], Oracle]] = [
    (gates.Add(), (X, COLUMN), lambda x, y: x + y),
    (gates.Subtract(), (ROW, X), lambda x, y: x - y),
    (gates.Multiply(), (X, ROW), lambda x, y: x * y),
    (gates.Divide(), (X, POSITIVE), lambda x, y: x / y),
    (gates.Negate(), (X,), lambda x: -x),
    (gates.Power(), (POSITIVE, COLUMN), lambda x, y: np.exp(y * np.log(x))),
    (gates.Exp(), (X,), np.exp),
    (gates.Log(), (POSITIVE,), np.log),
    (gates.Sqrt(), (POSITIVE,), lambda x: x**0.5),
    (gates.Abs(), (X,), lambda x: np.where(x < 0, -x, x)),
    (gates.Maximum(), (X, COLUMN), lambda x, y: np.where(x > y, x, y)),
    (gates.Minimum(), (X, Y), lambda x, y: np.where(x < y, x, y)),
    (gates.Sin(), (X,), lambda x: np.imag(np.exp(1j * x))),
    (gates.Cos(), (X,), lambda x: np.real(np.exp(1j * x))),
    (gates.Softplus(), (X,), lambda x: np.log(1 + np.exp(x))),
    (gates.Identity(), (X,), lambda x: x),
    (gates.Sigmoid(), (X,), sigmoid),
    (gates.Tanh(), (X,), lambda x: 2 * sigmoid(2 * x) - 1),
    (gates.ReLU(), (X,), lambda x: x * (x > 0)),
    (gates.SELU(), (X,), selu),
    (gates.GELU(), (X,), gelu),
    (gates.SiLU(), (X,), lambda x: x * sigmoid(x)),
    (gates.Mish(), (X,), mish),
    (gates.Sigmoid(), (STACK,), sigmoid),
    (gates.Mish(), (ROW,), mish),
    (gates.SELU(), (np.array(-0.7),), selu),
    (gates.Parametric(gates.Mish()), (STACK, ROW), lambda x, a: x + a * (mish(x) - x)),
    (gates.Parametric(gates.SELU()), (X, ROW), lambda x, a: (1 - a) * x + a * selu(x)),
    (gates.MatMul(), (X, Y.T), lambda x, y: np.einsum("ij,jk->ik", x, y)),
    (gates.MatMul(), (X, ROW), lambda x, y: np.einsum("ij,j->i", x, y)),
    (gates.MatMul(), (ROW, Y.T), lambda x, y: np.einsum("j,jk->k", x, y)),
    (gates.MatMul(), (ROW, ROW + 1), lambda x, y: np.einsum("j,j->", x, y)),
    (gates.MatMul(), (STACK, Y.T), lambda x, y: np.einsum("bij,jk->bik", x, y)),
    (gates.MatMul(), (STACK[:, None], Y.T), lambda x, y: np.einsum("bcij,jk->bcik", x, y)),
    (gates.Sum(), (X,), lambda x: x.reshape(-1) @ np.ones(12)),
    (gates.Sum(axis=1), (STACK,), lambda x: np.einsum("bij->bj", x)),
    (gates.Sum(axis=(0, -1), keepdims=True), (STACK,), lambda x: x.sum((0, 2), keepdims=True)),
    (gates.Mean(), (STACK,), lambda x: x.sum() / 24),
    (gates.Mean(axis=-1, keepdims=True), (X,), lambda x: x @ np.ones((3, 1)) / 3),
    (gates.Max(), (X,), lambda x: np.sort(x, axis=None)[-1]),
    (gates.Max(axis=0), (STACK,), lambda x: np.sort(x, axis=0)[-1]),
    (gates.Reshape(3, -1), (X,), lambda x: np.array(list(x.flat)).reshape(3, 4)),
    (gates.Transpose(), (STACK,), lambda x: np.einsum("bij->jib", x)),
    (gates.Transpose(1, 0, 2), (STACK,), lambda x: np.einsum("bij->ibj", x)),
    (gates.Broadcast(5, 4, 3), (COLUMN,), lambda x: np.tile(x, (5, 1, 3))),
    (gates.Take(), (X, np.array([[3, 0], [0, 0]])), lambda x, i: np.stack([x[r] for r in i])),
    (gates.Take(), (ROW, np.array([2, 2])), lambda x, i: np.array([x[2], x[2]])),
    (gates.Concatenate(), (X, COLUMN, Y), lambda *parts: np.hstack(parts)),
    (gates.Concatenate(axis=0), (X, Y), lambda *parts: np.vstack(parts)),
    (gates.Columns(1, 3), (STACK,), lambda x: np.stack([x[..., 1], x[..., 2]], axis=-1)),
    (gates.Periodic(), (X, *WAVES), periodic),
    (gates.Piecewise(KNOTS), (X,), shares),
    (gates.Piecewise(KNOTS), (STACK,), shares),
    (gates.Embedding((0, 2)), (CODES, X), lambda i, x: np.hstack([x[i[:, 0]], x[2 + i[:, 1]]])),
    (gates.LayerNorm(), (STACK, ROW, ROW + 1), lambda x, g, b: normed(x, g, b, -1)),
    (gates.BatchNorm(3), (X, ROW, ROW + 1), lambda x, g, b: normed(x, g, b, 0)),
    (gates.SoftmaxCrossEntropy(0.1), (X, CLASSES), loss("softmax_cross_entropy", 0.1)),
    (gates.SoftmaxCrossEntropy(0.1), (X, CLASSES, WEIGHT), loss("softmax_cross_entropy", 0.1)),
    (gates.SigmoidCrossEntropy(0.1), (X, sigmoid(Y)), loss("sigmoid_cross_entropy", 0.1)),
    (gates.SigmoidCrossEntropy(0.1), (X, sigmoid(Y), WEIGHT), loss("sigmoid_cross_entropy", 0.1)),
    (gates.SumSquares(), (X, Y), lambda p, t: ((p - t) ** 2).sum()),
    (gates.MeanSquared(), (X, Y), loss("mean_squared")),
    (gates.MeanSquared(), (STACK, STACK + 0.5), lambda p, t: np.mean((p - t) ** 2)),
    (gates.MeanSquared(), (ROW, ROW[::-1]), lambda p, t: np.mean((p - t) ** 2)),
    (gates.MeanSquared(), (np.array(2.0), np.array(5.0)), lambda p, t: (p - t) ** 2),
    (gates.MeanAbsolute(), (X, Y, WEIGHT), loss("mean_absolute")),
    (gates.Huber(0.9), (X, Y, WEIGHT), loss("huber", 0.9)),
    (gates.Pinball(0.3), (X, Y, WEIGHT), loss("pinball", 0.3)),
    (gates.Poisson(), (X, Y), loss("poisson")),
    (gates.Poisson(), (X, Y, WEIGHT), loss("poisson")),
    (gates.Pinball.of(QUANTILES), (X, Y), loss("pinball", np.array(QUANTILES))),
]
NAMES = [f"{type(gate).__name__}-{i}" for i, (gate, _, _) in enumerate(CASES)]
each_case = pytest.mark.parametrize(("gate", "inputs", "oracle"), CASES, ids=NAMES)
ELEMENTWISE = {
    type(gate): (gate, inputs) for gate, inputs, _ in CASES if isinstance(gate, Elementwise)
}
each_elementwise = pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)


def all_gates() -> set[type[Gate]]:
    kinds = {k for k in vars(gates).values() if isinstance(k, type) and issubclass(k, Gate)}
    return {kind for kind in kinds if not any(k is not kind and issubclass(k, kind) for k in kinds)}


def test_no_gate_is_left_out() -> None:
    assert all_gates() - {gates.Dropout} == {type(gate) for gate, _, _ in CASES}
    assert {kind.__name__ for kind in all_gates()} == set(gpunet._GATES)


@each_case
def test_values(gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle) -> None:
    value, wanted = gate.forward(*inputs), oracle(*inputs)
    assert np.shape(value) == np.shape(wanted) == gate.shape(*(np.shape(x) for x in inputs))
    assert value == pytest.approx(wanted, rel=1e-12, abs=1e-14)


@each_case
def test_gradients(gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle) -> None:
    """The oracle's central differences along random directions: nothing of gpunet is in them."""
    rng, h = np.random.default_rng(3), 1e-6
    upstream = rng.normal(size=np.shape(gate.forward(*inputs)))
    for i, (x, gradient) in enumerate(zip(inputs, gate.backward(upstream), strict=True)):
        if gradient is None:
            assert i in gate.indices or i == 2
            continue
        assert np.shape(gradient) == np.shape(x)
        for _ in range(3):
            direction = rng.normal(size=np.shape(x))
            up, down = (
                np.sum(upstream * oracle(*inputs[:i], x + step * direction, *inputs[i + 1 :]))
                for step in (h, -h)
            )
            assert np.sum(gradient * direction) == pytest.approx(
                (up - down) / (2 * h), rel=1e-6, abs=1e-8
            )


@each_case
def test_inputs_are_left_alone_and_buffers_are_filled(
    gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle
) -> None:
    copies = [np.array(x) for x in inputs]
    wanted = gate.forward(*inputs)
    upstream = np.random.default_rng(4).normal(size=np.shape(wanted))
    gradients = gate.backward(upstream)
    out = np.full(np.shape(wanted), np.nan)
    assert gate.forward(*inputs, out=out) is out
    assert np.array_equal(out, wanted)
    buffers = tuple(None if g is None else np.full(np.shape(g), np.nan) for g in gradients)
    assert gate.backward(upstream, out=buffers) is buffers
    for buffer, gradient in zip(buffers, gradients, strict=True):
        assert buffer is None or np.array_equal(buffer, gradient)
    for x, copy in zip(inputs, copies, strict=True):
        assert np.array_equal(x, copy)


def strided(x: np.ndarray) -> np.ndarray:
    """The same values in every second place of a wider array."""
    empty = np.nan if x.dtype.kind == "f" else -1
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), empty, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def same(found: Any, wanted: Any) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return bool(np.allclose(found, wanted, rtol=1e-12, atol=1e-14))


@each_case
def test_strided_arrays(gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle) -> None:
    if any(x.ndim == 0 for x in inputs):
        return
    wanted = gate.forward(*inputs)
    gradients = gate.backward(np.ones(np.shape(wanted)))
    assert same(gate.forward(*map(strided, inputs)), wanted)
    upstream = np.broadcast_to(np.ones(()), np.shape(wanted))
    assert all(map(same, gate.backward(upstream), gradients))
    if all(x.ndim <= 2 for x in inputs):
        buffers = tuple(None if g is None else strided(np.zeros_like(g)) for g in gradients)
        assert all(map(same, gate.backward(upstream, out=buffers), gradients))


@each_case
def test_float32_follows_float64(gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle) -> None:
    wanted = gate.forward(*inputs)
    gradients = gate.backward(1.0)
    single = [x.astype(np.float32) if x.dtype.kind == "f" else x for x in inputs]
    value = gate.forward(*single)
    assert value.dtype == np.float32
    assert value == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    for found, gradient in zip(gate.backward(1.0), gradients, strict=True):
        if gradient is not None:
            assert found.dtype == np.float32
            assert found == pytest.approx(gradient, rel=1e-3, abs=1e-4)


@each_case
def test_backward_reads_only_what_the_gate_saves(
    gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle
) -> None:
    """What a gate does not save may be overwritten between its forward and its backward."""
    shape = np.shape(gate.forward(*inputs))
    upstream = np.random.default_rng(5).normal(size=shape)
    wanted = gate.backward(upstream)
    gate.forward(*inputs)
    if "inputs" not in gate.saves:
        gate.inputs = tuple(np.full_like(x, np.nan) for x in gate.inputs)
    if "output" not in gate.saves:
        gate.output = np.full_like(gate.output, np.nan)
    for found, gradient in zip(gate.backward(upstream), wanted, strict=True):
        assert found is gradient or np.array_equal(found, gradient)


@pytest.mark.gpu
@each_case
def test_on_a_gpu(gpu: Device, gate: Gate, inputs: Sequence[np.ndarray], oracle: Oracle) -> None:
    wanted = gate.forward(*inputs)
    gradients = gate.backward(1.0)
    gate = deepcopy(gate)
    assert gpu.to_host(gate.forward(*map(gpu.asarray, inputs))) == pytest.approx(wanted, rel=1e-10)
    for found, gradient in zip(gate.backward(1.0), gradients, strict=True):
        assert (found is None) == (gradient is None)
        assert gradient is None or gpu.to_host(found) == pytest.approx(
            gradient, rel=1e-9, abs=1e-12
        )


@each_elementwise
def test_the_local_gradient_that_is_shown_is_the_one_that_is_used(
    kind: type[Elementwise], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formula.FUNCTIONS, "sign", Sign)
    gate, inputs = ELEMENTWISE[kind]
    z = gate.forward(*inputs)
    upstream = np.random.default_rng(6).normal(size=z.shape)
    whole = [np.broadcast_to(x, z.shape) for x in inputs]
    gate.forward(*whole)
    known = {**dict(zip("xy", whole, strict=False)), "z": z}
    for i, gradient in enumerate(gate.backward(upstream)):
        circuit = formula.parse(gate.local[i])
        local = circuit.forward({name: known[name] for name in circuit.inputs})
        assert upstream * local == pytest.approx(gradient, rel=1e-8, abs=1e-12)


class Sign(Elementwise):
    def _forward(self, xp: Any, out: np.ndarray, x: np.ndarray) -> None:
        xp.sign(x, out=out)


@each_elementwise
@pytest.mark.filterwarnings("error")
def test_far_out_nothing_warns(kind: type[Elementwise]) -> None:
    gate = ELEMENTWISE[kind][0]
    far = np.array([1e4, -1e4, 0.0, 1e300, -1e300])
    gate.forward(*[far] * len(ELEMENTWISE[kind][1]))
    gate.backward(np.ones(5))


@pytest.mark.parametrize(
    ("text", "x", "wanted"),
    [
        ("relu(x)", [-1, 0, np.nan], [0, 0, 0]),
        ("relu(x)", [-1, 2, 0], [0, np.inf, 0]),
        ("abs(x)", [0, -1, np.nan], [0, -np.inf, np.nan]),
        ("maximum(x, 1)", [0, 2, np.nan], [0, np.inf, np.nan]),
        ("minimum(x, 1)", [0, 2, np.nan], [np.inf, 0, np.nan]),
        ("max(x, axis=0)", [0, 2, 2], [0, np.inf, np.inf]),
        ("max(x, axis=0)", [0, 2, np.nan], [np.nan, np.nan, np.nan]),
    ],
)
def test_an_infinite_gradient_ends_where_a_gate_lets_none_through(
    text: str, x: list[float], wanted: list[float]
) -> None:
    circuit = formula.parse(text)
    circuit.forward(x=x)
    assert np.array_equal(circuit.backward(np.inf)["x"], wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("kind", "value", "slope"),
    [
        (gates.Sigmoid, [1, 0], [0, 0]),
        (gates.Tanh, [1, -1], [0, 0]),
        (gates.ReLU, [1e4, 0], [1, 0]),
        (gates.GELU, [1e4, 0], [1, 0]),
        (gates.SiLU, [1e4, 0], [1, 0]),
        (gates.Mish, [1e4, 0], [1, 0]),
        (gates.Softplus, [1e4, 0], [1, 0]),
        (gates.SELU, [1e4 * SELU_SCALE, -SELU_SCALE * SELU_ALPHA], [SELU_SCALE, 0]),
    ],
)
def test_far_out_values_are_exact(kind: type[Gate], value: list[float], slope: list[float]) -> None:
    gate = kind()
    for dtype in (np.float64, np.float32):
        found = gate.forward(np.array([1e4, -1e4], dtype))
        assert found == pytest.approx(np.array(value), rel=1e-6, abs=0)
        assert gate.backward(1.0)[0] == pytest.approx(np.array(slope), rel=1e-6, abs=1e-6)


def test_far_out_logits_give_a_loss() -> None:
    pred = np.array([[1e4, -1e4], [-1e4, 1e4]])
    for gate, target, wanted in (
        (gates.SoftmaxCrossEntropy(), np.array([0, 0]), 1e4),
        (gates.SigmoidCrossEntropy(), np.array([[1.0, 0.0], [1.0, 0.0]]), 5e3),
    ):
        assert gate.forward(pred, target) == pytest.approx(wanted)
        assert np.isfinite(gate.backward(1.0)[0]).all()


# ---- the lecture's slips


def test_the_multiply_gate_multiplies() -> None:
    gate = gates.Multiply()
    assert gate.forward(3, -4) == -12
    assert gate.backward(2) == (-8, 6)


def test_the_two_layer_network_of_the_lecture() -> None:
    """N=64, 1000 → 100 → 10: w1 is (D, H) and w2 is (H, K); the gradients have their shapes."""
    rng = np.random.default_rng(0)
    n, d, h, k = 64, 1000, 100, 10
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, k))
    w1, w2 = rng.normal(size=(d, h)), rng.normal(size=(h, k))
    g = Graph()
    first = g.apply(gates.MatMul(), g.input("x"), g.parameter("w1", w1))
    hidden = g.apply(gates.Sigmoid(), first)
    pred = g.apply(gates.MatMul(), hidden, g.parameter("w2", w2))
    g.apply(gates.SumSquares(), pred, g.input("y"))
    loss = g.forward(x=x, y=y)
    grads = g.backward()

    a = 1 / (1 + np.exp(-x.dot(w1)))
    out = a.dot(w2)
    grad_out = 2.0 * (out - y)
    grad_w2 = a.T.dot(grad_out)
    grad_w1 = x.T.dot(grad_out.dot(w2.T) * a * (1 - a))
    assert loss == pytest.approx(np.square(out - y).sum(), rel=1e-12)
    assert grads["w1"] == pytest.approx(grad_w1, rel=1e-9, abs=1e-9)
    assert grads["w2"] == pytest.approx(grad_w2, rel=1e-9, abs=1e-9)
    assert (grads["w1"].shape, grads["w2"].shape) == ((d, h), (h, k))


# ---- promises


@pytest.mark.parametrize("kind", [gates.Sigmoid, gates.Multiply, gates.Maximum, gates.Power])
def test_backward_never_builds_a_jacobian(kind: type[Gate]) -> None:
    """Of a 4096-wide gate it would have 4096² entries, 134 MB; a few vectors are enough."""
    gate, x = kind(), np.linspace(0.5, 2, 4096)
    gate.forward(*[x] * len(ELEMENTWISE[kind][1]))
    tracemalloc.start()
    gate.backward(np.ones(4096))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * x.nbytes


def test_numbers_and_lists_become_float64_and_print_plainly() -> None:
    gate = gates.Multiply()
    assert f"{gate.forward(3, -4)}" == "-12.0"
    assert str(gate.backward(1)[0]) == "-4.0"
    assert gate.forward([1, 2], np.array([3, 4], np.int32)).dtype == np.float64
    assert gates.Exp().forward(np.array([True, False])).tolist() == [np.e, 1]


def test_axes_and_shapes_are_taken_as_numpy_takes_them() -> None:
    x, one = np.arange(6.0).reshape(2, 3), np.int64(1)
    for axis in (one, [1], (one,), np.array([-1]), 1):
        assert gates.Sum(axis).forward(x).tolist() == [3, 12]
    for shape in ((3, 2), ((3, 2),), ([3, one + 1],)):
        assert gates.Reshape(*shape).forward(x).shape == (3, 2)
        assert gates.Broadcast(*shape).forward(1).shape == (3, 2)
    for axes in ((1, 0), ((1, 0),), ([one, 0],), ()):
        assert gates.Transpose(*axes).forward(x).shape == (3, 2)
    for gate in (gates.Sum, gates.Reshape, gates.Transpose, gates.Broadcast):
        with pytest.raises(TypeError, match="'float' object cannot be interpreted as an integer"):
            gate(1.0)


@pytest.mark.parametrize(
    ("gate", "count", "said"),
    [
        (gates.Multiply(), 1, "multiply takes 2 values, not 1"),
        (gates.Exp(), 2, "exp takes 1 value, not 2"),
        (gates.MatMul(), 3, "matmul takes 2 values, not 3"),
        (gates.MeanSquared(), 1, "mean_squared takes 2 to 3 values, not 1"),
        (gates.MeanSquared(), 4, "mean_squared takes 2 to 3 values, not 4"),
    ],
)
def test_a_gate_says_how_many_values_it_takes(gate: Gate, count: int, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}$"):
        gate.forward(*[1.0] * count)


@pytest.mark.parametrize("wrong", ["text", None, 1j, [object()]])
def test_a_gate_takes_numbers_only(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes numbers"):
        gates.Exp().forward(wrong)


def test_what_does_not_fit_is_told_in_plain_words() -> None:
    with pytest.raises(TypeError, match="rows are taken by their numbers, not by true and false"):
        gates.Take().forward([[1.0], [2.0], [3.0]], [True, False, True])
    with pytest.raises(ValueError, match="a join of nothing"):
        gates.Concatenate().forward()
    with pytest.raises(ValueError, match=r"a batch norm of \(4, 3\), not of rows of 2 columns"):
        gates.BatchNorm(2).forward(np.ones((4, 3)), np.ones(3), np.zeros(3))
    gate = gates.Multiply()
    gate.forward(2.0, 3.0)
    with pytest.raises(ValueError, match="longer"):
        gate.backward(1.0, out=(np.zeros(()),))


@pytest.mark.parametrize("width", [1, 3])
def test_a_gate_that_returns_its_gradient_is_told(width: int) -> None:
    class Double(Elementwise):
        def _forward(self, xp: Any, out: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
            xp.multiply(x, y, out=out)

        def _pull(self, xp: Any, grad: np.ndarray, i: int, out: np.ndarray) -> np.ndarray:
            return grad * self.inputs[1 - i]

    gate = Double()
    gate.forward(np.ones((4, 3)), np.ones((4, width)))
    with pytest.raises(TypeError, match="double returns a value where it must write"):
        gate.backward(1.0)


def test_every_input_has_its_local_gradient_spelt() -> None:
    with pytest.raises(TypeError, match="Short spells 1 local gradient of 2 inputs"):

        class Short(gates.Add):
            local = ("1",)


@pytest.mark.parametrize("out", [np.zeros((2, 2), order="F"), np.zeros((4, 3))[::2, ::2]])
def test_rows_are_taken_into_any_buffer(out: np.ndarray) -> None:
    gates.Take().forward([1.0, 2.0, 3.0], [[0, 1], [2, 0]], out=out)
    assert out.tolist() == [[1, 2], [3, 1]]


def test_buffers_must_fit() -> None:
    gate, x = gates.Exp(), np.ones((2, 3))
    with pytest.raises(ValueError, match=r"\(3, 2\) where \(2, 3\) is wanted"):
        gate.forward(x, out=np.empty((3, 2)))
    gate.forward(x)
    with pytest.raises(ValueError, match="is wanted"):
        gate.backward(1.0, out=(np.empty(3),))
    with pytest.raises(ValueError, match="contiguous"):
        gate.forward(np.ones((2, 3, 4)), out=np.empty((4, 3, 2)).T)


@pytest.mark.parametrize(
    ("gate", "shapes"),
    [
        (gates.Add(), [(2,), (3,)]),
        (gates.MatMul(), [(2, 3), (2, 3)]),
        (gates.MatMul(), [(), (2, 3)]),
        (gates.MatMul(), [(5, 2, 3), (4, 3, 2)]),
        (gates.Sum(axis=2), [(2, 3)]),
        (gates.Sum(axis=(0, -2)), [(2, 3)]),
        (gates.Max(axis=0), [(0, 3)]),
        (gates.Mean(), [(0, 3)]),
        (gates.MeanSquared(), [(0,), (0,)]),
        (gates.MeanSquared(), [(0, 3), (0, 3)]),
        (gates.SoftmaxCrossEntropy(), [(0, 3), (0,)]),
        (gates.Reshape(4, 2), [(2, 3)]),
        (gates.Reshape(-1, -1), [(2, 3)]),
        (gates.Reshape(-1, 0), [(2, 3)]),
        (gates.Transpose(0, 0), [(2, 3)]),
        (gates.Broadcast(3, 2), [(2, 3)]),
        (gates.Take(), [(), (2,)]),
        (gates.Concatenate(axis=0), [(2, 3), (2, 4)]),
        (gates.Concatenate(axis=2), [(2, 3), (2, 3)]),
        (gates.Parametric(gates.Tanh()), [(2, 3), (2,)]),
        (gates.Parametric(gates.Tanh()), [(), ()]),
        (gates.Columns(1, 4), [(2, 3)]),
        (gates.Columns(0, 0), [()]),
        (gates.Periodic(), [(2, 3), (3, 4), (3, 4), (3, 4, 2), (3, 4)]),
        (gates.Periodic(), [(2, 2), (3, 4), (3, 4), (3, 4, 2), (3, 2)]),
        (gates.Piecewise(KNOTS), [(4, 2)]),
        (gates.Piecewise(KNOTS), [()]),
        (gates.Embedding((0, 3)), [(2, 1), (5, 2)]),
        (gates.Embedding((0, 3)), [(2, 2), (3, 2)]),
        (gates.LayerNorm(), [(2, 3), (2,), (3,)]),
        (gates.LayerNorm(), [(), (), ()]),
        (gates.BatchNorm(3), [(2, 2, 3), (3,), (3,)]),
        (gates.MeanSquared(), [(2, 3), (3, 2)]),
        (gates.MeanSquared(), [(2, 3), (2, 3), (3,)]),
        (gates.SoftmaxCrossEntropy(), [(2, 3), (3,)]),
    ],
)
def test_shapes_that_do_not_fit(gate: Gate, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError):
        gate.shape(*shapes)
    arrays = [
        np.zeros(shape, np.int64 if i in gate.indices else float) for i, shape in enumerate(shapes)
    ]
    with pytest.raises(ValueError):
        gate.forward(*arrays)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
@each_elementwise
def test_nothing_in_nothing_out(kind: type[Gate], shape: tuple[int, ...]) -> None:
    gate, empty = ELEMENTWISE[kind][0], np.empty(shape)
    count = len(ELEMENTWISE[kind][1])
    assert gate.forward(*[empty] * count).shape == shape
    assert [g.shape for g in gate.backward(1.0)] == [shape] * count


def test_nothing_taken() -> None:
    gate = gates.Take()
    assert gate.forward(np.ones((2, 3)), np.empty((0, 5), int)).shape == (0, 5, 3)
    assert gate.backward(1.0)[0].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert gates.Sum(axis=0).forward(np.empty((0, 2))).tolist() == [0, 0]
    assert gates.Mean(axis=0).forward(np.empty((3, 0))).shape == (0,)
    assert gates.SumSquares().forward([], []) == 0


def test_only_batch_norm_and_losses_mix_rows() -> None:
    mixing = {kind for kind in all_gates() if kind.mixes_rows}
    losses = {kind for kind in all_gates() if issubclass(kind, gates.Loss)}
    assert mixing == losses | {gates.BatchNorm}


def test_ops_are_named_as_formulas_write_them() -> None:
    for name, kind in formula.FUNCTIONS.items():
        assert kind().op == name


def test_every_gate_states_its_formulas() -> None:
    for kind in all_gates():
        assert kind.__doc__
        assert "z" in kind.__doc__ or not kind.saves


# ---- kinks and edges


def test_at_a_tie_each_side_takes_half() -> None:
    for gate in (gates.Maximum(), gates.Minimum()):
        for value in (1.5, np.inf):
            gate.forward([value, 2.0, 3.0], [value, 3.0, 2.0])
            first, second = gate.backward([2.0, 1.0, 1.0])
            assert first[0] == second[0] == 1
            assert sorted((first[1], second[1])) == [0, 1]
    largest = gates.Max()
    largest.forward([[1.0, 3.0], [3.0, 0.0]])
    assert largest.backward(1.0)[0].tolist() == [[0, 0.5], [0.5, 0]]


@pytest.mark.parametrize("gate", [gates.Maximum(), gates.Minimum()])
def test_nan_goes_all_the_way_back(gate: Gate) -> None:
    a, b = np.array([np.nan, 1, np.inf, -np.inf]), np.array([1, np.nan, -np.inf, np.inf])
    assert np.isnan(gate.forward(a, b)).tolist() == [True, True, False, False]
    first, second = gate.backward([0.0, 1.0, 1.0, 1.0])
    assert np.isnan(first).tolist() == np.isnan(second).tolist() == [True, True, False, False]
    assert sorted((first[2], second[2])) == sorted((first[3], second[3])) == [0, 1]


def test_kinks_at_zero() -> None:
    for gate, slope in ((gates.ReLU(), 0), (gates.Abs(), 0)):
        gate.forward([0.0, -0.0])
        assert gate.backward(1.0)[0].tolist() == [slope, slope]


def test_powers_of_and_to_nothing() -> None:
    gate = gates.Power()
    x, y = np.array([0.0, 0.0, 0.0, 3.0, -2.0, 0.0]), np.array([0.0, 2.0, 1.0, 0.0, 3.0, 0.5])
    assert gate.forward(x, y).tolist() == [1, 0, 0, 1, -8, 0]
    dx, dy = gate.backward(1.0)
    assert dx.tolist() == [0, 0, 1, 0, 12, np.inf]
    assert dy[:4].tolist() == [0, 0, 0, pytest.approx(np.log(3))]
    assert np.isnan(dy[4])


def test_rows_taken_twice_get_both_gradients() -> None:
    gate = gates.Take()
    gate.forward(np.zeros((3, 2)), [2, 0, 2])
    dx, di = gate.backward([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert dx.tolist() == [[3, 4], [0, 0], [6, 8]]
    assert di is None


@pytest.mark.parametrize("index", [[0, 3], [-1, 0]])
def test_rows_that_are_not_there(index: list[int]) -> None:
    with pytest.raises(IndexError, match="a table of 3"):
        gates.Take().forward(np.zeros((3, 2)), index)
    with pytest.raises(IndexError, match="a table of 3"):
        gates.SoftmaxCrossEntropy().forward(np.zeros((2, 3)), index)


def test_codes_that_are_not_in_their_columns_table() -> None:
    gate = gates.Embedding((0, 2))
    assert gate.forward([[1.0, 2.0]], np.eye(5)[:, :2]).tolist() == [[0, 1, 0, 0]]
    for codes in ([[2, 0]], [[0, 3]], [[-1, 0]]):
        with pytest.raises(IndexError, match="of a table of"):
            gate.forward(codes, np.zeros((5, 2)))


@pytest.mark.parametrize("knots", [(0, 0), (1, 0), (0, np.nan), (0, np.inf)])
def test_knots_rise(knots: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="knots that do not rise"):
        gates.Piecewise([(0, 1), knots])


def test_bins_hold_at_their_ends() -> None:
    """At a knot, beyond all, without any, and between knots that are next to each other."""
    gate = gates.Piecewise([(0, 1, 3), (), (0, 1e-45)])
    x = np.array([[1.0, 5, 0], [-9, 5, -1], [9, 5, 1], [2, 5, 0]])
    wanted = [[1, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0.5, 0]]
    for dtype in (np.float32, np.float64):
        assert gate.forward(x.astype(dtype)).tolist() == wanted
        assert gate.backward(np.ones((4, 3), dtype))[0].tolist() == [[0] * 3] * 3 + [[0.5, 0, 0]]
    assert gates.Piecewise([(), (1,)]).forward(x[:, :2]).shape == (4, 0)


@pytest.mark.parametrize("starts", [(), (1,), (0, 0), (0, 3, 2)])
def test_tables_start_one_below_the_other(starts: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="tables that start"):
        gates.Embedding(starts)


@pytest.mark.parametrize("window", [(-1, 2), (2, 1)])
def test_columns_that_make_no_sense(window: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="columns"):
        gates.Columns(*window)


def test_an_index_is_whole() -> None:
    assert gates.Take().forward([10.0, 20.0], [1.0, 0.0]).tolist() == [20, 10]
    for wrong in ([0.5], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="whole numbers"):
            gates.Take().forward([10.0, 20.0], wrong)


# ---- gates with a state


def test_dropout_is_a_function_of_seed_step_and_layer() -> None:
    x = np.ones((50, 40))
    made = {
        place: gates.Dropout(0.3, seed=place[0], layer=place[1], step=place[2]).forward(x)
        for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    }
    again = gates.Dropout(0.3)
    assert np.array_equal(again.forward(x), made[0, 0, 0])
    assert np.array_equal(again.backward(x)[0], made[0, 0, 0])
    assert len({value.tobytes() for value in made.values()}) == 4
    kept = np.unique(made[0, 0, 0])
    assert kept == pytest.approx([0, 1 / 0.7], rel=1e-4)
    assert np.mean(made[0, 0, 0] > 0) == pytest.approx(0.7, abs=0.03)
    single = again.forward(x.astype(np.float32)) > 0
    assert np.array_equal(single, made[0, 0, 0] > 0)
    stacked = again.forward(x.reshape(5, 10, 40))
    assert np.array_equal(stacked.reshape(50, 40), made[0, 0, 0])


def test_dropout_rests_outside_training() -> None:
    gate, x = gates.Dropout(0.5), np.arange(6.0).reshape(2, 3)
    gate.training = False
    assert np.array_equal(gate.forward(x), x)
    assert np.array_equal(gate.backward(x)[0], x)
    assert np.array_equal(gates.Dropout(0.0).forward(x), x)
    for wrong in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="dropout rate"):
            gates.Dropout(wrong)


def test_one_row_has_no_variance_to_keep() -> None:
    gate = gates.BatchNorm(2)
    gate.forward(np.ones((1, 2)), np.ones(2), np.zeros(2))
    assert (gate.running_mean == 0).all()
    assert (gate.running_var == 1).all()


def test_batch_norm_keeps_running_figures() -> None:
    gate, rng = gates.BatchNorm(3), np.random.default_rng(0)
    gain, bias = np.ones(3), np.zeros(3)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        x = rng.normal(2, 3, size=(8, 3))
        gate.forward(x, gain, bias)
        mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0, ddof=1)
    assert gate.running_mean == pytest.approx(mean)
    assert gate.running_var == pytest.approx(var)
    gate.training = False
    one = np.array([[1.0, 2.0, 3.0]])
    assert gate.forward(one, gain, bias) == pytest.approx((one - mean) / np.sqrt(var + 1e-5))
    assert gate.running_mean == pytest.approx(mean)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (gates.Huber, (-2, 0, np.inf, np.nan)),
        (gates.Pinball, (0, 1, 5, np.nan)),
        (lambda quantile: gates.Pinball.of((0.5, quantile)), (0, 5)),
        (gates.SoftmaxCrossEntropy, (-0.1, 1, 5)),
        (gates.SigmoidCrossEntropy, (-0.1, 1, np.nan)),
    ],
)
def test_losses_refuse_parameters_without_a_meaning(
    kind: Callable[[float], Gate], wrong: tuple[float, ...]
) -> None:
    for each in wrong:
        with pytest.raises(ValueError, match=f"takes a parameter between 0 and .*, not {each}"):
            kind(each)
    with pytest.raises(ValueError, match="mean_squared takes none, not 3"):
        gates.MeanSquared(3)


def test_columns_take_the_quantiles_in_turn() -> None:
    gate, once = gates.Pinball.of((0.1, 0.8)), gates.Pinball(0.8)
    assert gate.constants(4) == [0.1, 0.8, 0.1, 0.8]
    pred, target = np.zeros((5, 2)), np.arange(10.0).reshape(5, 2) - 4
    gate.forward(pred, target)
    once.forward(pred[:, 1:], target[:, 1:])
    assert (gate.backward(1.0)[0][:, 1:] == once.backward(1.0)[0] / 2).all()
    with pytest.raises(ValueError, match="2 quantiles of 3 columns"):
        gate.forward(X, Y)


def test_elementwise_gates_work_on_any_number_of_axes() -> None:
    for gate, inputs, _ in CASES:
        if not isinstance(gate, Elementwise):
            continue
        flat = [np.broadcast_to(x, np.broadcast_shapes(*(x.shape for x in inputs))) for x in inputs]
        wanted = gate.forward(*flat)
        deep = [np.ascontiguousarray(x).reshape(1, *x.shape, 1) for x in flat]
        assert prod(deep[0].shape) == wanted.size
        assert np.array_equal(gate.forward(*deep).ravel(), wanted.ravel())


@pytest.mark.parametrize("kind", [gates.LayerNorm, lambda: gates.BatchNorm(3)])
def test_a_gate_is_computed_in_one_precision(kind: Callable[[], gates.Gate]) -> None:
    gate = kind()
    y = gate.forward(X.astype(np.float32), ROW, ROW + 1)
    assert y.dtype == np.float64
    assert {x.dtype for x in gate.inputs} == {np.dtype(np.float64)}


def test_a_buffer_has_the_precision_of_what_goes_into_it() -> None:
    with pytest.raises(ValueError, match="float32 where"):
        gates.Max().forward([0.1, 0.2], out=np.zeros((), np.float32))


def test_gelu_of_what_is_huge_has_the_slope_of_the_line() -> None:
    gate = gates.GELU()
    gate.forward(np.array([1e14, -1e14, 1e19], np.float32))
    assert gate.backward(np.ones(3, np.float32))[0].tolist() == [1, 0, 1]
