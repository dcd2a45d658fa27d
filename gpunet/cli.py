"""The command line: options in, one library call, a view out; errors become exit codes here alone.

NumPy, CuPy and the rooms that use them are imported inside the commands, so that --help is quick.
"""

import io
import os
import signal
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from gpunet import isolation, view
from gpunet.commas import argument, split
from gpunet.errors import (
    CheckFailed,
    DataError,
    Diverged,
    GpunetError,
    Interrupted,
    NotPermitted,
    OutOfMemory,
    UsageError,
    WriteError,
)
from gpunet.options import DEBUG, LIST, Command, Group, meant, takes_settings
from gpunet.sizes import counted, shown

if TYPE_CHECKING:
    from gpunet.job import Job
    from gpunet.outlook import Outlook
    from gpunet.tuning import Trial, Tuner

app = typer.Typer(
    name="gpunet",
    help="Train, check and use neural networks on tables and arrays, on CUDA or any CPU.",
    cls=Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(name="data", help="Look at data before training.", cls=Group)
app.add_typer(data_app)

LECTURE = "lecture"
OUTPUT, REPEATS, SEARCH = "Output", "Repeats", "Search"
PLAN_LOOKS = ("data", "target", "columns")
"""What a plan says of the columns, of what a run's `schema.json` says."""
JSON_HELP = "One JSON document on stdout."


def _directory(path: Path | None) -> Path | None:
    if str(path) == "-":
        raise UsageError("-o -: stdout is no directory", "name one")
    return path


TrainData = Annotated[Optional[str], typer.Argument(metavar="DATA", help="What to learn from.")]
OutPath = Annotated[
    Optional[Path],
    typer.Option(
        "--out",
        "-o",
        help="Run directory. Default: runs/<data>-<n>.",
        rich_help_panel=OUTPUT,
        callback=_directory,
    ),
]
ConfigPath = Annotated[
    Optional[Path],
    typer.Option(
        "--config",
        "-c",
        readable=False,
        help="TOML file of settings; flags win.",
        rich_help_panel=OUTPUT,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan alone.", rich_help_panel=OUTPUT)
]
TrainJson = Annotated[bool, typer.Option("--json", help=JSON_HELP, rich_help_panel=OUTPUT)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Warnings alone.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
RunPath = Annotated[
    Path,
    typer.Argument(metavar="RUN", readable=False, help="A run directory, or a model file."),
]
DataPath = Annotated[str, typer.Argument(metavar="DATA", help="A file, or a built-in set.")]
DeviceName = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda or cuda:N.")]
Delimiter = Annotated[
    Optional[str], typer.Option(help="Between the cells of a text file; found if not given.")
]
Header = Annotated[
    bool, typer.Option("--header/--no-header", help="Whether the first line names the columns.")
]
MovedData = Annotated[
    Optional[str], typer.Argument(metavar="DATA", help="The run's data, where they have moved.")
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing-target", help="Leave out rows that have no target.")
]
MaxMemory = Annotated[str, typer.Option(metavar="SIZE", help="Memory for data: 512M, 1.5GiB.")]
Inputs = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="NAME=VALUE...", help="x=-2, x=[[1,2],[3,4]], x=@file.npy, w=randn(3,4)"
    ),
]


class _Ended(BaseException):
    """A signal where there is nothing to finish; no `except Exception` on its way swallows it."""

    def __init__(self, number: int) -> None:
        self.number = number


ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
SAVING = [getattr(signal, n) for n in ("SIGUSR1",) if hasattr(signal, n)]


@app.callback(cls=Group, invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show tracebacks.")] = False,
) -> None:
    if version:
        from gpunet import __version__

        view.put(f"gpunet {__version__}\n")
        raise typer.Exit


@app.command(cls=Command)
@takes_settings
def train(
    data: TrainData = None,
    out: OutPath = None,
    config: ConfigPath = None,
    dry_run: DryRun = False,
    seeds: Annotated[
        Optional[int],
        typer.Option("--seeds", help="Runs of as many seeds.", rich_help_panel=REPEATS, min=2),
    ] = None,
    cv: Annotated[
        Optional[int],
        typer.Option(
            "--cv", help="Runs, each tested on one of K folds.", rich_help_panel=REPEATS, min=2
        ),
    ] = None,
    json: TrainJson = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Train a network on DATA and save the run.

    DATA is a CSV, TSV, Parquet, JSON-lines, NPZ, NPY or IDX file, a folder of
    x.npy and y.npy or of MNIST-named IDX files, or a built-in set (gpunet data
    list). Without DATA: the lecture's two-layer network.

    \b
    For example:
      gpunet train penguins
      gpunet train prices.csv --target price --hidden 256,128 --epochs 50
    """
    data = _data(data, given, config)
    if seeds is not None or cv is not None:
        if dry_run:
            raise UsageError("--dry-run is for one run", "leave out --seeds and --cv")
        _repeat(data, _given(given), config, seeds, cv, out, json, quiet)
        return
    from gpunet.run import Run

    Run.check(out)
    planned = _planned(data, _given(given), config, quiet)
    if dry_run:
        _show_plan(planned, json)
        return
    with _stop_on_signal(planned) as caught, Run.create(out, planned.name) as held:
        planned.begin(held)
        if not quiet:
            _show_columns(planned)
        _train(planned, caught, json, quiet, planned.prepared.notes)
    _tell_place(quiet, out, [planned.out])


@app.command(cls=Command)
@takes_settings
def tune(
    data: Annotated[str, typer.Argument(metavar="DATA", help="What to learn from.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The study's directory.",
            rich_help_panel=SEARCH,
            callback=_directory,
        ),
    ],
    trials: Annotated[
        int, typer.Option(help="How many in all.", rich_help_panel=SEARCH, min=1)
    ] = 50,
    timeout: Annotated[
        Optional[str],
        typer.Option(help="No trial begins later: 10m, 2h.", rich_help_panel=SEARCH),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that share the work.", rich_help_panel=SEARCH, min=1)
    ] = 1,
    config: ConfigPath = None,
    json: TrainJson = False,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Search for better settings on DATA, and train the best as a run, in STUDY/best.

    The first trial is the default; settings that are given stay as they are. All
    are judged on the validation part. The same command goes on with a study.
    """
    _start_reader(data)
    from gpunet import tuning

    seconds = _seconds(timeout)
    with view.phase(f"reading and encoding {data}", quiet):
        tuner = tuning.Tuner(data, _given(given), config, out, trials, seconds, workers)
    try:
        _search(tuner, quiet)
        _train_best(tuner, json, quiet)
    finally:
        tuner.close()


@app.command(cls=Command)
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", readable=False, help="A run directory.")],
    data: MovedData = None,
    epochs: Annotated[
        Optional[str], typer.Option("-e", "--epochs", help="+50: so many more, anew.")
    ] = None,
    device: Annotated[Optional[str], typer.Option("-d", "--device", help="Another one.")] = None,
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Though data or settings have changed.")
    ] = False,
    json: TrainJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run where it was stopped, to the same bits.

    A run that is done goes on with --epochs +N: N epochs behind the last, through
    the run's schedule of learning rates once more, from its start.
    """
    from gpunet import rerun

    with view.phase(f"reading and encoding the data of {run}", quiet):
        planned, notes = rerun.take_up(run, data, epochs, device, allow_inexact)
    assert planned.run is not None
    with _stop_on_signal(planned) as caught, planned.run:
        if planned.is_over:
            notes.append("nothing is left to train; --epochs +N adds N epochs")
        _train(planned, caught, json, quiet, notes)


@app.command(cls=Command)
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", readable=False, help="A run directory.")],
    data: MovedData = None,
    epochs: Annotated[
        Optional[str], typer.Option("-e", "--epochs", metavar=LIST, help="Which. All unless given.")
    ] = None,
    devices: Annotated[
        Optional[str], typer.Option("--devices", metavar=LIST, help="As cpu,cuda. The run's own.")
    ] = None,
    json: Json = False,
) -> None:
    """Make epochs of a run again and compare every number; exit 6 where one differs."""
    from gpunet import rerun

    found = rerun.verify(run, _numbers(epochs, "--epochs"), devices or (), data)
    wrong = [each for each in found if each.wrong]
    for what in dict.fromkeys(each.unlike for each in found if each.unlike):
        view.warn(f"only losses are compared, and within {rerun.TOLERANCE:.1%}: {what}")
    if json:
        report = {"schema": "gpunet.verify/1", "run": str(run), "ok": not wrong}
        view.print_json({**report, "epochs": [vars(each) for each in found]})
    else:
        rows = [[each.epoch, each.step, each.device, each.said] for each in found]
        view.table(["epoch", "step", "device", ""], rows, right=(0, 1))
    if wrong:
        raise CheckFailed(f"{run}: {len(wrong):,} of {len(found):,} epochs differ")


@app.command(cls=Command)
@takes_settings
def plan(
    data: TrainData = None,
    config: ConfigPath = None,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench", help="Measure the device: what should it take?", rich_help_panel=OUTPUT
        ),
    ] = False,
    json: TrainJson = False,
    **given: Any,
) -> None:
    """Print the launches of one training step on DATA, or of a run, with the settings of train."""
    data = _data(data, given, config)
    from gpunet import job, rerun

    if rerun.is_run(data) and (config or _given(given)):
        raise UsageError(f"{data} is a run: its settings are its own", "leave the others out")
    planned = rerun.reopen(data) if rerun.is_run(data) else job.plan(data, _given(given), config)
    launches = planned.launches
    document, facts = _expected(planned) if bench else ({}, [])
    if json:
        view.print_json({**view.plan_to_json(launches), **document})
    else:
        view.plan(launches)
        view.facts(facts, view.out())


@app.command(cls=Command)
def evaluate(
    run: RunPath,
    data: DataPath,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    drop_missing_target: DropMissing = False,
    json: Json = False,
) -> None:
    """Judge a trained model on data that has the target."""
    _start_reader(data)
    from gpunet import data as room
    from gpunet import predict as predicting
    from gpunet.device import resolve

    model = predicting.load(run)
    source = room.read(data, delimiter=delimiter, header=header, budget=_budget(max_memory))
    _warn_of_seen(run, data, source)
    rows = _answered(model, source) if drop_missing_target else None
    answers, unseen = model.answers_and_unseen(source, resolve(device).device, rows)
    for note in predicting.unseen_notes(unseen):
        view.warn(note)
    found, intervals = model.judge(*answers), model.intervals(*answers)
    if json:
        report = {"schema": "gpunet.evaluate/1", "run": str(run), "rows": len(answers[0])}
        view.print_json({**report, "metrics": found, "intervals": intervals})
    else:
        view.metrics({source.name: found}, {source.name: intervals})


@app.command(cls=Command)
def predict(
    run: RunPath,
    data: DataPath,
    out: Annotated[
        str, typer.Option("-o", "--out", help="A .csv, .parquet or .jsonl file, or - for stdout.")
    ] = "-",
    keep: Annotated[
        Optional[str], typer.Option(metavar=LIST, help="Columns of DATA to copy.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that is there.")
    ] = False,
    proba: Annotated[bool, typer.Option("--proba", help="Add a column a class.")] = False,
    spreadsheet_safe: Annotated[
        bool, typer.Option("--spreadsheet-safe", help="A ' before text that looks like a formula.")
    ] = False,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    json: Json = False,
) -> None:
    """Predict for new rows, in their order; a target is not needed."""
    _start_reader(data)
    from gpunet import data as room
    from gpunet import predict as predicting
    from gpunet.device import resolve

    predicting.check_destination(out, (run, data), overwrite)
    if overwrite and out == "-":
        raise UsageError("--overwrite is for a file", "name it with -o")
    if json and out == "-":
        raise UsageError("--json and the predictions are both for stdout", "name a file with -o")
    model = predicting.load(run)
    source = room.read(data, delimiter=delimiter, header=header, budget=_budget(max_memory))
    kept = list(split(keep)) if keep else []
    found = model.outcome(source, resolve(device).device)
    is_typed = predicting.ending(out) != ".csv"
    columns = predicting.columns(model.schema, source, found, kept, proba, is_typed)
    for note in found.notes:
        view.warn(note)
    predicting.write(predicting.spreadsheet_safe(columns) if spreadsheet_safe else columns, out)
    if json:
        report = {"schema": "gpunet.predict/1", "run": str(run), "out": out, "rows": source.rows}
        view.print_json({**report, "unseen": found.unseen})


OwnData = Annotated[
    Optional[str], typer.Argument(metavar="DATA", help="Rows that no run was trained on.")
]


@app.command(cls=Command)
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", readable=False)],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", readable=False)],
    data: OwnData = None,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    drop_missing_target: DropMissing = False,
    json: Json = False,
) -> None:
    """Say which of two models is better on the same rows, and whether by more than noise.

    Without DATA they are compared on the test part that both runs held out.
    """
    from gpunet import comparison as comparing

    source = _read_new(data, delimiter, header, max_memory, drop_missing_target)
    dropping = {"drop_missing_target": drop_missing_target}
    found = comparing.compare(run_a, run_b, source, device, place=data, **dropping)
    _tell_left_out(found.left_out)
    if json:
        names = {"a": str(run_a), "b": str(run_b)}
        view.print_json({"schema": comparing.SCHEMA, **names, **comparing.to_json(found)})
        return
    rows = [
        [
            name,
            *(view.number(of.get(name)) for of in found.metrics),
            view.figure(each.value, each.interval),
            f"{each.share:.3g}",
        ]
        for name, each in found.differences.items()
    ]
    view.table(["", str(run_a), str(run_b), "difference", "share"], rows, right=(1, 2, 3, 4))
    view.facts([(counted(found.rows, "row"), found.verdict)], view.out())


@app.command(cls=Command)
def importance(
    run: RunPath,
    data: OwnData = None,
    repeats: Annotated[int, typer.Option(help="Shuffles of each column.", min=1, max=1000)] = 5,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    drop_missing_target: DropMissing = False,
    json: Json = False,
) -> None:
    """Tell what a model owes to each column: its loss where that column is shuffled.

    On DATA, or on the rows that the run held out as its test part.
    """
    from gpunet import importance as weighing
    from gpunet.device import resolve

    source = _read_new(data, delimiter, header, max_memory, drop_missing_target)
    model, source = _model_and_rows(run, data, source, device)
    rows = _answered(model, source) if drop_missing_target else None
    found = weighing.importance(model, source, resolve(device).device, repeats, rows)
    if json:
        report = {"schema": weighing.SCHEMA, "run": str(run), **_rows_told(source, rows)}
        columns = [{**vars(each), "growth": vars(each.growth)} for each in found]
        view.print_json({**report, "columns": columns})
        return
    rows = [
        [view.short(each.column), view.figure(each.growth.value, each.growth.interval)]
        for each in found
    ]
    view.table(["column", f"{found[0].metric} grows by"], rows, right=(1,))


@app.command(cls=Command)
def slices(
    run: RunPath,
    data: OwnData = None,
    least: Annotated[int, typer.Option(help="Rows of a slice, at least.", min=2)] = 30,
    most: Annotated[int, typer.Option(help="Slices to show.", min=1)] = 10,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    drop_missing_target: DropMissing = False,
    json: Json = False,
) -> None:
    """Find where a model is worst: a level, or a quarter of the range, of one column.

    On DATA, or on the rows that the run held out as its test part.
    """
    from gpunet import slices as slicing
    from gpunet.device import resolve

    source = _read_new(data, delimiter, header, max_memory, drop_missing_target)
    model, source = _model_and_rows(run, data, source, device)
    chosen = _answered(model, source) if drop_missing_target else None
    whole, found = slicing.slices(model, source, resolve(device).device, least, most, chosen)
    if json:
        report = {"schema": slicing.SCHEMA, "run": str(run), **_rows_told(source, chosen)}
        view.print_json({**report, "all": whole, "slices": [vars(each) for each in found]})
        return
    rows = [
        [
            view.short(each.column),
            view.short(each.slice),
            f"{each.rows:,}",
            view.figure(each.value, each.interval),
            "worse" if each.is_worse else "",
        ]
        for each in found
    ]
    facts = [("all rows", view.number(whole))]
    if found:
        head = ["column", "slice", "rows", found[0].metric, ""]
        view.table(head, rows, right=(2, 3))
    else:
        lower = "; lower --least" if least > 2 else ""
        facts.append(("slices", f"no slice has {least:,} rows{lower}"))
    view.facts(facts, view.out())


@app.command(cls=Command)
def graph(
    text: Annotated[str, typer.Argument(metavar="FORMULA", help="(x+y)*z")],
    inputs: Inputs = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Spell out local gradient times upstream.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of randn and rand.", min=0, max=2**63 - 1)] = 0,
    json: Json = False,
) -> None:
    """Print a circuit in the order it is computed, each node with its value and gradient."""
    from gpunet import formula

    circuit = formula.parse(text)
    circuit.forward(formula.inputs(circuit, inputs or [], seed))
    circuit.backward()
    if json:
        view.print_json(formula.to_json(circuit))
        return
    nodes = formula.trace(circuit)
    rows = [[n.name, n.op, ", ".join(n.inputs), n.value_text, n.grad_text] for n in nodes]
    view.table(["node", "gate", "of", "value", "gradient"], rows, right=(3, 4))
    if explain:
        view.table(["", ""], [["", line] for n in reversed(nodes) for line in n.explain])


@app.command(cls=Command)
def gradcheck(
    text: Annotated[Optional[str], typer.Argument(metavar="FORMULA")] = None,
    inputs: Inputs = None,
    everything: Annotated[bool, typer.Option("--all", help="Every gate, loss and kernel.")] = False,
    seed: Annotated[
        int, typer.Option(help="Of the inputs that are drawn.", min=0, max=2**63 - 1)
    ] = 0,
    json: Json = False,
) -> None:
    """Compare gradients with central differences in float64; exit 6 when one does not hold."""
    from gpunet import gradcases
    from gpunet import gradcheck as checking

    results = gradcases.run(text, inputs or [], everything, seed)
    if json:
        view.print_json(checking.to_json(results))
    else:
        rows = [[r.name, r.kind, f"{r.error:.1e}", "ok" if r.ok else "WRONG"] for r in results]
        view.table(["name", "kind", "largest relative error", ""], rows, right=(2,))
        worst = max((result.error for result in results), default=0.0)
        view.facts([("largest", f"{worst:.1e} of {counted(len(results), 'check')}")], view.out())
    checking.demand(results)


@app.command(cls=Command)
def info(
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure what the devices are capable of.")
    ] = False,
    json: Json = False,
) -> None:
    """Versions, devices, and what --device auto would choose and why."""
    from gpunet import about

    found = about.collect()
    document, facts = _measured(found) if bench else ({}, [])
    if json:
        view.print_json({**found, **document})
    else:
        view.facts([*about.lines(found), *facts], view.out())


@data_app.command("list", cls=Command)
def data_list(json: Json = False) -> None:
    """The built-in sets."""
    from gpunet.data import BUILTIN

    if json:
        sets = [{"name": name, **vars(each)} for name, each in BUILTIN.items()]
        view.print_json({"schema": "gpunet.data-list/1", "sets": sets})
        return
    rows = [[name, f"{s.rows:,}", s.columns, s.task, s.description] for name, s in BUILTIN.items()]
    view.table(["name", "rows", "columns", "task", "what it is"], rows, right=(1, 2))


@data_app.command("show", cls=Command)
def data_show(
    data: DataPath,
    target: Annotated[Optional[str], typer.Option("-t", "--target", metavar=LIST)] = None,
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    json: Json = False,
) -> None:
    """Profile a file, a line a column."""
    _start_reader(data)
    from gpunet import data as room

    source = room.read(data, delimiter=delimiter, header=header, budget=_budget(max_memory))
    targets = split(target) if target else source.target
    columns = room.profile(source, targets)
    if json:
        view.print_json(
            {
                "schema": "gpunet.data-show/1",
                "data": source.name,
                "rows": source.rows,
                "columns": [vars(column) for column in columns],
            }
        )
        return
    view.profile(source.name, source.rows, columns)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every outcome becomes an exit code here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name, mode in (("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:  # results then have no place, talk no reader
            setattr(sys, name, os.fdopen(os.open(os.devnull, mode), "w"))
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        ending = dict.fromkeys(ENDING, _end)
        with _handling(ending | dict.fromkeys(SAVING, lambda number, frame: None)):
            code = _run(arguments)
    except _Ended as fault:  # between two lines of ours
        code = 128 + fault.number
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        return int(app(arguments, prog_name="gpunet", standalone_mode=False) or 0)
    except GpunetError as fault:
        return _fail(fault, str(fault), fault.exit_code)
    except MemoryError as fault:
        message = f"out of memory: {fault}" if str(fault) else "out of memory"
        return _fail(fault, message, OutOfMemory.exit_code)
    except (BrokenPipeError, SystemExit):  # Typer's own way to go when a pipe breaks is an exit
        return _leave_quietly()
    except OSError as fault:
        if fault.filename is None:
            _leave_quietly()
        kind = NotPermitted if isinstance(fault, PermissionError) else WriteError
        is_nowhere = isinstance(fault, FileNotFoundError)
        nameless = "the working directory" if is_nowhere else "stdout"
        said = f"{fault.filename or nameless}: {fault.strerror or fault}"
        return _fail(fault, said, kind.exit_code)
    except _Ended as fault:
        return _fail(fault, "interrupted", 128 + fault.number)
    except (KeyboardInterrupt, typer.Abort) as fault:
        return _fail(fault, "interrupted", Interrupted.exit_code)
    except Exception as fault:
        if hasattr(fault, "format_message"):
            return _fail(fault, _usage(fault), getattr(fault, "exit_code", 2))
        said = f"a bug in gpunet: {type(fault).__name__}: {fault} (--debug shows where)"
        return _fail(fault, said, 1)


def _usage(fault: Any) -> str:
    """What Typer found wrong with a command line; of an option that is not there, what is meant."""
    if not hasattr(fault, "option_name"):
        return str(fault.format_message())
    if not hasattr(fault, "possibilities"):  # a value is missing, or there should be none
        said = fault.message.partition(f"'{fault.option_name}' ")[2]
        return f"{fault.option_name}: {said.rstrip('.')}"
    options = fault.ctx.command.params
    known = (name for each in options for name in (*each.opts, *each.secondary_opts))
    near = meant(fault.option_name, known)
    return f"no such option: {fault.option_name}" + (f"; did you mean {near}?" if near else "")


def _fail(fault: BaseException, message: str, code: int) -> int:
    if DEBUG in sys.argv[1:]:
        import traceback

        traceback.print_exception(fault)
    if message:
        view.error(message)
    return code


def _leave_quietly() -> int:
    """Nobody takes what stdout still holds: it is dropped at the end."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextmanager
def _stop_on_signal(planned: "Job | Tuner") -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP end the loop after the step in hand, a second SIGINT at once;
    SIGUSR1 asks for a checkpoint. Handlers set flags, nothing else."""
    caught: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise _Ended(number)
        caught.append(number)
        planned.control.stop = True

    def save(number: int, frame: FrameType | None) -> None:
        planned.control.save = True

    with _handling(dict.fromkeys(ENDING, stop) | dict.fromkeys(SAVING, save)):
        yield caught


@contextmanager
def _handling(handlers: dict[int, Any]) -> Iterator[None]:
    """Handlers for a while; a signal that is ignored (nohup) stays so."""
    before = {number: signal.getsignal(number) for number in handlers}
    taken = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended(number)


def _data(data: str | None, options: dict[str, Any], config: Path | None) -> str:
    """What to learn from, whose reader is started: the lecture's rows where nothing is named.

    Raises UsageError where a file of settings is for others.
    """
    if data is not None:
        _refuse_study(data)
        _start_reader(data)
        return data
    if config is not None:
        from gpunet import job
        from gpunet.config import gather

        gather(_given(options), config)
        try:
            job.plan(LECTURE, _given(options), config)
        except (UsageError, DataError) as fault:
            said = f"DATA is missing: {config} does not fit the lecture's"
            raise UsageError(said, "name the data that it is for") from fault
    return LECTURE


def _planned(data: str, flags: dict[str, Any], config: Path | None, quiet: bool) -> "Job":
    from gpunet import job

    with view.phase(f"reading and encoding {data}", quiet):
        return job.plan(data, flags, config)


def _refuse_study(data: str) -> None:
    if os.path.isdir(data):
        from gpunet.run import refuse_study

        refuse_study(Path(data))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _numbers(text: str | None, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"{name} {text}: must be whole numbers with commas") from None


def _train(
    planned: "Job", caught: list[int], json: bool, quiet: bool, notes: Sequence[str]
) -> None:
    """Run a job to its end, showing it. Raises Interrupted where a signal has stopped it."""
    summary = _follow(planned, quiet, notes)
    is_stopped = summary["ended"] == "stopped"
    if json:
        view.print_json(summary)
    elif not is_stopped:
        view.metrics(summary["metrics"], summary["intervals"], summary["baselines"])
    if not quiet and not is_stopped:
        view.gap()
        view.facts([*_judged_facts(summary), *_next_steps(summary)])
    _warn_of(summary, notes)
    _check_ended(planned, caught, summary)


def _follow(planned: "Job", quiet: bool, notes: Iterable[str]) -> dict[str, Any]:
    """Run a job to its end, showing how it goes; its summary."""
    if not quiet:
        view.facts(_plan_facts(planned))
        view.gap()
    for note in notes:
        view.warn(note)
    with _training_view(planned, quiet) as shown:
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


def _repeat(
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

    asked = repeats.asked(data, flags, config, seeds, cv, out)
    Run.check(asked[0].out)
    found = repeats.Repeats(repeats.kind(seeds, cv))
    told: set[str] = set()
    try:
        for each in asked:
            if not quiet:
                view.say(f"{each.label}, {len(found.runs) + 1:,} of {len(asked):,}")
            planned = _planned(data, each.flags, config, quiet)
            with _stop_on_signal(planned) as caught, Run.create(each.out, planned.name) as held:
                planned.begin(held)
                fresh = [note for note in planned.prepared.notes if note not in told]
                told.update(fresh)
                summary = _follow(planned, quiet, fresh)
            _check_ended(planned, caught, summary)
            found.add(each, summary)
            _warn_of(summary, told, f"{each.label}: ")
    except Interrupted as fault:
        said = f"{each.label}: {fault.message}; {found.done(len(asked))}"
        raise Interrupted(said, fault.hint, fault.exit_code - 128) from None
    except _Ended as fault:
        raise Interrupted(found.done(len(asked)), signal_number=fault.number) from None
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


def _tell_place(quiet: bool, out: Path | None, made: Iterable[object]) -> None:
    """Where runs are whose place nobody named, and no talk has told."""
    if quiet and out is None:
        view.say(f"saved in {', '.join(map(str, made))}")


def _search(tuner: "Tuner", quiet: bool) -> None:
    """Make the trials of a study, a line each. Raises Interrupted where a signal has stopped it."""
    with _stop_on_signal(tuner) as caught:
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
        assert planned.run is not None
        with _stop_on_signal(planned) as caught, planned.run:
            summary = _follow(planned, quiet, notes)
        if summary["ended"] == "stopped":
            hint = "the same command goes on"
            raise Interrupted(f"stopped as trial {best.number} was trained", hint, caught[0])
    if json:
        view.print_json(tuner.to_dict(summary))
        return
    by = dict.fromkeys((tuner.metric, "loss"))
    head = ["trial", "", *by, "epochs", "time", "settings"]
    rows = [_trial_cells(trial, tuner.metric) for trial in tuner.trials()]
    view.table(head, rows, right=(0, *range(2, len(head) - 1)))
    view.metrics(summary["metrics"], summary["intervals"], summary["baselines"])
    if not quiet:
        view.gap()
        best_trial = ("best", f"trial {best.number}")
        view.facts([best_trial, *_judged_facts(summary), *_next_steps(summary)])
    _warn_of(summary, notes)


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


def _seconds(text: str | None) -> float | None:
    from gpunet.config import pace

    if text is None:
        return None
    found: int | float = 0
    with suppress(ValueError):
        found = pace(text)
    if not isinstance(found, float):
        raise UsageError(f"--timeout {text}: must be a time above 0, such as 30s, 10m, 2h")
    return found


def _show_columns(planned: "Job") -> None:
    """What was made of the columns, before what is made of the network."""
    if planned.prepared.seen:
        view.columns(planned.prepared.seen, view.err())
        view.gap()


def _show_plan(planned: "Job", json: bool) -> None:
    """What a run would be, on stdout."""
    from gpunet import outlook

    for note in planned.prepared.notes:
        view.warn(note)
    found = outlook.look(planned)
    if json:
        parts = planned.prepared.parts.items()
        rows = {name: 0 if part is None else part.rows for name, part in parts}
        more = {"rows": rows, "split": planned.prepared.how, "parameters": planned.parameters}
        more["warnings"] = planned.prepared.notes
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


def _measured(found: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What the CPU and the first GPU are capable of: as JSON, and for reading."""
    from gpunet import speed
    from gpunet.device import resolve

    names = ["cpu", *(gpu["name"] for gpu in found["gpus"][:1])]
    speeds = {name: speed.measure(resolve(name).device) for name in names}
    facts = [line for name, each in speeds.items() for line in speed.lines(name, each)]
    return {"bench": {name: vars(each) for name, each in speeds.items()}}, facts


def _expected(planned: "Job") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a step should take on its device as it is measured: as JSON, and for reading."""
    from gpunet import speed

    device, precision = planned.choice.device, planned.settings.config.precision
    found = speed.measure(device)
    step = speed.expected(planned.launches, found, precision)
    facts = [*speed.lines(device.name, found), ("expected", speed.expected_line(step))]
    return {"bench": vars(found), "expected": vars(step)}, facts


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


def _read_new(
    data: str | None, delimiter: str | None, header: bool, max_memory: str, drop: bool
) -> Any:
    """DATA read, if there is any; what has no meaning without it is refused."""
    from gpunet import data as room

    if data is None:
        if drop:
            raise UsageError("--drop-missing-target is for DATA", "give DATA")
        if delimiter is not None or not header or max_memory != "auto":
            raise UsageError("--delimiter, --no-header and --max-memory are for DATA", "give DATA")
        return None
    _start_reader(data)
    return room.read(data, delimiter=delimiter, header=header, budget=_budget(max_memory))


def _warn_of_seen(run: Path, data: str, source: Any) -> None:
    """Rows that a run has learned from say little of it."""
    from gpunet import comparison

    with suppress(GpunetError):  # what else is wrong with the run is nothing to its model
        if how := comparison.seen_by(run, data, source):
            seen = f"these rows are those that {run} was trained on:"
            if how == "place":
                seen = f"{run} has seen rows of {data}: unless they are others now,"
            held_out = f"{run / 'summary.json'} judges it on rows held out"
            view.warn(f"{seen} that flatters it; {held_out}")


def _model_and_rows(run: Path, data: str | None, source: Any, device: str) -> tuple[Any, Any]:
    """A model, and rows to judge it on: those given, or those that its run held out."""
    from gpunet import predict as predicting
    from gpunet import rerun

    model = predicting.load(run)
    if data is not None:
        _warn_of_seen(run, data, source)
    return model, rerun.held_out(run, device)[1] if source is None else source


def _answered(model: Any, source: Any) -> Any:
    """The rows that have the target; says how many have not."""
    rows = model.schema.answered(source)
    _tell_left_out(source.rows - len(rows))
    return rows


def _rows_told(source: Any, rows: Any) -> dict[str, int]:
    """How many rows a model was looked at on, and of how many those were drawn."""
    from gpunet.importance import MOST_ROWS

    given = source.rows if rows is None else len(rows)
    return {"rows": min(given, MOST_ROWS), "rows_given": given}


def _tell_left_out(count: int) -> None:
    if count:
        view.warn(f"left out {counted(count, 'row')} without a target")


def _budget(max_memory: str) -> int | None:
    from gpunet.config import memory

    budget = memory(max_memory)
    return None if budget == "auto" else budget


def _start_reader(data: str) -> None:
    """Where DATA is to be parsed, start the process that parses while this one still imports."""
    if data == "-" or os.path.exists(data):
        isolation.start_early("gpunet.data.formats")


def _training_view(planned: "Job", quiet: bool) -> view.Training:
    from gpunet.metrics import main_metric

    target = planned.prepared.schema.target
    metric = main_metric(target.task, bool(target.quantiles))
    return view.Training(planned.steps, metric, quiet)


def _plan_facts(planned: "Job") -> list[tuple[str, str]]:
    config, schema, data = planned.settings.config, planned.prepared.schema, planned.prepared
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
    sent = ", rows sent there in windows" if planned.sends_rows else ""
    return [
        ("data", f"{planned.name}: {sizes} ({data.how})"),
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
        ("device", f"{device.name}, {config.precision} ({planned.choice.reason}){sent}"),
        ("run", str(planned.out)),
    ]


def _batch(config: Any) -> str:
    whole, rows = f"{config.batch_size:,}", config.micro_batch_size
    return whole if rows == "all" else f"{whole} in micro-batches of {rows:,}"


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
    run, ended = summary["run"], summary["ended"]
    why = {"patience": ", no better one since", "stopped": ", stopped"}.get(ended, "")
    best = summary["best_epoch"]
    epoch = "the last epoch" if best is None else f"epoch {best:,}"
    if summary["networks"] > 1 and best is not None:
        epoch = f"{summary['networks']:,} networks, each of its best epoch"
    kept = f"{epoch} of {summary['epochs']:,}{why}"
    return [
        ("kept", f"{kept}, {view.duration(summary['seconds'])} on {summary['runs_on']}"),
        ("next", f"gpunet evaluate {argument(run)} DATA"),
        ("", f"gpunet predict {argument(run)} DATA -o predictions.csv"),
    ]
