"""The formulas, once more, in float64 and for reading: what kernels and gates are compared with.

Imports nothing of gpunet and owes it nothing.
"""

import numpy as np

Array = np.ndarray

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934
GELU_SCALE, GELU_CUBE = np.sqrt(2 / np.pi), 0.044715
EPSILON, MOMENTUM = 1e-5, 0.1


# Activations


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def gelu_inner(x: Array) -> Array:
    return GELU_SCALE * (x + GELU_CUBE * x**3)


def gelu_slope(x: Array) -> Array:
    t = np.tanh(gelu_inner(x))
    return (1 + t) / 2 + x / 2 * (1 - t * t) * GELU_SCALE * (1 + 3 * GELU_CUBE * x * x)


def mish_slope(x: Array) -> Array:
    t = np.tanh(softplus(x))
    return t + x * (1 - t * t) * sigmoid(x)


ACTIVATIONS = {
    "identity": lambda x: x,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, x, SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "gelu": lambda x: x / 2 * (1 + np.tanh(gelu_inner(x))),
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(softplus(x)),
}
SLOPES = {
    "identity": np.ones_like,
    "sigmoid": lambda x: sigmoid(x) * sigmoid(-x),
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "relu": lambda x: np.where(x > 0, 1.0, 0.0),
    "selu": lambda x: SELU_SCALE * np.where(x > 0, 1, SELU_ALPHA * np.exp(np.minimum(x, 0))),
    "gelu": gelu_slope,
    "silu": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
    "mish": mish_slope,
}


# Random numbers

WORD = (1 << 64) - 1


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> list[int]:
    """Philox4x64-10 of Salmon et al., 2011."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (right >> 64) ^ b ^ k0, right & WORD, (left >> 64) ^ d ^ k1, left & WORD
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & WORD, (k1 + 0xBB67AE8584CAA73B) & WORD
    return [a, b, c, d]


def dropout(x: Array, rate: float, key: Array, step: int, layer: int) -> Array:
    keep = round((1 - rate) * 65536)
    lanes: list[int] = []
    for block in range(-(-x.size // 16)):
        for word in philox((block + 1, 0, step, layer), (int(key[0]), int(key[1]))):
            lanes += [word >> shift & 65535 for shift in (0, 16, 32, 48)]
    kept = np.array(lanes[: x.size], int).reshape(x.shape) < keep
    return np.where(kept, x * (65536 / max(keep, 1)), 0)


# Norms


def layer_norm(x: Array, gain: Array, bias: Array) -> tuple[Array, Array, Array]:
    mean, rstd = x.mean(1), 1 / np.sqrt(x.var(1) + EPSILON)
    return (x - mean[:, None]) * rstd[:, None] * gain + bias, mean, rstd


def layer_norm_gradients(grad: Array, x: Array, gain: Array) -> tuple[Array, Array, Array]:
    mean, rstd = x.mean(1, keepdims=True), 1 / np.sqrt(x.var(1, keepdims=True) + EPSILON)
    h, g = (x - mean) * rstd, grad * gain
    dx = rstd * (g - g.mean(1, keepdims=True) - h * (g * h).mean(1, keepdims=True))
    return dx, (grad * h).sum(0), grad.sum(0)


def batch_statistics(x: Array) -> tuple[Array, Array]:
    if not len(x):
        return np.zeros(x.shape[1]), np.zeros(x.shape[1])
    return x.mean(0), x.var(0)


def batch_norm(x: Array, gain: Array, bias: Array, valid: int) -> tuple[Array, Array, Array]:
    mean, variance = batch_statistics(x[:valid])
    rstd = 1 / np.sqrt(variance + EPSILON)
    return (x - mean) * rstd * gain + bias, mean, rstd


def running(old_mean: Array, old_var: Array, x: Array, valid: int) -> tuple[Array, Array]:
    if valid < 2:
        return old_mean, old_var
    mean, variance = batch_statistics(x[:valid])
    variance = variance * valid / (valid - 1)
    return (
        (1 - MOMENTUM) * old_mean + MOMENTUM * mean,
        (1 - MOMENTUM) * old_var + MOMENTUM * variance,
    )


def batch_norm_gradients(
    grad: Array, x: Array, gain: Array, valid: int
) -> tuple[Array, Array, Array]:
    mean, variance = batch_statistics(x[:valid])
    rstd = 1 / np.sqrt(variance + EPSILON)
    h, g = ((x - mean) * rstd)[:valid], grad[:valid]
    dgain, dbias, dx = (g * h).sum(0), g.sum(0), np.zeros_like(x)
    dx[:valid] = gain * rstd * (g - dbias / max(valid, 1) - h * dgain / max(valid, 1))
    return dx, dgain, dbias


# Losses: of rows, and the derivative of their sum


def softmax_rows(p: Array, t: Array, smoothing: float) -> tuple[Array, Array]:
    n, k = p.shape
    q = np.full((n, k), smoothing / k)
    q[np.arange(n), t] += 1 - smoothing
    shifted = p - p.max(1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(1, keepdims=True))
    return (q * (log_total - shifted)).sum(1), np.exp(shifted - log_total) - q


def sigmoid_rows(p: Array, t: Array, smoothing: float) -> tuple[Array, Array]:
    q = t * (1 - smoothing) + smoothing / 2
    loss = np.maximum(p, 0) - p * q + np.log1p(np.exp(-np.abs(p)))
    return loss.mean(1), (sigmoid(p) - q) / p.shape[1]


def square_rows(p: Array, t: Array, _: float) -> tuple[Array, Array]:
    return ((p - t) ** 2).sum(1), 2 * (p - t)


def mean_square_rows(p: Array, t: Array, _: float) -> tuple[Array, Array]:
    return ((p - t) ** 2).mean(1), 2 * (p - t) / p.shape[1]


def absolute_rows(p: Array, t: Array, _: float) -> tuple[Array, Array]:
    return np.abs(p - t).mean(1), np.sign(p - t) / p.shape[1]


def huber_rows(p: Array, t: Array, delta: float) -> tuple[Array, Array]:
    d = np.abs(p - t)
    loss = np.where(d <= delta, d * d / 2, delta * (d - delta / 2))
    return loss.mean(1), np.clip(p - t, -delta, delta) / p.shape[1]


def pinball_rows(p: Array, t: Array, quantile: Array) -> tuple[Array, Array]:
    loss = np.where(t > p, quantile * (t - p), (1 - quantile) * (p - t))
    slope = np.where(t > p, -quantile, np.where(t < p, 1 - quantile, 0))
    return loss.mean(1), slope / p.shape[1]


def poisson_rows(p: Array, t: Array, _: float) -> tuple[Array, Array]:
    return (np.exp(p) - t * p).mean(1), (np.exp(p) - t) / p.shape[1]


LOSS_ROWS = {
    "softmax_cross_entropy": softmax_rows,
    "sigmoid_cross_entropy": sigmoid_rows,
    "sum_squares": square_rows,
    "mean_squared": mean_square_rows,
    "mean_absolute": absolute_rows,
    "huber": huber_rows,
    "pinball": pinball_rows,
    "poisson": poisson_rows,
}


def loss(
    name: str,
    p: Array,
    t: Array,
    weight: Array | None,
    parameter: Array,
    valid: int,
    before: int = 0,
) -> tuple[float, Array, Array]:
    """The batch's loss, the weighted rows, and the gradient; of a batch with `before` rows more,
    its share of that."""
    n, w = len(p), np.ones(len(p)) if weight is None else weight
    rows, grad = np.zeros(n), np.zeros(p.shape)
    rows[:valid], grad[:valid] = LOSS_ROWS[name](
        p[:valid], t[:valid], parameter if name == "pinball" else float(parameter[0])
    )
    rows[:valid] *= w[:valid]
    count = 1 if name == "sum_squares" else max(valid + before, 1)
    grad *= w[:, None] / count
    return rows.sum() / count, rows, grad


# Optimisers: one element's new parameter and state. lr, decay and the rest as in `hyper`.


def sgd(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    return p - h["lr"] * (g + h["decay"] * p)


def momentum(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    state[0] = h["beta1"] * state[0] + g + h["decay"] * p
    return p - h["lr"] * state[0]


def nesterov(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    g = g + h["decay"] * p
    state[0] = h["beta1"] * state[0] + g
    return p - h["lr"] * (g + h["beta1"] * state[0])


def rmsprop(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    g = g + h["decay"] * p
    state[0] = h["beta2"] * state[0] + (1 - h["beta2"]) * g * g
    return p - h["lr"] * g / (np.sqrt(state[0]) + h["epsilon"])


def adam(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    g = g + h["decay"] * p
    state[0] = h["beta1"] * state[0] + (1 - h["beta1"]) * g
    state[1] = h["beta2"] * state[1] + (1 - h["beta2"]) * g * g
    m, v = state[0] / h["correction1"], state[1] / h["correction2"]
    return p - h["lr"] * m / (np.sqrt(v) + h["epsilon"])


def adamw(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    return adam(p * (1 - h["lr"] * h["decay"]), g, state, {**h, "decay": 0.0})


def lion(p: Array, g: Array, state: list[Array], h: dict[str, float]) -> Array:
    direction = np.sign(h["beta1"] * state[0] + (1 - h["beta1"]) * g)
    state[0] = h["beta2"] * state[0] + (1 - h["beta2"]) * g
    return p * (1 - h["lr"] * h["decay"]) - h["lr"] * direction


OPTIMIZERS = {
    "sgd": (sgd, 0),
    "momentum": (momentum, 1),
    "nesterov": (nesterov, 1),
    "rmsprop": (rmsprop, 1),
    "adam": (adam, 2),
    "adamw": (adamw, 2),
    "lion": (lion, 1),
}
"""Name → the step and the number of its state vectors."""


def widened(bits: Array) -> Array:
    """float32, of the bits of bfloat16."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16(x: Array) -> Array:
    """The bits of the nearest bfloat16: of the two around x, and of equals the even one."""
    single = x.astype(np.float32)
    low = single.view(np.uint32) >> 16
    down, up = (_bfloat16_value((low & 0x7FFF) + step) for step in (0, 1))
    with np.errstate(invalid="ignore"):
        size = np.abs(single.astype(np.float64))
        is_up = (size - down > up - size) | ((size - down == up - size) & (low % 2 == 1))
    low = np.where(np.isnan(single), low | 0x40, low + (is_up & np.isfinite(size)))
    return low.astype(np.uint16)


def _bfloat16_value(bits: Array) -> Array:
    """Positive ones; behind the largest comes 2^128, in whose place rounding puts infinity."""
    exponent, fraction = (bits >> 7).astype(float), (bits & 0x7F).astype(float)
    return np.where(
        exponent == 0, np.ldexp(fraction, -133), (128 + fraction) * 2.0 ** (exponent - 134)
    )


def central_difference(f, x: Array, step: float = 1e-6) -> Array:
    """The gradient of the number f(x) by central differences, coordinate by coordinate."""
    slope, x = np.zeros(x.shape), x.copy()
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        above = f(x)
        x[i] = kept - step
        slope[i] = (above - f(x)) / (2 * step)
        x[i] = kept
    return slope


# The first layer of a table


def periodic(x: Array, frequency: Array, phase: Array, weight: Array, bias: Array) -> Array:
    angle = 2 * np.pi * frequency * x[:, :, None] + phase
    parts = np.einsum("nfk,fke->nfe", np.cos(angle), weight) + bias
    return np.concatenate([parts, x[:, :, None]], axis=2).reshape(len(x), bias.size + len(bias))


def periodic_gradients(
    grad: Array, x: Array, frequency: Array, phase: Array, weight: Array
) -> tuple[Array, ...]:
    """Of x, frequency, phase, weight and bias."""
    angle = 2 * np.pi * frequency * x[:, :, None] + phase
    outer = grad.reshape(*x.shape, weight.shape[2] + 1)
    mixed = outer[:, :, :-1]
    slope = -np.sin(angle) * np.einsum("nfe,fke->nfk", mixed, weight)
    return (
        outer[:, :, -1] + 2 * np.pi * (slope * frequency).sum(2),
        2 * np.pi * np.einsum("nfk,nf->fk", slope, x),
        slope.sum(0),
        np.einsum("nfk,nfe->fke", np.cos(angle), mixed),
        mixed.sum(0),
    )


def piecewise(x: Array, feature: Array, low: Array, slope: Array) -> Array:
    shares = [np.interp(x[:, j], [a, a + 1 / s], [0, 1]) for j, a, s in zip(feature, low, slope)]
    return np.array(shares).reshape(len(feature), len(x)).T


def piecewise_gradient(grad: Array, x: Array, feature: Array, low: Array, slope: Array) -> Array:
    total = np.zeros(x.shape)
    for q, j in enumerate(feature):
        is_within = (x[:, j] > low[q]) & (x[:, j] < low[q] + 1 / slope[q])
        total[:, j] += np.where(is_within, grad[:, q] * slope[q], 0)
    return total


def embedding(codes: Array, starts: Array, table: Array) -> Array:
    parts = [table[codes[:, j].astype(int) + starts[j]] for j in range(len(starts))]
    return np.hstack(parts)


def embedding_gradient(grad: Array, codes: Array, starts: Array, rows: int) -> Array:
    total = np.zeros((rows, grad.shape[1] // len(starts)))
    for i, j in np.ndindex(codes.shape):
        total[int(codes[i, j]) + starts[j]] += grad[i].reshape(len(starts), -1)[j]
    return total
