"""gpunet as a contestant, at the training loop's own level, and the floor: its products alone."""

from collections.abc import Callable
from functools import partial

import numpy as np

from bench.work import Given, Work
from gpunet import device, engine, model, optim
from gpunet.config import Config
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.engine import Feed, LaunchList, Slot, Store
from gpunet.kernels import native
from gpunet.model import Network


def network(work: Work) -> Network:
    """The work's network with its first weights."""
    task = "multiclass" if work.data == "images" else "regression"
    config = Config(
        hidden=work.hidden,
        activation=work.activation,
        init="normal" if work.data == "lecture" else model.default_init(work.activation),
        bias=work.bias,
        loss=work.loss,
    )
    return model.build(config, work.inputs, work.outputs, task)


def lower(given: Given, on: Device) -> tuple[LaunchList, Store]:
    """The launch list of a training step, and the store that it trains."""
    work = given.work
    built, optimizer = network(work), optim.optimizer(work.optimizer)
    built.load(given.weights())
    scaling = given.scaling or (None, None)
    scale, shift = (None if v is None else on.asarray(np.full(work.inputs, v)) for v in scaling)
    order = None if work.is_one_batch else on.asarray(given.order(0))
    store = engine.store(built, on, work.dtype, optimizer.slots)
    launches = engine.lower(
        built,
        Feed(on.asarray(given.x), on.asarray(given.y), scale, shift, order),
        store,
        work.batch,
        "train",
        optimizer=optimizer,
        schedule=np.array([[work.lr, 0.0, 1.0]]),
    )
    return launches, store


class Gpunet:
    """The launch list over an epoch: the order is drawn, rows are gathered and scaled inside."""

    draws_its_order = True

    def __init__(self, given: Given, threads: int, where: str, kernels: str = "native") -> None:
        self.work = given.work
        self.device = Cpu(kernels, threads) if where == "cpu" else device.resolve(where).device
        self.device.set_tf32(self.work.dtype == "float32")
        self.list, _ = lower(given, self.device)
        self.device.working(self.list.largest_product).__enter__()

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a row; of a step for a sum of squares."""
        self.list.totals[...] = 0
        if self.list.feed.order is not None:
            drawn = native.permutation(self.work.used, 0, epoch=epoch)
            self.list.feed.order[...] = self.device.asarray(drawn)
        self.list.rewind()
        self.list.run(self.work.passes * self.list.steps)
        _, summed, _, rows = self.device.to_host(self.list.totals)
        return float(summed / (self.work.steps if self.work.loss == "sum_squares" else rows))


class Floor:
    """The matrix products of the steps and nothing else, on arrays of their own.

    `sliced`: by rows over gpunet's team of threads; else by NumPy, on BLAS's threads.
    """

    draws_its_order = True

    def __init__(self, given: Given, threads: int, where: str, sliced: bool) -> None:
        self.work, on = given.work, Cpu("numpy", threads)
        launches, self.store = lower(given, on)
        self.arrays: dict[Slot, np.ndarray] = {}
        steps = [
            native.Step("gemm", tuple(map(self._array, each.arguments)), each.sizes)
            for each in launches.launches
            if each.name == "gemm"
        ]
        on.working(0 if sliced else launches.largest_product).__enter__()
        self.calls = [_product(step) for step in steps]
        self.run: Callable[[int], None] = partial(_in_turn, self.calls)
        if sliced:
            team = native.team_for(self.work.batch, threads)
            scalars = launches.clock, launches.hyper, self.store.gradient
            self.run = native.Program(native.load(), steps, *scalars, self.work.batch, team).run

    def _array(self, slot: Slot) -> np.ndarray:
        """Parameters and their gradients where they lie; else numbers that stay what they are."""
        flat = (self.store.values, self.store.gradient)
        if any(np.may_share_memory(slot.array, each) for each in flat):
            return slot.array
        if slot not in self.arrays:
            drawn = np.random.default_rng(len(self.arrays)).standard_normal(slot.shape)
            self.arrays[slot] = drawn.astype(slot.dtype)
        return self.arrays[slot]

    def epoch(self, epoch: int, order: np.ndarray) -> None:
        self.run(self.work.steps)


def _product(step: native.Step) -> Callable[[], np.ndarray]:
    (a, b, out), flips = step.arguments, step.sizes[3]
    return partial(np.matmul, a.T if flips & 1 else a, b.T if flips & 2 else b, out=out)


def _in_turn(calls: list[Callable[[], np.ndarray]], steps: int) -> None:
    for _ in range(steps):
        for call in calls:
            call()
