"""Train the same networks on the CPU and on a GPU and compare the losses, step by step.

Covers every loss, activation and optimiser, both norms and dropout, in every precision. Prints a
table, writes JSON with --json, exits 6 when two curves differ by more than the tolerance.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpunet import engine, loop, model, optim
from gpunet.config import Config
from gpunet.device import Device, resolve
from gpunet.gates import ACTIVATIONS
from gpunet.launches import Feed
from gpunet.model import TASK_LOSSES
from gpunet.optim import OPTIMIZERS
from gpunet.random import Purpose, stream

ROWS, COLUMNS, OUTPUTS, BATCH = 512, 20, 5, 64


class Format(NamedTuple):
    """What numbers are kept as, and how far losses may lie from the CPU's in that: relative."""

    dtype: str
    tolerance: float


PRECISIONS = {
    "fp32": Format("float32", 1e-4),
    "fp64": Format("float64", 1e-9),
    "tf32": Format("float32", 1e-2),
    "bf16": Format("float32", 2e-2),
}
"""Products on a CPU whose operands are rounded to the 11 bits of tf32 and the 8 of bf16 lead losses
apart by up to a quarter of that in 200 steps."""
PROCESSES, PARTS = 8, 4
"""Sources are compiled on the CPU, for each case its own; and parts of the cases of a precision."""
BY_SIGNS, MORE = "optimizer lion", 3
"""It goes by signs of small numbers, which coarse roundings turn: so many times as far."""
FORMULA_ACTIVATION, FORMULA_LOSS = "x*sigmoid(1.702*x)", "mean(sqrt(1 + (pred - target)**2) - 1)"


def cases() -> list[tuple[str, str, Config]]:
    """Name, task and settings of every case."""
    base = Config(hidden=(48, 32), init="he", loss="softmax_cross_entropy", lr=1e-3)
    found = [
        (f"activation {name}", "multiclass", replace(base, activation=name))
        for name in (*ACTIVATIONS, FORMULA_ACTIVATION)
    ]
    found += [
        (f"loss {name}", task, replace(base, loss=name))
        for task, names in TASK_LOSSES.items()
        for name in names
        if name != "sum_squares"
    ]
    found.append(("loss formula", "regression", replace(base, loss=FORMULA_LOSS)))
    found.append(("loss sum_squares", "regression", replace(base, loss="sum_squares", lr=1e-4)))
    found += [
        (f"optimizer {name}", "multiclass", replace(base, optimizer=name)) for name in OPTIMIZERS
    ]
    found += [(f"norm {n}", "multiclass", replace(base, norm=n)) for n in ("layer", "batch")]
    found.append(("dropout", "multiclass", replace(base, dropout=0.3)))
    found.append(("clip_norm", "multiclass", replace(base, clip_norm=0.1)))
    found.append(("micro-batches", "multiclass", replace(base, dropout=0.3, micro_batch_size=7)))
    return found


def losses(config: Config, task: str, device: Device, dtype: str, steps: int) -> np.ndarray:
    """The loss of every step, float64 (steps,)."""
    rng = stream(1, Purpose.DATA)
    x = rng.standard_normal((ROWS, COLUMNS)).astype(dtype)
    y = _target(rng, task, dtype)
    network = model.build(config, COLUMNS, 1 if task == "binary" else OUTPUTS, task)
    optimizer = optim.optimizer(config.optimizer)
    order = device.asarray(np.arange(ROWS, dtype=np.int32))
    launches = engine.lower(
        network,
        Feed(device.asarray(x), device.asarray(y), order=order),
        engine.store(network, device, dtype, optimizer.slots),
        BATCH,
        "train",
        optimizer=optimizer,
        schedule=np.array([[config.lr, config.weight_decay, 1.0]]),
        clip_norm=config.clip_norm,
        micro_batch=loop.micro_batch(config),
    )
    found = np.empty(steps)
    for step in range(steps):
        if step % launches.steps == 0:
            launches.rewind()
        launches.run()
        found[step] = float(launches.totals[0])
    return found


def _target(rng: np.random.Generator, task: str, dtype: str) -> np.ndarray:
    if task == "multiclass":
        return rng.integers(0, OUTPUTS, ROWS).astype(np.int32)
    columns = 1 if task == "binary" else OUTPUTS
    values = rng.standard_normal((ROWS, columns))
    return (values if task == "regression" else values > 0).astype(dtype)


@cache
def on_cpu(config: Config, task: str, dtype: str, steps: int) -> np.ndarray:
    return losses(config, task, resolve("cpu").device, dtype, steps)


def compare(
    gpu: Device, precision: str, steps: int, part: slice = slice(None)
) -> list[dict[str, object]]:
    """One record a case, of all or of a part: the largest relative difference of the losses, and
    whether it holds."""
    wanted, records = PRECISIONS[precision], []
    gpu.precision = precision
    for name, task, config in cases()[part]:
        began = time.perf_counter()
        a = on_cpu(config, task, wanted.dtype, steps)
        b = losses(config, task, gpu, wanted.dtype, steps)
        worst = float(np.max(np.abs(a - b) / np.maximum(np.abs(a), 1e-3)))
        is_apart = name == BY_SIGNS and precision in ("tf32", "bf16")
        tolerance = wanted.tolerance * (MORE if is_apart else 1)
        holds = bool(np.isfinite(worst) and worst <= tolerance)
        seconds = time.perf_counter() - began
        records.append(
            {
                "case": name,
                "precision": precision,
                "worst": worst if np.isfinite(worst) else None,
                "tolerance": tolerance,
                "holds": holds,
                "seconds": seconds,
            }
        )
        print(f"{name:32} {precision}  {worst:.1e}  {'ok' if holds else 'DIFFERS'}", flush=True)
    return records


def compare_on(where: str, steps: int, job: tuple[str, int]) -> list[dict[str, object]]:
    """The same in a process of its own: of a precision every so manieth case from one on."""
    precision, first = job
    return compare(resolve(where).device, precision, steps, slice(first, None, PARTS))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    about = {"schema": "gpunet.agreement/2", "device": resolve(given.device).device.describe()}
    about["steps"] = given.steps
    fresh = get_context("spawn")  # a process that is forked from this one could not use the GPU
    with ProcessPoolExecutor(PROCESSES, fresh) as pool:
        each = partial(compare_on, given.device, given.steps)
        jobs = [(precision, first) for precision in PRECISIONS for first in range(PARTS)]
        records = [record for found in pool.map(each, jobs) for record in found]
    if given.json is not None:
        given.json.write_text(json.dumps({**about, "cases": records}, indent=2) + "\n")
    return 0 if all(record["holds"] for record in records) else 6


if __name__ == "__main__":
    sys.exit(main())
