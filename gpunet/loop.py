"""The training loop: a generator of reports. Prints nothing, opens no file."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np

from gpunet import engine, metrics, model, optim
from gpunet.config import Config
from gpunet.data import Dataset, Prepared, Schema
from gpunet.device import Array, Device
from gpunet.engine import Feed, LaunchList, Store
from gpunet.errors import Diverged
from gpunet.kernels.slots import LR, SCALE
from gpunet.model import Network
from gpunet.random import permutation

EVALUATION_ROWS = 4096
REPORTS = 20
CHUNK_SECONDS = 0.05
"""Steps are run in chunks of about this long: signals and progress come between them."""
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.3, 5
FAULTS = {1: "loss", 2: "gradient", 4: "weight"}


@dataclass(frozen=True)
class Report:
    """What is known after an epoch, or after a twentieth of a run that is counted in steps.

    step, epoch: counted from 1, of `steps` and `epochs`. loss: the mean over the rows since the
    last report; for `sum_squares` that of the last step. validation: the loss and the task's
    metrics, {} without a validation part. lr: the last step's. best: no earlier one was better.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    validation: dict[str, float | None]
    lr: float
    rows_per_second: float
    seconds: float
    best: bool


@dataclass
class Control:
    """How a caller follows a run and ends it.

    `tick(step)` is called several times a second. Once `stop` is set (a signal handler may set it)
    the loop ends after the steps in hand. `ended` then says why: done, patience or stopped;
    `runs_on` what ran: native loops and their threads, NumPy, or CUDA.
    """

    tick: Callable[[int], None] = lambda step: None
    stop: bool = False
    ended: str = "done"
    first_loss: float | None = None
    runs_on: str = ""


def train(
    network: Network,
    data: Prepared,
    config: Config,
    device: Device,
    dtype: str,
    control: Control | None = None,
) -> Iterator[Report]:
    """Train `network` in place, yielding Reports; `config` has no `auto` left.

    However it ends, the network then holds the weights of the best validation loss, or the last
    ones where there is no validation part. Raises Diverged at a non-finite loss, gradient or
    weight; weights that were reached before it are kept.
    """
    run = _Run(network, data, config, device, dtype, control or Control())
    with device.working(run.list.largest_product):
        try:
            yield from run.reports()
        finally:
            run.finish()


def feed(
    device: Device, part: Dataset, schema: Schema, dtype: str, order: Array | None = None
) -> Feed:
    """A part of the data on a device, float targets in `dtype`."""
    y = part.y
    if y is not None and y.ndim > 1:
        y = y.astype(dtype)
    parts = (part.x, y, schema.scale, schema.shift)
    x, y, scale, shift = (None if each is None else device.asarray(each) for each in parts)
    return Feed(x, y, scale, shift, order)


def training_feed(data: Prepared, config: Config, device: Device, dtype: str) -> Feed:
    """The training part on a device, with an order to fill each epoch if it is shuffled."""
    rows = np.arange(data.train.rows, dtype=np.int32)
    order = device.asarray(rows) if config.shuffle else None
    return feed(device, data.train, data.schema, dtype, order)


def judge(schema: Schema, y: np.ndarray, raw: np.ndarray) -> dict[str, float | None]:
    """The task's metrics of raw predictions (n, k) against targets, in the target's own units."""
    task, output = schema.target.task, model.outcome(schema.target.task, raw)
    if task == "regression":
        return metrics.of_task(task, schema.decode(y.astype(np.float64)), schema.decode(output))
    return metrics.of_task(task, y, output)


def steps_in_all(config: Config, rows: int) -> int:
    """Updates of a whole run over so many training rows."""
    per_epoch = ceil(rows / min(int(config.batch_size), rows))
    return config.steps or int(config.epochs) * per_epoch


def lower(
    network: Network, part: Feed, config: Config, device: Device, dtype: str
) -> tuple[Store, LaunchList]:
    """The training step of a resolved config over a feed, and the vectors that it moves."""
    optimizer = optim.optimizer(config.optimizer, config.momentum, config.betas)
    steps, warmup = steps_in_all(config, part.rows), config.warmup
    rising = round(warmup * steps) if isinstance(warmup, float) else warmup
    store = engine.store(network, device, dtype, optimizer.slots)
    launches = engine.lower(
        network,
        part,
        store,
        min(int(config.batch_size), part.rows),
        "train",
        optimizer=optimizer,
        schedule=optim.schedule(config.schedule, float(config.lr), steps, rising),
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        seed=config.seed,
    )
    return store, launches


class _Run:
    """Two launch lists over one store, and the best so far."""

    def __init__(
        self,
        network: Network,
        data: Prepared,
        config: Config,
        device: Device,
        dtype: str,
        control: Control,
    ) -> None:
        self.network, self.data, self.config = network, data, config
        self.device, self.control = device, control
        rows = data.train.rows
        trained = training_feed(data, config, device, dtype)
        self.order = trained.order
        self.store, self.list = lower(network, trained, config, device, dtype)
        self.per_epoch = self.list.steps
        self.total = steps_in_all(config, rows)
        control.runs_on = self.list.runs_on
        self.check = None
        if (part := data.validation) is not None:
            judged = feed(device, part, data.schema, dtype)
            batch = min(EVALUATION_ROWS, judged.rows)
            self.check = engine.lower(network, judged, self.store, batch, "evaluate")
        self.best: dict[str, np.ndarray] | None = None
        self.lowest, self.stale, self.chunk = float("inf"), 0, 1
        self.started = time.perf_counter()

    def reports(self) -> Iterator[Report]:
        every = self.per_epoch
        if self.config.steps:
            every = max(every, ceil(self.total / REPORTS))
        done = 0
        while done < self.total and self.control.ended == "done":
            began, first = time.perf_counter(), done
            while done < min(first + every, self.total) and not self.control.stop:
                done += self._steps(done, min(first + every, self.total))
            self.device.synchronize()
            yield self._report(done, time.perf_counter() - began)
            if self.control.stop:
                self.control.ended = "stopped"
            elif self._is_stuck():
                self.control.ended = "patience"

    def finish(self) -> None:
        if self.best is not None:
            self.network.load(self.best)
        elif not self.list.fault:
            self.network.load(self.store.weights())

    def _steps(self, done: int, end: int) -> int:
        """Run some steps, not past `end` or the epoch's; how many."""
        place = done % self.per_epoch
        if place == 0:
            self._open_epoch(done // self.per_epoch)
        count = min(self.chunk, end - done, self.per_epoch - place)
        began = time.perf_counter()
        self.list.run(count)
        self.chunk = max(1, int(count * CHUNK_SECONDS / (time.perf_counter() - began + 1e-9)))
        if self.control.first_loss is None:
            self.control.first_loss = float(self.list.totals[0])
        self.control.tick(done + count)
        return count

    def _open_epoch(self, epoch: int) -> None:
        if self.order is not None:
            order = permutation(self.data.train.rows, self.config.seed, epoch=epoch)
            self.order[...] = self.device.asarray(order)
        self.list.rewind()

    def _report(self, done: int, seconds: float) -> Report:
        last, summed, _, rows = (float(v) for v in self.device.to_host(self.list.totals))
        self.list.totals[...] = 0
        self._raise_fault(last)
        found = self._validate()
        return Report(
            step=done,
            steps=self.total,
            epoch=ceil(done / self.per_epoch),
            epochs=ceil(self.total / self.per_epoch),
            loss=last if self.config.loss == "sum_squares" else summed / max(1.0, rows),
            validation=found,
            lr=float(self.list.hyper[LR]),
            rows_per_second=rows / max(seconds, 1e-9),
            seconds=time.perf_counter() - self.started,
            best=self._keep_if_best(found),
        )

    def _raise_fault(self, loss: float) -> None:
        fault = self.list.fault
        if not fault:
            return
        what = next(name for bit, name in FAULTS.items() if fault & bit)
        seen = f" ({loss:g})" if what == "loss" else ""
        raise Diverged(
            f"diverged at step {self.list.step:,}: the {what} is not finite{seen}",
            f"try a smaller --lr than {self.config.lr:g}, --clip-norm 1 or --norm layer",
        )

    def _validate(self) -> dict[str, float | None]:
        part = self.data.validation
        if self.check is None or part is None:
            return {}
        raw, loss = self.check.evaluate()
        assert part.y is not None
        return {"loss": loss if isfinite(loss) else None, **judge(self.data.schema, part.y, raw)}

    def _keep_if_best(self, found: dict[str, float | None]) -> bool:
        """Keep the weights of the lowest validation loss; of equals the latest."""
        if self.check is None:
            return True
        loss = found["loss"]
        if loss is None or loss > self.lowest:
            self.stale += 1
            return False
        self.stale = 0 if loss < self.lowest else self.stale + 1
        self.lowest, self.best = loss, self.store.weights()
        return True

    def _is_stuck(self) -> bool:
        """Whether patience is at its end; on a plateau the learning rate drops first."""
        if self.config.schedule == "plateau" and self.stale and self.stale % PLATEAU_EPOCHS == 0:
            self.list.hyper[SCALE] *= PLATEAU_FACTOR
        patience = int(self.config.patience)
        return bool(patience) and self.stale >= patience
