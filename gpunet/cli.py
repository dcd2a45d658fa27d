"""The command line: options in, one library call, a view out; errors become exit codes here alone.

NumPy, CuPy and the rooms that use them are imported inside the commands, so that --help is quick.
"""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from gpunet import follow, isolation, signals, view
from gpunet.commas import split
from gpunet.errors import (
    CheckFailed,
    DataError,
    GpunetError,
    Interrupted,
    NotPermitted,
    OutOfMemory,
    UsageError,
    WriteError,
)
from gpunet.options import DEBUG, LIST, Command, FormulaCommand, Group, meant, takes_settings
from gpunet.sizes import counted

if TYPE_CHECKING:
    from gpunet.launches import LaunchList

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
Threshold = Annotated[
    Optional[float],
    typer.Option(metavar="P", help="Of a binary target, in place of the model's own."),
]
MaxMemory = Annotated[str, typer.Option(metavar="SIZE", help="Memory for data: 512M, 1.5GiB.")]
Inputs = Annotated[
    Optional[list[str]],
    typer.Argument(
        metavar="NAME=VALUE...", help="x=-2, x=[[1,2],[3,4]], x=@file.npy, w=randn(3,4)"
    ),
]


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
@takes_settings()
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
    flags = _given(given)
    data = _data(data, flags, config)
    if seeds is not None or cv is not None:
        if dry_run:
            raise UsageError("--dry-run is for one run", "leave out --seeds and --cv")
        follow.repeat(data, flags, config, seeds, cv, out, json, quiet)
        return
    from gpunet.run import Run

    Run.check(out)
    planned = follow.plan(data, flags, config, quiet)
    if dry_run:
        follow.show_plan(planned, json)
    else:
        follow.train(planned, out, json, quiet)


@app.command(cls=Command)
@takes_settings()
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

    with view.phase(f"reading and encoding {data}", quiet):
        tuner = tuning.Tuner(data, _given(given), config, out, trials, timeout, workers)
    try:
        follow.tune(tuner, json, quiet)
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
    follow.resume(planned, notes, json, quiet)


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
@takes_settings()
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
    flags = _given(given)
    data = _data(data, flags, config)
    from gpunet import job, rerun

    is_run = rerun.is_run(data)
    if is_run and (config or flags):
        raise UsageError(f"{data} is a run: its settings are its own", "leave the others out")
    planned = rerun.reopen(data) if is_run else job.plan(data, flags, config)
    launches = planned.launches
    document, facts = _expected(launches) if bench else ({}, [])
    if json:
        view.print_json({**view.plan_to_json(launches), **document})
    else:
        view.plan(launches)
        view.facts(facts, view.out())


@app.command(cls=Command)
def evaluate(
    run: RunPath,
    data: DataPath,
    threshold: Threshold = None,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    drop_missing_target: DropMissing = False,
    json: Json = False,
) -> None:
    """Judge a trained model on data that has the target."""
    _start_reader(data)
    from gpunet import predict as predicting
    from gpunet.device import resolve

    model = predicting.load(run).at(threshold)
    source = _read(data, delimiter, header, max_memory)
    _warn_of_seen(run, data, source)
    rows = _answered(model, source, drop_missing_target)
    answers, unseen = model.answers_and_unseen(source, resolve(device).device, rows)
    for note in model.notes(unseen):
        view.warn(note)
    found = model.judged(*answers)
    if json:
        report = {"schema": "gpunet.evaluate/1", "run": str(run), "rows": answers[0].rows}
        view.print_json({**report, **found})
    else:
        view.metrics({name: {source.name: value} for name, value in found.items()})


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
    threshold: Threshold = None,
    device: DeviceName = "cpu",
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    json: Json = False,
) -> None:
    """Predict for new rows, in their order; a target is not needed.

    The columns are prediction (prediction_TARGET of several targets), of quantiles
    q0.1 and so on (q0.1_TARGET), and with --proba one p_CLASS a class.
    """
    _start_reader(data)
    from gpunet import predict as predicting
    from gpunet.device import resolve

    predicting.check_destination(out, (run, data), overwrite)
    if json and out == "-":
        raise UsageError("--json and the predictions are both for stdout", "name a file with -o")
    model = predicting.load(run).at(threshold)
    source = _read(data, delimiter, header, max_memory)
    kept = list(split(keep)) if keep else []
    found = model.outcome(source, resolve(device).device)
    is_typed = predicting.ending(out) != ".csv"
    columns = predicting.columns(model.schema, source, found, kept, proba, is_typed)
    for note in model.notes(found.unseen):
        view.warn(note)
    predicting.write(predicting.spreadsheet_safe(columns) if spreadsheet_safe else columns, out)
    if json:
        report = {"schema": "gpunet.predict/1", "run": str(run), "out": out, "rows": source.rows}
        unseen = found.unseen
        told = {"unseen": unseen.category, "missing": unseen.missing, "outside": unseen.outside}
        view.print_json({**report, **told})


OwnData = Annotated[
    Optional[str], typer.Argument(metavar="DATA", help="Rows that no run was trained on.")
]


@app.command(cls=Command)
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", readable=False, help="One model.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", readable=False, help="The other.")],
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
    head = ["", str(run_a), str(run_b), "difference", "share"]
    view.table(head, rows, right=(1, 2, 3, 4))
    told = [
        (counted(found.rows, "row"), found.verdict),
        ("share", comparing.SHARE),
        *[("resampled", found.resampled)] * (found.resampled != "rows"),
    ]
    view.facts(told, view.out())


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
    from gpunet import permutation

    source = _read_new(data, delimiter, header, max_memory, drop_missing_target)
    model, source = _model_and_rows(run, data, source, device)
    rows = _answered(model, source, drop_missing_target)
    found = permutation.importance(model, source, device, repeats, rows)
    if json:
        report = {"schema": permutation.SCHEMA, "run": str(run), **_rows_told(source, rows)}
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
    from gpunet import slicing

    source = _read_new(data, delimiter, header, max_memory, drop_missing_target)
    model, source = _model_and_rows(run, data, source, device)
    chosen = _answered(model, source, drop_missing_target)
    whole, found = slicing.slices(model, source, device, least, most, chosen)
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


@app.command(cls=FormulaCommand)
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


@app.command(cls=FormulaCommand)
def gradcheck(
    text: Annotated[Optional[str], typer.Argument(metavar="FORMULA", help="(x+y)*z")] = None,
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
@takes_settings("target", "types", "na", "decimal")
def data_show(
    data: DataPath,
    delimiter: Delimiter = None,
    header: Header = True,
    max_memory: MaxMemory = "auto",
    json: Json = False,
    **given: Any,
) -> None:
    """Profile a file, a line a column, as train reads it by default."""
    _start_reader(data)
    from gpunet.config import gather
    from gpunet.data import profile
    from gpunet.presets import DATA

    config = gather(_given(given)).config
    source = _read(data, delimiter, header, max_memory)
    columns = profile(
        source,
        config.target,
        types=config.column_types,
        na=config.na,
        decimal=config.decimal,
        one_hot_levels=DATA["one_hot_levels"],
    )
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
        ending = dict.fromkeys(signals.ENDING, signals.end)
        with signals.handling(ending | dict.fromkeys(signals.SAVING, lambda number, frame: None)):
            code = _run(arguments)
    except signals.Ended as fault:  # between two lines of ours
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
    except signals.Ended as fault:
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


def _data(data: str | None, flags: dict[str, Any], config: Path | None) -> str:
    """What to learn from, whose reader is started: the lecture's rows where nothing is named.

    Raises UsageError where a file of settings is for others.
    """
    if data is not None:
        if os.path.isdir(data):
            from gpunet.run import refuse_study

            refuse_study(Path(data))
        _start_reader(data)
        return data
    if config is not None:
        from gpunet import job
        from gpunet.config import gather

        gather(flags, config)
        try:
            job.plan(LECTURE, flags, config)
        except (UsageError, DataError) as fault:
            said = f"DATA is missing: {config} does not fit the lecture's"
            raise UsageError(said, "name the data that it is for") from fault
    return LECTURE


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _numbers(text: str | None, name: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"{name} {text}: must be whole numbers with commas") from None


def _measured(found: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What the CPU and the first GPU are capable of: as JSON, and for reading."""
    from gpunet import speed
    from gpunet.device import resolve

    names = ["cpu", *(gpu["name"] for gpu in found["gpus"][:1])]
    speeds = {name: speed.measure(resolve(name).device) for name in names}
    facts = [line for name, each in speeds.items() for line in speed.lines(name, each)]
    return {"bench": {name: vars(each) for name, each in speeds.items()}}, facts


def _expected(launches: "LaunchList") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """What a step should take on its device as it is measured: as JSON, and for reading."""
    from gpunet import speed

    device = launches.device
    found = speed.measure(device)
    step = speed.expected(launches, found, device.precision)
    facts = [*speed.lines(device.name, found), ("expected", speed.expected_line(step))]
    return {"bench": vars(found), "expected": vars(step)}, facts


def _read_new(
    data: str | None, delimiter: str | None, header: bool, max_memory: str, drop: bool
) -> Any:
    """DATA read, if there is any; what has no meaning without it is refused."""
    if data is None:
        if drop:
            raise UsageError("--drop-missing-target is for DATA", "give DATA")
        if delimiter is not None or not header or max_memory != "auto":
            raise UsageError("--delimiter, --no-header and --max-memory are for DATA", "give DATA")
        return None
    _start_reader(data)
    return _read(data, delimiter, header, max_memory)


def _read(data: str, delimiter: str | None, header: bool, max_memory: str) -> Any:
    """DATA as the options say."""
    from gpunet import data as room
    from gpunet.config import memory

    size = memory(max_memory)
    budget = None if size == "auto" else size
    return room.read(data, delimiter=delimiter, header=header, budget=budget)


def _warn_of_seen(run: Path, data: str, source: Any) -> None:
    """Rows that a run has learned from say little of it."""
    from gpunet import heldout

    with suppress(GpunetError):  # what else is wrong with the run is nothing to its model
        if how := heldout.seen_by(run, data, source):
            seen = f"these rows are those that {run} was trained on:"
            if how == "place":
                seen = f"{run} has seen rows of {data}: unless they are others now,"
            view.warn(f"{seen} that flatters it; {run / 'summary.json'} judges it on rows held out")


def _model_and_rows(run: Path, data: str | None, source: Any, device: str) -> tuple[Any, Any]:
    """A model, and rows to judge it on: those given, or those that its run held out."""
    from gpunet import heldout
    from gpunet import predict as predicting

    model = predicting.load(run)
    if data is not None:
        _warn_of_seen(run, data, source)
    return model, heldout.held_out(run, device)[1] if source is None else source


def _answered(model: Any, source: Any, drop_missing_target: bool) -> Any:
    """The rows that have the target where others are to be left out, which are counted; else None:
    all."""
    if not drop_missing_target:
        return None
    rows = model.schema.answered(source)
    _tell_left_out(source.rows - len(rows))
    return rows


def _rows_told(source: Any, rows: Any) -> dict[str, int]:
    """How many rows a model was looked at on, and of how many those were drawn."""
    from gpunet.permutation import MOST_ROWS

    given = source.rows if rows is None else len(rows)
    return {"rows": min(given, MOST_ROWS), "rows_given": given}


def _tell_left_out(count: int) -> None:
    if count:
        view.warn(f"left out {counted(count, 'row')} without a target")


def _start_reader(data: str) -> None:
    """Where DATA is to be parsed, start the process that parses while this one still imports."""
    if data == "-" or os.path.exists(data):
        isolation.start_early("gpunet.data.formats")
