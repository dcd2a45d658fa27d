"""JAX as a contestant: one jitted scan over a sample's steps, the state donated."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from bench.work import Given, Work

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
ACTIVATIONS = {"relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid}


class Jax:
    draws_its_order = False

    def __init__(self, given: Given, threads: int, where: str, unroll: int = 1) -> None:
        self.given, self.work = given, given.work
        work = given.work
        jax.config.update("jax_platforms", "cpu" if where == "cpu" else "cuda")
        jax.config.update("jax_enable_x64", work.dtype == "float64")
        if where != "cpu" and work.precision != "fp32":
            jax.config.update("jax_default_matmul_precision", "tensorfloat32")
        self.data = _rounded(jnp.asarray(given.numbers()), work), jnp.asarray(given.y)
        params = [tuple(map(jnp.asarray, layer)) for layer in given.layers()]
        zeros = jax.tree.map(jnp.zeros_like, params)
        self.state = (params, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros((), jnp.int32))
        train = jax.jit(_epoch(work, unroll), donate_argnums=0)
        began = time.perf_counter()
        order = jax.ShapeDtypeStruct((work.steps, work.batch), jnp.int32)
        self.train = train.lower(self.state, *self.data, order).compile()
        self.compile_seconds = time.perf_counter() - began

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a step."""
        rows = jnp.asarray(self.given.sample(order))
        self.state, loss = self.train(self.state, *self.data, rows)
        return float(loss)

    def facts(self) -> dict[str, int]:
        """Bytes that it has had on the GPU."""
        told = jax.devices()[0].memory_stats() or {}
        return {"device_bytes": int(told["peak_bytes_in_use"])}


def _rounded(array: jax.Array, work: Work) -> jax.Array:
    """As products take it."""
    return array.astype(jnp.bfloat16) if work.precision == "bf16" else array


def _epoch(work: Work, unroll: int) -> Any:
    """(state, x, y, order (steps, batch)) → (state, mean loss)."""
    update = _sgd if work.optimizer == "sgd" else partial(_adam, decay=work.decay)

    def epoch(state: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
        def step(state: Any, rows: jax.Array) -> Any:
            def take(array: jax.Array) -> jax.Array:
                return array if work.is_one_batch else array.at[rows].get(mode="clip")

            loss, grads = jax.value_and_grad(_loss)(state[0], take(x), take(y), work)
            return update(state, grads, work.lr), loss

        state, losses = jax.lax.scan(step, state, order, unroll=unroll)
        return state, losses.mean()

    return epoch


def _loss(params: Any, x: jax.Array, y: jax.Array, work: Work) -> jax.Array:
    for weight, *bias in params[:-1]:
        bias = [_rounded(each, work) for each in bias]
        x = ACTIVATIONS[work.activation](sum(bias, x @ _rounded(weight, work)))
    weight, *bias = params[-1]
    found = sum(bias, jnp.matmul(x, _rounded(weight, work), preferred_element_type=weight.dtype))
    if work.data == "images":
        picked = jnp.take_along_axis(jax.nn.log_softmax(found), y[:, None], axis=1)
        return -picked.mean()
    squares = jnp.square(found - y)
    return squares.sum() if work.loss == "sum_squares" else squares.mean()


def _sgd(state: Any, grads: Any, lr: float) -> Any:
    params, *rest = state
    return (jax.tree.map(lambda p, g: p - lr * g, params, grads), *rest)


def _adam(state: Any, grads: Any, lr: float, decay: float) -> Any:
    params, first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, grads)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, grads)
    rate, root = lr / (1 - BETA1**count), 1 / jnp.sqrt(1 - BETA2**count)

    def move(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        p = p - lr * decay * p if decay else p
        return p - rate * m / (jnp.sqrt(v) * root + EPSILON)

    return jax.tree.map(move, params, first, second), first, second, count
