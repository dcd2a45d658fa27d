"""Settings as command-line options: every field of Config becomes one, with its help and default;
and command lines that lose nothing: an option that is given twice is an error.

Values stay text here; config.py alone checks them.
"""

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, fields
from difflib import get_close_matches
from inspect import Parameter, Signature, getdoc, signature
from shlex import quote
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from gpunet import config
from gpunet.commas import joined
from gpunet.config import Config, Switch, flag
from gpunet.errors import UsageError

SHORT_OPTION = len("--epoch")
"""Of shorter ones few letters are alike by chance."""
SHORT = {"target": "-t", "epochs": "-e", "batch_size": "-b", "device": "-d"}
MEANT = (("target", "-t"), ("out", "-o"))
"""What words without an option may be meant for."""
LIST = "A,B"
"""How the help writes a value that may be several."""
WHOLE = 1000
"""Letters of what the list of commands says of one: its first sentence."""
NARROW, WIDE = 60, 100
"""Columns of a terminal: below the first the help says what an option means under its name, and
above the second it leaves the rest free."""
DEFAULTS = """
Defaults are those of arrays, and of --preset plain. A table gets other values, its preset's, for
settings that are left open; config.toml in the run says which.
"""
DEBUG = "--debug"
"""An option of gpunet itself, which may stand behind a command as well."""


class Command(TyperCommand):
    """A command whose options are given once each, and whose faults read as all of gpunet's. Its
    help is plain text, in which no name is cut."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.width = _width()
        super().format_help(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            own = "Arguments" if each.param_type_name == "argument" else "Options"
            panel = getattr(each, "rich_help_panel", None) or own
            if (row := each.get_help_record(ctx)) is not None:
                panels.setdefault(panel, []).append(row)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows, col_max=30 if formatter.width > NARROW else 4)

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(WHOLE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = [word for word in args if word != DEBUG]
        values, spare = _once(self, ctx, args)
        if spare and "help" not in values:
            raise UsageError(*_too_many(self, ctx, values, spare))
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as fault:
            raise _fault(fault, values) from None


class FormulaCommand(Command):
    """A command of a formula, which may begin with a minus: it has long options alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        params = self.get_params(ctx)
        known = {"--", DEBUG, *(n for each in params for n in (*each.opts, *each.secondary_opts))}
        said = {word.partition("=")[0] for word in args if word.startswith("--")}
        ctx.ignore_unknown_options = said <= known
        if unknown := sorted(said - known):
            args = unknown  # is told of, not the formula that looks like an option
        return super().parse_args(ctx, args)


class Group(TyperGroup):
    """Commands by name; without one the help is printed, on stderr."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.width = _width()
        super().format_help(ctx, formatter)

    def get_short_help_str(self, limit: int = 0) -> str:
        return super().get_short_help_str(WHOLE)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            sys.stderr.write(ctx.get_help() + "\n")
            raise typer.Exit(UsageError.exit_code)
        _once(self, ctx, args)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            near = get_close_matches(args[0], self.commands, 1)
            hint = f"did you mean {near[0]}?" if near else f"{ctx.command_path} --help lists them"
            raise UsageError(f"no such command: {args[0]}", hint)
        return super().resolve_command(ctx, args)


def _width() -> int:
    """Columns that the help may fill."""
    return min(max(shutil.get_terminal_size().columns, 30), WIDE) - 1


def takes_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace `**settings` in a command's signature by one option a setting, None if not given: of
    all, whose help says whose the defaults are, or of those that are named."""
    options = [_option(each) for each in fields(Config) if not names or each.name in names]

    def take(command: Callable[..., None]) -> Callable[..., None]:
        of_command = signature(command).parameters.values()
        argument, *rest = [each for each in of_command if each.kind is not Parameter.VAR_KEYWORD]
        rest = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in rest]
        if not names:
            command.__doc__ = f"{getdoc(command)}\n{DEFAULTS}"
        command.__signature__ = Signature([argument, *options, *rest])  # type: ignore[attr-defined]
        return command

    return take


def meant(option: str, known: Iterable[str]) -> str | None:
    """Which of the known options a wrong one stands for: by another program's name, or misspelt."""
    own = (name for name in known if name.startswith("--"))
    return config.meant(option, own, 0.9 if len(option) < SHORT_OPTION else 0.75, flag)


def _once(command: Any, ctx: Any, args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What the options of a command line say, and words that are left over. Raises UsageError where
    one says it twice: Typer would take the last."""
    if ctx.resilient_parsing:
        return {}, []
    values, spare, order = command.make_parser(ctx).parse_args(args=list(args))
    for each in order:
        is_said_once = order.count(each) == 1 or each.is_eager
        if each.param_type_name == "option" and not is_said_once:
            raise UsageError(_twice(each, args))
    return dict(values), spare


def _too_many(
    command: Any, ctx: Any, values: dict[str, Any], spare: Sequence[str]
) -> tuple[str, str]:
    """What to say of words that are no argument of a command, and which option they are meant for:
    the first of those in MEANT that it has, and was not given."""
    own = {each.name for each in command.params} - values.keys()
    near = [option for name, option in MEANT if name in own]
    hint = f"did you mean {near[0]} {quote(joined(spare))}?" if near else _see_help(ctx)
    return f"{' '.join(spare)}: {ctx.command_path} takes no such argument", hint


def _see_help(ctx: Any) -> str:
    return f"{ctx.command_path} --help says what it takes"


def _twice(option: Any, args: Sequence[str]) -> str:
    names = [name for name in (*option.opts, *option.secondary_opts) if name]
    said = "/".join(name for name in names if name.startswith("--"))
    if option.metavar != LIST:
        return f"{said} is given twice; leave one out"
    joined = quote(",".join(_values(names, args)))
    return f"{said} is given twice; put all of it in one: {said} {joined}"


def _values(names: Sequence[str], args: Sequence[str]) -> list[str]:
    """What stands behind an option's names."""
    found = []
    for word, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in names:
            found.append(value if equals else following)
        elif word[:2] in names and not word.startswith("--"):
            found.append(word[2:])
    return found


def _fault(fault: Any, values: dict[str, Any]) -> UsageError:
    """A value that an option cannot take, or one that is missing, in the words of config.py."""
    param = fault.param
    is_option = param.param_type_name == "option"
    name = param.opts[0] if is_option else (param.metavar or param.name).strip("[]")
    if not fault.message:
        return UsageError(f"{name} is missing", _see_help(fault.ctx))
    wanted = fault.message.replace("Input should be", "must be")
    return UsageError(f"{name} {str(values.get(param.name))[:60]}: {wanted}")


def _option(each: "Field[Any]") -> Parameter:
    is_switch = each.type in (bool, Switch)
    name = flag(each.name)
    names = [f"{name}/{flag('no_' + each.name)}" if is_switch else name]
    names += [SHORT[each.name]] if each.name in SHORT else []
    option = typer.Option(
        *names,
        help=each.metadata["help"] + _told(each) + _default(each),
        rich_help_panel=each.metadata["panel"],
        show_default=False,
        metavar=None if is_switch else _metavar(each.type),
        autocompletion=lambda incomplete: [w for w in _choices(each) if w.startswith(incomplete)],
    )
    kind: Any = bool if is_switch else str
    annotation = Annotated[kind | None, option]
    return Parameter(each.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _choices(each: "Field[Any]") -> tuple[str, ...]:
    """The words that a setting may be, where it is one of some."""
    words = get_args(each.type)
    return words if all(isinstance(word, str) for word in words) else ()


def _told(each: "Field[Any]") -> str:
    words = _choices(each)
    return f" One of {', '.join(words)}." if words else ""


def _default(each: "Field[Any]") -> str:
    if each.type is bool:
        return " Default: on." if each.default else ""
    return "" if each.default in (None, ()) else f" Default: {each.default}."


def _metavar(kind: Any) -> str:
    text = str(kind)
    if "tuple" in text:
        return LIST
    words = [word for part in get_args(kind) for word in (get_args(part) or (part,))]
    if kind is str or str in words or (words and all(isinstance(w, str) for w in words)):
        return "NAME"
    return "N" if "int" in text else "X"
