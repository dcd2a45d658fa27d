"""Work for a process of its own that ends in every way there is."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from gpunet import isolation
from gpunet.errors import DataError


def answer(
    request: dict[str, Any], ahead: Callable[[list[bytes]], None]
) -> tuple[dict[str, Any], list[Any]]:
    for size in request.get("ahead", ()):
        ahead([bytes(size)])
    return globals()[f"_{request['way']}"](request)


def _echo(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    return {"got": request["way"], "pid": os.getpid()}, [[b"ab", b"c"], [], [bytes(3_000_000)]]


def _signal(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    os.kill(os.getpid(), signal.Signals[request["signal"]])
    time.sleep(60)
    return {}, []


def _leave(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    os._exit(request["status"])


def _fault(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    raise DataError("not data: \x1b[31m", "a hint")


def _bug(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    raise KeyError("inner")


def _exhaust(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    isolation.limit(1 << 20, 60)
    bytearray(1 << 31)
    return {}, []


def _spin(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    isolation.limit(1 << 30, 0)
    while True:
        pass


def _write(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    isolation.limit(1 << 30, 60)
    try:
        with open(request["path"], "wb") as file:
            file.write(b"x")
    except OSError as reason:
        return {"refused": reason.strerror}, []
    return {}, []


def _print(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    os.write(1, b"chatter of a library")
    os.write(2, b"terminate called after throwing")
    return {}, []


def _head(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """Anything at all in the place of an answer."""
    os.write(_answers(), bytes.fromhex(request["raw"]))
    os._exit(0)


def _answers() -> int:
    """The descriptor that answers go to."""
    open_files = {int(name): f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")}
    pipes = [number for number, name in open_files.items() if number > 2 and _is_pipe(name)]
    return pipes[0]


def _is_pipe(name: str) -> bool:
    try:
        return os.readlink(name).startswith("pipe:")
    except OSError:
        return False


def _feed(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    import sys

    return {"length": len(sys.stdin.buffer.read())}, []


def _deaf(request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    raise DataError("enough")
