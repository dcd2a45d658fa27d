"""How gradients move weights: the optimisers' kernels and defaults, and learning-rate schedules."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpunet.kernels import REGISTRY, Kernel
from gpunet.kernels.update import SLOTS


@dataclass(frozen=True)
class Optimizer:
    """An update kernel, and what it does best with by default."""

    kernel: Kernel
    lr: float
    beta1: float = 0.0
    beta2: float = 0.0
    epsilon: float = 1e-8

    @property
    def slots(self) -> int:
        """Its state vectors."""
        return len(SLOTS[self.kernel.name])


OPTIMIZERS = {
    "sgd": Optimizer(REGISTRY["sgd"], lr=0.1),
    "momentum": Optimizer(REGISTRY["momentum"], lr=0.02, beta1=0.9),
    "nesterov": Optimizer(REGISTRY["nesterov"], lr=0.02, beta1=0.9),
    "rmsprop": Optimizer(REGISTRY["rmsprop"], lr=1e-3, beta2=0.99),
    "adam": Optimizer(REGISTRY["adam"], lr=2e-3, beta1=0.9, beta2=0.999),
    "adamw": Optimizer(REGISTRY["adamw"], lr=2e-3, beta1=0.9, beta2=0.999),
    "lion": Optimizer(REGISTRY["lion"], lr=3e-4, beta1=0.9, beta2=0.99),
}


def optimizer(
    name: str, momentum: float | None = None, betas: tuple[float, float] | None = None
) -> Optimizer:
    """The optimiser of that name with the user's decay rates; `sgd` with momentum is `momentum`."""
    if name == "sgd" and momentum:
        name = "momentum"
    known = OPTIMIZERS[name]
    beta1, beta2 = betas or (known.beta1 if momentum is None else momentum, known.beta2)
    return replace(known, beta1=beta1, beta2=beta2)


def schedule(name: str, lr: float, steps: int, warmup: int = 0) -> np.ndarray:
    """The learning rate of every step, float64 (steps + 1,): entry t is for update t, from 1.

    A warm-up of `warmup` steps rises linearly to `lr`. `linear` and `cosine` then fall to 0;
    `coslog4` makes four waves from near 0 to `lr`, each twice as long as the last (Holzmüller et
    al., 2024); `onecycle` rises over the first 30 % and falls to lr / 10,000 (Smith, 2018);
    `plateau` is constant here: the loop lowers it.
    """
    done = np.clip((np.arange(steps + 1) - 1 - warmup) / max(1, steps - warmup), 0, 1)
    table: np.ndarray = lr * SCHEDULES[name](done)
    rising = np.arange(warmup + 1)
    table[: warmup + 1] = np.minimum(lr * rising / max(1, warmup + 1), lr)[: len(table)]
    return table


def _cosine(done: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.cos(np.pi * done))


def fading(steps: int) -> np.ndarray:
    """What is left of dropout and weight decay at every step, float64 (steps + 1,), as `schedule`
    counts them: 1 over the first half, then down to 0 along a cosine."""
    done = np.clip((np.arange(steps + 1) - 1) / steps, 0, 1)
    return _cosine(np.maximum(2 * done - 1, 0))


def _coslog4(done: np.ndarray) -> np.ndarray:
    return np.maximum(1 - _cosine(2 * np.log2(1 + 15 * done)), 1e-3)  # no step is for nothing


def _onecycle(done: np.ndarray) -> np.ndarray:
    rise = 0.04 + 0.96 * (1 - _cosine(done / 0.3))
    fall = 1e-4 + (1 - 1e-4) * _cosine((done - 0.3) / 0.7)
    return np.where(done < 0.3, rise, fall)


SCHEDULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": np.ones_like,
    "plateau": np.ones_like,
    "linear": lambda done: 1 - done,
    "cosine": _cosine,
    "coslog4": _coslog4,
    "onecycle": _onecycle,
}
