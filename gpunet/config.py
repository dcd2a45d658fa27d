"""What a run is: one checked set of settings, and where each value came from.

A setting is declared once, here: its name, type, default and help; the command line and the
library read them off. Flags win over the file, the file over a built-in set's recipe, the recipe
over the defaults. A value that was given is never ignored: two that conflict are a UsageError.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Interval, Le, Predicate

from gpunet.commas import joined, split
from gpunet.errors import InputMissing, NotPermitted, UsageError
from gpunet.sizes import parse_size

Auto = Literal["auto"]
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Interval(gt=0, lt=inf)]
NotNegative = Annotated[float, Interval(ge=0, lt=inf)]
Rate = Annotated[float, Interval(ge=0, lt=1)]
Share = Annotated[float, Interval(gt=0, lt=1)]
Switch = bool | Auto

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def pace(text: str) -> int | float:
    """`500` as steps, an int; `30s`, `5m`, `1h` as seconds, a float. ValueError for others."""
    if text[-1:] in UNITS:
        seconds = float(text[:-1]) * UNITS[text[-1]]
        if 0 < seconds < inf:
            return seconds
    elif text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError(f"{text!r} is neither a number of steps nor a time")


def fold(text: str) -> tuple[int, int]:
    """`2/5` as (2, 5), the second fold of five. ValueError for what is no fold of several."""
    which, slash, count = text.partition("/")
    if slash and all(part.isascii() and part.isdigit() for part in (which, count)):
        found = int(which), int(count)
        if 1 <= found[0] <= found[1] and found[1] > 1:
            return found
    raise ValueError(f"{text!r} is no fold of several")


def _read_by(parse: Callable[[str], object]) -> Predicate:
    def reads(text: str) -> bool:
        with suppress(ValueError):
            parse(text)
            return True
        return False

    return Predicate(reads)


Pace = Annotated[str, _read_by(pace)]
Fold = Annotated[str, _read_by(fold)]
Task = Literal["auto", "regression", "count", "binary", "multiclass", "multilabel"]
Decimal = Literal[",", "."]
Scaling = Literal["auto", "robust", "standard"]
Norm = Literal["none", "layer", "batch"]
Preset = Literal["auto", "fast", "best", "plain"]
NumericEmbedding = Literal["none", "periodic", "piecewise", "both"]
ValueEmbedding = Literal["none", "rough"]
Init = Literal["auto", "he", "xavier", "lecun", "normal", "data"]
Parametrisation = Literal["standard", "ntk"]
Optimizer = Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "lion"]
Schedule = Literal["constant", "linear", "cosine", "coslog4", "onecycle", "plateau"]
Fade = Literal["none", "cosine"]
BestBy = Literal["loss", "accuracy", "log_loss"]
Transform = Literal["auto", "none", "log"]
Choose = Literal["auto", "on", "off"]
Kernels = Literal["auto", "native", "numpy"]
Split = Literal["auto", "rows", "columns"]
Precision = Literal["auto", "fp64", "fp32", "tf32", "bf16"]

DATA, NETWORK, TRAINING, HARDWARE = "Data", "Network", "Training", "Hardware"
JUDGING, OUTPUT = "Judging", "Output"
COLUMN = ("split_column", "weight", "group", "time")
"""Settings that name a column."""
COLUMN_TYPES = ("numeric", "boolean", "category", "date")
"""What --types may say of a column."""
COLUMNS, PAIRS = ("target", "features", "drop"), ("types", "class_weight")
"""Lists of names, which may be numbers, and lists of pairs, which may be dicts."""
LISTS = {
    **dict.fromkeys(COLUMNS, "must be a list of names"),
    "types": "must be a list of COLUMN=KIND, or a dict",
    "class_weight": "must be balanced, a list of LABEL=WEIGHT, or a dict",
    "betas": "must be two numbers",
}
USES_MOMENTUM = ("sgd", "momentum", "nesterov")
USES_BETAS = ("adam", "adamw", "lion")
ELSEWHERE = {
    word: name
    for name, words in {
        "lr": "learning_rate alpha eta",
        "hidden": "layers hidden_layers units width",
        "epochs": "max_epochs num_epochs n_epochs passes",
        "steps": "max_steps num_steps max_iter iterations",
        "weight_decay": "l2 wd decay",
        "seed": "random_state random_seed",
        "patience": "early_stopping early_stopping_rounds",
        "target": "label label_column response",
        "device": "gpu cuda",
        "optimizer": "solver opt",
        "schedule": "lr_schedule scheduler",
        "dropout": "drop_out dropout_rate",
        "batch_size": "bs batch",
        "micro_batch_size": "grad_accum gradient_accumulation_steps",
        "clip_norm": "grad_clip gradient_clip max_grad_norm clip",
        "validation": "val val_size val_split valid",
        "test": "test_size test_split",
        "out": "output run_dir out_dir",
    }.items()
    for word in words.split()
}
"""What other programs call a setting, or the option --out → its name here."""
VALUES_HINT = "a target's values go beside the table: (table, y)"
OF_A_COMMAND = """
    data out config json quiet dry_run seeds cv trials timeout workers
""".split()
"""What a command is told beside the settings, and no file of settings can say."""
NEEDS_OTHER = ("momentum", "betas", "scaling")
INSTEAD = {"steps": "epochs", "epochs": "steps", "test": "test_fold", "test_fold": "test"}
"""Either takes the place of the other where that comes from further away."""


def _setting(default: Any, panel: str, help: str) -> Any:
    return field(default=default, metadata={"panel": panel, "help": help})


@dataclass(frozen=True)
class Config:
    """Every setting of a run. `auto` is resolved from the data before training."""

    target: tuple[str, ...] = _setting((), DATA, "Column to predict; several with commas.")
    features: tuple[str, ...] = _setting((), DATA, "Columns to learn from; all others when empty.")
    drop: tuple[str, ...] = _setting((), DATA, "Columns to leave out.")
    types: tuple[str, ...] = _setting((), DATA, "Columns that are read as: zip=category,when=date.")
    na: tuple[str, ...] = _setting((), DATA, "More words that mean missing: n/a,-,? as written.")
    decimal: Decimal | None = _setting(
        None, DATA, "Decimal mark of numbers in text; the other one may part thousands."
    )
    task: Task = _setting("auto", DATA, "What is predicted.")
    quantiles: tuple[Share, ...] = _setting(
        (), DATA, "Quantiles of the target instead of its mean, rising: 0.1,0.5,0.9."
    )
    validation: Rate | str = _setting(0.15, DATA, "Fraction of the rows, or a file.")
    test: Rate | str = _setting(0.15, DATA, "Fraction of the rows, or a file.")
    test_fold: Fold | None = _setting(
        None, DATA, "The test part: 2/5 is the second of five folds of the rows."
    )
    folds: Annotated[int, Ge(0)] = _setting(
        0, DATA, "Networks that each leave a fold of the rows out, instead of a validation part."
    )
    split_column: str | None = _setting(None, DATA, "Column that says train, validation or test.")
    weight: str | None = _setting(None, DATA, "Column that says how much each row counts.")
    group: str | None = _setting(None, DATA, "Column whose groups are never in two parts.")
    time: str | None = _setting(None, DATA, "Column by which the first rows train, the last test.")
    delimiter: str | None = _setting(None, DATA, "What stands between cells; found if not given.")
    header: bool = _setting(True, DATA, "The first line of a text file names the columns.")
    drop_missing_target: bool = _setting(False, DATA, "Leave out rows that have no target.")
    standardise: bool = _setting(
        True, DATA, "Inputs and targets standardised, else in their own units."
    )
    scaling: Scaling = _setting(
        "auto", DATA, "Inputs of a table by mean and deviation, or by quartiles and clipped softly."
    )
    one_hot_levels: Annotated[int, Interval(ge=1, le=64)] | Literal["auto", "all"] = _setting(
        "auto", DATA, "Categories with more levels, 1 to 64, take an embedding; all: none does."
    )
    value_embedding: ValueEmbedding = _setting(
        "none",
        DATA,
        "Recurring values of a number that take an embedding: none, or of columns in which "
        "neighbouring values differ by more than chance.",
    )
    clamp: Choose = _setting("auto", DATA, "Keep predicted numbers within the training targets'.")
    target_transform: Transform = _setting(
        "auto", DATA, "What is learnt of a number above 0: itself or its logarithm."
    )
    shuffle: bool = _setting(True, DATA, "Rows in another order every epoch.")

    preset: Preset = _setting(
        "auto", NETWORK, "What else is left open: the recipe for tables, or a plain network."
    )
    numeric_embedding: NumericEmbedding = _setting(
        "none",
        NETWORK,
        "What a number of a table becomes: itself, or learned waves, shares of bins, or both too.",
    )
    input_scale: bool = _setting(False, NETWORK, "A learned factor for each input.")
    hidden: tuple[Count, ...] | Auto = _setting(
        "auto", NETWORK, "Widths of hidden layers, or none."
    )
    activation: str = _setting(
        "relu", NETWORK, "relu, gelu, silu, mish, selu, sigmoid, tanh, or a formula of x."
    )
    parametric: bool = _setting(
        False, NETWORK, "Each hidden unit learns its share of the activation."
    )
    norm: Norm = _setting("none", NETWORK, "Normalisation before each activation.")
    dropout: Rate = _setting(0.0, NETWORK, "Fraction of hidden units dropped while training.")
    bias: bool = _setting(True, NETWORK, "Layers with a bias.")
    init: Init = _setting("auto", NETWORK, "Distribution of the first weights.")
    parametrisation: Parametrisation = _setting(
        "standard", NETWORK, "ntk: steps of weights shrink with the root of a layer's inputs."
    )
    loss: str = _setting(
        "auto",
        NETWORK,
        "mean_squared, sum_squares, mean_absolute, huber(1), pinball(0.5), sigmoid_cross_entropy, "
        "softmax_cross_entropy, poisson, or a formula of pred and target, "
        "standardised in regression.",
    )
    label_smoothing: Rate = _setting(0.0, NETWORK, "Share of each label spread over the others.")
    class_weight: tuple[str, ...] = _setting(
        (), NETWORK, "Weights of classes in the loss: balanced, or a=1,b=5."
    )

    members: Count = _setting(1, NETWORK, "Networks that are averaged, each from its own seed.")
    optimizer: Optimizer = _setting("adamw", TRAINING, "How gradients move the weights.")
    lr: Positive | Auto = _setting("auto", TRAINING, "Learning rate, at its highest.")
    schedule: Schedule = _setting("cosine", TRAINING, "How the learning rate changes.")
    warmup: Rate | Count = _setting(0.0, TRAINING, "Steps of warm-up, or a share of all.")
    weight_decay: NotNegative = _setting(0.01, TRAINING, "Pull of weights, not biases, to zero.")
    fade: Fade = _setting(
        "none", TRAINING, "cosine: dropout and weight decay end over the second half."
    )
    momentum: Rate | None = _setting(None, TRAINING, "Share of the last move that is kept.")
    betas: tuple[Rate, Rate] | None = _setting(None, TRAINING, "Decay of the two moments.")
    batch_size: Count | Auto = _setting("auto", TRAINING, "Rows a step.")
    epochs: Count | Auto = _setting("auto", TRAINING, "Passes over the training rows.")
    steps: Count | None = _setting(None, TRAINING, "Updates, instead of epochs.")
    patience: Annotated[int, Ge(0)] | Auto = _setting(
        "auto", TRAINING, "Epochs to wait for a better one; 0: never stop."
    )
    best_by: BestBy = _setting("loss", TRAINING, "What says which epoch was best.")
    clip_norm: Positive | None = _setting(None, TRAINING, "Largest norm of the whole gradient.")
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = _setting(
        0, TRAINING, "Of split, weights, order, dropout."
    )

    baselines: Switch = _setting("auto", JUDGING, "Beside a constant and a linear model.")
    calibrate: Switch = _setting("auto", JUDGING, "Fit a temperature on the validation part.")
    threshold: Share | Auto = _setting(
        0.5,
        JUDGING,
        "Above this probability a binary target is true; auto: the best F1 on validation.",
    )

    device: str = _setting("auto", HARDWARE, "auto, cpu, cuda or cuda:N.")
    threads: Count | Auto = _setting("auto", HARDWARE, "Threads on the CPU, at most.")
    kernels: Kernels = _setting("auto", HARDWARE, "What runs on the CPU.")
    split: Split = _setting(
        "auto", HARDWARE, "What threads share out: rows, or columns of layers wider than the batch."
    )
    deterministic: bool = _setting(
        False,
        HARDWARE,
        "The same bits for any number of threads; on CUDA no product splits its sums.",
    )
    precision: Precision = _setting("auto", HARDWARE, "auto: fp32 on the CPU, tf32 on CUDA.")
    micro_batch_size: Count | Literal["auto", "all"] = _setting(
        "auto",
        HARDWARE,
        "Rows of a batch at a time, whose gradients are added up; auto: as many as fit, or all.",
    )
    max_memory: Count | Auto = _setting("auto", HARDWARE, "Memory for data: 512M, 1.5GiB.")

    checkpoint_every: Pace = _setting(
        "30s", OUTPUT, "Steps between checkpoints, or a time: 500, 30s, 5m."
    )

    @property
    def is_weighted(self) -> bool:
        """Whether rows count differently in the loss."""
        return self.weight is not None or bool(self.class_weight)

    @property
    def has_waves(self) -> bool:
        """Whether numbers of a table take learned waves."""
        return self.numeric_embedding in ("periodic", "both")

    @property
    def has_bins(self) -> bool:
        """Whether numbers of a table take shares of bins."""
        return self.numeric_embedding in ("piecewise", "both")

    @property
    def is_blind(self) -> bool:
        """Whether nothing says while it trains how good a network is."""
        return self.validation == 0 and not self.folds

    @property
    def dtype(self) -> str:
        """What numbers are kept as."""
        return "float64" if self.precision == "fp64" else "float32"

    @property
    def column_types(self) -> dict[str, str]:
        """The kind of each column in `types`. Raises UsageError for what is no name=kind."""
        found: dict[str, str] = {}
        for pair in self.types:
            name, _, kind = pair.rpartition("=")
            if not name:
                raise UsageError(f"--types {pair}: must be COLUMN=KIND, as zip=category")
            if kind not in COLUMN_TYPES:
                near = get_close_matches(kind, COLUMN_TYPES, 1)
                hint = f"did you mean {near[0]}?" if near else f"kinds: {', '.join(COLUMN_TYPES)}"
                raise UsageError(f"--types {pair}: no kind {kind!r}", hint)
            if found.setdefault(name, kind) != kind:
                raise UsageError(f"--types: {name} is both {found[name]} and {kind}")
        return found

    @property
    def between_checkpoints(self) -> int | float:
        """Steps (an int) or seconds (a float) from one checkpoint to the next."""
        return pace(self.checkpoint_every)


@dataclass(frozen=True)
class Settings:
    """A Config and, for each setting, where its value came from."""

    config: Config
    origin: Mapping[str, str]

    def given(self, name: str) -> bool:
        """Whether the user chose a value: by a flag, or by a file that says other than the
        default; `auto` chooses none."""
        value = getattr(self.config, name)
        if self.origin[name] == "file":
            return bool(value != getattr(Config(), name))
        return self.origin[name] == "flag" and value != "auto"

    def is_open(self, name: str) -> bool:
        """Whether nobody chose a value, so that a preset may."""
        return self.origin[name] == "default"

    def preset(self, name: str, value: Any) -> "Settings":
        """The same settings with a value of the preset."""
        return Settings(
            replace(self.config, **{name: value}),
            {**self.origin, name: f"preset {self.config.preset}"},
        )

    def resolve(self, name: str, value: Any, reason: str) -> "Settings":
        """The same settings with an `auto` value decided, and why."""
        return Settings(
            replace(self.config, **{name: value}), {**self.origin, name: f"auto: {reason}"}
        )

    def lasting(self) -> dict[str, Any]:
        """What the outcome of a run depends on, in plain values: not its hardware and output."""
        return {
            each.name: getattr(self.config, each.name)
            for each in fields(Config)
            if each.metadata["panel"] not in (HARDWARE, OUTPUT)
        }

    def to_toml(self, use: str) -> str:
        """A file that `--config` reads: how it is used, then a line a setting, its origin behind
        it."""
        lines = [f"# {_one_line(use)}"]
        panel = None
        for each in fields(Config):
            value = getattr(self.config, each.name)
            if panel != each.metadata["panel"]:
                panel = each.metadata["panel"]
                lines += ["", f"# {panel}"]
            note = _one_line(self.origin[each.name])
            lines.append(
                f"# {each.name} is not set"
                if value is None
                else f"{_toml(each.name, value)}  # {note}"
            )
        return "\n".join(lines) + "\n"


def gather(
    flags: Mapping[str, Any] | None = None,
    file: Path | str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Settings:
    """Checked settings from flags, a TOML file and a built-in set's recipe, in that precedence.

    `flags` holds what was given alone; strings are read as the command line would. Raises
    UsageError for an unknown name, a value of the wrong kind, or two values that conflict.
    """
    values: dict[str, Any] = {}
    origin = dict.fromkeys(names(), "default")
    for found, word in ((recipe, "the set's recipe"), (read_file(file), "file"), (flags, "flag")):
        for name, given in (found or {}).items():
            _known(name, word)
            value, other = _python(given), INSTEAD.get(name)
            is_open = value is None or (isinstance(value, str) and value == "auto")
            if not is_open and other in values and other not in (found or {}):
                del values[other]
                origin[other] = "default"
            values[name] = _plain(name, value, word)
            origin[name] = word
    settings = Settings(_validate(values, origin), origin)
    _check_conflicts(settings)
    return settings


def memory(text: str) -> int | Auto:
    """A --max-memory in bytes, or auto; UsageError for anything else."""
    if text == "auto":
        return "auto"
    try:
        return parse_size(text)
    except ValueError as reason:
        raise UsageError(f"--max-memory {_shown(text)}: {reason}") from None


def names() -> list[str]:
    """The names of all settings, in order."""
    return [each.name for each in fields(Config)]


def meant(
    word: str, own: Iterable[str], cutoff: float, written: Callable[[str], str] = str
) -> str | None:
    """Which name of one's own a word stands for: by another program's name, or misspelt; `written`
    says how names are."""
    names = {name: name for name in own}
    elsewhere = {written(a): written(b) for a, b in ELSEWHERE.items() if written(b) in names}
    names = {**elsewhere, **names}
    near = get_close_matches(word, names, 1, cutoff=cutoff)
    return names[near[0]] if near else None


def flag(name: str) -> str:
    """How the command line writes a setting."""
    return "--" + name.replace("_", "-")


def read_file(path: Path | str | None) -> dict[str, Any]:
    """The settings in a TOML file, unchecked; {} for None."""
    if path is None:
        return {}
    import tomllib

    try:
        if str(path) == "-" or Path(path).is_fifo():
            raise UsageError(f"{path}: a pipe; settings are read more than once", "name a file")
        if Path(path).is_char_device() and str(path) != os.devnull:
            raise UsageError(f"{path}: a device; wanted a TOML file of settings")
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputMissing(f"{path}: no such file") from None
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read", "check its permissions") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a directory; wanted a TOML file of settings") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise UsageError(f"{path}: not a TOML file of settings: {reason}") from None


def _known(name: str, word: str) -> None:
    if word == "file" and name in OF_A_COMMAND:
        raise UsageError(f"{name} (file): is given on the command line only")
    if name not in names():
        near = _switched_off(name, word) or meant(name, names(), 0.75)
        hint = f"did you mean {near}?" if near else f"settings are {', '.join(names())}"
        raise UsageError(f"no setting {name!r} ({word})", hint)


def _switched_off(name: str, word: str) -> str | None:
    """What says in a file, or in Python, what `no_<name>` does on the command line."""
    switches = {f"no_{own}": own for own in names() if _type(own) in (bool, Switch)}
    own = switches.get(name.replace("-", "_"))
    return own and own + (" = false" if word == "file" else "=False")


def _python(value: Any) -> Any:
    """A value as Python has it: of NumPy, and of columns like it, numbers and lists; of paths
    text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value


def _plain(name: str, value: Any, word: str) -> Any:
    """A value as the type check takes it: true is no number, and one number is a list of one."""
    if isinstance(value, bool) and _type(name) not in (bool, Switch):
        raise UsageError(f"{name} ({word}): {value} is neither a number nor text")
    if isinstance(value, Mapping) and name in PAIRS:
        return tuple(f"{key}={each}" for key, each in value.items())
    if _is_list(name) and isinstance(value, (int, float)):
        value = (value,)
    if name in COLUMNS and isinstance(value, (list, tuple)):
        return tuple(str(each) if isinstance(each, int) else each for each in value)
    if name == "checkpoint_every" and isinstance(value, int):
        return str(value)
    return _from_text(name, value) if isinstance(value, str) else value


def _from_text(name: str, text: str) -> Any:
    """Comma lists become tuples, and numbers numbers where a path could stand as well;
    everything else is left to the type check."""
    kind = _type(name)
    if name == "max_memory":
        return memory(text)
    if _is_list(name) and text != "auto":
        is_none = text == "" or (text == "none" and name != "na")
        return () if is_none else split(text)
    if kind == Rate | str:
        with suppress(ValueError):
            return float(text)
    return text


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Config)


def _validate(values: dict[str, Any], origin: Mapping[str, str]) -> Config:
    from pydantic import ValidationError

    try:
        config: Config = _adapter().validate_python(values)
    except ValidationError as reason:
        fault = reason.errors()[0]
        name = str(fault["loc"][0])
        where = flag(name) if origin[name] == "flag" else f"{name} ({origin[name]})"
        value = values[name] if _is_list(name) else str(values[name])
        is_y = name == "target" and isinstance(value, (tuple, list))
        hint = VALUES_HINT if is_y else None
        raise UsageError(f"{where} {_shown(value)}: {_wanted(name, fault)}", hint) from None
    return config


def _wanted(name: str, fault: Mapping[str, Any]) -> str:
    options = [option for part in get_args(_type(name)) for option in (get_args(part) or (part,))]
    if options and all(isinstance(option, str) for option in options):
        return f"must be one of {', '.join(options)}"
    is_list = fault["type"] in ("missing", "too_long") or "tuple" in fault["type"]
    if _is_list(name) and (is_list or fault["type"] == "string_type"):
        return LISTS.get(name, "must be a list")
    if name in COLUMN:
        return "must be a column's name"
    if fault.get("ctx", {}).get("lt") == inf:
        least = "above 0" if Positive in get_args(_type(name)) else "from 0 on"
        return f"must be a finite number {least}"
    if fault["type"] == "predicate_failed" and name == "test_fold":
        return "must be one of several folds, such as 2/5"
    if fault["type"] == "predicate_failed":
        return "must be a number of steps, or a time such as 30s, 5m, 1h"
    if _type(name) == Rate | str and "number" not in fault["type"]:
        return "must be a fraction of the rows, or a file"
    return str(fault["msg"]).replace("Input should be", "must be").replace("Value error, ", "")


def _type(name: str) -> Any:
    return Config.__dataclass_fields__[name].type


def _is_list(name: str) -> bool:
    return "tuple" in str(_type(name))


def _shown(value: Any) -> str:
    text = (joined(value) or "none") if isinstance(value, (tuple, list)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _check_conflicts(settings: Settings) -> None:
    config = settings.config
    if config.folds == 1:
        raise UsageError("--folds 1: wants 2 or more, or 0 for none")
    _ = config.column_types
    if any(low >= high for low, high in pairwise(config.quantiles)):
        raise UsageError(f"--quantiles {_shown(config.quantiles)}: must rise")
    if config.quantiles and config.task not in ("auto", "regression"):
        raise UsageError(f"--quantiles has no meaning for --task {config.task}")
    rules = [
        ("steps", "epochs", True),
        ("momentum", "optimizer", config.optimizer not in USES_MOMENTUM),
        ("betas", "optimizer", config.optimizer not in USES_BETAS),
        ("dropout", "hidden", config.hidden == () and config.dropout > 0),
        ("norm", "hidden", config.hidden == () and config.norm != "none"),
        ("activation", "hidden", config.hidden == ()),
        ("init", "hidden", config.hidden == () and config.init not in ("normal", "data", "lecun")),
        ("parametric", "hidden", config.hidden == () and config.parametric),
        ("best_by", "validation", config.is_blind),
        ("folds", "validation", config.folds > 0 and config.validation != 0),
        ("folds", "split_column", config.folds > 0),
        ("patience", "validation", config.is_blind and config.patience != 0),
        ("schedule", "validation", config.is_blind and config.schedule == "plateau"),
        ("calibrate", "validation", config.is_blind and config.calibrate is True),
        ("warmup", "schedule", config.schedule == "onecycle" and config.warmup > 0),
        ("split", "kernels", config.kernels == "numpy" and config.split == "columns"),
        ("split", "deterministic", config.deterministic and config.split == "columns"),
        ("scaling", "standardise", not config.standardise),
        ("split_column", "validation", True),
        ("split_column", "test", True),
        ("test_fold", "test", True),
        ("test_fold", "split_column", True),
        ("test_fold", "time", True),
        ("time", "split_column", True),
        ("time", "group", True),
        ("folds", "group", config.folds > 0),
        ("folds", "time", config.folds > 0),
        ("features", "drop", bool(set(config.features) & set(config.drop))),
    ]
    for first, second, conflict in rules:
        if conflict and settings.given(first) and settings.given(second):
            one, other = (_as_given(name, getattr(config, name)) for name in (first, second))
            raise UsageError(f"{one} and {other} conflict", "leave one of them out")
        if conflict and settings.given(first) and first in NEEDS_OTHER:
            other = _as_given(second, getattr(config, second))
            raise UsageError(f"{flag(first)} has no meaning for {other}")


def _as_given(name: str, value: Any) -> str:
    """A setting as the command line has it."""
    if isinstance(value, bool):
        return flag(name if value else f"no_{name}")
    return f"{flag(name)} {_shown(value)}"


def _one_line(text: str) -> str:
    """Text that may stand in a comment."""
    return "".join(c if c.isprintable() else " " for c in text)


def _toml(name: str, value: Any) -> str:
    import tomli_w

    value = list(value) if isinstance(value, tuple) else value
    text = tomli_w.dumps({name: value}, multiline_strings=False).strip()
    return text if "\n" not in text else f"{name} = [{', '.join(_items(value))}]"


def _items(values: list[Any]) -> list[str]:
    import tomli_w

    return [tomli_w.dumps({"v": value}).strip().removeprefix("v = ") for value in values]
