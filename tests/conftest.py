"""What needs a GPU is skipped with its reason, or fails under --require-gpu."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from gpunet import isolation
from gpunet.device import resolve
from gpunet.errors import Unavailable

settings.register_profile("shared", deadline=None)  # machines are shared: time proves nothing
settings.load_profile("shared")

for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    # In a shell's background it is ignored, and so it would be by all that the tests start.
    if signal.getsignal(number) is signal.SIG_IGN:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-gpu", action="store_true", help="a missing GPU fails the GPU tests")


@pytest.fixture
def gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that is no longer there."""
    if os.name == "nt":
        pytest.skip("Windows keeps a folder that is in use")
    (place := tmp_path / "gone").mkdir()
    monkeypatch.chdir(place)
    place.rmdir()


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are parsed in the tests' own process, but for the tests that mark themselves."""
    marked = request.node.get_closest_marker("isolated") is not None
    monkeypatch.setattr(isolation, "enabled", marked)


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest):
    """The first CUDA device."""
    try:
        return resolve("cuda").device
    except Unavailable as reason:
        if request.config.getoption("--require-gpu"):
            pytest.fail(f"--require-gpu: {reason}")
        pytest.skip(f"no GPU: {reason.message}")


@pytest.fixture(autouse=True)
def unset(request: pytest.FixtureRequest) -> None:
    """A GPU's device is one for all tests: each finds it as it is without settings."""
    if "gpu" in request.fixturenames:
        device = request.getfixturevalue("gpu")
        device.precision, device.deterministic, device.rows_bytes = "fp32", False, None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu"):
            item.fixturenames.insert(0, "gpu")
