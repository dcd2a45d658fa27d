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
    **dict.fromkeys(("learning_rate", "alpha", "eta"), "lr"),
    **dict.fromkeys(("layers", "units", "width", "hidden_layers"), "hidden"),
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs", "passes"), "epochs"),
    **dict.fromkeys(("max_iter", "iterations", "max_steps", "num_steps"), "steps"),
    **dict.fromkeys(("l2", "wd", "decay"), "weight_decay"),
    **dict.fromkeys(("random_state", "random_seed"), "seed"),
    **dict.fromkeys(("early_stopping", "early_stopping_rounds"), "patience"),
    **dict.fromkeys(("label", "label_column", "response"), "target"),
    **dict.fromkeys(("gpu", "cuda"), "device"),
    **dict.fromkeys(("solver", "opt"), "optimizer"),
    **dict.fromkeys(("lr_schedule", "scheduler"), "schedule"),
    **dict.fromkeys(("dropout_rate", "drop_out"), "dropout"),
    **dict.fromkeys(("accumulate", "grad_accum", "gradient_accumulation_steps"), "micro_batch_size"),
    **dict.fromkeys(("output", "run_dir", "out_dir"), "out"),
}
"""What other programs call an option → its name here."""
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
    others = {flag(word): flag(name) for word, name in ELSEWHERE.items() if flag(name) in own}
    near = get_close_matches(option, (names := {**others, **own}), 1, cutoff=0.75)
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
