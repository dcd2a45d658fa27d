"""Jobs followed in a terminal: the plan, how they go, and what came of them. A signal stops the one
in hand where it may be taken up again.

As in cli.py, rooms that use NumPy are imported where they are used.
"""

import signal
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gpunet import view
from gpunet.commas import argument
from gpunet.errors import Diverged, Interrupted
from gpunet.signals import ENDING, SAVING, Ended, handling
from gpunet.sizes import counted, shown

if TYPE_CHECKING:
    from gpunet.job import Job
    from gpunet.loop import Control
    from gpunet.outlook import Outlook
    from gpunet.tuning import Trial, Tuner

PLAN_LOOKS = ("data", "target", "columns")
"""What a plan says of the columns, of what a run's `schema.json` says."""


def plan(data: str, flags: dict[str, Any], config: Path | None, quiet: bool) -> "Job":
    """A job that is ready to train."""
    from gpunet import job

    with view.phase(f"reading and encoding {data}", quiet):
        return job.plan(data, flags, config)


def train(planned: "Job", out: Path | None, json: bool, quiet: bool) -> None:
    """A job as a new run, in `out` or the next free directory."""
    from gpunet.run import Run

    with _stopping(planned.control) as caught, Run.create(out, planned.name) as held:
        planned.begin(held)
        if not quiet and planned.prepared.seen:
            view.columns(planned.prepared.seen, view.err())
            view.gap()
        _train(planned, caught, json, quiet, planned.prepared.notes)
    _tell_place(quiet, out, [planned.out])


def resume(planned: "Job", notes: list[str], json: bool, quiet: bool) -> None:
    """A run that was taken up, to its end."""
    if planned.is_over:
        notes = [*notes, "nothing is left to train; --epochs +N adds N epochs"]
    with _stopping(planned.control) as caught, planned.held:
        _train(planned, caught, json, quiet, notes)


def repeat(
    data: str,
    flags: dict[str, Any],
    config: Path | None,
    seeds: int | None,
    cv: int | None,
    out: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Several runs, one after the other, and what they come to. A signal ends the one in hand."""
    from gpunet import repeats
    from gpunet.run import Run

    found = repeats.asked(data, flags, config, seeds, cv, out)
    for each in found.jobs:
        Run.check(each.out)
    told: set[str] = set()
    try:
        for each in found.jobs:
            if not quiet:
                view.say(f"{each.label}, {len(found.runs) + 1:,} of {len(found.jobs):,}")
            planned = plan(data, each.flags, config, quiet)
            with _stopping(planned.control) as caught, Run.create(each.out, planned.name) as held:
                planned.begin(held)
                fresh = [note for note in planned.prepared.notes if note not in told]
                told.update(fresh)
                summary = _follow(planned, quiet, fresh)
            _check_ended(planned, caught, summary)
            found.add(each, summary)
            _warn_of(summary, told, f"{each.label}: ")
    except Interrupted as fault:
        said = f"{each.label}: {fault.message}; {found.done}"
        raise Interrupted(said, fault.hint, fault.exit_code - 128) from None
    except Ended as fault:
        raise Interrupted(found.done, signal_number=fault.number) from None
    if json:
        view.print_json(found.to_dict())
    else:
        head, rows = found.table()
        figures = [[row[0], *map(view.number, row[1:])] for row in rows]
        view.table(head, figures, right=range(1, len(head)))
    if not quiet:
        view.gap()
        view.facts([(each["label"], each["run"]) for each in found.runs])
    _tell_place(quiet, out, [each["run"] for each in found.runs])


def tune(tuner: "Tuner", json: bool, quiet: bool) -> None:
    """The trials of a study, then the best of them as a run."""
    _search(tuner, quiet)
    _train_best(tuner, json, quiet)


def show_plan(planned: "Job", json: bool) -> None:
    """What a run would be, on stdout."""
    from gpunet import outlook

    for note in planned.prepared.notes:
        view.warn(note)
    found = outlook.look(planned)
    if json:
        more = {
            "rows": planned.rows,
            "split": planned.prepared.how,
            "parameters": planned.parameters,
            "warnings": planned.prepared.notes,
        }
        looks = {name: part for name, part in planned.looks().items() if name in PLAN_LOOKS}
        launches = view.plan_to_json(planned.launches)
        view.print_json({**launches, **looks, **more, **found.to_dict()})
        return
    console = view.out()
    view.columns(planned.prepared.seen, console)
    view.table(
        ["layer", "shape", "weights"],
        [[n, " × ".join(map(str, shape)), f"{prod(shape):,}"] for n, shape in found.layers],
        right=(2,),
    )
    view.facts([*_plan_facts(planned)[:-1], *_outlook_facts(found)], console)


def _train(
    planned: "Job", caught: list[int], json: bool, quiet: bool, notes: Sequence[str]
) -> None:
    """Run a job to its end, showing it. Raises Interrupted where a signal has stopped it."""
    summary = _follow(planned, quiet, notes)
    is_stopped = summary["ended"] == "stopped"
    if json:
        view.print_json(summary)
    elif not is_stopped:
        view.metrics(summary)
    _tell_outcome(summary, notes, quiet or is_stopped)
    _check_ended(planned, caught, summary)


def _follow(planned: "Job", quiet: bool, notes: Iterable[str]) -> dict[str, Any]:
    """Run a job to its end, showing how it goes; its summary."""
    from gpunet.data.targets import NUMBERS
    from gpunet.metrics import main_metric

    if not quiet:
        view.facts(_plan_facts(planned))
        view.gap()
    for note in notes:
        view.warn(note)
    target = planned.prepared.schema.target
    metric = main_metric(target.task, bool(target.quantiles), len(target.names))
    by = metric if target.task in NUMBERS else planned.config.best_by
    with view.Training(planned.steps, metric, by, quiet, planned.best) as shown:
        planned.control.tick = shown.tick
        try:
            for report in planned.reports():
                shown.report(report)
        except Diverged as fault:
            view.trail(fault.fault)
            raise
    with view.phase("judging what was trained", quiet):
        summary = planned.finish()
    view.gap()
    return summary


def _tell_outcome(
    summary: dict[str, Any], told: Container[str], quiet: bool, *first: tuple[str, str]
) -> None:
    """What was kept and what can be done with it, behind the first facts; and warnings."""
    if not quiet:
        view.gap()
        view.facts([*first, *_judged_facts(summary), *_next_steps(summary)])
    _warn_of(summary, told)


def _warn_of(summary: dict[str, Any], told: Container[str], whose: str = "") -> None:
    """What a summary warns of, and was not told before."""
    for text in summary["warnings"]:
        if text not in told:
            view.warn(whose + text)


def _check_ended(planned: "Job", caught: list[int], summary: dict[str, Any]) -> None:
    """Raise Interrupted where a signal has stopped a run."""
    if summary["ended"] == "stopped":
        where = f"step {summary['steps']:,} of {planned.steps:,}"
        hint = f"go on with: gpunet resume {argument(planned.out)}"
        raise Interrupted(f"stopped after {where}", hint, caught[0])


def _tell_place(quiet: bool, out: Path | None, made: Iterable[object]) -> None:
    """Where runs are whose place nobody named, and no talk has told."""
    if quiet and out is None:
        view.say(f"saved in {', '.join(map(str, made))}")


@contextmanager
def _stopping(control: "Control") -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP end the loop after the step in hand, a second SIGINT at once;
    SIGUSR1 asks for a checkpoint. Handlers set flags, nothing else."""
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise Ended(number)
        caught.append(number)
        control.stop = True

    def save(number: int, frame: FrameType | None) -> None:
        control.save = True

    with handling(dict.fromkeys(ENDING, stop) | dict.fromkeys(SAVING, save)):
        yield caught


def _search(tuner: "Tuner", quiet: bool) -> None:
    """Make the trials of a study, a line each. Raises Interrupted where a signal has stopped it."""
    with _stopping(tuner.control) as caught:
        for trial in tuner.search():
            if not quiet:
                view.say("  ".join(_trial_cells(trial, tuner.metric)))
    if caught:
        made = f"stopped after {len(tuner.trials()):,} of {tuner.wanted:,} trials"
        raise Interrupted(made, "the same command goes on", caught[0])


def _train_best(tuner: "Tuner", json: bool, quiet: bool) -> None:
    """Train the best trial as a run, unless it was, and show the study."""
    best = tuner.best()
    summary = tuner.summary(best)
    notes: list[str] = []
    if summary is None:
        planned, notes = tuner.best_job(best)
        with _stopping(planned.control) as caught, planned.held:
            summary = _follow(planned, quiet, notes)
        if summary["ended"] == "stopped":
            hint = "the same command goes on"
            raise Interrupted(f"stopped as trial {best.number} was trained", hint, caught[0])
    if json:
        view.print_json(tuner.to_dict(summary))
    else:
        by = dict.fromkeys((tuner.metric, "loss"))
        head = ["trial", "", *by, "epochs", "time", "settings"]
        rows = [_trial_cells(trial, tuner.metric) for trial in tuner.trials()]
        view.table(head, rows, right=(0, *range(2, len(head) - 1)))
        view.metrics(summary)
    _tell_outcome(summary, notes, quiet, ("best", f"trial {best.number}"))


def _trial_cells(trial: "Trial", metric: str) -> list[str]:
    """A trial in a line; its loss but once."""
    chosen = "  ".join(f"{n}={_shortened(value)}" for n, value in trial.settings.items())
    figures = map(view.number, {metric: trial.value, "loss": trial.loss}.values())
    said = f"{chosen}  {trial.why}".rstrip()
    return [
        str(trial.number),
        trial.state,
        *figures,
        f"{trial.epochs:,}",
        view.duration(trial.seconds),
        said,
    ]


def _shortened(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ",".join(map(_shortened, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plan_facts(planned: "Job") -> list[tuple[str, str]]:
    config, schema, data = planned.config, planned.prepared.schema, planned.prepared
    device = planned.choice.device
    sizes = " · ".join(f"{name} {part.rows:,}" for name, part in data.parts.items() if part)
    widths = " → ".join(map(str, (schema.width, *config.hidden, planned.outputs)))
    widths = f"{len(planned.members):,} of {widths}" if len(planned.members) > 1 else widths
    weights = counted(planned.parameters, "parameter")
    steps, epochs = counted(planned.steps, "step"), counted(planned.epochs, "epoch")
    length = steps if config.steps else epochs
    target = ", ".join(map(view.short, schema.target.names))
    classes = len(schema.target.labels)
    labels = f", {counted(classes, 'class')}" if classes else ""
    if schema.target.task == "binary":
        labels = f", F1 is of {view.short(schema.target.labels[1])}"
    apart = [n for n in (config.group, config.time) if n is not None and n not in config.features]
    unlearnt = "".join(f"; {view.short(name)} is not learnt from" for name in apart)
    why, _, _ = planned.choice.reason.partition(": ")  # `gpunet info` tells the rest
    sent = ", rows sent there in windows" if planned.sends_rows else ""
    return [
        ("data", f"{planned.name}: {sizes} ({data.how}{unlearnt})"),
        ("target", f"{target}: {schema.target.task}{labels} ({schema.target.reason})"),
        (
            "network",
            f"{widths} {config.activation}, {weights}, {config.loss}",
        ),
        (
            "training",
            f"preset {config.preset} · {config.optimizer} lr {config.lr:g} {config.schedule}"
            f" · batch {_batch(config)} · {length} · seed {config.seed}",
        ),
        ("device", f"{device.name}, {config.precision} ({why}){sent}"),
        ("run", str(planned.out)),
    ]


def _batch(config: Any) -> str:
    whole, rows = f"{config.batch_size:,}", config.micro_batch_size
    return whole if rows == "all" else f"{whole} in micro-batches of {rows:,}"


def _outlook_facts(found: "Outlook") -> list[tuple[str, str]]:
    disk = f" · {shown(found.disk_bytes)} of rows on disk" if found.disk_bytes else ""
    step = found.step_seconds
    each = f"{step * 1e3:.3g} ms" if step < 1 else view.duration(step)
    pace = f"{each} a step, over {counted(found.timed, 'step')}"
    pace += f"; {view.duration(found.validation_seconds)} a validation"
    return [
        (
            "memory",
            f"{shown(found.data_bytes)} of rows · {shown(found.weight_bytes)} of weights, "
            f"gradients and optimiser · {shown(found.arena_bytes)} for a step · "
            f"{shown(found.prediction_bytes)} of predictions{disk}",
        ),
        ("steps", f"{found.steps:,}, {found.epochs:,.4g} epoch{'s' * (found.epochs != 1)}"),
        ("time", f"training {view.duration(found.total_seconds)} at most ({pace}), then judging"),
    ]


def _judged_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What was fitted on the validation part."""
    found, facts = summary["calibration"] or {}, []
    if "log_loss" in found:
        losses = " → ".join(view.number(found["log_loss"][when]) for when in ("before", "after"))
        said = f"temperature {found['temperature']:.3g}, log-loss on validation {losses}"
        facts.append(("calibrated", said))
    if "f1" in found:
        scores = " → ".join(view.number(found["f1"][when]) for when in ("before", "after"))
        facts.append(("threshold", f"{found['threshold']:.3g}, F1 on validation {scores}"))
    return facts


def _next_steps(summary: dict[str, Any]) -> list[tuple[str, str]]:
    run, best = summary["run"], summary["best_epoch"]
    why = ", no better one since" if summary["ended"] == "patience" else ""
    epoch = "the last epoch" if best is None else f"epoch {best:,}"
    if summary["networks"] > 1 and best is not None:
        epoch = f"{summary['networks']:,} networks, each of its best epoch"
    kept = f"{epoch} of {summary['epochs']:,}{why}"
    return [
        ("kept", f"{kept}, {view.duration(summary['seconds'])} on {summary['runs_on']}"),
        ("next", f"gpunet evaluate {argument(run)} DATA"),
        ("", f"gpunet predict {argument(run)} DATA -o predictions.csv"),
    ]
