"""The check of a GPU in one call: every part is run and told, and one that fails is seen."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
KERNELS = SCRIPTS.parent / "gpunet" / "kernels"
STUB = r"""#!/bin/sh
case "$*" in
  *gpu_table.py*) exec {python} "$@" ;;
  *version*) exit 1 ;;
  *-m\ pip*) echo "installed: $*" ;;
  *-m\ pytest*) echo "tests: $PYTEST_ADDOPTS $*"; echo "3 failed, 2 passed"; exit {code} ;;
  *info*--bench*) echo '{{"bench": {{}}}}' ;;
  *agree.py*) exec sleep {sleep} ;;
  *) echo "ran: $*" ;;
esac
"""
AGREED = [
    {"case": "a", "precision": "fp32", "worst": 1e-5, "holds": True},
    {"case": "b", "precision": "fp32", "worst": None, "holds": False},
    {"case": "a", "precision": "tf32", "worst": 2e-3, "holds": True},
]


def check(
    tmp_path: Path, code: int = 0, sleep: int = 0, **limits: str
) -> subprocess.CompletedProcess[str]:
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable, code=code, sleep=sleep))
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "tomli_w-1.0-py3-none-any.whl").touch()
    more = {"PYTHON": stub, "OUT": tmp_path / "out", "WHEELS": tmp_path / "wheels"}
    env = {**os.environ, **{name: str(each) for name, each in more.items()}, "LIMITS": "9 9 9 9"}
    env |= {"PYTEST_ADDOPTS": "--theirs", **limits}
    command = ["bash", str(SCRIPTS / "gpu_check.sh")]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def table(shown: str) -> dict[str, str]:
    lines = shown.partition("== gpu check\n")[2].splitlines()
    return {line.split()[0]: line for line in lines if not line.startswith(" ")}


def test_every_part_is_run_and_told(tmp_path: Path) -> None:
    built = {each: each.stat().st_mtime_ns for each in KERNELS.glob("_native*")}
    done = check(tmp_path)
    assert built == {each: each.stat().st_mtime_ns for each in KERNELS.glob("_native*")}
    assert "no native kernels" in done.stdout  # the stub builds none
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installed:" in done.stdout
    assert "tomli_w-1.0" in done.stdout
    found = table(done.stdout)
    assert found.keys() == {"device", "tests", "agreement", "speed", "benchmark", "all"}
    assert "ok" in found["tests"]
    assert "2 passed" in found["tests"]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("tests: "))
    assert re.match(r"tests: -n \d+ --theirs ", line)  # the stub says that pytest-xdist is there
    files = [each for each in line.split() if each.endswith(".py")]
    assert files[0] == "tests/test_persistent.py"
    assert {*files} == {f"tests/{each.name}" for each in Path(__file__).parent.glob("test_*.py")}
    assert "scripts/bench.py --device cuda --quick" in found["benchmark"]
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == {"bench": {}}


@pytest.mark.parametrize("limits", [{"LIMITS": "9 1 9 9"}, {"MOST": "0"}], ids=str)
def test_what_fails_or_takes_too_long_is_seen(tmp_path: Path, limits: dict[str, str]) -> None:
    """A part by itself, or all of them."""
    done = check(tmp_path, code=1, sleep=5, **limits)
    assert done.returncode == 6
    found = table(done.stdout)
    assert "exit 1" in found["tests"]
    assert "over 1 s" in found["agreement"]
    assert found["failed:"] == "failed: tests, agreement"


def test_the_figures_of_the_table(tmp_path: Path) -> None:
    logs, results = tmp_path / "logs", tmp_path / "results"
    logs.mkdir()
    results.mkdir()
    (tmp_path / "stages").write_text("agreement\t6\t9\t90\nspeed\t0\t9\t30\nbenchmark\t0\t9\t90\n")
    (results / "agreement.json").write_text(json.dumps({"cases": AGREED}))
    speed = {"copied": 3e12, "products": {"tf32": 4e14}, "call": 3e-6, "within": 1e-6}
    speed["sent"] = 25e9
    (results / "speed.json").write_text(json.dumps({"bench": {"cuda:0": speed}}))
    medians = {"gpunet": 1.0, "torch-graph": 3.0, "jax": 4.0, "products-graph": 0.5}
    contestants = {name: {"median": each, "agrees": True} for name, each in medians.items()}
    contestants["jax"]["agrees"] = False
    facts = {"branches": {"32": [9e-4, 8e-4]}, "runs_on": "CUDA graphs, two branches"}
    contestants["gpunet"] |= facts
    row = {"name": "lecture", "steps": 1000, "contestants": contestants, "left_out": {}}
    lost = {"name": "wide", "steps": 1, "contestants": {}, "left_out": {"gpunet": "no word of it"}}
    images = {"epochs": 20, "loop": {"median": 0.5}, "wall": {"median": 4.0}}
    (results / "cuda.json").write_text(json.dumps({"rows": [row, lost], "images": images}))
    command = [sys.executable, str(SCRIPTS / "gpu_table.py"), tmp_path / "stages", logs, results]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 6
    for words in (
        "fp32: 1 of 2 hold, worst not finite (b)",
        "tf32: 1 of 1 hold, worst 2.0e-03 (a)",
        "copies 3,000 GB/s, 25 from the host, tf32 400 TFLOP/s",
        "lecture: 1,000 µs a step, best peer 3.00 times that (torch-graph), 2.00 × products-graph",
        "in graphs of 32 900 and in two branches 800, on CUDA graphs, two branches",
        "losses differ: jax",
        "wide: gpunet left out: no word of it",
        "images, 20 epochs: 0.5 s of 4 s in the loop",
        "failed: agreement",
    ):
        assert words in done.stdout, done.stdout
