"""Objects in memory: tables, columns and arrays of any library, and what none is made of."""

from datetime import time, timedelta

import numpy as np
import pyarrow as pa
import pytest

from gpunet.data import read
from gpunet.data.source import Source
from gpunet.errors import DataError

X, Y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])


def test_tables_in_memory():
    table = pa.table({"a": [1, 2], "b": ["x", "y"]})
    assert read(table).table.equals(table)
    assert read({"a": [1, 2], "b": np.array(["x", "y"])}).table.to_pydict() == table.to_pydict()
    source = Source("mine", table)
    assert read(source) is source


class Frame:
    """What pandas and polars frames offer."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


def test_anything_with_an_arrow_stream():
    views = pa.table({"a": pa.array(["x", None, "y"], pa.string_view())})
    assert read(Frame(views)).table.to_pydict() == {"a": ["x", None, "y"]}
    with pytest.raises(DataError, match="column a is of type list"):
        read(Frame(pa.table({"a": [[1]]})))


class Odd:
    """What pandas offers of columns that Arrow has no type for."""

    def __init__(self, parts):
        self.parts, self.columns = parts, list(parts)

    def __getitem__(self, name):
        return self.parts[name]

    def __arrow_c_stream__(self, requested_schema=None):
        raise OverflowError("Python int too large to convert to C long")


def test_columns_of_a_frame_that_arrow_has_no_type_for_are_put_aside():
    odd = {"long": [10**30] * 2, "mixed": [1, "x"], "complex": np.array([1j, 2j])}
    found = read(Odd({"a": [1, 2], **odd}))
    assert found.columns == ["a"]
    assert found.unfit["long"].startswith("long: whole numbers of more than 64 bits; give their")
    assert found.unfit["mixed"].startswith("mixed: not one type throughout (")
    assert found.unfit["complex"].startswith("complex: of type complex128; wanted numbers, text")
    with pytest.raises(DataError, match="long: whole numbers of more than 64 bits; give their"):
        read(Odd(odd))


def test_names_that_become_alike_are_refused():
    with pytest.raises(DataError, match="data: the same column name more than once: 1"):
        read({1: [1, 2], "1": [3, 4]})


def test_columns_that_do_not_make_a_table():
    with pytest.raises(DataError, match="columns of different lengths: a 2, b 1"):
        read({"a": [1, 2], "b": [1]})
    for alone in (3.5, "text", None):
        with pytest.raises(DataError, match=r"b: a single value; wanted a column, as \["):
            read({"a": [1, 2], "b": alone})
    with pytest.raises(DataError, match="a: not one type throughout"):
        read({"a": [1, "x"]})
    mixed = read({"a": [1, "x"], "b": [[1], [2]], "c": [1, 2]})
    assert mixed.columns == ["c"]
    assert list(mixed.unfit) == ["a", "b"]


class OnDevice:
    """What CuPy arrays offer."""

    def __init__(self, values):
        self.values = values

    def get(self):
        return self.values

    def __dlpack__(self, **_):
        raise BufferError("device memory")

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion")


class Tensor:
    """An array library that speaks DLPack alone."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


def test_a_table_and_its_target():
    table = pa.table({"a": [1.5, 2.5, 3.5], "b": ["x", "y", "x"]})
    for whole in (table, table.to_pydict()):
        for y in ([1, 2, 3], np.array([1, 2, 3]), np.array([[1], [2], [3]])):
            source = read((whole, y))
            assert source.table.to_pydict() == {**table.to_pydict(), "y": [1, 2, 3]}
            assert source.target == ("y",)
    assert read((table, np.ones((3, 2)))).target == ("y1", "y2")
    views = pa.array(["p", "q", "p"], pa.string_view())
    assert read((table, views)).table["y"].type == pa.large_string()
    with pytest.raises(DataError, match="x has 3 rows, y has 2"):
        read((table, [1, 2]))
    with pytest.raises(DataError, match="x has a column y, as the target is called; rename it"):
        read((table.append_column("y", table["a"]), [1, 2, 3]))
    with pytest.raises(DataError, match=r"y: a single value; wanted a column, as \[3\]"):
        read((table, 3))


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (np.array([b"x", b"y", b"x"]), "binary"),
        ([timedelta(1)] * 3, "duration"),
        ([time(1)] * 3, "time64"),
        ([{"k": 1}] * 3, "struct<k: int64>"),
        ([[1], [1, 2], [3]], "list<"),
        (np.transpose([[time(1)] * 3, [1, 2, 3]]), "time64"),
    ],
)
def test_a_target_beside_a_table_is_of_a_plain_type(y, kind):
    with pytest.raises(DataError, match=kind):
        read(({"a": [1, 2, 3]}, y))


@pytest.mark.parametrize("column", [{0: 1, 1: 2}, {1, 2}, frozenset({1, 2})])
def test_a_column_is_in_order(column):
    for data in ({"a": column, "b": [1, 2]}, ({"b": [1, 2]}, column)):
        with pytest.raises(DataError, match=r"wanted a column of values in order; give a list; a"):
            read(data)
    assert read({"a": {1: 0, 2: 0}.keys()}).table.to_pydict() == {"a": [1, 2]}


def test_text_as_numpy_has_it_since_2():
    text, missing = np.dtypes.StringDType(), np.dtypes.StringDType(na_object=None)
    y = np.array(["p", "q", "p"], text)
    source = read(({"a": np.array(["x", None, "y"], missing)}, y))
    assert source.table.to_pydict() == {"a": ["x", None, "y"], "y": ["p", "q", "p"]}
    assert read((X, y)).y.tolist() == ["p", "q", "p"]
    with pytest.raises(DataError, match="x holds text; wanted numbers; columns of several kinds"):
        read(np.array([["x"]], text))


def test_a_column_of_a_frame_is_an_array():
    values = [0.5, 1.5]
    assert read(pa.chunked_array([values])).x.tolist() == values
    with pytest.raises(DataError, match="x holds text; wanted numbers; columns of several kinds"):
        read(pa.chunked_array([["x", "y"]]))


def test_columns_of_any_array_and_iterator():
    plain = np.arange(3.0)
    for values in (plain.astype(">f8"), plain.astype(np.longdouble), iter(plain), range(3)):
        assert read({"a": values}).table.to_pydict() == {"a": [0, 1, 2]}
    with pytest.raises(DataError, match=r"a: has the shape \(3, 1\); wanted one dimension"):
        read({"a": plain[:, None]})
    with pytest.raises(DataError, match="a: whole numbers of more than 64 bits"):
        read({"a": [10**30]})


def test_a_list_of_arrays_is_no_array():
    for wrong in ([X, Y], [[1, 2], [3]]):
        with pytest.raises(DataError, match=r"different shapes; x and y are given as a tuple"):
            read(wrong)


@pytest.mark.parametrize("wrap", [np.asarray, OnDevice, Tensor, np.ndarray.tolist])
def test_arrays_in_memory(wrap):
    np.testing.assert_array_equal(read(wrap(X)).x, X)
    source = read((wrap(X), wrap(Y)))
    np.testing.assert_array_equal(source.x, X)
    np.testing.assert_array_equal(source.y, Y)


def test_masks_are_not_dropped_in_silence():
    with pytest.raises(DataError, match="masked values"):
        read(np.ma.masked_greater(X, 3))
    assert read(np.ma.masked_greater(X, 30)).x.tolist() == X.tolist()


def test_a_sparse_matrix_is_told_the_way_out():
    sparse = pytest.importorskip("scipy.sparse").eye_array(3)
    for data in (sparse, (sparse, [0, 1, 0]), (np.eye(3), sparse)):
        with pytest.raises(DataError, match=r"a sparse \w+; wanted an array .* data.toarray\(\)"):
            read(data)


def test_what_is_not_data_at_all():
    with pytest.raises(TypeError, match="cannot read data from int"):
        read(5)
    with pytest.raises(TypeError, match="a tuple of 3"):
        read((X, Y, Y))
