"""Values of a number that mean something one by one: found where they are, and nowhere else."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import gpunet
from gpunet.data import Schema, kinds, prepare, read, roughness
from gpunet.data.kinds import evenly
from gpunet.data.roughness import memberships, own_values
from gpunet.errors import ModelInvalid

RNG = np.random.default_rng(3)
ROWS = 3000
VALUES = np.sort(RNG.choice(10_000, 40, replace=False)).astype(float)
CODE = RNG.integers(0, 40, ROWS)
SIDE = RNG.random(40) < 0.5
X = VALUES[CODE]
JUMPS = np.where(RNG.random(ROWS) < 0.1, ~SIDE[CODE], SIDE[CODE])
SMOOTH = RNG.random(ROWS) < X / 10_000
SECOND = RNG.normal(size=ROWS)
BENT = np.sin(X / 2000) + RNG.normal(0, 0.5, ROWS)


def tried(x: np.ndarray, y: np.ndarray) -> tuple[float, ...]:
    return own_values(x, np.asarray(y, float).reshape(len(y), -1))


def test_jumps_between_neighbours_are_rough_and_slopes_and_bends_are_not() -> None:
    assert tried(X, JUMPS) == tuple(VALUES.tolist())
    assert tried(X, SMOOTH) == tried(X, BENT) == ()
    assert tried(X, JUMPS * 2000.0 + 7) == tuple(VALUES.tolist())
    assert tried(X, np.column_stack((SMOOTH, JUMPS))) == tuple(VALUES.tolist())
    assert tried(X, np.ones(ROWS)) == ()


@pytest.mark.parametrize("seed", range(20))
def test_chance_is_not_rough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.choice(np.sort(rng.normal(size=rng.integers(18, 300))), ROWS)
    for y in (rng.random(ROWS) < 0.05, rng.normal(size=ROWS), rng.standard_cauchy(ROWS)):
        assert tried(x, y) == ()


def test_little_evidence_is_none() -> None:
    few = np.isin(CODE, np.arange(17))
    assert tried(X[few], JUMPS[few]) == ()
    assert tried(X[few | (CODE == 17)], JUMPS[few | (CODE == 17)]) == tuple(VALUES[:18].tolist())
    mostly_once = np.concatenate((X, 20_000 + np.arange(ROWS + 1.0)))
    assert tried(mostly_once, np.tile(JUMPS, 3)[: 2 * ROWS + 1]) == ()
    assert tried(mostly_once[:-2], np.tile(JUMPS, 2)[: 2 * ROWS - 1]) == tuple(VALUES.tolist())
    assert own_values(np.zeros(0), np.zeros((0, 1))) == ()


def test_of_many_rows_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, most, found in ((10, 10, 10), (10, 9, 5), (10, 3, 3), (10, 1, 1), (0, 5, 0)):
        assert len(evenly(np.arange(rows), most)) == found
    monkeypatch.setattr(kinds, "MOST_ROWS", 50)
    assert prepare(read(table()), target=("y",), rough=True).schema.layout.codes == ()


def test_numbers_of_any_size() -> None:
    noise = RNG.normal(size=ROWS)
    for scale, mean in ((1.0, 1e10), (1e200, 0.0), (1e-200, 0.0), (1e300, 1e303)):
        assert tried(X, noise * scale + mean) == ()
        assert tried(X, JUMPS * scale + mean) == tuple(VALUES.tolist())
    x = np.where(np.arange(ROWS) % 50 == 0, np.finfo(float).max, X)
    x[1::100] = -1e300
    assert tried(x, JUMPS) == tuple(VALUES.tolist())


def test_names_of_many_things_are_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    for most, found in ((40, tuple(VALUES.tolist())), (39, ())):
        monkeypatch.setattr(roughness, "MOST_VALUES", most)
        assert tried(X, JUMPS) == found


def test_gaps_and_rare_values_have_no_code() -> None:
    x = np.concatenate((X, [np.nan] * 5, [4.5, 5.5, 5.5]))
    assert tried(x, np.append(JUMPS, np.zeros(8))) == tuple(VALUES.tolist())


def test_classes_are_told_apart_by_the_frequent_ones() -> None:
    assert memberships(np.array([3, 1, 1])).tolist() == [[0.0], [1.0], [1.0]]
    many = memberships(np.repeat(np.arange(30), np.arange(1, 31)))
    assert many.shape == (465, 16)
    assert many.sum(axis=0).tolist() == list(range(30, 14, -1))


def table(**more: Any) -> pa.Table:
    words = np.where(JUMPS, "yes", "no")
    return pa.table({"x": X, "z": SECOND, "y": words, **more})


def test_a_rough_column_has_codes_beside_its_number() -> None:
    prepared = prepare(read(table()), target=("y",), rough=True)
    column, other = prepared.schema.columns
    assert (column.values, other.values) == (tuple(VALUES.tolist()), ())
    assert prepared.schema.layout.codes == (41,)
    assert any("x: neighbouring values differ" in note for note in prepared.notes)
    new = pa.table({"x": [VALUES[0], VALUES[39], VALUES[3] + 0.5, -1.0, None], "z": [0.0] * 5})
    x, _ = prepared.schema.encode(read(new))
    assert x[:, 2].tolist() == [1, 40, 0, 0, 0]
    plain = prepare(read(table()), target=("y",))
    assert plain.schema.layout.codes == ()
    assert np.array_equal(plain.schema.encode(read(new))[0], x[:, :2])


def test_what_is_fitted_looks_at_training_rows_alone() -> None:
    whole, part = table(), ["train"] * 2000 + ["validation"] * 1000
    swapped = whole["y"].to_pylist()
    swapped = swapped[:2000] + swapped[:1999:-1]
    for y in (whole["y"].to_pylist(), swapped):
        data = table(y=y, part=part)
        found = prepare(read(data), target=("y",), split_column="part", rough=True, test=0.0)
        assert found.schema.columns[0].values == tried(X[:2000], JUMPS[:2000])


def test_it_is_saved_and_damage_is_seen() -> None:
    schema = prepare(read(table()), target=("y",), rough=True).schema
    saved = json.loads(json.dumps(schema.to_dict()))
    assert Schema.from_dict(saved).columns == schema.columns
    wrong = ([2.0, 1.0], [1.0, 1.0], ["1"], [1], 3, [float("nan")], [1.0], [1e300], [0.1])
    for values in wrong:
        damaged = json.loads(json.dumps(saved))
        damaged["columns"][0]["values"] = values
        if values == [1.0]:
            damaged["columns"][1]["values"] = values
        with pytest.raises(ModelInvalid):
            Schema.from_dict(damaged)


@pytest.mark.parametrize("kernels", ["numpy", "native"])
def test_what_jumps_is_learnt(kernels: str, tmp_path) -> None:
    flags = {"preset": "fast", "kernels": kernels, "test": 0.3, "baselines": False, "epochs": 40}
    told = gpunet.train(table(), "y", out=tmp_path / "run", **flags)
    assert told.config.value_embedding == "rough"
    errors = {}
    for embedding in ("rough", "none"):
        model = gpunet.train(table(), "y", value_embedding=embedding, **flags)
        errors[embedding] = 1 - model.evaluate(table())["accuracy"]
    assert errors["rough"] < 0.13
    assert errors["none"] > errors["rough"] + 0.05
    again = gpunet.load(tmp_path / "run")
    assert np.array_equal(again.predict(table(), proba=True), told.predict(table(), proba=True))
