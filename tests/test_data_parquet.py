"""Parquet and Arrow tables: plain types pass, everything else is named."""

import datetime
import decimal
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import ROOM

from gpunet.data import parquet
from gpunet.errors import DataError, OutOfMemory

PLAIN = pa.table(
    {
        "int": pa.array([1, 2, None], pa.int16()),
        "unsigned": pa.array([1, 2, 3], pa.uint64()),
        "float": pa.array([1.5, None, 2.5], pa.float32()),
        "half": pa.array(np.array([1.5, 0.0, 2.5], np.float16)),
        "bool": [True, None, False],
        "text": ["a", None, "b"],
        "large": pa.array(["a", None, "b"], pa.large_string()),
        "dictionary": pa.array(["a", None, "b"]).dictionary_encode(),
        "date": [datetime.date(2020, 1, 2), None, datetime.date(2021, 1, 2)],
        "moment": pa.array([1, None, 2], pa.timestamp("ns", "Europe/Berlin")),
        "decimal": [decimal.Decimal("1.25"), None, decimal.Decimal("2.50")],
        "null": pa.nulls(3),
    }
)


def packed(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def test_plain_types_come_through():
    source = parquet.read_parquet(packed(PLAIN), "t", ROOM)
    assert source.table.equals(PLAIN)
    assert not source.text
    assert source.row(0) == "row 1"


def test_views_of_text_become_text(tmp_path):
    text = pa.array(["a", None, "b"]).cast(pa.string_view())
    levels = pa.DictionaryArray.from_arrays(pa.array([1, 0, 1]), pa.array(["x", "y"], text.type))
    table = pa.table({"a": text, "n": [1, 2, 3]}, metadata={"k": "v"})
    held = parquet.from_table(table.append_column("level", levels), "t").table
    assert held.schema.types[0] == pa.large_string()
    assert held.schema.types[2] == pa.dictionary(pa.int64(), pa.large_string())
    assert held.schema.metadata == {b"k": b"v"}
    pq.write_table(table, path := tmp_path / "t.parquet")
    assert pq.read_schema(path).types[0] == text.type
    streamed = parquet.ParquetTable(str(path), "t", ["a", "n"])
    found = [streamed.column("a"), *(piece["a"] for piece in streamed.tables(["a"], 9))]
    found += [held["a"], parquet.read_parquet(path.read_bytes(), "t", ROOM).table["a"]]
    for column in found:
        assert column.take(pa.array([2, 1])).to_pylist() == ["b", None]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, {"a": 2}]),
        pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([b"a", b"b"]),
        pa.array([1, 2], pa.time64("us")),
        pa.array([1, 2], pa.duration("s")),
        pa.array([decimal.Decimal("1"), None], pa.decimal256(50, 2)),
        pa.array([b"ab", b"cd"], pa.binary(2)),
    ],
    ids=lambda column: str(column.type),
)
def test_other_types_are_left_in_the_file_with_the_reason(column, tmp_path):
    table = pa.table({"fine": [1, 2], "odd": column, "odd.a": ["x", "y"]})
    file = tmp_path / "t.parquet"
    pq.write_table(table, file)
    streamed = parquet.stream_parquet(str(file), "t", 1024)
    assert streamed.streams
    streamed.table.vet()
    for source in (
        parquet.from_table(table, "t"),
        parquet.read_parquet(packed(table), "t", ROOM),
        streamed,
    ):
        assert source.columns == ["fine", "odd.a"]
        assert source.table.column("odd.a").to_pylist() == ["x", "y"]
        reason = source.unfit["odd"]
        assert reason.startswith("t: column odd is of type")
        assert "; wanted numbers, text" in reason
    with pytest.raises(DataError, match="column odd is of type"):
        parquet.from_table(table.select(["odd"]), "t")
    with pytest.raises(DataError, match="column odd is of type"):
        parquet.read_parquet(packed(table.select(["odd"])), "t", ROOM)


def test_no_rows_no_columns_and_names_twice():
    with pytest.raises(DataError, match="no rows"):
        parquet.read_parquet(packed(PLAIN.slice(0, 0)), "t", ROOM)
    with pytest.raises(DataError, match="no rows"):
        parquet.from_table(pa.table({}), "t")
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    with pytest.raises(DataError, match="more than once: a"):
        parquet.from_table(twice, "t")


@pytest.mark.parametrize("keep", [4, 12, 100, -1, -8, -100])
def test_truncated_files(keep):
    with pytest.raises(DataError, match="not a whole Parquet file"):
        parquet.read_parquet(packed(PLAIN)[:keep], "t", ROOM)


def test_a_page_with_a_wrong_checksum_is_refused():
    table = pa.table({"a": np.arange(1000)})
    data = bytearray(
        packed(table, write_page_checksum=True, compression="none", use_dictionary=False)
    )
    at = data.index(np.arange(500, 504).tobytes())
    data[at] ^= 1
    with pytest.raises(DataError, match=r"not a whole Parquet file.*CRC"):
        parquet.read_parquet(bytes(data), "t", ROOM)


def test_a_table_larger_than_memory_is_refused_before_it_is_read():
    data = packed(pa.table({"a": np.zeros(100_000, np.int64)}))
    assert len(data) < 5000
    with pytest.raises(OutOfMemory, match=r"t: needs 781\.2 KiB; --max-memory allows 488\.3 KiB"):
        parquet.read_parquet(data, "t", 500_000)


def test_a_pandas_index_is_left_out():
    meta = {b"pandas": b'{"index_columns": ["__index_level_0__"]}'}
    table = pa.table({"a": [1, 2], "__index_level_0__": [7, 9]}).replace_schema_metadata(meta)
    source = parquet.from_table(table, "t")
    assert source.columns == ["a"]
    assert source.notes == ("t: left the pandas index out: __index_level_0__",)
    for odd in (b"{", b"[]", b'{"index_columns": [{"kind": "range"}]}', b'{"index_columns": 5}'):
        plain = parquet.from_table(table.replace_schema_metadata({b"pandas": odd}), "t")
        assert len(plain.columns) == 2


DATA = packed(PLAIN, compression="none", write_page_checksum=True)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_harmless(place, change):
    data = bytearray(DATA)
    data[place] ^= change
    try:
        source = parquet.read_parquet(bytes(data), "t", ROOM)
    except DataError:
        return
    assert source.rows >= 1
