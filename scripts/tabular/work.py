"""A table in a folder (train.parquet, test.parquet, meta.json), and gpunet's fits on it."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import gpunet
from gpunet import presets
from gpunet.config import Config
from gpunet.errors import GpunetError

METRICS = ("rmse", "accuracy", "log_loss")
SIZES = ("lr", "best_by")
"""What a preset sets that is no piece which could be left out."""
TOGETHER: Mapping[str, tuple[str, ...]] = {"parametrisation": ("lr",)}
"""Settings that have no meaning without a piece."""


@dataclass(frozen=True)
class Work:
    """One table: the rows to learn from, all rows to judge on, and what `meta.json` says."""

    name: str
    target: str
    is_regression: bool
    categorical: tuple[str, ...]
    train: pa.Table
    test: pa.Table

    @property
    def metric(self) -> str:
        """What contestants are ranked by."""
        return "rmse" if self.is_regression else "accuracy"


def load(folder: Path, rows: int) -> Work:
    """A table of a folder: the first `rows` of its training part, and its whole test part."""
    meta = json.loads((folder / "meta.json").read_text())
    train, test = (pq.read_table(folder / f"{part}.parquet") for part in ("train", "test"))
    return Work(
        meta["name"],
        meta["target"],
        meta["task"] == "regression",
        tuple(meta["categorical"]),
        train.slice(0, rows),
        test,
    )


def fit(work: Work, seeds: Iterable[int], settings: Mapping[str, Any]) -> dict[str, Any]:
    """gpunet's runs with some settings: metrics of the test part and seconds of each, and means."""
    runs: list[dict[str, float | None]] = []
    for seed in seeds:
        began = time.perf_counter()
        given = {"test": 0.0, "baselines": False, "seed": seed, **settings}
        try:
            model = gpunet.train(work.train, work.target, **given)
        except GpunetError as fault:
            return {"failed": f"seed {seed}: {fault}", "runs": runs}
        seconds = time.perf_counter() - began
        found = model.evaluate(work.test)
        runs.append({name: found[name] for name in METRICS if name in found} | {"seconds": seconds})
    return averaged(runs)


def averaged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs, and the mean of each of their figures."""
    means = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    return {**means, "runs": runs}


def pieces(is_regression: bool, preset: str) -> dict[str, dict[str, Any]]:
    """Each piece of a preset by name, and the settings that turn it off alone: the defaults."""
    own = presets.NUMBERS if is_regression else presets.CLASSES
    plain = {
        each.name: each.default if each.default is not MISSING else None for each in fields(Config)
    }
    size = {"folds": presets.SIZES[preset]["folds"]}
    recipe = {**presets.DATA, **presets.COMMON, **own, **size}
    return {
        name: {each: plain[each] for each in (name, *TOGETHER.get(name, ()))}
        for name, value in recipe.items()
        if name not in SIZES and value != plain[name]
    }
