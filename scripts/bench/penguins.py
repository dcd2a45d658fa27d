"""From the start of a process to a saved model, on penguins: gpunet against two short scripts."""

import json
import random
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.crew import SCRIPTS, environment
from gpunet.data.builtin import SETS

CSV = SETS / "penguins.csv"
PEERS = {"torch": "penguins_torch.py", "sklearn": "penguins_sklearn.py"}
SHARE = 0.15
TOLERANCE = 0.01


def measure(names: list[str], threads: int, folder: Path, rounds: int) -> dict[str, Any]:
    """Wall seconds and accuracy of each, interleaved; the first run of each is not counted."""
    folder.mkdir()
    settings = _settings(folder, environment(threads, folder))
    commands = {"gpunet": _gpunet("run")} | {
        name: _script(PEERS[name], settings, folder) for name in PEERS if name in names
    }
    found: dict[str, dict[str, Any]] = {name: {"samples": []} for name in commands}
    rng = random.Random(0)
    for turn in range(rounds + 1):
        for name in rng.sample(list(commands), len(commands)):
            seconds, accuracy = _timed(commands[name], folder / f"{name}-{turn}", threads)
            found[name]["accuracy"] = accuracy
            if turn:
                found[name]["samples"].append(seconds)
    return {"settings": settings, "contestants": _compared(found)}


def _compared(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    ours = median(found["gpunet"]["samples"]), found["gpunet"]["accuracy"]
    for each in found.values():
        each["median"] = median(each["samples"])
        each["min"], each["max"] = min(each["samples"]), max(each["samples"])
        each["over_gpunet"] = each["median"] / ours[0]
        each["agrees"] = abs(each["accuracy"] - ours[1]) <= TOLERANCE
    return found


def _gpunet(out: str) -> list[str]:
    """An ordinary network, such as the scripts have."""
    command = [sys.executable, "-m", "gpunet", "train", "penguins", "--preset", "plain", "-q"]
    return [*command, "--device", "cpu", "-o", out]


def _script(name: str, settings: dict[str, Any], folder: Path) -> list[str]:
    given = {"csv": CSV, "parts": folder / "parts.npz", "out": "."} | settings
    flags = [text for key, value in given.items() for text in (f"--{key}", str(value))]
    return [sys.executable, str(SCRIPTS / "peers" / name), *flags]


def _settings(folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """What gpunet decides by itself: its network, batch, rate and number of epochs; the rows of
    each part are written for the scripts."""
    subprocess.run(_gpunet("plan"), cwd=folder, env=env, check=True, capture_output=True)
    config = tomllib.loads((folder / "plan" / "config.toml").read_text())
    summary = json.loads((folder / "plan" / "summary.json").read_text())
    _write_parts(folder / "parts.npz")
    return {
        "hidden": ",".join(map(str, config["hidden"])),
        "epochs": summary["epochs"],
        "batch": config["batch_size"],
        "lr": config["lr"],
    }


def _write_parts(path: Path) -> None:
    from gpunet.data.split import split

    species = np.genfromtxt(CSV, delimiter=",", skip_header=1, usecols=0, dtype=np.str_)
    codes = np.unique(species, return_inverse=True)[1]
    parts = split(np.arange(len(codes)), SHARE, SHARE, seed=0, strata=codes)
    np.savez(path, train=parts.train, validation=parts.validation, test=parts.test)


def _timed(command: list[str], folder: Path, threads: int) -> tuple[float, float]:
    """Wall seconds of a command that trains and saves in `folder`, and its test accuracy."""
    folder.mkdir()
    env = environment(threads, folder)
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    summary = folder / "run" / "summary.json"
    if summary.exists():
        return seconds, json.loads(summary.read_text())["metrics"]["test"]["accuracy"]
    return seconds, json.loads(done.stdout)["accuracy"]
