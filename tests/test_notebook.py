"""What Python is given that the command line writes: how training went, parts that are objects."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gpunet
from gpunet.errors import DataError, ModelInvalid, UsageError
from gpunet.run import METRICS, SUMMARY

rng = np.random.default_rng(0)
SETTINGS: dict[str, Any] = {"preset": "fast", "epochs": 3, "device": "cpu", "baselines": False}


def rows(count: int) -> dict[str, Any]:
    size, colour = rng.standard_normal(count), rng.choice(["red", "green", "blue"], count)
    kind = np.where(size + (colour == "red") > 0.3, "big", "small")
    return {"size": size, "colour": colour.tolist(), "kind": kind.tolist()}


TRAIN, VALIDATION, TEST = rows(120), rows(40), rows(30)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[gpunet.Model, Path]:
    place = tmp_path_factory.mktemp("runs") / "kind"
    return gpunet.train(TRAIN, "kind", out=place, **SETTINGS), place


def test_a_model_tells_how_its_training_went(run: tuple[gpunet.Model, Path]) -> None:
    model, place = run
    lines = (place / METRICS).read_text().splitlines()
    assert model.summary == json.loads((place / SUMMARY).read_text())
    assert list(model.history) == [json.loads(line) for line in lines]
    assert [each["epoch"] for each in model.history] == [1, 2, 3]


@pytest.mark.parametrize("again", [lambda model, place: gpunet.load(place), lambda model, place:
    pickle.loads(pickle.dumps(model))], ids=["loaded", "pickled"])  # fmt: skip
def test_it_tells_it_for_good(run: tuple[gpunet.Model, Path], again: Any) -> None:
    model, found = run[0], again(*run)
    assert (found.summary, found.history) == (model.summary, model.history)


def test_so_does_one_without_a_directory(run: tuple[gpunet.Model, Path]) -> None:
    model, there = gpunet.train(TRAIN, "kind", **SETTINGS), run[0]
    assert model.history == there.history
    assert model.summary["metrics"] == there.summary["metrics"]


def test_a_file_alone_tells_nothing(run: tuple[gpunet.Model, Path], tmp_path: Path) -> None:
    run[0].save(tmp_path / "model.safetensors")
    for place in (tmp_path, tmp_path / "model.safetensors"):
        found = gpunet.load(place)
        assert (found.summary, found.history) == ({}, ())


@pytest.mark.parametrize("name", [METRICS, SUMMARY])
def test_what_was_damaged_is_no_run(
    run: tuple[gpunet.Model, Path], tmp_path: Path, name: str
) -> None:
    run[0].save(tmp_path / "model.safetensors")
    (tmp_path / name).write_text("[1, 2]\n")
    with pytest.raises(ModelInvalid, match="not as gpunet wrote it"):
        gpunet.load(tmp_path)


def test_classes_are_those_of_the_columns_of_probabilities(
    run: tuple[gpunet.Model, Path],
) -> None:
    model = run[0]
    assert model.classes == ("big", "small")
    found = model.predict(TEST, proba=True)
    assert [model.classes[i] for i in found.argmax(axis=1)] == model.predict(TEST).tolist()


def test_numbers_have_no_classes() -> None:
    x = rng.standard_normal((40, 2))
    assert gpunet.train((x, x[:, 0]), epochs=1, device="cpu").classes == ()


def test_columns_and_slices_of_data(run: tuple[gpunet.Model, Path]) -> None:
    for model in run:
        first = gpunet.importance(model, TEST)[0]
        assert (first.column, first.metric) == ("size", "log_loss")
        whole, found = gpunet.slices(model, TEST, least=5)
        assert whole > 0
        assert {each.column for each in found} <= {"size", "colour"}


def test_a_report_is_a_line() -> None:
    seen: list[str] = []
    gpunet.train(TRAIN, "kind", on_report=lambda report: seen.append(str(report)), **SETTINGS)
    assert len(seen) == 3
    assert seen[1].startswith("epoch 2/3  loss ")
    assert "  validation loss " in seen[1]
    assert ", accuracy " in seen[1]


def test_a_report_that_is_enough_ends_training(tmp_path: Path) -> None:
    def enough(report: Any) -> Any:
        return np.bool_(report.epoch >= 2)

    whole = gpunet.train(TRAIN, "kind", on_report=lambda report: report, **SETTINGS)
    path = tmp_path / "a"
    model = gpunet.train(TRAIN, "kind", on_report=enough, out=path, **SETTINGS)
    assert (whole.summary["ended"], model.summary["ended"]) == ("done", "enough")
    assert list(model.history) == list(whole.history)[:2]
    assert model.summary["metrics"]["test"]["accuracy"] is not None
    assert gpunet.load(path).summary["ended"] == "enough"
    assert len(gpunet.resume(path, TRAIN).history) == 2
    more = gpunet.resume(path, TRAIN, epochs="+2", on_report=lambda report: True)
    assert (more.summary["ended"], len(more.history)) == ("enough", 3)


def test_parts_may_be_objects() -> None:
    whole = pa.table(VALIDATION)
    model = gpunet.train(TRAIN, "kind", validation=whole, test=TEST, **SETTINGS)
    assert model.summary["rows"] == {"train": 120, "validation": 40, "test": 30}
    assert model.config.folds == 0
    assert model.evaluate(TEST)["log_loss"] == pytest.approx(
        model.summary["metrics"]["test"]["log_loss"], rel=1e-6
    )


def test_parts_of_arrays_may_be_arrays() -> None:
    x, y = rng.standard_normal((50, 2)), rng.integers(0, 2, 50)
    held = (x[:10], y[:10])
    model = gpunet.train((x, y), validation=held, test=0.0, epochs=1, device="cpu")
    assert model.summary["rows"] == {"train": 50, "validation": 10, "test": 0}


def test_parts_are_as_their_files_are(tmp_path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(pa.table(VALIDATION), tmp_path / "held.parquet")
    file = gpunet.train(TRAIN, "kind", validation=str(tmp_path / "held.parquet"), **SETTINGS)
    own = gpunet.train(TRAIN, "kind", validation=VALIDATION, **SETTINGS)
    assert own.predict(TEST, proba=True).tobytes() == file.predict(TEST, proba=True).tobytes()


def test_a_part_that_lacks_a_column_is_named() -> None:
    with pytest.raises(DataError, match="validation part: data: no column"):
        gpunet.train(TRAIN, "kind", validation={"size": [1.0], "kind": ["big"]}, **SETTINGS)


def test_a_stopped_run_wants_its_part_again(tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gpunet.train(
            TRAIN, "kind", validation=VALIDATION, out=tmp_path / "a", on_report=stop, **SETTINGS
        )
    with pytest.raises(UsageError, match="the validation part was in memory") as caught:
        gpunet.resume(tmp_path / "a", TRAIN)
    assert caught.value.hint == "give it again, as validation=…"
    with pytest.raises(ModelInvalid):
        gpunet.resume(tmp_path / "a", TRAIN, validation=TEST)
    model = gpunet.resume(tmp_path / "a", TRAIN, validation=VALIDATION)
    whole = gpunet.train(TRAIN, "kind", validation=VALIDATION, **SETTINGS)
    assert model.predict(TEST, proba=True).tobytes() == whole.predict(TEST, proba=True).tobytes()
    assert model.history == whole.history
    found = gpunet.verify(tmp_path / "a", data=TRAIN, validation=VALIDATION)
    assert [each.wrong for each in found] == ["", "", ""]


def test_parts_are_those_of_a_run_however_they_are_given_again(tmp_path: Path) -> None:
    from pyarrow import parquet

    for name, part in (("train", TRAIN), ("held", VALIDATION), ("other", TEST)):
        parquet.write_table(pa.table(part), tmp_path / f"{name}.parquet")
    data, held, moved = (tmp_path / f"{n}.parquet" for n in ("train", "held", "moved"))
    gpunet.train(data, "kind", validation=held, out=tmp_path / "file", **SETTINGS)
    gpunet.train(data, "kind", validation=VALIDATION, out=tmp_path / "own", **SETTINGS)
    held.rename(moved)
    for run in ("file", "own"):
        for part in (moved, str(moved), VALIDATION):
            found = gpunet.verify(tmp_path / run, data=data, validation=part)
            assert [each.wrong for each in found] == ["", "", ""]
        with pytest.raises(ModelInvalid, match="data"):
            gpunet.resume(tmp_path / run, data, validation=tmp_path / "other.parquet")


def test_settings_of_a_run_say_how_to_train_again_with_parts_in_memory(tmp_path: Path) -> None:
    first = gpunet.train(TRAIN, "kind", validation=VALIDATION, out=tmp_path / "a", **SETTINGS)
    config = tmp_path / "a" / "config.toml"
    assert "gpunet.train(data, config=THIS_FILE, validation=…)" in config.read_text()
    again = gpunet.train(TRAIN, config=config, validation=VALIDATION)
    assert again.predict(TEST, proba=True).tobytes() == first.predict(TEST, proba=True).tobytes()
    with pytest.raises(UsageError, match="the validation part was in memory"):
        gpunet.train(TRAIN, config=config)


def test_a_list_of_arrays_is_no_part() -> None:
    with pytest.raises((DataError, TypeError), match="tuple"):
        gpunet.train((np.eye(30), np.arange(30)), validation=[np.eye(30), np.arange(30)])


def test_repeats_may_have_one_test_part_and_are_told_in_a_line() -> None:
    found = gpunet.repeat(TRAIN, "kind", seeds=2, test=TEST, **SETTINGS)
    assert [run["rows"]["test"] for run in found.runs] == [30, 30]
    assert repr(found) == "<Repeats: 2 of 2 runs by seeds, see mean>"


def test_a_study_refuses_them(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(UsageError, match="--validation: a study wants a share or a file"):
        gpunet.tune(TRAIN, "kind", validation=VALIDATION, out=tmp_path / "study")
    assert not (tmp_path / "study").exists()
