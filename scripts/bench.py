"""Measure gpunet against other libraries and against its own matrix products, in one run.

python scripts/bench.py --device cpu [--quick] [--only NAME] [--without NAME]
                        [--json PATH] [--plot PATH]
Every contestant is a process of its own, stopped while others run; rounds are interleaved, each in
a fresh order. A full run writes benchmarks/results/DEVICE.json; --quick (fewer rows), --only and
--without write where --json says. What is not installed is left out and named.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from bench import penguins, picture, report, whole  # noqa: E402
from bench.crew import PINS, Crew, crew, take_cores  # noqa: E402
from bench.work import ON_CUDA, ROWS, SWEEPS, TINY, Work, prepare, shortened  # noqa: E402
from rich.console import Console  # noqa: E402

from gpunet.device import resolve  # noqa: E402
from gpunet.device.cpu import wanted_threads  # noqa: E402
from gpunet.errors import Unavailable  # noqa: E402
from gpunet.kernels import native  # noqa: E402

CONTESTANTS = {
    "cpu": tuple(name for name in report.TITLES if name not in report.ON_GPU),
    "cuda": ("gpunet", "torch", "torch-compile", "jax", *report.ON_GPU),
}
WORKS = {"cpu": ROWS, "cuda": ON_CUDA}
SLOW = {"cpu": "torch-compile", "cuda": "torch-graph-tuned"}
"""Who compiles for so long that a quick run leaves it out."""
NATIVE = ("gpunet", "products-sliced")
PENGUINS, IMAGES = "penguins", "images"
"""Whole programs that are timed: on the CPU, on a GPU."""


class Pace(NamedTuple):
    """Rounds of a work: at least `least`, then up to `rounds` until `seconds` are spent."""

    rounds: int
    least: int
    seconds: float


FULL, QUICK, SWEEP = Pace(7, 5, 60.0), Pace(3, 2, 4.0), Pace(3, 2, 10.0)


def main() -> int:
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        resolve(given.device)
    except Unavailable as reason:
        print(f"bench: error: {reason.message}; {reason.hint}", file=sys.stderr)
        return 69
    if given.device == "cpu":
        take_cores(given.threads)
    with tempfile.TemporaryDirectory(prefix="gpunet-bench-") as folder:
        found = Bench(given, Path(folder)).run()
    path = given.json
    if path is None and not (given.quick or given.only or given.without):
        path = ROOT / "benchmarks" / "results" / f"{given.device}.json"
    report.write(path, found)
    return 0


def arguments() -> argparse.Namespace:
    names = sorted({work.name for work in (*ROWS, *ON_CUDA, TINY)})
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=list(CONTESTANTS), default="cpu")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="a picture of how the cost grows")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument(
        "--only", action="append", choices=[*names, PENGUINS, IMAGES], help="or several"
    )
    parser.add_argument("--without", action="append", default=[], help="a contestant, or several")
    parser.add_argument("--threads", type=int, default=wanted_threads(), help="of every contestant")
    parser.add_argument("--images", type=Path, help="a folder of Fashion-MNIST, gzipped")
    return parser.parse_args()


class Bench:
    """One run: the table's works, the penguins, the sweeps."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.out = Console(markup=False, highlight=False, emoji=False)
        self.talk = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self.rng = random.Random(0)
        self.pace = QUICK if given.quick else FULL
        everyone = CONTESTANTS[given.device]
        self.left_out = {name: why for name in everyone if (why := self._missing(name))}
        self.names = [name for name in everyone if name not in self.left_out]
        if not sys.stdout.isatty():
            self.out.width = 110

    def run(self) -> dict[str, Any]:
        """Everything that was asked for, shown as it is found; the JSON document."""
        given, began, load = self.given, time.time(), os.getloadavg()
        for name, why in self.left_out.items():
            self.talk.print(f"{report.TITLES[name]}: left out: {why}")
        rows: list[dict[str, Any]] = []
        found: dict[str, Any] = {
            "schema": report.SCHEMA,
            "device": given.device,
            "quick": given.quick,
            "threads": given.threads,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "machine": report.machine(given.device),
            "versions": report.versions(),
            "unset": {name: os.environ[name] for name in PINS if name in os.environ},
            "left_out": self.left_out,
            "tolerance": report.TOLERANCE,
            "rows": rows,
        }
        for row in self._rows():
            rows.append(row)
            report.write(given.json, found)
        found["penguins"] = self._end_to_end()
        if given.device == "cuda" and (not given.only or IMAGES in given.only):
            found[IMAGES] = self._images()
        if rows:
            report.show_summary(self.out, rows)
        found["sweeps"] = self._sweeps() if given.plot else {}
        return found | {"load": [load, os.getloadavg()], "seconds": time.time() - began}

    def _works(self) -> Iterator[Work]:
        works = WORKS[self.given.device]
        for work in (*works, TINY):
            if work.name in (self.given.only or [each.name for each in works]):
                yield shortened(work) if self.given.quick else work

    def _rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the table, by fresh processes each; where libraries take longer to start
        than the work does, a quick run has one of each for all."""
        if not (self.given.quick and self.given.device == "cuda"):
            yield from map(self._row, self._works())
            return
        with crew(self._without_compiling(), self.given.threads, "cuda", self.folder) as there:
            for work in self._works():
                found = self._measured(work, there, self.pace)
                report.show_row(self.out, found)
                yield found

    def _row(self, work: Work) -> dict[str, Any]:
        """One row of the table, by fresh processes."""
        names = self.names
        if self.given.quick and work != shortened(ROWS[0]):
            names = self._without_compiling()
        with crew(names, self.given.threads, self.given.device, self.folder) as there:
            found = self._measured(work, there, self.pace)
        report.show_row(self.out, found)
        return found

    def _measured(self, work: Work, there: Crew, pace: Pace) -> dict[str, Any]:
        load = os.getloadavg()[0]
        self.talk.print(f"{work.name}: {work.title}; load {load:.2f}")
        given = prepare(work, self.folder, self.given.images, pace.rounds + 1)
        results = there.measure(given, *pace, self.rng)
        return report.row(work, results, there.lost) | {"load": load}

    def _missing(self, contestant: str) -> str | None:
        """Why a contestant does not take part."""
        if contestant in self.given.without:
            return "not asked for"
        package = report.PEERS.get(contestant)
        if package is not None and find_spec(package) is None:
            return f"{package} is not installed"
        if self.given.device == "cpu" and contestant in NATIVE:
            try:
                native.load()
            except Unavailable as reason:
                return reason.message
        return None

    def _without_compiling(self) -> list[str]:
        """Those who are ready soon: compiling for each of many works takes too long."""
        return [name for name in self.names if name != SLOW[self.given.device]]

    def _end_to_end(self) -> dict[str, Any] | None:
        if self.given.device != "cpu" or (self.given.only and PENGUINS not in self.given.only):
            return None
        self.talk.print(f"penguins: load {os.getloadavg()[0]:.2f}")
        folder = self.folder / PENGUINS
        found = penguins.measure(self.names, self.given.threads, folder, self.pace.rounds)
        report.show_penguins(self.out, found)
        return found

    def _images(self) -> dict[str, Any]:
        """20 epochs on all images, whole processes."""
        self.talk.print(f"{IMAGES}: load {os.getloadavg()[0]:.2f}")
        given = prepare(ON_CUDA[1], self.folder, self.given.images, 1)
        rounds = 1 if self.given.quick else self.pace.rounds
        folder = self.folder / IMAGES
        try:
            found = whole.measure(given, self.given.threads, "cuda", folder, rounds)
        except subprocess.CalledProcessError as fault:
            last = fault.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            self.talk.print(f"{IMAGES}: left out: {last}")
            return {"left_out": last}
        report.show_images(self.out, found)
        return found

    def _sweeps(self) -> dict[str, list[dict[str, Any]]]:
        """Time against rows, width and batch, drawn."""
        if find_spec("matplotlib") is None:
            self.talk.print("no picture: matplotlib is not installed")
            return {}
        names = self._without_compiling()
        found: dict[str, list[dict[str, Any]]] = {}
        for sweep, works in SWEEPS.items():
            works = works[::2] if self.given.quick else works
            points = found[sweep] = []
            with crew(names, self.given.threads, self.given.device, self.folder) as there:
                for work in works:
                    at = {"at": int(work.name.rpartition("-")[2])}
                    points.append(self._measured(work, there, SWEEP) | at)
        picture.draw(found, self.given.plot)
        return found


if __name__ == "__main__":
    sys.exit(main())
