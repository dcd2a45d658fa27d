"""One step of each optimiser over flat vectors, the clock that drives it, and the gradient's norm.

param and grad (P,), then the optimiser's slots (P,). Segment j is [starts[j], starts[j+1]); its
rate is hyper[LR] * rates[j], its decay hyper[DECAY] * decays[j]. Gradients are first multiplied by
hyper[CLIP]. Decay is added to the gradient (coupled), or shrinks the parameter (decoupled: adamw
and lion). After a fault nothing is written. A gradient or a new parameter that is not finite sets a
fault bit, and that element stays as it was. The bits are put into the clock; or, while other
parameters of the step are still to be moved, into found (1,) int64, for `show_faults`.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, isfinite, sqrt
from typing import Any, NamedTuple

import numpy as np

from gpunet.device import Array
from gpunet.kernels.narrow import narrow
from gpunet.kernels.registry import (
    Kernel,
    Reference,
    Run,
    Stage,
    named,
    per_element,
    per_four,
    register,
)
from gpunet.kernels.slots import (
    BEFORE,
    BETA1,
    BETA2,
    CLIP,
    CORRECTION1,
    CORRECTION2,
    DECAY,
    EPSILON,
    FADE,
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
from gpunet.kernels.tiles import TILE, one_block, scratch


class Rate(NamedTuple):
    """What one segment's step needs, as Python floats."""

    lr: float
    decay: float
    beta1: float
    beta2: float
    epsilon: float
    correction1: float
    correction2: float
    clip: float


Moved = Sequence[Array]
Formula = Callable[[Rate, Array, Moved, Moved, Array], None]
"""formula(rate, g, olds, news, spare): from the parameter and its slots the new ones. The old
parameter may lie in the memory of the new one."""


class Rule(NamedTuple):
    """An optimiser's formula and the names of its slots; whether decay is added to the gradient,
    else p -= lr * decay * p comes first."""

    formula: Formula
    slots: tuple[str, ...] = ()
    coupled: bool = True


def show_faults(found: Array, clock: Array) -> Run:
    """Put the fault bits of found (k,), int64, into the clock; found is zero again."""

    def run() -> None:
        clock[FAULT] |= np.bitwise_or.reduce(found)
        found.fill(0)

    return run


def tick(clock: Array, hyper: Array, table: Array, batch: int) -> Run:
    """Open a step: count it, move to its rows, set what changes with it and Adam's corrections.

    A step past the last row takes the first ones again. table float64 (S+1, 3) holds the learning
    rate, the decay and the share of dropout of each step, the last ones for all later steps.
    After a fault nothing moves.
    """

    def run() -> None:
        if clock[FAULT]:
            return
        step, start, rows = int(clock[STEP]) + 1, int(clock[START]) + batch, int(clock[ROWS])
        start = 0 if start >= rows else start
        clock[STEP], clock[START] = step, start
        clock[VALID] = min(batch, rows - start)
        hyper[LR], hyper[DECAY], hyper[FADE] = table[min(step, len(table) - 1)]
        hyper[LR] *= hyper[SCALE]
        hyper[CORRECTION1] = 1 - float(hyper[BETA1]) ** step
        hyper[CORRECTION2] = 1 - float(hyper[BETA2]) ** step

    return run


def micro_batch(clock: Array, rows: int, batch: int) -> Run:
    """Move on by `rows` within a batch; from its last rows back to its first, where the step ends
    as if the batch had been taken whole."""

    def run() -> None:
        before = int(clock[BEFORE])
        by = rows if before + rows < batch else -before
        clock[START] += by
        clock[VALID] -= by
        clock[BEFORE] += by

    return run


def accumulate(grad: Array, total: Array, clock: Array) -> Run:
    """total (P,) = the sum of the gradients (P,) of a batch's micro-batches up to this one."""

    def run() -> None:
        if clock[BEFORE]:
            np.add(total, grad, out=total)
        else:
            np.copyto(total, grad)

    return run


def squared_norm(grad: Array, out: Array, work: Array) -> Run:
    """out[0] = the sum of grad², in float64."""
    parts = [grad[first : first + TILE] for first in range(0, len(grad), TILE)]
    spare = np.empty(min(len(grad), TILE))
    tiles = [(part, spare[: len(part)]) for part in parts]

    def run() -> None:
        total = 0.0
        for part, wide in tiles:
            np.copyto(wide, part)
            total += np.dot(wide, wide)
        out[0] = total

    return run


def clip(squared: Array, hyper: Array) -> Run:
    """hyper[CLIP] = min(1, limit / norm): the factor that keeps the norm within hyper[LIMIT]."""

    def run() -> None:
        hyper[CLIP] = np.minimum(1.0, hyper[LIMIT] / np.sqrt(squared[0]))

    return run


class Tile(NamedTuple):
    """A cache-sized part of the vectors, and scratch of its size: `olds` and `news` are the
    parameter and its slots, before and after."""

    grad: Array
    olds: tuple[Array, ...]
    news: tuple[Array, ...]
    clipped: Array
    spare: Array


def _update(
    rule: Rule,
    param: Array,
    grad: Array,
    slots: Sequence[Array],
    starts: Array,
    rates: Array,
    decays: Array,
    hyper: Array,
    clock: Array,
    found: Array | None,
    work: Array,
) -> Run:
    bounds, moved = starts.tolist(), (param, *slots)
    segments = [_tiles(work, grad, moved, *part) for part in pairwise(bounds)]
    whole = [_tiles(work, grad, moved, bounds[0], bounds[-1])]

    def run() -> None:
        if clock[FAULT]:
            return
        fault, paces = 0, _rates(hyper, rates, decays)
        are_alike = len(set(paces)) == 1
        for rate, tiles in zip(paces, whole if are_alike else segments):
            for tile in tiles:
                g = _gradient(rate, rule, tile)
                rule.formula(rate, g, _shrunk(rate, rule, tile), tile.news, tile.spare)
                fault |= _commit(rate, tile)
        if found is not None:
            found[0] |= fault
        elif fault:
            clock[FAULT] |= fault

    return run


def _tiles(work: Array, grad: Array, moved: Sequence[Array], first: int, last: int) -> list[Tile]:
    tiles = []
    for low in range(first, last, TILE):
        part = slice(low, min(low + TILE, last))
        clipped, spare, *news = scratch(work, grad[part], 2 + len(moved))
        olds = tuple(array[part] for array in moved)
        tiles.append(Tile(grad[part], olds, tuple(news), clipped, spare))
    return tiles


def _rates(hyper: Array, rates: Array, decays: Array) -> list[Rate]:
    """The rate of each segment."""
    now = hyper.tolist()
    shared = [now[i] for i in (BETA1, BETA2, EPSILON, CORRECTION1, CORRECTION2, CLIP)]
    pairs = zip(rates.tolist(), decays.tolist())
    return [Rate(now[LR] * rate, now[DECAY] * decay, *shared) for rate, decay in pairs]


def _gradient(rate: Rate, rule: Rule, tile: Tile) -> Array:
    """The gradient times `clip`, plus the coupled decay."""
    decay = rate.decay if rule.coupled else 0.0
    if rate.clip == 1 and not decay:
        return tile.grad
    g = np.multiply(tile.grad, rate.clip, out=tile.clipped)
    if decay:
        np.add(g, np.multiply(tile.olds[0], decay, out=tile.spare), out=g)
    return g


def _shrunk(rate: Rate, rule: Rule, tile: Tile) -> tuple[Array, ...]:
    """Parameter and slots, the decoupled decay done."""
    if rule.coupled or not rate.decay:
        return tile.olds
    p = np.multiply(tile.olds[0], 1 - rate.lr * rate.decay, out=tile.news[0])
    return (p, *tile.olds[1:])


def _is_finite(x: Array) -> bool:
    """Whether all of x (n,), n > 0, is finite: its extremes are NaN where one element is."""
    return isfinite(np.maximum.reduce(x)) and isfinite(np.minimum.reduce(x))


def _commit(rate: Rate, tile: Tile) -> int:
    """Write what may be written; the fault bits of the rest. A slot is looked at too: a square that
    is infinite would hold its parameter for ever."""
    if all(map(_is_finite, tile.news)):
        for old, new in zip(tile.olds, tile.news):
            np.copyto(old, new)
        return 0
    finite = np.isfinite(tile.grad * rate.clip)
    sound = finite & np.all([np.isfinite(new) for new in tile.news], axis=0)
    for old, new in zip(tile.olds, tile.news):
        np.copyto(old, new, where=sound)
    bad_gradient = 0 if finite.all() else FAULT_GRADIENT
    return bad_gradient | (FAULT_PARAMETER if (finite & ~sound).any() else 0)


def _sgd(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """p -= lr * g."""
    _step(olds[0], g, rate.lr, news[0], spare)


def _momentum(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """v = beta1 * v + g; p -= lr * v."""
    (p, v), (new_p, new_v) = olds, news
    np.add(np.multiply(v, rate.beta1, out=new_v), g, out=new_v)
    _step(p, new_v, rate.lr, new_p, spare)


def _nesterov(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """v = beta1 * v + g; p -= lr * (g + beta1 * v)."""
    (p, v), (new_p, new_v) = olds, news
    np.add(np.multiply(v, rate.beta1, out=new_v), g, out=new_v)
    np.add(g, np.multiply(new_v, rate.beta1, out=spare), out=spare)
    _step(p, spare, rate.lr, new_p, spare)


def _rmsprop(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """s = beta2 * s + (1 - beta2) * g²; p -= lr * g / (sqrt(s) + epsilon)."""
    (p, s), (new_p, new_s) = olds, news
    _average(s, np.multiply(g, g, out=spare), rate.beta2, new_s, spare)
    np.add(np.sqrt(new_s, out=spare), rate.epsilon, out=spare)
    _step(p, np.divide(g, spare, out=spare), rate.lr, new_p, spare)


def _adam(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g²;
    p -= lr * (m / c1) / (sqrt(v / c2) + epsilon), c1 and c2 the bias corrections.

    Both corrections are one factor, with r = sqrt(c2): m / (sqrt(v) + epsilon * r) * r / c1.
    """
    (p, m, v), (new_p, new_m, new_v) = olds, news
    root = sqrt(rate.correction2)
    _average(m, g, rate.beta1, new_m, spare)
    _average(v, np.multiply(g, g, out=spare), rate.beta2, new_v, spare)
    np.add(np.sqrt(new_v, out=spare), rate.epsilon * root, out=spare)
    _step(p, np.divide(new_m, spare, out=spare), rate.lr * root / rate.correction1, new_p, spare)


def _lion(rate: Rate, g: Array, olds: Moved, news: Moved, spare: Array) -> None:
    """p -= lr * sign(beta1 * m + (1 - beta1) * g); m = beta2 * m + (1 - beta2) * g; Chen et al.,
    2023."""
    (p, m), (new_p, new_m) = olds, news
    _average(m, g, rate.beta1, new_m, spare)
    _step(p, np.sign(new_m, out=new_m), rate.lr, new_p, spare)
    _average(m, g, rate.beta2, new_m, spare)


def _average(mean: Array, new: Array, beta: float, out: Array, spare: Array) -> None:
    """out = beta * mean + (1 - beta) * new; `spare` may be `new`."""
    np.multiply(mean, beta, out=out)
    np.add(out, np.multiply(new, 1 - beta, out=spare), out=out)


def _step(p: Array, direction: Array, lr: float, out: Array, spare: Array) -> None:
    """out = p - lr * direction; `spare` may be `direction`."""
    np.subtract(p, np.multiply(direction, lr, out=spare), out=out)


RULES = {
    "sgd": Rule(_sgd),
    "momentum": Rule(_momentum, ("velocity",)),
    "nesterov": Rule(_nesterov, ("velocity",)),
    "rmsprop": Rule(_rmsprop, ("square",)),
    "adam": Rule(_adam, ("first", "second")),
    "adamw": Rule(_adam, ("first", "second"), coupled=False),
    "lion": Rule(_lion, ("first",), coupled=False),
}
SLOTS = {name: rule.slots for name, rule in RULES.items()}
"""Name of the optimiser → the names of its slots."""


def _reference(rule: Rule) -> Reference:
    """A step by that rule, bound."""
    count = len(rule.slots)

    def reference(param: Array, grad: Array, *rest: Any) -> Run:
        return _update(rule, param, grad, rest[:count], *rest[count:])

    names = ("starts", "rates", "decays", "hyper", "clock", "found", "work")
    reference.__signature__ = named("param", "grad", *rule.slots, *names)  # type: ignore[attr-defined]
    return reference


def _register(name: str, rule: Rule) -> Kernel:
    rates = 3 + len(rule.slots)
    return register(
        _reference(rule),
        "update.cu",
        name=name,
        outputs=" ".join(("param", *rule.slots, "clock", "found")),
        typed_by="param",
        sizes=lambda *given: (len(given[0]), len(given[rates])),
        stages=(Stage(name, lambda param, *rest: per_four(param)),),
        work=lambda param, *rest: rates * min(len(param), TILE),
    )


OPTIMIZERS = {name: _register(name, rule) for name, rule in RULES.items()}
"""Name of the optimiser → its kernel."""


def _narrowing(kernel: Kernel) -> Reference:
    """The same step, which also keeps the parameters in bfloat16, in `shadow` (P,) uint16."""
    at = kernel.parameters.index("starts")

    def reference(*given: Any) -> Run:
        (param, *_), shadow, clock = given, given[at], given[-3]
        step, copy = kernel.reference(*given[:at], *given[at + 1 :]), narrow(param, shadow)

        def run() -> None:
            if not clock[FAULT]:
                step()
                copy()

        return run

    names = kernel.parameters
    reference.__signature__ = named(*names[:at], "shadow", *names[at:])  # type: ignore[attr-defined]
    return reference


def _register_narrow(kernel: Kernel) -> None:
    at, name = kernel.parameters.index("starts"), f"{kernel.name}_narrow"
    register(
        _narrowing(kernel),
        kernel.source,
        name=name,
        outputs=" ".join((*kernel.outputs, "shadow")),
        typed_by=kernel.typed_by,
        sizes=lambda *given: kernel.sizes(*given[:at], *given[at + 1 :]),
        stages=(Stage(name, kernel.stages[0].grid),),
        work=kernel.work,
    )


for kernel in OPTIMIZERS.values():
    _register_narrow(kernel)

register(
    tick,
    "clock.cu",
    outputs="clock hyper",
    typed_by=None,
    sizes=lambda clock, hyper, table, batch: (len(table),),
    stages=(Stage("tick", one_block),),
)
register(
    show_faults,
    "clock.cu",
    outputs="found clock",
    typed_by=None,
    sizes=lambda found, clock: (len(found),),
    stages=(Stage("show_faults", one_block),),
)
register(
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
register(
    micro_batch,
    "clock.cu",
    outputs="clock",
    typed_by=None,
    sizes=lambda clock, rows, batch: (),
    stages=(Stage("micro_batch", one_block),),
)
register(
    accumulate,
    "clock.cu",
    outputs="total",
    typed_by="grad",
    sizes=lambda grad, *rest: (len(grad),),
    stages=(Stage("accumulate", lambda grad, *rest: per_element(grad)),),
)
register(
    clip,
    "clock.cu",
    outputs="hyper",
    typed_by=None,
    sizes=lambda squared, hyper: (),
    stages=(Stage("clip", one_block),),
)
