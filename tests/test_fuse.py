"""Formulas as kernels: bindings that run side by side, and what is left of them."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gpunet.device import resolve
from gpunet.graph import Gate
from gpunet.kernels import Kernel
from gpunet.kernels.slots import VALID
from gpunet.model import activation, loss

CPU = resolve("cpu").device
FORMULA = "x * sigmoid(1.7 * x) + 1"


def swish(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.7 * x)) + 1


def side_by_side(kernel: Kernel, given: list[tuple]) -> None:
    """Many runs of a binding a thread."""
    runs = [kernel.bind(CPU, *arguments) for arguments in given]
    with ThreadPoolExecutor(len(runs)) as threads:
        list(threads.map(lambda run: [run() for _ in range(100)], runs))


def test_an_activation_may_run_in_several_threads() -> None:
    kernel, xs = activation(FORMULA).pair[0], np.random.default_rng(0).normal(size=(4, 150, 40))
    outs, work = np.empty_like(xs), np.empty((4, 2 * xs[0].size))
    side_by_side(kernel, [(x, None, y, w) for x, y, w in zip(xs, outs, work, strict=True)])
    np.testing.assert_allclose(outs, swish(xs), rtol=1e-13)


def test_a_loss_may_run_in_several_threads() -> None:
    kernel = loss("mean((pred - target) ** 4)", "regression").kernel
    preds = np.random.default_rng(0).normal(size=(4, 150, 40))
    grads, rows, totals = np.empty_like(preds), np.empty(preds.shape[:2]), np.zeros((4, 3))
    clock, constant = np.zeros(8, np.int64), np.zeros(1)
    clock[VALID] = 150
    parts = zip(preds, grads, rows, totals, strict=True)
    side_by_side(
        kernel,
        [(p, np.zeros_like(p), None, constant, clock.copy(), g, r, t) for p, g, r, t in parts],
    )
    np.testing.assert_allclose(totals[:, 0], (preds**4).mean(axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(grads, 4 * preds**3 / preds[0].size, rtol=1e-12)


@pytest.mark.parametrize("text", ["sqrt(relu(x))", "sqrt(max(x, 0))", "sqrt(1 + min(x, -1))"])
def test_a_slope_that_is_infinite_ends_at_what_lets_none_through(text: str) -> None:
    gate = activation(text)
    x = np.array([[3.0, 0.0]]) if "min" in text else np.array([[-4.0, -2.0]])
    gate.forward(x)
    assert (gate.backward(1.0)[0] == 0).all()


def test_a_constant_beyond_the_precision_is_infinite() -> None:
    x, y = np.ones((2, 3), np.float32), np.empty((2, 3), np.float32)
    kernel = activation("minimum(x, 1e300)").pair[0]
    kernel.bind(CPU, x, None, y, np.empty(2 * x.size, np.float32))()
    assert (y == 1).all()


def test_nothing_is_left_of_a_formula_that_is_no_longer_used() -> None:
    gate: Gate | None = activation(FORMULA)
    assert gate is not None
    gate.forward(np.ones((2, 3)))
    kept = weakref.ref(gate.pair[0].reference)
    gate = None
    gc.collect()
    assert kept() is None
