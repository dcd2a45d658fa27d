"""The parent's side: one process a contestant, stopped while others run, asked in turn."""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import gpunet
from bench.work import Given

SCRIPTS = Path(__file__).resolve().parent.parent
ANSWER_SECONDS = 900
IDLE = slice(3, 5)
"""Where a line of /proc/stat counts idling, and waiting for a disk."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NPROC",
)
"""NPROC is XLA's."""

PINS = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ATEN_CPU_CAPABILITY",
    "NPY_DISABLE_CPU_FEATURES",
    "XLA_FLAGS",
    "PYTHONDONTWRITEBYTECODE",
)
"""Variables that hold one library, and not another, to older instructions, or have it compiled anew
by every process: nobody gets them."""


class Lost(Exception):
    """A contestant that cannot take part, and why."""


@dataclass
class Result:
    """What a contestant did on one work: seconds of each sample, losses of each epoch.

    foreign: processor seconds that other processes took meanwhile. facts: what it says of itself,
    on a GPU.
    """

    samples: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    foreign: float = 0.0
    compile_seconds: float = 0.0
    peak_bytes: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.samples)

    def add(self, answer: Mapping[str, Any]) -> None:
        self.samples.append(answer["seconds"])
        self.losses.append(answer["loss"])
        self.foreign += max(0.0, answer["busy"] - answer["own"])


def environment(threads: int, folder: Path) -> dict[str, str]:
    """What every process gets: the number of threads, where the code lies, a cold compile cache."""
    home = Path(gpunet.__file__).parent.parent
    path = os.pathsep.join([str(SCRIPTS), str(home), os.environ.get("PYTHONPATH", "")])
    return {
        **{name: value for name, value in os.environ.items() if name not in PINS},
        **dict.fromkeys(THREAD_VARIABLES, str(threads)),
        "PYTHONPATH": path.rstrip(os.pathsep),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def take_cores(threads: int) -> None:
    """Keep this process, and those it starts, to as many cores as threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def busy_seconds() -> float:
    """Processor seconds that all processes have spent on the cores we may use, stolen ones
    included; 0 where that is not told."""
    try:
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        lines = Path("/proc/stat").read_text().splitlines()
    except (OSError, AttributeError):
        return 0.0
    ticks = [list(map(int, line.split()[1:9])) for line in lines if line.split()[0] in cores]
    return sum(sum(each) - sum(each[IDLE]) for each in ticks) / os.sysconf("SC_CLK_TCK")


class Worker:
    """A contestant's process. It is stopped except while it works on a request, so that nobody's
    threads spin beside another's."""

    def __init__(self, name: str, threads: int, device: str, folder: Path) -> None:
        self.name, self.threads, self.device = name, threads, device
        self.words = folder / f"{name}.log"
        with open(self.words, "wb") as words:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env=environment(threads, folder),
            )

    def load(self, given: Given) -> float:
        """Set the work up, and return the seconds of compiling."""
        settings = {"contestant": self.name, "threads": self.threads, "device": self.device}
        return self._ask(do="load", given=given.plain(), **settings)["compile"]

    def run(self, epoch: int) -> dict[str, Any]:
        """Seconds and mean loss of an epoch; processor seconds of its own, and of everyone."""
        before = busy_seconds()
        answer = self._ask(do="run", epoch=epoch)
        return answer | {"busy": busy_seconds() - before}

    def peak(self) -> int:
        return self._ask(do="peak")["bytes"]

    def facts(self) -> dict[str, Any]:
        return self._ask(do="facts")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise Lost(self._last_words()) from None
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise Lost(f"no answer in {ANSWER_SECONDS} s")
        line = self.process.stdout.readline()
        if not line:
            raise Lost(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise Lost(answer["error"])
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def _last_words(self) -> str:
        code = self.process.wait()
        words = self.words.read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "no word")
        return f"ended with {code}: {last[:200]}"


@dataclass
class Crew:
    """Contestants at work together: those that fail are lost, with their reason, and the rest
    goes on."""

    workers: dict[str, Worker]
    lost: dict[str, str] = field(default_factory=dict)

    def each(self, act: Callable[[Worker], Any], names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Have those of `names` that are still there act, one after the other."""
        for name in names:
            if name in self.lost:
                continue
            try:
                yield name, act(self.workers[name])
            except Lost as reason:
                self.lost[name] = str(reason)
                self.workers[name].close()

    def measure(
        self, given: Given, rounds: int, least: int, budget: float, rng: random.Random
    ) -> dict[str, Result]:
        """Load, warm up by an epoch, then up to `rounds` rounds in a fresh order each; no new
        round after `budget` seconds once there are `least`."""
        found = {name: Result() for name in self.workers}
        for name, seconds in self.each(lambda worker: worker.load(given), self.workers):
            found[name].compile_seconds = seconds
        for name, answer in self.each(lambda worker: worker.run(0), self.workers):
            found[name].losses.append(answer["loss"])
        began = time.perf_counter()
        for epoch in range(1, rounds + 1):
            if epoch > least and time.perf_counter() - began > budget:
                break
            shuffled = rng.sample(list(self.workers), len(self.workers))
            for name, answer in self.each(lambda worker, e=epoch: worker.run(e), shuffled):
                found[name].add(answer)
        for name, size in self.each(Worker.peak, self.workers):
            found[name].peak_bytes = size
        found = {name: result for name, result in found.items() if name not in self.lost}
        on_gpu = [name for name in found if self.workers[name].device != "cpu"]
        for name, facts in self.each(Worker.facts, on_gpu):
            found[name].facts = facts
        return found


@contextmanager
def crew(names: Iterable[str], threads: int, device: str, folder: Path) -> Iterator[Crew]:
    """Processes for `names`; ended on the way out."""
    workers: dict[str, Worker] = {}
    try:
        for name in names:
            workers[name] = Worker(name, threads, device, folder)
        yield Crew(workers)
    finally:
        for worker in workers.values():
            worker.close()
