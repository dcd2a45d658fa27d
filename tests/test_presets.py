"""What a preset sets, what it leaves to the user, and what it leaves out."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import typer
from tables import mixed

from gpunet import job, presets
from gpunet.cli import app
from gpunet.config import Config, Settings, gather
from gpunet.data import Source
from gpunet.errors import UsageError
from gpunet.presets import (
    CLASSES,
    COMMON,
    COUNTS,
    DATA,
    FEW,
    MANY,
    NUMBERS,
    SIZES,
    of_data,
    of_network,
)

TABLE = {name: [None if v == "NA" else v for v in cells] for name, cells in mixed(80).items()}
PAGE = (Path(__file__).resolve().parent.parent / "docs/recipe.md").read_text()
PIECES = [row.split(" | ") for row in PAGE.splitlines() if row.startswith("|") and "`--" in row]
NUMBER = {**TABLE, "price": np.arange(80.0).tolist()}


def source(rows: int = 300, is_table: bool = True, **more: object) -> Source:
    cells = np.arange(rows, dtype=np.float32)
    if not is_table:
        return Source("arrays", x=cells[:, None], **more)
    return Source("table", table=pa.table({"a": cells}), **more)


def settled(
    task: str = "multiclass", is_table: bool = True, rows: int = 300, **flags: object
) -> Settings:
    """The settings behind both halves of the preset."""
    return of_network(of_data(gather(flags), source(rows, is_table)), task, rows)


def taken(task: str = "multiclass", **flags: object) -> set[str]:
    """What came from the preset."""
    found = settled(task, **flags)
    return {name for name, origin in found.origin.items() if origin.startswith("preset")}


def as_given(value: object) -> str:
    """A value on the command line; a switch has none."""
    if value is True:
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def planned(data: object = TABLE, target: str = "kind", **flags: object) -> job.Job:
    return job.plan(data, {"target": target, "device": "cpu", **flags})


@pytest.mark.parametrize("preset", ["auto", "fast", "best"])
@pytest.mark.parametrize(
    ("task", "own"), [("multiclass", CLASSES), ("binary", CLASSES), ("regression", NUMBERS)]
)
def test_a_preset_sets_the_recipe_of_the_task(preset: str, task: str, own: dict) -> None:
    found = settled(task, preset=preset)
    spent = {"batch_size": 64, "epochs": 128, "patience": 64}
    wanted = {**DATA, **COMMON, **own, **SIZES[preset], **spent}
    assert {name: getattr(found.config, name) for name in wanted} == wanted
    assert taken(task, preset=preset) == wanted.keys()


@pytest.mark.parametrize("name", {**DATA, **COMMON, **CLASSES, **SIZES["auto"]})
def test_what_the_user_says_goes_before_the_preset(name: str) -> None:
    default = getattr(Config(), name)
    found = settled(**{name: default})
    assert getattr(found.config, name) == default
    assert found.origin[name] == "flag"
    assert name not in taken(**{name: default})


def test_a_file_goes_before_the_preset(tmp_path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("dropout = 0.5\nhidden = [8]\n")
    found = of_network(of_data(gather({}, file), source()), "binary", 300)
    assert (found.config.dropout, found.config.hidden) == (0.5, (8,))
    assert found.config.schedule == COMMON["schedule"]


@pytest.mark.parametrize("line", ["validation = 0.15", "validation = 0"])
def test_a_part_that_a_file_gives_is_not_folded_though_it_is_the_default(tmp_path, line) -> None:
    (tmp_path / "run.toml").write_text(line)
    config = of_data(gather({}, tmp_path / "run.toml"), source()).config
    assert (config.folds, config.members) == (0, SIZES["auto"]["folds"])


def test_a_runs_own_file_gives_its_folds_again(tmp_path) -> None:
    settings = settled()
    (tmp_path / "config.toml").write_text(settings.to_toml("use"))
    assert settings.config.folds == 6
    found = of_data(gather({}, tmp_path / "config.toml"), source())
    assert found.config == settings.config


def test_plain_and_arrays_take_nothing_from_a_preset() -> None:
    assert settled(preset="plain").config == gather({"preset": "plain"}).config
    found = settled(is_table=False)
    assert (found.config.preset, found.origin["preset"]) == ("plain", "auto: arrays")
    assert settled(is_table=False).config == gather({"preset": "plain"}).config


@pytest.mark.parametrize(
    ("flags", "left_out"),
    [
        ({"hidden": "none"}, {"hidden", "parametric", "dropout", "activation", "init"}),
        ({"optimizer": "sgd"}, {"lr", "betas"}),
        ({"optimizer": "lion"}, {"lr"}),
        ({"steps": 5}, {"epochs"}),
        ({"validation": 0.0}, {"best_by", "folds", "patience"}),
        ({"validation": 0.0, "folds": 3}, {"folds"}),
        ({"activation": "x*sigmoid(x)"}, {"activation", "parametric"}),
        ({"standardise": False}, {"scaling"}),
    ],
    ids=str,
)
def test_pieces_without_meaning_are_left_out(flags: dict, left_out: set[str]) -> None:
    assert taken() - taken(**flags) == left_out


@pytest.mark.parametrize(
    "flags",
    [
        {"hidden": "none"},
        {"optimizer": "sgd"},
        {"steps": 5},
        {"validation": 0.0},
        {"validation": 0.0, "folds": 2},
        {"activation": "x*sigmoid(x)"},
        {"standardise": False},
        {"numeric_embedding": "none", "input_scale": False},
        {"one_hot_levels": "all"},
        {"norm": "batch"},
        {"bias": False},
        {"loss": "softmax_cross_entropy"},
    ],
    ids=str,
)
def test_each_choice_of_the_user_can_be_trained_beside_the_rest(flags: dict) -> None:
    rest = {} if "steps" in flags else {"epochs": 2}
    made = planned(**rest, **flags)
    (*_, last) = made.reports()
    assert np.isfinite(last.loss)


@pytest.mark.parametrize(
    "flags",
    [{"validation": 0.2}, {"split_column": "part"}, {"group": "a"}, {"time": "a"}],
    ids=str,
)
def test_members_take_the_place_of_folds_where_parts_are_given(flags: dict) -> None:
    config = settled(**flags).config
    assert (config.folds, config.members) == (0, SIZES["auto"]["folds"])
    assert settled(preset="fast", **flags).config.members == 1


def test_neither_few_nor_many_rows_are_folded() -> None:
    found = {rows: settled(rows=rows).config for rows in (FEW - 1, FEW, MANY, MANY + 1)}
    assert [each.folds for each in found.values()] == [0, 6, 6, 0]
    assert [each.members for each in found.values()] == [6, 1, 1, 1]
    assert of_data(gather(), source(streams=True)).config.folds == 0


@pytest.mark.parametrize("validation", [0.15, 0.0])
def test_how_many_networks_follows_all_rows_and_not_those_that_train(validation: float) -> None:
    asked = of_data(gather({"validation": validation}), source(MANY + 1))
    assert of_network(asked, "binary", MANY // 2).config.members == 1


def test_folds_that_the_user_refused_are_not_replaced() -> None:
    config = settled(folds=0).config
    assert (config.folds, config.members) == (0, 1)


def test_epochs_and_batches_follow_the_rows_that_train() -> None:
    found = {rows: settled(rows=rows).config for rows in (700, 6_000, 60_000, 2_000_000)}
    assert [each.batch_size for each in found.values()] == [64, 256, 512, 1024]
    assert [each.epochs for each in found.values()] == [128, 77, 64, 16]
    assert settled(rows=6_000, batch_size=32).config.epochs == 64


def test_training_ends_after_half_of_the_epochs_without_a_better_one() -> None:
    assert settled(rows=6_000).config.patience == 39
    assert settled(epochs=3).config.patience == 10
    assert settled(steps=100).config.patience == 0
    assert settled(patience=7).config.patience == 7


def test_a_regression_run_has_its_own_pieces() -> None:
    config = planned(NUMBER, "price").settings.config
    assert {name: getattr(config, name) for name in NUMBERS} == NUMBERS
    assert config.best_by == "loss"


def test_what_the_recipe_says_of_a_network_is_built() -> None:
    names = planned(preset="fast").model.network.weights.keys()
    assert {"waves.frequency", "scale", "hidden1.share", "hidden2.weight"} <= names
    plain = planned(preset="plain", hidden=(8,)).model.network.weights.keys()
    assert plain == {"hidden1.weight", "hidden1.bias", "output.weight", "output.bias"}


def test_large_categories_are_embedded_from_the_level_that_is_given() -> None:
    towns = {**TABLE, "street": [f"s{i % 12}" for i in range(80)]}
    for levels, rows in ((8, 13), (12, 0)):
        weights = planned(towns, one_hot_levels=levels, preset="fast").model.network.weights
        found = weights["embedding.weight"].shape[0] if rows else 0
        assert found == rows
        assert ("embedding.weight" in weights) == bool(rows)


def test_clamped_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="--clamp on has no meaning"):
        planned(clamp="on")


def test_embeddings_of_what_is_no_column_are_refused() -> None:
    arrays = (np.zeros((30, 2)), np.arange(30.0))
    with pytest.raises(UsageError, match="--numeric-embedding periodic is for columns"):
        job.plan(arrays, {"numeric_embedding": "periodic"})


def test_every_piece_that_may_be_left_out_is_a_piece() -> None:
    spent = {"epochs": 64, "patience": 32}
    assert presets.MEANINGLESS.keys() <= {**DATA, **COMMON, **CLASSES, **spent}.keys()


def test_the_page_of_the_recipe_says_what_the_presets_set() -> None:
    flags = [re.findall(r"`--([^`]+)`", row[1]) for row in PIECES]
    told = [tuple(each.partition(" ")[::2]) for row in flags for each in row]
    wanted = [item for part in (DATA, COMMON, CLASSES, NUMBERS) for item in part.items()]
    assert sorted(told) == sorted((n.replace("_", "-"), as_given(value)) for n, value in wanted)


def test_the_page_of_the_recipe_says_where_counts_differ_from_numbers() -> None:
    rows = {name: row for row in PIECES for name in re.findall(r"`--([a-z-]+)", row[1])}
    assert {n for n, row in rows.items() if "ounts" in row[0]} == COUNTS.keys()
    differing = {n for n in COUNTS if COUNTS[n] != NUMBERS[n]}
    assert (
        differing == {n for n, row in rows.items() if "of classes and counts" in row[0]} == {"lr"}
    )
    assert COUNTS["lr"] == CLASSES["lr"]


def test_the_page_of_the_recipe_says_what_each_preset_spends() -> None:
    for preset, size in SIZES.items():
        layers, folds, members = (as_given(size[n]) for n in ("hidden", "folds", "members"))
        assert f"| `{preset}` | {layers.replace(',', ', ')} | {folds} | {members} |" in PAGE


def test_the_page_of_the_recipe_says_how_to_switch_each_piece_off() -> None:
    for _, on, off, *_ in PIECES:
        names = set(re.findall(r"`--([a-z-]+)", on))
        flags = dict(re.findall(r"`--([^ `]+) ?([^`]*)`", off))
        assert {name.removeprefix("no-") for name in flags} == names
        given = {n.removeprefix("no-"): v or not n.startswith("no-") for n, v in flags.items()}
        found = settled(**{name.replace("-", "_"): value for name, value in given.items()})
        assert not {name.replace("-", "_") for name in names} & {
            name for name, origin in found.origin.items() if origin.startswith("preset")
        }


def test_the_command_line_has_the_flags_of_the_page() -> None:
    command = typer.main.get_command(app).commands["train"]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", PAGE)) <= known


@pytest.mark.parametrize("activation", ["x", "abs(x)"])
def test_formulas_have_no_share_to_learn(activation: str) -> None:
    planned = job.plan("penguins", {"activation": activation, "device": "cpu"})
    assert not planned.settings.config.parametric
    with pytest.raises(UsageError, match="--parametric has no meaning for a formula"):
        job.plan("penguins", {"activation": activation, "parametric": True, "device": "cpu"})
