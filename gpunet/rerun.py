"""A run directory taken up again: to go on with it, or to check that it is what it says.

Nothing in a run is trusted unread: settings and data must have the fingerprints of the first day,
checkpoints their hashes and the shapes of the network.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from gpunet import about, commas, job, memory
from gpunet.config import Config, Settings, gather
from gpunet.data import BUILTIN
from gpunet.device import resolve
from gpunet.errors import GpunetError, InputMissing, ModelInvalid, OutOfMemory, UsageError, warn
from gpunet.job import TIMING, Job, lasting
from gpunet.loop import Report, Snapshot, steps_an_epoch
from gpunet.predict import MODEL_FILE, Model
from gpunet.run import (
    METRICS,
    SETTINGS,
    SPLIT,
    Checkpoint,
    Run,
    files,
    forms,
    history,
    identity,
    readable,
    unpack,
)

TOLERANCE = 1e-3
"""Relative, between losses where the bits cannot be the same."""
ON_ANOTHER_DEVICE = ("threads", "kernels", "split", "precision", "micro_batch_size")


@dataclass(frozen=True)
class Compared:
    """One report of a run, made again: what differs, in words; nothing where all is the same, or,
    in an environment that is `unlike` the run's, the rate and losses within TOLERANCE."""

    step: int
    epoch: int
    device: str
    wrong: str
    unlike: str = ""

    @property
    def said(self) -> str:
        """What differs, or how close it is."""
        return self.wrong or (f"within {TOLERANCE:.1%}" if self.unlike else "same")


def is_run(path: object) -> bool:
    """Whether a run was begun in that directory."""
    return isinstance(path, (str, Path)) and os.path.isfile(Path(path) / job.IDENTITY)


def reopen(
    path: Path | str,
    data: Any = None,
    device: str | None = None,
    parts: Mapping[str, Any] = MappingProxyType({}),
) -> Job:
    """The job of a run, from its settings and its data (or `data`, where they have moved), with
    `parts` that were given beside them.

    The data are seen from here; other files of its settings from where the run was begun.
    """
    path = Path(path)
    found = identity(path)
    source = found["data"] if data is None else job.location(data) or data
    if source is None:
        hint = "give the data again: gpunet resume RUN DATA, or gpunet.resume(run, data)"
        raise UsageError(f"{path}: was trained on data in memory", hint)
    if data is None:
        check_there(path, source, "bring them back; resume and verify take DATA where they are now")
    config = settings_of(path).config
    for name in ("validation", "test"):
        part = getattr(config, name)
        is_file = isinstance(part, str) and part != job.IN_MEMORY and name not in parts
        if is_file and (place := job.location(part, found["folder"])):
            check_there(path, place, "bring it back", f"its --{name} file is")
    flags = {} if device is None else _for(device, config)
    try:
        reopened = job.plan(source, flags, path / SETTINGS, found["folder"], parts)
    except OutOfMemory as fault:  # its settings are what they were
        raise OutOfMemory(fault.message, "free memory, or use --device cpu") from fault
    reopened.prepared = reopened.prepared.with_reason(found["task_reason"])
    reopened.model = replace(reopened.model, schema=reopened.prepared.schema)
    if device is None:
        reopened.choice = replace(reopened.choice, reason="the run's own")
    reopened.name, reopened.identity = found["name"], found
    return reopened


def _for(device: str, config: Config) -> dict[str, Any]:
    """The settings of a run on a device that is named: on one of another kind what depends on it
    is open again, but for numbers of twice the bits, as its checkpoints hold."""
    kind = resolve(device).device.kind if device == "auto" else device.partition(":")[0]
    if kind == config.device.partition(":")[0]:
        return {"device": device}
    opened = [n for n in ON_ANOTHER_DEVICE if n != "precision" or config.precision != "fp64"]
    return {"device": device} | dict.fromkeys(opened, "auto")


def check_there(path: Path, place: str, hint: str, what: str = "its data are") -> None:
    """Refuse a run whose data have moved."""
    if place not in BUILTIN and not os.path.exists(place):
        raise InputMissing(f"{path}: {what} no longer at {place}", hint)


def settings_of(path: Path) -> Settings:
    """A run's settings. Those that gpunet did not write are the run's fault, not the user's."""
    try:
        return gather(file=path / SETTINGS)
    except GpunetError as reason:
        said = f"{path / SETTINGS}: not as gpunet wrote it: {reason.message}"
        raise ModelInvalid(said) from None


def resume(
    run: Path | str,
    data: Any = None,
    *,
    epochs: str | None = None,
    device: str | None = None,
    allow_inexact: bool = False,
    on_report: job.OnReport | None = None,
    validation: Any = None,
    test: Any = None,
) -> Model:
    """Go on with a run where its newest checkpoint is, and return the model.

    Bit for bit as if it had never ended, in the same environment; else with a warning. data: the
    data of the run, where they are not in their place; validation, test: parts that were data of
    their own. epochs: `+50` adds epochs behind the last,
    through a schedule of their own. Raises RunBusy, and ModelInvalid where data or settings have
    changed (unless `allow_inexact`).
    """
    resumed, notes = take_up(run, data, epochs, device, allow_inexact, _parts(validation, test))
    warn(notes)
    with resumed.held:
        return resumed.follow(on_report)


def _parts(validation: Any, test: Any) -> dict[str, Any]:
    """Those that are given."""
    given = {"validation": validation, "test": test}
    return {name: part for name, part in given.items() if part is not None}


def take_up(
    path: Path | str,
    data: Any = None,
    more: str | None = None,
    device: str | None = None,
    allow_inexact: bool = False,
    parts: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Job, list[str]]:
    """The job that `resume` runs, and warnings; its run directory is held until it is closed."""
    held = Run.open(path)
    try:
        resumed = reopen(path, data, device, parts)
        resumed.run = held
        notes = differences(resumed, held.path)
        if notes and not allow_inexact:
            raise ModelInvalid(notes[0], "--allow-inexact goes on all the same")
        notes += [f"not bit for bit: {what}" for what in _unlike(resumed, held.path)]
        notes += _take_newest(resumed)
        if more is not None:
            _extend(resumed, more)
        _write_again(resumed)
    except BaseException:
        held.close()
        raise
    return resumed, notes


def verify(
    path: Path | str,
    epochs: int | Sequence[int] = (),
    devices: str | Sequence[str] = (),
    data: Any = None,
    validation: Any = None,
    test: Any = None,
) -> list[Compared]:
    """Make epochs of a run again and compare: every report's hash chain and numbers.

    epochs: one, several, or all when empty; each is reached from the newest checkpoint before it,
    else from the start. devices: each in turn; on others than the run's own the losses are compared
    within TOLERANCE, as they are in an environment that differs from the run's. data, validation,
    test: as `resume` takes them.
    """
    parts = _parts(validation, test)
    epochs = (epochs,) if isinstance(epochs, int) else epochs
    devices = commas.split(devices) if isinstance(devices, str) else devices
    identity(Path(path))
    recorded = history(Path(path))
    if not recorded:
        raise ModelInvalid(f"{path}: no epoch was finished: nothing to compare")
    wanted = [line for line in recorded if not epochs or line["epoch"] in epochs]
    if missing := set(epochs) - {line["epoch"] for line in wanted}:
        first = min(missing)
        nearest = min((line["epoch"] for line in recorded), key=lambda epoch: abs(epoch - first))
        hint = f"the nearest of {len(recorded):,} is {nearest}"
        raise UsageError(f"{path}: no record of epoch {first}", hint)
    return [
        each
        for device in devices or (None,)
        for each in _compare(Path(path), wanted, device, data, parts, is_whole=not epochs)
    ]


def _compare(
    path: Path,
    wanted: list[dict[str, Any]],
    device: str | None,
    data: Any,
    parts: Mapping[str, Any],
    is_whole: bool,
) -> Iterator[Compared]:
    again = reopen(path, data, device, parts)
    if changed := differences(again, path):
        raise ModelInvalid(changed[0], "bring back what the run was trained with")
    unlike = "; ".join(_unlike(again, path))
    if not unlike and not is_whole:
        again.start = _before(again, path, wanted[0]["step"])
    name = again.choice.device.name
    by_step = {line["step"]: line for line in wanted}
    for report in again.reports():
        line = by_step.pop(report.step, None)
        if line is not None:
            wrong = _wrong(line, report, exact=not unlike)
            yield Compared(report.step, report.epoch, name, wrong, unlike)
        elif is_whole:
            yield Compared(report.step, report.epoch, name, f"not in {METRICS}")
        if not by_step:
            return
    for line in by_step.values():
        yield Compared(line["step"], line["epoch"], name, "the run ended before it")


def _wrong(line: dict[str, Any], report: Report, exact: bool) -> str:
    """What differs between a recorded report and one made again."""
    again = json.loads(json.dumps(lasting(report)))
    if line["loss"] is None:
        return "loss is not a number"
    if exact:
        return ", ".join(name for name in again if line.get(name) != again[name])
    pairs = {"loss": (line["loss"], again["loss"]), "lr": (line["lr"], again["lr"])}
    if "loss" in line["validation"]:
        pairs["validation loss"] = line["validation"]["loss"], again["validation"].get("loss")
    far = {name: pair for name, pair in pairs.items() if not _near(*pair)}
    return ", ".join(f"{name} {_short(b)}, recorded {_short(a)}" for name, (a, b) in far.items())


def _short(number: float | None) -> str:
    return "none" if number is None else f"{number:g}"


def _near(a: float | None, b: float | None) -> bool:
    """Whether two numbers are alike within TOLERANCE; none is like none alone."""
    if a is None or b is None:
        return a is b
    return abs(a - b) <= TOLERANCE * max(abs(a), 1e-12)


def _before(again: Job, path: Path, step: int) -> Snapshot | None:
    """The newest checkpoint before a report was made, or None for the start."""
    for _, found in readable(path):
        if not isinstance(found, GpunetError) and _is_ours(again, found):
            snapshot = _snapshot(found)
            if snapshot.step < step:
                return snapshot
    return None


def differences(resumed: Job, path: Path) -> list[str]:
    """What differs from the first day though the run follows from it, in words."""
    now, then = resumed.fingerprints(), resumed.identity["fingerprints"]
    notes = []
    for what in now:
        if now[what] != then[what]:
            changed = f"the {'data have' if what == 'data' else 'settings have'} changed"
            ids = f"{then[what][:16]} then, {now[what][:16]} now"
            notes.append(f"{changed} since the run began: {ids}")
    if not _is_split_alike(resumed, path):
        notes.append(f"{path / SPLIT}: the parts are of other rows now")
    return notes


def _unlike(again: Job, path: Path) -> list[str]:
    """What else differs from the first day, which bits may follow from."""
    here, there = about.environment(again.choice.device), dict(again.identity["environment"])
    for found, settings in ((here, again.settings), (there, settings_of(path))):
        found["precision"] = settings.config.precision
    differing = [name for name in sorted(here.keys() | there) if here.get(name) != there.get(name)]
    return [f"{n} is {here.get(n)}, was {there.get(n)}" for n in differing]


def _is_split_alike(resumed: Job, path: Path) -> bool:
    saved, now = unpack(path / SPLIT)[0], resumed.prepared.split.rows
    return saved.keys() == now.keys() and all(np.array_equal(saved[n], now[n]) for n in now)


def _take_newest(resumed: Job) -> list[str]:
    """Start from the newest checkpoint that is whole; warnings of those that are not.

    A run that was ended before its first one, which comes before its model, begins anew.
    """
    path, passed = resumed.held.path, []
    for file, found in readable(path):
        if isinstance(found, GpunetError):
            passed.append(found.message)
        elif not _is_ours(resumed, found):
            passed.append(f"{file}: not a checkpoint of this run")
        else:
            _restore(resumed, found)
            _check_fits(resumed, found)
            return [f"{reason}; taking the one before it" for reason in passed]
    if passed:
        count = len(passed)
        raise ModelInvalid(f"{path}: no good checkpoint of {count}: {passed[0]}")
    if (path / MODEL_FILE).exists():
        argument = commas.argument(path / SETTINGS)
        anew = f"to train anew: gpunet train DATA --config {argument}"
        raise ModelInvalid(f"{path}: none of its checkpoints is left", anew)
    return []


def _check_fits(resumed: Job, found: Checkpoint) -> None:
    """Raise ModelInvalid for a checkpoint of other networks, before anything is written."""
    tensors, state = found
    if (count := len(state["loop"]["members"])) != len(resumed.members):
        raise ModelInvalid(f"the checkpoint is of {count} networks")
    saved = {n: a.shape for n, a in tensors.items() if n.startswith("weight.")}
    mine = {f"weight.{n}": a.shape for n, a in resumed.model.network.weights.items()}
    if wrong := sorted(saved.items() ^ mine.items()):
        raise ModelInvalid(f"the checkpoint does not fit the network: {wrong[0][0]}")


def _is_ours(resumed: Job, found: Checkpoint) -> bool:
    """Whether a checkpoint is of this run, and as gpunet wrote it."""
    tensors, state = found
    metrics = tensors.get("metrics")
    if not forms.fits(state, forms.STATE) or metrics is None or metrics.dtype != np.uint8:
        return False
    is_known = 0 <= state["loop"]["reported"] <= state["loop"]["done"] <= resumed.steps
    return is_known and state["id"] == resumed.identity["id"]


def _restore(resumed: Job, found: Checkpoint) -> None:
    tensors, state = found
    text = tensors["metrics"].tobytes().decode(errors="replace")
    resumed.lines = text.splitlines(keepends=True)
    resumed.start = _snapshot(found)
    for name in ("last", "best"):
        if state[name] is not None:
            setattr(resumed, name, job.report(state[name]))


def _snapshot(found: Checkpoint) -> Snapshot:
    tensors, state = found
    return Snapshot({n: a for n, a in tensors.items() if n != "metrics"}, state["loop"])


def _extend(resumed: Job, more: str) -> None:
    """Add epochs: behind the last step of a run that has ended, else behind the planned ones."""
    more = str(more)
    if not (more.startswith("+") and more[1:].isascii() and more[1:].isdigit() and int(more[1:])):
        raise UsageError(f"--epochs {more}: must be + and a number, as +50")
    rows, config, start = resumed.training_rows, resumed.config, resumed.start
    per_epoch = steps_an_epoch(config, rows)
    first = start.step if start is not None and resumed.is_over else resumed.steps
    added = int(more[1:]) * per_epoch
    memory.check_steps(f"--epochs {more}", first + added)
    kept = [leg for leg in resumed.legs if leg[0] < first]
    resumed.identity["legs"] = [*kept, (first, added)]
    resumed.note_identity()


def _write_again(resumed: Job) -> None:
    """Make the records of epochs what the checkpoint knows, and count on from the time spent."""
    run = resumed.held
    run.write(METRICS, "".join(resumed.lines))
    done = 0 if resumed.start is None else resumed.start.step
    spent = [line for line in _timings(run.path / TIMING) if line["step"] <= done]
    run.write(TIMING, "".join(map(files.line, spent)))
    resumed.seconds = spent[-1]["seconds"] if spent else 0.0


def _timings(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of timings that are whole: nothing follows from them."""
    with suppress(OSError):
        for line in files.read(path).splitlines():
            with suppress(ValueError, RecursionError):
                if forms.fits(found := json.loads(line), forms.TIMING):
                    yield found
