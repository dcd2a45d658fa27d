"""What the README shows is what happens."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpunet import errors
from gpunet.cli import _run

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    checks = "\nassert multiply.forward(3.0, -4.0) == -12\nassert multiply.backward(1.0) == (-4, 3)"
    judged = "ignore::gpunet.errors.GpunetWarning"  # 52 test rows tell little
    run = [sys.executable, "-P", "-W", "error", "-W", judged, "-c", code + checks]
    subprocess.run(run, cwd=tmp_path, check=True)


def test_the_circuit_of_the_readme_is_printed_so(capsys: pytest.CaptureFixture[str]) -> None:
    ((command, shown),) = re.findall(r"```console\n\$ gpunet (.*?)\n(.*?)```", README, re.DOTALL)
    assert _run(shlex.split(command)) == 0
    assert capsys.readouterr().out.strip() == shown.strip()


def test_the_commands_of_the_readme_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    for words in re.findall(r"^gpunet ([a-z]+(?: (?:list|show))?)", blocks, re.MULTILINE):
        assert _run([*words.split(), "--help"]) == 0
    capsys.readouterr()


def test_the_exit_codes_of_the_readme_are_those_of_the_errors() -> None:
    told = {int(code) for code in re.findall(r"\| (\d+) \|", README)}
    own = {each.exit_code for each in errors.GpunetError.__subclasses__()}
    assert told == own | {0, 1, 128 + signal.SIGHUP, 128 + signal.SIGTERM}
