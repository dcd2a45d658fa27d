"""Columns: fitted on some rows, applied to others, against formulas written out here."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import columns

from gpunet.data.cells import read_cells
from gpunet.data.columns import ALMOST_NAMES, CONSTANT, EMPTY, NAMES, Column, Encoding, fit, thinned
from gpunet.data.source import Source

NAN = np.nan


def fitted(values, train=None, scaling="standard", levels=None):
    cells = read_cells(columns({"a": values}), "a")
    rows = np.arange(len(values)) if train is None else np.array(train)
    return fit("a", cells, rows, Encoding(scaling, levels))


def written(column, values, *parts):
    """The inputs, and how many categories were never seen, of all rows or of those of each part."""
    cells = read_cells(columns({"a": values}), "a", column.cell_kind)
    write, found = column.writer(cells), []
    for rows in parts or (slice(None),):
        out = np.full((len(cells.values[rows]), column.width), 99, np.float32)
        unseen = write(rows, np.split(out, np.cumsum(column.widths[:2]), axis=1))
        found.append((out, unseen["category"]))
    return found if parts else found[0]


@pytest.mark.parametrize("values", [["1", "NA", "5"], ["b", "NA", "a"], ["yes", "", "no"]])
def test_parts_are_written_from_the_same_cells(values):
    column, _ = fitted(values)
    later = [values[2], "NA", "c" if column.kind == "category" else values[0], values[0]]
    parts = np.array([3, 0]), np.array([2]), np.array([1, 2])
    whole, _ = written(column, later)
    found = written(column, later, *parts)
    for (out, _), rows in zip(found, parts, strict=True):
        np.testing.assert_array_equal(out, whole[rows])
    assert [unseen for _, unseen in found] == [0, *[int(column.kind == "category")] * 2]


def test_numbers_are_imputed_and_standardised_with_the_training_rows():
    values = ["1", "NA", "5", "3", "1000", "NA"]
    column, _ = fitted(values, [0, 1, 2, 3])
    filled = [1, 3, 5, 3]
    assert (column.fill, column.centre, column.missing) == (3.0, (np.mean(filled),), True)
    assert column.spread == (pytest.approx(np.std(filled)),)
    out, _ = written(column, values)
    wanted = (np.array([1, 3, 5, 3, 1000, 3]) - 3) / np.std(filled)
    np.testing.assert_allclose(out[:, 0], wanted, rtol=1e-6)
    assert out[:, 1].tolist() == [0, 1, 0, 0, 0, 1]


def test_without_missing_cells_in_training_later_ones_are_the_median():
    column, _ = fitted(["1", "2", "9"])
    assert column.width == 1
    out, unseen = written(column, ["NA", "2"])
    assert out[0] == out[1]
    assert unseen == 0


def test_without_standardising_numbers_are_themselves():
    column, _ = fitted(["1", "2", "9"], scaling="none")
    assert written(column, ["7"])[0].tolist() == [[7.0]]


def test_a_column_with_one_value_and_gaps_keeps_its_gaps():
    column, _ = fitted(["4", "NA", "4"])
    assert written(column, ["4", "NA", "11"])[0].tolist() == [[0, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["4", "4.0", "4"], CONSTANT),
        (["x", " x", "x"], CONSTANT),
        (["yes", "YES"], CONSTANT),
        (["2020-01-01"] * 3, CONSTANT),
        (["NA", "", "NaN"], EMPTY),
        ([f"name {i}" for i in range(51)], NAMES),
    ],
)
def test_columns_that_say_nothing_are_left_out(values, reason):
    assert fitted(values) == (None, reason)


def test_fifty_different_texts_are_still_categories():
    assert fitted([f"name {i}" for i in range(50)])[0].kind == "category"


def test_categories_are_one_hot_with_unknown_and_missing():
    column, _ = fitted(["b", "a", "NA", "b", "c"], [0, 1, 2, 3])
    assert (column.levels, column.missing, column.width) == (("a", "b"), True, 4)
    out, unseen = written(column, ["a", "b", "new", "NA", "c"])
    assert out.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert unseen == 2


def test_a_category_missing_for_the_first_time_is_unknown():
    column, _ = fitted(["b", "a"])
    assert written(column, ["NA", "a"])[0].tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("texts", "values"),
    [(["2.0", "1.0"], [2.0, 1.0]), (["True", "False"], [True, False]), (["2", "1"], [2, 1])],
)
def test_levels_are_known_again_in_other_formats(texts, values):
    def sources():
        return columns({"a": texts}), Source("t", pa.table({"a": values}))

    for train, later in (sources(), sources()[::-1]):
        cells = [read_cells(source, "a", "category") for source in (train, later)]
        column, _ = fit("a", cells[0], np.arange(2))
        codes = [column._slots(each)[each.values].tolist() for each in cells]
        assert codes == [[2, 1], [2, 1]]


def test_levels_that_only_their_spelling_tells_apart_are_told_apart():
    long = "900719925474099"
    codes = ["1e2", "7A", "8B", "9C"], "100"
    for seen, new in ((["1.0", "1", "b"], "1.00"), ([f"{long}2", "b"], f"{long}3"), codes):
        cells = read_cells(Source("t", pa.table({"a": seen})), "a")
        out, unseen = written(fit("a", cells, np.arange(len(seen)))[0], [new, *seen])
        assert unseen == 1
        assert len(np.unique(out, axis=0)) == 1 + len(seen)


def test_the_64_most_frequent_levels_are_kept_and_the_rest_share_an_input():
    values = [f"c{i:03}" for i in range(70) for _ in range(2 if i < 64 else 1)]
    column, note = fitted(values[::-1])
    assert column.levels == tuple(f"c{i:03}" for i in range(64))
    assert (column.width, column.rare) == (65, True)
    assert "70 categories; all but the 64 most frequent share one input, in 6 of 134 rows" in note
    out, unseen = written(column, ["c000", "c064", "never"])
    assert out.argmax(axis=1).tolist() == [0, 64, 64]
    assert unseen == 0  # among rare levels new ones cannot be told


def test_levels_that_share_an_input_in_few_rows_are_no_note():
    often = [f"c{i}" for i in range(8)] * 99
    assert "in 9 of 801 rows" in fitted([*often, *"abcdefghi"], levels=8)[1]
    column, note = fitted([*often, *"abcdefg"], levels=8)
    assert (column.rare, note) == (True, None)


def test_ties_are_broken_by_name():
    values = [f"c{i:03}" for i in range(70)][::-1] * 2
    assert fitted(values)[0].levels == tuple(f"c{i:03}" for i in range(64))


def test_booleans_are_one_input_and_other_words_the_mean():
    column, _ = fitted(["yes", "no", "yes", "yes"])
    out, unseen = written(column, ["yes", "no", "maybe"])
    np.testing.assert_allclose(out[:, 0], [0.25 / 3**0.5 * 4, -0.75 / 3**0.5 * 4, 0], rtol=1e-6)
    assert unseen == 1


def test_dates_are_year_month_weekday_and_day():
    days = ["2024-01-01", "2024-04-01", "2025-07-02"]  # Monday, Monday, Wednesday
    column, _ = fitted(days, scaling="none")
    assert (column.kind, column.width) == ("date", 6)
    out, _ = written(column, days)
    np.testing.assert_allclose(out[:, 0], [2024, 2024, 2025])
    np.testing.assert_allclose(out[:, 2:4], [[0, 1], [1, 0], [0, -1]], atol=1e-6)
    turn = 2 * math.pi * 2 / 7
    np.testing.assert_allclose(
        out[:, 4:6], [[0, 1], [0, 1], [math.sin(turn), math.cos(turn)]], atol=1e-6
    )
    np.testing.assert_allclose(out[:, 1], [19723, 19814, 20271])


def test_timestamps_have_the_time_of_day_as_well_and_gaps_an_input():
    column, _ = fitted(["1970-01-01T06:00", "1960-01-02T18:00", "NA"], scaling="none")
    assert (column.kind, column.width, column.cell_kind) == ("timestamp", 9, "date")
    out, _ = written(column, ["1960-01-02T18:00", "NA"])
    np.testing.assert_allclose(out[0, 6:], [-1, 0, 0], atol=1e-5)
    assert out[1, 8] == 1
    assert np.isfinite(out).all()


def test_scaled_parts_of_dates_have_mean_zero():
    days = [f"20{y}-0{m}-15" for y in range(10, 20) for m in range(1, 10)]
    out, _ = written(fitted(days)[0], days)
    np.testing.assert_allclose(out[:, :2].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(out[:, :2].std(axis=0), 1, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)
@example([0.0, 8.9e307, 9e307, 9e307], 0.0)
def test_whatever_goes_in_only_finite_numbers_come_out(train, later):
    column, _ = fitted([repr(v) for v in train])
    if column is not None:
        out, _ = written(column, [repr(later), *(repr(v) for v in train), "NA"])
        assert np.isfinite(out).all()


def test_notes_of_row_numbers_and_lost_digits():
    assert "row number" in fitted([str(i) for i in range(7, 80)])[1]
    some = sorted({*range(80)} - {0, 3, 17, 18, 60})
    assert "row number" in fitted([str(i) for i in range(7, 87)], some)[1]
    assert fitted([str(i * i) for i in range(80)])[1] is None
    assert "lose their last digits" in fitted([str(2**60 + i) for i in range(3)] + ["1"])[1]


def test_width_and_kind_of_cells():
    assert Column("a", "category", True, levels=("x", "y")).width == 4
    assert Column("a", "date", False).width == 6
    assert Column("a", "timestamp", False).cell_kind == "date"


def quartile_scaled(values, others=None):
    """The formula of arXiv:2407.04491, fitted on values and applied to others."""
    values = np.asarray(values, float)
    q0, q1, q2, q3, q4 = np.percentile(values, [0, 25, 50, 75, 100])
    slope = 1 / (q3 - q1) if q3 > q1 else 2 / (q4 - q0) if q4 > q0 else 0
    scaled = slope * (np.asarray(values if others is None else others, float) - q2)
    return scaled / np.sqrt(1 + (scaled / 3) ** 2)


def test_robust_numbers_are_scaled_by_known_quartiles_and_clipped_softly():
    values = [3.0, 9.0, -4.0, 5.5, 1e7, 6.0, 2.25]
    column, _ = fitted([*map(str, values), "NA"], scaling="robust")
    out, _ = written(column, [*map(str, values), "-1e30", "NA"])
    assert column.widths == (1, 1, 0)
    np.testing.assert_allclose(out[:8, 0], quartile_scaled(values, [*values, -1e30]), rtol=1e-6)
    assert out[7, 0] == -3.0
    gone = quartile_scaled([0.0] * 7 + [1.0], [0.0] * 8 + [1.0])
    np.testing.assert_allclose(out[:, 1], gone, rtol=1e-6)
    assert out[8].tolist() == [0.0, pytest.approx(2 / (1 + 4 / 9) ** 0.5)]


def test_robust_columns_with_equal_quartiles_take_the_range():
    values = [0.0] * 9 + [8.0]
    column, _ = fitted(list(map(str, values)), scaling="robust")
    assert (column.centre, column.spread) == ((0.0,), (4.0,))
    np.testing.assert_allclose(
        written(column, ["0", "8"])[0][:, 0], quartile_scaled(values, [0, 8]), rtol=1e-6
    )
    constant, _ = fitted(["4", "NA", "4"], scaling="robust")
    assert written(constant, ["9"])[0][0, 0] == 0.0


def test_robust_categories_scale_each_level_and_leave_unknown_at_nothing():
    values = ["b", "a", "NA", "b", "c", "b", "a"]
    column, _ = fitted(values, scaling="robust")
    assert column.width == 4  # three levels and missing
    out, unseen = written(column, [*values, "new"])
    raw = np.array([[v == level for level in ("a", "b", "c", "NA")] for v in [*values, "new"]])
    wanted = np.stack([quartile_scaled(raw[:7, j], raw[:, j]) for j in range(4)], axis=1)
    np.testing.assert_allclose(out, wanted, rtol=1e-6)
    assert unseen == 1


def test_robust_levels_that_are_rare_have_an_input_for_unknown_ones():
    column, _ = fitted([f"c{i:03}" for i in range(70)] * 2, scaling="robust")
    assert (column.width, column.rare) == (65, True)
    out, _ = written(column, ["c069", "never", "c000"])
    assert out[0].tobytes() == out[1].tobytes() != out[2].tobytes()


def test_robust_categories_of_two_levels_are_one_input():
    values = ["no"] * 8 + ["maybe"] * 2
    column, _ = fitted(values, scaling="robust")
    signs = [1.0] * 8 + [-1.0] * 2
    assert (column.levels, column.widths) == (("maybe", "no"), (0, 1, 0))
    out, unseen = written(column, ["no", "maybe", "new", "NA"])
    np.testing.assert_allclose(out[:, 0], quartile_scaled(signs, [1, -1, 0, 0]), rtol=1e-6)
    assert unseen == 1
    assert fitted([*values, "NA"], scaling="robust")[0].width == 3


def test_robust_dates_scale_every_part():
    days = [f"20{y}-{m:02}-{y}" for y in range(10, 29) for m in (1, 2, 6, 7, 11)]
    plain, _ = written(fitted(days, scaling="none")[0], days)
    column, _ = fitted(days, scaling="robust")
    assert column.widths == (2, 4, 0)
    wanted = np.stack([quartile_scaled(part.astype(float)) for part in plain.T], axis=1)
    np.testing.assert_allclose(written(column, days)[0], wanted, atol=1e-5)


def test_categories_with_more_levels_are_codes_that_start_with_unknown_and_missing():
    values = ["d", "a", "NA", "b", "b", "c", "a", "once", "c", "d"]
    column, note = fitted(values, levels=3)
    assert (column.levels, column.coded, column.rare) == (("a", "b", "c", "d"), True, True)
    assert note == "a: 5 categories; all but the 4 most frequent share one input, in 1 of 10 rows"
    assert (column.widths, column.codes) == ((0, 0, 1), 6)
    out, unseen = written(column, ["a", "d", "once", "never", "NA"])
    assert (out[:, 0].tolist(), unseen) == ([2, 5, 0, 0, 1], 0)
    whole, note = fitted(["a", "b", "c", "d"] * 2, levels=3)
    assert (whole.codes, note) == (5, None)
    out, unseen = written(whole, ["NA", "never", "a", "d"])
    assert (out[:, 0].tolist(), unseen) == ([0, 0, 1, 4], 1)


def test_categories_of_few_levels_stay_one_hot_when_others_are_codes():
    assert not fitted(["a", "b", "c"] * 2, levels=3)[0].coded
    column, _ = fitted(["a", "a", "b", "b", "x", "y", "z"], levels=3)
    assert (column.levels, column.rare, column.coded) == (("a", "b"), True, False)
    assert fitted([str(i) + "x" for i in range(9)], levels=3) == (None, NAMES)


def test_the_ten_thousand_most_frequent_levels_have_codes():
    names = [f"c{i:05}" for i in range(10_050)]
    values = [*names, *names, *names[-50:]]
    column, note = fitted(values, levels=8)
    assert (len(column.levels), column.codes, note) == (10_000, 10_001, None)
    assert column.levels == (*names[:9_950], *names[-50:])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8),
    st.floats(allow_nan=False, allow_infinity=False),
)
@example([-1.7e308, -1.7e308, 1.7e308, 1.7e308], 1.7e308)
@example([0.0, 5e-324], 1e308)
def test_robust_inputs_are_within_three(train, later):
    column, _ = fitted([repr(v) for v in train], scaling="robust")
    if column is not None:
        out, _ = written(column, [repr(later), *(repr(v) for v in train), "NA"])
        assert (np.abs(out) <= 3).all()


def test_many_texts_that_are_mostly_seen_once_are_hashed():
    texts = [f"t{i}" for i in range(1_001)] + ["t0", "t1"] * 60 + ["NA"]
    column, note = fitted(texts, levels=8)
    assert (column.kind, column.widths, column.codes) == ("hashed", (0, 0, 1), 257)
    assert note == "a: 1,001 different texts, as one of 256 hashes"
    out, unseen = written(column, [*texts, "never seen", ""])
    codes = out[:, 0]
    assert (codes[-3:].tolist(), unseen) == ([0, codes[-2], 0], 0)
    assert (codes[:1_001].min(), codes[:1_001].max()) == (1, 256)
    assert (codes[1_001:1_121] == np.tile(codes[:2], 60)).all()
    counts = np.bincount(codes[:1_001].astype(int))[1:]
    assert 2 < counts.var() < 6  # as of 256 equal shares: 1001 / 256 = 3.9
    assert codes[:3].tolist() == [223, 204, 27]  # 1 + the first byte of b2sum -l 64


def test_texts_that_hardly_repeat_are_left_out_and_others_are_codes():
    texts = [f"t{i}" for i in range(1_001)]
    assert fitted([*texts, *["t0"] * 50], levels=8) == (None, ALMOST_NAMES)
    assert fitted([*texts, *["t0"] * 50])[0].kind == "category"
    assert fitted([*texts[1:], *["t1"] * 200], levels=8)[0].kind == "category"
    assert fitted([*texts, *texts[:501]], levels=8)[0].kind == "category"


def with_bins(values, bins=4, train=None, scaling="none"):
    cells = read_cells(columns({"a": values}), "a")
    rows = np.arange(len(values)) if train is None else np.array(train)
    return fit("a", cells, rows, Encoding(scaling, bins=bins))[0]


def test_knots_are_quantiles_of_the_different_training_values():
    values = ["7"] * 90 + ["NA"] + [str(i) for i in range(9)] + ["1000"]
    column = with_bins(values, train=range(100))
    assert column.knots == ((0.0, 2.0, 4.0, 6.0, 8.0),)
    assert with_bins(values, 2).knots == ((0.0, 4.5, 1000.0),)
    assert with_bins(values, 0).knots == ()


def test_knots_are_in_units_of_the_input():
    values = [str(i**2) for i in range(50)] + ["NA"]
    for scaling in ("standard", "robust"):
        column = with_bins(values, scaling=scaling)
        inputs = np.unique(written(column, values[:-1])[0][:, 0])
        wanted = np.quantile(inputs.astype(float), [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(column.knots[0], wanted, rtol=1e-6)
        assert column.knots[0] == tuple(np.float32(column.knots[0]).tolist())


def test_a_date_has_knots_for_its_year_and_day():
    column = with_bins([f"20{i:02}-03-01" for i in range(20)])
    years, days = column.knots
    assert years == (2000.0, 2004.75, 2009.5, 2014.25, 2019.0)
    assert (len(days), days[0]) == (5, 11017.0)


@pytest.mark.parametrize(
    "values", [["1", "2"] * 20, ["true", "false"] * 9, list("abc") * 9, ["1", "1.00000001", "2"]]
)
def test_fewer_than_three_numbers_and_what_is_no_number_have_no_knots(values):
    assert with_bins(values).knots == ()


def test_knots_are_thinned_to_what_the_rows_can_tell():
    knots = tuple(float(i) for i in range(17))
    made = [
        Column("a", "numeric", False, knots=(knots,)),
        Column("b", "date", False, knots=((), (1.0, 2.0, 4.0))),
        Column("c", "category", False, levels=("x", "y")),
    ]
    assert thinned(made, 16 * 3 * 16, 16) == made
    assert thinned(made, 10**6, 16) == made
    few = thinned(made, 16 * 3 * 5 - 1, 16)
    assert [column.knots for column in few] == [
        ((0.0, 4.0, 8.0, 12.0, 16.0),),
        ((), (1.0, 2.0, 4.0)),
        (),
    ]
    assert thinned(made, 16 * 3 * 3, 16)[0].knots == ((0.0, 5.0, 10.0, 16.0),)
    assert {column.knots for column in thinned(made, 16 * 3 * 2 - 1, 16)} == {()}
    assert {column.knots for column in thinned(made, 10**6, 0)} == {()}
    assert thinned(made[2:], 100, 16) == made[2:]
