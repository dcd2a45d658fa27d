#!/usr/bin/env python3
"""The long form of the survival tests, and what survival costs.

    python scripts/faults.py [--quick] [--only NAME,NAME,…] [--jobs N] [--json PATH]

kills: SIGKILL at random instants. calls: every write-type system call killed or failed (wants
strace). power: states that a power cut may leave. flips: bits flipped, files cut. signals: SIGINT
and SIGTERM at random instants. hostile: files that attack a reader. fuzz: mutated input for
gpunet's own parsers. cost: the time that checkpoints, records and the hash chain take. reading:
what it costs that files are parsed in a process of their own.

Every run that was disturbed is resumed until it is done, and must then hold the bytes of one that
never was: model, metrics and predictions. Exit 6 when anything is wrong. Ctrl-C ends it after what
is in hand; what was found so far is printed and written. Campaigns that stand in PATH and were not
asked for stay there.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import fuzz
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import corpora
import power

from gpunet import about, job, load, loop
from gpunet.device.cpu import Cpu
from gpunet.errors import ModelInvalid
from gpunet.run import checkpoints
from gpunet.run.tensors import parse

COMMAND = [sys.executable, "-P", "-m", "gpunet"]
ALWAYS = "--patience 0 -d cpu -q --seed 3".split()
VARIANTS = [
    each.split()
    for each in (
        "digits --epochs 40 --checkpoint-every 20",
        "digits --epochs 40 --checkpoint-every 0.05s --dropout 0.2 --norm batch",
        "digits --epochs 25 --checkpoint-every 7 --kernels numpy --clip-norm 1",
        "digits --epochs 40 --checkpoint-every 50 --schedule plateau --lr 0.02",
        "table.csv -t y --epochs 60 --checkpoint-every 20",
        "digits --epochs 3 --checkpoint-every 40",
    )
]
FROM_A_FILE, SHORT = 4, 5
CALLS = ("open", "write", "fsync", "rename", "unlink", "mkdir", "ftruncate", "pwrite64")
FAULTS = {"signal=KILL": -signal.SIGKILL, "error=ENOSPC": 74, "error=EIO": 74}
"""What is done to a call, and the exit code of a run that could not do without it."""
MARK = "GPUNET_FAULTS_RUN"
CHUNK, WHOLE = 2_000, "model-state"
ALL = ("kills", "calls", "power", "flips", "signals", "hostile", "fuzz", "cost", "reading")
LIMIT = 0.02
"""Of a run's time, what may go into its directory and the hash chain."""
READ = """
import sys
from gpunet import isolation
from gpunet.data import read
isolation.enabled = sys.argv[1] == "apart"
read(sys.argv[2])
"""
SECONDS, SHARE = 0.2, 0.05
"""What the reading process may cost: of a small file, and of a large one."""
DURABLE = (
    *((loop._Run, name) for name in ("_link", "_keep")),
    *((job.Job, name) for name in ("begin", "_note", "_status", "_save_model")),
)
EPOCHS_TRIED = 4
PATIENCE = 600
"""Seconds after which a process hangs, on a machine that has other work."""
ADDING = threading.Lock()
SCHEMA = "gpunet.faults/1"


@dataclass
class Found:
    """What a campaign did, and what went wrong, in words; `facts` are its figures."""

    what: str
    quick: bool = False
    began: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    count: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, count: int, wrong: Iterable[str], **figures: int) -> None:
        with ADDING:
            self.count += count
            self.wrong += wrong
            for name, more in figures.items():
                self.facts[name] = self.facts.get(name, 0) + more

    def show(self) -> None:
        facts = "".join(f"  {name} {value:,.4g}" for name, value in self.facts.items())
        wrong = f"{len(self.wrong):4} wrong"
        print(f"{self.what:8} {self.count:9,} {wrong} {self.seconds:8.1f} s{facts}")
        for each in self.wrong[:10]:
            print(f"  {each}")
        sys.stdout.flush()


def gpunet(*arguments: str, mark: Path, prefix: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """A process that Ctrl-C does not reach, and that `left_behind` knows, with all of its own."""
    return subprocess.Popen(
        [*prefix, *COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: str(mark)},
        cwd=mark.parent,
    )


def left_behind(run: Path) -> list[str]:
    """Processes of a run that are still there a while after its end."""
    mark, limit = f"{MARK}={run}\0".encode(), time.monotonic() + 20
    while time.monotonic() < limit:
        found = []
        for each in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                found += [each.parent.name] if mark in each.read_bytes() else []
        if not found:
            return []
        time.sleep(0.05)
    return [f"{run.name}: processes left: {', '.join(found)}"]


def begin_or_go_on(run: Path, variant: list[str], prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    if (run / "run.json").exists():
        return gpunet("resume", str(run), "-q", mark=run, prefix=prefix)
    return gpunet("train", *variant, *ALWAYS, "-o", str(run), mark=run, prefix=prefix)


def to_the_end(run: Path, variant: list[str]) -> str:
    """Go on until the run is done; what went wrong, if anything did."""
    for _ in range(3):
        going = begin_or_go_on(run, variant)
        _, err = going.communicate(timeout=PATIENCE)
        if going.returncode == 0:
            return ""
    return f"{run.name}: exit {going.returncode}: {err.strip()[-200:]}"


def results(run: Path, data: str) -> tuple[bytes, ...]:
    """Model, metrics and predictions; these are made in place, where most of a process would be
    its beginning."""
    source = run.parent / data if data.endswith(".csv") else data
    places = (run / "model.safetensors", run / "metrics.jsonl")
    return (
        *(place.read_bytes() for place in places),
        load(run).predict(source, proba=True).tobytes(),
    )


def torn(run: Path) -> list[str]:
    """Visible checkpoints that cannot be read."""
    found = []
    for each in checkpoints(run):
        try:
            parse(each.read_bytes(), each.name)
        except ModelInvalid as reason:
            found.append(str(reason))
    return found


def spread(pool: Executor, work: Callable[..., Any], items: Iterable[Any]) -> Iterable[Any]:
    """What `work` makes of each item, as it comes; an interruption waits for what is in hand."""
    try:
        for done in as_completed([pool.submit(work, item) for item in items]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


class Campaign:
    """Everything that is done to runs, in a directory of its own."""

    def __init__(self, folder: Path, jobs: int, seed: int) -> None:
        self.folder, self.jobs, self.seed, self.stopped = folder, jobs, seed, False
        self.took: list[float] = []

    @cached_property
    def whole(self) -> list[tuple[bytes, ...]]:
        """Undisturbed runs of every variant, to compare with."""
        rows = np.random.default_rng(0).standard_normal((1500, 6))
        table = np.column_stack([rows, rows[:, 0] * rows[:, 1] > 0])
        head = "a,b,c,d,e,f,y"
        np.savetxt(self.folder / "table.csv", table, "%.4f", ",", header=head, comments="")
        found = []
        for i, variant in enumerate(VARIANTS):
            run, began = self.folder / f"whole-{i}", time.perf_counter()
            assert to_the_end(run, variant) == ""
            self.took.append(time.perf_counter() - began)
            found.append(results(run, variant[0]))
        return found

    def judge(self, run: Path, which: int) -> list[str]:
        wrong = [*left_behind(run), *torn(run)]
        if failed := to_the_end(run, VARIANTS[which]):
            wrong.append(failed)
        elif results(run, VARIANTS[which][0]) != self.whole[which]:
            wrong.append(f"{run.name}: other bytes than an undisturbed run")
        shutil.rmtree(run, ignore_errors=True)
        return wrong

    def in_turn(self, found: Found, work: Callable[..., None], items: Iterable[Any]) -> None:
        """Do `work(found, item)` for each item, `jobs` at a time."""
        assert self.whole
        try:
            for _ in spread(ThreadPoolExecutor(self.jobs), lambda item: work(found, item), items):
                pass
        except KeyboardInterrupt:
            self.stopped = True
            raise

    def kills(self, found: Found, count: int) -> None:
        """SIGKILL at random instants, several to a run, until there were so many."""
        self.in_turn(found, lambda found, number: self._kill(found, number, count), range(count))

    def _kill(self, found: Found, number: int, count: int) -> None:
        if found.count >= count:
            return
        rng, which = random.Random(f"{self.seed}/{number}"), number % SHORT
        killed, wrong = 0, list[str]()
        run, saved = self.folder / f"kill-{number}", 0
        for _ in range(rng.randint(4, 12)):
            going = begin_or_go_on(run, VARIANTS[which])
            try:
                going.communicate(timeout=rng.uniform(0.1, 1.2 * self.took[which]))
                break
            except subprocess.TimeoutExpired:
                going.kill()
                going.communicate()
                killed += 1
                saved += bool(checkpoints(run))
            wrong += [*left_behind(run), *torn(run)]
        wrong += self.judge(run, which)
        found.add(killed, wrong, runs=1, killed_with_checkpoints=saved)

    def calls(self, found: Found, stride: int) -> None:
        """Every write-type system call of a run killed, or failed, once."""
        if shutil.which("strace") is None:
            found.wrong.append("strace is not installed")
            return
        jobs = [
            (call, fault, number)
            for call in CALLS
            for number in self._numbers(call)[::stride]
            for fault in FAULTS
        ]
        self.in_turn(found, self._fail, jobs)

    def _fail(self, found: Found, job: tuple[str, str, int]) -> None:
        call, fault, number = job
        run = self.folder / f"call-{call}-{fault.split('=')[1]}-{number}"
        log, code, err = self._traced(run, call, f"inject=/^{call}:{fault}:when={number}")
        wrong = []
        if "INJECTED" not in log and code != -signal.SIGKILL:
            wrong.append(f"{run.name}: there was no such call")
        if code not in {0, FAULTS[fault]} or "Traceback" in err:
            wrong.append(f"{run.name}: exit {code}: {err[-200:]}")
        found.add(1, [*wrong, *self.judge(run, SHORT)], **{call: 1, f"exit {code}": 1})

    def _numbers(self, call: str) -> list[int]:
        """Which calls of a kind a run makes; of those that open a file, which may make one."""
        log, _, _ = self._traced(run := self.folder / f"calls-{call}", call)
        shutil.rmtree(run)
        first = log.split(maxsplit=1)[0]  # other threads have counts of their own
        made = [line for line in log.splitlines() if re.match(rf"{first} +{call}", line)]
        return [i for i, line in enumerate(made, 1) if call != "open" or "CREAT" in line]

    def _traced(self, run: Path, call: str, *more: str) -> tuple[str, int, str]:
        """A run under strace: its log, exit code, and what it said on stderr."""
        log = run.with_suffix(".log")
        told = [part for each in (f"trace=/^{call}", *more) for part in ("-e", each)]
        prefix = ("strace", "-f", "-qq", "-o", str(log), *told)
        going = begin_or_go_on(run, VARIANTS[SHORT], prefix)
        _, err = going.communicate(timeout=PATIENCE)
        text = log.read_text(errors="replace")
        log.unlink()
        return text, going.returncode, err

    def signals(self, found: Found, count: int) -> None:
        """SIGINT and SIGTERM at random instants from the start to the end."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what "&" starts ignores it
        kinds = (signal.SIGINT, signal.SIGTERM)
        self.in_turn(found, self._stop, [(kind, i) for i in range(count) for kind in kinds])
        for kind in kinds:
            if f"{kind.name} exit {128 + kind}" not in found.facts:
                found.wrong.append(f"no run was stopped by {kind.name}")

    def _stop(self, found: Found, job: tuple[signal.Signals, int]) -> None:
        kind, number = job
        which = 0 if number % 4 else FROM_A_FILE
        run = self.folder / f"signal-{number}-{kind.name}"
        going = begin_or_go_on(run, VARIANTS[which])
        rng = random.Random(f"{self.seed}/{kind}/{number}")
        time.sleep(rng.uniform(0.05, 1.2 * self.took[which]))
        going.send_signal(kind)
        _, err = going.communicate(timeout=PATIENCE)
        fine = going.returncode in {0, 128 + kind, -kind} and "Traceback" not in err
        wrong = [] if fine else [f"{run.name}: exit {going.returncode}: {err[-200:]}"]
        saved, code = bool(checkpoints(run)), f"{kind.name} exit {going.returncode}"
        found.add(1, [*wrong, *self.judge(run, which)], **{code: 1, "with_checkpoints": saved})

    def power(self, found: Found) -> None:
        """Every state that a power cut may leave; and that a step less in the protocol is seen."""
        for mutant in ("", *power.MUTANTS):
            path = self.folder / f"power {mutant}"
            judged = power.judge(power.record(path, mutant))
            faults = judged.torn + judged.lost
            if bool(faults) != bool(mutant):
                found.wrong.append(f"{mutant}: {judged.torn} torn, {judged.lost} lost")
            found.facts |= {f"{mutant}: torn or lost": faults} if mutant else {}
            found.count += 0 if mutant else judged.states

    def flips(self, found: Found, count: int) -> None:
        """Bits of a checkpoint and a model flipped, all if `count` allows; files cut at a byte."""
        run, rng = self.folder / "small", random.Random(self.seed)
        tiny = "train penguins --preset plain --hidden 16 --epochs 4 -d cpu -q --seed".split()
        training = gpunet(*tiny, str(self.seed), "-o", str(run), mark=run)
        training.communicate(timeout=PATIENCE)
        contents = [checkpoints(run)[0].read_bytes(), (run / "model.safetensors").read_bytes()]
        bits = [(i, bit) for i, each in enumerate(contents) for bit in range(8 * len(each))]
        for i, bit in bits if count >= len(bits) else rng.sample(bits, count):
            damaged = bytearray(contents[i])
            damaged[bit // 8] ^= 1 << bit % 8
            found.add(1, _accepted(bytes(damaged), f"file {i}, bit {bit}"), flipped=1)
        for i, content in enumerate(contents):
            for size in range(0, len(content), 1 if count >= len(bits) else 50):
                found.add(1, _accepted(content[:size], f"file {i}, {size} bytes"), cut=1)
        found.facts["of_bits"] = len(bits)

    def hostile(self, found: Found, stride: int) -> None:
        """Files that attack a reader, each through every command that reads it."""
        (place := self.folder / "hostile").mkdir()
        (trained := self.folder / "trained").mkdir()
        for each in corpora.run_all(place, *corpora.trained(trained), stride):
            what = f"{each.case}: {' '.join(each.command)}"
            found.add(1, [f"{what}: {fault}" for fault in each.faults])
            for name, value in (("slowest_s", each.seconds), ("most_bytes", each.peak)):
                found.facts[name] = max(value, found.facts.get(name, 0))

    def fuzz(self, found: Found, executions: int) -> None:
        """Mutated input for each of gpunet's own parsers; a fifth of it for whole models, of which
        each takes milliseconds."""
        most = {name: executions // 5 if name == WHOLE else executions for name in fuzz.TARGETS}
        chunks = [
            (name, self.seed, first, min(most[name], first + CHUNK))
            for first in range(0, executions, CHUNK)
            for name in fuzz.TARGETS
            if first < most[name]
        ]
        pool = ProcessPoolExecutor(self.jobs, initializer=_begin_fuzzing)
        for name, count, wrong in spread(pool, _fuzzed, chunks):
            found.add(count, wrong, **{name: count})

    def cost(self, found: Found, seconds: float, pairs: int, limit: float) -> None:
        """Pairs of a training with a run directory and a hash chain, and one with neither: of
        50,000 rows, and for a third of the time of 1,348, of which an epoch takes milliseconds.

        ratio: of the medians of seconds; cpu: the median of the pairs' ratios of processor time;
        share: of a run's seconds, those that went into what is durable, counted there. The last
        is judged: other processes slow all of a run alike, but hardly two runs.
        """
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((50_000, 30)).astype(np.float32), rng.integers(0, 2, 50_000)
        self._compare(found, "", rows, seconds, pairs)
        self._compare(found, "short epochs: ", "digits", seconds / 3, pairs)
        if found.facts["share"] > limit:
            found.wrong.append(f"{found.facts['share']:.1%} of a run is spent on what is durable")

    def reading(self, found: Found, size: int, pairs: int, share: float) -> None:
        """Pairs of a file read in a process of its own, and in place: a small CSV file, for the
        seconds that the process takes, and one of `size` bytes, for its share of all the time;
        the processor's time stands beside it."""
        rows = [f"{i % 97},{i / 7:.6f},{i % 2}\n".encode() for i in range(50_000)]
        times = size // sum(map(len, rows))
        for name, blocks, most in (("small", 0, SECONDS), ("large", times, share)):
            path = self.folder / f"{name}.csv"
            with path.open("wb") as file:
                file.writelines([b"a,b,y\n", *rows[:1_000], *[b"".join(rows)] * blocks])
            took: dict[str, list[tuple[float, float]]] = {"apart": [], "here": []}
            for pair in range(pairs):
                for way in sorted(took, reverse=bool(pair % 2)):
                    took[way].append(_read(path, way))
            found.facts[f"{name}_bytes"] = path.stat().st_size
            path.unlink()
            apart, here = map(np.array, took.values())
            more = (apart - here) / (here if blocks else 1)
            cpu, wall = np.median(more, axis=0).tolist()
            found.add(pairs, [f"{name}: {wall:.3f}"] if wall > most else [])
            found.facts |= {f"{name}_cpu": cpu, f"{name}_wall": wall}
            found.facts[f"{name}_s"] = float(np.median(here[:, 1]))

    def _compare(self, found: Found, what: str, source: Any, seconds: float, pairs: int) -> None:
        self._train(source, EPOCHS_TRIED, durable=False)
        tried = self._train(source, EPOCHS_TRIED, durable=False)
        epochs = max(1, int(EPOCHS_TRIED * seconds / min(tried.seconds, tried.cpu)))
        took: dict[bool, list[Took]] = {True: [], False: []}
        for pair in range(pairs):
            for durable in (True, False) if pair % 2 else (False, True):
                took[durable].append(self._train(source, epochs, durable))
            found.add(1, [])
            whole, bare = (median(t.seconds for t in took[durable]) for durable in (True, False))
            cpu = [one.cpu / two.cpu for one, two in zip(took[True], took[False], strict=True)]
            facts = {
                "ratio": whole / bare,
                "cpu": median(cpu),
                "share": median(t.durable / t.seconds for t in took[True]),
                "ms": 1e3 * median(t.durable for t in took[True]),
                "s": whole,
                "epochs": epochs,
            }
            found.facts |= {f"{what}{name}": value for name, value in facts.items()}

    def _train(self, source: Any, epochs: int, durable: bool) -> "Took":
        """What a training took."""
        out = self.folder / "cost"
        settings = {"hidden": (256, 128), "epochs": epochs, "patience": 0, "device": "cpu"}
        with _timed(durable) as spent:
            began, used = time.perf_counter(), time.process_time()
            job.train(source, **({"out": out} if durable else {}), **settings)
            took = Took(time.perf_counter() - began, time.process_time() - used, sum(spent))
        shutil.rmtree(out, ignore_errors=True)
        return took


@dataclass(frozen=True)
class Took:
    """Seconds of a training, of the processor, and those that went into what is durable."""

    seconds: float
    cpu: float
    durable: float


@contextmanager
def _timed(durable: bool) -> Iterator[list[float]]:
    """The seconds of each call of what is durable, not counted twice; else there is no chain."""
    spent: list[float] = []
    inside: list[str] = []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*given: Any, **more: Any) -> Any:
            began = time.perf_counter()
            inside.append("")
            try:
                return call(*given, **more)
            finally:
                inside.pop()
                spent.extend([] if inside else [time.perf_counter() - began])

        return wrapper

    kept = [(owner, name, getattr(owner, name)) for owner, name in DURABLE]
    for owner, name, call in kept:
        setattr(owner, name, timed(call))
    if not durable:
        loop._Run._link = lambda run: None  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)


def _read(path: Path, way: str) -> tuple[float, float]:
    """Seconds of the processor, and all of them, that reading a file takes, with its Python's."""
    measured = [sys.executable, "-I", "-S", "-c", corpora.MEASURE]
    began = time.perf_counter()
    told = subprocess.run(
        [*measured, sys.executable, "-P", "-c", READ, way, str(path)],
        capture_output=True,
        check=True,
        cwd=path.parent,
    )
    code, cpu, _ = json.loads(told.stdout)
    assert code == 0, told.stderr
    return cpu, time.perf_counter() - began


def _accepted(content: bytes, what: str) -> list[str]:
    try:
        parse(content, what)
    except ModelInvalid:
        return []
    return [f"{what}: was accepted"]


def _begin_fuzzing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fuzz.limit_memory(4 << 30)


def _fuzzed(chunk: tuple[str, int, int, int]) -> tuple[str, int, list[str]]:
    name, seed, first, stop = chunk
    wrong = fuzz.faults(name, seed, range(first, stop))
    again = f"again with scripts/fuzz.py --seed {seed} --only {name} --at"
    told = [f"{name}: {words[:500]} ({again} {number})" for number, words in wrong]
    return name, stop - first, told


def write(path: Path, found: Found) -> None:
    """Put what a campaign found into a document, in the place of what it found before."""
    document = json.loads(path.read_text()) if path.exists() else {}
    facts = {**asdict(found), "environment": about.environment(Cpu())}
    campaigns = document.get("campaigns", {}) | {facts.pop("what"): facts}
    path.write_text(json.dumps({"schema": SCHEMA, "campaigns": campaigns}, indent=1) + "\n")


def main() -> int:
    summary, _, names = __doc__.partition("\n\n")
    arguments = argparse.ArgumentParser(description=summary, epilog=names)
    arguments.add_argument("--quick", action="store_true", help="a few of each, in minutes")
    arguments.add_argument("--only", default=",".join(ALL))
    arguments.add_argument("--kills", type=int, default=1_000)
    arguments.add_argument("--executions", type=int, default=1_000_000, help="of each parser")
    arguments.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments.add_argument("--seed", type=int, default=0, help="of instants, bits and inputs")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    quick, every = given.quick, []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), given.jobs, given.seed)
        campaigns: dict[str, Callable[[Found], None]] = {
            "kills": lambda found: campaign.kills(found, 20 if quick else given.kills),
            "calls": lambda found: campaign.calls(found, 25 if quick else 1),
            "power": lambda found: campaign.power(found),
            "flips": lambda found: campaign.flips(found, 5_000 if quick else 10**9),
            "signals": lambda found: campaign.signals(found, 4 if quick else 50),
            "hostile": lambda found: campaign.hostile(found, 15 if quick else 1),
            "fuzz": lambda found: campaign.fuzz(found, 1_000 if quick else given.executions),
            "reading": lambda found: campaign.reading(
                found, *((10**7, 3, 1.0) if quick else (10**9, 15, SHARE))
            ),
            "cost": lambda f: campaign.cost(f, *((6, 3, 0.1) if quick else (75, 2, LIMIT))),
        }
        chosen = given.only.split(",")
        if unknown := sorted(set(chosen) - set(campaigns)):
            arguments.error(f"no campaign {unknown[0]}; there are {', '.join(campaigns)}")
        is_over = False
        for name in chosen:
            began, found = time.perf_counter(), Found(name, quick)
            try:
                campaigns[name](found)
            except KeyboardInterrupt:
                is_over = True
            found.seconds = time.perf_counter() - began
            every.append(found)
            found.show()
            if given.json:
                write(given.json, found)
            if is_over:
                return 130
    return 6 if any(found.wrong for found in every) else 0


if __name__ == "__main__":
    sys.exit(main())
