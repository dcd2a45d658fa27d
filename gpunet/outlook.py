"""What a run would take: its parts, layers, memory, steps, and the time of a few of them.

Trains copies of the networks for a moment, and keeps nothing of it.
"""

import time
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from statistics import mean
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
    disk, of the predictions that the end judges.
    seconds: for `timed` steps. validation_seconds: for one of the `validations` between them. What
    comes behind the last step is not timed: the baselines, and how all parts are judged.
    """

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    steps: int
    epochs: float
    networks: int
    arena_bytes: int
    weight_bytes: int
    data_bytes: int
    disk_bytes: int
    prediction_bytes: int
    timed: int
    seconds: float
    validations: int
    validation_seconds: float

    @property
    def step_seconds(self) -> float:
        return self.seconds / max(1, self.timed)

    @property
    def total_seconds(self) -> float:
        """For all steps and validations, if patience ends the run no earlier."""
        return self.steps * self.step_seconds + self.validations * self.validation_seconds

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
    timed, seconds, validation = _timed(job, patience)
    epochs = job.steps / loop.steps_an_epoch(config, job.training_rows)
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
        epochs=epochs,
        networks=count,
        arena_bytes=launches.arena_bytes * count,
        weight_bytes=job.parameters * word * vectors,
        data_bytes=sum(each.nbytes for each in arrays) - on_disk,
        disk_bytes=on_disk,
        prediction_bytes=sum(part.rows for part in parts) * job.outputs * word,
        timed=timed,
        seconds=seconds,
        validations=ceil(job.steps / loop.steps_a_report(config, job.training_rows)),
        validation_seconds=validation,
    )


def _timed(job: Job, patience: float) -> tuple[int, float, float]:
    """Steps made after the first few, their seconds, and those of a validation between them."""
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
        ticks.append((control.done, time.perf_counter()))
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(ticks)]
    steps = [span for span in spans if span[0]] or [(ticks[0][0], ticks[0][1] - began)]
    reports = [seconds for made, seconds in spans if not made] or [_validation(job)]
    return sum(made for made, _ in steps), sum(took for _, took in steps), mean(reports)


def _validation(job: Job) -> float:
    """Seconds that the first validation would take."""
    parts = [each.data.validation for each in job.members]
    if any(part is None for part in parts):
        return 0.0
    began, target = time.perf_counter(), job.prepared.schema.target
    raws = [
        job.model.of(each.network).run(part, job.choice.device)
        for each, part in zip(job.members, parts, strict=True)
        if part is not None
    ]
    whole, raw = loop.held_out(parts, raws, target.task)
    assert whole.y is not None
    loop.judge(job.prepared.schema, whole.y, raw, whole.sample_weight)
    return time.perf_counter() - began
