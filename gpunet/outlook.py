"""What a run would take: its parts, layers, memory, steps, and the time of a few of them.

Trains copies of the networks for a moment, and keeps nothing of it.
"""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpunet import loop, optim
from gpunet.data.rows import RowFile
from gpunet.job import Job
from gpunet.loop import Control

PATIENCE = 1.5
"""Seconds that are spent on timing steps."""


@dataclass(frozen=True)
class Outlook:
    """A plan in numbers.

    layers: each parameter's name and shape, in each of `networks`. Bytes: of the arena (all that a
    step writes on its way), of weights, gradients and optimiser, of encoded rows in memory and on
    disk.
    seconds: for `timed` steps, validation between them included.
    """

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    steps: int
    epochs: float
    networks: int
    arena_bytes: int
    weight_bytes: int
    data_bytes: int
    disk_bytes: int
    timed: int
    seconds: float

    @property
    def step_seconds(self) -> float:
        return self.seconds / max(1, self.timed)

    @property
    def total_seconds(self) -> float:
        """For all steps, if patience ends the run no earlier."""
        return self.steps * self.step_seconds

    def to_dict(self) -> dict[str, Any]:
        """The same in plain values, with what follows from it."""
        return {
            **vars(self),
            "layers": [{"name": name, "shape": list(shape)} for name, shape in self.layers],
            "step_seconds": self.step_seconds,
            "total_seconds": self.total_seconds,
        }


def look(job: Job, patience: float = PATIENCE) -> Outlook:
    """What a job would take, timed for about `patience` seconds; the job is left as it was.

    Raises Diverged when the first steps already do.
    """
    config, prepared = job.config, job.prepared
    count = len(job.members)
    timed, seconds = _timed(job, patience)
    launches = job.launches
    weights = job.members[0].network.graph.parameters
    vectors = 2 + optim.optimizer(config.optimizer, config.momentum, config.betas).slots
    vectors += launches.micro_batch < launches.batch
    word = np.dtype(config.dtype).itemsize
    parts = [part for part in prepared.parts.values() if part is not None]
    arrays = [array for part in parts for array in (part.x, part.y) if array is not None]
    on_disk = sum(each.nbytes for each in arrays if isinstance(each, RowFile))
    return Outlook(
        layers=tuple((name, tuple(node.value.shape)) for name, node in weights.items()),
        steps=job.steps,
        epochs=job.steps / loop.steps_an_epoch(config, job.training_rows),
        networks=count,
        arena_bytes=launches.arena_bytes * count,
        weight_bytes=job.parameters * word * vectors,
        data_bytes=sum(each.nbytes for each in arrays) - on_disk,
        disk_bytes=on_disk,
        timed=timed,
        seconds=seconds,
    )


def _timed(job: Job, patience: float) -> tuple[int, float]:
    """Steps made after the first few, and their seconds."""
    ticks: list[tuple[int, float]] = []
    control = Control()

    def tick(step: int) -> None:
        ticks.append((step, time.perf_counter()))
        control.stop = ticks[-1][1] - began >= patience

    control.tick = tick
    copies = [replace(member, network=deepcopy(member.network)) for member in job.members]
    began = time.perf_counter()
    given = (copies, job.choice.device, job.config.dtype, control)
    for _ in loop.train(*given, rows_bytes=job.rows_bytes):
        pass
    (first, start), (last, end) = ticks[0], ticks[-1]
    if last == first:
        return last, end - began
    return last - first, end - start
