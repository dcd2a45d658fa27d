"""The benchmark runs, fills its document, and names who is missing; what it measures is its own."""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpunet.device import resolve
from gpunet.errors import Unavailable
from gpunet.kernels import native

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
CONTESTANT = {"samples", "median", "min", "max", "over_floor", "over_gpunet", "compile_seconds"}
CONTESTANT |= {"peak_bytes", "losses", "deviation", "agrees"}


def has_native() -> bool:
    try:
        native.load()
    except Unavailable:
        return False
    return True


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench import crew, ours, report, work

    return SimpleNamespace(crew=crew, ours=ours, report=report, work=work)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "bench.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_tiny_run_fills_the_document(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tiny.json"
    done = run("--quick", "--only", "tiny", "--threads", "1", "--json", str(path))
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert found["schema"] == "gpunet.bench/1"
    assert found["threads"] == 1
    assert {"machine", "versions", "load", "unset", "tolerance", "seconds"} <= found.keys()
    assert found["penguins"] is None
    (row,) = found["rows"]
    assert (row["name"], row["rows"], row["steps"]) == ("tiny", 2000, 20)
    absent = {"jax": "jax", "torch": "torch", "torch-compile": "torch", "sklearn": "sklearn"}
    absent = {name for name, module in absent.items() if find_spec(module) is None}
    absent |= set() if has_native() else {"gpunet", "products-sliced"}
    assert set(found["left_out"]) == absent
    assert not row["left_out"]
    here = {"gpunet", "gpunet-numpy", "products-blas", "products-sliced"} - absent
    assert here <= row["contestants"].keys()
    for name, each in row["contestants"].items():
        assert each.keys() == CONTESTANT
        assert each["min"] <= each["median"] <= each["max"]
        assert each["peak_bytes"] > 1e7
        assert each["agrees"] is (None if name.startswith("products") else True), name
        assert len(each["losses"]) == len(each["samples"]) + 1
    assert "tiny" in done.stdout
    for name in absent:
        assert found["left_out"][name] in done.stderr


def test_without_a_gpu_it_says_so() -> None:
    with suppress(Unavailable):
        resolve("cuda")
        pytest.skip("there is a GPU")
    done = run("--device", "cuda")
    assert done.returncode == 69
    assert done.stderr.startswith("bench: error: no C")


def test_losses_that_differ_are_seen(bench: SimpleNamespace) -> None:
    good, off = [2.0, 1.0, 0.5], [2.0, 1.0, 0.6]
    far = bench.report.deviations(
        {"a": good, "b": good, "c": off, "d": [2.0, float("nan"), 0.5], "none": [None, None, None]}
    )
    assert far == {"a": 0.0, "b": 0.0, "c": pytest.approx(0.05), "d": 1e9}
    assert far["a"] <= bench.report.TOLERANCE < far["c"]


def test_who_fails_is_lost_and_the_rest_go_on(bench: SimpleNamespace, tmp_path: Path) -> None:
    from random import Random

    given = bench.work.prepare(bench.work.TINY, tmp_path, None, 3)
    with bench.crew.crew(["nobody", "gpunet-numpy"], 1, "cpu", tmp_path) as there:
        found = there.measure(given, 2, 1, 0.0, Random(0))
    assert there.lost == {"nobody": "'nobody'"}
    assert found.keys() == {"gpunet-numpy"}
    assert len(found["gpunet-numpy"].samples) == 1


@pytest.mark.skipif(not has_native(), reason="no native kernels")
@pytest.mark.parametrize("threads", [1, 2])
def test_both_floors_run_the_products_of_a_step(
    bench: SimpleNamespace, tmp_path: Path, threads: int
) -> None:
    given = bench.work.prepare(bench.work.TINY, tmp_path, None, 1)
    floors = [bench.ours.Floor(given, threads, "cpu", sliced) for sliced in (False, True)]
    for floor in floors:
        floor.epoch(0, given.order(0))
    assert len(floors[0].calls) == 5
    for one, other in zip(*(floor.arrays.values() for floor in floors), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
