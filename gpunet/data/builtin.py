"""The sets that come with gpunet: two generated, two real. Refuses to download anything."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpunet.data.npy import read_npz
from gpunet.data.source import Source
from gpunet.random import Purpose, stream

SETS = Path(__file__).parent / "sets"
ROOM = 1 << 26  # bytes that reading one takes at most

LECTURE: dict[str, object] = {
    "hidden": (100,),
    "activation": "sigmoid",
    "loss": "sum_squares",
    "optimizer": "sgd",
    "lr": 1e-4,
    "steps": 2000,
    "batch_size": 64,
    "bias": False,
    "init": "normal",
    "schedule": "constant",
    "weight_decay": 0.0,
    "validation": 0.0,
    "test": 0.0,
    "standardise": False,
    "shuffle": False,
}


@dataclass(frozen=True)
class Set:
    """What a built-in set is: one line, its size, the task it poses, and where it is from."""

    description: str
    rows: int
    columns: int
    task: str
    source: str


BUILTIN = {
    "lecture": Set(
        "CS231n lecture 4: 1000 random numbers in, 10 out",
        64,
        1000,
        "regression",
        "generated (standard normals)",
    ),
    "spiral": Set(
        "CS231n's three spiral arms in the plane",
        300,
        2,
        "multiclass",
        "generated (after the CS231n notes, Stanford)",
    ),
    "penguins": Set(
        "which of three species a penguin is, from its measures",
        344,
        7,
        "multiclass",
        "Palmer penguins (Horst, Hill, Gorman 2020), CC0",
    ),
    "digits": Set(
        "handwritten digits, 8 x 8 grey values from 0 to 16",
        1797,
        64,
        "multiclass",
        "UCI optical recognition of handwritten digits (Alpaydin, Kaynak 1998), CC BY 4.0",
    ),
}


def recipe(name: str) -> dict[str, object]:
    """The settings that a built-in set is trained with, {} for most."""
    return dict(LECTURE) if name == "lecture" else {}


def builtin(name: str) -> Source:
    """One of `BUILTIN` as a Source with its target and, for `lecture`, its recipe."""
    return {"lecture": _lecture, "spiral": _spiral, "penguins": _penguins, "digits": _digits}[
        name
    ]()


def _lecture() -> Source:
    rng = stream(0, Purpose.DATA)
    x, y = rng.standard_normal((64, 1000)), rng.standard_normal((64, 10))
    return Source("lecture", x=x, y=y, target=("y",), settings=recipe("lecture"))


def _spiral() -> Source:
    import pyarrow as pa

    arms, points = 3, 100
    radius = np.tile(np.linspace(0.0, 1.0, points), arms)
    turn = np.concatenate([np.linspace(4 * arm, 4 * (arm + 1), points) for arm in range(arms)])
    turn += 0.2 * stream(0, Purpose.DATA).standard_normal(arms * points)
    columns = {"x1": radius * np.sin(turn), "x2": radius * np.cos(turn)}
    return Source(
        "spiral",
        pa.table(columns | {"arm": np.repeat(np.arange(arms), points)}),
        target=("arm",),
    )


def _penguins() -> Source:
    """Without pyarrow's CSV reader, whose threads may end a process that leaves soon after."""
    import pyarrow as pa

    with (SETS / "penguins.csv").open(newline="") as file:
        names, *rows = csv.reader(file)
    table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return Source("penguins", table, text=True, first=2, target=("species",))


def _digits() -> Source:
    return replace(read_npz((SETS / "digits.npz").read_bytes(), "digits", ROOM), target=("digit",))
