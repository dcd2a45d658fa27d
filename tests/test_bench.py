"""The benchmark runs, fills its document, and names who is missing; what it measures is its own."""

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import COMPILER
from fakecuda import opened
from rich.console import Console

from gpunet.device import resolve
from gpunet.errors import Unavailable
from gpunet.kernels import native

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
CONTESTANT = {"samples", "median", "min", "max", "over_floor", "over_gpunet", "compile_seconds"}
CONTESTANT |= {"peak_bytes", "losses", "deviation", "agrees"}
ACHIEVED = {"step_seconds", "flops_per_second", "bytes_per_second", "kernels", "device_bytes"}


def has_native() -> bool:
    try:
        native.load()
    except Unavailable:
        return False
    return True


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(SCRIPTS)
    from bench import crew, ours, report, work, worker

    return SimpleNamespace(crew=crew, ours=ours, report=report, work=work, worker=worker)


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


def small_works(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What is measured on CUDA, small: decay, several passes, one batch, bfloat16."""
    monkeypatch.setattr(bench.work, "WIDTH", 32)
    tiny, decay = bench.work.TINY, bench.work.DECAY
    wide = bench.work.Work("wide-s", "wide", (32,) * 3, batch=64, rows=128, passes=3, decay=decay)
    return {
        "decay": replace(tiny, decay=decay),
        "passes": wide,
        "one batch": replace(bench.work.LECTURE, passes=100),
        "bf16": replace(wide, name="wide-b", precision="bf16"),
    }


def peers() -> dict[str, str]:
    """Contestants that can be tried on the CPU without a compiler, and what each needs."""
    return {"torch": "torch", "torch-graph": "torch", "jax": "jax", "jax-unrolled": "jax"}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("which", ["decay", "passes", "one batch", "bf16"])
def test_peers_of_the_gpu_do_the_same_work(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: str
) -> None:
    work = small_works(bench, monkeypatch)[which]
    given = bench.work.prepare(work, tmp_path, None, 2)
    ours = bench.ours.Gpunet(given, 1, "cpu", "numpy")
    expected = [ours.epoch(epoch, given.order(epoch)) for epoch in range(2)]
    rtol = 1e-2 if which == "bf16" else 1e-4
    there = [name for name, module in peers().items() if find_spec(module)]
    if not there:
        pytest.skip("neither torch nor jax is installed")
    for name in there:
        make = bench.worker.maker(name)
        more = {"mode": None} if name == "torch-graph" else {}
        peer = make(given, 1, "cpu", **more)
        found = [peer.epoch(epoch, given.order(epoch)) for epoch in range(2)]
        np.testing.assert_allclose(found, expected, rtol=rtol, err_msg=name)


@pytest.mark.filterwarnings("default")
def test_what_warms_a_graph_up_is_undone(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    work = small_works(bench, monkeypatch)["decay"]
    given = bench.work.prepare(work, tmp_path, None, 1)
    peer = bench.worker.maker("torch-graph")(given, 1, "cpu", mode=None)
    kept = [each.detach().clone() for each in peer.net.parameters()]
    first = peer.epoch(0, given.order(0))
    assert peer.epoch(0, given.order(0)) != first
    peer.undo(kept)
    assert peer.epoch(0, given.order(0)) == first


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_the_floors_of_a_gpu_are_of_the_step(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.ours, "device_bytes", lambda on: 1)
    given = bench.work.prepare(bench.work.TINY, tmp_path, None, 1)
    with opened() as device:
        monkeypatch.setattr(bench.ours, "place", lambda work, where: device)
        products = bench.ours.Graph(given, 1, "cuda", is_empty=False)
        products.epoch(0, given.order(0))
        assert products.facts() == {"kernels": 5, "device_bytes": 1}
        assert set(device.stream.log) == {"product", *(("graph", 5 * n) for n in (16, 2, 1))}
        assert all(np.isfinite(array).all() for array in products.arrays.values())
        launches, _ = bench.ours.lower(given, device)
        device.stream.log.clear()
        empty = bench.ours.Graph(given, 1, "cuda", is_empty=True)
        empty.epoch(0, given.order(0))
        nodes = bench.ours.launched(launches)
        assert set(device.stream.log) == {"empty", *(("graph", nodes * n) for n in (16, 2, 1))}


@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_graphs_are_chosen_before_a_gpu_is_measured(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench.ours, "device_bytes", lambda on: 1)
    work = replace(small_works(bench, monkeypatch)["decay"], precision="fp32")
    given = bench.work.prepare(work, tmp_path, None, 2)
    plain = bench.ours.Gpunet(given, 1, "cpu", "numpy")
    with opened() as device:
        monkeypatch.setattr(bench.ours, "place", lambda work, where: device)
        ours = bench.ours.Gpunet(given, 1, "cuda")
        for epoch in range(2):
            order = given.order(epoch)
            assert ours.epoch(epoch, order) == pytest.approx(plain.epoch(epoch, order), rel=1e-5)
        facts = ours.facts()
        assert facts["runs_on"].startswith("CUDA graphs")
        assert facts["kernels"] >= 13
        (seconds,) = facts["branches"].values()
        assert len(seconds) == 2
        assert ours.list.replay.is_forked in (True, False)


def test_the_parts_of_penguins_are_there_for_other_libraries(
    bench: SimpleNamespace, tmp_path: Path
) -> None:
    from bench import penguins

    penguins._write_parts(tmp_path / "parts.npz")
    with np.load(tmp_path / "parts.npz") as found:
        parts = {name: found[name] for name in found.files}
    assert list(parts) == ["train", "validation", "test"]
    rows = np.concatenate(list(parts.values()))
    assert sorted(rows) == list(range(len(penguins.CSV.read_text().splitlines()) - 1))


def test_operations_and_bytes_of_a_step(bench: SimpleNamespace) -> None:
    work = bench.work.Work("w", "table", (3,), batch=2, rows=4)
    assert work.flops == 2 * 2 * (2 * 64 * 3 + 3 * 3 * 1)
    assert work.parameters == 64 * 3 + 3 + 3 + 1
    assert work.nbytes == 4 * (2 * (64 + 1 + 6 * 4) + work.parameters * 10)
    names = [each.name for each in bench.work.ON_CUDA]
    assert len(set(names)) == len(names) == 5


def test_what_a_gpu_achieves_is_told(bench: SimpleNamespace) -> None:
    work = bench.work.TINY
    facts = {"kernels": 7, "device_bytes": 1 << 20}
    results = {
        name: bench.crew.Result([2.0, 1.0, 3.0], [loss] * 4, facts=facts)
        for name, loss in (("gpunet", 1.0), ("torch-graph", 1.0), ("products-graph", None))
    }
    row = bench.report.row(work, results, {})
    assert (row["flops"], row["bytes"]) == (work.flops, work.nbytes)
    each = row["contestants"]["gpunet"]
    assert each.keys() == CONTESTANT | ACHIEVED
    assert each["step_seconds"] == 2.0 / work.steps
    assert each["flops_per_second"] == pytest.approx(work.flops * work.steps / 2.0)
    assert each["over_floor"] == 1.0
    bench.report.show_row(Console(), row)
    results["gpunet"].facts = {}
    on_cpu = bench.report.row(work, {"gpunet": results["gpunet"]}, {})
    assert "flops" not in on_cpu
    assert on_cpu["contestants"]["gpunet"].keys() == CONTESTANT


def test_a_whole_process_is_timed(
    bench: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import whole

    monkeypatch.setattr(whole, "EPOCHS", 3)
    given = bench.work.prepare(bench.work.TINY, tmp_path, None, 1)
    found = whole.measure(given, 1, "cpu", tmp_path / "images", 1)
    assert (found["epochs"], found["rows"]) == (3, 2000)
    assert 0 < found["loop"]["median"] < found["wall"]["median"]
    assert 0 < found["accuracy"] <= 1
    bench.report.show_images(Console(), found)
