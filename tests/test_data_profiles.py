"""Profiles: what people see of their data."""

import numpy as np
import pyarrow as pa
import pytest
from tables import columns, csv, mixed

from gpunet.data import ColumnProfile, profile, read
from gpunet.data.source import Source
from gpunet.errors import UsageError


def by_name(source, *target):
    return {column.name: column for column in profile(source, target)}


def test_numbers_categories_booleans_and_dates():
    source = columns(
        {
            "n": ["1", "NA", "3", "8"],
            "c": ["x", "x", "y", "NA"],
            "b": ["yes", "no", "yes", "yes"],
            "d": ["2020-01-01", "2020-01-03", "2020-01-05", ""],
            "t": ["2020-01-01T06:00", "2020-01-03", "2020-01-05", "2020-01-06"],
            "k": ["5", "5", "5", "5"],
            "e": ["", "NA", "", ""],
        }
    )
    assert profile(source) == [
        ColumnProfile("n", "ordinal", 1, 3, 1.0, 3.0, 8.0),
        ColumnProfile("c", "category", 1, 2, top=(("x", 2), ("y", 1))),
        ColumnProfile("b", "boolean", 0, 2, top=(("true", 3), ("false", 1))),
        ColumnProfile("d", "date", 1, 3, "2020-01-01", "2020-01-03", "2020-01-05"),
        ColumnProfile("t", "timestamp", 0, 4, "2020-01-01T06:00:00", "2020-01-04", "2020-01-06"),
        ColumnProfile("k", "constant", 0, 1, 5.0, 5.0, 5.0, note="left out: constant"),
        ColumnProfile("e", "empty", 4, 0, note="left out: without values"),
    ]


@pytest.mark.parametrize("target", [(), ("n",)])
@pytest.mark.parametrize(
    ("cells", "ends"),
    [
        (pa.array([2**62 + 3, None, 2**62 + 9, 2**62 + 1]), (2**62 + 1, 2**62 + 9)),
        (pa.array([2**64 - 1, 7, 2**64 - 2], pa.uint64()), (7, 2**64 - 1)),
        ([f"-{2**70 + 1}", "NA", f" {2**70 + 9} ", f"-{2**70}"], (-(2**70) - 1, 2**70 + 9)),
        ([str(2**62 + 1), str(2**62), "1e3", "2.0"], (2, 2**62 + 1)),
    ],
)
def test_large_whole_numbers_are_shown_to_the_last_digit(cells, ends, target):
    is_text = isinstance(cells, list)
    source = Source("t", pa.table({"n": cells, "m": range(len(cells))}), text=is_text)
    found = by_name(source, *target)["n"]
    assert (found.minimum, found.maximum) == ends
    assert found.distinct == len(cells) - found.missing
    assert isinstance(found.median, float)


def test_ids_and_mistakes_are_said_and_never_raised():
    names = [f"n{i}" for i in range(100)]
    values = [*map(str, range(99)), "oops"]
    found = by_name(columns({"id": names, "odd": values, "far": ["inf", *values[:99]]}))
    assert found["id"].kind == "id"
    assert found["odd"].note.startswith('1 of 100 values are not numbers (row 101: "oops")')
    assert "infinite" in found["far"].note


def test_the_target_says_its_task():
    source = columns(mixed())
    assert by_name(source, "kind")["kind"].note == (
        "target: multiclass, text with 3 different values"
    )
    assert "missing" in by_name(source, "size")["size"].note
    assert by_name(read("penguins"))["species"].note.startswith("target: multiclass")


def test_arrays_are_x_and_y():
    x = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 250]]], np.uint8)
    found = profile(read((x, np.array(["a", "b"]))))
    assert found == [
        ColumnProfile("x", "numeric", 0, 8, 0.0, 3.5, 250.0, note="2 x 2 values of uint8 a row"),
        ColumnProfile(
            "y",
            "category",
            0,
            2,
            top=(("a", 1), ("b", 1)),
            note="target: binary, text with 2 different values",
        ),
    ]
    assert [column.name for column in profile(read(x))] == ["x"]
    with pytest.raises(UsageError, match="the target is the array y"):
        profile(read(x), ("z",))
    both = profile(read((x, np.array([[0.5, 1], [2, 3]]))))
    assert [column.name for column in both] == ["x", "y1", "y2"]
    assert both[1].note == "target: regression, 2 targets of numbers"
    codes = profile(columns({"zip": [f"{i:05d}" for i in range(90)]}), ("zip",))
    assert codes[0].note.endswith("were read as numbers; --task multiclass takes them for classes")


def test_top_levels_come_by_count():
    found = by_name(csv("c,n\n" + "".join(f"{c},1\n" for c in "abbcccddddeeeeeffffff")))
    assert [level for level, _ in found["c"].top] == ["f", "e", "d", "c", "b"]


def test_what_is_not_learnt_from_is_shown_with_the_reason():
    *_, found = profile(read({"a": [1, 2], "l": [[1], [2]]}))
    assert (found.name, found.kind, found.distinct) == ("l", "other", None)
    assert "column l is of type list" in found.note


def test_every_note_is_said():
    found = by_name(columns({"n": [f"{i},5" for i in range(99)], "m": ["1,5", "2,5", "1,5"] * 33}))
    like = 'numbers with a decimal comma, such as "{},5", were read as text; write them like {}.5'
    like += "; --decimal , reads them as they are"
    assert found["n"].note == f"left out: a different text in every row; {like.format(0, 0)}"
    assert found["m"].note == like.format(1, 1)


def test_a_messy_file_is_looked_at_as_it_will_be_read():
    text = "a;b;c;y\n" + "".join(
        f"{i},5;{i % 3 or 'unknown'};0{i % 5};{i % 2}\n" for i in range(60)
    )
    types, na = {"c": "category"}, ("unknown",)
    seen = profile(csv(text), ("y",), types=types, na=na, decimal=",")
    assert [(column.kind, column.missing) for column in seen[:3]] == [
        ("numeric", 0),
        ("ordinal", 20),
        ("category", 0),
    ]
    assert (seen[0].minimum, seen[2].note) == (0.5, "")
    with pytest.raises(UsageError, match=r"--types d: .* has no such column"):
        profile(csv(text), types={"d": "date"})
    with pytest.raises(UsageError, match="arrays have no columns"):
        profile(read(np.zeros((2, 2))), types=types)


def test_levels_that_share_an_input_are_those_of_training():
    source = columns({"c": [f"c{i % 70}" for i in range(700)]})
    assert "all but the 64 most frequent" in by_name(source)["c"].note
    assert profile(source, one_hot_levels=8)[0].note == ""
