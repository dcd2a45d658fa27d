"""The memory that data may take."""

from pathlib import Path

import pytest

from gpunet.data import limits
from gpunet.errors import OutOfMemory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A machine with 64 GiB, and cgroups that the test makes."""
    monkeypatch.setattr(limits, "_physical", lambda: 64 << 30)
    monkeypatch.setattr(limits, "_process_limits", list)
    monkeypatch.setattr(limits, "CGROUPS", tmp_path)
    text = {"groups": ""}
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path: text["groups"] if str(path) == "/proc/self/cgroup" else read(path),
    )

    def group(lines: str, **files: str) -> None:
        text["groups"] = lines
        for name, content in files.items():
            path = tmp_path / name.replace("__", "/").replace("_max", ".max")
            path = path.with_name(path.name.replace("_limit", ".limit"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return group


def test_without_limits_it_is_the_machines(machine) -> None:
    assert limits.available() == 64 << 30
    assert limits.automatic() == 32 << 30


def test_the_least_limit_of_a_cgroup_and_those_above_it_counts(machine) -> None:
    machine("0::/a/b\n", a__memory_max=f"{2 << 30}\n", a__b__memory_max="max\n")
    assert limits.available() == 2 << 30


def test_cgroups_of_the_first_version(machine) -> None:
    machine("5:cpu:/x\n4:memory:/job\n", memory__job__memory_limit_in_bytes=f"{3 << 30}\n")
    assert limits.available() == 3 << 30


def test_a_container_that_sees_its_own_group_as_the_root(machine) -> None:
    machine("0::/not/mounted/here\n", memory_max=f"{1 << 30}\n")
    assert limits.available() == 1 << 30


def test_a_limit_on_the_address_space_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1 << 29, -1))
    assert limits.available() == 1 << 29


def test_what_does_not_fit_names_both_numbers_and_the_flag() -> None:
    limits.check_fits("t.npz", 100, 100)
    wanted = r"t.npz: needs 2\.0 GiB; --max-memory allows 1\.0 KiB; pack it, or raise --max-memory"
    with pytest.raises(OutOfMemory, match=wanted) as caught:
        limits.check_fits("t.npz", 2 << 30, 1024, "pack it")
    assert caught.value.exit_code == 71
