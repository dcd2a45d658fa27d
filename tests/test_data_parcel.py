"""A Source as bytes and back: whatever the bytes are, what comes of them is sound."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gpunet.data import parcel
from gpunet.data.parcel import pack, pack_piece, unpack
from gpunet.data.source import Source


def text(starts: list[int], letters: bytes, valid: bytes | None = None) -> pa.Table:
    """A column of strings of any bytes at all."""
    bits = None if valid is None else pa.py_buffer(valid)
    buffers = [bits, pa.py_buffer(np.array(starts, np.int32)), pa.py_buffer(letters)]
    return pa.table({"a": pa.Array.from_buffers(pa.string(), len(starts) - 1, buffers)})


def handed(*tables: pa.Table, swaps: Sequence[tuple[bytes, bytes]] = ()) -> Source:
    """What arrives of the pieces of a table, with some bytes changed on the way."""
    source = Source("data", tables[-1], text=True)
    head, parts = pack(source, len(tables) - 1)
    ahead = [pack_piece(table) for table in tables[:-1]]
    return unpack(head, [_joined(part, swaps) for part in ahead + parts])


def _joined(part: list[Any], swaps: Sequence[tuple[bytes, bytes]] = ()) -> memoryview:
    data = b"".join(bytes(memoryview(piece).cast("B")) for piece in part)
    for old, new in swaps:
        data = data.replace(old, new)
    return memoryview(bytearray(data))


@pytest.mark.parametrize(
    "table",
    [
        text([0, 1, 1, 4], b"abcd"),
        text([2, 3, 4], b"abcd"),
        text([0, 2, 3], "éa".encode()),
        text([0, 1, 2], b"ab", b"\1"),
        text([0], b""),
    ],
)
@pytest.mark.parametrize("long", [0, 1 << 12])
def test_text_comes_back_as_it_was(table: pa.Table, long: int, monkeypatch) -> None:
    monkeypatch.setattr(parcel, "LONG", long)
    more = pa.table({"a": ["x"]})
    assert handed(table, more).table.equals(pa.concat_tables([table, more]))
    assert handed(more, table, table).rows == 1 + 2 * len(table)


@pytest.mark.parametrize(
    ("starts", "letters"),
    [
        ([0, 3, 1, 4], b"abcd"),
        ([0, 3, 3, 9], b"abcd"),
        ([9, 9, 9, 9], b"abcd"),
        ([-4, 1, 2, 4], b"abcd"),
        ([0, 9, 9, 4], b"abcd"),
        ([0, 1, 2, 4], b"abc\xff"),
        ([0, 1, 3, 4], "aéb".encode()[:2] + b"bc"),
        ([0, 1, 2, 4], "éab".encode()),
    ],
)
@pytest.mark.parametrize("long", [0, 1 << 12])
def test_what_is_no_text_is_refused(
    starts: list[int], letters: bytes, long: int, monkeypatch
) -> None:
    monkeypatch.setattr(parcel, "LONG", long)
    sound, evil = ([0, 1, 2, 4], b"wxyz"), (starts, letters)
    table, fine = text(*sound), pa.table({"a": ["x"]})
    swaps = [(np.array(sound[0], np.int32).tobytes(), np.array(evil[0], np.int32).tobytes())]
    swaps.append((sound[1], evil[1]))
    for tables in ([table], [table, fine], [fine, table]):
        with pytest.raises(ValueError, match="no table"):
            handed(*tables, swaps=swaps)


def test_what_cannot_be_learnt_from_is_told() -> None:
    head, parts = pack(Source("t", pa.table({"a": [1]}), unfit={"b": "b: a list"}, file="t.csv"))
    source = unpack(head, list(map(_joined, parts)))
    assert source.unfit == {"b": "b: a list"}
    assert source.title == "t.csv"


def test_pieces_have_the_same_columns() -> None:
    with pytest.raises(ValueError, match="no table"):
        handed(pa.table({"a": ["x"]}), pa.table({"b": ["x"]}))
    with pytest.raises(ValueError, match="no table of text"):
        handed(pa.table({"a": [1]}), pa.table({"a": [2]}))
    head, parts = pack(Source("data", pa.table({"a": ["x"]}), text=True))
    with pytest.raises(ValueError, match="left over"):
        unpack(head, [_joined(part) for part in parts * 2])


def test_columns_put_aside_come_over_and_are_of_the_same_rows() -> None:
    table = pa.table({"a": [1.0, 2.0]})
    times = pa.table({"t": pa.array([1, None], pa.time64("us"))})
    source = Source("data", table, aside=times, unfit={"t": "of times"})
    head, parts = pack(source)
    assert unpack(head, list(map(_joined, parts))).aside == times
    for wrong in (times.slice(1), times.rename_columns(["other"])):
        head, parts = pack(Source("data", table, aside=wrong, unfit={"t": "of times"}))
        with pytest.raises(ValueError, match="put aside"):
            unpack(head, list(map(_joined, parts)))
