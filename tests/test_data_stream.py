"""Data that do not fit: the same numbers as from memory, refusals before anything is read."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import Counted, columns, mixed

from gpunet import job, loop, predict
from gpunet.data import dataset, prepare, profile, read, rows, scales, stream
from gpunet.data.npy import stream_npy
from gpunet.data.parquet import ParquetTable, stream_parquet
from gpunet.data.rows import RowFile
from gpunet.data.source import Source
from gpunet.data.windows import windows
from gpunet.device.cpu import Cpu
from gpunet.errors import DataError, OutOfMemory

CPU = Cpu()
ROWS = 6000
SMALL = 3 << 20
"""Bytes: of the table below less than memory wants, and enough to stream."""
PARTS = ("train", "validation", "test")


def table(rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Columns of every kind, with gaps; `kind` follows from `size` and `rooms`."""
    rng = np.random.default_rng(seed)
    values = mixed(rows, seed)
    size = np.array([np.nan if v == "NA" else v for v in values["size"]], float)
    rooms = np.array(values["rooms"])
    kind = np.where(np.nan_to_num(size, nan=50.0) + 4 * rooms > 66, "house", "flat")
    found = {
        "size": pa.array(size, from_pandas=True),
        "rooms": pa.array(rooms, pa.int16()),
        "town": pa.array(values["town"]).dictionary_encode(),
        "street": pa.array([f"street {i}" for i in rng.integers(0, 90, rows)]),
        "garden": pa.array([v == "yes" for v in values["garden"]]),
        "sold": pa.array(np.array(values["sold"], "datetime64[D]")),
        "note": pa.array([None if i % 3 else "  x " for i in range(rows)]),
        "kind": pa.array(kind.tolist()),
    }
    noise = {f"noise{i}": rng.standard_normal(rows) for i in range(12)}
    return pa.table(found | noise)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stream") / "homes.parquet"
    pq.write_table(table(), path, row_group_size=500)
    return path


def both(file) -> tuple[Source, Source]:
    """The same file in memory, and streamed."""
    held, streamed = read(str(file)), read(str(file), budget=SMALL)
    assert (held.streams, streamed.streams) == (False, True)
    assert (held.name, held.rows, held.columns) == (streamed.name, streamed.rows, streamed.columns)
    return held, streamed


@pytest.mark.parametrize("target", ["kind", "size", "rooms", "garden"])
@pytest.mark.parametrize("encoding", [{}, {"scaling": "robust", "one_hot_levels": 3, "bins": 4}])
def test_schema_split_notes_and_rows_are_those_of_memory(file, target, encoding) -> None:
    held, streamed = both(file)
    options = {"target": (target,), "drop_missing_target": True, "seed": 4, **encoding}
    want, found = prepare(held, **options), prepare(streamed, **options, budget=700_000)
    assert json.dumps(found.schema.to_dict()) == json.dumps(want.schema.to_dict())
    assert found.notes == want.notes
    for name in PARTS:
        there, here = getattr(want, name), getattr(found, name)
        assert isinstance(here.x, RowFile)
        assert here.x[:].tobytes() == there.x.tobytes()
        assert here.y.tobytes() == there.y.tobytes()


def test_a_table_in_memory_whose_encoding_does_not_fit_is_spooled(file) -> None:
    held, _ = both(file)
    want, found = (prepare(held, target=("kind",), budget=each) for each in (1 << 30, 1 << 20))
    assert isinstance(found.test.x, RowFile)
    for name in PARTS:
        assert getattr(found, name).x[:].tobytes() == getattr(want, name).x.tobytes()


def test_a_training_part_that_fits_is_trained_on_from_memory_to_the_bit(file, monkeypatch) -> None:
    settings = {"target": "kind", "epochs": 2, "batch_size": 64, "folds": 0}
    settings |= {"device": "cpu", "threads": 1}
    planned = [job.plan(str(file), {**settings, "max_memory": m}) for m in (1 << 30, 8 << 20)]
    monkeypatch.setattr(loop, "EVALUATION_BYTES", 1 << 16)
    streamed = job.plan(both(file)[1], {**settings, "max_memory": 8 << 20})
    weights = []
    for each in (planned[0], streamed):
        losses = [report.validation["loss"] for report in each.reports()]
        weights.append((losses, each.finish()["metrics"], each.model.network.weights))
    assert isinstance(streamed.prepared.train.x, np.ndarray)
    assert isinstance(streamed.prepared.test.x, RowFile)
    assert weights[0][:2] == weights[1][:2]
    for name, array in weights[0][2].items():
        assert array.tobytes() == weights[1][2][name].tobytes()


def arrays(folder, x: np.ndarray, y: np.ndarray, part: str = "") -> str:
    np.save(folder / f"x{part}.npy", x)
    np.save(folder / f"y{part}.npy", y)
    return str(folder)


FORGETFUL = {
    "epochs": 1,
    "batch_size": 50,
    "device": "cpu",
    "hidden": (16,),
    "lr": 0.02,
    "schedule": "constant",
    "threads": 1,
}
"""Settings under which what came last counts most."""


def sorted_rows(rows: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Rows of three classes that overlap, one class after the other."""
    rng = np.random.default_rng(0)
    y = np.sort(rng.integers(0, 3, rows))
    centres = 0.25 * rng.standard_normal((3, 64))
    return (centres[y] + rng.standard_normal((rows, 64))).astype(np.float32), y


def test_sorted_rows_are_learnt_as_well_as_from_memory(tmp_path) -> None:
    path = arrays(tmp_path, *sorted_rows())
    found = []
    for memory in (1 << 30, 600_000):
        planned = job.plan(path, {**FORGETFUL, "max_memory": memory})
        list(planned.reports())
        found.append((planned, planned.finish()["metrics"]["test"]["accuracy"]))
    (_, held), (planned, streamed) = found
    taken = loop.training_rows(planned.prepared, planned.model.config, CPU, "float32")
    taken.close()
    assert taken.windows >= 7
    assert 0.7 < held < 0.99
    assert streamed == pytest.approx(held, abs=0.03)


def test_a_window_of_neighbours_would_not_do(tmp_path) -> None:
    """The test above can fail: the same rows, as they lie, are learnt badly."""
    path = arrays(tmp_path, *sorted_rows())
    planned = job.plan(path, {**FORGETFUL, "shuffle": False, "max_memory": 600_000})
    list(planned.reports())
    assert planned.finish()["metrics"]["test"]["accuracy"] < 0.6


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64, np.int16, np.bool_])
def test_arrays_of_every_type_are_those_of_memory(tmp_path, kind) -> None:
    x = np.random.default_rng(0).integers(0, 2 if kind is np.bool_ else 200, (900, 16, 20))
    check_the_same(arrays(tmp_path, x.astype(kind), np.arange(900) % 5))


@pytest.mark.parametrize("first", [0, 1_700_000_000])
def test_whole_numbers_that_stream_have_the_digits_of_memory(tmp_path, first) -> None:
    x = first + np.random.default_rng(0).integers(0, 200, (900, 16, 20))
    check_the_same(arrays(tmp_path, x, np.arange(900) % 5))


def check_the_same(path) -> None:
    held, streamed = read(path), read(path, budget=130_000)
    assert streamed.streams
    want, found = prepare(held), prepare(streamed, budget=130_000)
    assert json.dumps(found.schema.to_dict()) == json.dumps(want.schema.to_dict())
    assert isinstance(found.test.x, RowFile)
    for name in PARTS:
        there, here = getattr(want, name), getattr(found, name)
        assert here.x.dtype == there.x.dtype
        assert here.x[:].tobytes() == there.x.tobytes()
        assert here.y.tobytes() == there.y.tobytes()


def test_a_folder_with_parts_of_its_own_is_read_where_it_lies(tmp_path) -> None:
    x = np.random.default_rng(0).integers(0, 200, (900, 320)).astype(np.uint8)
    arrays(tmp_path, x, np.arange(900) % 5, "_train")
    path = arrays(tmp_path, x[:90], np.arange(90) % 5, "_test")
    source = read(path, budget=130_000)
    found = prepare(source, validation=0.0, budget=130_000)
    assert found.train.x.handle is source.x.handle  # no copy of it was made
    assert isinstance(found.test.x, np.ndarray)
    np.testing.assert_array_equal(found.train.x[:], x)


def test_a_folder_that_lacks_something(tmp_path) -> None:
    np.save(tmp_path / "y.npy", np.arange(3))
    with pytest.raises(DataError, match="holds the arrays y; wanted x and y"):
        read(str(tmp_path))
    np.save(tmp_path / "x.npy", np.arange(8).reshape(4, 2))
    with pytest.raises(DataError, match="x has 4 rows, y has 3"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    "x", [np.zeros((90, 80), ">f4"), np.asfortranarray(np.zeros((90, 80), np.float32))]
)
def test_arrays_that_cannot_stream_are_refused_by_their_header(tmp_path, x) -> None:
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(OutOfMemory, match=r"needs 56.5 KiB; --max-memory allows 29.3 KiB; save it"):
        stream_npy(str(tmp_path / "x.npy"), "x", 30_000)


def test_more_rows_than_memory_has_room_for_are_refused_before_they_are_read(file) -> None:
    with pytest.raises(OutOfMemory, match=r"needs .*; --max-memory allows 9.8 KiB; use fewer rows"):
        stream_parquet(str(file), "t", 10_000)
    with pytest.raises(OutOfMemory, match="use fewer rows or fewer classes, or raise"):
        prepare(both(file)[1], target=("kind",), budget=100_000)


def test_many_columns_need_smaller_row_groups_and_each_is_looked_up_once(tmp_path) -> None:
    wide = pa.table({f"c{i}": np.random.default_rng(i).random(60) for i in range(200)})
    pq.write_table(wide, tmp_path / "t.parquet")
    with pytest.raises(OutOfMemory, match="use fewer columns, or smaller row groups, or raise"):
        stream_parquet(str(tmp_path / "t.parquet"), "t", 10_000)
    names = Counted(wide.column_names)
    assert ParquetTable(str(tmp_path / "t.parquet"), "t", names).need > 10_000
    assert names.times < 9


def test_values_that_are_not_finite_are_found_in_a_file(tmp_path) -> None:
    x = np.zeros((900, 42), np.float32)
    x[700, 5] = np.inf
    with pytest.raises(DataError, match=r"1 of 37,800 values not finite \(row 701, column 6: inf"):
        read(arrays(tmp_path, x, np.arange(900) % 5), budget=100_000)


def test_a_saved_model_judges_and_predicts_a_stream_as_it_does_a_table(file, tmp_path) -> None:
    model = job.train(str(file), "kind", epochs=1, device="cpu", out=tmp_path / "run")
    held, streamed = both(file)
    want, found = (model.outcome(source, CPU) for source in (held, streamed))
    assert found.output.tobytes() == want.output.tobytes()
    assert found.labels.tolist() == want.labels.tolist()
    some = np.arange(5, held.rows - 7)
    for chosen, same in ((None, held), (some, held.take(some))):
        judged = model.judge(*model.answers(same, CPU))
        assert model.judge(*model.answers(streamed, CPU, chosen)) == judged
        assert model.judge(*model.answers(held, CPU, chosen)) == judged
    kept = [predict.columns(model.schema, s, want, ["size", "town"], True) for s in both(file)]
    assert pa.table(kept[0]).to_pylist() == pa.table(kept[1]).to_pylist()


def test_never_seen_categories_are_counted_over_all_pieces(file, tmp_path) -> None:
    model = job.train(str(file), "kind", epochs=1, device="cpu", hidden=(4,))
    other = table(seed=1)
    towns = ["Leeds" if i % 2 else "York" for i in range(ROWS)]
    other = other.set_column(other.column_names.index("town"), "town", pa.array(towns))
    pq.write_table(other, tmp_path / "other.parquet", row_group_size=500)
    unseen = model.outcome(both(tmp_path / "other.parquet")[1], CPU).unseen
    assert (unseen.rows, unseen.category) == (ROWS, {"town": ROWS // 2})


def test_columns_that_are_missing_are_named_before_anything_is_encoded(file, tmp_path) -> None:
    model = job.train(str(file), "kind", epochs=1, device="cpu", hidden=(4,))
    wider = table().append_column("more", pa.array(np.arange(ROWS)))
    pq.write_table(wider.drop_columns(["town"]), tmp_path / "t.parquet", row_group_size=500)
    with pytest.raises(DataError, match="no column town"):
        model.outcome(both(tmp_path / "t.parquet")[1], CPU)
    with pytest.raises(DataError, match="holds arrays; wanted a table"):
        model.outcome(read((np.zeros((9, 3)), np.arange(9))), CPU)


def test_a_part_of_its_own_may_stream(file, tmp_path) -> None:
    pq.write_table(table(seed=1), tmp_path / "check.parquet", row_group_size=500)
    held, streamed = both(tmp_path / "check.parquet")
    options = {"target": ("kind",), "test": 0.0}
    want, found = (
        prepare(read(str(file)), validation=each, **options, budget=SMALL)
        for each in (held, streamed)
    )
    assert isinstance(found.validation.x, RowFile)
    assert found.validation.x[:].tobytes() == want.validation.x.tobytes()
    whole = columns({"size": ["1.5", "2.5", "3.5", "4.5"], "rooms": [1, 2, 3, 5]})
    with pytest.raises(DataError, match=r"validation part: size: .* values of the target are miss"):
        prepare(whole, target=("size",), validation=streamed, test=0.0)


def test_a_profile_is_that_of_memory(file) -> None:
    held, streamed = both(file)
    assert profile(streamed, ("kind",)) == profile(held, ("kind",))


def test_the_profile_of_an_array_in_a_file_has_no_median(tmp_path) -> None:
    x = np.random.default_rng(0).standard_normal((900, 42))
    path = arrays(tmp_path, x, np.arange(900) % 5)
    held, streamed = profile(read(path)), profile(read(path, budget=300_000))
    assert streamed[0] == replace(held[0], median=None)
    assert streamed[1:] == held[1:]


def damaged(folder: Path) -> str:
    """A file with one wrong bit in a page."""
    plain = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table(), folder / "t.parquet", row_group_size=500, **plain)
    content = bytearray((folder / "t.parquet").read_bytes())
    at = content.index(table()["noise7"].chunk(0)[:8].to_numpy().tobytes())
    content[at] ^= 1
    (folder / "t.parquet").write_bytes(content)
    return str(folder / "t.parquet")


@pytest.mark.isolated
def test_pages_are_decoded_apart_before_anything_is_made_of_them(tmp_path, file) -> None:
    with pytest.raises(DataError, match=r"t.parquet: not a whole Parquet file \(.*CRC"):
        read(damaged(tmp_path), budget=SMALL)
    assert read(file, budget=SMALL).streams


def test_a_page_that_is_damaged_is_found_while_streaming(tmp_path) -> None:
    source = read(damaged(tmp_path), budget=SMALL)
    assert source.streams
    with pytest.raises(DataError, match=r"t.parquet: not a whole Parquet file \(.*CRC"):
        prepare(source, target=("kind",), budget=SMALL)
    with pytest.raises(DataError, match="not a whole Parquet file"):
        list(source.pieces(["noise7"], 100))


def test_a_pandas_index_is_left_out_of_a_stream(tmp_path) -> None:
    meta = {b"pandas": b'{"index_columns": ["rooms"]}'}
    marked = table().replace_schema_metadata(meta)
    pq.write_table(marked, tmp_path / "t.parquet", row_group_size=500)
    held, streamed = both(tmp_path / "t.parquet")
    assert "rooms" not in streamed.columns
    assert len(streamed.notes) == len(held.notes) == 1


def test_memory_stays_within_what_was_allowed(tmp_path, monkeypatch) -> None:
    x = np.random.default_rng(0).standard_normal((20_000, 200)).astype(np.float32)
    path, budget = arrays(tmp_path, x, np.arange(20_000) % 3), 4 << 20
    for module in (rows, stream, dataset, scales):
        name = "PIECE" if module is stream else "BLOCK"
        monkeypatch.setattr(module, name, 1 << 17)
    del x
    tracemalloc.start()
    try:
        found = prepare(read(path, budget=budget), budget=budget)
        taken = windows(found.train, CPU, "float32", 100, 0, budget // 2)
        for step in range(2 * taken.steps):
            taken.open(step)
        taken.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken.windows > 8
    assert found.train.x.nbytes > 2 * budget
    assert peak < budget


def test_rows_of_a_table_come_no_more_than_asked_for_at_a_time(file) -> None:
    pieces = list(both(file)[1].pieces(["town", "size"], 320))
    assert max(piece.rows for piece in pieces) <= 320
    assert sum(piece.rows for piece in pieces) == ROWS
    assert [piece.row(0) for piece in pieces][1] == f"row {pieces[0].rows + 1:,}"
    assert pieces[0].columns == ["town", "size"]


def test_texts_take_room_for_each_that_there_may_be(tmp_path) -> None:
    def need(texts: list[str]) -> int:
        whole = table().append_column("text", pa.array(texts))
        pq.write_table(whole, tmp_path / "t.parquet", row_group_size=500)
        source = read(str(tmp_path / "t.parquet"), budget=SMALL)
        assert source.streams
        return source.table.need

    few, many = (
        need([f"text {i % 3}" for i in range(ROWS)]),
        need([f"text {i}" for i in range(ROWS)]),
    )
    assert many > few + 90 * ROWS
