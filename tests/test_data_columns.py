"""Columns: fitted on some rows, applied to others, against formulas written out here."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tables import columns

from gpunet.data.cells import read_cells
from gpunet.data.columns import CONSTANT, EMPTY, NAMES, Column, fit, moments

NAN = np.nan


def fitted(values, train=None, standardise=True):
    cells = read_cells(columns({"a": values}), "a")
    rows = np.arange(len(values)) if train is None else np.array(train)
    return fit("a", cells, rows, standardise)


def written(column, values):
    cells = read_cells(columns({"a": values}), "a", column.cell_kind)
    out = np.full((len(values), column.width), 99, np.float32)
    unseen = column.write(cells, slice(None), out)
    return out, unseen


def test_numbers_are_imputed_and_standardised_with_the_training_rows():
    values = ["1", "NA", "5", "3", "1000", "NA"]
    column, _ = fitted(values, [0, 1, 2, 3])
    filled = [1, 3, 5, 3]
    assert (column.fill, column.mean, column.missing) == (3.0, (np.mean(filled),), True)
    assert column.std == (pytest.approx(np.std(filled)),)
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
    column, _ = fitted(["1", "2", "9"], standardise=False)
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


def test_the_64_most_frequent_levels_are_kept_and_the_rest_share_an_input():
    values = [f"c{i:03}" for i in range(70) for _ in range(2 if i < 64 else 1)]
    column, note = fitted(values[::-1])
    assert column.levels == tuple(f"c{i:03}" for i in range(64))
    assert (column.width, column.rare) == (65, True)
    assert "70 categories; all but the 64 most frequent" in note
    out, unseen = written(column, ["c000", "c064", "never"])
    assert out.argmax(axis=1).tolist() == [0, 64, 64]
    assert unseen == 0  # among rare levels new ones cannot be told


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
    column, _ = fitted(days, standardise=False)
    assert (column.kind, column.width) == ("date", 6)
    out, _ = written(column, days)
    np.testing.assert_allclose(out[:, 0], [2024, 2024, 2025])
    np.testing.assert_allclose(out[:, 1:3], [[0, 1], [1, 0], [0, -1]], atol=1e-6)
    turn = 2 * math.pi * 2 / 7
    np.testing.assert_allclose(
        out[:, 3:5], [[0, 1], [0, 1], [math.sin(turn), math.cos(turn)]], atol=1e-6
    )
    np.testing.assert_allclose(out[:, 5], [19723, 19814, 20271])


def test_timestamps_have_the_time_of_day_as_well_and_gaps_an_input():
    column, _ = fitted(["1970-01-01T06:00", "1960-01-02T18:00", "NA"], standardise=False)
    assert (column.kind, column.width, column.cell_kind) == ("timestamp", 9, "date")
    out, _ = written(column, ["1960-01-02T18:00", "NA"])
    np.testing.assert_allclose(out[0, 6:], [-1, 0, 0], atol=1e-5)
    assert out[1, 8] == 1
    assert np.isfinite(out).all()


def test_scaled_parts_of_dates_have_mean_zero():
    days = [f"20{y}-0{m}-15" for y in range(10, 20) for m in range(1, 10)]
    out, _ = written(fitted(days)[0], days)
    np.testing.assert_allclose(out[:, [0, 5]].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(out[:, [0, 5]].std(axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1e308, -1e308, 1.7e308], 1.1440668201153676e308),
        ([1e-300, 2e-300, 3e-300], 8.164966e-301),
        ([5e-324, 1e-323], 0.0),
        ([0.1] * 9, 0.0),
    ],
)
def test_moments_of_extreme_values_are_finite(values, wanted):
    mean, std = moments(np.array(values))
    assert min(values) <= mean <= max(values)
    assert std == pytest.approx(wanted, rel=1e-6, abs=0)


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
