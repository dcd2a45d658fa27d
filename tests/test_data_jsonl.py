"""JSON lines: typed columns, gaps, and faults by line."""

import math

import pytest
from tables import ROOM

from gpunet.data import jsonl
from gpunet.errors import DataError, OutOfMemory


def read(text, budget=ROOM):
    return jsonl.read_jsonl(text if isinstance(text, bytes) else text.encode(), "t", budget)


def test_types_are_those_of_json():
    source = read(
        '{"a": 1, "b": "x", "c": true, "d": 1.5}\n\n{"b": null, "a": 2, "d": 2, "e": "late"}\n'
    )
    assert source.table.to_pydict() == {
        "a": [1, 2],
        "b": ["x", None],
        "c": [True, None],
        "d": [1.5, 2.0],
        "e": [None, "late"],
    }
    assert not source.text
    assert source.row(1) == "row 3"


def test_strings_that_look_like_numbers_or_dates_stay_strings():
    table = read('{"a": "1", "b": "2020-01-01"}\n').table
    assert table.to_pydict() == {"a": ["1"], "b": ["2020-01-01"]}


def test_nan_is_missing_and_large_whole_numbers_keep_their_digits():
    table = read('{"a": NaN, "b": 123456789012345678901234567890}\n{"a": 1, "b": 2}\n').table
    assert table.to_pydict() == {"a": [None, 1.0], "b": [123456789012345678901234567890, 2]}
    table = read(f'{{"a": {10**40 + 1}, "b": {10**400}}}\n{{"a": 1}}\n').table
    assert table.to_pydict() == {"a": [1e40, 1.0], "b": [math.inf, None]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("\n \n", "no rows"),
        ('{"a": 1}\n{"a": 2\n', "line 2 is not a JSON object on one line"),
        ("{\n", "line 1 is not a JSON object on one line"),
        (' [{"a": 1}]\n', "a JSON array; wanted JSON lines: one object a line"),
        ('{"a": 1}\n[1, 2]\n', "line 2 holds .*wanted a JSON object"),
        ('{"a": 1, "a": 2}\n', 'line 1 has the key "a" twice'),
        ('{"a": 1}\n{"a": 3}\n{"a": "x"}\n', r'a: not one type throughout \(line 3: "x"\)'),
        ('{"a": true}\n{"a": true}\n{"a": 1}\n', r'a: not one type throughout \(line 3: "1"\)'),
        ('{"a": 1}\n{"a": [1]}\n', r'a: wanted numbers, .*\(line 2: "\[1\]"\)'),
        ('{"a": {"b": 1}}\n', r"a: wanted numbers, .*line 1"),
        ("{}\n", "the objects are empty"),
        ('{"": 1}\n', "column 1 has no name"),
        ('{"a": ' + "[" * 100_000 + "\n", "line 1 is not a JSON object"),
        ('{"a": "\\ud800"}\n', "half of a surrogate pair"),
        ("\ufeff[", "line 1 is not a JSON object"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_a_column_of_another_kind_is_kept_apart_with_the_reason():
    source = read('{"a": 1, "b": [1], "c": 1, "d": "\\ud800"}\n{"a": 1, "c": "x"}\n')
    assert source.columns == ["a"]
    assert source.unfit == {
        "b": 'b: wanted numbers, text, true or false, null (line 1: "[1]")',
        "c": 'c: not one type throughout (line 2: "x")',
        "d": "d: half of a surrogate pair in the text (surrogates not allowed)",
    }


def test_latin_1_is_named():
    with pytest.raises(DataError, match="line 1, byte 7 is 0xe9"):
        read(b'{"a": "\xe9"}\n')


def test_more_text_than_memory_holds():
    with pytest.raises(OutOfMemory, match="13 B of JSON: needs 416 B; --max-memory allows 415 B"):
        read('{"a": 12345}\n', 415)
    assert read('{"a": 12345}\n', 416).rows == 1
