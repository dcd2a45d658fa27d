"""A list of launches as CUDA graphs: captured once, then a launch for many steps. Imports no CuPy.

What is captured is what runs eagerly, call by call; where capture fails, that goes on, and it says
why. Two branches of a list give the same bits as one, so which is taken may be left to a clock.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from threading import RLock
from time import perf_counter
from typing import Any

from gpunet.device.base import Run, Turn
from gpunet.errors import kind_and_line

MOST_STEPS, MOST_NODES = 32, 1024
"""Of the longest graph. A launch takes the host as long as a few of the smallest kernels, so that
32 steps hide it; what making a graph takes grows with its nodes."""
LEAST_TRIED, LONG = 8, 5e-4
"""Steps of a graph that is tried in two branches, at least, or seconds that fewer of them take; the
longest graph always is."""
TIMED, GAIN = 3, 0.98
"""Launches that are timed, behind one that is not; the share of one branch's time that two have to
stay below."""

ALONE = RLock()
"""Held by a capture, and by whoever waits for all of a GPU, which would end the captures there."""


@dataclass(frozen=True)
class Fork:
    """Calls in two branches: the turn of each; the second branch's stream, while inside `beside`;
    an event for each call that another one waits for; `ranked` makes a captured graph one whose
    kernels have the priority of their stream."""

    turns: Sequence[Turn]
    beside: Callable[[], AbstractContextManager[Any]]
    events: Mapping[int, Any]
    ranked: Callable[[Any], Any]

    @property
    def is_needed(self) -> bool:
        return any(turn.branch for turn in self.turns)

    def step(self, stream: Any, calls: Sequence[Run]) -> None:
        """Each call in its turn, once; the stream of the first branch is capturing."""
        for i, (call, turn) in enumerate(zip(calls, self.turns, strict=True)):
            with self.beside() if turn.branch else stream as own:
                if turn.waits >= 0:
                    own.wait_event(self.events[turn.waits])
                call()
                if i in self.events:
                    own.record(self.events[i])


class Replay:
    """replay(steps) makes calls on a stream, `steps` times in a row.

    The first step of all runs eagerly: modules are loaded and tables filled then, which capture
    forbids. Later ones are launches of graphs of 1, 2, 4, … up to `many` steps, the longest first;
    each is captured when it is first wanted. `refused`: why there are no graphs, if so.

    `is_forked` says whether graphs have the two branches of a `fork`. It is None until a
    graph that takes long enough was launched a few times with one and with two, the quicker of
    which stays. `unforked`: why two branches failed, if so; one goes on.
    """

    def __init__(
        self, stream: Any, calls: Sequence[Run], refused: str = "", fork: Fork | None = None
    ) -> None:
        self.stream, self.calls, self.refused = stream, tuple(calls), refused
        self.many = _power_of_two(min(MOST_STEPS, MOST_NODES // max(1, len(calls))))
        self.graphs: dict[int, Any] = {}
        self.is_warm = self.has_warned = False
        self.fork = fork
        self.is_forked: bool | None = False
        self.unforked = ""
        self.rivals: dict[int, Any] = {}
        self.seconds: dict[int, list[float]] = {}
        if fork is not None and fork.is_needed and not refused:
            self._open(fork)

    def __str__(self) -> str:
        if self.refused:
            return "CUDA, launch by launch"
        failed = f"; two branches failed: {self.unforked}" if self.unforked else ""
        return f"CUDA graphs{', two branches' if self.is_forked else failed}"

    def __call__(self, steps: int) -> None:
        with self.stream:
            if not self.is_warm and steps:
                self._eagerly()
                self.is_warm, steps = True, steps - 1
            while steps:
                size = min(self.many, _power_of_two(steps))
                graph = self._graph(size)
                if graph is None:
                    for _ in range(steps):
                        self._eagerly()
                    return
                if self.is_forked is None and self._is_worth_trying(size):
                    self._try(size, graph)
                else:
                    graph.launch(self.stream)
                steps -= size

    def _open(self, fork: Fork) -> None:
        """Two branches may be tried: what the second takes is there before anything runs."""
        try:
            with fork.beside():
                self.is_forked = None
        except Exception as reason:
            self._stay_straight(reason)

    def _eagerly(self) -> None:
        for call in self.calls:
            call()

    def _graph(self, size: int) -> Any:
        """The graph of so many steps; None where there is none, of which it warns once."""
        if size not in self.graphs and not self.refused:
            try:
                forked = self._forked(size) if self.is_forked else None
                self.graphs[size] = forked or self._captured(size, self._eagerly)
            except Exception as reason:
                self.refused, self.is_forked = kind_and_line(reason), False
        if self.refused and not self.has_warned:
            self.has_warned = True
            message = f"no CUDA graph, each launch goes out by itself: {self.refused}"
            warnings.warn(message, RuntimeWarning, stacklevel=4)
        return self.graphs.get(size)

    def _forked(self, size: int) -> Any:
        """The graph in two branches; None, and no other attempt, where there is none."""
        assert self.fork is not None
        try:
            step = partial(self.fork.step, self.stream, self.calls)
            return self.fork.ranked(self._captured(size, step))
        except Exception as reason:
            self._stay_straight(reason)
            return None

    def _stay_straight(self, reason: Exception) -> None:
        self.is_forked, self.unforked = False, kind_and_line(reason)
        self.rivals.clear()

    def _is_worth_trying(self, size: int) -> bool:
        """Whether launches of so many steps take as long as clocks want, as far as is known."""
        straight = self.seconds.get(size, [])[::2]
        return size >= min(LEAST_TRIED, self.many) or min(straight, default=LONG) >= LONG

    def _try(self, size: int, straight: Any) -> None:
        """Launch one of the two graphs of so many steps, timed; in the end keep the quicker."""
        seconds = self.seconds.setdefault(size, [])
        is_second = len(seconds) % 2 == 1
        if is_second and size not in self.rivals and (rival := self._forked(size)):
            self.rivals[size] = rival
        graph = (self.rivals.get(size) if is_second else None) or straight
        self.stream.synchronize()
        began = perf_counter()
        try:
            graph.launch(self.stream)
        except Exception as reason:
            if graph is straight:
                raise
            self._stay_straight(reason)
            straight.launch(self.stream)
            return
        self.stream.synchronize()
        seconds.append(perf_counter() - began)
        if size in self.tried:
            one, two = self.tried[size]
            self.is_forked = two < GAIN * one
            if self.is_forked:
                self.graphs = dict(self.rivals)
            self.rivals.clear()

    @property
    def tried(self) -> dict[int, tuple[float, float]]:
        """Seconds of graphs of so many steps with one branch and with two, in the median, where
        enough of them were timed."""
        return {
            size: (median(seconds[2::2]), median(seconds[3::2]))
            for size, seconds in self.seconds.items()
            if len(seconds) == 2 * (1 + TIMED)
        }

    def _captured(self, size: int, step: Run) -> Any:
        with ALONE, _without_collection():
            self.stream.begin_capture()
            try:
                for _ in range(size):
                    step()
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
