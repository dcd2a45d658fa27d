"""What training takes on a device, counted before any of it is taken, and whether there is room."""

from collections.abc import Sequence
from dataclasses import dataclass

from gpunet import engine, loop
from gpunet.config import Config, flag
from gpunet.device import Device
from gpunet.device.counted import Counted
from gpunet.errors import OutOfMemory
from gpunet.loop import EVALUATION_ROWS, Member
from gpunet.sizes import shown

WORD, COPIES = 8, 8
"""For a bound that is quick to have: bytes of the largest number, and how often a step holds a
value at most."""


@dataclass(frozen=True)
class Needs:
    """Bytes on a device: of the encoded rows of so many `parts`; of weights, gradients and
    optimiser; of all that steps, which take `batch` rows at a time, and the validation between
    them, write on their way."""

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
        most = min(self.batch - 1, max(0, room) * self.batch // max(1, self.step))
        return 1 << most.bit_length() - 1 if most else 0

    def room_for_rows(self, free: int) -> int:
        """What is left of `free` for each part beside all else."""
        return max(0, free - self.weights - self.step) // self.parts


def needs(members: Sequence[Member], device: Device, dtype: str, legs: loop.Legs = ()) -> Needs:
    """What training the networks of an ensemble side by side takes on a device; rows are on the CPU
    already. Of each launch list it is what NumPy wants: other devices want about as much."""
    member, counted = members[0], Counted(device)
    config, schema = member.config, member.data.schema
    parts = [loop.training_rows(member.data, config, counted, dtype)]
    store, launches = loop.lower(member.network, parts[0], schema, config, counted, dtype, legs)
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
    there = 0 if device.kind == "cpu" else rows * count
    return Needs(launches.micro_batch, len(parts) * count, there, weights * count, step * count)


def with_windows(wanted: Needs, members: Sequence[Member], device: Device, dtype: str) -> Needs:
    """Leave rows what the rest of `wanted` does not ask for, and count again: parts in memory that
    take more are sent to the device in windows."""
    device.rows_bytes = wanted.room_for_rows(device.memory().free)
    return needs(members, device, dtype)


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
    return most * len(members) < device.memory().free


def has_room(wanted: Needs, device: Device) -> bool:
    """Whether a device has so much free; one that does not tell is trusted."""
    free = device.memory().free
    return free == 0 or wanted.total <= free


def refused(wanted: Needs, device: Device, config: Config) -> OutOfMemory:
    """What is missing, and which setting helps."""
    free = device.memory().free
    parts = f"{shown(wanted.rows)} of rows, " if wanted.rows else ""
    parts += f"{shown(wanted.weights)} of weights, gradients and optimiser, "
    parts += f"{shown(wanted.step)} for {wanted.batch:,} rows of a step at a time"
    message = f"out of memory on {device.name}: training asks for {shown(wanted.total)} ({parts})"
    return OutOfMemory(f"{message}; {shown(free)} are free", _hint(wanted, free, config))


def _hint(wanted: Needs, free: int, config: Config) -> str:
    if batch := wanted.fitting_batch(free):
        return f"try {flag(at_a_time(config))} {batch}"
    if wanted.rows > wanted.weights:
        return "use --device cpu, or lower --max-memory where rows are read from a file"
    return "make --hidden narrower"
