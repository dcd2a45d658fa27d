"""A run directory: made once, held by one process at a time, with the checkpoints of the run.

A checkpoint is one file, committed by one rename; older ones go only after it is on the disk.
There are no pointers to the latest: it is the highest step that can be read whole.
"""

import json
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import numpy as np

from gpunet.commas import argument
from gpunet.errors import (
    GpunetError,
    InputMissing,
    ModelInvalid,
    OutputExists,
    RunBusy,
    UsageError,
)
from gpunet.run import files, forms
from gpunet.run.tensors import pack, unpack

LOCK, SETTINGS, IDENTITY = ".lock", "config.toml", files.IDENTITY
SPLIT, COLUMNS = "split.safetensors", "schema.json"
METRICS, SUMMARY = "metrics.jsonl", "summary.json"
BEFORE = (LOCK, SETTINGS, SPLIT, COLUMNS)
"""What is there before a run is one: `run.json` comes last."""
RUNS = Path("runs")
"""Where runs lie that nobody named."""
STATUS, CHECKPOINTS = "status.json", "checkpoints"
STUDY, BEST = "study.json", "best"
"""What makes a directory a study of runs, and the run in it that came out best."""
CHECKPOINT = re.compile(r"step-(\d{12})\.safetensors")
KEPT = 2

Checkpoint = tuple[dict[str, np.ndarray], dict[str, Any]]
"""Arrays and state."""


class Run:
    """A run directory that this process holds: no other can write to it until `close`.

    The lock is the kernel's (flock): it goes with the process, however that ends, and no forked
    child has a share in it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._absolute = path, path.absolute()
        self._lock = _take_lock(path)
        _held.add(self)
        self._clear()

    @classmethod
    def create(cls, path: str | Path | None, data_name: str) -> "Run":
        """A new directory: `path`, or the first free `runs/<data>-<n>`.

        Raises OutputExists for a path that is taken, NotPermitted or WriteError where the system
        refuses. A directory in which nothing but a lock was ever made is as good as new.
        """
        with files.system_errors(path or RUNS):
            if path is None:
                return cls(_first_free(_slug(data_name)))
            held = cls(_named(Path(path)))
        if not _is_unbegun(held.path):  # another began it, and ended, before the lock was ours
            held.close()
            raise _taken(held.path)
        return held

    @staticmethod
    def check(path: str | Path | None) -> None:
        """Refuse a directory that `create` could not make, before any work is done for it.

        Raises as `create` does, and makes nothing.
        """
        given = chosen = Path(RUNS if path is None else path)
        with files.system_errors(given):
            if path is not None and os.path.lexists(chosen) and not _is_unbegun(chosen):
                raise _taken(chosen)
        with files.system_errors("the working directory"):
            while not os.path.lexists(chosen):
                chosen = chosen.absolute().parent
        files.check_place(chosen / LOCK, given)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """A directory that a run was begun in. Raises InputMissing, ModelInvalid, RunBusy."""
        identity(Path(path))
        with files.system_errors(path):
            return cls(Path(path))

    @property
    def _place(self) -> Path:
        """The directory, by the name that was given for as long as that leads there."""
        return self.path if files.is_same(self.path, self._absolute) else self._absolute

    def write(self, name: str, content: bytes | str) -> None:
        """Put a file into the directory, whole or not at all."""
        files.write(self._place / name, content)

    def write_json(self, name: str, value: Any) -> None:
        """Put a value into the directory as JSON."""
        files.write_json(self._place / name, value)

    def append(self, name: str, line: str) -> None:
        """Add a line to a file of the directory."""
        files.append(self._place / name, line)

    def status(self, state: str, **facts: Any) -> None:
        """Say what the run is doing, in `status.json`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "time": now}
        record = {"schema": "gpunet.status/1", "state": state, **facts, **who}
        files.write_json(self._place / STATUS, record)

    def save(self, step: int, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Commit a checkpoint, then take away older ones: this and the one before it stay.

        Those of later steps are left alone: they are damaged, or of another run.
        """
        folder = self._place / CHECKPOINTS
        with files.system_errors(folder):
            if not folder.is_dir():
                files.make_directory(folder)
        newest = folder / f"step-{step:012d}.safetensors"
        files.write(newest, pack(tensors, state))
        older = [each for each in checkpoints(self._place) if each.name <= newest.name]
        for old in older[KEPT:]:
            files.remove(old)

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _clear(self) -> None:
        """Take away what a killed process had not finished."""
        for folder in (self.path, self.path / CHECKPOINTS):
            for left in folder.glob(f"{files.TEMPORARY}*"):
                files.remove(left)


def identity(path: Path) -> dict[str, Any]:
    """What `run.json` says of a run. Raises InputMissing, ModelInvalid or NotPermitted."""
    with files.system_errors(path):
        if not path.is_dir():
            raise InputMissing(f"{path}: no such run")
    refuse_study(path)
    try:
        with files.reading(path / IDENTITY):
            found = json.loads(files.read(path / IDENTITY, 1 << 20))
    except InputMissing:
        raise ModelInvalid(f"{path}: no run was begun here", "train with -o to begin one") from None
    if not isinstance(found, dict) or found.get("schema") != forms.RUN:
        raise ModelInvalid(f"{path / IDENTITY}: not of this version of gpunet")
    if not forms.fits(found, forms.IDENTITY) or not all(map(_is_leg, found["legs"])):
        raise ModelInvalid(f"{path / IDENTITY}: not as gpunet wrote it")
    _refuse_links(path)
    return found


def history(path: Path) -> list[dict[str, Any]]:
    """The reports of a run, from `metrics.jsonl`; a last line that was cut off is left out."""
    path = path / METRICS
    if not path.exists():
        return []
    with files.reading(path):
        lines = files.read(path).decode().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
    if not forms.fits(found, [forms.LINE]):
        raise ModelInvalid(f"{path}: not as gpunet wrote it")
    return found


def summary(path: Path) -> dict[str, Any]:
    """What a run came to, from `summary.json`; {} where it has not ended yet."""
    path = path / SUMMARY
    if not path.exists():
        return {}
    with files.reading(path):
        found = json.loads(files.read(path))
    if not isinstance(found, dict):
        raise ModelInvalid(f"{path}: not as gpunet wrote it")
    return found


def refuse_study(path: Path) -> None:
    """Raise UsageError where a path is a study, which holds runs."""
    if os.path.isfile(path / STUDY) and not os.path.exists(path / IDENTITY):
        best = path / BEST
        is_there = os.path.isfile(best / IDENTITY)
        hint = f"its best run is {best}" if is_there else "the same gpunet tune goes on with it"
        raise UsageError(f"{path}: is a study, no run", hint)


def _is_leg(leg: list[int]) -> bool:
    return len(leg) == 2 and leg[0] >= 0 and leg[1] > 0


def _refuse_links(path: Path) -> None:
    """A run is made of plain files and directories alone."""
    for each in (*path.iterdir(), *(path / CHECKPOINTS).glob("*")):
        with suppress(FileNotFoundError):
            mode = each.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                hint = "put the file itself there"
                raise ModelInvalid(f"{each}: a link or a device, which no run holds", hint)


def checkpoints(path: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = (path / CHECKPOINTS).glob("step-*.safetensors")
    return sorted((each for each in found if CHECKPOINT.fullmatch(each.name)), reverse=True)


_held: WeakSet[Run] = WeakSet()


def _let_go() -> None:
    for run in list(_held):
        run.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def readable(path: Path) -> Iterator[tuple[Path, Checkpoint | GpunetError]]:
    """The checkpoints of a run, the newest first, each as it was read or with why it was not."""
    for each in checkpoints(path):
        try:
            yield each, unpack(each)
        except GpunetError as reason:
            yield each, reason


def _take_lock(path: Path) -> int | None:
    """Hold a directory, and leave word of who does; None where the system has no such locks."""
    descriptor = _locked(path, os.O_CREAT)
    if descriptor is not None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _locked(path: Path, flags: int = 0) -> int | None:
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise RunBusy(f"{path}: in use by {holder}", "wait for it, or stop it") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _named(path: Path) -> Path:
    try:
        files.make_directory(path, parents=True)
    except FileExistsError:
        if not _is_unbegun(path):
            raise _taken(path) from None
    return path


def _taken(path: Path) -> OutputExists:
    """Why a directory cannot be had. Raises RunBusy where someone holds it."""
    with suppress(OSError):
        if (descriptor := _locked(path)) is not None:
            os.close(descriptor)
    hint = "name another with -o, or leave -o out"
    if (path / IDENTITY).is_file():
        hint = f"go on with it: gpunet resume {argument(path)}; or name another with -o"
    return OutputExists(f"{path}: is there already", hint)


def _is_unbegun(path: Path) -> bool:
    """Whether it is a directory, and holds only what a run leaves that was killed as it began."""
    if not path.is_dir():
        return False
    names = {each.name for each in path.iterdir()}
    return all(name in BEFORE or name.startswith(files.TEMPORARY) for name in names)


def _first_free(slug: str) -> Path:
    with suppress(FileExistsError):
        files.make_directory(RUNS)
    taken = [path.name.removeprefix(f"{slug}-") for path in RUNS.glob(f"{slug}-*")]
    number = max((int(n) for n in taken if n.isascii() and n.isdigit()), default=0) + 1
    while True:
        try:
            files.make_directory(path := RUNS / f"{slug}-{number}")
        except FileExistsError:
            number += 1
        else:
            return path


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "data"
