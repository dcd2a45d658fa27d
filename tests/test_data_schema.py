"""Schemas: by name, saved exactly, refused when damaged."""

import copy
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import Counted, columns, csv, mixed, text_of

from gpunet.data import Layout, Schema, prepare, read
from gpunet.data.schema import check_columns
from gpunet.data.unseen import Unseen
from gpunet.errors import DataError, ModelInvalid

VALUES = mixed()
SOURCE = columns(VALUES)
WHOLE = {"validation": 0.0, "test": 0.0}
SCHEMA = prepare(SOURCE, target=("kind",)).schema
CODED = prepare(SOURCE, target=("kind",), scaling="robust", one_hot_levels=3).schema
BINNED = prepare(SOURCE, target=("kind",), scaling="robust", bins=4, **WHOLE).schema
TEXTS = columns({"a": [f"t{i % 1_100}" for i in range(1_400)], "y": [0, 1] * 700})
HASHED = prepare(TEXTS, target=("y",), one_hot_levels=8, **WHOLE).schema
REGRESSION = prepare(
    SOURCE,
    target=("rooms", "size"),
    drop_missing_target=True,
    clamp=True,
    target_transform="log",
).schema
INPUTS = [name for name in VALUES if name != "kind"]
IMAGES = np.arange(240, dtype=np.uint8).reshape(10, 6, 4)
LABELS = np.arange(10) % 2


@pytest.mark.parametrize("schema", [SCHEMA, CODED, HASHED, BINNED, REGRESSION])
def test_a_saved_schema_comes_back_exactly(schema):
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again.to_dict() == schema.to_dict()
    assert again.columns == schema.columns
    assert again.target == schema.target
    assert again.layout == schema.layout
    source = TEXTS if schema is HASHED else SOURCE
    assert again.encode(source)[0].tobytes() == schema.encode(source)[0].tobytes()


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        (IMAGES.astype(float), LABELS.astype(float)),
        (IMAGES, LABELS.astype(bool)),
        (IMAGES.astype(float), np.array(["a", "b"] * 5)),
    ],
)
@pytest.mark.parametrize("standardise", [True, False])
def test_a_schema_of_arrays_comes_back_exactly(data, standardise):
    schema = prepare(read(data), standardise=standardise, **WHOLE).schema
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert again.to_dict() == schema.to_dict()
    assert again.target == schema.target
    assert (again.scale is None) == (not standardise)
    if standardise:
        assert again.scale.tobytes() == schema.scale.tobytes()
        assert not again.scale.flags.writeable


def test_the_width_is_that_of_x():
    x, unseen = SCHEMA.encode(SOURCE)
    assert x.shape == (200, SCHEMA.width)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    assert unseen == Unseen(200)


def test_numbers_come_first_then_plain_inputs_then_codes():
    assert (SCHEMA.layout, CODED.layout) == (Layout(4, 11, ()), Layout(4, 6, (5,)))
    assert CODED.layout.width == CODED.width == 11
    x, _ = CODED.encode(SOURCE)
    places = {column.name: column for column in CODED.columns}
    towns = ["unknown", *places["town"].levels]
    assert [towns[int(code)] for code in x[:, -1]] == VALUES["town"]
    np.testing.assert_array_equal(x[:, 4] > 0.5, [v == "NA" for v in VALUES["size"]])
    assert len(set(zip(x[:, 5].tolist(), VALUES["garden"], strict=True))) == 2
    rooms = np.array(VALUES["rooms"])
    assert (np.diff(x[np.argsort(rooms), 1]) >= 0).all()
    assert [len(each) for each in BINNED.layout.knots] == [4, 4, 0, 4]
    assert (BINNED.layout.bins, BINNED.layout.width) == (9, BINNED.width)
    arrays = prepare(read((IMAGES, LABELS)), **WHOLE).schema
    assert arrays.layout == Layout(0, 24, ())


@settings(max_examples=25, deadline=None)
@given(st.permutations(INPUTS), st.booleans())
def test_the_order_of_columns_does_not_matter_and_extra_ones_are_ignored(order, extra):
    shuffled = {name: VALUES[name] for name in order}
    if extra:
        shuffled = {"extra": ["x"] * 200} | shuffled
    x, _ = SCHEMA.encode(columns(shuffled))
    assert x.tobytes() == SCHEMA.encode(SOURCE)[0].tobytes()


def test_a_row_alone_is_encoded_as_among_others():
    for schema in (SCHEMA, CODED):
        x, _ = schema.encode(SOURCE)
        for row in (0, 3, 199):
            alone = columns({name: [cells[row]] for name, cells in VALUES.items()})
            assert schema.encode(alone)[0].tobytes() == x[row].tobytes()


def test_the_same_data_with_types_is_encoded_alike():
    typed = pa.table(
        {
            "size": pa.array([None if v == "NA" else v for v in VALUES["size"]]),
            "rooms": pa.array(VALUES["rooms"], pa.int8()),
            "town": pa.array(VALUES["town"]).dictionary_encode(),
            "garden": [v == "yes" for v in VALUES["garden"]],
            "sold": pa.array(VALUES["sold"]).cast(pa.date32()),
        }
    )
    assert SCHEMA.encode(read(typed))[0].tobytes() == SCHEMA.encode(SOURCE)[0].tobytes()


def test_columns_that_lack_are_all_named_with_what_comes_near():
    other = {"town": "city", "rooms": "Room"}
    renamed = {other.get(name, name): cells for name, cells in VALUES.items()}
    with pytest.raises(
        DataError, match=r't: 2 columns missing: rooms, town; did you mean "Room"\?'
    ):
        SCHEMA.encode(columns(renamed))
    del renamed["Room"], renamed["city"]
    renamed["rooms"] = VALUES["rooms"]
    with pytest.raises(DataError, match="t: no column town; the columns are size, garden, sold"):
        SCHEMA.encode(columns(renamed))


def test_what_comes_near_is_looked_for_in_one_pass():
    names = Counted(["c0", "c201"])
    with pytest.raises(DataError, match=r'no column c201; did you mean "c2'):
        check_columns(columns({f"c{i}": ["1"] for i in range(201)}), names)
    assert names.times < 9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rooms", r'rooms: 1 of 200 values are not numbers \(row 5: "many"\)'),
        ("sold", r'sold: 1 of 200 values are not dates \(row 5: "many"\)'),
    ],
)
def test_a_column_whose_type_changed_is_refused(name, message):
    cells = list(VALUES[name])
    cells[3] = "many"
    with pytest.raises(DataError, match=message):
        SCHEMA.encode(columns(VALUES | {name: cells}))


def test_unseen_categories_are_counted_by_column():
    cells = ["Leeds", "Leeds", "Hull", *VALUES["town"][3:]]
    gardens = ["perhaps", *VALUES["garden"][1:]]
    _, unseen = SCHEMA.encode(columns(VALUES | {"town": cells, "garden": gardens}))
    assert unseen == Unseen(200, category=Counter(town=3, garden=1))


def test_cells_that_are_missing_or_far_outside_as_none_was_in_training_are_counted():
    cells = {
        "rooms": ["99", "2", "NA", *VALUES["rooms"][3:]],
        "town": ["NA", "NA", *VALUES["town"][2:]],
        "garden": ["NA", *VALUES["garden"][1:]],
        "sold": ["9999-12-31", *VALUES["sold"][1:]],
        "size": ["NA", *VALUES["size"][1:]],  # as in training
    }
    _, unseen = SCHEMA.encode(columns(VALUES | cells))
    missing, outside = Counter(rooms=1, town=2, garden=1), Counter(rooms=1, sold=1)
    assert unseen == Unseen(200, missing=missing, outside=outside)


def test_a_schema_that_was_saved_without_ends_is_read_and_tells_no_number_outside():
    saved = SCHEMA.to_dict()
    for column in saved["columns"]:
        del column["ends"]
    cells = ["99", *VALUES["rooms"][1:]]
    _, unseen = Schema.from_dict(saved).encode(columns(VALUES | {"rooms": cells}))
    assert unseen == Unseen(200)


def test_tables_and_arrays_are_not_mixed_up():
    with pytest.raises(DataError, match="holds arrays; wanted a table"):
        SCHEMA.encode(read(IMAGES))
    schema = prepare(read((IMAGES, LABELS)), **WHOLE).schema
    with pytest.raises(DataError, match="a table; wanted arrays with 24 features"):
        schema.encode(SOURCE)
    with pytest.raises(DataError, match="6 features a row; wanted 24"):
        schema.encode(read(IMAGES[:, :, 0]))


def test_arrays_fit_the_type_of_training_or_are_refused():
    schema = prepare(read((IMAGES, LABELS)), **WHOLE).schema
    flat = IMAGES.reshape(10, 24)
    for same in (IMAGES, flat, flat.astype(np.int64), flat.astype(np.float32)):
        x, unseen = schema.encode(read(same))
        assert x.dtype == np.uint8
        np.testing.assert_array_equal(x, flat)
        assert unseen == Unseen(10)
    for other in (flat / 255, flat.astype(int) - 1, flat.astype(int) + 100):
        with pytest.raises(DataError, match="does not fit uint8, which the network was trained on"):
            schema.encode(read(other))
    single = prepare(read((IMAGES.astype(np.float32), LABELS)), **WHOLE).schema
    assert single.encode(read(IMAGES))[0].dtype == np.float32
    with pytest.raises(DataError, match="does not fit float32"):
        single.encode(read(np.full((1, 24), 1e300)))
    seconds = 1_700_000_000 + np.arange(240).reshape(10, 24)
    double = prepare(read((seconds.astype(np.float64), LABELS)), **WHOLE).schema
    assert (double.encode(read(seconds))[0] == seconds).all()


def test_encoding_targets():
    y = SCHEMA.encode_target(SOURCE)
    labels = np.array(SCHEMA.target.labels)
    assert labels[y].tolist() == VALUES["kind"]
    without = columns({name: VALUES[name] for name in INPUTS})
    with pytest.raises(DataError, match="t: no column kind"):
        SCHEMA.encode_target(without)
    with pytest.raises(DataError, match=r"1 of 200 .* missing \(row 2\); leave .*-target$"):
        SCHEMA.encode_target(columns(VALUES | {"kind": ["", *VALUES["kind"][1:]]}))
    with pytest.raises(DataError, match=r'none of the classes .* \(row 2: "castle"\)'):
        SCHEMA.encode_target(columns(VALUES | {"kind": ["castle", *VALUES["kind"][1:]]}))
    arrays = prepare(read((IMAGES, LABELS)), **WHOLE).schema
    with pytest.raises(DataError, match="no targets; wanted an array y"):
        arrays.encode_target(read(IMAGES))


def test_labels_that_mostly_look_like_numbers_are_still_labels():
    values = {"a": list(range(300)), "y": ["1", "2", "A"] * 100}
    schema = prepare(columns(values), target=("y",)).schema
    later = columns({"a": list(range(100)), "y": ["1"] * 99 + ["A"]})
    assert schema.encode_target(later).tolist() == [0] * 99 + [2]
    asked = prepare(later, target=("y",), task="binary", **WHOLE)
    assert asked.schema.target.labels == ("1", "A")
    with pytest.raises(DataError, match="1 of 100 values are not numbers"):
        prepare(later, target=("y",))


def test_decoding_gives_the_targets_own_units():
    prepared = prepare(SOURCE, target=("rooms",), task="regression", **WHOLE)
    back = prepared.schema.decode(prepared.train.y)
    np.testing.assert_allclose(back[:, 0], VALUES["rooms"], rtol=1e-6)


def damaged(change, schema=SCHEMA):
    saved = json.loads(json.dumps(schema.to_dict()))
    change(saved)
    return saved


COLUMN = {name: i for i, name in enumerate(INPUTS)}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("width"),
        lambda s: s.update(extra=1),
        lambda s: s.update(version=1),
        lambda s: s.update(width=s["width"] + 1),
        lambda s: s.update(width=True),
        lambda s: s.update(kind="graph"),
        lambda s: s.update(kind="arrays"),
        lambda s: s.update(columns=[]),
        lambda s: s.update(columns={"a": 1}),
        lambda s: s.update(dtype="uint8"),
        lambda s: s.update(dtype="object"),
        lambda s: s.update(scale=[1.0] * s["width"], shift=[0.0] * s["width"]),
        lambda s: s.update(scale=[1.0] * s["width"]),
        lambda s: s["columns"].append(s["columns"][0]),
        lambda s: s["columns"][0].pop("fill"),
        lambda s: s["columns"][0].update(name=5),
        lambda s: s["columns"][0].update(name="kind"),
        lambda s: s["columns"][0].update(kind="text"),
        lambda s: s["columns"][0].update(kind=["numeric"]),
        lambda s: s["columns"][0].update(missing=1),
        lambda s: s["columns"][0].update(rare=None),
        lambda s: s["columns"][0].update(fill=float("nan")),
        lambda s: s["columns"][0].update(fill="0"),
        lambda s: s["columns"][0].update(centre=[0.0, 1.0]),
        lambda s: s["columns"][0].update(centre=0.0),
        lambda s: s["columns"][0].update(spread=[-1.0]),
        lambda s: s["columns"][0].update(spread=[float("inf")]),
        lambda s: s["columns"][0].update(ends=[1.0]),
        lambda s: s["columns"][0].update(ends=[1.0, 1.0]),
        lambda s: s["columns"][COLUMN["town"]].update(ends=[0.0, 1.0]),
        lambda s: s["columns"][0].update(levels=["a"]),
        lambda s: s["columns"][0].update(robust=True),
        lambda s: s["columns"][0].update(coded=True),
        lambda s: s["columns"][COLUMN["town"]].update(robust=True),
        lambda s: s["columns"][COLUMN["town"]].update(coded=True),
        lambda s: s["columns"][COLUMN["town"]].update(levels=["a", "a", "b", "c"]),
        lambda s: s["columns"][COLUMN["town"]].update(levels=[1, 2, 3, 4]),
        lambda s: s["columns"][COLUMN["town"]].update(levels=[]),
        lambda s: s["columns"][COLUMN["town"]].update(levels=[str(i) for i in range(65)]),
        lambda s: s["target"].update(names=[]),
        lambda s: s["target"].update(names=["kind", "kind"]),
        lambda s: s["target"].update(task="auto"),
        lambda s: s["target"].update(task="binary"),
        lambda s: s["target"].update(task="regression"),
        lambda s: s["target"].update(labels=["a"]),
        lambda s: s["target"].update(labels=["a", "a", "b"]),
        lambda s: s["target"].update(labels=["a", 1, "b"]),
        lambda s: s["target"].update(labels=[1.5, 2.5, 3.5]),
        lambda s: s["target"].update(labels=[[], [], []]),
        lambda s: s["target"].update(factors=[1.0, 2.0]),
        lambda s: s["target"].update(factors=[1.0, 2.0, 0.0]),
        lambda s: s["target"].update(std=[0.0]),
        lambda s: s["target"].update(mean=[]),
        lambda s: s["target"].update(reason=None),
        lambda s: s.update(target=None),
        lambda s: s.update(na="?"),
        lambda s: s.update(decimal=""),
        lambda s: s.update(decimal=[","]),
        lambda s: s.update(group=1),
        lambda s: s.update(group="town", time="sold"),
        lambda s: s.update(na=[1]),
    ],
)
def test_a_damaged_schema_is_refused(change):
    with pytest.raises(ModelInvalid, match="the schema"):
        Schema.from_dict(damaged(change))


@pytest.mark.parametrize(
    ("schema", "change"),
    [
        (CODED, lambda s: s["columns"][0].update(robust=False)),
        (CODED, lambda s: s["columns"][COLUMN["town"]].update(coded=False)),
        (CODED, lambda s: s["columns"][COLUMN["town"]].update(robust=True)),
        (CODED, lambda s: s["columns"][COLUMN["town"]].update(coded=1)),
        (
            CODED,
            lambda s: s["columns"][COLUMN["town"]].update(levels=[str(i) for i in range(10_001)]),
        ),
        (CODED, lambda s: s["target"].update(low=[0.0], high=[1.0])),
        *(
            (BINNED, lambda s, knots=knots: s["columns"][0].update(knots=knots))
            for knots in (
                *(None, 1.0, [0.0, 1.0], [[0.0, 1.0]] * 2, [None], [[0.0, 0.0]], [[1.0, 0.0]]),
                *([[0, 1]], [[0.0, float("nan")]], [[0.0, float("inf")]], [["0", "1"]]),
                [[float(i) for i in range(66)]],
            )
        ),
        (BINNED, lambda s: s["columns"][0].pop("knots")),
        (BINNED, lambda s: s["columns"][COLUMN["town"]].update(knots=[[0.0, 1.0]])),
        (HASHED, lambda s: s["columns"][0].update(coded=False)),
        (HASHED, lambda s: s["columns"][0].update(kind="category")),
        (HASHED, lambda s: s["columns"][0].update(levels=["a"])),
        (HASHED, lambda s: s["columns"][0].update(centre=[0.0], spread=[1.0])),
        (REGRESSION, lambda s: s["target"].update(low=[])),
        (REGRESSION, lambda s: s["target"].update(high=[1.0])),
        (REGRESSION, lambda s: s["target"].update(high=[-1e9, 1e9])),
        (REGRESSION, lambda s: s["target"].update(low=[float("nan"), 0.0])),
        (REGRESSION, lambda s: s["target"].update(low=None)),
        (REGRESSION, lambda s: s["target"].update(low=[0.0, 1.0])),
        (REGRESSION, lambda s: s["target"].update(transform="sqrt")),
        (CODED, lambda s: s["target"].update(transform="log")),
    ],
)
def test_a_damaged_schema_of_other_encodings_is_refused(schema, change):
    with pytest.raises(ModelInvalid, match="the schema"):
        Schema.from_dict(damaged(change, schema))


@pytest.mark.parametrize("junk", [None, [], "schema", 5, {}, {"version": 1}])
def test_what_is_no_schema_at_all(junk):
    with pytest.raises(ModelInvalid, match="the schema"):
        Schema.from_dict(junk)


JUNK = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JUNK |= st.lists(JUNK, max_size=2) | st.dictionaries(st.text(max_size=2), JUNK, max_size=2)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_part_replaced_by_junk_is_refused_or_a_schema(data):
    saved = copy.deepcopy(data.draw(st.sampled_from([SCHEMA, CODED, HASHED, REGRESSION])).to_dict())
    place = saved
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(keys))
        if data.draw(st.booleans()) or not isinstance(place[key], (dict, list)):
            place[key] = data.draw(JUNK)
            break
        place = place[key]
    try:
        schema = Schema.from_dict(saved)
    except ModelInvalid:
        return
    json.dumps(schema.to_dict(), allow_nan=False)
    assert schema.width > 0


def test_column_names_are_data_whatever_they_hold():
    names = ["[/red]", "\x1b[31ma", 'q"uote', "日本"]
    source = columns({name: [1, 2, 3, 5] for name in names} | {"y": list("abab")})
    schema = prepare(source, target=("y",), **WHOLE).schema
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert [column.name for column in again.columns] == names
    assert again.encode(source)[0].shape == (4, 4)


def test_csv_text_and_columns_are_the_same_source():
    from_text = csv(text_of(VALUES))
    assert from_text.table.equals(SOURCE.table)
