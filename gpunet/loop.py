"""The training loop: a generator of reports. Prints nothing, opens no file."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from math import ceil, inf, isfinite, nan
from typing import Any

import numpy as np

from gpunet import engine, forensics, metrics, model, optim
from gpunet.config import Config
from gpunet.data import Dataset, Prepared, Schema, joined
from gpunet.data.limits import allowed
from gpunet.data.targets import by_target
from gpunet.data.windows import Windows, windows
from gpunet.device import Device
from gpunet.errors import Diverged, ModelInvalid
from gpunet.kernels.slots import ARRIVED, BEFORE, FAULT, LR, PENDING, SCALE, STEP, VALID
from gpunet.launches import Feed, LaunchList, Store
from gpunet.model import Network

EVALUATION_ROWS, EVALUATION_BYTES = 4096, 1 << 25
REPORTS = 20
CHUNK_SECONDS = 0.05
"""Steps are run in chunks of about this long: signals and progress come between them."""
PLATEAU_FACTOR, PLATEAU_EPOCHS = 0.3, 5
Legs = Sequence[tuple[int, int]]
"""What was added to a run: after which step, and how many steps."""
SAFE_SECONDS, TRAIL = 5.0, 20
"""After a fault about so many seconds are run again, and so many steps are shown."""
SCALARS = ("clock", "hyper", "totals")
FAULTS = {1: "loss", 2: "gradient", 4: "weight"}


@dataclass(frozen=True)
class Report:
    """What is known after an epoch, or after a twentieth of a run that is counted in steps.

    step, epoch: counted from 1, of `steps` and `epochs`. loss: the mean over the rows since the
    last report; for `sum_squares` that of the last step. validation: the loss and the task's
    metrics, {} without a validation part. lr: the last step's. best: no earlier one was better.
    chain: a SHA-256 of the weights, the optimiser's state and the chain before it.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    validation: dict[str, float | None]
    lr: float
    best: bool
    chain: str
    rows_per_second: float = field(compare=False)
    seconds: float = field(compare=False)

    def __str__(self) -> str:
        """In a line: epoch 3/40  loss 0.2131  validation loss 0.1921, accuracy 0.9333."""
        found = ((name, nan if v is None else v) for name, v in self.validation.items())
        judged = ", ".join(f"{name} {value:.4g}" for name, value in found)
        said = f"epoch {self.epoch:,}/{self.epochs:,}  loss {self.loss:.4g}"
        return f"{said}  validation {judged}" if judged else said


@dataclass(frozen=True)
class Snapshot:
    """All that the rest of a run follows from, beside its data and settings: arrays by name, and
    plain values. Independent copies."""

    tensors: dict[str, np.ndarray]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates made."""
        return int(self.state["done"])

    @property
    def best(self) -> dict[str, np.ndarray]:
        """The weights to keep: of the best validation loss, or these."""
        return {**_unprefixed("weight", self.tensors), **_unprefixed("best", self.tensors)}


@dataclass
class Control:
    """How a caller follows a run and ends it.

    `tick(step)` is called several times a second. Once `stop` is set (a signal handler may set it)
    the loop ends after the steps in hand; `enough`, set at a report, ends it there as patience
    does. `keep` is handed a snapshot every `every` steps (an int) or seconds (a float), when `save`
    is set, and at the end. `done` counts steps; `ended` says why it ended: done, patience, enough
    or stopped; `runs_on` what ran: native loops and their threads, NumPy, or CUDA.
    """

    tick: Callable[[int], None] = lambda step: None
    stop: bool = False
    enough: bool = False
    save: bool = False
    keep: Callable[[Snapshot], None] | None = None
    every: int | float = inf
    done: int = 0
    ended: str = ""
    first_loss: float | None = None
    runs_on: str = ""


FINISHED = ("done", "patience", "enough")
"""Why a run ended that was not cut short."""


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, the rows that train and judge it, and its settings: they differ by
    the seed alone."""

    network: Network
    data: Prepared
    config: Config


def train(
    members: Sequence[Member],
    device: Device,
    dtype: str,
    control: Control | None = None,
    start: Snapshot | None = None,
    legs: Legs = (),
    rows_bytes: float | None = None,
) -> Iterator[Report]:
    """Train the networks of an ensemble in place, side by side, yielding Reports; the settings have
    no `auto` left.

    With `start`, go on from a snapshot: on the same machine every bit is as if the run had never
    ended. `legs` were added later: steps from a step on, with a schedule of their own. The rows of
    a part take `rows_bytes` on the device at most; None leaves it to the device.
    However it ends, each network then holds the weights of its best epoch, or the last ones where
    there is no validation part. Raises Diverged at a non-finite loss, gradient or weight; weights
    that were reached before it are kept. Raises OutOfMemory where the device has too little.
    """
    mixes_rows = members[0].config.norm == "batch"
    with device.watching(f"lower {'--batch-size' if mixes_rows else '--micro-batch-size'}"):
        with device.leaving(rows_bytes):
            run = _Run(members, device, dtype, control or Control(), legs)
        with device.working(max(net.list.largest_product for net in run.nets)):
            try:
                if start is not None:
                    run.restore(start)
                yield from run.reports()
            finally:
                run.finish()


def feed(taken: Windows, schema: Schema, device: Device) -> Feed:
    """The arrays of a part on a device, as a launch list takes them."""
    scale, shift = (
        None if each is None else device.asarray(each) for each in (schema.scale, schema.shift)
    )
    return Feed(taken.x, taken.y, scale, shift, taken.order, taken.weight)


def training_rows(data: Prepared, config: Config, device: Device, dtype: str) -> Windows:
    """The training part, in the order of each epoch; from a file half of the memory holds it."""
    seed = config.seed if config.shuffle else None
    memory = allowed(config.max_memory)
    return windows(data.train, device, dtype, int(config.batch_size), seed, memory // 2)


def judged_rows(part: Dataset, device: Device, dtype: str) -> Windows:
    """A part in the order of its rows."""
    return windows(part, device, dtype, EVALUATION_ROWS, None, EVALUATION_BYTES)


def judge(
    schema: Schema,
    y: np.ndarray,
    raw: np.ndarray,
    weight: np.ndarray | None = None,
    temperature: float = 1.0,
    threshold: float = 0.5,
    ranked: bool = True,
) -> dict[str, float | None]:
    """The task's metrics of raw predictions (n, k) against targets, in the target's own units,
    rows counting by their `weight` (n,); unless `ranked` without the AUC, which takes by far the
    longest."""
    task = schema.target.task
    if task == "multiclass":
        return metrics.of_logits(y, raw, weight, temperature, schema.target.lean, ranked)
    found = in_units(schema, y, raw, temperature)
    if quantiles := schema.target.quantiles:
        return metrics.of_quantiles(*found, quantiles, weight)
    return metrics.of_task(task, *found, weight, threshold, ranked)


def judge_each(
    schema: Schema,
    y: np.ndarray,
    raw: np.ndarray,
    weight: np.ndarray | None = None,
    temperature: float = 1.0,
) -> dict[str, dict[str, float | None]]:
    """Of several targets the metrics of each by its name; {} of one."""
    target = schema.target
    if len(target.names) == 1:
        return {}
    y, output = in_units(schema, y, raw, temperature)
    task = "binary" if target.task == "multilabel" else target.task
    each = {name: (y[:, [j]], output[:, [j]]) for j, name in enumerate(target.names)}
    if quantiles := target.quantiles:
        return {name: metrics.of_quantiles(*of, quantiles, weight) for name, of in each.items()}
    return {name: metrics.of_task(task, *of, weight) for name, of in each.items()}


def in_units(
    schema: Schema, y: np.ndarray, raw: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Targets, and what raw predictions (n, k) mean: probabilities, or values in their units, of
    quantiles (n, targets, quantiles)."""
    output = model.outcome(schema.target.task, raw, temperature)
    if schema.target.task != "regression":
        return y, output
    y, output = schema.decode_target(y), schema.decode(output)
    if not schema.target.quantiles:
        return y, output
    own, found = (by_target(schema.target, values) for values in (y, output))
    return own[:, :, 0], found


def cost(found: Mapping[str, float | None], best_by: str) -> float | None:
    """What the best epoch has least of, in a report's validation; none where the loss was not
    finite."""
    value = found[best_by]
    if value is None or found["loss"] is None:
        return None
    return 1 - value if best_by == "accuracy" else value


def steps_an_epoch(config: Config, rows: int) -> int:
    """Updates of a pass over so many training rows."""
    return ceil(rows / int(config.batch_size))


def steps_in_all(config: Config, rows: int, legs: Legs = ()) -> int:
    """Updates of a whole run over so many training rows, added legs included."""
    planned = config.steps or int(config.epochs) * steps_an_epoch(config, rows)
    return sum(legs[-1]) if legs else planned


def steps_a_report(config: Config, rows: int) -> int:
    """Updates from one report to the next."""
    an_epoch = steps_an_epoch(config, rows)
    return max(an_epoch, ceil(config.steps / REPORTS)) if config.steps else an_epoch


def micro_batch(config: Config) -> int | None:
    """Rows of a batch at a time; None for all of them."""
    size = config.micro_batch_size
    return None if isinstance(size, str) else size


def lower(
    network: Network,
    taken: Windows,
    schema: Schema,
    config: Config,
    device: Device,
    dtype: str,
    schedule: np.ndarray,
) -> tuple[Store, LaunchList]:
    """The training step of a resolved config over rows, by the `rates` of its updates, and the
    vectors that it moves."""
    optimizer = optim.optimizer(config.optimizer, config.momentum, config.betas)
    store = engine.store(network, device, dtype, optimizer.slots)
    launches = engine.lower(
        network,
        feed(taken, schema, device),
        store,
        taken.batch,
        "train",
        optimizer=optimizer,
        schedule=schedule,
        clip_norm=config.clip_norm,
        seed=config.seed,
        micro_batch=micro_batch(config),
        planned=steps_in_all(config, taken.rows),
    )
    return store, launches


def rates(config: Config, rows: int, legs: Legs = ()) -> np.ndarray:
    """Learning rate, decay and share of dropout of every update from 1 on, (steps + 1, 3); each
    leg runs through the schedule anew."""
    table = _rates(config, steps_in_all(config, rows))
    for first, steps in legs:
        table = np.concatenate([table[: first + 1], _rates(config, steps)[1:]])
    return table


def _rates(config: Config, steps: int) -> np.ndarray:
    warmup = config.warmup
    rising = round(warmup * steps) if isinstance(warmup, float) else min(warmup, steps - 1)
    rate = optim.schedule(config.schedule, float(config.lr), steps, rising)
    fade = optim.fading(steps) if config.fade == "cosine" else np.ones(steps + 1)
    return np.stack([rate, config.weight_decay * fade, fade], axis=1)


class _Net:
    """A member at work: two launch lists over one store, and its best weights so far."""

    def __init__(
        self, member: Member, label: str, device: Device, dtype: str, schedule: np.ndarray
    ) -> None:
        self.network, self.data, self.config = member.network, member.data, member.config
        self.label, self.device = label, device
        config, schema = self.config, self.data.schema
        self.taken = training_rows(self.data, config, device, dtype)
        self.store, self.list = lower(
            self.network, self.taken, schema, config, device, dtype, schedule
        )
        self.check = None
        if (part := self.data.validation) is not None:
            self.judged = judged_rows(part, device, dtype)
            given, batch = feed(self.judged, schema, device), self.judged.batch
            self.check = engine.lower(self.network, given, self.store, batch, "evaluate")
        self.best: dict[str, np.ndarray] = {}
        self.lowest = inf

    def close(self) -> None:
        """End reading, and leave the best weights in the network."""
        self.taken.close()
        if self.check is not None:
            self.judged.close()
        self.network.load(self.best or self.store.weights())

    def open_step(self, done: int) -> None:
        """Get a window's rows and their order ready where a step is its first."""
        if self.taken.locate(done).step == 0:
            self.list.rewind(*self.taken.open(done))

    def moving(self) -> dict[str, np.ndarray]:
        """Everything that a step changes, by name, copied."""
        found = _prefixed("weight", self._labelled(self.store.weights()))
        for i, vector in enumerate(self.store.state):
            found |= _prefixed(f"state{i}", self._labelled(self.store.named(vector)))
        scalars = {name: getattr(self.list, name) for name in SCALARS}
        copies = {name: self.device.to_host(a).copy() for name, a in scalars.items()}
        return found | self._labelled(copies)

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take what `moving` gave; other names are left alone."""
        self.store.load(_unprefixed(f"weight.{self.label}", tensors))
        for i, vector in enumerate(self.store.state):
            self.store.fill(vector, _unprefixed(f"state{i}.{self.label}", tensors))
        for name in SCALARS:
            getattr(self.list, name)[...] = self.device.asarray(tensors[self.label + name])

    def restore(self, tensors: Mapping[str, np.ndarray], lowest: float | None, done: int) -> None:
        """Take up what `moving` gave, with the best so far. Where rows lie is a matter of this
        device: the next step's are found by its number, not by the clock."""
        expected = self.moving()
        mine = {name: tensors[name] for name in expected.keys() & tensors.keys()}
        best = _unprefixed(f"best.{self.label}", tensors)
        _check_layout(expected, mine)
        _check_layout(self.store.weights() if best else {}, best)
        self._check_clock(mine[f"{self.label}clock"], done)
        self.best, self.lowest = best, inf if lowest is None else lowest
        self.load(mine)
        if self.taken.locate(done).step:
            self.list.rewind(*self.taken.open(done))

    def keep_if_best(self, cost: float | None) -> None:
        """Keep the weights of the best epoch; of equals the latest."""
        if cost is not None and cost <= self.lowest:
            self.lowest, self.best = cost, self.store.weights()

    def evaluate(self) -> tuple[np.ndarray, float]:
        """Raw predictions (n, k) for the validation part, and its loss."""
        assert self.check is not None
        assert self.data.validation is not None
        return self.check.evaluate(self.judged.sweep(), self.data.validation.rows)

    def _labelled(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {self.label + name: array for name, array in arrays.items()}

    def _check_clock(self, clock: np.ndarray, done: int) -> None:
        """Raise ModelInvalid for a clock that no run has. Where its rows begin and end is not
        looked at, and of no effect."""
        is_there = clock[STEP] == done and clock[VALID] <= self.list.batch
        if not is_there or clock[[FAULT, PENDING, ARRIVED, BEFORE]].any():
            raise ModelInvalid("the checkpoint's clock is not of this run")


class _Run:
    """The members of an ensemble at the same step, and the best epoch of all together."""

    def __init__(
        self,
        members: Sequence[Member],
        device: Device,
        dtype: str,
        control: Control,
        legs: Legs,
    ) -> None:
        self.config, self.device, self.control = members[0].config, device, control
        labels, rows = model.labels(len(members)), members[0].data.train.rows
        self.schedule = rates(self.config, rows, legs)
        self.nets = [
            _Net(member, label, device, dtype, self.schedule)
            for member, label in zip(members, labels, strict=True)
        ]
        first = self.nets[0]
        self.schema, self.per_epoch = first.data.schema, first.taken.steps
        self.total = len(self.schedule) - 1
        self.joints = sorted({first for first, _ in legs if first < self.total})
        control.runs_on = first.list.runs_on
        self.lowest, self.stale, self.chain, self.chunk = inf, 0, "", 1
        self.done = self.reported = 0
        self.began = self.kept = self.looked = time.perf_counter()
        self.safe = self.snapshot()

    @property
    def every(self) -> int:
        """Steps from one report to the next."""
        return steps_a_report(self.config, self.nets[0].taken.rows)

    def reports(self) -> Iterator[Report]:
        yield from self._advance(self.total)
        self._keep()

    def _advance(self, last: int) -> Iterator[Report]:
        """Make steps, not past `last`, and the reports that fall due."""
        while not self.control.ended:
            due = self._due()
            began, first, end = time.perf_counter(), self.done, min(due, last)
            while self.done < end and not self.control.stop:
                self._steps(end)
            if self.done < end:
                self.control.ended = "stopped"
            elif self.done < due:
                return
            else:
                yield self._report(self.done - first, time.perf_counter() - began)
                self.reported += 1
                self._decide_end()
                self._be_safe()

    def _due(self) -> int:
        """The step behind which the next report falls due: the last one of each leg has one."""
        start, left = 0, self.reported
        for end in (*self.joints, self.total):
            count = ceil((end - start) / self.every)
            if left < count:
                return min(start + (left + 1) * self.every, end)
            start, left = end, left - count
        return self.total

    def finish(self) -> None:
        self.control.runs_on = self.nets[0].list.runs_on  # what it came to
        for net in self.nets:
            net.close()

    def snapshot(self) -> Snapshot:
        """Where the run stands, copied to the host."""
        state = {
            "done": self.done,
            "reported": self.reported,
            "lowest": self.lowest if isfinite(self.lowest) else None,
            "members": [net.lowest if isfinite(net.lowest) else None for net in self.nets],
            "stale": self.stale,
            "chain": self.chain,
            "first_loss": self.control.first_loss,
            "ended": self.control.ended,
        }
        tensors: dict[str, np.ndarray] = {}
        for net in self.nets:
            tensors |= {**net.moving(), **_prefixed(f"best.{net.label}".rstrip("."), net.best)}
        return Snapshot(tensors, state)

    def restore(self, start: Snapshot) -> None:
        """Take the run up where a snapshot was made."""
        state = start.state
        known = {n for net in self.nets for n in (*net.moving(), *_best_names(net))}
        if foreign := sorted(start.tensors.keys() - known):
            raise ModelInvalid(f"the checkpoint does not fit the network: {foreign[0]}")
        for net, lowest in zip(self.nets, state["members"], strict=True):
            net.restore(start.tensors, lowest, state["done"])
        self.done, self.reported, self.stale = (state[n] for n in ("done", "reported", "stale"))
        self.control.done = self.done
        self.lowest = inf if state["lowest"] is None else state["lowest"]
        self.chain, self.control.first_loss = state["chain"], state["first_loss"]
        self.control.ended = "" if state["ended"] == "stopped" else state["ended"]
        if self.control.ended and self.done in self.joints:
            self.control.ended = ""
            self._begin_leg()
        self.safe = start

    def _steps(self, end: int) -> None:
        """Run some steps, not past `end` or the next checkpoint, nor into a window that
        has yet to be opened."""
        for net in self.nets:
            net.open_step(self.done)
        left = min(end - self.done, *(net.taken.left(self.done) for net in self.nets))
        count = int(min(self.chunk, left, self._until_checkpoint()))
        began = time.perf_counter()
        for net in self.nets:
            net.list.run(count)
        self.device.synchronize()
        self.chunk = max(1, int(count * CHUNK_SECONDS / (time.perf_counter() - began + 1e-9)))
        self.done = self.control.done = self.done + count
        if self.control.first_loss is None:
            self.control.first_loss = float(np.mean([net.list.loss for net in self.nets]))
        for net in self.nets:
            if net.list.fault:
                raise self._diverged(net, net.list.step, net.list.fault)
        self.control.tick(self.done)
        if self._is_due():
            self._keep()

    def _last_loss(self) -> float:
        """The mean of the members' losses of the last step."""
        return float(np.mean([self.device.to_host(net.list.totals)[0] for net in self.nets]))

    def _until_checkpoint(self) -> int:
        every = self.control.every
        return every - self.done % every if isinstance(every, int) else self.total

    def _is_due(self) -> bool:
        every = self.control.every
        if self.control.save or isinstance(every, int):
            return self.control.save or self.done % every == 0
        return time.perf_counter() - self.kept >= every

    def _keep(self) -> None:
        """Hand a snapshot on. Raises Diverged for one from which nothing could go on."""
        if self.control.keep is None:
            return
        self.control.save = False
        snapshot = self.snapshot()
        for name, array in snapshot.tensors.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                message = f"diverged by step {self.done:,}: {name} is not finite"
                raise Diverged(message, "try --clip-norm 1")
        self.control.keep(snapshot)
        self.kept = time.perf_counter()

    def _report(self, steps: int, seconds: float) -> Report:
        totals = np.array([self.device.to_host(net.list.totals) for net in self.nets])
        summed, rows = totals.sum(axis=0)[1:].tolist()
        found, costs = self._validate()
        for net, cost in zip(self.nets, costs):
            net.list.totals[1:] = 0
            net.keep_if_best(cost)
        self._link()
        seen = min(steps * self.nets[0].list.batch * len(self.nets), rows)
        is_sum = self.config.loss == "sum_squares"
        return Report(
            step=self.done,
            steps=self.total,
            epoch=self._epoch_of(self.done),
            epochs=ceil(self.total / self.per_epoch),
            loss=self._last_loss() if is_sum else summed / max(1.0, rows),
            validation=found,
            lr=float(self.nets[0].list.hyper[LR]),
            best=self._is_best(found),
            chain=self.chain,
            rows_per_second=seen / max(seconds, 1e-9),
            seconds=time.perf_counter() - self.began,
        )

    def _link(self) -> None:
        """Add what was reached to the chain."""
        digest = sha256(self.chain.encode())
        for net in self.nets:
            store = net.store
            for vector in (store.values, *store.state, *store.statistics.values()):
                host = np.ascontiguousarray(self.device.to_host(vector))
                digest.update(host.view(np.uint8).data)
        self.chain = digest.hexdigest()

    def _be_safe(self) -> None:
        """Remember where the run stands, so that a fault can be reached again soon."""
        if time.perf_counter() - self.looked >= SAFE_SECONDS:
            self.safe, self.looked = self.snapshot(), time.perf_counter()

    def _diverged(self, net: _Net, step: int, bits: int) -> Diverged:
        """Go back to the weights before the faulty step, and find in it what was not finite."""
        what = next(name for bit, name in FAULTS.items() if bits & bit)
        loss = float(self.device.to_host(net.list.totals)[0])
        trail = self._replay(net, step - 1)
        with suppress(Diverged):  # what led here is told below
            self._keep()
        fault = self._examine(net, step, what, (*trail, {"step": step, "loss": loss}))
        message = f"diverged at step {step:,}, epoch {fault.epoch:,}: {net.label}{fault.where}"
        return Diverged(message, fault.advice(self.config), fault)

    def _replay(self, net: _Net, last: int) -> list[dict[str, float]]:
        """Make the steps since the safe snapshot again, up to `last`; the losses of the latest."""
        control, self.control = self.control, Control()
        self.restore(self.safe)
        trail = []
        for step in range(max(self.done, last - TRAIL), last + 1):
            for _ in self._advance(step):
                pass
            loss = float(self.device.to_host(net.list.totals)[0])
            trail.append({"step": step, "loss": loss, "lr": float(net.list.hyper[LR])})
        self.control, control.done = control, self.done
        return trail[1:]

    def _examine(
        self, net: _Net, step: int, what: str, trail: tuple[dict[str, float], ...]
    ) -> forensics.Fault:
        """Look at every value of the step that comes next."""
        net.open_step(self.done)
        rows, dtype = net.taken.taken(self.done), net.store.values.dtype
        part, before = net.data.train, net.store.weights()
        x = self.schema.scaled(part.x[rows]).astype(str(dtype))
        y, weight = (None if each is None else each[rows] for each in (part.y, part.weight))
        net.network.load({name: array.copy() for name, array in before.items()})
        fade = float(self.schedule[step, 2])
        place = forensics.find(net.network, x, y, step, fade, weight)
        if place is None and what == "weight":
            place = self._unmoved(net, before)
        given = (rows, net.data.split.numbers(rows), net.data.schema, x, y)
        return forensics.Fault(step, self._epoch_of(step), what, place, *given, trail, weight)

    def _unmoved(self, net: _Net, before: dict[str, np.ndarray]) -> forensics.Place | None:
        """The first weight that the next step cannot move."""
        kept = net.moving()
        net.open_step(self.done)
        net.list.run()
        after = net.store.weights()
        net.load(kept)
        grads = {name: node.grad for name, node in net.network.graph.parameters.items()}
        found = (forensics.unmoved(before[n], after[n], grads[n], n) for n in net.store.views)
        return next((place for place in found if place is not None), None)

    def _epoch_of(self, step: int) -> int:
        return (step - 1) // self.per_epoch + 1

    def _validate(self) -> tuple[dict[str, float | None], list[float | None]]:
        """The ensemble's loss and metrics on the validation part, and each member's own cost. Of
        folds each row is judged by the network that did not learn from it."""
        parts = [net.data.validation for net in self.nets]
        if any(part is None for part in parts):
            return {}, [None] * len(self.nets)
        raws, losses = zip(*(net.evaluate() for net in self.nets), strict=True)
        if len(self.nets) == 1:
            whole = self._judged(parts[0], raws[0], losses[0])
            return whole, [cost(whole, self.config.best_by)]
        part, raw = held_out(parts, raws, self.schema.target.task)
        whole = self._judged(part, raw, float(np.mean(losses)))
        each = zip(parts, raws, losses, strict=True)
        alone = (self._judged(*of, ranked=False) for of in each)
        return whole, [cost(found, self.config.best_by) for found in alone]

    def _judged(
        self, part: Dataset | None, raw: np.ndarray, loss: float, ranked: bool = True
    ) -> dict[str, float | None]:
        assert part is not None
        assert part.y is not None
        target, weight = self.schema.target, part.sample_weight
        raw = target.unweighted(raw)
        found = judge(self.schema, part.y, raw, weight, threshold=target.threshold, ranked=ranked)
        return {"loss": loss if isfinite(loss) else None, **found}

    def _is_best(self, found: dict[str, float | None]) -> bool:
        """Whether no earlier epoch was better."""
        if not found:
            return True
        least = cost(found, self.config.best_by)
        if least is None or least > self.lowest:
            self.stale += 1
            return False
        self.stale = 0 if least < self.lowest else self.stale + 1
        self.lowest = least
        return True

    def _decide_end(self) -> None:
        """Whether the run is at its end; on a plateau the learning rate drops first."""
        if self.control.enough and self.done < self.total:
            self.control.ended = "enough"
            return None
        if self.done in self.joints:
            return self._begin_leg()
        if self.config.schedule == "plateau" and self.stale and self.stale % PLATEAU_EPOCHS == 0:
            for net in self.nets:
                net.list.hyper[SCALE] *= PLATEAU_FACTOR
        patience = int(self.config.patience)
        if self.done >= self.total:
            self.control.ended = "done"
        elif patience and self.stale >= patience:
            self.control.ended = "patience"

    def _begin_leg(self) -> None:
        """Waiting for a better epoch begins anew, at the rates of the schedule."""
        self.stale = 0
        for net in self.nets:
            net.list.hyper[SCALE] = 1.0


def held_out(
    parts: Sequence[Dataset | None], raws: Sequence[np.ndarray], task: str
) -> tuple[Dataset, np.ndarray]:
    """The rows that judge an ensemble, and its raw predictions (n, k) for them: of the same rows
    the members' together; of folds, one part behind the other, each its own member's."""
    folds: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
        folds.setdefault(id(part), []).append(i)
    together = [model.combined(task, [raws[i] for i in where]) for where in folds.values()]
    chosen = [parts[where[0]] for where in folds.values()]
    return joined([part for part in chosen if part is not None]), np.concatenate(together)


def _best_names(net: _Net) -> list[str]:
    return [f"best.{net.label}{name}" for name in net.store.weights()]


def _prefixed(word: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{word}.{name}": array for name, array in arrays.items()}


def _unprefixed(word: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = f"{word.rstrip('.')}."
    return {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}


def _check_layout(wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> None:
    """Raise ModelInvalid unless both hold the same names, shapes and types."""
    layouts = [{n: (a.shape, str(a.dtype)) for n, a in each.items()} for each in (wanted, found)]
    if layouts[0] != layouts[1]:
        wrong = sorted({*layouts[0].items()} ^ {*layouts[1].items()})[0][0]
        raise ModelInvalid(f"the checkpoint does not fit the network: {wrong}")
