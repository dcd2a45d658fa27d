"""Sources: rows, columns, and where a row stands in its file."""

import numpy as np
import pyarrow as pa
import pytest

from gpunet.data.source import Source, check_names
from gpunet.errors import DataError


def test_a_source_is_a_table_or_arrays_but_not_both():
    with pytest.raises(ValueError, match="either"):
        Source("t")
    with pytest.raises(ValueError, match="either"):
        Source("t", pa.table({"a": [1]}), x=np.zeros((1, 1)))


def test_rows_and_columns():
    table = Source("t", pa.table({"a": [1, 2], "b": [3, 4]}))
    assert (table.rows, table.columns) == (2, ["a", "b"])
    arrays = Source("t", x=np.zeros((3, 2, 2)))
    assert (arrays.rows, arrays.columns) == (3, [])


def test_row_numbers_are_those_of_the_file():
    table = pa.table({"a": [1, 2]})
    assert Source("t", table).row(1) == "row 2"
    assert Source("t", table, first=2).row(1285) == "row 1,287"
    assert Source("t", table, first=2, lines=np.array([2, 9])).row(1) == "row 9"


def test_more_rows_than_a_permutation_holds_are_refused():
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1 << 31, 1), (0, 0))
    with pytest.raises(DataError, match=r"2,147,483,648 rows; the limit is 2,147,483,647"):
        Source("t", x=x)


def test_names_must_be_there_and_differ():
    check_names(["a", "b"], "t")
    with pytest.raises(DataError, match=r"more than once: a, b$"):
        check_names(["a", "b", "a", "c", "b"], "t")
    with pytest.raises(DataError, match=r"column 2 has no name$"):
        check_names(["a", "  "], "t")
