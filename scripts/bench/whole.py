"""From the start of a process to a saved model, 20 epochs of images: gpunet on a GPU."""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.crew import environment
from bench.work import Given

EPOCHS = 20


def measure(given: Given, threads: int, where: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Wall seconds of each process; seconds of the warm loop in each, its first epoch left out and
    the others taken for it. The first process is not counted: it fills caches of compiled code."""
    folder.mkdir()
    data = folder / "images.npz"
    np.savez(data, x=given.x, y=given.y)
    found = [_run(given, data, threads, where, folder / f"run-{i}") for i in range(rounds + 1)]
    wall, loop = ([each[i] for each in found[1:]] for i in range(2))
    accuracy = found[-1][2]
    return {
        "epochs": EPOCHS,
        "rows": len(given.x),
        "wall": {"samples": wall, "median": median(wall)},
        "loop": {"samples": loop, "median": median(loop)},
        "accuracy": accuracy,
    }


def _run(
    given: Given, data: Path, threads: int, where: str, out: Path
) -> tuple[float, float, float]:
    work = given.work
    settings = {
        "device": where,
        "hidden": ",".join(map(str, work.hidden)),
        "batch-size": work.batch,
        "epochs": EPOCHS,
        "optimizer": "adamw",
        "lr": work.lr,
        "validation": 0,
        "test": 0,
    }
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "gpunet", "train", str(data), "--json", "-q", *flags]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, "-o", str(out)],
        env=environment(threads, out.parent),
        check=True,
        capture_output=True,
    )
    seconds = time.perf_counter() - began
    lines = (out / "timing.jsonl").read_text().splitlines()
    spent = [json.loads(line)["seconds"] for line in lines]
    warm = (spent[-1] - spent[0]) * len(spent) / max(1, len(spent) - 1)
    return seconds, warm, json.loads(done.stdout)["metrics"]["train"]["accuracy"]
