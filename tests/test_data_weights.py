"""How much each row counts: columns of weights, weights of classes, and what both refuse."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.utils.class_weight import compute_class_weight
from tables import columns, mixed

import gpunet
from gpunet import job, loop
from gpunet.data import prepare, read
from gpunet.data.parquet import ParquetTable
from gpunet.data.source import Source
from gpunet.device import resolve
from gpunet.errors import DataError, UsageError

rng = np.random.default_rng(0)
N = 200
WEIGHTS = rng.integers(0, 4, N)
VALUES = mixed(N) | {"w": WEIGHTS.tolist()}
SOURCE = columns(VALUES)


def typed() -> dict[str, object]:
    """A number and a category that tell a number, and weights of which some are 0."""
    x = np.random.default_rng(1).standard_normal(N)
    return {"x": x, "c": np.where(x > 0, "a", "b"), "w": WEIGHTS, "y": x + np.arange(N) % 5}


def prepared(**options: object):
    return prepare(columns({**VALUES, "row": list(range(N))}), standardise=False, **options)


def test_each_part_has_its_rows_weights_at_a_mean_of_one() -> None:
    names = [column.name for column in prepared(target=("kind",), weight="w").schema.columns]
    assert "row" in names
    assert "w" not in names
    found = prepared(target=("kind",), features=("row",), weight="w")
    assert found.schema.target.weight == "w"
    for part in found.parts.values():
        own = WEIGHTS[part.x[:, 0].astype(int)]
        np.testing.assert_allclose(part.weight, own / own.mean(), rtol=1e-12)
        assert part.weight is part.sample_weight


def test_huge_and_tiny_weights_have_a_mean() -> None:
    for size in (1e308, 5e-324):
        weights = prepare(
            columns(VALUES | {"w": [size] * N}), target=("kind",), weight="w"
        ).train.weight
        assert (weights == 1).all()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({3: ""}, r"w: 1 of 200 weights are missing \(row 5\)"),
        ({4: "-1", 7: "-2"}, r'w: 2 of 200 weights are negative \(row 6: "-1"\)'),
        ({9: "inf"}, "w: .*row 11"),
        ({9: "heavy"}, "w: .*row 11"),
        (dict.fromkeys(range(1, N), 0) | {0: 1}, "one row with a target and a w above 0; wanted 2"),
        (dict.fromkeys(range(N), 0), "w: every weight is 0; no row counts"),
    ],
)
def test_weights_of_which_no_mean_can_be_taken_are_refused(cells, message) -> None:
    held = [cells.get(i, v) for i, v in enumerate(WEIGHTS.tolist())]
    with pytest.raises(DataError, match=message):
        prepare(columns(VALUES | {"w": held}), target=("kind",), weight="w")


def test_a_weight_that_is_missing_where_the_target_is_does_no_harm() -> None:
    values = {name: list(cells) for name, cells in VALUES.items()}
    values["kind"][3] = values["w"][3] = ""
    found = prepare(columns(values), target=("kind",), weight="w", drop_missing_target=True)
    assert sum(part.rows for part in found.parts.values()) == np.count_nonzero(WEIGHTS) - 1


def test_a_row_of_weight_0_is_as_if_it_was_not_there(tmp_path: Path) -> None:
    values = {name: np.array(cells) for name, cells in typed().items()}
    counts = values["w"] > 0
    values["x"][~counts], values["y"][~counts] = 1e9, 1e7
    options = {"target": ("y",), "weight": "w", "clamp": True, "bins": 4}
    without = {name: cells[counts] for name, cells in values.items()}
    pq.write_table(pa.table(values), tmp_path / "t.parquet")
    streamed = ParquetTable(str(tmp_path / "t.parquet"), "t", [*values])
    expected = prepare(read(without), **options).fingerprint()
    for source in (read(values), Source("t", streamed, streams=True)):
        found = prepare(source, **options)
        assert found.fingerprint() == expected
        assert found.notes[0] == f"left out {N - counts.sum()} rows of which w is 0"
    other = prepare(read(without), validation=read(values), **options).validation
    assert other.rows == counts.sum()


def test_a_row_of_weight_0_needs_no_target() -> None:
    values = {name: list(cells) for name, cells in VALUES.items()}
    values["kind"] = [kind if w else "" for kind, w in zip(values["kind"], WEIGHTS)]
    found = prepare(columns(values), target=("kind",), weight="w")
    assert sum(part.rows for part in found.parts.values()) == np.count_nonzero(WEIGHTS)
    values["kind"][int(np.flatnonzero(WEIGHTS)[0])] = ""
    wanted = f"1 of {np.count_nonzero(WEIGHTS)} values of the target are missing"
    with pytest.raises(DataError, match=wanted):
        prepare(columns(values), target=("kind",), weight="w")


def test_a_part_of_its_own_has_weights_too() -> None:
    other = columns({name: VALUES[name] for name in VALUES if name != "w"})
    with pytest.raises(DataError, match=r"validation part: .*no column w"):
        prepare(columns(VALUES), target=("kind",), weight="w", validation=other)


def test_folds_share_out_the_rows_that_count() -> None:
    w = np.zeros(N)
    w[:12] = 1
    found = prepare(read(typed() | {"w": w}), target=("y",), weight="w", test=0.0)
    assert [fold.validation.rows for fold in found.folds(5, seed=0)] == [2, 2, 2, 2, 2]
    with pytest.raises(DataError, match="10 rows are too few for 11 folds"):
        found.folds(11, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ("kind",), "weight": "kind"}, "kind: the weight and a target"),
        ({"target": ("kind",), "weight": "w", "drop": ("w",)}, "w: the weight and a target"),
        ({"target": ("kind",), "weight": "w", "features": ("w",)}, "w: the weight and a target"),
        ({"target": ("kind",), "weight": "w", "split_column": "w"}, "w: the weight and a target"),
        ({"target": ("size",), "class_weight": ("balanced",)}, "no meaning for a regression"),
        (
            {"target": ("kind",), "class_weight": ("flut=2",)},
            r'"flut" is none of the classes cottage, flat, house; did you mean "flat"\?',
        ),
        ({"target": ("kind",), "class_weight": ("flat",)}, "neither balanced nor LABEL=WEIGHT"),
        (
            {"target": ("kind",), "class_weight": ("balanced", "flat=1")},
            "balanced,flat=1: balanced stands",
        ),
        ({"target": ("kind",), "class_weight": ("flat=0",)}, '"0" is no positive number'),
        ({"target": ("kind",), "class_weight": ("flat=inf",)}, '"inf" is no positive number'),
        ({"target": ("kind",), "class_weight": ("flat=1", "flat=2")}, '"flat" is named twice'),
    ],
)
def test_what_has_no_meaning_is_refused(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(columns({**VALUES, "size": [str(i + 0.5) for i in range(N)]}), **options)


def test_arrays_have_no_column_of_weights() -> None:
    with pytest.raises(UsageError, match="arrays have no columns"):
        prepare(read((np.zeros((9, 2)), np.arange(9) % 2)), weight="w")


def test_classes_have_the_weights_that_were_asked_for() -> None:
    found = prepared(target=("kind",), weight="w", class_weight=("flat=2", "cottage=0.5"))
    train = found.train
    factors = np.array([0.5, 2.0, 1.0])[train.y] * train.sample_weight
    np.testing.assert_allclose(train.weight, factors / factors.mean(), rtol=1e-12)


def test_numbers_name_classes_as_the_file_has_them() -> None:
    values = VALUES | {"y": ["1" if i % 3 else "0" for i in range(N)]}
    found = prepare(columns(values), target=("y",), class_weight=("1.0=3",))
    weights = {int(label): w for label, w in zip(found.train.y[:, 0], found.train.weight)}
    assert weights[1] == pytest.approx(3 * weights[0])


@pytest.mark.parametrize("weight", [None, "w"])
def test_balanced_classes_weigh_the_same_in_the_training_part(weight: str | None) -> None:
    train = prepared(target=("kind",), weight=weight, class_weight=("balanced",)).train
    sums = np.bincount(train.y, train.weight)
    np.testing.assert_allclose(sums, train.rows / 3, rtol=1e-12)
    if weight is None:
        expected = compute_class_weight("balanced", classes=np.arange(3), y=train.y)
        np.testing.assert_allclose(train.weight, expected[train.y], rtol=1e-12)


def test_rows_held_out_do_not_change_the_weights_of_those_that_train() -> None:
    split = ["train"] * 120 + ["validation"] * 40 + ["test"] * 40
    values = VALUES | {"part": split}
    options = {"target": ("kind",), "weight": "w", "class_weight": ("balanced",)}
    first = prepare(columns(values), split_column="part", **options)
    kinds = VALUES["kind"][:120] + ["flat"] * 80
    changed = values | {"w": [*WEIGHTS[:120].tolist(), *[9] * 80], "kind": kinds}
    again = prepare(columns(changed), split_column="part", **options)
    assert again.train.weight.tobytes() == first.train.weight.tobytes()
    assert again.validation.weight.tobytes() != first.validation.weight.tobytes()


def test_weights_are_part_of_what_the_data_are() -> None:
    print_of = {
        prepare(columns(VALUES | {"w": w}), target=("kind",), weight="w").fingerprint()
        for w in ([1] * N, [1] * (N - 1) + [2])
    }
    assert len(print_of) == 2


X = rng.standard_normal(60)
TABLE = {"x": X, "z": X**2, "y": X + 0.1 * rng.standard_normal(60), "w": np.arange(60) % 3.0}
FULL = {"validation": 0.0, "test": 0.0, "standardise": False, "epochs": 30, "device": "cpu"}
FULL |= {"preset": "plain"}  # first weights fitted to the rows would differ with them


@pytest.mark.parametrize("kernels", ["numpy", "auto"])
def test_a_weight_of_two_is_a_row_twice(kernels: str) -> None:
    """In full batches: the mean loss over rows with weights is that over rows repeated."""
    twice = {name: np.repeat(values, (np.arange(60) % 3)) for name, values in TABLE.items()}
    usual = {**FULL, "target": "y", "kernels": kernels, "precision": "fp64", "hidden": (8,)}
    weighed = gpunet.train(TABLE, weight="w", batch_size=60, **usual)
    repeated = gpunet.train(twice, drop=("w",), batch_size=60, **usual)
    expected = repeated.network.weights
    for name, found in weighed.network.weights.items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-6, atol=1e-9)


def test_validation_and_metrics_are_weighted_and_evaluate_wants_the_column() -> None:
    flags = {"target": "y", "weight": "w", "epochs": 3, "device": "cpu", "preset": "fast"}
    planned = job.plan(TABLE, flags)
    list(planned.reports())
    part, schema = planned.prepared.validation, planned.prepared.schema
    raw = planned.model.run(part, resolve("cpu").device)
    expected = np.average((raw - part.y)[:, 0] ** 2, weights=part.weight)
    assert planned.best.validation["loss"] == pytest.approx(expected, rel=1e-5)
    found = loop.judge(schema, part.y, raw, part.sample_weight)
    plain = loop.judge(schema, part.y, raw)
    assert planned.finish()["metrics"]["validation"] == found != plain
    assert planned.model.evaluate(TABLE) != planned.model.evaluate(TABLE | {"w": np.ones(60)})
    with pytest.raises(DataError, match="no column w"):
        planned.model.evaluate({name: v for name, v in TABLE.items() if name != "w"})
    with pytest.raises(DataError, match="w: every weight of the whole part is 0; no row counts"):
        planned.model.evaluate(TABLE | {"w": np.zeros(60)})
    planned.model.predict({name: v for name, v in TABLE.items() if name in "xz"})


def test_class_weights_are_for_the_loss_alone() -> None:
    table = TABLE | {"y": np.where(X > 1, "many", "few")}
    found = [
        job.plan(table, {"target": "y", "drop": "w", "class_weight": each, "device": "cpu"})
        for each in ("none", "many=10")
    ]
    assert found[0].prepared.train.weight is None
    assert found[1].prepared.train.weight is not None
    assert found[1].prepared.train.sample_weight is None
    assert json.loads(json.dumps(found[1].settings.lasting()))["class_weight"] == ["many=10"]


def test_the_fault_of_a_weighted_run_keeps_the_weights() -> None:
    planned = job.plan(
        TABLE, {"target": "y", "weight": "w", "device": "cpu", "optimizer": "sgd", "lr": 1e9}
    )
    with pytest.raises(gpunet.errors.Diverged) as caught:
        list(planned.reports())
    fault = caught.value.fault
    assert fault.weight.shape == fault.rows.shape
    assert fault.place is not None
