"""Settings: precedence, checks, conflicts, and the file that gives them back."""

import os
import tomllib
from dataclasses import fields
from inspect import signature
from pathlib import Path
from re import escape

import numpy as np
import pytest

from gpunet.cli import train, tune
from gpunet.config import Config, gather
from gpunet.errors import InputMissing, NotPermitted, UsageError


class Frame:
    """An object that is neither true nor false."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def __eq__(self, other: object) -> "Frame":
        return self

    def __str__(self) -> str:
        return "a frame"


def test_flags_win_over_the_file_over_the_recipe_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("lr = 0.5\nepochs = 7\n")
    settings = gather({"epochs": "9"}, file, {"lr": 0.1, "epochs": 1, "norm": "layer"})
    config, origin = settings.config, settings.origin
    assert (config.epochs, config.lr, config.norm, config.seed) == (9, 0.5, "layer", 0)
    assert [origin[n] for n in ("epochs", "lr", "norm", "seed")] == [
        "flag",
        "file",
        "the set's recipe",
        "default",
    ]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("256,128", "hidden", (256, 128)),
        ("none", "hidden", ()),
        ("auto", "hidden", "auto"),
        ("1e-3", "lr", 1e-3),
        ("0.9,0.95", "betas", (0.9, 0.95)),
        ("0.1", "warmup", 0.1),
        ("100", "warmup", 100),
        ("0.2", "validation", 0.2),
        ("other.csv", "validation", "other.csv"),
        ("a, b", "target", ("a", "b")),
        ('"y, USD",c', "target", ("y, USD", "c")),
        ('"a, m"=category', "types", ("a, m=category",)),
        ("none, ?", "na", ("none", "?")),
        ("none", "na", ("none",)),
        ("a=b=date", "types", ("a=b=date",)),
        ("1.5G", "max_memory", 3 << 29),
        ("auto", "max_memory", "auto"),
        ("18446744073709551615", "seed", None),
    ],
)
def test_text_is_read_as_the_settings_type(text: str, name: str, value: object) -> None:
    if value is None:
        with pytest.raises(UsageError, match=f"--{name} {text}"):
            gather({name: text})
    else:
        assert getattr(gather({name: text}).config, name) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": "abc"}, "--epochs abc: must be a valid integer"),
        ({"types": "zip=categroy"}, "--types zip=categroy: no kind 'categroy'; did you mean categ"),
        ({"types": "zip"}, "--types zip: must be COLUMN=KIND"),
        ({"features": '"a, b",c', "drop": "c"}, '--features "a, b",c and --drop c conflict'),
        ({"types": "a=date,a=numeric"}, "--types: a is both date and numeric"),
        ({"max_memory": "2 pounds"}, "--max-memory 2 pounds: must be a size such as 512M"),
        ({"max_memory": "0"}, "--max-memory 0: must be a byte or more"),
        ({"epochs": "0"}, "--epochs 0: must be greater than or equal to 1"),
        ({"schedule": "cos"}, "--schedule cos: must be one of constant, linear, cosine"),
        ({"lr": "nan"}, "--lr nan: must be a finite number above 0$"),
        ({"lr": "inf"}, "--lr inf: must be a finite number above 0$"),
        ({"weight_decay": "inf"}, "--weight-decay inf: must be a finite number from 0 on$"),
        ({"clip_norm": "nan"}, "--clip-norm nan: must be a finite number above 0$"),
        ({"lr": "-1"}, "--lr -1"),
        ({"dropout": "1"}, "--dropout 1: must be less than 1"),
        ({"hidden": "256,x"}, "--hidden 256,x"),
        ({"hidden": "0"}, "--hidden 0"),
        ({"hiden": "3"}, "no setting 'hiden'.*did you mean hidden"),
        ({"learning_rate": "3"}, "no setting .learning_rate.*did you mean lr"),
        ({"no_header": True}, "no setting .no_header.*did you mean header=False"),
        ({"max_depth": "3"}, "no setting .max_depth.*settings are target"),
        ({"output": "x"}, "no setting .output.*settings are target"),
        ({"epochs": "3", "steps": "4"}, "--steps 4 and --epochs 3 conflict"),
        ({"momentum": "0.9", "optimizer": "adam"}, "--momentum 0.9 and --optimizer adam conflict"),
        ({"momentum": "0.9"}, "--momentum has no meaning for --optimizer adamw"),
        ({"betas": "0.9,0.99", "optimizer": "sgd"}, "--betas 0.9,0.99 and --optimizer sgd"),
        ({"hidden": "none", "dropout": "0.1"}, "conflict"),
        ({"schedule": "onecycle", "warmup": "0.1"}, "conflict"),
        ({"validation": "0", "patience": "3"}, "conflict"),
        ({"one_hot_levels": "65"}, "--one-hot-levels 65: must be less than or equal to 64"),
        ({"clamp": "yes"}, "--clamp yes: must be one of auto, on, off"),
        ({"scaling": "robust", "standardise": False}, "robust and --no-standardise conflict"),
        ({"split_column": "s", "test": "0.1"}, "--split-column s and --test 0.1 conflict"),
    ],
)
def test_a_bad_value_is_named_with_what_is_wanted(flags: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gather(flags)


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("hidden", np.array([8, 4]), (8, 4)),
        ("epochs", np.int64(3), 3),
        ("drop", np.array(["year"]), ("year",)),
        ("quantiles", 0.5, (0.5,)),
        ("target", 3, ("3",)),
        ("features", [0, "b"], ("0", "b")),
        ("types", {"year": "category", 5: "date"}, ("year=category", "5=date")),
        ("class_weight", {"a=b": 2, True: 0.5}, ("a=b=2", "True=0.5")),
    ],
)
def test_values_as_python_has_them(name: str, value: object, meant: object) -> None:
    assert getattr(gather({name: value}).config, name) == meant


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("validation", Frame(), "--validation a frame: must be a fraction of the rows, or a file"),
        ("drop", {"a": 1}, "--drop {'a': 1}: must be a list of names"),
        ("target", 2.5, "--target 2.5: must be a list of names"),
        ("types", 3, "--types 3: must be a list of COLUMN=KIND, or a dict"),
        ("epochs", [2], "--epochs [2]: must be a valid integer"),
        ("weight", np.ones(999), "…: must be a column's name"),
        ("target", np.ones(999), "…: must be a list of names; a target's values go beside the tab"),
    ],
)
def test_other_objects_are_refused_by_name(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=escape(message)) as caught:
        gather({name: value})
    assert len(str(caught.value)) < 200


def test_the_written_file_gives_the_same_settings_back(tmp_path: Path) -> None:
    given = {"hidden": "64,32", "target": 'odd "name",b', "lr": "0.003", "steps": "10"}
    settings = gather(given).resolve("init", "he", "relu")
    file = tmp_path / "config.toml"
    file.write_text(settings.to_toml("gpunet train data.csv"))
    again = gather(file=file)
    assert again.config == settings.config
    assert "# auto: relu" in file.read_text()
    assert set(tomllib.loads(file.read_text())) <= {each.name for each in fields(Config)}


def forbid(path: Path, **_: object) -> str:
    raise PermissionError(13, "Permission denied", path)


def test_a_file_that_is_missing_or_not_toml(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(InputMissing):
        gather(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(UsageError, match=r"bad\.toml: not a TOML file"):
        gather(file=tmp_path / "bad.toml")
    with pytest.raises(UsageError, match="a directory; wanted a TOML file"):
        gather(file=tmp_path)
    os.mkfifo(pipe := tmp_path / "pipe")
    for passing in (pipe, "-"):
        with pytest.raises(UsageError, match="a pipe; settings are read more than once"):
            gather(file=passing)
    monkeypatch.setattr(Path, "read_text", forbid)
    with pytest.raises(NotPermitted, match=r"bad\.toml: may not be read"):
        gather(file=tmp_path / "bad.toml")
    monkeypatch.undo()
    for odd in (f"epochs = {'1' * 5000}", f"hidden = {'[' * 3000}", b"lr = '\xff'"):
        (tmp_path / "odd.toml").write_bytes(odd if isinstance(odd, bytes) else odd.encode())
        with pytest.raises(UsageError, match=r"odd\.toml: not a TOML file"):
            gather(file=tmp_path / "odd.toml")
    (tmp_path / "unknown.toml").write_text("speed = 3")
    with pytest.raises(UsageError, match=r"no setting 'speed' \(file\)"):
        gather(file=tmp_path / "unknown.toml")
    (tmp_path / "unknown.toml").write_text("no-baselines = true")
    with pytest.raises(UsageError, match=r"'no-baselines' \(file\); .* mean baselines = false\?"):
        gather(file=tmp_path / "unknown.toml")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("lr = 0.5\n", encoding="utf-8-sig")
    assert gather(file=tmp_path / "run.toml").config.lr == 0.5


@pytest.mark.parametrize("command", [train, tune])
def test_what_a_command_alone_is_told_is_no_line_of_a_file(tmp_path: Path, command) -> None:
    settings = {each.name for each in fields(Config)}
    for name in signature(command).parameters.keys() - settings:
        (tmp_path / "run.toml").write_text(f"{name} = 3\n")
        with pytest.raises(UsageError, match=f"{name} .file.: is given on the command line only"):
            gather(file=tmp_path / "run.toml")


def test_every_setting_has_a_panel_and_a_help_that_is_a_sentence() -> None:
    for each in fields(Config):
        assert each.metadata["panel"]
        assert each.metadata["help"].endswith(".")
