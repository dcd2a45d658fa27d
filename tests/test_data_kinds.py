"""Kinds of columns: as the user says them, and what the cells show."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from tables import columns, mixed

from gpunet.data import Schema, prepare
from gpunet.data.source import Source
from gpunet.errors import DataError, UsageError

VALUES = mixed()
SOURCE = columns(VALUES)


def prepared(source=SOURCE, **options):
    return prepare(source, **{"target": ("kind",), **options})


def kinds(found):
    return {column.name: column.kind for column in found.schema.columns}


def test_types_that_are_given_go_before_what_the_cells_show():
    assert kinds(prepared())["rooms"] == "numeric"
    found = prepared(types={"rooms": "category", "garden": "category"})
    assert kinds(found) == {
        "size": "numeric",
        "rooms": "category",
        "town": "category",
        "garden": "category",
        "sold": "date",
    }
    again = Schema.from_dict(found.schema.to_dict()).encode(SOURCE)[0]
    assert again[found.split.train].tobytes() == found.train.x.tobytes()


def test_ones_and_zeros_may_be_said_to_be_booleans():
    flags = columns({**VALUES, "flag": [i % 2 for i in range(200)]})
    assert kinds(prepared(flags))["flag"] == "numeric"
    assert kinds(prepared(flags, types={"flag": "boolean"}))["flag"] == "boolean"


@pytest.mark.parametrize(
    ("types", "error", "message"),
    [
        (
            {"romms": "numeric"},
            UsageError,
            'types romms: t has no such column; did you mean "rooms"',
        ),
        ({"kind": "category"}, UsageError, "types kind: not a column that is learnt from"),
        ({"town": "numeric"}, DataError, r'200 of 200 values are not numbers \(row 2: "'),
        (
            {"rooms": "boolean"},
            DataError,
            r"rooms: 1\d\d of 200 values are not true or false \(row",
        ),
        ({"size": "date"}, DataError, r"size: 188 of 200 values are not dates \(row 2: "),
    ],
)
def test_types_that_do_not_fit(types, error, message):
    with pytest.raises(error, match=message):
        prepared(types=types)


def test_numbers_of_a_typed_column_that_are_no_booleans():
    table = pa.table({"a": [0, 1, 2, 1] * 5, "kind": ["x", "y"] * 10})
    with pytest.raises(DataError, match=r'a: 5 of 20 values are not true or false \(row 3: "2"\)'):
        prepared(Source("t", table), types={"a": "boolean"})


def test_a_time_that_is_read_as_said():
    values = {**VALUES, "when": [f" 2021-01-{1 + i % 28:02d}" for i in range(200)]}
    with pytest.raises(DataError, match="when: 200 of 200 values are not numbers"):
        prepared(columns(values), time="when", types={"when": "numeric"})
    assert "sold" in kinds(prepared(columns(values), time="when", types={"when": "date"}))


def test_words_for_missing_are_kept_with_the_schema():
    values = {**VALUES, "size": [-1 if v == "NA" else v for v in VALUES["size"]]}
    plain = prepared()
    found = prepared(columns(values), na=("-1",))
    assert found.train.x.tobytes() == plain.train.x.tobytes()
    again = Schema.from_dict(found.schema.to_dict())
    assert again.na == ("-1",)
    assert again.encode(columns(values))[0].tobytes() == plain.schema.encode(SOURCE)[0].tobytes()


def test_words_for_missing_count_in_the_target_and_in_parts_of_their_own():
    values = {**VALUES, "kind": ["unsaid", *VALUES["kind"][1:]]}
    with pytest.raises(
        DataError, match=r"kind: 1 of 200 values of the target are missing \(row 2\)"
    ):
        prepared(columns(values), na=("unsaid",))
    rows = {name: cells[:30] for name, cells in VALUES.items()}
    rows["kind"] = ["unsaid", *rows["kind"][1:]]
    with pytest.raises(DataError, match="validation part: kind: 1 of 30 values of the target are"):
        prepared(validation=columns(rows), test=0.0, na=("unsaid",))


def test_arrays_have_neither_types_nor_words():
    arrays = dataclasses.replace(Source("a", x=np.zeros((4, 2)), y=np.arange(4) % 2))
    with pytest.raises(UsageError, match="arrays have no columns"):
        prepare(arrays, types={"x": "category"})
    with pytest.raises(UsageError, match="arrays hold no words"):
        prepare(arrays, na=("?",))
