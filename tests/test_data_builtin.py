"""The sets that come with gpunet, against what their authors published."""

import sys

import numpy as np
import pytest

from gpunet.data import BUILTIN, prepare, read
from gpunet.data.builtin import SETS
from gpunet.data.delimited import read_delimited


@pytest.mark.parametrize("name", BUILTIN)
def test_every_set_is_what_it_says(name):
    source, said = read(name), BUILTIN[name]
    wide = len(source.columns) - 1 if source.table is not None else source.x.shape[1]
    assert (source.name, source.rows, wide) == (name, said.rows, said.columns)
    keep = {"validation": 0.0, "test": 0.0}
    assert prepare(source, **keep).schema.target.task == said.task


def test_the_lecture_is_normal_float64_with_its_recipe():
    source = read("lecture")
    assert (source.x.shape, source.y.shape) == ((64, 1000), (64, 10))
    assert source.x.dtype == source.y.dtype == np.float64
    assert abs(source.x.mean()) < 0.02
    assert abs(source.x.std() - 1) < 0.02
    assert source.settings["lr"] == 1e-4
    assert source.settings["steps"] == 2000
    raw = prepare(source, validation=0.0, test=0.0, standardise=False)
    np.testing.assert_array_equal(raw.train.x, source.x)
    np.testing.assert_array_equal(raw.train.y, source.y)
    assert raw.schema.scale is None


def test_sets_are_the_same_every_time():
    for name in ("lecture", "spiral"):
        first, again = read(name), read(name)
        if first.table is not None:
            assert first.table.equals(again.table)
        else:
            np.testing.assert_array_equal(first.x, again.x)


def test_a_recipe_can_be_changed_without_changing_the_set():
    read("lecture").settings["lr"] = 5.0
    assert read("lecture").settings["lr"] == 1e-4


def test_the_spiral_turns_outwards_in_three_arms():
    table = read("spiral").table
    x1, x2, arm = (table[name].to_numpy() for name in ("x1", "x2", "arm"))
    np.testing.assert_allclose(np.hypot(x1, x2), np.tile(np.linspace(0, 1, 100), 3), atol=1e-12)
    assert np.bincount(arm).tolist() == [100, 100, 100]


def test_penguins_are_what_the_csv_reader_makes_of_them_and_need_none_of_its_threads(monkeypatch):
    wanted = read_delimited((SETS / "penguins.csv").read_bytes(), "penguins", 1 << 30)
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    found = read("penguins")
    assert found.table.equals(wanted.table)
    assert (found.text, found.first, found.lines) == (wanted.text, wanted.first, wanted.lines)


def test_penguins_as_published():
    source = read("penguins")
    assert source.target == ("species",)
    species = source.table["species"].to_pylist()
    assert [species.count(s) for s in ("Adelie", "Chinstrap", "Gentoo")] == [152, 68, 124]
    mass = [v for v in source.table["body_mass_g"].to_pylist() if v != "NA"]
    assert len(mass) == 342
    assert sum(map(float, mass)) / 342 == pytest.approx(4201.754, abs=1e-3)


def test_digits_as_in_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    source = read("digits")
    assert source.x.dtype == np.uint8
    np.testing.assert_array_equal(source.x, images)
    np.testing.assert_array_equal(source.y, labels)


def test_files_have_their_source_and_licence_beside_them():
    for path in SETS.iterdir():
        if path.suffix != ".txt":
            assert "Licence: CC" in path.with_suffix(".txt").read_text()
