"""A launch list: what runs, on which slots of planned memory, and running it, step by step.

Knows nothing of gates: engine.py writes lists down. Nothing is allocated in a run, and every number
that changes from step to step is read from device memory.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np

from gpunet.device import Array, Device
from gpunet.kernels import REGISTRY, native
from gpunet.kernels.slots import FAULT, ROWS, START, STEP

ALIGNMENT = 256
"""Bytes, of every slot."""
CLOCK, TOTALS = 8, 3
"""Elements of the two scalars that the host looks at; they lie side by side and travel together."""


@dataclass(eq=False)
class Slot:
    """A place for one array: in the arena, or `array` when it lives outside it.

    Has the attributes of an array that kernels' size rules look at.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    array: Array = None

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True)
class Launch:
    """One entry of the list: what runs, on which slots, and which of them it writes; last of all
    its scratch, if it has any.

    `dropped` binds what does the dropout beside it too, if there is such a kernel.
    Launches of `branch` 1 may run beside those of branch 0; within a branch the list's order holds.
    `waits`: so many places before it is a launch of the other branch that it waits for; 0 for none.
    `follows`: the launch before it may do it along the way, so that what it writes may not lie
    where that one still reads.
    """

    name: str
    arguments: tuple[Any, ...]
    writes: tuple[Slot, ...]
    bind: Callable[..., Callable[[], None]]
    sizes: tuple[int, ...] = ()
    has_work: bool = False
    branch: int = 0
    waits: int = 0
    follows: bool = False
    dropped: Callable[..., Callable[[], None]] | None = None

    @property
    def without_work(self) -> "Launch":
        """The same without the scratch that NumPy and CUDA want."""
        if not self.has_work:
            return self
        return replace(self, arguments=self.arguments[:-1], writes=self.writes[:-1], has_work=False)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(a for a in self.arguments if isinstance(a, Slot))

    @property
    def reads(self) -> tuple[Slot, ...]:
        return tuple(slot for slot in self.slots if slot not in self.writes)

    @property
    def step(self) -> native.Step:
        """In plain parts, with its slots' arrays."""
        arguments = (a.array if isinstance(a, Slot) else a for a in self.arguments)
        return native.Step(self.name, tuple(arguments), self.sizes)

    @property
    def flops(self) -> int | None:
        """Floating-point operations of a matrix product; None for other launches."""
        return 2 * self.sizes[0] * self.sizes[1] * self.sizes[2] if self.name == "gemm" else None

    @property
    def nbytes(self) -> int:
        """Bytes that it touches at most: all of its arrays, but of the data one batch."""
        outs = [slot.nbytes for slot in self.writes]
        ins = [slot.nbytes for slot in self.reads if not slot.name.startswith("data.")]
        return sum(outs) + sum(ins)


@dataclass
class Store:
    """A network's parameters on a device, flat: values, gradient, optimiser state.

    The weights of products come first, since their gradients are made otherwise; of these, those
    that may move `early`, before the gradient is whole. Segments of equal pace are listed by where
    they start. `statistics` are the running figures of batch norms. Both layouts are by name, so
    what is saved does not depend on order. `shadow`: the values in bfloat16, as their bits, where
    products take those.
    """

    device: Device
    values: Array
    gradient: Array
    state: tuple[Array, ...]
    views: dict[str, tuple[slice, tuple[int, ...]]]
    statistics: dict[str, Array]
    starts: Array
    rates: Array
    decays: Array
    shadow: Array | None = None
    early: tuple[str, ...] = ()

    def slot(self, name: str, of: Literal["values", "gradient", "shadow"] = "values") -> Slot:
        where, shape = self.views[name]
        array, ending = getattr(self, of)[where].reshape(shape), _ENDINGS[of]
        return Slot(f"{name}{ending}", shape, str(array.dtype), array)

    def segments(self, part: slice) -> tuple[Array, Array, Array]:
        """starts, rates and decays of a part of the vectors, counted from where it starts."""
        starts, rates, decays = map(self.device.to_host, (self.starts, self.rates, self.decays))
        within = (starts[:-1] < part.stop) & (starts[1:] > part.start)
        inner = np.clip(starts[:-1][within], part.start, None)
        bounds = np.append(inner, part.stop) - part.start
        asarray = self.device.asarray
        return asarray(bounds, np.int64), asarray(rates[within]), asarray(decays[within])

    def weights(self) -> dict[str, np.ndarray]:
        """Copies on the host, by name."""
        kept = {name: self.device.to_host(a).copy() for name, a in self.statistics.items()}
        return {**self.named(self.values), **kept}

    def named(self, vector: Array) -> dict[str, np.ndarray]:
        """A flat vector as arrays by name, copied to the host."""
        host = self.device.to_host(vector)
        return {name: host[at].reshape(shape).copy() for name, (at, shape) in self.views.items()}

    def fill(self, vector: Array, arrays: Mapping[str, np.ndarray]) -> None:
        """The other way round: a flat vector from arrays by name."""
        for name, (at, _) in self.views.items():
            vector[at] = self.device.asarray(arrays[name].ravel())

    def load(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take what `weights` gave."""
        self.fill(self.values, weights)
        self.renew_shadow()
        for name, array in self.statistics.items():
            array[...] = self.device.asarray(weights[name])

    def renew_shadow(self) -> None:
        """Have the values in the shadow, where there is one."""
        if self.shadow is not None and self.device.runs:
            REGISTRY["narrow"].bind(self.device, self.values, self.shadow)()


_ENDINGS = {"values": "", "gradient": ".grad", "shadow": ".bf16"}


@dataclass(frozen=True)
class Feed:
    """Rows on a device, in their own dtype, and the order in which they are taken.

    x (N, d); y as the loss wants it, or None; scale and shift (d,) of the gather; order (N,)
    int32, or None for as they lie; weight (N,) of each row's loss, in the network's dtype, for a
    network that has such an input.
    """

    x: Array
    y: Array | None = None
    scale: Array | None = None
    shift: Array | None = None
    order: Array | None = None
    weight: Array | None = None

    @property
    def rows(self) -> int:
        return len(self.x)


@dataclass
class LaunchList:
    """A bound launch list: run it, one step at a time, over a feed.

    A step takes `batch` rows, `micro_batch` of them at a time.

    `clock` and `hyper` are the device's own scalars (kernels/slots.py); `totals` holds the last
    loss, and adds up row losses and rows until someone zeroes it. `send` brings clock
    and totals, as one array, to `seen` on the host.
    """

    launches: list[Launch]
    calls: list[Callable[[], None]]
    device: Device
    feed: Feed
    batch: int
    micro_batch: int
    clock: Array
    hyper: Array
    totals: Array
    prediction: Slot
    arena_bytes: int
    send: Callable[[], None]
    seen: np.ndarray
    program: native.Program | None = None
    replay: Callable[[int], None] | None = None

    @property
    def runs_on(self) -> str:
        """What runs the list: native loops and how many threads, NumPy, or CUDA."""
        if self.program is not None:
            threads = self.program.team.threads
            return f"native loops, {threads} thread{'s' * (threads > 1)}"
        if self.replay is not None:
            return str(self.replay)
        return "numpy" if self.device.kind == "cpu" else "CUDA"

    @property
    def largest_product(self) -> int:
        """Floating-point operations of the largest matrix product that one call is given."""
        if self.program is not None:
            return 0
        return max((launch.flops or 0 for launch in self.launches), default=0)

    @property
    def steps(self) -> int:
        """Steps of one pass over the feed."""
        return -(-self.feed.rows // self.batch)

    def rewind(self, first: int = 0, stop: int | None = None) -> None:
        """Start a new pass: the next step takes the feed's rows from `first` on, and none is taken
        from `stop` on; of all rows unless told otherwise."""
        self.clock[START] = first - self.batch
        self.clock[ROWS] = self.feed.rows if stop is None else stop

    def run(self, steps: int = 1) -> None:
        """Run the list `steps` times; after the feed's last rows come its first ones."""
        if self.program is not None:
            self.program.run(steps)
        elif self.replay is not None:
            self.replay(steps)
        else:
            with np.errstate(all="ignore"):
                for _ in range(steps):
                    for call in self.calls:
                        call()
        self.send()

    def evaluate(
        self, spans: Iterable[tuple[int, int]] | None = None, rows: int | None = None
    ) -> tuple[np.ndarray, float]:
        """The prediction (n, k) for every row of the feed, and the mean of the rows' losses
        (0 for a feed without targets), on the host.

        Or for `rows` rows in `spans` (first, stop) of the feed, each of which is filled when it is
        asked for.
        """
        rows = self.feed.rows if rows is None else rows
        self.totals[...] = 0
        found = np.empty((rows, *self.prediction.shape[1:]), self.prediction.dtype)
        done = 0
        for first, stop in ((0, rows),) if spans is None else spans:
            self.rewind(first, stop)
            for start in range(first, stop, self.batch):
                self.clock[FAULT] = 0  # a loss that is not finite would hold back all that follows
                self.run()
                part = found[done : done + min(self.batch, stop - start)]
                part[...] = self.device.to_host(self.prediction.array)[: len(part)]
                done += len(part)
        totals = self.device.to_host(self.totals)
        return found, float(totals[1] / max(1.0, totals[2]))

    @property
    def step(self) -> int:
        return int(self.clock[STEP])

    @property
    def fault(self) -> int:
        """0, or why updates have stopped: 1 loss, 2 gradient, 4 weight, added up; as the last run
        left it."""
        self.device.synchronize()
        return int(self.seen[FAULT])

    @property
    def loss(self) -> float:
        """Of the last step of the last run."""
        self.device.synchronize()
        return float(self.seen[CLOCK:].view(np.float64)[0])


def plan(
    launches: list[Launch], keep: Iterable[Slot] = (), reuse: bool = True
) -> tuple[dict[Slot, int], int]:
    """Byte offsets in one arena for every slot that is not outside, and the arena's size.

    A slot is alive as long as its launches may run (`keep`: to the end). Slots that are alive
    together never overlap; the largest are placed first, each as low as it fits. Without `reuse`
    all are alive all the time: a team's lanes are at different launches, in an order of their own.
    """
    spans: dict[Slot, tuple[int, int]] = {}
    for launch, (first, last) in zip(launches, windows(launches)):
        for slot in launch.slots:
            if slot.array is None:
                start, stop = spans.get(slot, (first, last))
                spans[slot] = min(start, first), max(stop, last)
    for slot in spans if not reuse else keep:
        spans[slot] = (spans[slot][0] if reuse else 0, len(launches))
    places: dict[Slot, int] = {}
    for slot in sorted(spans, key=lambda s: -s.nbytes):
        offset = 0
        for other in sorted(places, key=places.__getitem__):
            if spans[other][0] <= spans[slot][1] and spans[slot][0] <= spans[other][1]:
                if offset + slot.nbytes <= places[other]:
                    break
                offset = max(offset, rounded(places[other] + other.nbytes, ALIGNMENT))
        places[slot] = offset
    return places, max((places[s] + s.nbytes for s in places), default=0)


def windows(launches: Sequence[Launch]) -> list[tuple[int, int]]:
    """The first and the last place in the list at which each launch may run: its own, or that of
    the one that it follows; on branch 1 those behind what its branch has waited for, until branch 0
    waits for it."""
    found, first = [], 0
    for i, launch in enumerate(launches):
        if launch.branch == 0:
            found.append((i - launch.follows, i))
            continue
        first = i - launch.waits + 1 if launch.waits else first
        waiting = range(i + 1, len(launches))
        ends = (j for j in waiting if launches[j].branch == 0 and 0 < launches[j].waits <= j - i)
        found.append((first, next(ends, len(launches)) - 1))
    return found


def rounded(size: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-size // step) * step
