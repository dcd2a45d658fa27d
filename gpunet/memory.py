"""What training takes on a device, counted before any of it is taken, and whether there is room."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, prod

from gpunet import engine, loop
from gpunet.config import Config, Settings, flag
from gpunet.data.rows import RowFile
from gpunet.device import Device
from gpunet.device.counted import Counted
from gpunet.device.cpu import Cpu
from gpunet.errors import OutOfMemory, UsageError
from gpunet.loop import EVALUATION_ROWS, Member
from gpunet.sizes import shown

WORD, COPIES = 8, 8
"""For a bound that is quick to have: bytes of the largest number, and how often a step holds a
value at most."""
KEPT = 3
"""Times that the host has a run's weights and state beside: where a fault is looked for, in a
checkpoint, and in its bytes. The best weights are kept once."""
WEIGHT_BYTES, RATE_BYTES = 24, 64
"""For each weight of training at least: six numbers of float32. For each update: its rates, and
what they are made of."""
ENOUGH, MILD = 1 << 16, 4
"""Rows at a time, beyond which more gain nothing (a CPU took twice as long for 1,048,576 of them);
and rows stay on the device where a step can then take this part of them, or of a batch, at a time.
"""


@dataclass(frozen=True)
class Needs:
    """Bytes on a device: of the encoded rows of so many `parts`; of weights, gradients, optimiser
    and products' workspaces; of all that steps, which take `batch` rows at a time, and the
    validation between them, write on their way."""

    batch: int
    parts: int
    rows: int
    weights: int
    step: int

    @property
    def total(self) -> int:
        return self.rows + self.weights + self.step

    def fitting_batch(self, free: int) -> int:
        """The power of two of rows at a time, below these, that should fit; 0 where none does."""
        room = free - self.rows - self.weights
        most = min(self.batch - 1, ENOUGH, max(0, room) * self.batch // max(1, self.step))
        return 1 << most.bit_length() - 1 if most else 0

    def room_for_rows(self, free: int) -> int:
        """What is left of `free` for each part beside all else."""
        return max(0, free - self.weights - self.step) // self.parts


def needs(
    members: Sequence[Member], device: Device, dtype: str, rows_bytes: float | None = None
) -> Needs:
    """What training the networks of an ensemble side by side takes on a device; rows are on the CPU
    already. Of each launch list it is what NumPy wants: other devices want about as much. Rows of a
    part take `rows_bytes` at most, and windows of them then; None: as many as they are."""
    member, counted = members[0], Counted(rows_bytes, device.branches, device.precision)
    config, schema = member.config, member.data.schema
    parts = [loop.training_rows(member.data, config, counted, dtype)]
    rates = loop.rates(config, parts[0].rows)
    store, launches = loop.lower(member.network, parts[0], schema, config, counted, dtype, rates)
    lists = [launches]
    if (validation := member.data.validation) is not None:
        parts.append(loop.judged_rows(validation, counted, dtype))
        feed = loop.feed(parts[1], schema, counted)
        lists.append(engine.lower(member.network, feed, store, parts[1].batch, "evaluate"))
    for part in parts:
        part.close()
    arrays = [a for p in parts for a in (p.x, p.y, p.weight, p.order) if a is not None]
    rows, step = sum(a.nbytes for a in arrays), sum(each.arena_bytes for each in lists)
    weights, count = counted.asked - rows - step, len(members)
    if device.kind == "cpu":
        vectors = 1 + len(store.state)
        weights += (KEPT * vectors + 1) * store.values.nbytes
    there = 0 if device.kind == "cpu" else rows * count
    weights = weights * count + device.workspace_bytes
    return Needs(launches.micro_batch, len(parts) * count, there, weights, step * count)


def check_weights(config: Config, inputs: int, outputs: int) -> None:
    """Raise OutOfMemory where the weights of layers that wide, and what training has beside them at
    least, are more than the host has free, before any of them is drawn."""
    sizes = pairwise((inputs, *config.hidden, outputs))
    weights = sum(prod(each) for each in sizes) * config.members * max(1, config.folds)
    asked = WEIGHT_BYTES * weights
    memory = Cpu().memory()
    if 0 < memory.free < asked:
        message = f"out of memory on cpu: {weights:,} weights ask for {shown(asked)}; {memory}"
        raise OutOfMemory(message, "make --hidden narrower")


def check_steps(asked: str, steps: int) -> None:
    """Raise UsageError where the learning rates of so many updates, which `asked` asks for, are
    more than the host has free."""
    wanted = RATE_BYTES * steps
    memory = Cpu().memory()
    if 0 < memory.free < wanted:
        rates = f"the learning rates of {steps:,} steps ask for {shown(wanted)}"
        raise UsageError(f"{asked}: {rates}; {memory}", "take fewer")


def fitted(
    settings: Settings, config: Config, members: Sequence[Member], device: Device
) -> tuple[Settings | None, float | None]:
    """Settings with which training asks for less of a device, None where all has room there; and
    the bytes that the rows of a part may take then, None where the CPU has them anyway.

    What is larger of rows and a step gives way: rows are sent in windows, or a step takes fewer of
    them at a time, which nobody asked for. Raises OutOfMemory where neither is enough.
    """
    free, whole = device.memory().free, None if device.kind == "cpu" else inf
    dtype = config.dtype
    if is_small(members, device) or has_room(wanted := needs(members, device, dtype), device):
        return None, whole
    name, streams = at_a_time(config), isinstance(members[0].data.train.x, RowFile)
    may_shrink = not settings.given(name)
    rows = wanted.fitting_batch(free) if may_shrink else 0
    is_tight = rows * MILD < min(wanted.batch, ENOUGH)
    if wanted.rows and (wanted.rows > wanted.step or is_tight):
        room = wanted.room_for_rows(free)
        if streams and not settings.given("max_memory") and 2 * room < int(config.max_memory):
            reason = f"windows of rows that fit {device.name}"
            return settings.resolve("max_memory", max(1, 2 * room), reason), None
        wanted = needs(members, device, dtype, room)
        if has_room(wanted, device):
            return None, room
        rows = max(rows, wanted.fitting_batch(free) if may_shrink else 0)
    if rows == 0:
        raise _refused(wanted, device, config, streams)
    reason = f"{wanted.batch:,} rows at a time do not fit {device.name}"
    return settings.resolve(name, rows, reason), None


def at_a_time(config: Config) -> str:
    """The setting that says how many rows a step takes at a time: batch norm wants whole batches,
    others are taken in micro-batches."""
    return "batch_size" if config.norm == "batch" else "micro_batch_size"


def is_small(members: Sequence[Member], device: Device) -> bool:
    """Whether there is room beyond doubt, so that nothing has to be counted."""
    member = members[0]
    weights = member.network.weights.values()
    widths = sum(sum(each.shape) for each in weights if each.ndim == 2)
    rows = loop.micro_batch(member.config) or int(member.config.batch_size)
    batch = min(rows, member.data.train.rows) + EVALUATION_ROWS
    parts = [part for part in (member.data.train, member.data.validation) if part is not None]
    arrays = [a for part in parts for a in (part.x, part.y) if a is not None]
    values = sum(each.size for each in weights) + widths * batch
    most = values * WORD * COPIES + sum(a.nbytes for a in arrays)
    return most * len(members) + device.workspace_bytes < device.memory().free


def has_room(wanted: Needs, device: Device) -> bool:
    """Whether a device has so much free; one that does not tell is trusted."""
    free = device.memory().free
    return free == 0 or wanted.total <= free


def _refused(wanted: Needs, device: Device, config: Config, streams: bool) -> OutOfMemory:
    """What is missing, and which setting helps."""
    free = device.memory().free
    parts = f"{shown(wanted.rows)} of rows, " if wanted.rows else ""
    parts += f"{shown(wanted.weights)} of weights, gradients, optimiser and workspaces, "
    parts += f"{shown(wanted.step)} for {wanted.batch:,} rows of a step at a time"
    message = f"out of memory on {device.name}: training asks for {shown(wanted.total)} ({parts})"
    return OutOfMemory(f"{message}; {shown(free)} are free", _hint(wanted, free, config, streams))


def _hint(wanted: Needs, free: int, config: Config, streams: bool) -> str:
    if batch := wanted.fitting_batch(free):
        return f"try {flag(at_a_time(config))} {batch}"
    if wanted.rows <= wanted.weights:
        return "make --hidden narrower"
    return "lower --max-memory" if streams else "use --device cpu"
