"""The main job: from data and settings to a trained, judged and saved model.

Decides what `auto` means. Shows nothing: whoever runs it follows the reports.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

from gpunet import data, loop, model, optim, run
from gpunet.config import Config, Settings, gather
from gpunet.data import Prepared, Source
from gpunet.device import Choice, Device, resolve
from gpunet.engine import LaunchList
from gpunet.errors import Diverged, UsageError
from gpunet.kernels import native
from gpunet.loop import Control, Report
from gpunet.predict import MODEL_FILE, Model, outputs

SCHEMA = "gpunet.train/1"
UPDATES, MIN_EPOCHS, MAX_EPOCHS = 6000, 20, 200
BATCH_RULE = ((2_800, 32), (4_500, 64), (6_400, 128), (32_000, 256), (108_000, 512))


@dataclass
class Job:
    """One training run, from prepared data to a summary."""

    name: str
    settings: Settings
    choice: Choice
    prepared: Prepared
    model: Model
    dtype: str
    control: Control = field(default_factory=Control)
    out: Path | None = None
    last: Report | None = None
    best: Report | None = None
    speeds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outputs(self) -> int:
        """k, the width of the network's prediction."""
        return outputs(self.prepared.schema)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weight.size for weight in self.model.network.weights.values())

    @property
    def steps(self) -> int:
        """Updates in all, if nothing ends the run early."""
        return loop.steps_in_all(self.model.config, self.prepared.train.rows)

    @property
    def launches(self) -> LaunchList:
        """The training step as a launch list."""
        device, config = self.choice.device, self.model.config
        part = loop.training_feed(self.prepared, config, device, self.dtype)
        return loop.lower(self.model.network, part, config, device, self.dtype)[1]

    def reports(self) -> Iterator[Report]:
        """Train, yielding the reports; with a run directory they are written there as well."""
        if self.out is not None:
            run.write(self.out / "config.toml", self.settings.to_toml(self.name))
        began = time.perf_counter()
        network, device = self.model.network, self.choice.device
        try:
            for report in loop.train(
                network, self.prepared, self.model.config, device, self.dtype, self.control
            ):
                self._note(report)
                yield report
        except Diverged as fault:
            self.control.ended = "diverged"
            raise self._keep_what_is_good(fault) from None
        finally:
            self.seconds = time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        """Save the model, judge it on every part, and save and return the summary."""
        if self.out is not None:
            self.model.save(self.out / MODEL_FILE)
        summary = self.summary()
        if self.out is not None:
            run.write_json(self.out / "summary.json", summary)
        return summary

    def summary(self) -> dict[str, Any]:
        """The run in plain values: what `--json` prints and `summary.json` holds."""
        parts = {
            "train": self.prepared.train,
            "validation": self.prepared.validation,
            "test": self.prepared.test,
        }
        target, last, best = self.prepared.schema.target, self.last, self.best
        return {
            "schema": SCHEMA,
            "run": None if self.out is None else str(self.out),
            "data": self.name,
            "task": target.task,
            "target": list(target.names),
            "device": self.choice.device.name,
            "device_reason": self.choice.reason,
            "runs_on": self.control.runs_on,
            "precision": self.model.config.precision,
            "parameters": self.parameters,
            "rows": {name: 0 if part is None else part.rows for name, part in parts.items()},
            "steps": 0 if last is None else last.step,
            "epochs": 0 if last is None else last.epoch,
            "best_epoch": None if best is None else best.epoch,
            "ended": self.control.ended,
            "seconds": self.seconds,
            "rows_per_second": harmonic_mean(self.speeds) if self.speeds else 0.0,
            "loss": {
                "first": self.control.first_loss,
                "last": None if last is None else last.loss,
            },
            "metrics": {
                name: {} if part is None else self._judge(part) for name, part in parts.items()
            },
        }

    def _judge(self, part: data.Dataset) -> dict[str, float | None]:
        raw = self.model.run(part, self.choice.device)
        assert part.y is not None
        return loop.judge(self.prepared.schema, part.y, raw)

    def _note(self, report: Report) -> None:
        self.last = report
        self.speeds.append(report.rows_per_second)
        if report.best:
            self.best = report
        if self.out is not None:
            run.append(self.out / "metrics.jsonl", {**vars(report)})

    def _keep_what_is_good(self, fault: Diverged) -> Diverged:
        if self.best is None or self.out is None:
            return fault
        self.finish()
        kept = f"the model of epoch {self.best.epoch} is kept in {self.out}"
        return Diverged(f"{fault.message}; {kept}", fault.hint)


def plan(source: Any, flags: Mapping[str, Any], file: Path | str | None = None) -> Job:
    """A job that is ready to train: data prepared, every `auto` decided, the network built.

    `flags` are settings by name, `file` a TOML file of them. The device is looked for before any
    data is read.
    """
    settings = gather(flags, file, _recipe(source))
    choice = resolve(settings.config.device)
    _check_device(settings, choice.device)
    source, config = _read(source, settings), settings.config
    if source.test is not None and settings.given("test") and config.test:
        raise UsageError(f"{source.name} has a test part of its own", "leave out --test")
    prepared = data.prepare(
        source,
        target=config.target or source.target,
        features=config.features,
        drop=config.drop,
        task=config.task,
        validation=_part(config.validation, settings),
        test=_part(config.test, settings),
        split_column=config.split_column,
        drop_missing_target=config.drop_missing_target,
        standardise=config.standardise,
        seed=config.seed,
    )
    settings = _decide(settings, prepared, choice)
    config, schema = settings.config, prepared.schema
    network = model.build(config, schema.width, outputs(schema), schema.target.task)
    dtype = "float64" if config.precision == "fp64" else "float32"
    choice.device.set_tf32(config.precision == "tf32")
    return Job(source.name, settings, choice, prepared, Model(network, schema, config), dtype)


def train(
    source: Any = "lecture",
    target: str | tuple[str, ...] = (),
    *,
    out: Path | str | None = None,
    config: Path | str | None = None,
    on_report: Callable[[Report], None] | None = None,
    **settings: Any,
) -> Model:
    """Train a network on a table, arrays (x, y), a file or a built-in set, and return the model.

    source: a pyarrow, pandas or polars table, a dict of columns, a tuple (x (n, …), y (n,)), a
    path, or a name of `gpunet data list`. target: the column to predict. out: a run directory to
    save to. Other settings are those of `gpunet train`, with underscores.
    Raises the errors of gpunet.errors.
    """
    flags = {**settings, **({"target": target} if target else {})}
    job = plan(source, flags, config)
    if out is not None:
        job.out = run.create(out, job.name)
    for report in job.reports():
        if on_report is not None:
            on_report(report)
    job.finish()
    return job.model


def _recipe(source: Any) -> Mapping[str, Any]:
    """What a built-in set is trained with."""
    if isinstance(source, Source):
        return source.settings
    return data.recipe(source) if isinstance(source, str) else {}


def _read(source: Any, settings: Settings) -> Source:
    return data.read(source, delimiter=settings.config.delimiter, header=settings.config.header)


def _part(value: float | str, settings: Settings) -> float | Source:
    return _read(value, settings) if isinstance(value, str) else value


def _decide(settings: Settings, prepared: Prepared, choice: Choice) -> Settings:
    """Every `auto` resolved, each with its reason."""
    schema, rows = prepared.schema, prepared.train.rows
    task, device = schema.target.task, choice.device
    decisions: list[tuple[str, Callable[[Config], tuple[Any, str]]]] = [
        ("task", lambda config: (task, schema.target.reason)),
        ("hidden", lambda config: _hidden(schema.width)),
        ("init", lambda config: (model.default_init(config.activation), config.activation)),
        ("loss", lambda config: (model.TASK_LOSSES[task][0], f"a {task} target")),
        ("lr", lambda config: (optim.OPTIMIZERS[config.optimizer].lr, config.optimizer)),
        ("batch_size", lambda config: _batch_size(rows)),
        ("epochs", lambda config: _epochs(config, rows)),
        ("patience", lambda config: _patience(config, prepared)),
        ("threads", lambda config: (device.threads, "the cores that are there")),
        ("device", lambda config: (device.name, choice.reason)),
        (
            "precision",
            lambda config: ("fp32", "on the CPU") if device.kind == "cpu" else ("tf32", "on CUDA"),
        ),
    ]
    for name, decide in decisions:
        counted_in_steps = name == "epochs" and settings.config.steps is not None
        if getattr(settings.config, name) == "auto" and not counted_in_steps:
            settings = settings.resolve(name, *decide(settings.config))
    _check_parts(settings.config, prepared)
    _check_warmup(settings.config, rows)
    return settings


def _hidden(width: int) -> tuple[tuple[int, ...], str]:
    return ((256, 128) if width > 256 else (128, 64)), f"{width:,} inputs"


def _batch_size(rows: int) -> tuple[int, str]:
    size = next((size for limit, size in BATCH_RULE if rows < limit), 1024)
    return size, f"{rows:,} training rows"


def _epochs(config: Config, rows: int) -> tuple[int, str]:
    per_epoch = ceil(rows / int(config.batch_size))
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, ceil(UPDATES / per_epoch)))
    return epochs, f"{per_epoch:,} steps each"


def _patience(config: Config, prepared: Prepared) -> tuple[int, str]:
    if prepared.validation is None:
        return 0, "no validation part"
    epochs = int(config.epochs) if config.steps is None else loop.REPORTS
    return max(10, epochs // 4), f"a quarter of {epochs:,} epochs, 10 at least"


def _check_parts(config: Config, prepared: Prepared) -> None:
    if prepared.validation is None and (config.patience or config.schedule == "plateau"):
        name = "--patience" if config.patience else "--schedule plateau"
        raise UsageError(f"{name} needs a validation part", "set --validation")


def _check_warmup(config: Config, rows: int) -> None:
    total = config.steps or int(config.epochs) * ceil(rows / int(config.batch_size))
    if config.warmup >= total:
        hint = "shorten it, or give a share of all steps"
        raise UsageError(f"--warmup {config.warmup:,} of {total:,} steps never ends", hint)


def _check_device(settings: Settings, device: Device) -> None:
    """Set the device up as asked, or say what it cannot do."""
    config, precision = settings.config, settings.config.precision
    if device.kind == "cpu":
        device.kernels = config.kernels
        device.threads = device.threads if config.threads == "auto" else int(config.threads)
    for name in ("kernels", "threads"):
        if device.kind != "cpu" and settings.given(name):
            raise UsageError(f"--{name} has no meaning on {device.name}")
    if config.kernels == "native":
        native.load()
    if device.kind == "cpu" and precision in ("tf32", "bf16"):
        raise UsageError(f"--precision {precision} is for CUDA", "use fp32 or fp64 on the CPU")
    if precision == "bf16":
        raise UsageError("--precision bf16 is not offered yet", "use tf32")
