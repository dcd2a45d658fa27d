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
from typing import Any, TextIO

import numpy as np

from bench.work import Given


def _gpunet(kernels: str) -> Callable[..., Any]:
    from bench.ours import Gpunet

    return partial(Gpunet, kernels=kernels)


def _floor(sliced: bool) -> Callable[..., Any]:
    from bench.ours import Floor

    return partial(Floor, sliced=sliced)


def _graph(is_empty: bool) -> Callable[..., Any]:
    from bench.ours import Graph

    return partial(Graph, is_empty=is_empty)


def _torch(compiled: bool) -> Callable[..., Any]:
    from peers.pytorch import PyTorch

    return partial(PyTorch, compiled=compiled)


def _captured(mode: str) -> Callable[..., Any]:
    from peers.pytorch import Captured

    return partial(Captured, mode=mode)


def _jax(unroll: int) -> Callable[..., Any]:
    from peers.jitted import Jax

    return partial(Jax, unroll=unroll)


def _sklearn() -> Callable[..., Any]:
    from peers.scikit import ScikitLearn

    return ScikitLearn


MAKERS: dict[str, Callable[[], Callable[..., Any]]] = {
    "gpunet": partial(_gpunet, "native"),
    "gpunet-numpy": partial(_gpunet, "numpy"),
    "torch": partial(_torch, False),
    "torch-compile": partial(_torch, True),
    "torch-graph": partial(_captured, "default"),
    "torch-graph-tuned": partial(_captured, "max-autotune-no-cudagraphs"),
    "jax": partial(_jax, 1),
    "jax-unrolled": partial(_jax, 16),
    "sklearn": _sklearn,
    "products-blas": partial(_floor, False),
    "products-sliced": partial(_floor, True),
    "products-graph": partial(_graph, False),
    "empty-graph": partial(_graph, True),
}


class Server:
    """Answers requests about the contestant that it holds."""

    def __init__(self) -> None:
        self.contestant: Any = None
        self.given: Any = None
        self.rng = np.random.default_rng()

    def load(self, contestant: str, given: dict, threads: int, device: str) -> dict[str, float]:
        self.contestant, make = None, MAKERS[contestant]()
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
