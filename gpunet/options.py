"""Settings as command-line options: every field of Config becomes one, with its help and default.

Values stay text here; config.py alone checks them.
"""

from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from difflib import get_close_matches
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args

import typer

from gpunet.config import Config, Switch, flag

ELSEWHERE = {
    "lr": "learning-rate alpha eta",
    "hidden": "layers hidden-layers units width",
    "epochs": "max-epochs num-epochs n-epochs passes",
    "steps": "max-steps num-steps max-iter iterations",
    "weight_decay": "l2 wd decay",
    "seed": "random-state random-seed",
    "patience": "early-stopping early-stopping-rounds",
    "target": "label label-column response",
    "device": "gpu cuda",
    "optimizer": "solver opt",
    "schedule": "lr-schedule scheduler",
    "dropout": "drop-out dropout-rate",
    "batch_size": "bs batch",
    "micro_batch_size": "grad-accum gradient-accumulation-steps",
    "clip_norm": "grad-clip gradient-clip max-grad-norm clip",
    "validation": "val val-size val-split valid",
    "test": "test-size test-split",
    "out": "output run-dir out-dir",
}
"""What other programs call an option."""
SHORT_OPTION = len("--epoch")
"""Of shorter ones few letters are alike by chance."""
SHORT = {"target": "-t", "epochs": "-e", "batch_size": "-b", "device": "-d"}


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Replace `**settings` in a command's signature by one option a setting, None if not given."""
    own = [p for p in signature(command).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    argument, *rest = own
    rest = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in rest]
    options = [_option(each) for each in fields(Config)]
    command.__signature__ = Signature([argument, *options, *rest])  # type: ignore[attr-defined]
    return command


def meant(option: str, known: Iterable[str]) -> str | None:
    """Which of the known options a wrong one stands for: by another program's name, or misspelt."""
    own = {name: name for name in known if name.startswith("--")}
    others = {
        flag(word): flag(name)
        for name, words in ELSEWHERE.items()
        for word in words.split()
        if flag(name) in own
    }
    names, is_short = {**others, **own}, len(option) < SHORT_OPTION
    near = get_close_matches(option, names, 1, cutoff=0.9 if is_short else 0.75)
    return names[near[0]] if near else None


def _option(each: "Field[Any]") -> Parameter:
    is_switch = each.type in (bool, Switch)
    names = _switch(each) if is_switch else [flag(each.name)]
    names += [SHORT[each.name]] if each.name in SHORT else []
    option = typer.Option(
        *names,
        help=each.metadata["help"] + ("" if is_switch else _choices(each) + _default(each)),
        rich_help_panel=each.metadata["panel"],
        show_default=False,
        metavar=None if is_switch else _metavar(each.type),
    )
    kind: Any = bool if is_switch else str
    annotation = Annotated[kind | None, option]
    return Parameter(each.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _switch(each: "Field[Any]") -> list[str]:
    """The flags of yes and no; of what is on unless told otherwise the second alone."""
    no = flag("no_" + each.name)
    return [f" /{no}"] if each.default is True else [f"{flag(each.name)}/{no}"]


def _choices(each: "Field[Any]") -> str:
    words = get_args(each.type)
    is_closed = words and all(isinstance(word, str) for word in words)
    return f" One of {', '.join(words)}." if is_closed else ""


def _default(each: "Field[Any]") -> str:
    return "" if each.default in (None, ()) else f" Default: {each.default}."


def _metavar(kind: Any) -> str:
    text = str(kind)
    if "tuple" in text:
        return "A,B"
    words = [word for part in get_args(kind) for word in (get_args(part) or (part,))]
    if kind is str or str in words or (words and all(isinstance(w, str) for w in words)):
        return "NAME"
    return "N" if "int" in text else "X"
