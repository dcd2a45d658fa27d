"""A job several times over: on other seeds, or with each fold of the rows as its test part.

Each is a whole job of its own, fitted on its own rows alone; says how much their metrics differ.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gpunet import job
from gpunet.config import flag
from gpunet.data import here, is_passing
from gpunet.errors import UsageError, warn
from gpunet.predict import Model
from gpunet.run import Run, files

HELD_OUT = ("test", "validation")
CLASH = ("test", "test_fold", "split_column", "time")
"""What says otherwise which rows are the test part; rows in order of time have no folds."""


@dataclass(frozen=True)
class Repeat:
    """One of several jobs: its name in a table, its settings, its run directory (None: a free
    one)."""

    label: str
    flags: dict[str, Any]
    out: Path | None


@dataclass(repr=False)
class Repeats:
    """Several jobs, and what they came to. kind: seeds or cv. models: by `repeat` alone."""

    kind: str
    jobs: list[Repeat]
    runs: list[dict[str, Any]] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Repeats: {len(self.runs)} of {len(self.jobs)} runs by {self.kind}, see mean>"

    def add(self, each: Repeat, summary: Mapping[str, Any]) -> None:
        """Take in the summary of a run."""
        self.about = {name: summary[name] for name in ("data", "task", "target")}
        facts = ("run", "rows", "epochs", "best_epoch", "ended", "seconds", "metrics", "warnings")
        self.runs.append({"label": each.label, **{name: summary.get(name) for name in facts}})

    def over_runs(self, summarise: Callable[[list[float]], float]) -> dict[str, dict[str, Any]]:
        """Each metric of each part over the runs; None where a run lacks it."""
        first = self.runs[0]["metrics"]
        found: dict[str, dict[str, Any]] = {}
        for part, names in first.items():
            found[part] = {}
            for name in names:
                values = [run["metrics"][part].get(name) for run in self.runs]
                found[part][name] = None if None in values else summarise(values)
        return found

    @property
    def mean(self) -> dict[str, dict[str, Any]]:
        """The mean of each metric, by part."""
        return self.over_runs(fmean)

    @property
    def deviation(self) -> dict[str, dict[str, Any]]:
        """The standard deviation of each metric from run to run (n - 1), by part."""
        return self.over_runs(stdev)

    def to_dict(self) -> dict[str, Any]:
        """Everything, in plain values."""
        figures = {"mean": self.mean, "deviation": self.deviation}
        return {"schema": f"gpunet.{self.kind}/1", **self.about, "runs": self.runs, **figures}

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """A row a run, then mean and deviation; a column a metric of each part held out."""
        mean, deviation = self.mean, self.deviation
        parts = [part for part in HELD_OUT if mean.get(part)] or ["train"]
        names = [(part, name) for part in parts for name in mean[part]]
        rows = [(run["label"], run["metrics"]) for run in self.runs]
        rows += [("mean", mean), ("deviation", deviation)]
        head = ["", *(f"{name}, {part}" for part, name in names)]
        return head, [[label, *(of[part].get(name) for part, name in names)] for label, of in rows]

    @property
    def done(self) -> str:
        """How many runs are done, and where they are."""
        where = ", ".join(str(run["run"]) for run in self.runs)
        of = f"{len(self.runs):,} of {len(self.jobs):,}"
        return f"{of} runs are done{f' ({where})' if where else ''}"


def _kind(seeds: int | None, cv: int | None) -> tuple[str, int]:
    """What is repeated, seeds or cv, and how often. UsageError where both are asked for, or too
    few."""
    if (seeds is None) == (cv is None):
        raise UsageError("wanted one of --seeds and --cv")
    kind, count = ("cv", cv) if seeds is None else ("seeds", seeds)
    if not (isinstance(count, Integral) and count >= 2):
        raise UsageError(f"{flag(kind)} {count}: must be a whole number, 2 or more")
    return kind, int(count)


def asked(
    source: Any,
    flags: Mapping[str, Any],
    file: Path | str | None,
    seeds: int | None,
    cv: int | None,
    out: Path | str | None,
) -> Repeats:
    """The jobs that `seeds` or `cv` stand for, their settings checked.

    With `out` each has its own: NAME-seed0, … or NAME-fold1, …
    """
    kind, count = _kind(seeds, cv)
    if is_passing(source):
        raise UsageError("standard input and pipes can be read once", "give a file")
    clash = [name for name in CLASH if kind == "cv" and name in flags]
    if clash:
        raise UsageError(f"--cv {count} and {flag(clash[0])} conflict", "leave one of them out")
    first = job.settle(source, flags, file).config.seed
    varied: dict[str, dict[str, Any]]
    if kind == "seeds":
        varied = {f"seed{seed}": {"seed": seed} for seed in range(first, first + count)}
    else:
        varied = {f"fold{i}": {"test_fold": f"{i}/{count}"} for i in range(1, count + 1)}
    jobs = [
        Repeat(name, {**flags, **own}, None if out is None else Path(f"{out}-{name}"))
        for name, own in varied.items()
    ]
    for each in jobs:
        job.settle(source, each.flags, file)
    return Repeats(kind, jobs)


def repeat(
    source: Any = "lecture",
    target: str | int | Sequence[str | int] = (),
    *,
    seeds: int | None = None,
    cv: int | None = None,
    out: Path | str | None = None,
    config: Path | str | None = None,
    on_report: job.OnReport | None = None,
    **settings: Any,
) -> Repeats:
    """Train as `gpunet.train` does on several seeds (the split's too), or on all but one of `cv`
    folds of the rows in turn, and return the models, their metrics, means and deviations.

    out: where to save the runs, with `-seed0` or `-fold1` behind it. Raises the errors of train.
    """
    flags = job.with_target(target, settings)
    found = asked(source, flags, config, seeds, cv, out)
    if out is not None:
        for each in found.jobs:
            Run.check(each.out)
    told: set[str] = set()
    begun = Path(here())  # `on_report` may go elsewhere
    for each in found.jobs:
        folder = Path() if files.is_same(Path(), begun) else begun
        planned = job.plan(source, each.flags, config and folder / config, folder)
        warn(note for note in planned.prepared.notes if note not in told)
        told.update(planned.prepared.notes)
        own = each.out and folder / each.out
        with nullcontext() if own is None else Run.create(own, planned.name) as run:
            if run is not None:
                planned.begin(run)
            summary = planned.complete(on_report)
            found.add(each, summary)
        warn(f"{each.label}: {text}" for text in summary["warnings"] if text not in told)
        found.models.append(planned.model)
    return found
