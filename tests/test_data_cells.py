"""Cells: what kind a column is, and which cells spoil it."""

import dataclasses
import datetime
import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import columns

from gpunet.data.cells import read_cells, unmet
from gpunet.data.source import Source
from gpunet.errors import DataError

NAN = np.nan


def text(values, kind=None, rows=None):
    return read_cells(columns({"a": values}), "a", kind, rows)


def typed(values, type=None, kind=None):
    return read_cells(Source("t", pa.table({"a": pa.array(values, type)})), "a", kind)


def words(cells):
    return [
        None if m else cells.levels[c] for c, m in zip(cells.values, cells.missing, strict=True)
    ]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1", "2.5", "-3", "1e3"], [1, 2.5, -3, 1000]),
        (["+1", ".5", "5.", "007"], [1, 0.5, 5, 7]),
        (["1", "", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "?", "-"],
         [1, *[NAN] * 11]),
        ([" 1", "2 ", "\t3", " NA "], [1, 2, 3, NAN]),
        (["1", "NAN", "-nan"], [1, NAN, NAN]),
        (["1", "", "nan(ind)", "-nan(ind)"], [1, NAN, NAN, NAN]),
    ],
)  # fmt: skip
def test_text_of_numbers(values, wanted):
    cells = text(values)
    assert cells.kind == "numeric"
    np.testing.assert_array_equal(cells.values, wanted)


def test_numbers_are_read_to_the_last_bit():
    values = np.random.default_rng(0).normal(size=500) * 10.0 ** np.arange(-250, 250)
    got = text([repr(v) for v in values.tolist()]).values
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize(
    "odd", ["nAn", "-NaN", "nan(1)", "0x10", "1_000", "1,5", "5%", "abc", "1e", "\u0663"]
)
def test_what_is_not_a_plain_number_is_text(odd):
    assert text([odd, "2"]).kind == "category"
    assert text([odd, "", "2"]).kind == "category"


def test_question_marks_and_dashes_are_levels_among_text():
    cells = text(["a", "?", "-", "NA", "b"])
    assert words(cells) == ["a", "?", "-", None, "b"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["true", "False", "TRUE", ""], [1, 0, 1, NAN]),
        (["yes", "no", " Yes", "NA"], [1, 0, 1, NAN]),
        (["T", "n", "t"], [1, 0, 1]),
    ],
)
def test_text_of_booleans(values, wanted):
    cells = text(values)
    assert cells.kind == "boolean"
    np.testing.assert_array_equal(cells.values, wanted)


@pytest.mark.parametrize("values", [["F", "N", "F"], ["N", "T", "Y"], ["yes", "no", "y", "NA"]])
def test_several_words_for_true_or_for_false_are_levels_unless_they_are_said_to_be_one(values):
    assert text(values).kind == "category"
    assert typed(values).kind == "category"
    assert text(values, "boolean").kind == "boolean"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["1970-01-02", "1969-12-31", "NA", "2020-02-29"], [1, -1, NAN, 18321]),
        (["1970-01-01T12:00", "1970-01-01 06:00:00", "?", "1970-01-02"], [0.5, 0.25, NAN, 1]),
        (["1970-01-01T00:00:00.500Z", "1970-01-02T00:00:00+06:00"], [0.5 / 86400, 0.75]),
        (["1970-01-01T00:00:00.500000123", "1970-01-02"], [0.5 / 86400, 1]),
    ],
)
def test_text_of_dates(values, wanted):
    cells = text(values)
    assert cells.kind == "date"
    np.testing.assert_allclose(cells.values, wanted, rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.datetimes(), min_size=1, max_size=5))
def test_any_moment_in_iso_form_is_a_date(moments):
    cells = text([moment.isoformat() for moment in moments])
    assert cells.kind == "date"
    epoch = datetime.datetime(1970, 1, 1)
    wanted = [(moment - epoch) / datetime.timedelta(days=1) for moment in moments]
    np.testing.assert_allclose(cells.values, wanted, rtol=1e-15, atol=1e-11)


@pytest.mark.parametrize("odd", ["2021-02-30", "2021-13-01", "20210101", "1.2.2021", "2021-01"])
def test_what_no_calendar_has_is_text(odd):
    assert text([odd, "2021-01-01", "x"]).kind == "category"


@pytest.mark.parametrize("words", [["", "NA"], ["NA"]])
def test_a_column_without_values(words):
    cells = text(words)
    assert cells.kind == "category"
    assert cells.missing.all()


def test_numbers_that_only_other_rows_have_do_not_count():
    cells = text(["NA"] * 3 + [str(i) for i in range(50)], rows=np.arange(3))
    assert cells.kind == "category"


def test_a_few_cells_that_are_not_numbers_are_mistakes():
    values = [str(i) for i in range(20_640)]
    for i in range(1285, 1299):
        values[i] = f"n.a. {i}"
    with pytest.raises(
        DataError, match=r'^a: 14 of 20,640 values are not numbers \(row 1,287: "n.a. 1285"\)'
    ):
        text(values)


@pytest.mark.parametrize(
    ("good", "bad", "refused"), [(98, 2, True), (97, 3, False), (20, 0, False), (19, 1, False)]
)
def test_the_share_and_number_that_make_a_mistake(good, bad, refused):
    values = [str(i) for i in range(good)] + ["x"] * bad + ["NA"] * 50
    if refused:
        with pytest.raises(DataError, match=f"{bad} of 150 values are not numbers"):
            text(values)
    else:
        assert text(values).kind == ("category" if bad else "numeric")


def test_a_few_cells_that_are_not_dates_are_mistakes():
    values = ["2021-01-01"] * 99 + ["2021-02-30"]
    with pytest.raises(DataError, match=r'1 of 100 values are not dates \(row 101: "2021-02-30"'):
        text(values)


@pytest.mark.parametrize("word", ["inf", "-inf", "Infinity", "1e999"])
def test_infinite_values_are_refused(word):
    for values in (["1", word], ["1", "NA", word]):
        with pytest.raises(DataError, match=rf"a: 1 of {len(values)} values are infinite .*row"):
            text(values)
    with pytest.raises(DataError, match=r"infinite or too large for a number \(row 2: inf\)"):
        typed([1.0, np.inf])


@pytest.mark.parametrize(
    ("values", "between", "type"),
    [
        ([2**31 - 1], pa.int32(), pa.date32()),
        ([2**60], pa.int64(), pa.timestamp("s")),
        ([-(2**62)], pa.int64(), pa.timestamp("ms", "UTC")),
    ],
)
def test_dates_too_far_to_count_are_refused(values, between, type):
    column = pa.array([0, *values, None], between).cast(type)
    with pytest.raises(DataError, match=r"1 of 3 values are infinite or too large for a date \(ro"):
        typed(column, type)
    np.testing.assert_array_equal(typed(column.take(pa.array([0, 2])), type).values, [0, NAN])


def test_the_kind_is_inferred_from_the_given_rows_alone():
    rows = np.array([0, 1, 2])
    assert text(["x", "y", "x", "5"], rows=rows).kind == "category"
    with pytest.raises(DataError, match=r'1 of 4 values are not numbers \(row 5: "x"\)'):
        text(["1", "2", "3", "x"], rows=rows)
    booleans = text(["yes", "no", "yes", "maybe"], rows=rows)
    assert booleans.values.tolist() == [1, 0, 1, -1]


@pytest.mark.parametrize(
    ("values", "type", "kind", "wanted"),
    [
        ([1, None, 3], pa.int64(), "numeric", [1, NAN, 3]),
        (np.array([1, 2, 3], np.float16), None, "numeric", [1, 2, 3]),
        ([2**63, None, 3], pa.uint64(), "numeric", [2.0**63, NAN, 3]),
        ([1.5, None, NAN], pa.float32(), "numeric", [1.5, NAN, NAN]),
        ([True, None, False], None, "boolean", [1, NAN, 0]),
        ([1, None], pa.decimal128(9, 2), "numeric", [1, NAN]),
        ([datetime.date(1970, 1, 3), None], None, "date", [2, NAN]),
        ([datetime.datetime(1970, 1, 1, 6), None], None, "date", [0.25, NAN]),
        ([10**9 * 43_200, None], pa.timestamp("ns"), "date", [0.5, NAN]),
        ([0, None], pa.timestamp("s", "America/New_York"), "date", [0, NAN]),
        ([None, None], pa.null(), "category", [-1, -1]),
    ],
)
def test_columns_that_come_with_a_type(values, type, kind, wanted):
    cells = typed(values, type)
    assert cells.kind == kind
    np.testing.assert_array_equal(cells.values, wanted)
    assert cells.missing.tolist() == [v is None or v != v for v in values]


def test_typed_text_is_never_a_number_but_may_be_a_date():
    assert typed(["1", "2"]).kind == "category"
    assert typed(["1", "2"], pa.string_view()).kind == "category"
    assert typed(["2020-01-01", None]).kind == "date"
    assert typed(["yes", "no"]).kind == "boolean"


def test_missing_words_are_levels_in_typed_text():
    cells = typed(["NA", "b", None])
    assert words(cells) == ["NA", "b", None]


def test_dictionaries_are_categories_whatever_they_hold():
    numbers = pa.array([3, 1, None, 3]).dictionary_encode()
    cells = read_cells(Source("t", pa.table({"a": numbers})), "a")
    assert words(cells) == ["3", "1", None, "3"]
    nulls = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["x", None]))
    assert words(read_cells(Source("t", pa.table({"a": nulls})), "a")) == ["x", None, None]


def test_numbers_in_text_form_pass_for_numbers():
    np.testing.assert_array_equal(typed(["1", " 2", None], kind="numeric").values, [1, 2, NAN])


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (["1", "x"], "numeric", r'1 of 2 values are not numbers \(row 2: "x"\)'),
        (["x"], "date", r'1 of 1 values are not dates \(row 1: "x"\)'),
        ([5], "date", "wanted dates; the column holds numbers"),
        ([datetime.date(2020, 1, 1)], "numeric", "wanted numbers; the column holds dates"),
        ([datetime.date(2020, 1, 1)], "boolean", "wanted true or false; the column holds dates"),
    ],
)
def test_a_column_of_another_kind_is_refused(values, kind, message):
    with pytest.raises(DataError, match=message):
        typed(values, kind=kind)


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        ([True, False], "numeric", [1, 0]),
        ([1, 0, 7], "boolean", [1, 0, -1]),
        ([None, None], "numeric", [NAN, NAN]),
        ([None], "date", [NAN]),
        ([datetime.date(1970, 1, 2)], "date", [1]),
    ],
)
def test_a_column_that_can_pass_for_another_kind_does(values, kind, wanted):
    np.testing.assert_array_equal(typed(values, kind=kind).values, wanted)


def test_true_and_false_pass_for_numbers_in_text_too():
    cells = text(["True", "NA", "false"], kind="numeric")
    assert cells.kind == "numeric"
    np.testing.assert_array_equal(cells.values, [1, NAN, 0])
    with pytest.raises(DataError, match=r'1 of 2 values are not numbers \(row 2: "true"\)'):
        text(["true", "2"], kind="numeric")


def test_numbers_pass_for_categories_as_they_are_written():
    assert words(typed([1, 2, None], kind="category")) == ["1", "2", None]
    assert words(typed([1.0, 2.5], kind="category")) == ["1", "2.5"]
    assert words(typed([datetime.date(2020, 1, 1)], kind="category")) == ["2020-01-01"]


def test_leading_zeros_and_decimal_commas_are_noted():
    for values in (["00501", "10001"], ["00501", "", "10001"]):
        note = text(values).note
        assert note.endswith("were read as numbers; --types a=category keeps the zeros")
        assert text(values, kind="numeric").note is None
    assert text(["0", "0.5", "10"]).note is None
    assert text(["1,5", "2,7", "NA"]).note == (
        'a: numbers with a decimal comma, such as "1,5", were read as text; write them like 1.5; '
        "--decimal , reads them as they are"
    )
    assert text(["1,5", "2,5"], kind="category").note is None
    assert text(["a,b", "2,5"]).note is None


@pytest.mark.parametrize(
    ("values", "is_noted"),
    [
        (["9007199254740993", "1"], True),
        (["9007199254740993", "NA"], True),
        (["-9007199254740993", "1"], True),
        (["3.456e+299", "1"], False),
        (["9007199254740993.0", "NA"], False),
        (["9007199254740993", "0.5"], False),
        (["9007199254740991", "1"], False),
    ],
)
def test_lost_digits_are_noted_of_what_is_written_as_whole_numbers(values, is_noted):
    assert ("lose their last digits" in (text(values).note or "")) == is_noted


def test_lost_digits_of_typed_numbers_are_noted_of_whole_ones():
    assert "lose their last digits" in typed([2**53 + 1, 1, None]).note
    assert typed([2**60, 2**60]).note is None
    assert typed([2.0**60, 1.0]).note is None
    large = [decimal.Decimal(10**20 + i) for i in range(3)]
    assert typed(large).loses_digits
    assert typed(large[:1] * 2).note is None
    assert typed([2**53 - 1, 1]).note is None


def test_times_without_a_zone_among_others_with_one_are_noted():
    times = ["2024-01-31T10:00+05:00", "2024-01-31T10:00", "2024-01-31T10:00Z", "2024-01-31", "NA"]
    note = "a: 1 of 3 times have no zone and were read as UTC"
    assert text(times).note == typed(times).note == note
    assert text(times, kind="date").note is None
    for alike in (times[1::2], times[::2], [times[1]] * 3):
        assert text(alike).note is None


@pytest.mark.parametrize(
    ("bad", "hint"),
    [
        (["oops"], "read it as missing with --na oops, or the column as text with --types"),
        (["no way", "x"], "read them as missing with --na 'no way,x', or the column as text with"),
        (["a", "b", "c", "d"], "correct them, or the column as text with --types a=category"),
        (["1,234.5"], "write it like 1234.5"),
        (["$3", "4%"], "write them like 3"),
    ],
)
def test_what_is_no_number_has_advice(bad, hint):
    good = [str(i) for i in range(300)]
    for values, rows in ((bad + good, np.arange(304)), (good + bad, np.arange(300))):
        with pytest.raises(DataError) as caught:
            text(values, rows=rows[: len(values)])
        assert caught.value.hint.startswith(hint)
    with pytest.raises(DataError, match=r"correct them, or write NA|write (it|them) like"):
        text(good + bad)


def with_na(values, na, kind=None, type=None):
    source = columns({"a": values})
    if type is not None:
        source = Source("t", pa.table({"a": pa.array(values, type)}))
    return read_cells(dataclasses.replace(source, na=na), "a", kind)


@pytest.mark.parametrize(
    ("values", "na", "kind", "wanted"),
    [
        (["1", "none", "3"], ("none",), "numeric", [1, NAN, 3]),
        (["1", "-999", "3"], ("-999",), "numeric", [1, NAN, 3]),
        (["1", "-999.0", "3", "-9990"], ("-999",), "numeric", [1, NAN, 3, -9990]),
        (["1", "-999", "3"], ("-999.0",), "numeric", [1, NAN, 3]),
        (["yes", "unsure", "no"], ("unsure",), "boolean", [1, NAN, 0]),
        (["yes", "no", "yes"], ("no",), "boolean", [1, NAN, 1]),
        (["2020-01-01", "never"], ("never",), "date", [18262, NAN]),
    ],
)
def test_words_that_were_added_mean_missing(values, na, kind, wanted):
    cells = with_na(values, na)
    assert cells.kind == kind
    np.testing.assert_array_equal(cells.values, wanted)


def test_added_words_that_no_cell_is_are_found_out():
    source = columns(
        {"a": ["1", " -9.0", "3"], "b": ["x", "unknown", ""], "c": ["never", "2020-01-01", "NA"]}
    )
    words = ("-9", "unknown", "never", "Unknown", "0", "x y")
    source = dataclasses.replace(source, na=words)
    assert unmet(source, ["a", "b", "c"]) == ["Unknown", "0", "x y"]
    assert unmet(source, ["b"]) == ["-9", "never", "Unknown", "0", "x y"]
    commas = dataclasses.replace(columns({"a": ["1,5", "-9,50"]}), na=("-9,5", "3"), decimal=",")
    assert unmet(commas, ["a"]) == ["3"]
    day = datetime.date(2999, 12, 31)
    parts = {"a": [1, -9, None], "b": [day, None, None], "c": [True, False, None], "d": [None] * 3}
    parts["e"] = pa.array(["u", "v", None]).dictionary_encode()
    parts["g"] = [math.inf, 1.0, None]
    parts["f"] = pa.array([7, 8, 7]).dictionary_encode()
    parts["h"] = pa.array([0.1, None, None], pa.float32())
    words = ("-9", "2999-12-31", "true", "v", "2998-12-31", "8.0", "9", "0.1")
    typed = Source("t", pa.table(parts), na=words)
    assert unmet(typed, list(parts)) == ["true", "2998-12-31", "9"]


def test_added_words_count_as_written_and_among_categories():
    assert words(with_na(["a", "?", "Unknown", "unknown"], ("?", "unknown"))) == [
        "a",
        None,
        "Unknown",
        None,
    ]


@pytest.mark.parametrize(
    ("values", "type", "na", "wanted"),
    [
        ([1, -999, 3], pa.int64(), ("-999",), [1, NAN, 3]),
        ([1.5, -9.0, None], pa.float32(), ("-9", "never"), [1.5, NAN, NAN]),
        ([1.5, -999.9, 1.0], pa.float32(), ("-999.9", "1e300"), [1.5, NAN, 1]),
        ([1.5, -0.1], pa.float64(), ("-0.1",), [1.5, NAN]),
        (
            [datetime.date(2020, 1, 1), datetime.date(2999, 12, 31)],
            pa.date32(),
            ("2999-12-31",),
            [18262, NAN],
        ),
    ],
)
def test_added_words_are_values_of_typed_columns_too(values, type, na, wanted):
    np.testing.assert_array_equal(with_na(values, na, type=type).values, wanted)


def test_digits_are_true_and_false_only_where_that_is_said():
    np.testing.assert_array_equal(text(["1", "0", "NA"], "boolean").values, [1, 0, NAN])
    assert text(["yes", "no", "1"]).kind == "category"
    assert typed(["1", "0"]).kind == "category"
