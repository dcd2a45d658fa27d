"""One contestant in a process of its own: lines of JSON in, lines of JSON out.

{"do": "load", "contestant": NAME, "given": {…}, "threads": N, "device": D} → {"compile": seconds}
{"do": "run", "epoch": N} → {"seconds": s, "own": processor seconds, "loss": the mean, or null}
{"do": "peak"} → {"bytes": the largest resident size so far}
{"do": "facts"} → {"device_bytes": the most that it had on a GPU, "kernels": those of a step, …}
What goes wrong is answered as {"error": reason}, and ends the process.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, TextIO

import numpy as np

from bench.work import Given

CONTESTANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpunet": ("bench.ours", "Gpunet", {"kernels": "native"}),
    "gpunet-numpy": ("bench.ours", "Gpunet", {"kernels": "numpy"}),
    "torch": ("peers.pytorch", "PyTorch", {"compiled": False}),
    "torch-compile": ("peers.pytorch", "PyTorch", {"compiled": True}),
    "torch-graph": ("peers.pytorch", "Captured", {"mode": "default"}),
    "torch-graph-tuned": ("peers.pytorch", "Captured", {"mode": "max-autotune-no-cudagraphs"}),
    "jax": ("peers.jitted", "Jax", {"unroll": 1}),
    "jax-unrolled": ("peers.jitted", "Jax", {"unroll": 16}),
    "sklearn": ("peers.scikit", "ScikitLearn", {}),
    "products-blas": ("bench.ours", "Floor", {"sliced": False}),
    "products-sliced": ("bench.ours", "Floor", {"sliced": True}),
    "products-graph": ("bench.ours", "Graph", {"is_empty": False}),
    "empty-graph": ("bench.ours", "Graph", {"is_empty": True}),
}
"""Module, class and settings of each: a process imports the libraries of its own alone."""


def maker(contestant: str) -> Callable[..., Any]:
    """What makes a contestant, from its work, threads and device."""
    module, kind, settings = CONTESTANTS[contestant]
    return partial(getattr(import_module(module), kind), **settings)


class Server:
    """Answers requests about the contestant that it holds."""

    def __init__(self) -> None:
        self.contestant: Any = None
        self.given: Any = None
        self.rng = np.random.default_rng()

    def load(self, contestant: str, given: dict, threads: int, device: str) -> dict[str, float]:
        self.contestant, make = None, maker(contestant)
        self.given = Given.from_plain(given)
        self.contestant = make(Given.from_plain(given), threads, device)
        return {"compile": getattr(self.contestant, "compile_seconds", 0.0)}

    def run(self, epoch: int) -> dict[str, Any]:
        """All take the rows in gpunet's order, so that losses can be compared; who does not draw
        it pays for drawing one as NumPy does."""
        order = self.given.order(epoch)
        draws = not (self.contestant.draws_its_order or self.given.work.is_one_batch)
        began, used = time.perf_counter(), time.process_time()
        if draws:
            self.rng.permutation(len(order))
        loss = self.contestant.epoch(epoch, order)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "own": time.process_time() - used, "loss": loss}

    def peak(self) -> dict[str, int]:
        return {"bytes": peak_bytes()}

    def facts(self) -> dict[str, Any]:
        """What a contestant tells of itself; None where it cannot."""
        found: dict[str, Any] = {"device_bytes": None, "kernels": None}
        with suppress(Exception):  # a profiler that is not permitted
            found |= self.contestant.facts()
        return found


def peak_bytes() -> int:
    """This program's own largest resident size; getrusage counts its parent's as well."""
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(requests: TextIO, answers: TextIO) -> int:
    server = Server()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("do"))(**request)
        except Exception as reason:
            text = " ".join(str(reason).split())[:200]
            print(json.dumps({"error": text or type(reason).__name__}), file=answers, flush=True)
            return 1
        print(json.dumps(answer), file=answers, flush=True)
    return 0


def main() -> int:
    """Serve on stdin and stdout; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return serve(sys.stdin, answers)


if __name__ == "__main__":
    sys.exit(main())
