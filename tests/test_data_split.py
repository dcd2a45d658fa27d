"""Splits: disjoint, seeded, stratified, never empty."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import columns

from gpunet.data.split import clusters, fold_of, split, split_by, split_groups, split_times
from gpunet.errors import DataError, UsageError


def parts_of(n, validation=0.15, test=0.15, **options):
    options = {"seed": 0} | options
    return split(np.arange(n), validation, test, **options)


def joined(parts):
    return np.sort(np.concatenate([parts.train, parts.validation, parts.test]))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 300),
    st.sampled_from([0.0, 0.1, 0.15, 0.3]),
    st.sampled_from([0.0, 0.1, 0.15, 0.3]),
    st.integers(0, 5),
    st.integers(0, 4),
)
def test_parts_are_disjoint_complete_and_of_the_asked_size(n, validation, test, seed, k):
    strata = np.random.default_rng(seed).integers(0, k, n) if k else None
    try:
        parts = parts_of(n, validation, test, seed=seed, strata=strata)
    except DataError:
        assert n < 20
        return
    np.testing.assert_array_equal(joined(parts), np.arange(n))
    for rows, share in ((parts.validation, validation), (parts.test, test)):
        assert len(rows) == (max(1, round(n * share)) if share else 0)
        assert (np.diff(rows) > 0).all()
    if strata is not None:
        assert set(strata) == set(strata[parts.train])


def test_the_rows_given_are_the_rows_split():
    rows = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
    np.testing.assert_array_equal(joined(split(rows, 0.2, 0.2, seed=1)), rows)


def test_the_seed_decides():
    first, again, other = parts_of(100), parts_of(100), parts_of(100, seed=1)
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)


def test_every_part_has_the_classes_in_their_shares():
    strata = np.repeat([0, 1, 2], [700, 250, 50])
    parts = parts_of(1000, 0.2, 0.1, strata=strata)
    for rows, share in ((parts.validation, 0.2), (parts.test, 0.1)):
        counts = np.bincount(strata[rows], minlength=3)
        np.testing.assert_allclose(counts, share * np.array([700, 250, 50]), atol=1.5)


def test_within_a_class_rows_are_drawn_at_random():
    strata = np.repeat([0, 1], 500)
    test = parts_of(1000, 0.0, 0.2, strata=strata).test
    inside = test[test < 500]
    assert 180 < inside.mean() < 320
    assert len(set(np.diff(inside))) > 5


def test_small_classes_take_turns():
    strata = np.arange(40) // 2
    held = {
        tuple(sorted(strata[parts_of(40, 0.0, 0.1, strata=strata, seed=s).test])) for s in range(9)
    }
    assert len(held) > 1


def test_a_class_of_one_row_trains():
    strata = np.append(np.zeros(50, int), 1)
    for seed in range(20):
        assert 50 in parts_of(51, strata=strata, seed=seed).train


@pytest.mark.parametrize(
    ("n", "strata"), [(2, None), (4, np.array([0, 0, 1, 2])), (6, np.arange(6))]
)
def test_too_few_rows_for_every_part(n, strata):
    with pytest.raises(DataError, match=rf"{n} rows.* are too few for 1 row of validation and 1"):
        parts_of(n, strata=strata)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (1.0, 0.0), (0.1, float("nan"))])
def test_shares_out_of_range(validation, test):
    with pytest.raises(UsageError, match="wanted a share from 0 to below 1"):
        parts_of(100, validation, test)


@pytest.mark.parametrize(
    ("validation", "test", "hint"),
    [(0.2, 0.2, "--validation 0 --test 0"), (0.2, 0.0, "--validation 0"), (0.0, 0.2, "--test 0")],
)
def test_too_few_rows_may_have_no_parts_but_those_that_were_asked_for(validation, test, hint):
    with pytest.raises(DataError, match=f"; give more rows, or {hint}$"):
        parts_of(1, validation, test)


def test_shares_that_leave_nothing():
    with pytest.raises(UsageError, match="leave nothing to train on"):
        parts_of(100, 0.5, 0.5)


def test_a_column_names_the_parts():
    source = columns({"part": ["train", "val", "Test", "valid", "validation", "TRAIN"]})
    parts = split_by(source, "part", np.array([0, 1, 2, 3, 5]))
    assert parts.train.tolist() == [0, 5]
    assert parts.validation.tolist() == [1, 3]
    assert parts.test.tolist() == [2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tset"], r'1 of 2 values are none of train, validation, test \(row 3: "tset"\)'),
        (["train", ""], r'\(row 3: ""\)'),
        (["train", "NA"], r'\(row 3: "NA"\)'),
        (["1", "2"], r'2 of 2 .*\(row 2: "1"\)'),
        (["test", "val"], "part: no row is marked train"),
    ],
)
def test_columns_that_name_something_else(words, message):
    with pytest.raises(DataError, match=message):
        split_by(columns({"part": words}), "part", np.arange(2))


def grouped(groups, validation=0.2, test=0.2, seed=0, strata=None):
    source = columns({"who": groups})
    rows = np.arange(len(groups))
    return split_groups(source, "who", rows, validation, test, seed=seed, strata=strata)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 40), st.integers(0, 5), st.sampled_from([0.0, 0.1, 0.3]), st.booleans())
def test_a_group_is_never_in_two_parts(count, seed, share, is_stratified):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.append(np.arange(count), rng.integers(0, count, 5 * count)))
    strata = rng.integers(0, 2, len(groups)) if is_stratified else None
    parts, _ = grouped(groups, share, 0.2, seed, strata)
    np.testing.assert_array_equal(joined(parts), np.arange(len(groups)))
    held = [set(groups[rows]) for rows in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, held)) == count
    assert bool(held[1]) == bool(share)
    assert held[0]
    assert held[2]


def test_groups_come_near_the_shares_and_the_seed_chooses_them():
    groups = np.random.default_rng(0).integers(0, 200, 4000)
    parts, notes = grouped(groups)
    assert abs(len(parts.validation) - 800) < 30
    assert abs(len(parts.test) - 800) < 30
    assert notes == []
    assert not np.array_equal(parts.test, grouped(groups, seed=1)[0].test)
    np.testing.assert_array_equal(parts.test, grouped(groups)[0].test)


def test_groups_of_one_class_are_held_out_in_their_shares():
    groups = np.repeat(np.arange(100), 10)
    strata = (groups >= 80).astype(int)
    for seed in range(5):
        parts, notes = grouped(groups, strata=strata, seed=seed)
        assert np.bincount(strata[parts.test]).tolist() == [160, 40]
        assert np.bincount(strata[parts.validation]).tolist() == [160, 40]
        assert notes == []


def test_what_groups_do_not_allow_is_told():
    groups = ["big"] * 90 + [f"small {i}" for i in range(10)]
    strata = np.repeat([0, 1], [90, 10])
    parts, notes = grouped(groups, strata=strata)
    assert set(parts.train) >= set(range(90))
    assert "who: 2 rows of test, for 20 wanted: groups stay whole" in notes
    assert "who: the classes of test are not in their shares: groups stay whole" in notes


def test_a_class_of_one_group_trains():
    groups = np.repeat(np.arange(20), 5)
    strata = (groups == 7).astype(int)
    for seed in range(10):
        assert set(np.flatnonzero(groups == 7)) <= set(
            grouped(groups, strata=strata, seed=seed)[0].train
        )


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b"] * 4, "who: 2 groups cannot be in 3 parts; give more groups, or --test 0$"),
        (["a"] * 4, "who: 1 group cannot be in 3 parts; give more groups, or leave out --group$"),
        (["a", "b", "c", "NA"], r"who: 1 of 4 rows have no group \(row 5\)"),
    ],
)
def test_groups_that_cannot_be_split(groups, message):
    with pytest.raises(DataError, match=message):
        grouped(groups)


def test_two_groups_or_times_may_be_in_two_parts():
    parts, _ = grouped(["a", "b"] * 4, test=0.0)
    assert (len(parts.train), len(parts.validation)) == (4, 4)
    assert timed(["1", "2", "2"], test=0.0)[0].train.tolist() == [0]


def test_classes_that_each_lie_in_one_group_cannot_be_held_out():
    with pytest.raises(DataError, match="without taking all rows of a class"):
        grouped(["a", "b", "c", "d"], strata=np.arange(4))


def timed(times, validation=0.2, test=0.2):
    return split_times(columns({"when": times}), "when", np.arange(len(times)), validation, test)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-30, 30), min_size=5, max_size=60), st.sampled_from([0.0, 0.2]))
def test_no_row_trains_that_is_later_than_one_held_out(times, share):
    if len(set(times)) < 3:
        return
    times = np.array(times)
    parts, _, _ = timed(times, share)
    np.testing.assert_array_equal(joined(parts), np.arange(len(times)))
    groups = [times[rows] for rows in (parts.train, parts.validation, parts.test) if len(rows)]
    assert len(groups) == 2 + bool(share)
    for earlier, later in itertools.pairwise(groups):
        assert earlier.max() < later.min()


def test_times_are_split_at_their_shares_with_gaps_in_any_order():
    days = np.append(np.arange(60), np.arange(400, 440))[::-1]
    dates = [str(np.datetime64("2020-01-01") + np.timedelta64(int(day), "D")) for day in days]
    zoned = [f"{date}T10:00{'Z' * (i % 2)}" for i, date in enumerate(dates)]
    assert "have no zone and were read as UTC" in timed(zoned)[2][0]
    parts, how, notes = timed(dates)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (60, 20, 20)
    assert parts.test.tolist() == list(range(20))
    assert notes == []
    assert how == "by when: validation from 2021-02-04 on, test from 2021-02-24 on"


def test_ties_stay_on_one_side():
    times = [1] * 4 + [2] * 4 + [3] * 2
    parts, _, _ = timed(times, 0.0, 0.3)
    assert parts.test.tolist() == [8, 9]
    parts, _, notes = timed(times * 10, 0.0, 0.3)
    assert notes == ["when: 20 rows of test, for 30 wanted: rows of one time stay together"]
    parts, _, _ = timed(times, 0.0, 0.5)
    assert parts.test.tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["1", "2", "NA", "4", "5", ""], r"when: 2 of 6 rows have no time \(row 4\)"),
        (["1", "2", "2"], "2 different times cannot be in 3 parts; give more rows, or --test 0$"),
        (["1", "1", "1"], "1 different time cannot be in 3 parts; .*, or leave out --time$"),
        ([f"{2**60 + i}" for i in range(9)], "1 different time .*; whole numbers above .* lose"),
        (["soon", "late", "now"], "when: holds text; a time is a date or a number"),
    ],
)
def test_times_that_cannot_be_split(times, message):
    with pytest.raises(DataError, match=message):
        timed(times)


@given(st.integers(2, 200), st.integers(2, 12), st.integers(0, 9), st.integers(0, 4))
def test_folds_are_of_equal_sizes_and_share_out_every_class(n, folds, seed, classes):
    strata = np.random.default_rng(seed).integers(0, classes, n) if classes else None
    if folds > n:
        with pytest.raises(DataError, match="too few"):
            fold_of(n, folds, seed=seed, strata=strata)
        return
    found = fold_of(n, folds, seed=seed, strata=strata)
    for rows in [found, *(found[strata == each] for each in range(classes))]:
        sizes = np.bincount(rows, minlength=folds)
        assert len(sizes) == folds
        assert np.ptp(sizes) <= 1
    np.testing.assert_array_equal(found, fold_of(n, folds, seed=seed, strata=strata))


def test_folds_are_drawn_by_the_seed():
    first, other = (fold_of(1000, 5, seed=seed) for seed in (0, 1))
    assert (first == other).mean() < 0.3
    assert abs(np.corrcoef(np.arange(1000), first)[0, 1]) < 0.1


def test_clusters_are_groups_and_a_row_without_one_stands_alone() -> None:
    source = columns({"who": ["a", "", "b", "a", "", "b"]})
    found = clusters(source, "who", None, np.array([0, 1, 3, 4, 5]))
    assert found[0] == found[2]
    assert len(set(found.tolist())) == 4


def test_clusters_of_time_are_blocks_of_neighbouring_times() -> None:
    """27 different times in blocks of 3, whatever order their rows have and how many those are."""
    when = np.repeat(np.random.default_rng(0).permutation(27), 2)
    found = clusters(columns({"when": when + 100}), None, "when", np.arange(54))
    np.testing.assert_array_equal(found, when // 3)
    with pytest.raises(DataError, match="a time is a date or a number"):
        clusters(columns({"when": ["a", "b"]}), None, "when", np.arange(2))
