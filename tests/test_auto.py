"""What `auto` chooses: the device by the predicted time, with its reason."""

from pathlib import Path

import pytest

from gpunet import auto, job
from gpunet.device import Choice, Device, has_driver
from gpunet.device.cpu import Cpu
from gpunet.errors import UsageError

SETTINGS = {"hidden": (64,), "preset": "plain"}


class Gpu(Cpu):
    """A GPU as far as planning sees it."""

    kind = "cuda"
    name = "cuda:0"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a GPU; what was asked of it."""
    asked: list[str] = []

    def resolve(name: str) -> Choice:
        asked.append(name)
        return Choice(Cpu() if name == "cpu" else Gpu(), "asked for")

    monkeypatch.setattr(auto, "has_driver", lambda: True)
    monkeypatch.setattr(auto, "resolve", resolve)
    return asked


def test_work_too_small_for_a_gpu_stays_here_and_the_gpu_is_not_started(
    there: list[str], tmp_path: Path
) -> None:
    planned = job.plan("digits", {**SETTINGS, "epochs": 3})
    assert planned.choice.device.kind == "cpu"
    assert there == []
    config = planned.settings.config
    assert (config.device, config.precision) == ("cpu", "fp32")
    assert config.threads == Cpu().threads
    assert planned.settings.origin["device"] == f"auto: {planned.choice.reason}"
    assert "s here, 3.0" in planned.choice.reason
    assert "with the 3 s of its start" in planned.choice.reason
    assert f"# auto: {planned.choice.reason}" in planned.settings.to_toml("digits")
    assert planned.members[0].config == config


def test_the_reason_for_all_levels_says_how_many_are_inputs() -> None:
    levels = [f"level {i % 150}" for i in range(900)]
    table = {"a": levels, "y": [i % 7 % 2 for i in range(900)]}
    planned = job.plan(table, {**SETTINGS, "target": "y", "device": "cpu"})
    reason = planned.settings.origin["one_hot_levels"]
    assert f"at most {len(planned.prepared.schema.columns[0].levels)} of a column" in reason


def test_much_work_goes_to_the_gpu(there: list[str]) -> None:
    planned = job.plan("digits", {**SETTINGS, "hidden": (2048, 2048), "steps": 1_000_000})
    assert there == ["auto"]
    config = planned.settings.config
    assert (config.device, config.precision, config.split) == ("cuda:0", "tf32", "rows")
    assert "h" in planned.choice.reason.split(" here")[0]


def test_what_is_predicted_grows_with_the_work(there: list[str]) -> None:
    def both(**more: object) -> tuple[float, float]:
        planned = job.plan("digits", {**SETTINGS, **more})
        return auto.predicted(planned.settings.config, planned.members, threads=2)

    once, twice = both(epochs=10), both(epochs=20)
    assert twice[0] == pytest.approx(2 * once[0])
    assert auto.GPU_START < once[1] < twice[1]
    assert both(epochs=10, hidden=(128,))[0] > once[0]
    assert both(epochs=10, members=3)[0] == pytest.approx(3 * once[0])
    planned = job.plan("digits", {**SETTINGS, "epochs": 10})
    of_four = auto.predicted(planned.settings.config, planned.members, threads=4)
    assert of_four[0] < once[0]
    assert of_four[1] == once[1]


@pytest.mark.parametrize(
    ("flags", "kind", "reason"),
    [
        ({"threads": 1}, "cpu", "--threads is for the CPU"),
        ({"kernels": "numpy"}, "cpu", "--kernels is for the CPU"),
        ({"precision": "tf32"}, "cuda", "asked for"),
        ({"device": "cpu"}, "cpu", "asked for"),
        ({"device": "cuda"}, "cuda", "asked for"),
    ],
)
def test_a_setting_of_one_device_chooses_it(
    there: list[str], flags: dict[str, object], kind: str, reason: str
) -> None:
    planned = job.plan("digits", {**SETTINGS, "epochs": 1, **flags})
    assert (planned.choice.device.kind, planned.choice.reason) == (kind, reason)


def test_a_gpu_that_does_not_start_is_told(
    there: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "resolve", lambda name: Choice(Cpu(), "no CUDA: its own words"))
    planned = job.plan("digits", {**SETTINGS, "hidden": (2048, 2048), "steps": 1_000_000})
    assert (planned.choice.device.kind, planned.choice.reason) == ("cpu", "no CUDA: its own words")


def test_without_a_driver_nothing_is_weighed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "has_driver", lambda: False)
    monkeypatch.setattr(auto, "resolve", lambda name: Choice(Cpu(), "no CUDA here"))
    planned = job.plan("digits", {**SETTINGS, "epochs": 1})
    assert planned.choice.device.kind == "cpu"
    assert planned.choice.reason == "no CUDA here"
    with pytest.raises(UsageError, match="for CUDA"):
        job.plan("digits", {**SETTINGS, "precision": "tf32"})


@pytest.mark.gpu
def test_a_gpu_is_seen_before_it_is_started(gpu: Device) -> None:
    assert has_driver()
    assert gpu.kind == "cuda"
