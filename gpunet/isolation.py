"""Work that may crash, in a process of its own: started bare, limited, and never left behind.

Carries requests and answers; knows nothing of what they are about.
"""

import atexit
import errno
import importlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO

from gpunet import errors
from gpunet.errors import GpunetError, OutOfMemory

MAGIC = b"GPN1"
HEAD = struct.Struct("<4sI")
MAX_HEAD = 1 << 24
PIPE = 1 << 20
PAGE = 1 << 12  # bytes that a part sent ahead counts at least
GREETING = 60  # seconds until a process must have begun, on a machine that has other work too
NOT_POSSIBLE = "this interpreter cannot be started again"
SLACK = 1 << 29  # address space for threads and allocators, which is never all touched
CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from gpunet.isolation import serve; serve(sys.argv[1], int(sys.argv[2]))"
)

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

Head = dict[str, Any]
Part = list[Any]
"""Objects with the buffer protocol that make up one run of bytes."""

enabled = True
"""Whether there is to be another process at all: the one switch, for tests."""
_early: dict[str, "Worker"] = {}
_is_foreign = False  # what was started never answered: it would not the next time either


class Crashed(Exception):
    """The process ended without a sound answer; the message says how."""


def is_possible() -> bool:
    """Whether this interpreter can be started again: not where it is part of another program."""
    return bool(sys.executable) and not getattr(sys, "frozen", False) and not _is_foreign


def start_early(entry: str) -> None:
    """Start a process for a request that will surely come: its imports then overlap ours."""
    if enabled and entry not in _early:
        with suppress(OSError):
            _early[entry] = Worker(entry)


def take(entry: str) -> "Worker":
    """The process that was started early, or a new one; OSError where none can be started."""
    return (_early.pop(entry, None) or Worker(entry)).greeted()


class Worker:
    """A process that answers requests with the function `answer` of the module `entry`, which
    takes a request and a function that sends a part ahead, and returns a head and parts."""

    def __init__(self, entry: str) -> None:
        if not is_possible():
            raise OSError(errno.ENOSYS, NOT_POSSIBLE)
        bare = [sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}", "-c", CODE]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        self.process = subprocess.Popen(
            [*bare, entry, str(os.getpid()), root, *filter(os.path.isabs, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C at a terminal is for the parent alone
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        _widen(self._from)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, it: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def greeted(self) -> "Worker":
        """Itself, once the process has said that it is one; OSError where it is another program's,
        as `sys.executable` may be where Python is a part of that."""
        global _is_foreign
        try:
            is_there = _waits(self._from, GREETING)
            if is_there and self._from.read(len(MAGIC)) == MAGIC:
                return self
            _is_foreign = not is_there
            raise OSError(errno.ENOEXEC, NOT_POSSIBLE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        for pipe in (self._to, self._from):
            with suppress(OSError):
                pipe.close()
        self.process.wait()

    def ask(
        self, request: Mapping[str, Any], most: int, feed: Iterable[bytes] | None = None
    ) -> tuple[Head, list[Any]]:
        """The answer: its head, and its parts as writable bytes, `most` bytes in all, those that
        went ahead first.

        `feed` goes to the work's standard input, and makes this the last request. Raises the
        GpunetErrors that the work raised, and Crashed.
        """
        with suppress(BrokenPipeError):  # it has answered, or died: what it left says which
            self._to.write(json.dumps({**request, "is_last": feed is not None}).encode() + b"\n")
            for chunk in feed or ():
                _write(self._to, chunk)
            if feed is not None:
                self._to.close()
        parts: list[Any] = []
        is_whole = False
        while not is_whole:
            head = self._head()
            if "error" in head:
                raise _fault(head["error"])
            sizes = head.get("sizes")
            if not isinstance(sizes, list) or any(type(size) is not int for size in sizes):
                raise Crashed("its answer makes no sense")
            is_whole = "ahead" not in head
            most -= sum(sizes) if is_whole else sum(max(size, PAGE) for size in (*sizes, PAGE))
            if min(sizes, default=0) < 0 or most < 0:
                raise Crashed("its answer is larger than it may be")
            parts += map(self._filled, sizes)
        return head, parts

    def _head(self) -> Head:
        magic, length = HEAD.unpack(bytes(self._filled(HEAD.size)))
        if magic != MAGIC or length > MAX_HEAD:
            raise Crashed("its answer makes no sense")
        try:
            head = json.loads(bytes(self._filled(length)))
        except (ValueError, RecursionError):
            head = None
        if not isinstance(head, dict):
            raise Crashed("its answer makes no sense")
        return head

    def _filled(self, size: int) -> Any:
        """`size` bytes of the answer, in memory of their own: small pages, since clearing huge
        ones costs several times the copying."""
        part: Any = mmap.mmap(-1, size, **PRIVATE) if size else b""
        view, filled = memoryview(part), 0
        while filled < size:
            got = self._from.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise self._ending()
            filled += got
        return view

    def _ending(self) -> Exception:
        code = self.process.wait()
        if code == OutOfMemory.exit_code:
            return OutOfMemory("out of memory", "raise --max-memory")
        if code >= 0:
            return Crashed(f"it ended with status {code}")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return Crashed(f"signal {name}")


def serve(entry: str, parent: int) -> None:
    """Answer requests on standard input until it ends. What runs in the other process."""
    die_with(parent)
    hide_pandas()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _write(out, MAGIC)
    work, ahead = importlib.import_module(entry).answer, _Ahead(out)
    try:
        while line := sys.stdin.buffer.readline():
            request = json.loads(line)
            head, parts = _answered(work, request, ahead)
            ahead.wait()
            _send(out, head, parts)
            del parts
            if request["is_last"]:
                break
        os._exit(0)  # without taking down what the system takes down faster
    except MemoryError:
        os._exit(OutOfMemory.exit_code)
    except BrokenPipeError:
        os._exit(0)


def hide_pandas() -> None:
    """Pandas looks as if it was not installed to this process: pyarrow would import it with its
    first array, which takes longer than all of ours."""

    class Hidden:
        @staticmethod
        def find_spec(name: str, *more: object) -> None:
            if name == "pandas":
                raise ModuleNotFoundError("not for this process", name=name)

    sys.meta_path.insert(0, Hidden)


def limit(memory: int, seconds: int) -> None:
    """Let this process take `memory` bytes and `seconds` of processor time more than it has, and
    neither write files nor leave a core dump. Where the system has no such limits, none is set."""
    try:
        import resource
    except ImportError:
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    with suppress(OSError, ValueError):
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, held + memory + SLACK)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + seconds)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_CORE, 0)


def _lower(which: int, wanted: int) -> None:
    import resource

    hard = resource.getrlimit(which)[1]
    with suppress(OSError, ValueError):
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (bound, hard))


class _Ahead:
    """Sends parts of an answer while the others are made."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._pool: Any = None
        self._sent: Any = None

    def __call__(self, part: Part) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.wait()
        self._pool = self._pool or ThreadPoolExecutor(1)
        self._sent = self._pool.submit(_send, self._out, {"ahead": True}, [part])

    def wait(self) -> None:
        """Until all is sent. Raises what went wrong."""
        if self._sent is not None:
            self._sent = self._sent.result()


def _answered(
    work: Callable[[Head, _Ahead], tuple[Head, list[Part]]], request: Head, ahead: _Ahead
) -> tuple[Head, list[Part]]:
    try:
        return work(request, ahead)
    except GpunetError as fault:
        return {"error": [type(fault).__name__, fault.message, fault.hint]}, []
    except MemoryError:
        raise
    except Exception as fault:
        return {"error": [None, f"{type(fault).__name__}: {fault}", traceback.format_exc()]}, []


def _send(out: BinaryIO, head: Head, parts: list[Part]) -> None:
    sizes = [sum(memoryview(piece).nbytes for piece in part) for part in parts]
    text = json.dumps({**head, "sizes": sizes}).encode()
    _write(out, HEAD.pack(MAGIC, len(text)) + text)
    for part in parts:
        for piece in part:
            _write(out, piece)


def _write(pipe: Any, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[pipe.write(view) :]


def _fault(error: Any) -> Exception:
    """What the other process raised, as far as it may say so."""
    try:
        name, message, detail = error
        if name is None:
            bug = RuntimeError(f"in the reading process: {message}")
            bug.add_note(str(detail))
            return bug
        kind = getattr(errors, name)
        if issubclass(kind, GpunetError):
            return kind(str(message), None if detail is None else str(detail))
    except (TypeError, ValueError, AttributeError):
        pass
    return Crashed("its answer makes no sense")


def _waits(pipe: Any, seconds: int) -> bool:
    """Whether there is something to read, or the other end is closed, in time; where the system
    cannot tell, a reader waits for it himself."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def _widen(pipe: Any) -> None:
    """A larger pipe takes fewer switches between the two processes, where it can be had."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE)


def die_with(parent: int) -> None:
    """End when the parent does; now where it was quicker: its request may lie in the pipe."""
    if sys.platform == "linux":
        import ctypes

        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
    if hasattr(os, "getppid") and os.getppid() != parent:
        os._exit(0)


@atexit.register
def _close_early() -> None:
    while _early:
        _early.popitem()[1].close()
