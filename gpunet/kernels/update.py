"""One step of each optimiser over flat vectors, the clock that drives it, and the gradient's norm.

param and grad (P,), then the optimiser's slots (P,). Segment j is [starts[j], starts[j+1]); its
rate is hyper[LR] * rates[j], its decay hyper[DECAY] * decays[j]. Gradients are first multiplied by
hyper[CLIP]. Decay is added to the gradient (coupled), or shrinks the parameter (decoupled: adamw
and lion). After a fault nothing is written. A gradient or a new parameter that is not finite sets a
fault bit, and that element stays as it was.
"""

from collections.abc import Callable, Sequence
from math import ceil, sqrt
from typing import Any, NamedTuple

import numpy as np

from gpunet.device import Array
from gpunet.kernels.registry import Kernel, Stage, per_element, register
from gpunet.kernels.slots import (
    BETA1,
    BETA2,
    CLIP,
    CORRECTION1,
    CORRECTION2,
    DECAY,
    EPSILON,
    FAULT,
    FAULT_GRADIENT,
    FAULT_PARAMETER,
    LIMIT,
    LR,
    PARTIALS,
    ROWS,
    SCALE,
    START,
    STEP,
    THREADS,
    VALID,
)
from gpunet.kernels.tiles import TILE, one_block


class Rate(NamedTuple):
    """What one segment's step needs, as Python floats."""

    lr: float
    decay: float
    beta1: float
    beta2: float
    epsilon: float
    correction1: float
    correction2: float


Formula = Callable[..., None]
"""formula(rate, p, g, *slots, scratch): the new parameter and slots, in place; g may be spoilt."""


def sgd(
    param: Array,
    grad: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """p -= lr * g."""
    _update(_sgd, True, param, grad, (), starts, rates, decays, hyper, clock, work)


def momentum(
    param: Array,
    grad: Array,
    velocity: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """v = beta1 * v + g; p -= lr * v."""
    slots = (velocity,)
    _update(_momentum, True, param, grad, slots, starts, rates, decays, hyper, clock, work)


def nesterov(
    param: Array,
    grad: Array,
    velocity: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """v = beta1 * v + g; p -= lr * (g + beta1 * v)."""
    slots = (velocity,)
    _update(_nesterov, True, param, grad, slots, starts, rates, decays, hyper, clock, work)


def rmsprop(
    param: Array,
    grad: Array,
    square: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """s = beta2 * s + (1 - beta2) * g²; p -= lr * g / (sqrt(s) + epsilon)."""
    slots = (square,)
    _update(_rmsprop, True, param, grad, slots, starts, rates, decays, hyper, clock, work)


def adam(
    param: Array,
    grad: Array,
    first: Array,
    second: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g²;
    p -= lr * (m / c1) / (sqrt(v / c2) + epsilon), c1 and c2 the bias corrections."""
    slots = (first, second)
    _update(_adam, True, param, grad, slots, starts, rates, decays, hyper, clock, work)


def adamw(
    param: Array,
    grad: Array,
    first: Array,
    second: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """p -= lr * decay * p, then adam."""
    slots = (first, second)
    _update(_adam, False, param, grad, slots, starts, rates, decays, hyper, clock, work)


def lion(
    param: Array,
    grad: Array,
    first: Array,
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    """p -= lr * decay * p + lr * sign(beta1 * m + (1 - beta1) * g);
    m = beta2 * m + (1 - beta2) * g; Chen et al., 2023."""
    slots = (first,)
    _update(_lion, False, param, grad, slots, starts, rates, decays, hyper, clock, work)


def tick(clock: Array, hyper: Array, table: Array, batch: int) -> None:
    """Open a step: count it, move to its rows, set its rate and Adam's corrections.

    table float64 (S+1,) holds the rate of each step, the last one for all later ones. After a
    fault nothing moves.
    """
    if clock[FAULT]:
        return
    clock[STEP] += 1
    clock[START] += batch
    clock[VALID] = min(batch, clock[ROWS] - clock[START])
    step = int(clock[STEP])
    hyper[LR] = table[min(step, len(table) - 1)] * hyper[SCALE]
    hyper[CORRECTION1] = 1 - float(hyper[BETA1]) ** step
    hyper[CORRECTION2] = 1 - float(hyper[BETA2]) ** step


def squared_norm(grad: Array, out: Array, work: Array) -> None:
    """out[0] = the sum of grad², in float64."""
    total = 0.0
    for first in range(0, len(grad), TILE):
        tile = grad[first : first + TILE].astype(np.float64)
        total += tile @ tile
    out[0] = total


def clip(squared: Array, hyper: Array) -> None:
    """hyper[CLIP] = min(1, limit / norm): the factor that keeps the norm within hyper[LIMIT]."""
    hyper[CLIP] = np.minimum(1.0, hyper[LIMIT] / np.sqrt(squared[0]))


def _update(
    formula: Formula,
    coupled: bool,
    param: Array,
    grad: Array,
    slots: Sequence[Array],
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    work: Array,
) -> None:
    if clock[FAULT]:
        return
    fault, scale = 0, float(hyper[CLIP])
    for segment, first in enumerate(starts[:-1]):
        rate = _rate(hyper, float(rates[segment]), float(decays[segment]))
        for low in range(int(first), int(starts[segment + 1]), TILE):
            part = slice(low, min(low + TILE, int(starts[segment + 1])))
            olds = [array[part] for array in (param, *slots)]
            p, g, scratch, *news = _tile(work, len(olds[0]), 3 + len(slots))
            for new, old in zip((p, *news), olds, strict=True):
                np.copyto(new, old)
            np.multiply(grad[part], scale, out=g)
            finite = np.isfinite(g)
            _decay(rate, coupled, p, g, scratch)
            formula(rate, p, g, *news, scratch)
            fault |= _commit(olds, (p, *news), finite)
    clock[FAULT] |= fault


def _rate(hyper: Array, rate: float, decay: float) -> Rate:
    places = (BETA1, BETA2, EPSILON, CORRECTION1, CORRECTION2)
    shared = (float(hyper[place]) for place in places)
    return Rate(float(hyper[LR]) * rate, float(hyper[DECAY]) * decay, *shared)


def _tile(work: Array, size: int, count: int) -> Array:
    return work[: count * size].reshape(count, size)


def _decay(rate: Rate, coupled: bool, p: Array, g: Array, scratch: Array) -> None:
    if rate.decay and coupled:
        np.add(g, np.multiply(p, rate.decay, out=scratch), out=g)
    elif rate.decay:
        np.multiply(p, 1 - rate.lr * rate.decay, out=p)


def _commit(olds: Sequence[Array], news: Sequence[Array], finite: Array) -> int:
    """Write what may be written; the fault bits of the rest."""
    sound = np.isfinite(news[0])
    sound &= finite
    if sound.all():
        for old, new in zip(olds, news, strict=True):
            np.copyto(old, new)
        return 0
    for old, new in zip(olds, news, strict=True):
        np.copyto(old, new, where=sound)
    bad_gradient = 0 if finite.all() else FAULT_GRADIENT
    return bad_gradient | (FAULT_PARAMETER if (finite & ~sound).any() else 0)


def _sgd(rate: Rate, p: Array, g: Array, scratch: Array) -> None:
    _step(rate, p, g)


def _momentum(rate: Rate, p: Array, g: Array, v: Array, scratch: Array) -> None:
    np.multiply(v, rate.beta1, out=v)
    np.add(v, g, out=v)
    np.multiply(v, rate.lr, out=scratch)
    np.subtract(p, scratch, out=p)


def _nesterov(rate: Rate, p: Array, g: Array, v: Array, scratch: Array) -> None:
    np.multiply(v, rate.beta1, out=v)
    np.add(v, g, out=v)
    np.add(g, np.multiply(v, rate.beta1, out=scratch), out=g)
    _step(rate, p, g)


def _rmsprop(rate: Rate, p: Array, g: Array, s: Array, scratch: Array) -> None:
    _average(s, np.multiply(g, g, out=scratch), rate.beta2)
    np.sqrt(s, out=scratch)
    np.add(scratch, rate.epsilon, out=scratch)
    _step(rate, p, np.divide(g, scratch, out=g))


def _adam(rate: Rate, p: Array, g: Array, m: Array, v: Array, scratch: Array) -> None:
    _average(v, np.multiply(g, g, out=scratch), rate.beta2)
    _average(m, g, rate.beta1)
    np.sqrt(v, out=scratch)
    np.multiply(scratch, 1 / sqrt(rate.correction2), out=scratch)
    np.add(scratch, rate.epsilon, out=scratch)
    np.divide(m, scratch, out=scratch)
    np.multiply(scratch, rate.lr / rate.correction1, out=scratch)
    np.subtract(p, scratch, out=p)


def _lion(rate: Rate, p: Array, g: Array, m: Array, scratch: Array) -> None:
    np.subtract(m, g, out=scratch)
    np.multiply(scratch, rate.beta1, out=scratch)
    np.add(scratch, g, out=scratch)
    _step(rate, p, np.sign(scratch, out=scratch))
    _average(m, g, rate.beta2)


def _average(mean: Array, new: Array, beta: float) -> None:
    """mean = beta * mean + (1 - beta) * new; spoils `new`."""
    np.multiply(mean, beta, out=mean)
    np.multiply(new, 1 - beta, out=new)
    np.add(mean, new, out=mean)


def _step(rate: Rate, p: Array, direction: Array) -> None:
    """p -= lr * direction; spoils `direction`."""
    np.multiply(direction, rate.lr, out=direction)
    np.subtract(p, direction, out=p)


def _register(reference: Callable[..., None], *slots: str) -> Kernel:
    rates = 3 + len(slots)

    def sizes(*arguments: Any) -> tuple[int, int]:
        return len(arguments[0]), len(arguments[rates])

    return register(
        reference,
        "update.cu",
        outputs=" ".join(("param", *slots, "clock")),
        typed_by="param",
        sizes=sizes,
        stages=(Stage(reference.__name__, lambda param, *rest: per_element(param)),),
        work=lambda param, *rest: (3 + len(slots)) * min(len(param), TILE),
    )


OPTIMIZERS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        _register(sgd),
        _register(momentum, "velocity"),
        _register(nesterov, "velocity"),
        _register(rmsprop, "square"),
        _register(adam, "first", "second"),
        _register(adamw, "first", "second"),
        _register(lion, "first"),
    )
}
"""Name of the optimiser → its kernel."""

SLOTS = {name: kernel.outputs[1:-1] for name, kernel in OPTIMIZERS.items()}
"""Name of the optimiser → the names of its slots."""

TICK = register(
    tick,
    "clock.cu",
    outputs="clock hyper",
    typed_by=None,
    sizes=lambda clock, hyper, table, batch: (len(table),),
    stages=(Stage("tick", one_block),),
)
SQUARED_NORM = register(
    squared_norm,
    "clock.cu",
    outputs="out",
    typed_by="grad",
    sizes=lambda grad, *rest: (len(grad),),
    stages=(
        Stage("squared_norm", lambda grad, *rest: (min(ceil(len(grad) / THREADS), PARTIALS),)),
        Stage("fold_norm", one_block),
    ),
    work=lambda grad, out: 2 * PARTIALS,
)
CLIP_GRADIENT = register(
    clip,
    "clock.cu",
    outputs="hyper",
    typed_by=None,
    sizes=lambda squared, hyper: (),
    stages=(Stage("clip", one_block),),
)
