"""Arrays: what networks take, and what is told of the others."""

import numpy as np
import pytest

from gpunet.data import rows
from gpunet.data.arrays import from_arrays
from gpunet.errors import DataError

X = np.arange(12.0).reshape(4, 3)


def test_objects_that_are_all_alike_are_targets_and_others_are_told_by_their_row():
    x = np.zeros((3, 1))
    assert from_arrays("t", x, np.array(["a", "b", "a"], object)).y.tolist() == ["a", "b", "a"]
    assert from_arrays("t", x, np.array([True, False, True], object)).y.dtype == bool
    with pytest.raises(DataError, match=r"1 of 3 values are not text as .* \(row 2: None\)"):
        from_arrays("t", x, np.array(["a", None, "b"], object))


def test_objects_that_are_all_numbers_are_numbers():
    whole, mixed = np.array([3, np.int8(1), 2], object), np.array([1, 2.5, np.float32(3)], object)
    source = from_arrays("t", np.stack([whole, mixed], axis=1), whole)
    assert source.x.tolist() == [[3, 1], [1, 2.5], [2, 3]]
    assert (source.x.dtype, source.y.dtype) == (np.float64, np.int64)
    hint = "columns of several kinds, or one row, are given as a table: a dict of lists, a frame"
    with pytest.raises(DataError, match=rf"x: 1 of 3 values are not int .* \(row 2: 'a'\); {hint}"):
        from_arrays("t", np.array([[1], ["a"], [2]], object))


def test_labels_that_are_no_characters():
    labels = np.array([0x41, 0x110000], "<u4").view("<U1")
    with pytest.raises(DataError, match="t: y holds numbers that are no characters"):
        from_arrays("t", X[:2], labels)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_has_its_place(bad, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 16)
    x = X.copy()
    x[2, 1] = x[3, 2] = bad
    with pytest.raises(DataError, match=rf"t: x: 2 of 12 .* \(row 3, column 2: {bad}\)"):
        from_arrays("t", x)
