"""What a device is capable of: every figure is there and of something; no timing is judged."""

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from emulation import COMPILER, Emulated
from fakecuda import opened

from gpunet import job, speed
from gpunet.cli import _run
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.errors import Unavailable
from gpunet.speed import Speed


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little work, timed once."""
    monkeypatch.setattr(speed, "SIZES", {"cpu": (32, 1 << 16), "cuda": (32, 1 << 16)})
    monkeypatch.setattr(speed, "REPEATS", 1)
    monkeypatch.setattr(speed, "LEAST_SECONDS", 0.0)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kernels", ["auto", "numpy"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_cpu_is_measured(kernels: str, threads: int) -> None:
    found = speed.measure(Cpu(kernels, threads))
    assert found.products.keys() == {"fp32", "fp64"}
    assert all(each > 0 for each in (found.copied, *found.products.values()))
    assert found.within > 0
    assert found.call > 0
    assert found.alone is None


class Gpu(Emulated):
    """A GPU that counts what is asked of it. Its graphs run their calls; it has no bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, object]] = []

    def product(self, a, b, out, flip_a=False, flip_b=False) -> Callable[[], None]:
        self.asked.append(("product", (self.precision, str(a.dtype))))
        if a.dtype == np.uint16:
            raise Unavailable("no bfloat16", "use tf32")
        return super().product(a, b, out, flip_a, flip_b)

    def replay(self, calls) -> Callable[[int], None]:
        self.asked.append(("graph", len(calls)))

        def run(steps: int) -> None:
            for _ in range(steps):
                for call in calls:
                    call()

        return run


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_a_gpu_is_measured_in_each_precision_it_has() -> None:
    device = Gpu()
    found = speed.measure(device)
    assert found.products.keys() == {"fp64", "fp32", "tf32"}
    assert all(each > 0 for each in (found.copied, found.call, found.within, found.alone))
    dtypes = {"fp64": "float64", "fp32": "float32", "tf32": "float32", "bf16": "uint16"}
    assert [what for kind, what in device.asked if kind == "product"] == list(dtypes.items())
    assert device.precision == "fp32"
    assert [what for kind, what in device.asked if kind == "graph"] == [1, speed.NODES]


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    numbers = np.array([1.0, -2.5, 0.0], np.float32)
    bits = speed._as("bf16", numbers)
    assert bits.dtype == np.uint16
    again = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(again, numbers)


def test_a_figure_is_the_median_of_long_enough_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    clock = SimpleNamespace(perf_counter=lambda: len(calls) * 0.004)
    monkeypatch.setattr(speed, "time", clock)
    assert speed.seconds(lambda: calls.append(1), Cpu()) == pytest.approx(0.004)
    assert 5 * speed.REPEATS <= len(calls) < 200


def test_what_is_expected_of_a_step_follows_from_the_speed() -> None:
    planned = job.plan("digits", {"device": "cpu", "hidden": (32,), "preset": "plain"})
    launches = planned.launches
    flops = sum(each.flops or 0 for each in launches.launches)
    moved = sum(each.nbytes for each in launches.launches)
    quick = Speed(copied=1e30, products={"fp32": 1e9}, call=1.0, within=0.0)
    assert speed.expected(launches, quick, "fp32").step == pytest.approx(flops / 1e9)
    slow = Speed(copied=1e6, products={"fp32": 1e30}, call=1.0, within=0.5)
    found = speed.expected(launches, slow, "fp32")
    assert found.memory == pytest.approx(moved / 1e6)
    assert found.launches == len(launches.launches) * 0.5
    assert found.step == pytest.approx(found.memory + found.launches)
    with pytest.raises(KeyError):
        speed.expected(launches, slow, "bf16")


@pytest.mark.usefixtures("small")
def test_info_and_plan_show_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["info", "--bench", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "gpunet.info/1"
    figures = {"copied", "products", "call", "within", "alone", "sent"}
    assert found["bench"]["cpu"].keys() == figures
    assert _run(["info", "--bench"]) == 0
    shown = capsys.readouterr().out
    for words in ("copies", "GB/s", "fp64", "FLOP/s", "µs a call of a step"):
        assert words in shown
    assert _run(["info", "--json"]) == 0
    assert "bench" not in json.loads(capsys.readouterr().out)
    plan = ["plan", "digits", "--device", "cpu", "--hidden", "8", "--preset", "plain"]
    assert _run([*plan, "--bench", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["expected"].keys() == {"products", "memory", "launches", "step"}
    assert _run([*plan, "--bench"]) == 0
    assert "µs a step (products" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_kernels_are_timed_alone_and_in_graphs() -> None:
    with opened() as device:
        call, within, alone = speed._kernels(device)
        log = device.stream.log
    assert min(call, within, alone) > 0
    assert log.count("empty") >= 2
    graphs = {nodes for kind, nodes in (each for each in log if each != "empty")}
    assert graphs == {1, speed.NODES}


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_what_comes_from_the_host_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "WINDOW_BYTES", 1 << 16)
    with opened() as device:
        found = speed._sent(device)
        assert len(device.cupy.streams) == 2
    assert found > 0
    whole = Speed(1e9, {"fp32": 1e9}, 1e-6, 1e-6, 1e-6, sent=25e9)
    assert ("cuda:0 copies", "1 GB/s, read and written · 25 GB/s from the host") in speed.lines(
        "cuda:0", whole
    )


@pytest.mark.gpu
def test_a_real_gpu_is_measured(gpu: Device) -> None:
    found = speed.measure(gpu)
    assert {"fp64", "fp32", "tf32"} <= found.products.keys()
    assert found.alone is not None
    assert found.sent is not None
    assert 1e8 < found.sent < found.copied
    assert found.products["tf32"] > found.products["fp32"] / 2
    assert found.copied > 1e9
