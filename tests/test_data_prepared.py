"""Preparing: nothing is learnt from rows that do not train, and every refusal has its reason."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import columns, csv, mixed, text_of

from gpunet.data import Layout, prepare, read
from gpunet.data.schema import Schema
from gpunet.data.source import Source
from gpunet.errors import DataError, UsageError

VALUES = mixed()
SOURCE = columns(VALUES)
WHOLE = {"validation": 0.0, "test": 0.0}
TIME = list(range(20))
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 5, 4)).astype(np.uint8)
LABELS = np.arange(60) % 3


def saved(prepared):
    return json.dumps(prepared.schema.to_dict())


def sizes(prepared):
    parts = (prepared.train, prepared.validation, prepared.test)
    return [part and part.rows for part in parts]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"target": ("y", "USD", "c")}, "write it in quotes: --target '\"y, USD\"'"),
        ({"drop": ("c", "y", "USD")}, "write it in quotes: --drop '\"y, USD\"'"),
        ({"drop": ("USD", "y")}, 'did you mean "y, USD"?'),
    ],
)
def test_the_parts_of_a_name_with_a_comma_are_seen(options, hint):
    table = columns({"c": [1, 2], "y, USD": [1, 2], "z": [1, 2]})
    with pytest.raises(DataError) as caught:
        prepare(table, **{"target": ("z",), **options})
    assert caught.value.hint == hint


def test_a_column_that_cannot_be_learnt_from_is_left_out_or_refused():
    table = read({**dict(zip("ay", np.random.default_rng(0).random((2, 60)))), "l m": [[1]] * 60})
    for options in ({"drop": ("l m",)}, {"features": ("a",)}):
        prepared = prepare(table, target=("y",), **options)
        assert [column.name for column in prepared.schema.columns] == ["a"]
    assert prepared.schema.encode(table)[0].shape == (60, 1)
    with pytest.raises(DataError, match=r"l m is of type .*; leave it out with --drop 'l m'$"):
        prepare(table, target=("y",))
    for options in ({"target": ("l m",)}, {"target": ("y",), "features": ("a", "l m")}):
        with pytest.raises(DataError, match=r"l m is of type .*dates$"):
            prepare(table, **options)
    with pytest.raises(DataError, match='no column lm; did you mean "l m"'):
        prepare(table, target=("y",), drop=("lm",))


@pytest.mark.parametrize("way", ["{:,}", "{}%", "${:.2f}", "{},5"])
def test_numbers_that_were_read_as_text_are_told_of(way):
    numbers = [way.format(1000 + i) for i in range(99)]
    few = [numbers[i % 80] for i in range(99)]
    y = np.arange(99) % 2
    table = columns({"all": numbers, "few": few, "x": np.arange(99.0) ** 2, "y": y})
    notes = prepare(table, target=("y",), **WHOLE).notes
    told = [note for note in notes if "were read as text; write them like 1000" in note]
    assert [note.partition(":")[0] for note in told] == ["all", "few"]
    table = columns({"x": y, "y": [numbers[i % 3] for i in range(99)]})
    assert any("y: numbers with" in note for note in prepare(table, target=("y",), **WHOLE).notes)


def test_a_decimal_mark_is_kept_with_the_model():
    rows = np.arange(1000.0, 1099.0) + 0.5
    comma = [f"{value:,}".translate(str.maketrans(",.", ".,")) for value in rows]
    y = np.arange(99) % 2
    found = prepare(columns({"x": comma, "y": y}), target=("y",), decimal=",", **WHOLE)
    plain = prepare(columns({"x": rows, "y": y}), target=("y",), **WHOLE)
    assert found.schema.columns == plain.schema.columns
    again = Schema.from_dict(json.loads(json.dumps(found.schema.to_dict())))
    assert again.decimal == ","
    assert "decimal" not in plain.schema.to_dict()
    new, _ = again.encode(columns({"x": ["1.001,5", "1001,5", "NA"]}))
    same, _ = plain.schema.encode(columns({"x": ["1001.5", "1001.5", "NA"]}))
    np.testing.assert_array_equal(new, same)
    with pytest.raises(DataError, match=r"not numbers .*; --decimal says that their .* mark is ,"):
        again.encode(columns({"x": ["1001.5"]}))
    with pytest.raises(UsageError, match="no text; --decimal is for CSV files"):
        prepare(read({"x": rows, "y": y}), target=("y",), decimal=",", **WHOLE)


def test_missing_words_take_the_decimal_mark_too():
    table = columns({"x": ["1,5", "-99,0", "2,5"] * 30, "y": np.arange(90) % 2})
    found = prepare(table, target=("y",), decimal=",", na=("-99,0",), **WHOLE)
    assert found.seen[0].missing == 30


def test_a_column_that_is_not_there_below_a_line_of_data():
    table = columns({"0.5": [1, 2], "x": [1, 2]})
    for target, error in ((("y",), DataError), ((), UsageError)):
        with pytest.raises(error, match="; the first line looks like data; --no-header says"):
            prepare(table, target=target)


def test_classes_that_differ_only_in_case_or_spaces_are_named():
    labels = ["yes", "yes ", "Yes", "no", "maybe"]
    table = columns({"x": np.arange(100.0) % 9, "y": [labels[i % 5] for i in range(100)]})
    notes = prepare(table, target=("y",)).notes
    assert [note for note in notes if note.startswith("y:")] == [
        'y: classes that differ only in case or spaces: "Yes", "yes", "yes "; if they are one, '
        "write them alike"
    ]


def test_three_parts_of_a_table():
    prepared = prepare(SOURCE, target=("kind",))
    assert sizes(prepared) == [140, 30, 30]
    assert prepared.schema.target.labels == ("cottage", "flat", "house")
    assert [column.name for column in prepared.schema.columns] == list(VALUES)[:-1]
    for part in (prepared.train, prepared.validation, prepared.test):
        assert part.x.dtype == np.float32
        assert part.x.flags.c_contiguous
        assert part.x.shape == (part.rows, prepared.schema.width)
        assert part.y.dtype == np.int32
        assert np.isfinite(part.x).all()
    assert prepared.notes == ()


def test_the_parts_are_what_the_schema_encodes():
    prepared = prepare(SOURCE, target=("kind",), **WHOLE)
    assert sizes(prepared) == [200, None, None]
    assert prepared.train.x.tobytes() == prepared.schema.encode(SOURCE)[0].tobytes()
    np.testing.assert_array_equal(prepared.train.y, prepared.schema.encode_target(SOURCE))


def test_the_training_part_has_mean_zero_and_deviation_one():
    x = prepare(SOURCE, target=("kind",)).train.x
    np.testing.assert_allclose(x[:, 1].mean(), 0, atol=1e-5)  # rooms
    np.testing.assert_allclose(x[:, 1].std(), 1, atol=1e-5)


def held_out(**options):
    """The rows that do not train, found by marking each row with its number."""
    marks = columns({"row": list(range(200)), "kind": VALUES["kind"]})
    train = prepare(marks, target=("kind",), standardise=False, **options).train
    return sorted(set(range(200)) - set(train.x[:, 0].astype(int).tolist()))


@pytest.mark.parametrize("encoding", [{}, {"scaling": "robust", "one_hot_levels": 3}])
@pytest.mark.parametrize("seed", [0, 1])
def test_rows_that_do_not_train_leave_no_trace(seed, encoding):
    first = prepare(SOURCE, target=("kind",), seed=seed, **encoding)
    changed = {name: list(cells) for name, cells in VALUES.items()}
    for row in held_out(seed=seed):
        changed["size"][row] = "1e9"
        changed["rooms"][row] = "NA"
        changed["town"][row] = f"elsewhere {row}"
        changed["garden"][row] = "perhaps"
        changed["sold"][row] = "1850-01-01T12:00"
    again = prepare(columns(changed), target=("kind",), seed=seed, **encoding)
    assert saved(again) == saved(first)
    assert again.train.x.tobytes() == first.train.x.tobytes()
    assert again.train.y.tobytes() == first.train.y.tobytes()
    assert again.test.x.tobytes() != first.test.x.tobytes()


def homes(rows, seed):
    """Columns that take every kind of encoding: `ref` is hashed, `street` coded, `town` one-hot."""
    rng = np.random.default_rng(seed)
    return mixed(rows, seed) | {
        "ref": [f"r{i}" for i in rng.permutation(np.arange(rows) * 7 // 10)],
        "street": [f"street {i}" for i in rng.integers(0, 300, rows)],
        "price": np.exp(rng.normal(12, 1, rows)).round(2).tolist(),
    }


def test_no_encoding_learns_from_rows_that_do_not_train():
    rows = 3_000
    values = homes(rows, 0)
    part = np.array(["train", "train", "train", "validation", "test"] * (rows // 5))
    options = {
        "target": ("price",),
        "split_column": "part",
        "scaling": "robust",
        "one_hot_levels": 8,
        "clamp": True,
        "target_transform": "log",
    }
    first = prepare(columns(values | {"part": part}), **options)
    other = homes(rows, 1)
    other["price"] = [9e9 * price for price in other["price"]]
    other["street"] = [f"{street} (new)" for street in other["street"]]
    changed = {
        name: [old if where == "train" else new for where, old, new in zip(part, *cells)]
        for name, cells in ((name, (values[name], other[name])) for name in values)
    }
    again = prepare(columns(changed | {"part": part}), **options)
    kinds = {column.name: (column.kind, column.coded) for column in first.schema.columns}
    assert kinds["ref"] == ("hashed", True)
    assert (kinds["street"], kinds["town"]) == (("category", True), ("category", False))
    assert saved(again) == saved(first)
    assert again.train.x.tobytes() == first.train.x.tobytes()
    assert again.train.y.tobytes() == first.train.y.tobytes()
    for name in ("validation", "test"):
        assert again.parts[name].x.tobytes() != first.parts[name].x.tobytes()
        assert again.parts[name].y.tobytes() != first.parts[name].y.tobytes()


def test_a_row_that_trains_does_leave_a_trace():
    row = next(i for i in range(200) if i not in held_out())
    changed = VALUES | {"rooms": [99 if i == row else v for i, v in enumerate(VALUES["rooms"])]}
    assert saved(prepare(columns(changed), target=("kind",))) != saved(
        prepare(SOURCE, target=("kind",))
    )


@pytest.mark.parametrize("transform", ["none", "log"])
def test_targets_of_rows_that_do_not_train_leave_no_trace(transform):
    options = {"clamp": True, "target_transform": transform}
    marks = columns({"row": list(range(200)), "y": [f"{v}.5" for v in range(200)]})
    train = prepare(marks, target=("y",), standardise=False).train.x[:, 0].astype(int)
    y = [f"{v}.5" if v in set(train.tolist()) else "1e6" for v in range(200)]
    again = prepare(columns({"row": list(range(200)), "y": y}), target=("y",), **options)
    assert saved(again) == saved(prepare(marks, target=("y",), **options))


def test_codes_that_were_taken_for_numbers_are_told_unless_the_task_was_given():
    values = {"a": list(range(60)), "y": [f"{i:05d}" for i in range(500, 560)]}
    told = {
        task: prepare(columns(values), target=("y",), task=task) for task in ("auto", "regression")
    }
    assert any("--task multiclass" in note for note in told["auto"].notes)
    assert not any("--task" in note for note in told["regression"].notes)
    ones = prepare(read((np.arange(60.0), np.eye(3)[np.arange(60) % 3])))
    assert any(note.endswith("give y.argmax(axis=1)") for note in ones.notes)


def test_a_held_out_number_without_a_logarithm_is_named():
    values = {"a": list(range(20)), "y": [f"{v}.5" for v in range(20)]}
    values["y"][19] = "-0.5"
    options = {"target": ("y",), "target_transform": "log"}
    with pytest.raises(DataError, match=r"y: 1 of 20 values are 0 or less \(row 21: -0.5\)"):
        prepare(columns(values | {"t": TIME}), time="t", **options)
    values["y"][19] = "19.5"
    later = columns({"a": [1, 2], "y": ["2.5", "0"]})
    with pytest.raises(DataError, match=r"test part: y: 1 of 2 values are 0 or less \(row 3: 0\)"):
        prepare(columns(values), test=later, **options)


def test_arrays_leave_no_trace_either():
    first = prepare(read((IMAGES, LABELS)))
    keys = {row.tobytes() for row in first.train.x}
    changed = IMAGES.copy()
    for i, image in enumerate(IMAGES):
        if image.tobytes() not in keys:
            changed[i] = 0
    again = prepare(read((changed, LABELS)))
    assert saved(again) == saved(first)
    assert again.train.x.tobytes() == first.train.x.tobytes()


def test_the_seed_decides_the_split_and_nothing_else_is_random():
    same = [prepare(SOURCE, target=("kind",), seed=3) for _ in range(2)]
    assert same[0].train.x.tobytes() == same[1].train.x.tobytes()
    assert saved(same[0]) == saved(same[1])
    assert saved(same[0]) != saved(prepare(SOURCE, target=("kind",), seed=4))


def test_features_and_drop_choose_the_columns():
    some = prepare(SOURCE, target=("kind",), features=("town", "rooms"))
    assert [column.name for column in some.schema.columns] == ["rooms", "town"]
    rest = prepare(SOURCE, target=("kind",), drop=("town", "sold"))
    assert [column.name for column in rest.schema.columns] == ["size", "rooms", "garden"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, UsageError, "no target was given; choose one with --target: size, rooms, town"),
        ({"target": ("kinds",)}, DataError, r't: no column kinds; did you mean "kind"\?'),
        ({"target": ("kind",), "features": ("Town",)}, DataError, r'Town; did you mean "town"\?'),
        ({"target": ("kind",), "drop": ("x", "y")}, DataError, "2 columns missing: x, y"),
        ({"target": ("kind",), "split_column": "fold"}, DataError, "no column fold"),
        ({"target": ("kind",), "features": ("kind",)}, UsageError, "kind: the target and named"),
        ({"target": ("kind",), "drop": ("kind",)}, UsageError, "kind: the target and named"),
        (
            {"target": ("kind",), "features": ("size",), "drop": ("size",)},
            UsageError,
            "size: both a feature and left out; wanted one of the two",
        ),
        (
            {"target": ("kind",), "split_column": "town", "drop": ("town",)},
            UsageError,
            "town: the split column and named as another",
        ),
        ({"target": ("kind",), "task": "regression"}, DataError, "regression wants numbers"),
        ({"target": ("kind",), "validation": 1.5}, UsageError, "wanted a share"),
        ({"target": ("kind",), "scaling": "quantile"}, UsageError, "wanted standard or robust"),
        ({"target": ("kind",), "target_transform": "log"}, UsageError, "no meaning for a multicl"),
        ({"target": ("rooms",), "target_transform": "sqrt"}, UsageError, "wanted none, log"),
        ({"target": ("kind",), "one_hot_levels": 65}, UsageError, "levels 65: wanted 1 to 64"),
        (
            {"target": ("kind",), "scaling": "robust", "standardise": False},
            UsageError,
            "robust scaling of inputs in their own units",
        ),
        ({"target": ("kind",), "split_column": "town"}, DataError, "none of train, validation"),
        (
            {"target": ("kind",), "split_column": "town", "test": SOURCE},
            UsageError,
            "split column town and a test source",
        ),
    ],
)
def test_what_cannot_be_asked(options, error, message):
    with pytest.raises(error, match=message):
        prepare(SOURCE, **options)


def test_values_of_a_target_are_no_names_of_columns():
    table = read({"a": [1.5, 2.5, 3.5], "b": ["x", "y", "x"]})
    with pytest.raises(UsageError, match=r"data: 3 targets of 2 columns; .*: \(table, y\)"):
        prepare(table, target=("1", "0", "1"))


@pytest.mark.parametrize("name", ["features", "drop"])
def test_arrays_have_no_columns_to_choose(name):
    with pytest.raises(UsageError, match="arrays have no columns to choose from"):
        prepare(read((IMAGES, LABELS)), **{name: ("a",)})
    with pytest.raises(UsageError, match="the target is the array y"):
        prepare(read((IMAGES, LABELS)), target=("a",))
    with pytest.raises(UsageError, match="robust scaling is for tables"):
        prepare(read((IMAGES, LABELS)), scaling="robust")
    with pytest.raises(UsageError, match="one-hot levels are for tables"):
        prepare(read((IMAGES, LABELS)), one_hot_levels=8)
    with pytest.raises(UsageError, match="embeddings of values are for tables"):
        prepare(read((IMAGES, LABELS)), rough=True)
    with pytest.raises(DataError, match="no targets; wanted an array y beside x"):
        prepare(read(IMAGES))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,y\n1,x\n", "one row with a target; wanted 2 or more"),
        ("a,y\n1,x\n2,x\n3,x\n", "the same value in every row"),
        ("a,y\n1,x\n2,\n3,y\n", r"y: 1 of 3 values of the target are missing \(row 3\)"),
        ("a,y\n1,\n2,\n3,NA\n", "no value in any row"),
        ("y\nx\ny\n", "no feature column is left"),
        (
            "a,b,y\n" + "1,x,x\n1,x,y\n" * 9,
            r"no column is left to learn from \(left out a, b: constant\)",
        ),
        ("a,y\n1,u\n2,v\n3,w\n4,x\n", "4 rows in 4 classes are too few for 1 row of validation"),
        ("a,y\n1,1.5\n2,2.5\n", "2 rows are too few for 1 row of validation and 1 of test"),
    ],
)
def test_data_that_cannot_be_learnt_from(text, message):
    with pytest.raises(DataError, match=message):
        prepare(csv(text), target=("y",))


def test_rows_without_a_target_can_be_left_out():
    y = ["NA" if i in (5, 9) else kind for i, kind in enumerate(VALUES["kind"])]
    prepared = prepare(columns(VALUES | {"kind": y}), target=("kind",), drop_missing_target=True)
    assert sum(sizes(prepared)) == 198
    assert prepared.notes == ("left out 2 rows without kind",)
    floats = np.where(np.arange(60) < 3, np.nan, np.arange(60.0))
    arrays = prepare(read((IMAGES, floats)), drop_missing_target=True)
    assert sum(sizes(arrays)) == 57
    assert np.isfinite(arrays.train.y).all()
    with pytest.raises(DataError, match="no value in any row"):
        prepare(columns({"a": [1, 2], "y": ["", ""]}), target=("y",), drop_missing_target=True)


def test_a_class_of_one_row_trains_with_a_note():
    kinds = ["castle", *VALUES["kind"][1:]]
    prepared = prepare(columns(VALUES | {"kind": kinds}), target=("kind",))
    code = prepared.schema.target.labels.index("castle")
    assert (prepared.train.y == code).sum() == 1
    assert prepared.notes == (
        'kind: 1 class with a single row, which is in the training part: "castle"',
    )


def test_a_class_that_the_test_part_lacks_is_named():
    kinds = ["u", "v", "w"] * 10
    told = 'y: 1 class without a row in the test part, which has no AUC then: "w"'
    for lacks, is_told in (("w", True), ("", False)):
        part = ["test" if i > 20 and kind != lacks else "train" for i, kind in enumerate(kinds)]
        source = columns({"a": range(30), "y": kinds, "part": part})
        found = prepare(source, target=("y",), split_column="part")
        assert (told in found.notes) == is_told
    alone = prepare(columns({"a": range(30), "y": kinds}), target=("y",), test=0.0)
    assert not any("AUC" in note for note in alone.notes)


def test_a_single_class_left_for_training_is_refused():
    part = ["train", "train", "test", "test"]
    source = columns({"a": [1, 2, 3, 4], "y": ["u", "u", "v", "u"], "part": part})
    with pytest.raises(DataError, match=r'the same value in every row \("u"\)'):
        prepare(source, target=("y",), split_column="part")
    ordered = columns({"a": list(range(20)), "y": ["u"] * 16 + ["v"] * 4, "t": TIME})
    with pytest.raises(DataError, match=r'y: the training part holds a single class \("u"\)'):
        prepare(ordered, target=("y",), time="t")


def test_columns_that_say_nothing_are_named():
    extra = {"one": ["1"] * 200, "none": [""] * 200, "id": [f"r{i}" for i in range(200)]}
    notes = prepare(columns(VALUES | extra), target=("kind",)).notes
    assert notes == (
        "left out one: constant",
        "left out none: without values",
        "left out id: a different text in every row",
    )


def test_text_that_a_spreadsheet_would_run_is_noted():
    towns = ["=HYPERLINK(1)", "+1", "-2.5", "Bath"] * 50
    odd = {"town": towns, "kind": ["@a", "-b", "c", "d", "d"] * 40}
    (note,) = prepare(columns(VALUES | odd), target=("kind",)).notes
    assert note == (
        'town, kind: text that a spreadsheet takes for a formula ("=HYPERLINK(1)"); '
        "predict with --spreadsheet-safe"
    )
    numbers = {"town": ["+1", "-2.5", "-.5e3", "Bath"] * 50}
    assert prepare(columns(VALUES | numbers), target=("kind",)).notes == ()


def test_columns_that_are_hashed_are_noted_and_others_left_out():
    texts = [f"t{i}" for i in range(1_001)]
    values = {"a": [*texts, *texts[:200]], "b": [*texts, *["t0"] * 200], "c": ["t"] * 1_200 + ["u"]}
    values["b"][-150:] = [f"u{i}" for i in range(150)]
    source = columns(values | {"y": [0, 1, 1] * 400 + [1]})
    prepared = prepare(source, target=("y",), one_hot_levels=8, **WHOLE)
    assert prepared.notes == (
        "left out b: a different text in almost every row",
        "a: 1,001 different texts, as one of 256 hashes",
    )
    assert prepared.schema.layout == Layout(0, 3, (257,))


def test_rows_held_out_that_also_train_are_counted():
    twice = {name: cells[:100] * 2 for name, cells in VALUES.items()}
    prepared = prepare(columns(twice), target=("kind",))
    train = {row.tobytes() for row in np.c_[prepared.train.x, prepared.train.y]}
    held = np.concatenate([np.c_[part.x, part.y] for part in (prepared.validation, prepared.test)])
    count = sum(row.tobytes() in train for row in held)
    assert count > 20
    assert prepared.notes == (f"{count} of 60 rows held out are in the training part as well",)


def test_rows_that_differ_in_their_weight_alone_are_not_the_same():
    rows = {"a": [1, 2] * 50, "w": list(range(1, 101)), "y": [0, 1] * 50}
    assert (
        "held out are in the training part"
        in prepare(columns(rows), target=("y",), drop=("w",)).notes[-1]
    )
    assert not prepare(columns(rows), target=("y",), weight="w").notes
    rows["w"] = [3, 5] * 50
    same = prepare(columns(rows), target=("y",), weight="w", validation=0.1, test=0.2)
    assert same.notes == ("30 of 30 rows held out are in the training part as well",)


def test_skewed_numbers_over_decades_are_noted_once():
    drawn = np.random.default_rng(0)
    for values, is_told in ((drawn.lognormal(0, 1.5, 400), True), (drawn.random(400), False)):
        for transform in ("none", "log"):
            source = columns({"a": list(range(0, 800, 2)), "y": values.tolist()})
            found = prepare(source, target=("y",), target_transform=transform)
            said = [note for note in found.notes if note.endswith("try --target-transform log")]
            assert len(said) == (is_told and transform == "none")


def test_a_class_that_only_held_out_rows_have_is_noted():
    source = columns({"a": list(range(20)), "y": list("uv" * 8 + "wwww"), "t": TIME})
    prepared = prepare(source, target=("y",), time="t")
    assert 'y: 1 class without a row in the training part: "w"' in prepared.notes


def test_a_column_can_name_the_parts():
    part = ["train"] * 150 + ["val"] * 20 + ["test"] * 30
    prepared = prepare(columns(VALUES | {"part": part}), target=("kind",), split_column="part")
    assert sizes(prepared) == [150, 20, 30]
    assert "part" not in [column.name for column in prepared.schema.columns]
    changed = {name: list(cells) for name, cells in VALUES.items()}
    for row in range(150, 200):
        changed["size"][row], changed["town"][row] = "-5", "Hull"
        changed["kind"][row] = "flat"
    again = prepare(columns(changed | {"part": part}), target=("kind",), split_column="part")
    assert saved(again) == saved(prepared)
    assert again.train.x.tobytes() == prepared.train.x.tobytes()
    changed["kind"][199] = "castle"
    with pytest.raises(DataError, match=r'none of the classes .* \(row 201: "castle"\)'):
        prepare(columns(changed | {"part": part}), target=("kind",), split_column="part")


def test_parts_from_other_sources():
    other = columns(mixed(40, seed=1))
    prepared = prepare(SOURCE, target=("kind",), validation=other, test=other)
    assert sizes(prepared) == [200, 40, 40]
    assert prepared.validation.x.tobytes() == prepared.schema.encode(other)[0].tobytes()
    one = prepare(SOURCE, target=("kind",), test=other)
    assert sizes(one) == [170, 30, 40]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("kind"), "test part: t: no column kind"),
        (lambda v: (v.pop("town"), v.pop("size")), "test part: t: 2 columns missing: size, town"),
        (lambda v: v.update(rooms=["many"] * 40), r"test part: rooms: 40 of 40 values are not num"),
        (lambda v: v.update(kind=["castle"] * 40), r"test part: kind: .* none of the classes"),
        (lambda v: v.update(kind=["", *v["kind"][1:]]), r"test part: kind: 1 of 40 .* missing"),
    ],
)
def test_other_sources_that_do_not_fit(change, message):
    values = mixed(40, seed=1)
    change(values)
    with pytest.raises(DataError, match=message):
        prepare(SOURCE, target=("kind",), test=columns(values))


def test_rows_without_a_target_are_left_out_of_other_sources_too():
    values = mixed(40, seed=1)
    values["kind"][:3] = ["", "NA", ""]
    prepared = prepare(SOURCE, target=("kind",), test=columns(values), drop_missing_target=True)
    assert prepared.test.rows == 37
    assert prepared.test.x.shape[0] == 37


def test_a_test_part_that_came_along_is_used_unless_none_is_wanted():
    test = Source("t (test)", x=IMAGES[:10], y=LABELS[:10])
    source = Source("t", x=IMAGES, y=LABELS, test=test)
    assert sizes(prepare(source)) == [51, 9, 10]
    assert sizes(prepare(source, test=0.0)) == [51, 9, None]
    assert sizes(prepare(source, test=Source("o", x=IMAGES[:4], y=LABELS[:4]))) == [51, 9, 4]


def test_bytes_stay_bytes_and_are_scaled_by_their_global_moments():
    prepared = prepare(read((IMAGES, LABELS)))
    schema, x = prepared.schema, prepared.train.x
    assert (schema.kind, schema.dtype, schema.width) == ("arrays", "uint8", 20)
    assert x.dtype == np.uint8
    scaled = x / 255
    np.testing.assert_allclose(
        x * schema.scale + schema.shift, (scaled - scaled.mean()) / scaled.std(), atol=1e-12
    )
    assert len(set(schema.scale)) == len(set(schema.shift)) == 1
    raw = prepare(read((IMAGES, LABELS)), standardise=False).schema
    assert raw.scale is None
    assert raw.shift is None


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
def test_other_arrays_are_scaled_column_by_column(dtype):
    x = np.random.default_rng(0).normal(5, 3, (80, 3)).astype(dtype)
    x[:, 1] = x[0, 1]
    prepared = prepare(read((x, np.arange(80.0))))
    train, schema = prepared.train.x, prepared.schema
    assert train.dtype == (dtype if "float" in dtype else "float32")
    assert prepared.train.y.dtype == ("float64" if dtype == "float64" else "float32")
    scaled = train * schema.scale + schema.shift
    assert (scaled[:, 1] == 0).all()
    live = [i for i in (0, 2) if np.ptp(train[:, i])]
    np.testing.assert_allclose(scaled[:, live].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled[:, live].std(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("largest", "kind", "dtype", "is_lost"),
    [
        (2**24, "int32", "float32", False),
        (2**24 + 1, "int32", "float64", False),
        (-(2**24) - 1, "int64", "float64", False),
        (1_700_000_000, "uint32", "float64", False),
        (2**53, "int64", "float64", False),
        (-(2**63), "int64", "float64", True),
        (2**64 - 1, "uint64", "float64", True),
        (2**16 - 1, "uint16", "float32", False),
    ],
)
def test_whole_numbers_keep_the_digits_that_floats_can_hold(largest, kind, dtype, is_lost):
    x = np.array([largest - (i % 8 if largest > 0 else -(i % 8)) for i in range(80)], kind)[:, None]
    y = np.arange(80) / 2
    prepared, as_floats = (prepare(read((each, y))) for each in (x, x.astype(np.float64)))
    assert prepared.train.x.dtype == prepared.schema.dtype == dtype
    assert (prepared.train.x == as_floats.train.x).all()
    assert (prepared.schema.scale == as_floats.schema.scale).all()
    assert (prepared.schema.shift == as_floats.schema.shift).all()
    assert any("x: whole numbers above" in note for note in prepared.notes) == is_lost


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=6))
@example([0.0, 2.2e-311])
def test_scales_of_arrays_are_always_finite(values):
    x = np.array(values)[:, None]
    schema = prepare(read((x, np.arange(len(values)) + 0.5)), **WHOLE).schema
    assert np.isfinite(schema.scale).all()
    assert np.isfinite(schema.shift).all()


def test_labels_of_arrays_need_not_be_contiguous():
    prepared = prepare(read((IMAGES, np.where(LABELS == 1, 7, LABELS))))
    assert prepared.schema.target.labels == (0, 2, 7)
    assert set(prepared.train.y.tolist()) == {0, 1, 2}


def test_several_targets_of_a_table():
    rng = np.random.default_rng(0)
    values = {"a": rng.normal(size=50).tolist(), "u": [0, 1] * 25, "v": [1, 1, 0, 0, 1] * 10}
    prepared = prepare(columns(values), target=("u", "v"))
    assert prepared.schema.target.task == "multilabel"
    assert prepared.train.y.shape == (34, 2)
    both = prepare(columns(values), target=("u", "a"))
    assert both.schema.target.task == "regression"
    np.testing.assert_allclose(both.train.y.std(axis=0), 1, rtol=1e-5)


def test_notes_of_the_reader_come_along():
    text = text_of({" a": [1, 2] * 30, "b": ["00501", "10001"] * 30, "y": list("uvvuvu") * 10})
    notes = prepare(csv(text), target=("y",), **WHOLE).notes
    assert notes[0].startswith("t: took the spaces")
    assert notes[1].startswith("b: numbers that begin with 0")


def test_a_typed_table_is_prepared_like_its_text():
    typed = pa.table(
        {
            "size": [None if v == "NA" else v for v in VALUES["size"]],
            **{name: VALUES[name] for name in ("rooms", "town", "garden", "sold", "kind")},
        }
    )
    first, second = (prepare(s, target=("kind",)) for s in (read(typed), SOURCE))
    assert first.train.x.tobytes() == second.train.x.tobytes()
    assert saved(first) == saved(second)


def test_ten_thousand_columns():
    rng = np.random.default_rng(0)
    table = pa.table({f"c{i}": rng.normal(size=30) for i in range(10_000)} | {"y": [0, 1] * 15})
    prepared = prepare(read(table), target=("y",))
    assert prepared.train.x.shape == (22, 10_000)


PEOPLE = {
    "who": [f"p{i // 4}" for i in range(200)],
    "day": [str(np.datetime64("2021-01-01") + np.timedelta64(i * 7 % 97, "D")) for i in range(200)],
    "x": np.random.default_rng(1).normal(size=200).tolist(),
    "y": (np.random.default_rng(2).random(200) < 0.5).astype(int).tolist(),
}


def names_of(prepared):
    return [column.name for column in prepared.schema.columns]


def test_groups_and_times_split_and_are_no_features_unless_named():
    people = columns(PEOPLE)
    by_group = prepare(people, target=("y",), group="who")
    assert names_of(by_group) == ["day", "x"]
    held = [{PEOPLE["who"][row] for row in rows} for rows in by_group.split.rows.values()]
    assert not held[0] & held[1] | held[0] & held[2] | held[1] & held[2]
    assert by_group.how == "by who: whole groups"
    by_time = prepare(people, target=("y",), time="day")
    assert names_of(by_time) == ["who", "x"]
    days = np.array(PEOPLE["day"], "datetime64")
    assert days[by_time.split.rows["train"]].max() < days[by_time.split.rows["test"]].min()
    assert names_of(prepare(people, target=("y",), time="day", features=("x", "day"))) == [
        "day",
        "x",
    ]


def test_the_rows_of_each_part_are_known():
    prepared = prepare(SOURCE, target=("kind",))
    rows = np.concatenate(list(prepared.split.rows.values()))
    np.testing.assert_array_equal(np.sort(rows), np.arange(200))
    assert {part: len(rows) for part, rows in prepared.split.rows.items()} == {
        "train": 140,
        "validation": 30,
        "test": 30,
    }
    again = prepared.schema.encode(SOURCE)[0]
    assert again[prepared.split.rows["test"]].tobytes() == prepared.test.x.tobytes()


def test_groups_in_parts_that_were_given_are_counted():
    people = columns(PEOPLE)
    other = columns({name: cells[:10] for name, cells in PEOPLE.items()})
    prepared = prepare(people, target=("y",), group="who", validation=other, test=0.0)
    assert "who: 3 groups (10 of 10 rows held out) train as well" in prepared.notes
    marked = columns({**PEOPLE, "part": (["train"] * 5 + ["test"]) * 33 + ["train"] * 2})
    prepared = prepare(marked, target=("y",), group="who", split_column="part")
    assert any("rows held out) train as well" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"time": "day", **WHOLE}, UsageError, "time day: no part is taken from t"),
        ({"group": "who", **WHOLE}, UsageError, "group who: no part is held out"),
        ({"group": "y"}, UsageError, "y: the target and named as another"),
        ({"group": "whom"}, DataError, 'no column whom; did you mean "who"?'),
        (
            {"group": "who", "validation": columns({"x": [1, 2], "y": [0, 1]}), "test": 0.0},
            DataError,
            "validation part: t: no column",
        ),
    ],
)
def test_groups_and_times_that_cannot_be_asked(options, error, message):
    with pytest.raises(error, match=message):
        prepare(columns(PEOPLE), target=("y",), **options)
