"""A saved model on new data: the same rows give the same answers, wherever they stand."""

import csv
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import gpunet
from gpunet import predict
from gpunet.cli import _run
from gpunet.data import read
from gpunet.device import resolve
from gpunet.errors import (
    DataError,
    GpunetWarning,
    InputMissing,
    ModelInvalid,
    UsageError,
    WriteError,
)

CPU = resolve("cpu").device
rng = np.random.default_rng(0)
N = 120
COLUMNS = {
    "id": [f"row-{i}" for i in range(N)],
    "size": rng.standard_normal(N).tolist(),
    "colour": [["red", "green", "[/red]"][i % 3] for i in range(N)],
    "weight": [None if i % 10 == 0 else float(i) for i in range(N)],
}
COLUMNS["kind"] = [
    "big" if s + (c == "red") > 0.3 else "small"
    for s, c in zip(COLUMNS["size"], COLUMNS["colour"], strict=True)
]
TABLE = pa.table(COLUMNS)
WITHOUT = TABLE.drop_columns(["kind"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "kind"
    gpunet.train(TABLE, target="kind", drop=("id",), epochs=30, out=place, device="cpu")
    return place


@pytest.fixture(scope="module")
def model(run: Path) -> predict.Model:
    return gpunet.load(run)


def test_a_model_is_a_key_as_it_is(run: Path) -> None:
    assert len({gpunet.load(run), gpunet.load(run)}) == 2


def test_a_loaded_model_is_the_trained_one(run: Path) -> None:
    again = gpunet.train(TABLE, target="kind", drop=("id",), epochs=30, device="cpu")
    loaded = gpunet.load(run / "model.safetensors")
    assert (loaded.predict(WITHOUT, proba=True) == again.predict(WITHOUT, proba=True)).all()


@pytest.mark.usefixtures("gone")
def test_training_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    settings = {"preset": "plain", "epochs": 1, "device": "cpu", "baselines": False}
    model = gpunet.train(TABLE, target="kind", out=tmp_path / "run", **settings)
    loaded = gpunet.load(tmp_path / "run")
    assert (loaded.predict(WITHOUT) == model.predict(WITHOUT)).all()
    with pytest.raises(InputMissing, match="the working directory is no longer there"):
        gpunet.train("t.csv", "kind", **settings)


def test_a_folder_is_no_place_for_a_model(model: predict.Model, tmp_path: Path) -> None:
    for place in (".", tmp_path):
        with pytest.raises(WriteError, match="Is a directory"):
            model.save(place)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "plain", "precision": "fp64"},
        {"activation": "x*sigmoid(1.7*x)", "members": 2},
        {"loss": "mean(sqrt(1 + (pred - target)**2) - 1)"},
    ],
)
def test_models_may_be_pickled(settings: dict[str, Any]) -> None:
    target = "size" if "loss" in settings else "kind"
    model = gpunet.train(TABLE, target, epochs=2, device="cpu", baselines=False, **settings)
    again = pickle.loads(pickle.dumps(model))
    assert again.config == model.config
    assert again.outcome(read(TABLE), CPU).output.tobytes() == (
        model.outcome(read(TABLE), CPU).output.tobytes()
    )
    assert again.evaluate(TABLE) == model.evaluate(TABLE)


def test_a_model_of_a_table_and_its_target_predicts_for_tables() -> None:
    x, y = WITHOUT, np.arange(N) % 2 == 0
    model = gpunet.train((x, y), preset="plain", epochs=2, device="cpu")
    assert model.predict(x).tolist() == model.predict(x.select(x.column_names[::-1])).tolist()
    assert set(model.evaluate((x, y))) >= {"accuracy", "log_loss", "auc", "average_precision"}
    with pytest.raises(UsageError, match=r"evaluate takes x and y as one; evaluate\(\(x, y\)\)"):
        model.evaluate(x, y)
    with pytest.raises(UsageError, match="a device is named by text, not NoneType; use auto, cpu"):
        model.predict(x, device=None)
    with pytest.raises(DataError, match=r"wanted a table .* is a table as frame.iloc\[\[0\]\]"):
        model.predict(np.ones(2))
    with pytest.raises(UsageError, match=r"--target has no meaning for \(x, y\)"):
        gpunet.train((x, y), "size")


def test_labels_are_written_as_in_training(model: predict.Model) -> None:
    labels = model.predict(WITHOUT)
    assert set(labels) <= {"big", "small"}
    assert (labels == np.array(COLUMNS["kind"])).mean() > 0.85
    assert model.evaluate(TABLE)["accuracy"] == pytest.approx(
        float((labels == np.array(COLUMNS["kind"])).mean())
    )


def test_probabilities_are_of_both_classes(model: predict.Model) -> None:
    p = model.predict(WITHOUT, proba=True)
    assert p.shape == (N, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    labels = np.array(model.schema.target.labels)[p.argmax(axis=1)]
    assert (labels == model.predict(WITHOUT)).all()


def test_order_and_extra_columns_do_not_matter(model: predict.Model) -> None:
    shuffled = TABLE.select(["kind", "weight", "colour", "size", "id"])
    expected = model.predict(WITHOUT, proba=True)
    assert model.predict(shuffled, proba=True).tobytes() == expected.tobytes()


def test_other_dtypes_and_formats_of_the_same_values_give_the_same_bytes(
    tmp_path: Path, run: Path
) -> None:
    whole = TABLE.set_column(1, "size", [np.round(COLUMNS["size"])]).set_column(
        3, "weight", [[w if w is None else float(round(w)) for w in COLUMNS["weight"]]]
    )
    other = pa.table(
        {
            "weight": whole["weight"].cast(pa.int16()),
            "extra": pa.nulls(N),
            "colour": whole["colour"].dictionary_encode(),
            "size": whole["size"].cast(pa.float32()),
        }
    )
    pyarrow.csv.write_csv(whole, tmp_path / "a.csv")
    pyarrow.parquet.write_table(other, tmp_path / "b.parquet")
    for name in ("a.csv", "b.parquet"):
        out = str(tmp_path / f"{name}.out.csv")
        assert _run(["predict", str(run), str(tmp_path / name), "--proba", "-o", out]) == 0
    first, second = ((tmp_path / f"{n}.out.csv").read_bytes() for n in ("a.csv", "b.parquet"))
    assert first == second
    assert first.count(b"\n") == N + 1


@pytest.mark.parametrize("size", [1, 2, 7, 50])
def test_a_row_alone_is_the_row_in_company(model: predict.Model, size: int) -> None:
    whole = model.predict(WITHOUT, proba=True)
    parts = [model.predict(WITHOUT.slice(i, size), proba=True) for i in range(0, N, size)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-7)


def test_unseen_categories_are_counted_and_missing_columns_named(model: predict.Model) -> None:
    odd = WITHOUT.slice(0, 4).set_column(2, "colour", [["blue", "red", "mauve", None]])
    assert model.outcome(read(odd), CPU).unseen.category == {"colour": 2}
    with pytest.warns(GpunetWarning, match="colour: a category that training never saw in 2 rows"):
        model.predict(odd)
    with pytest.warns(GpunetWarning, match="colour: a category that training never saw in 2 rows"):
        model.evaluate(odd.append_column("kind", [["big", "small", "big", "big"]]))
    with pytest.raises(DataError, match="size"):
        model.predict(WITHOUT.drop_columns(["size"]))
    with pytest.raises(DataError, match="weight"):
        model.predict(WITHOUT.set_column(3, "weight", [["heavy"] * N]))


def test_missing_cells_and_numbers_far_outside_are_warned_of(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = TABLE.set_column(1, "size", [[99999.0] * 10 + [None] + [0.0] * (N - 11)])
    pyarrow.parquet.write_table(odd, path := tmp_path / "odd.parquet")
    assert _run(["evaluate", str(run), str(path)]) == 0
    assert _run(["predict", str(run), str(path), "-o", str(tmp_path / "o.csv"), "--json"]) == 0
    out, err = capsys.readouterr()
    warnings = [line.partition("size: ")[2] for line in err.splitlines()]
    assert warnings[:2] == warnings[2:]
    assert warnings[0] == "missing in 1 of 120 rows, in none of training"
    assert warnings[1].startswith("far outside the -2.")
    assert warnings[1].endswith("10 of 120 rows")
    told = json.loads(out[out.index("{") :])
    assert [told[what] for what in ("unseen", "missing", "outside")] == [
        {},
        {"size": 1},
        {"size": 10},
    ]


def test_columns_of_a_predictions_file(model: predict.Model) -> None:
    source = read(WITHOUT)
    found = model.outcome(source, CPU)
    columns = predict.columns(model.schema, source, found, ["id"], proba=True)
    assert list(columns) == ["id", "prediction", "p_big", "p_small"]
    with pytest.raises(DataError, match="no column nothing; the columns are id"):
        predict.columns(model.schema, source, found, ["nothing"], proba=False)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("name", ["out", ""])
def test_files_hold_what_was_predicted(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"{name}{ending}"
    values = {"id": pa.array(["a,b", 'c"d']), "prediction": np.array([0.1, 1 / 3])}
    predict.check_destination(str(path))
    predict.write(values, str(path))
    if ending == ".csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text())))
        assert [row["id"] for row in rows] == ["a,b", 'c"d']
        assert [float(row["prediction"]) for row in rows] == [0.1, 1 / 3]
    elif ending == ".parquet":
        assert pyarrow.parquet.read_table(path).to_pydict()["prediction"] == [0.1, 1 / 3]
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[1] == {"id": 'c"d', "prediction": 1 / 3}


def kept(run: Path, data: Path, keep: str, ending: str, *more: str) -> list[dict[str, object]]:
    """The columns that the command line copies, read again."""
    out = data.parent / f"kept{ending}"
    words = ["predict", str(run), str(data), "--keep", keep, "-o", str(out), "--overwrite", *more]
    assert _run(words) == 0
    if ending == ".jsonl":
        text = out.read_text()
        assert "NaN" not in text
        rows = [json.loads(line) for line in text.splitlines()]
    elif ending == ".parquet":
        rows = pyarrow.parquet.read_table(out).to_pylist()
    else:
        rows = list(csv.DictReader(io.StringIO(out.read_text())))
    return [{name: row[name] for name in keep.split(",")} for row in rows]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_kept_text_is_numbers_where_it_loses_nothing(
    tmp_path: Path, run: Path, ending: str
) -> None:
    cells = {
        "whole": ["7", "-12", "NA"],
        "real": ["0.1257", "2", "1e-3"],
        "code": ["007", "1", "2"],
        "long": ["1234567890123456789012", "1", "2"],
        "empty": ["", "", ""],
    }
    table = WITHOUT.slice(0, 3).to_pydict() | cells
    rows = zip(*table.values(), strict=True)
    lines = [",".join("" if cell is None else str(cell) for cell in row) for row in rows]
    (path := tmp_path / "t.csv").write_text("\n".join([",".join(table), *lines]) + "\n")
    found = kept(run, path, ",".join(cells), ending)
    if ending != ".csv":
        cells |= {"whole": [7, -12, None], "real": [0.1257, 2.0, 0.001]}
    assert found == [dict(zip(cells, row, strict=True)) for row in zip(*cells.values())]


def test_what_is_kept_in_csv_stands_as_it_stood(tmp_path: Path) -> None:
    texts = ["2345", "0012", "1e-3", "a b", 'say "x"', "a,b", "a\nb", "NA", "", None, "é"]
    values = {'a "b", c': pa.array(texts), "n": np.arange(11) / 4, "s": texts}
    predict.write(values, str(tmp_path / "out.csv"))
    text = (tmp_path / "out.csv").read_text()
    assert text.startswith('"a ""b"", c",n,s\n2345,0,2345\n0012,0.25,0012\n1e-3,0.5,1e-3\na b,')
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert [row[2] for row in rows[1:]] == [each or "" for each in texts]
    assert (
        pyarrow.csv.read_csv(
            tmp_path / "out.csv", parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True)
        ).num_rows
        == 11
    )


def test_kept_whole_numbers_of_more_than_64_bits_lose_nothing(tmp_path: Path, run: Path) -> None:
    rows = WITHOUT.drop_columns(["id"]).slice(0, 3).to_pylist()
    text = "".join(json.dumps({**row, "long": 10**20 + i}) + "\n" for i, row in enumerate(rows))
    (path := tmp_path / "t.jsonl").write_text(text)
    found = kept(run, path, "long", ".jsonl")
    assert found == [{"long": 10**20 + i} for i in range(3)]


@pytest.mark.isolated
@pytest.mark.parametrize("more", [[], ["--max-memory", "160K"]], ids=["whole", "streams"])
def test_times_and_durations_are_kept_though_nothing_learns_from_them(
    tmp_path: Path, run: Path, more: list[str]
) -> None:
    whole = pa.concat_tables([WITHOUT.drop_columns(["id"])] * (10 if more else 1))
    n = len(whole)
    numbers = pa.array([None, *range(1, n)])
    columns = {
        "time": numbers.cast(pa.time64("ns")),
        "took": numbers.cast(pa.duration("ns")),
        "at": numbers.cast(pa.timestamp("ns")),
        "gap": pa.array([float("nan"), *map(float, range(1, n))]),
        "list": pa.array([[1]] * n),
    }
    for name, column in columns.items():
        whole = whole.append_column(name, column)
    pyarrow.parquet.write_table(whole, tmp_path / "t.parquet", row_group_size=200)
    first, second, *_ = kept(run, tmp_path / "t.parquet", "time,took,at,gap", ".jsonl", *more)
    assert set(first.values()) == {None}
    assert second == {
        "time": "00:00:00.000000001",
        "took": 1,
        "at": "1970-01-01 00:00:00.000000001",
        "gap": 1.0,
    }
    words = ["predict", str(run), str(tmp_path / "t.parquet"), "--keep"]
    copy = str(tmp_path / "copy.parquet")
    assert _run([*words, "time,took", "-o", copy, *more]) == 0
    for name in ("time", "took"):
        assert pyarrow.parquet.read_table(copy)[name].combine_chunks() == columns[name]
    assert _run([*words, "list", *more]) == DataError.exit_code


def test_a_file_of_no_known_kind_is_refused_first() -> None:
    with pytest.raises(UsageError, match=r"out\.xls: no format"):
        predict.check_destination("out.xls")


def test_a_link_that_goes_round_is_no_place(tmp_path: Path) -> None:
    (loop := tmp_path / "loop.csv").symlink_to(loop)
    for refused in (predict.check_destination, lambda path: predict.write({"a": [1]}, path)):
        with pytest.raises(WriteError, match=r"loop\.csv: Too many levels of symbolic links"):
            refused(str(loop))
    assert loop.is_symlink()


def test_regression_is_in_the_targets_own_units() -> None:
    x = rng.standard_normal((200, 3))
    y = 1000 + 50 * x[:, 0]
    model = gpunet.train((x, y), epochs=60, device="cpu")
    found = model.predict(x)
    assert found.shape == (200,)
    assert abs(found - y).mean() < 10
    with pytest.raises(DataError, match="no probabilities"):
        model.predict(x, proba=True)


def test_pinball_finds_its_quantile() -> None:
    y = rng.exponential(size=2000)
    model = gpunet.train(
        (np.zeros((2000, 1)), y), loss="pinball(0.9)", hidden=(), epochs=60, device="cpu"
    )
    assert 0.85 < (y <= model.predict(np.zeros((1, 1)))[0]).mean() < 0.95


def test_several_targets() -> None:
    x = rng.standard_normal((200, 3))
    model = gpunet.train((x, x[:, :2] * 3), epochs=40, device="cpu")
    assert model.predict(x).shape == (200, 2)


def test_multilabel() -> None:
    table = {f"x{i}": rng.standard_normal(150).tolist() for i in range(3)}
    table |= {f"y{i}": [int(v > 0) for v in table[f"x{i}"]] for i in range(2)}
    model = gpunet.train(table, target="y0,y1", epochs=60, device="cpu")
    assert model.schema.target.task == "multilabel"
    assert model.predict(table).shape == (150, 2)
    assert model.evaluate(table)["accuracy"] > 0.8


def test_double_precision_stays_double(tmp_path: Path) -> None:
    flags = {"precision": "fp64", "epochs": 2, "folds": 0, "device": "cpu"}
    model = gpunet.train("spiral", out=tmp_path / "r", **flags)
    again = gpunet.load(tmp_path / "r")
    assert again.network.weights["hidden1.weight"].dtype == np.float64
    assert (again.predict("spiral", proba=True) == model.predict("spiral", proba=True)).all()


def test_what_is_not_a_model(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputMissing):
        gpunet.load(tmp_path / "nothing")
    with pytest.raises(InputMissing):
        gpunet.load(tmp_path)
    damaged = bytearray((run / "model.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "model.safetensors").write_bytes(damaged)
    with pytest.raises(ModelInvalid, match="SHA-256"):
        gpunet.load(tmp_path)


def test_a_model_whose_parts_do_not_fit(tmp_path: Path, run: Path) -> None:
    from gpunet import run as runs

    tensors, state = runs.unpack(run / "model.safetensors")
    wrong = {**state, "network": {**state["network"], "hidden": [3]}}
    path = tmp_path / "m.safetensors"
    for bad in (wrong, {**state, "network": {"nonsense": 1}}, {"schema": state["schema"]}):
        runs.write(path, runs.pack(tensors, bad))
        with pytest.raises(ModelInvalid, match="does not fit together"):
            gpunet.load(path)


def test_values_far_from_all_others_give_a_finite_prediction_or_none() -> None:
    x = np.random.default_rng(0).standard_normal((60, 2)).astype(np.float32)
    y, far = np.digitize(x[:, 0], [-0.5, 0.5]), np.array([x[0], [3e38, -3e38]])
    short = {"epochs": 1, "device": "cpu", "preset": "plain"}
    tables = [{"a": each[:, 0], "b": each[:, 1]} for each in (x, far)]
    found = gpunet.train((tables[0], y), **short).predict(tables[1], proba=True)
    assert np.isfinite(found).all()
    arrays = gpunet.train((x, y), **short)
    with pytest.raises(DataError, match=r"1 of 2 rows have no finite prediction \(row 2\); th"):
        arrays.predict(far)


def test_no_rows(model: predict.Model) -> None:
    with pytest.raises(DataError, match="no rows"):
        model.predict(WITHOUT.slice(0, 0))


def test_text_is_made_safe_for_spreadsheets_and_numbers_stay(tmp_path: Path) -> None:
    plain = ["-5", "+2.5e3", "-.5", "x=1", "", "'=", None, "é"]
    cells = ["=1+1", "+x", "-x", "@a", "\tb", "\rc", *plain]
    wanted = ["'=1+1", "'+x", "'-x", "'@a", "'\tb", "'\rc", *plain]
    text = pa.array(cells)
    numbers = np.linspace(-1, 1, len(cells))
    for column in (text, pa.chunked_array([text]), text.dictionary_encode()):
        safe = predict.spreadsheet_safe({"=cmd|' /C calc'!A0": column, "p": numbers, "-1": text})
        assert list(safe) == ["'=cmd|' /C calc'!A0", "p", "-1"]
        assert safe["'=cmd|' /C calc'!A0"].to_pylist() == wanted
        assert safe["p"] is numbers
    labels = np.array(["=a", "b"])
    assert predict.spreadsheet_safe({"prediction": labels})["prediction"].to_pylist() == [
        "'=a",
        "b",
    ]
    predict.write(safe, str(tmp_path / "p.csv"))
    assert pa.csv.read_csv(tmp_path / "p.csv")["p"].to_numpy().tolist() == numbers.tolist()
    with pytest.raises(DataError, match="two columns the same name"):
        predict.spreadsheet_safe({"=a": labels, "'=a": labels})


def test_the_command_line_makes_predictions_safe(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = "".join(f"{i},{['=one', 'two'][i % 2]}\n" for i in range(40))
    table.write_text(f"=a,y\n{rows}")
    model = gpunet.train(table, "y", epochs=2, hidden=(4,))
    model.save(tmp_path / "m.safetensors")
    out = tmp_path / "p.csv"
    words = ["predict", str(tmp_path / "m.safetensors"), str(table), "--keep", "=a", "--proba"]
    assert _run([*words, "-o", str(out), "--spreadsheet-safe"]) == 0
    assert out.read_text().splitlines()[0] == "'=a,prediction,p_=one,p_two"
    assert "'=one" in out.read_text().split("prediction")[1]
    assert _run([*words, "-o", str(tmp_path / "plain.csv")]) == 0
    assert "'" not in (tmp_path / "plain.csv").read_text()
