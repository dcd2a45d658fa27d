"""What `auto` means: every setting that was left open, decided from the data, with its reason."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil
from typing import Any

from gpunet import gates, loop, model, optim
from gpunet.config import Config, Settings
from gpunet.data import Prepared, Schema
from gpunet.data.columns import MOST_LEVELS
from gpunet.data.limits import automatic, available
from gpunet.data.targets import NUMBERS, Target
from gpunet.device import Choice, Device, has_driver, resolve
from gpunet.device.cpu import Cpu
from gpunet.errors import UsageError
from gpunet.kernels import native
from gpunet.loop import Member
from gpunet.sizes import shown
from gpunet.view import duration

UPDATES, MIN_EPOCHS, MAX_EPOCHS = 6000, 20, 200
BATCH_RULE = ((2_800, 32), (4_500, 64), (6_400, 128), (32_000, 256), (108_000, 512))

CPU_FLOPS, CPU_STEP = 5e10, 2e-5
"""Of a thread, about a third of what benchmarks/results/cpu.json holds for float32; seconds that a
step takes beside its products."""
GPU_START, GPU_FLOPS, GPU_STEP, GPU_COPY = 3.0, 2e13, 5e-5, 5e9
"""Assumed for any GPU, and cautiously: seconds until CUDA, CuPy and the kernels are ready, products
of a step, seconds beside them (an H200 took that many, and half of it where the network stays on
the GPU for many steps), bytes of rows a second on their way. `gpunet info --bench` measures what
they are on a machine."""
PRODUCTS = 6
"""Operations of a training step for each weight and row: forward, and backward to both."""
OF_CPU, OF_CUDA = ("threads", "kernels", "split"), ("tf32", "bf16")
"""Settings, and precisions, that choose a device."""

Decision = tuple[str, Callable[[Config], tuple[Any, str]]]


def with_memory(settings: Settings) -> Settings:
    """Memory is decided before any data is read."""
    if settings.config.max_memory != "auto":
        return settings
    return settings.resolve("max_memory", automatic(), f"half of {shown(available())}")


def with_encoding(settings: Settings) -> Settings:
    """How columns and targets become numbers is decided before they are read."""
    decisions = [
        ("scaling", "standard", "mean 0 and deviation 1"),
        ("one_hot_levels", "all", f"levels are inputs, at most {MOST_LEVELS} of a column"),
        ("clamp", "off", "any number may be predicted"),
        ("target_transform", "none", "the target's own units"),
    ]
    for name, value, reason in decisions[0 if settings.config.standardise else 1 :]:
        if getattr(settings.config, name) == "auto":
            settings = settings.resolve(name, value, reason)
    return settings


def asked(settings: Settings) -> Choice | None:
    """The device that the settings ask for; None where `auto` depends on how much work there is."""
    config = settings.config
    if config.device != "auto":
        return resolve(config.device)
    if given := [name for name in OF_CPU if settings.given(name)]:
        return Choice(Cpu(), f"--{given[0]} is for the CPU")
    return None if has_driver() and config.precision not in OF_CUDA else resolve("auto")


def weigh(config: Config, members: Sequence[Member]) -> Choice:
    """The CPU for work that it would have done before a GPU could be, else the GPU."""
    cpu = Cpu()
    here, there = predicted(config, members, cpu.threads)
    said = f"about {duration(here)} here, {duration(there)} on a GPU with the {GPU_START:g} s of"
    if here <= there:
        return Choice(cpu, f"{said} its start")
    found = resolve("auto")
    return found if found.device.kind == "cpu" else Choice(found.device, f"{said} its start")


def predicted(config: Config, members: Sequence[Member], threads: int) -> tuple[float, float]:
    """Seconds of training on so many threads of a CPU, and on a GPU, its start included."""
    member = members[0]
    rows, arrays = member.data.train.rows, (member.data.train.x, member.data.train.y)
    weights = sum(each.size for each in member.network.weights.values() if each.ndim == 2)
    steps = loop.steps_in_all(config, rows) * len(members)
    flops = PRODUCTS * weights * min(int(config.batch_size), rows) * steps
    nbytes = sum(each.nbytes for each in arrays if each is not None)
    here = flops / (CPU_FLOPS * threads) + steps * CPU_STEP
    return here, GPU_START + flops / GPU_FLOPS + steps * GPU_STEP + nbytes / GPU_COPY


def decide(settings: Settings, prepared: Prepared) -> Settings:
    """Every `auto` that follows from the data resolved, each with its reason."""
    schema, rows = prepared.schema, prepared.train.rows
    task = schema.target.task
    decisions: list[Decision] = [
        ("task", lambda config: (task, schema.target.reason)),
        ("hidden", lambda config: _hidden(schema.width)),
        ("init", _init),
        ("loss", lambda config: _loss(config, task)),
        ("lr", lambda config: (optim.OPTIMIZERS[config.optimizer].lr, config.optimizer)),
        ("batch_size", lambda config: _batch_size(rows)),
        ("epochs", lambda config: _epochs(config, rows)),
        ("patience", lambda config: _patience(config, prepared)),
        ("baselines", lambda config: _baselines(prepared)),
        ("calibrate", lambda config: _calibrate(task, _is_blind(config, prepared))),
    ]
    settings = _with_threshold(_resolved(settings, decisions), schema.target)
    _check_parts(settings.config, prepared)
    _check_encoding(settings, schema)
    _check_fade(settings)
    _check_judging(settings, prepared)
    _check_warmup(settings.config, rows)
    _check_batches(settings)
    return settings


def decide_on(settings: Settings, schema: Schema, choice: Choice) -> Settings:
    """Every `auto` that follows from the device resolved, each with its reason."""
    device = choice.device
    precision = ("fp32", "on the CPU") if device.kind == "cpu" else ("tf32", "on CUDA")
    decisions: list[Decision] = [
        ("threads", lambda config: (device.threads, "the cores that are there")),
        ("split", lambda config: _split(config, schema.width, schema.target.outputs, device)),
        ("device", lambda config: (device.name, choice.reason)),
        ("precision", lambda config: precision),
        ("micro_batch_size", lambda config: ("all", "they fit")),
    ]
    return _resolved(settings, decisions)


def _resolved(settings: Settings, decisions: list[Decision]) -> Settings:
    for name, decide in decisions:
        counted_in_steps = name == "epochs" and settings.config.steps is not None
        if getattr(settings.config, name) == "auto" and not counted_in_steps:
            settings = settings.resolve(name, *decide(settings.config))
    return settings


def _loss(config: Config, task: str) -> tuple[str, str]:
    if config.quantiles:
        return "pinball", f"{len(config.quantiles)} quantiles"
    return model.TASK_LOSSES[task][0], f"a {task} target"


def _hidden(width: int) -> tuple[tuple[int, ...], str]:
    return ((256, 128) if width > 256 else (128, 64)), f"{width:,} inputs"


def _init(config: Config) -> tuple[str, str]:
    if config.hidden == ():
        return "lecun", "no hidden layer"
    return model.default_init(config.activation), config.activation


def _split(config: Config, inputs: int, targets: int, device: Device) -> tuple[str, str]:
    """As the engine splits products: by columns those that are wider than the batch."""
    if device.kind != "cpu" or config.kernels == "numpy" or config.deterministic:
        return "rows", "deterministic" if config.deterministic else "not by native loops"
    hidden = config.hidden if isinstance(config.hidden, tuple) else ()
    widths, batch = (inputs, *hidden, targets), int(config.batch_size)
    forward = [(n, k) for k, n in pairwise(widths)]
    products = [*forward, *pairwise(widths[1:])]
    if device.threads > 1 and any(native.is_wide(batch, n, k) for n, k in products):
        return "columns", f"a layer is wider than a batch of {batch:,}"
    return "rows", f"no layer is wider than a batch of {batch:,}"


def _batch_size(rows: int) -> tuple[int, str]:
    size = next((size for limit, size in BATCH_RULE if rows < limit), 1024)
    return size, f"{rows:,} training rows"


def _epochs(config: Config, rows: int) -> tuple[int, str]:
    per_epoch = loop.steps_an_epoch(config, rows)
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, ceil(UPDATES / per_epoch)))
    return epochs, f"{per_epoch:,} steps each"


def _patience(config: Config, prepared: Prepared) -> tuple[int, str]:
    if _is_blind(config, prepared):
        return 0, "no validation part"
    epochs = int(config.epochs) if config.steps is None else loop.REPORTS
    return max(10, epochs // 4), f"a quarter of {epochs:,} epochs, 10 at least"


def _baselines(prepared: Prepared) -> tuple[bool, str]:
    if _is_alone(prepared):
        return False, "no rows held out"
    is_table = prepared.schema.kind == "table"
    return is_table, "a table" if is_table else "no table"


def _is_alone(prepared: Prepared) -> bool:
    """Whether all rows train."""
    return prepared.validation is None and prepared.test is None


def _is_blind(config: Config, prepared: Prepared) -> bool:
    """Whether nothing says while it trains how good a network is."""
    return prepared.validation is None and not config.folds


def _calibrate(task: str, is_blind: bool) -> tuple[bool, str]:
    if task in NUMBERS:
        return False, f"a {task} target"
    return not is_blind, "no validation part" if is_blind else "on rows that trained nothing"


def _with_threshold(settings: Settings, target: Target) -> Settings:
    """The threshold that weights of classes ask for, unless one is given."""
    if target.task != "binary" or not target.factors or settings.given("threshold"):
        return settings
    return settings.resolve("threshold", target.threshold, "what --class-weight makes of 0.5")


def _check_judging(settings: Settings, prepared: Prepared) -> None:
    """What is fitted after training needs a task with probabilities, and rows to be fitted on."""
    config, task = settings.config, prepared.schema.target.task
    if config.calibrate is True and task in NUMBERS:
        raise UsageError(f"--calibrate has no meaning for a {task} target")
    if config.best_by != "loss" and task in NUMBERS:
        raise UsageError(f"--best-by {config.best_by} has no meaning for a {task} target")
    if task != "binary" and (settings.given("threshold") or config.threshold == "auto"):
        raise UsageError(f"--threshold has no meaning for a {task} target")
    fitted = [
        n
        for n, value in (("calibrate", True), ("threshold", "auto"))
        if getattr(config, n) == value
    ]
    if _is_blind(config, prepared) and fitted:
        raise UsageError(f"--{fitted[0]} needs a validation part", "set --validation")
    if _is_alone(prepared) and settings.given("baselines") and config.baselines:
        raise UsageError("--baselines needs rows held out", "set --test or --validation")


def _check_parts(config: Config, prepared: Prepared) -> None:
    if _is_blind(config, prepared) and (config.patience or config.schedule == "plateau"):
        name = "--patience" if config.patience else "--schedule plateau"
        raise UsageError(f"{name} needs a validation part", "set --validation")


def _check_encoding(settings: Settings, schema: Schema) -> None:
    config, task = settings.config, schema.target.task
    if task != "regression" and settings.given("clamp") and config.clamp == "on":
        raise UsageError(f"--clamp on has no meaning for a {task} target")
    asked = settings.given("numeric_embedding") and config.numeric_embedding != "none"
    if asked and schema.kind != "table":
        raise UsageError(f"--numeric-embedding {config.numeric_embedding} is for columns of tables")


def _check_fade(settings: Settings) -> None:
    config = settings.config
    has_nothing = config.dropout == 0 and config.weight_decay == 0
    if config.fade != "none" and has_nothing and settings.origin["fade"] == "flag":
        raise UsageError(f"--fade {config.fade} ends nothing: dropout and weight decay are 0")


def _check_warmup(config: Config, rows: int) -> None:
    total = loop.steps_in_all(config, rows)
    if config.warmup >= total:
        hint = "shorten it, or give a share of all steps"
        raise UsageError(f"--warmup {config.warmup:,} of {total:,} steps never ends", hint)


def _check_batches(settings: Settings) -> None:
    config = settings.config
    rows, batch = loop.micro_batch(config), int(config.batch_size)
    if batch == 1 and config.norm == "batch":
        raise UsageError("--norm batch has no meaning for batches of one row", "use --norm layer")
    if rows is None:
        return
    if rows > batch and settings.given("batch_size"):
        raise UsageError(f"--micro-batch-size {rows:,} is more than a batch of {batch:,} rows")
    if rows < batch and config.norm == "batch":
        hint = "leave it out, or use --norm layer"
        message = "--micro-batch-size conflicts with --norm batch, which is over whole batches"
        raise UsageError(message, hint)


def set_up(settings: Settings, device: Device) -> None:
    """Set the device up as asked. Raises UsageError for what it cannot do."""
    config, precision = settings.config, settings.config.precision
    if device.kind == "cpu":
        device.kernels = config.kernels
        device.threads = device.threads if config.threads == "auto" else int(config.threads)
        device.split = config.split
    device.deterministic = config.deterministic
    for name in ("kernels", "threads", "split"):
        is_asked = settings.origin[name] == "flag" and settings.given(name)
        if device.kind != "cpu" and is_asked:
            raise UsageError(f"--{name} has no meaning on {device.name}")
    known = {"auto", *gates.ACTIVATIONS, *gates.LOSSES}
    formulas = [n for n in ("activation", "loss") if getattr(config, n) not in known]
    if config.kernels == "native" and formulas:
        message = f"--kernels native conflicts with a formula as --{formulas[0]}"
        raise UsageError(message, "leave it out: a formula has no native loop")
    if config.kernels == "native" or (
        settings.origin["split"] == "flag" and config.split != "auto"
    ):
        native.load()
    if device.kind == "cpu" and precision in ("tf32", "bf16"):
        raise UsageError(f"--precision {precision} is for CUDA", "use fp32 or fp64 on the CPU")
