"""A list of launches as CUDA graphs: captured once, then a launch for many steps. Imports no CuPy.

What is captured is what runs eagerly, call by call; where capture fails, that goes on, and it says
why.
"""

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from gpunet.device.base import Run

MOST_STEPS, MOST_NODES = 32, 1024
"""Of the longest graph. A launch takes the host as long as a few of the smallest kernels, so that
32 steps hide it; what making a graph takes grows with its nodes."""


class Replay:
    """replay(steps) makes calls on a stream, `steps` times in a row.

    The first step of all runs eagerly: modules are loaded and tables filled then, which capture
    forbids. Later ones are launches of graphs of 1, 2, 4, … up to `many` steps, the longest first;
    each is captured when it is first wanted. `refused`: why there are no graphs, if so.
    """

    def __init__(self, stream: Any, calls: Sequence[Run], refused: str = "") -> None:
        self.stream, self.calls, self.refused = stream, tuple(calls), refused
        self.many = _power_of_two(min(MOST_STEPS, MOST_NODES // max(1, len(calls))))
        self.graphs: dict[int, Any] = {}
        self.is_warm = self.has_warned = False

    def __str__(self) -> str:
        return "CUDA, launch by launch" if self.refused else "CUDA graphs"

    def __call__(self, steps: int) -> None:
        with self.stream:
            if not self.is_warm and steps:
                self._eagerly(1)
                self.is_warm, steps = True, steps - 1
            while steps:
                size = min(self.many, _power_of_two(steps))
                graph = self._graph(size)
                if graph is None:
                    self._eagerly(steps)
                    return
                graph.launch(self.stream)
                steps -= size

    def _eagerly(self, steps: int) -> None:
        for _ in range(steps):
            for call in self.calls:
                call()

    def _graph(self, size: int) -> Any:
        """The graph of so many steps; None where there is none, of which it warns once."""
        if size not in self.graphs and not self.refused:
            try:
                self.graphs[size] = self._captured(size)
            except Exception as reason:
                self.refused = f"{type(reason).__name__}: {reason}".splitlines()[0]
        if self.refused and not self.has_warned:
            self.has_warned = True
            message = f"no CUDA graph, each launch goes out by itself: {self.refused}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.graphs.get(size)

    def _captured(self, size: int) -> Any:
        with _without_collection():
            self.stream.begin_capture()
            try:
                self._eagerly(size)
            except BaseException:
                with suppress(Exception):  # it ends the capture; that it failed is known
                    self.stream.end_capture()
                raise
            return self.stream.end_capture()


def _power_of_two(n: int) -> int:
    """The largest that is not above `n`, or 1."""
    return 1 << max(n, 1).bit_length() - 1


@contextmanager
def _without_collection() -> Iterator[None]:
    """A collected object may free what it had on the device, which ends a capture."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
