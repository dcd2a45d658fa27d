"""The long form of the survival tests: kills, failing system calls, flipped bits, signals.

    python scripts/faults.py [--quick] [--only kills,calls,flips,signals] [--json PATH]

Every run that was disturbed is resumed until it is done, and must then hold the bytes of one that
never was: model, metrics and predictions. Exit 6 when anything differs. `calls` wants strace.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from gpunet.errors import ModelInvalid
from gpunet.run import checkpoints
from gpunet.run.tensors import parse

COMMAND = [sys.executable, "-P", "-m", "gpunet"]
DATA = ["digits", "--patience", "0", "-d", "cpu", "-q", "--seed", "3"]
VARIANTS = [
    ["--epochs", "40", "--checkpoint-every", "20"],
    ["--epochs", "40", "--checkpoint-every", "0.05s", "--dropout", "0.2", "--norm", "batch"],
    ["--epochs", "25", "--checkpoint-every", "7", "--kernels", "numpy", "--clip-norm", "1"],
    ["--epochs", "40", "--checkpoint-every", "50", "--schedule", "plateau", "--lr", "0.02"],
]
CALLS = ("write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "pwrite64")
FAULTS = ("signal=KILL", "error=ENOSPC", "error=EIO")


@dataclass
class Found:
    """What a campaign did, and what went wrong, in words."""

    what: str
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def gpunet(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*prefix, *COMMAND, *arguments], **pipes)  # type: ignore[call-overload]


def begin_or_go_on(run: Path, variant: list[str], prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    if (run / "run.json").exists():
        return gpunet("resume", str(run), "-q", prefix=prefix)
    return gpunet("train", *DATA, *variant, "-o", str(run), prefix=prefix)


def to_the_end(run: Path, variant: list[str]) -> str:
    """Go on until the run is done; what went wrong, if anything did."""
    for _ in range(3):
        going = begin_or_go_on(run, variant)
        _, err = going.communicate(timeout=300)
        if going.returncode == 0:
            return ""
    return f"{run.name}: exit {going.returncode}: {err.strip()[-200:]}"


def results(run: Path) -> tuple[bytes, ...]:
    predictions = run.with_suffix(".csv")
    gpunet("predict", str(run), "digits", "-o", str(predictions)).communicate(timeout=60)
    places = (run / "model.safetensors", run / "metrics.jsonl", predictions)
    return tuple(place.read_bytes() for place in places)


def torn(run: Path) -> list[str]:
    """Visible checkpoints that cannot be read."""
    found = []
    for each in checkpoints(run):
        try:
            parse(each.read_bytes(), each.name)
        except ModelInvalid as reason:
            found.append(str(reason))
    return found


class Campaign:
    """Undisturbed runs of every variant, to compare with, in a directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.whole = folder, []
        for i, variant in enumerate(VARIANTS):
            run = folder / f"whole-{i}"
            assert to_the_end(run, variant) == ""
            self.whole.append(results(run))

    def judge(self, run: Path, which: int) -> list[str]:
        wrong = [w for w in (to_the_end(run, VARIANTS[which]),) if w]
        if not wrong and results(run) != self.whole[which]:
            wrong.append(f"{run.name}: other bytes than an undisturbed run")
        shutil.rmtree(run, ignore_errors=True)
        return wrong

    def kills(self, found: Found, count: int) -> None:
        """SIGKILL at random instants, several to a run."""

        def one(number: int) -> tuple[int, list[str]]:
            rng, which, killed, wrong = random.Random(number), number % len(VARIANTS), 0, []
            run = self.folder / f"kill-{number}"
            for _ in range(rng.randint(2, 6)):
                going = begin_or_go_on(run, VARIANTS[which])
                try:
                    going.communicate(timeout=rng.uniform(0.1, 1.6))
                    break
                except subprocess.TimeoutExpired:
                    going.kill()
                    going.communicate()
                    killed += 1
                wrong += torn(run)
            return killed, [*wrong, *self.judge(run, which)]

        with ThreadPoolExecutor(2) as pool:
            number = 0
            while found.count < count:
                for killed, wrong in pool.map(one, range(number, number + 8)):
                    found.count += killed
                    found.wrong += wrong
                number += 8

    def calls(self, found: Found, stride: int) -> None:
        """Every write-type system call of a run killed, or failed, once."""
        if shutil.which("strace") is None:
            found.wrong.append("strace is not installed")
            return
        jobs = [(call, fault) for call in CALLS for fault in FAULTS]

        def one(job: tuple[str, str]) -> tuple[int, list[str]]:
            (call, fault), done, wrong = job, 0, []
            for number in range(1, 2000, stride):
                run = self.folder / f"call-{call}-{fault.split('=')[1]}-{number}"
                inject = f"inject={call}:{fault}:when={number}"
                prefix = ("strace", "-qq", "-o", f"{run}.log", "-e", f"trace={call}", "-e", inject)
                going = begin_or_go_on(run, VARIANTS[0], prefix)
                _, err = going.communicate(timeout=120)
                if "INJECTED" not in Path(f"{run}.log").read_text() and "KILL" not in fault:
                    shutil.rmtree(run, ignore_errors=True)
                    break
                if "KILL" in fault and going.returncode == 0:
                    shutil.rmtree(run, ignore_errors=True)
                    break
                if "Traceback" in err or going.returncode == 1:
                    wrong.append(f"{run.name}: exit {going.returncode}: {err[-200:]}")
                wrong += [*torn(run), *self.judge(run, 0)]
                done += 1
            return done, wrong

        with ThreadPoolExecutor(2) as pool:
            for done, wrong in pool.map(one, jobs):
                found.count += done
                found.wrong += wrong

    def signals(self, found: Found, count: int) -> None:
        """SIGINT and SIGTERM at random instants from the start to the end."""
        rng = random.Random(1)
        for number in range(count):
            for kind in (signal.SIGINT, signal.SIGTERM):
                run = self.folder / f"signal-{number}-{kind.name}"
                going = begin_or_go_on(run, VARIANTS[0])
                time.sleep(rng.uniform(0.05, 1.6))
                going.send_signal(kind)
                _, err = going.communicate(timeout=60)
                allowed = {0, 128 + kind, -kind}
                if going.returncode not in allowed or "Traceback" in err:
                    found.wrong.append(f"{run.name}: exit {going.returncode}: {err[-200:]}")
                found.wrong += [*torn(run), *self.judge(run, 0)]
                found.count += 1

    def flips(self, found: Found, count: int) -> None:
        """Bits of a checkpoint and a model flipped, and files cut at every byte."""
        run, rng = self.folder / "small", random.Random(2)
        tiny = ["train", "penguins", "--hidden", "12", "--epochs", "4", "-d", "cpu", "-q"]
        gpunet(*tiny, "-o", str(run)).communicate(timeout=60)
        contents = [checkpoints(run)[0].read_bytes(), (run / "model.safetensors").read_bytes()]
        bits = [(i, bit) for i, each in enumerate(contents) for bit in range(8 * len(each))]
        for i, bit in bits if count >= len(bits) else rng.sample(bits, count):
            damaged = bytearray(contents[i])
            damaged[bit // 8] ^= 1 << bit % 8
            found.wrong += _accepted(bytes(damaged), f"file {i}, bit {bit}")
            found.count += 1
        for i, content in enumerate(contents):
            for size in range(0, len(content), 1 if count >= len(bits) else 50):
                found.wrong += _accepted(content[:size], f"file {i}, {size} bytes")
                found.count += 1


def _accepted(content: bytes, what: str) -> list[str]:
    try:
        parse(content, what)
    except ModelInvalid:
        return []
    return [f"{what}: was accepted"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--only", default="kills,calls,flips,signals")
    arguments.add_argument("--kills", type=int, default=1000)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    quick, every = given.quick, []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder))
        campaigns: dict[str, Callable[[Found], None]] = {
            "kills": lambda found: campaign.kills(found, 20 if quick else given.kills),
            "calls": lambda found: campaign.calls(found, 15 if quick else 1),
            "flips": lambda found: campaign.flips(found, 5_000 if quick else 10**9),
            "signals": lambda found: campaign.signals(found, 4 if quick else 50),
        }
        for name in given.only.split(","):
            began, found = time.perf_counter(), Found(name)
            with suppress(KeyboardInterrupt):  # what was found so far counts
                campaigns[name](found)
            found.seconds = time.perf_counter() - began
            every.append(found)
            print(f"{name:8} {found.count:9,} {len(found.wrong):4} wrong {found.seconds:8.1f} s")
            for wrong in found.wrong[:10]:
                print(f"  {wrong}")
            sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps([asdict(each) for each in every], indent=2) + "\n")
    return 6 if any(found.wrong for found in every) else 0


if __name__ == "__main__":
    sys.exit(main())
