"""The main job: from data and settings to a trained, judged and saved model.

Shows nothing: whoever runs it follows the reports.
"""

import json
import os
import secrets
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import ceil, inf
from pathlib import Path
from statistics import harmonic_mean
from types import FrameType, MappingProxyType
from typing import Any

import numpy as np

from gpunet import about, auto, data, ensemble, evaluation, loop, memory, presets
from gpunet.config import Config, Settings, flag, fold, gather
from gpunet.data import Prepared, Source
from gpunet.data.columns import MOST_BINS
from gpunet.device import Choice
from gpunet.device.cpu import Cpu
from gpunet.errors import Diverged, GpunetError, UsageError, warn
from gpunet.launches import LaunchList
from gpunet.loop import Control, Member, Report, Snapshot
from gpunet.predict import MODEL_FILE, Model
from gpunet.run import (
    COLUMNS,
    IDENTITY,
    METRICS,
    SETTINGS,
    SPLIT,
    SUMMARY,
    Run,
    files,
    forms,
    pack,
)
from gpunet.signals import handling
from gpunet.view import finite

SCHEMA = "gpunet.train/1"
TIMING, FAULT = "timing.jsonl", "fault"
STDIN = "stdin"
"""What data are called that were read there."""
IN_MEMORY = "(in memory)"
"""What a setting says that was an object: a part of one's own."""
OnReport = Callable[[Report], object]
"""What is called with each report; True, and nothing else, ends training."""
PASSING = ("steps", "epochs", "rows_per_second", "seconds")


@dataclass
class Job:
    """One training run, from prepared data to a summary.

    location: where its data are: a set's name or an absolute path; None for objects in memory.
    folder: where the paths of its settings are seen from.
    rows_bytes: what the rows of a part may take on the device; None for a CPU.
    identity: what `run.json` holds, {} outside a run directory. start: where a resumed run goes on.
    """

    name: str
    location: str | None
    settings: Settings
    choice: Choice
    prepared: Prepared
    members: list[Member]
    model: Model
    rows_bytes: float | None = None
    folder: Path | str = "."
    control: Control = field(default_factory=Control)
    run: Run | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    start: Snapshot | None = None
    last: Report | None = None
    best: Report | None = None
    lines: list[str] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    written: bytes = field(default=b"", init=False, repr=False)

    @property
    def config(self) -> Config:
        """The settings, with no `auto` left."""
        return self.settings.config

    @property
    def held(self) -> Run:
        """The run directory of a job that has one."""
        assert self.run is not None
        return self.run

    @property
    def out(self) -> Path | None:
        """Where the run directory is."""
        return None if self.run is None else self.run.path

    @property
    def used_by(self) -> str:
        """What trains again with the run's `config.toml`."""
        own = [n for n in ("validation", "test") if getattr(self.config, n) == IN_MEMORY]
        if own or (self.location is None and self.name != STDIN):
            given, what = "".join(f", {name}=…" for name in own), "parts" if own else "data"
            return f"gpunet.train(data, config=THIS_FILE{given}): the {what} were in memory"
        data = "-" if self.location is None else shlex.quote(self.location)
        return f"gpunet train {data} --config THIS_FILE"

    @property
    def outputs(self) -> int:
        """k, the width of the network's prediction."""
        return self.prepared.schema.target.outputs

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weight.size for weight in self.model.network.weights.values())

    @property
    def rows(self) -> dict[str, int]:
        """How many each part has."""
        parts = self.prepared.parts.items()
        return {name: 0 if part is None else part.rows for name, part in parts}

    @property
    def legs(self) -> loop.Legs:
        """What was added to the run."""
        return [(first, steps) for first, steps in self.identity.get("legs", ())]

    @property
    def steps(self) -> int:
        """Updates in all, if nothing ends the run early."""
        return loop.steps_in_all(self.config, self.training_rows, self.legs)

    @property
    def epochs(self) -> int:
        """Passes over the training rows in all, those that were added included."""
        return ceil(self.steps / loop.steps_an_epoch(self.config, self.training_rows))

    @property
    def training_rows(self) -> int:
        """Rows that a network learns from: of folds, those that its fold leaves."""
        return self.members[0].data.train.rows

    @property
    def sends_rows(self) -> bool:
        """Whether rows that are in memory are sent to the device in windows."""
        return self.rows_bytes is not None and self.rows_bytes < inf

    @property
    def is_over(self) -> bool:
        """Whether a resumed run had come to its end, and nothing was added."""
        if self.start is None or self.start.state["ended"] not in loop.FINISHED:
            return False
        return self.start.step not in {first for first, _ in self.legs}

    @property
    def launches(self) -> LaunchList:
        """The training step of a network as a launch list."""
        device, first = self.choice.device, self.members[0]
        config, schema, dtype = first.config, self.prepared.schema, first.config.dtype
        with device.leaving(self.rows_bytes):
            rows = loop.training_rows(first.data, config, device, dtype)
        rates = loop.rates(config, rows.rows, self.legs)
        return loop.lower(first.network, rows, schema, config, device, dtype, rates)[1]

    def fingerprints(self) -> dict[str, str]:
        """What must not change if the run is to go on: SHA-256 of its data and of its settings."""
        settled = json.dumps(self.settings.lasting(), sort_keys=True)
        config = sha256(settled.encode()).hexdigest()
        return {"data": self.prepared.fingerprint(), "config": config}

    def begin(self, run: Run) -> None:
        """Write down in a new run directory what the run is."""
        self.run = run
        self.identity = {
            "schema": forms.RUN,
            "id": secrets.token_hex(8),
            "name": self.name,
            "data": self.location,
            "folder": _absolute(self.folder),
            "task_reason": self.prepared.schema.target.reason,
            "fingerprints": self.fingerprints(),
            "environment": about.environment(self.choice.device),
            "legs": [],
        }
        run.write(SETTINGS, self.settings.to_toml(self.used_by))
        run.write_json(COLUMNS, self.looks())
        run.write(SPLIT, pack(self.prepared.split.rows, {"split": self.prepared.how}))
        self.note_identity()

    def looks(self) -> dict[str, Any]:
        """What the columns were taken for, and why, in plain values."""
        target = self.prepared.schema.target
        return {
            "schema": "gpunet.schema/1",
            "data": self.name,
            "target": {"names": target.names, "task": target.task, "reason": target.reason},
            "rows": self.prepared.train.rows,
            "columns": [vars(each) for each in self.prepared.seen],
        }

    def note_identity(self) -> None:
        """Write `run.json`."""
        self.held.write_json(IDENTITY, self.identity)

    def reports(self) -> Iterator[Report]:
        """Train, yielding the reports; with a run directory they are written there as well."""
        config, control = self.config, self.control
        if self.run is not None:
            control.keep, control.every = self._keep, config.between_checkpoints
            self._status("running")
        before = self.seconds
        try:
            for report in loop.train(
                self.members,
                self.choice.device,
                config.dtype,
                control,
                self.start,
                self.legs,
                self.rows_bytes,
            ):
                self.seconds = before + report.seconds
                self._note(report)
                yield report
        except Diverged as fault:
            control.ended = "diverged"
            raise self._keep_what_is_good(fault) from None
        except BaseException as fault:
            self._note_end(fault)
            raise

    def follow(self, on_report: OnReport | None = None) -> Model:
        """Train to the end, handing each report on. What the summary warns of is issued to whoever
        called what calls this."""
        known = self.prepared.notes
        warn(known, depth=2)
        warn(self.complete(on_report)["warnings"][len(known) :], depth=2)
        return self.model

    def complete(self, on_report: OnReport | None = None) -> dict[str, Any]:
        """Train to the end, handing each report on, and return the summary. Where `on_report`
        returns True the run ends there, as by patience.

        Ctrl-C and what `on_report` raises stop the run after the steps in hand, where it may be
        taken up again, and are raised then; a second Ctrl-C is raised at once.
        """
        faults: list[BaseException] = []
        with _deferred_interrupts(self.control, faults):
            for report in self.reports():
                try:
                    said = None if on_report is None else on_report(report)
                    self.control.enough = isinstance(said, (bool, np.bool_)) and bool(said)
                except BaseException as fault:
                    faults.append(fault)
                    self.control.stop = True
        summary = self.finish()
        if faults:
            raise faults[0]
        return summary

    def finish(self) -> dict[str, Any]:
        """Save the model, judge it on every part, and save and return the summary.

        A run that was stopped is not judged: it may go on. The summary warns of the data and of the
        model.
        """
        try:
            return self._finished()
        except BaseException as fault:
            self._note_end(fault)
            raise

    def _finished(self) -> dict[str, Any]:
        judged = evaluation.unjudged(self.model, self.prepared)
        if self._is_worth_judging:
            device = self.choice.device
            raw = ensemble.judged(self.members, self.model, device)
            judged = evaluation.judge(self.model, self.prepared, raw, device)
        self.model = judged.model
        self._save_model(self.model.network.weights)
        warnings = [*self.prepared.notes, *judged.warnings]
        summary = {**self.summary(), **finite(judged.facts), "warnings": warnings}
        history = tuple(map(json.loads, self.lines))
        self.model = replace(self.model, summary=summary, history=history)
        if self.run is not None:
            self.run.write_json(SUMMARY, summary)
            self._status(self.control.ended)
        return summary

    def summary(self) -> dict[str, Any]:
        """The run in plain values, without what is known of the model."""
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
            "precision": self.config.precision,
            "networks": len(self.members),
            "parameters": self.parameters,
            "rows": self.rows,
            "steps": self.control.done,
            "epochs": 0 if last is None else last.epoch,
            "best_epoch": None if best is None else best.epoch,
            "ended": self.control.ended,
            "seconds": self.seconds,
            "rows_per_second": harmonic_mean(self.speeds) if self.speeds else 0.0,
            "loss": {
                "first": self.control.first_loss,
                "last": None if last is None else last.loss,
            },
        }

    @property
    def _is_worth_judging(self) -> bool:
        """A run that was stopped may go on; of one that broke a validated model may be good."""
        has_best = self.members[0].data.validation is not None and self.best is not None
        ended = self.control.ended
        return ended in loop.FINISHED or (ended == "diverged" and has_best)

    def _note(self, report: Report) -> None:
        self.last = report
        self.speeds.append(report.rows_per_second)
        if report.best:
            self.best = report
        self.lines.append(files.line(lasting(report)))
        if self.run is not None:
            spent = {"rows_per_second": report.rows_per_second, "seconds": self.seconds}
            self.run.append(METRICS, self.lines[-1])
            self.run.append(TIMING, files.line({"step": report.step, **spent}))

    def _keep(self, snapshot: Snapshot) -> None:
        """Commit a checkpoint, and the best model so far."""
        text = np.frombuffer("".join(self.lines).encode(), np.uint8)
        state = {name: self.identity[name] for name in ("id", "fingerprints", "environment")}
        reports = {"last": self.last, "best": self.best}
        state |= {name: None if r is None else lasting(r) for name, r in reports.items()}
        tensors = {**snapshot.tensors, "metrics": text}
        self.held.save(snapshot.step, tensors, {**state, "loop": finite(snapshot.state)})
        self._save_model(snapshot.best)
        self._status("running")

    def _save_model(self, weights: dict[str, np.ndarray]) -> None:
        """Write the model, unless it is there already."""
        if self.run is None:
            return
        content = self.model.packed(weights)
        if (digest := sha256(content).digest()) != self.written:
            self.run.write(MODEL_FILE, content)
            self.written = digest

    def _status(self, state: str) -> None:
        if self.run is not None:
            self.run.status(state, step=self.control.done, steps=self.steps)

    def _note_end(self, fault: BaseException) -> None:
        """Leave word of what ended the run early."""
        with suppress(GpunetError):  # the disk may be what failed
            self._status("failed" if isinstance(fault, Exception) else "stopped")

    def _keep_what_is_good(self, fault: Diverged) -> Diverged:
        if self.run is None:
            return fault
        kept = []
        if fault.fault is not None:
            self._keep_fault(fault.fault)
            kept.append(f"the batch is in {self.run.path / FAULT}.safetensors")
        self.finish()
        if self.best is not None:
            kept.append(f"the model of epoch {self.best.epoch} is kept")
        message = f"{fault.message}; {', '.join(kept)}" if kept else fault.message
        return Diverged(message, fault.hint, fault.fault)

    def _keep_fault(self, fault: Any) -> None:
        """The batch of the faulty step, and what led to it."""
        place = None if fault.place is None else vars(fault.place)
        batch = {name: getattr(fault, name) for name in ("rows", "numbers", "x", "y", "weight")}
        facts = {"step": fault.step, "epoch": fault.epoch, "what": fault.what, "place": place}
        self.held.write_json(f"{FAULT}.json", {**facts, "trail": list(fault.trail)})
        present = {
            n: a.astype(a.dtype if a.dtype.kind == "f" else np.int64)
            for n, a in batch.items()
            if a is not None
        }
        self.held.write(f"{FAULT}.safetensors", pack(present, {"step": fault.step}))


@contextmanager
def _deferred_interrupts(control: Control, faults: list[BaseException]) -> Iterator[None]:
    """For a while a Ctrl-C that would be raised at once stops a run, and is put among `faults`."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faults.append(KeyboardInterrupt())
        control.stop = True

    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    is_here = threading.current_thread() is threading.main_thread()
    with handling({signal.SIGINT: stop} if is_usual and is_here else {}):
        yield


def lasting(report: Report) -> dict[str, Any]:
    """A report without what may differ when the same steps are made again: times, the length;
    numbers that are not finite are None."""
    return finite({name: value for name, value in vars(report).items() if name not in PASSING})


def report(found: Mapping[str, Any]) -> Report:
    """The report that `lasting` was made of, as far as it goes."""
    nothing: dict[str, Any] = dict.fromkeys(PASSING, 0)
    return Report(**found, **nothing)


def plan(
    source: Any,
    flags: Mapping[str, Any],
    file: Path | str | None = None,
    folder: Path | str = ".",
    parts: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """A job that is ready to train: data prepared, every `auto` decided, the network built.

    `flags` are settings by name, `file` a TOML file of them; their paths are seen from `folder`.
    `parts` take the place of what they say of validation and test; their paths are seen from here.
    """
    settings = auto.with_memory(settle(source, flags, file))
    parts = {**own_parts(flags), **parts}
    choice = auto.asked(settings)  # what is not there is told before data are read
    if choice is not None:
        auto.set_up(settings, choice.device)
    place = location(source, folder)
    source = read(source, settings, folder)
    settings = auto.with_encoding(presets.of_data(settings, source))
    prepared = _prepared(source, settings, folder, parts)
    settings = presets.of_network(settings, prepared.schema.target.task, prepared.train.rows)
    settings, choice, members, rows_bytes = _decided(settings, prepared, choice)
    if choice.device.kind == "cpu":
        choice.device.split = settings.config.split  # judging splits as it does when resumed
    config, schema = settings.config, prepared.schema
    choice.device.precision = config.precision
    trained = Model(ensemble.together(members), schema, config)
    given = (source.name, place, settings, choice, prepared, members, trained)
    return Job(*given, rows_bytes=rows_bytes, folder=folder)


def _decided(
    settings: Settings, prepared: Prepared, choice: Choice | None
) -> tuple[Settings, Choice, list[Member], float | None]:
    """Every `auto` decided, and the networks; the device has room for them, and so many bytes for
    the rows of a part. Raises OutOfMemory."""
    schema = prepared.schema
    while True:
        decided = auto.decide(settings, prepared)
        memory.check_weights(decided.config, schema.width, schema.target.outputs)
        _check_steps(decided.config, prepared.train.rows)
        with Cpu().watching("make --hidden narrower"):
            members = ensemble.members(prepared, decided.config)
        if choice is None:
            choice = auto.weigh(decided.config, members)
            auto.set_up(decided, choice.device)
        decided = auto.decide_on(decided, schema, choice)
        members = ensemble.settled(members, decided.config)
        smaller, rows_bytes = memory.fitted(settings, decided.config, members, choice.device)
        if smaller is None:
            return decided, choice, members, rows_bytes
        settings = smaller


def _check_steps(config: Config, rows: int) -> None:
    name = "epochs" if config.steps is None else "steps"
    asked = f"{flag(name)} {getattr(config, name):,}"
    memory.check_steps(asked, loop.steps_in_all(config, rows))


def _prepared(
    source: Source, settings: Settings, folder: Path | str, own: Mapping[str, Any]
) -> Prepared:
    """The data as settings say, paths among them seen from `folder`; `own` parts were given."""
    config = settings.config
    _check_test(source, settings)
    return data.prepare(
        source,
        target=config.target or source.target,
        features=config.features,
        drop=config.drop,
        types=config.column_types,
        na=config.na,
        decimal=config.decimal,
        task=_task(config),
        validation=0.0 if config.folds else _part("validation", settings, folder, own),
        test=fold(config.test_fold) if config.test_fold else _part("test", settings, folder, own),
        split_column=config.split_column,
        weight=config.weight,
        class_weight=config.class_weight,
        group=config.group,
        time=config.time,
        quantiles=config.quantiles,
        drop_missing_target=config.drop_missing_target,
        standardise=config.standardise,
        scaling="robust" if config.scaling == "robust" else "standard",
        one_hot_levels=None if isinstance(config.one_hot_levels, str) else config.one_hot_levels,
        bins=MOST_BINS if config.has_bins else 0,
        rough=config.value_embedding == "rough",
        clamp=config.clamp == "on",
        target_transform=config.target_transform,
        seed=config.seed,
        budget=int(config.max_memory),
    )


def train(
    source: Any = "lecture",
    target: str | int | Sequence[str | int] = (),
    *,
    out: Path | str | None = None,
    config: Path | str | None = None,
    on_report: OnReport | None = None,
    **settings: Any,
) -> Model:
    """Train a network on a table, arrays (x, y), a file or a built-in set, and return the model.

    source: a pyarrow, pandas or polars table, a dict of columns, a tuple of arrays (x (n, …),
    y (n,)) or of a table and the target y (n,), a path, or a name of `gpunet data list`. target:
    the column to predict. out: a run directory to save to. config: a TOML file of settings.
    on_report: is called with each Report; print shows them. Where it returns True training ends, as
    by patience: the best weights are kept and judged.
    Other settings are those that `gpunet train --help` lists, as epochs=50, batch_size=64;
    validation and test may be data of their own, as source is.
    Raises the errors of gpunet.errors; warns of the data and of the model by its GpunetWarning.
    """
    flags = with_target(target, settings)
    if out is not None:
        Run.check(out)
    job = plan(source, flags, config)
    if out is None:
        return job.follow(on_report)
    with Run.create(out, job.name) as run:
        job.begin(run)
        return job.follow(on_report)


def with_target(target: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and the target among them unless it is None or empty."""
    is_empty = target is None or (hasattr(target, "__len__") and len(target) == 0)
    return {**settings, **({} if is_empty else {"target": target})}


def settle(source: Any, flags: Mapping[str, Any], file: Path | str | None) -> Settings:
    """The settings of a run on a source, checked, with what is `auto` still open."""
    said = dict.fromkeys(own_parts(flags), IN_MEMORY)
    return gather({**flags, **said}, file, _recipe(source))


def own_parts(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The parts that were given as objects."""
    return {name: flags[name] for name in ("validation", "test") if _is_object(flags.get(name))}


def _is_object(value: Any) -> bool:
    is_known = isinstance(value, (list, tuple, Mapping, Source))
    is_known = is_known or hasattr(value, "__arrow_c_stream__")
    return is_known or np.ndim(value) > 0


def _recipe(source: Any) -> Mapping[str, Any]:
    """What a built-in set is trained with."""
    if isinstance(source, Source):
        return source.settings
    return data.recipe(source) if isinstance(source, str) else {}


def _task(config: Config) -> str:
    """The task as asked for, by its name or by what has a meaning for that one alone."""
    if config.quantiles:
        return "regression"
    return "count" if config.task == "auto" and config.loss == "poisson" else config.task


def location(source: Any, folder: Path | str = ".") -> str | None:
    """Where the data can be read again; None for objects in memory, standard input and pipes."""
    if not isinstance(source, (str, Path)) or data.is_passing(source):
        return None
    if source in data.BUILTIN:
        return source
    path = Path(folder) / source
    return os.path.abspath(data.seen_from(path) / path)


def _absolute(folder: Path | str) -> str:
    """Of a working directory that is gone, the root: nothing could be seen from it."""
    return os.path.abspath(os.path.join(data.here() or os.sep, folder))


def read(source: Any, settings: Settings, folder: Path | str) -> Source:
    """A source read as settings say; a path is seen from `folder`.

    Of one that has been read, the file of a run's settings may say how.
    """
    asked = {settings.origin[name] for name in ("delimiter", "header")}
    if isinstance(source, Source) and "flag" not in asked:
        return source
    is_path = isinstance(source, (str, Path)) and source not in ("-", *data.BUILTIN)
    if is_path and Path(folder) != Path("."):
        source = os.path.join(folder, source)
    config = settings.config
    if isinstance(source, tuple) and config.target:
        raise UsageError("--target has no meaning for (x, y): y is the target", "leave it out")
    budget = int(config.max_memory)
    return data.read(source, delimiter=config.delimiter, header=config.header, budget=budget)


def _check_test(source: Source, settings: Settings) -> None:
    """Refuse a test part beside the source's own."""
    for name in ("test", "test_fold"):
        if source.test is not None and settings.given(name) and getattr(settings.config, name):
            hint = f"leave out {flag(name)}"
            raise UsageError(f"{source.title} has a test part of its own", hint)


def _part(
    name: str, settings: Settings, folder: Path | str, own: Mapping[str, Any]
) -> float | Source:
    """A share of the rows, or what holds the part."""
    if name in own:
        return read(own[name], settings, ".")
    value = getattr(settings.config, name)
    if value == IN_MEMORY:
        raise UsageError(f"the {name} part was in memory", f"give it again, as {name}=…")
    return read(value, settings, folder) if isinstance(value, str) else value
