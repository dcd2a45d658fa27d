"""Two models on the same rows: which is better, and whether by more than noise.

Refuses rows that either of them was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import bootstrap
from gpunet.bootstrap import Difference
from gpunet.data import Dataset, Source, read
from gpunet.device import resolve
from gpunet.errors import DataError, UsageError
from gpunet.heldout import held_out, is_one, seen_by
from gpunet.job import Job, location
from gpunet.predict import Model, load
from gpunet.rerun import is_run
from gpunet.run import identity
from gpunet.sizes import counted

SCHEMA = "gpunet.compare/1"
HIGHER_IS_BETTER = ("accuracy", "auc", "average_precision", "f1", "precision", "recall", "r2")
NEITHER_IS_BETTER = ("coverage",)
"""What should be as it was asked for: neither higher nor lower."""
SHARE = "twice that of resamples on the far side of no difference; reads like a p-value"


@dataclass(frozen=True)
class Comparison:
    """Metrics of both models by name, the differences b - a, and what they come to in words; of
    how many rows that count, what was resampled, and how many were left out for want of a target.
    """

    rows: int
    metrics: tuple[dict[str, float | None], dict[str, float | None]]
    differences: dict[str, Difference]
    verdict: str
    resampled: str = "rows"
    left_out: int = 0


def compare(
    run_a: Path | str,
    run_b: Path | str,
    data: Any = None,
    device: str = "cpu",
    *,
    place: str | None = None,
    drop_missing_target: bool = False,
) -> Comparison:
    """Judge both on `data`, or on the test part of both, by a paired bootstrap of the rows, or of
    the clusters that one of the models was trained on.

    place: where data that have been read lay. drop_missing_target: leave out rows without one.
    Raises UsageError for models of different targets, DataError for rows that one was trained on.
    """
    models = load(run_a), load(run_b)
    _check_targets(*(model.schema.target for model in models))
    source = _test_rows(run_a, run_b, device) if data is None else read(data)
    if data is not None:
        _check_unseen(data if place is None else place, source, (run_a, run_b))
    rows = None
    if drop_missing_target:
        answered = [model.schema.answered(source) for model in models]
        rows = np.intersect1d(answered[0], answered[1])
    used = resolve(device).device
    answers = [model.answers(source, used, rows) for model in models]
    a, b = (model.row_values(*of) for model, of in zip(models, answers, strict=True))
    cluster, resampled = _clusters(models, [part for part, _ in answers])
    a, b = (replace(each, cluster=cluster) for each in (a, b))
    found = bootstrap.differences(a, b, models[0].config.seed)
    judged = [model.judge(*of) for model, of in zip(models, answers, strict=True)]
    said = verdict(found, (str(run_a), str(run_b)))
    left_out = 0 if rows is None else source.rows - len(rows)
    return Comparison(a.rows, (judged[0], judged[1]), found, said, resampled, left_out)


def _clusters(models: Sequence[Model], parts: Sequence[Dataset]) -> tuple[np.ndarray | None, str]:
    """The clusters of the first model that has some, and what is resampled, in words."""
    said = [model.resampled(part) for model, part in zip(models, parts, strict=True)]
    for part, words in zip(parts, said, strict=True):
        if part.cluster is not None:
            return part.cluster, words
    return None, max(said, key=len)  # the one that says what is lacking


def to_json(found: Comparison) -> dict[str, Any]:
    """In plain values."""
    differences = {name: vars(each) for name, each in found.differences.items()}
    metrics = dict(zip("ab", found.metrics, strict=True))
    return {**vars(found), "metrics": metrics, "differences": differences}


def verdict(found: Mapping[str, Difference], names: tuple[str, str]) -> str:
    """One sentence on the differences that are more than noise."""
    better: dict[str, list[str]] = {}
    for metric, difference in found.items():
        if difference.is_noise or metric in NEITHER_IS_BETTER:
            continue
        is_b = (difference.value > 0) == (metric in HIGHER_IS_BETTER)
        ends = sorted(abs(end) for end in difference.interval)
        size = f"{metric} by {abs(difference.value):.4g} ({ends[0]:.4g} to {ends[1]:.4g})"
        better.setdefault(names[is_b], []).append(size)
    said = [f"{name} is better in {', '.join(sizes)}" for name, sizes in better.items()]
    return "; ".join(said) or "no difference beyond noise"


def _check_targets(a: Any, b: Any) -> None:
    words = {
        "names": "target",
        "task": "task",
        "labels": "classes",
        "quantiles": "quantiles",
        "weight": "weights",
    }
    for what, word in words.items():
        if getattr(a, what) != getattr(b, what):
            shown = [str(getattr(each, what))[:200] for each in (a, b)]
            raise UsageError(f"the runs do not share the {word}: {shown[0]} and {shown[1]}")


def _check_unseen(data: Any, source: Source, runs: tuple[Path | str, Path | str]) -> None:
    for run in runs:
        if how := seen_by(run, data, source):
            said = f"{run} has seen rows of {data}"
            raise DataError(
                said if how == "place" else f"these rows are those that {run} was trained on",
                "leave DATA out to use the rows that were held out, or give others",
            )


def _test_rows(run_a: Path | str, run_b: Path | str, device: str) -> Source:
    """The test part of both, which neither has seen."""
    a, source = held_out(run_a, device)
    b = a if _has_same_parts(run_a, run_b) else held_out(run_b, device)[0]
    if not is_one(a.identity["data"], b.identity["data"]):
        raise UsageError("the runs are of different data", "give DATA that neither has seen")
    own = [job.prepared.rows.get("test") for job in (a, b)]
    if own[0] is not None and own[1] is not None:
        for job, run, test in ((a, run_a, own[1]), (b, run_b, own[0])):
            _check_rows(job, run, test)
        return source.take(np.flatnonzero(np.isin(own[0], own[1])))
    places = [location(job.config.test, job.identity["folder"]) for job in (a, b)]
    is_alike = places[0] == places[1] or is_one(*places)  # none is of a set that brings its own
    if own[0] is not None or own[1] is not None or not is_alike:
        raise DataError("the runs have different test parts", "give DATA that neither has seen")
    return source


def _has_same_parts(run_a: Path | str, run_b: Path | str) -> bool:
    """Whether both were made of the same rows of one place, in the same parts: what one then finds
    there is the other's too."""
    if not is_run(run_b):
        return False
    a, b = identity(Path(run_a)), identity(Path(run_b))
    is_alike = a["fingerprints"]["data"] == b["fingerprints"]["data"]
    return is_alike and is_one(a["data"], b["data"])


def _check_rows(job: Job, run: Path | str, test: np.ndarray) -> None:
    """Refuse test rows, of the other run, that this one has learned from."""
    seen = [rows for part, rows in job.prepared.rows.items() if part != "test"]
    count = int(np.isin(test, np.concatenate(seen)).sum())
    if count:
        raise DataError(
            f"{run} has seen {count:,} of {counted(len(test), 'row')} that the other run held out",
            "train both with the same --seed and shares, or give DATA that neither has seen",
        )
