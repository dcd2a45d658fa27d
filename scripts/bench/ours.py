"""gpunet as a contestant, at the training loop's own level, and the floor: its products alone."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.work import Given, Work
from gpunet import device, engine, model, optim
from gpunet.config import Config
from gpunet.device import Array, Device
from gpunet.device.cpu import Cpu
from gpunet.kernels import native
from gpunet.launches import Feed, LaunchList, Slot, Store
from gpunet.model import Network
from gpunet.persistent import Persistent
from gpunet.speed import empty_kernel


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
        schedule=np.array([[work.lr, work.decay, 1.0]]),
    )
    return launches, store


def place(work: Work, where: str) -> Device:
    """The GPU, its products rounded as the work says; else as is usual for its numbers."""
    on = device.resolve(where).device
    on.precision = work.precision or {"float32": "tf32", "float64": "fp64"}[work.dtype]
    on.xp.get_default_memory_pool().free_all_blocks()
    return on


def launched(launches: LaunchList) -> int:
    """Launches of a step; of kernels in several stages each stage."""
    given = [call.args[0] for call in launches.calls if isinstance(call, partial) and call.args]
    several = [each for each in given if isinstance(each, tuple) and callable(each[0])]
    return len(launches.calls) + sum(len(each) - 1 for each in several)


def device_bytes(on: Device) -> int:
    """What a GPU has given to this process so far: CuPy's pool keeps what it has."""
    return int(on.xp.get_default_memory_pool().total_bytes())


class Gpunet:
    """The launch list over an epoch: the order is drawn, rows are gathered and scaled inside."""

    draws_its_order = True

    def __init__(self, given: Given, threads: int, where: str, kernels: str = "native") -> None:
        self.work = given.work
        self.device = Cpu(kernels, threads) if where == "cpu" else place(self.work, where)
        self.list, store = lower(given, self.device)
        self.limit = self.device.working(self.list.largest_product)
        self.limit.__enter__()
        if where != "cpu":
            self._choose(store, given)

    def _choose(self, store: Store, given: Given) -> None:
        """Train until the list has chosen between its graphs; then begin anew."""
        began, scalars = self.list.clock.copy(), self.list.totals
        while getattr(self.list.replay, "is_forked", False) is None:
            self.list.run(64)
        store.load(given.weights())
        for each in (*store.state, scalars):
            each[...] = 0
        self.list.clock[...] = began

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a row; of a step for a sum of squares."""
        self.list.totals[...] = 0
        if self.list.feed.order is not None:
            drawn = native.permutation(self.work.used, 0, epoch=epoch)
            self.list.feed.order[...] = self.device.asarray(drawn)
        self.list.rewind()
        self.list.run(self.work.passes * self.list.steps)
        _, summed, rows = self.device.to_host(self.list.totals)
        return float(summed / (self.work.steps if self.work.loss == "sum_squares" else rows))

    def facts(self) -> dict[str, Any]:
        """`branches`: seconds of a step in graphs of so many, with one branch and with two."""
        is_one = isinstance(self.list.replay, Persistent)
        tried = {} if is_one else getattr(self.list.replay, "tried", {})
        return {
            "kernels": 1 if is_one else launched(self.list),
            "device_bytes": device_bytes(self.device),
            "runs_on": self.list.runs_on,
            "branches": {n: [each / n for each in seconds] for n, seconds in tried.items()},
        }


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
        self.limit = on.working(0 if sliced else launches.largest_product)
        self.limit.__enter__()
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


class Graph:
    """A floor on CUDA: a step's products in a graph, or as many kernels that do nothing as the
    step has launches (`is_empty`)."""

    draws_its_order = True

    def __init__(self, given: Given, threads: int, where: str, is_empty: bool) -> None:
        self.work, self.device = given.work, place(given.work, where)
        launches, _ = lower(given, self.device)
        self.arrays: dict[Slot, Array] = {}
        calls = [empty_kernel(self.device)] * launched(launches) if is_empty else []
        for each in launches.launches:
            if each.name == "gemm" and not is_empty:
                calls.append(each.bind(self.device, *map(self._array, each.arguments)))
        self.kernels = len(calls)
        self.run = self.device.replay(calls) or partial(_in_turn, calls)

    def _array(self, slot: Slot) -> Array:
        """Numbers of its own: how fast a product is depends on what its operands hold."""
        if slot not in self.arrays:
            rng = np.random.default_rng(len(self.arrays))
            drawn = rng.standard_normal(slot.shape, np.float32)
            if slot.dtype == "uint16":
                drawn = (drawn.view(np.uint32) >> 16).astype(np.uint16)  # bfloat16
            self.arrays[slot] = self.device.asarray(drawn.astype(slot.dtype))
        return self.arrays[slot]

    def epoch(self, epoch: int, order: np.ndarray) -> None:
        with self.device.working(0):
            self.run(self.work.steps)
        self.device.synchronize()

    def facts(self) -> dict[str, int]:
        return {"kernels": self.kernels, "device_bytes": device_bytes(self.device)}


def _product(step: native.Step) -> Callable[[], np.ndarray]:
    (a, b, out), flips = step.arguments, step.sizes[3]
    return partial(np.matmul, a.T if flips & 1 else a, b.T if flips & 2 else b, out=out)


def _in_turn(calls: list[Callable[[], object]], steps: int) -> None:
    for _ in range(steps):
        for call in calls:
            call()
