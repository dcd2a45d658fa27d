"""Signals, and what is done at one for as long as some work goes on. Ends nothing by itself."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]
ENDING = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
SAVING = [getattr(signal, n) for n in ("SIGUSR1",) if hasattr(signal, n)]


class Ended(BaseException):
    """A signal where there is nothing to finish; no `except Exception` on its way swallows it."""

    def __init__(self, number: int) -> None:
        self.number = number


def end(number: int, frame: FrameType | None) -> None:
    """A handler where there is nothing to finish."""
    raise Ended(number)


@contextmanager
def handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Handlers for a while; a signal that is ignored (nohup) stays so."""
    before = {number: signal.getsignal(number) for number in handlers}
    taken = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handlers[number])
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
