"""A run directory: made once, held by one process at a time, with the checkpoints of the run.

A checkpoint is one file, committed by one rename; older ones go only after it is on the disk.
There are no pointers to the latest: it is the highest step that can be read whole.
"""

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from gpunet.errors import GpunetError, InputMissing, ModelInvalid, OutputExists, RunBusy
from gpunet.run import files
from gpunet.run.tensors import pack, unpack

LOCK, SETTINGS, IDENTITY = ".lock", "config.toml", "run.json"
STATUS, CHECKPOINTS = "status.json", "checkpoints"
CHECKPOINT = re.compile(r"step-(\d{12})\.safetensors")
KEPT = 2
RUN_SCHEMA = "gpunet.run/1"
IDENTITY_TYPES: dict[str, Any] = {
    "schema": str,
    "id": str,
    "name": str,
    "data": (str, type(None)),
    "folder": str,
    "task_reason": str,
    "fingerprints": dict,
    "environment": dict,
    "legs": list,
}
"""What `run.json` holds."""


class Run:
    """A run directory that this process holds: no other can write to it until `close`.

    The lock is the kernel's (flock): it goes with the process, however that ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _take_lock(path)
        self._clear()

    @classmethod
    def create(cls, path: str | Path | None, data_name: str, root: Path | str = "runs") -> "Run":
        """A new directory: `path`, or the first free `runs/<data>-<n>`.

        Raises OutputExists for a path that is taken, NotPermitted or WriteError where the system
        refuses. A directory in which nothing but a lock was ever made is as good as new.
        """
        with files.system_errors(path or root):
            chosen = _first_free(Path(root), _slug(data_name)) if path is None else _named(path)
            return cls(chosen)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """A directory that a run was begun in. Raises InputMissing, ModelInvalid, RunBusy."""
        identity(Path(path))
        with files.system_errors(path):
            return cls(Path(path))

    def write(self, name: str, content: bytes | str) -> None:
        """Put a file into the directory, whole or not at all."""
        files.write(self.path / name, content)

    def write_json(self, name: str, value: Any) -> None:
        """Put a value into the directory as JSON."""
        files.write_json(self.path / name, value)

    def append(self, name: str, record: Mapping[str, Any]) -> str:
        """Add a line to a file of the directory."""
        return files.append(self.path / name, record)

    def status(self, state: str, **facts: Any) -> None:
        """Say what the run is doing, in `status.json`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "time": now}
        record = {"schema": "gpunet.status/1", "state": state, **facts, **who}
        files.write_json(self.path / STATUS, record)

    def save(self, step: int, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Commit a checkpoint, then take away all but the newest two."""
        folder = self.path / CHECKPOINTS
        with files.system_errors(folder):
            if not folder.is_dir():
                files.make_directory(folder)
        files.write(folder / f"step-{step:012d}.safetensors", pack(tensors, state))
        for old in checkpoints(self.path)[KEPT:]:
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
    """What `run.json` says of a run. Raises InputMissing or ModelInvalid."""
    if not path.is_dir():
        raise InputMissing(f"{path}: no such run")
    try:
        found = json.loads(files.read(path / IDENTITY, 1 << 20))
    except FileNotFoundError:
        raise ModelInvalid(f"{path}: no run was begun here", "train with -o to begin one") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise ModelInvalid(f"{path / IDENTITY}: cannot be read ({reason})") from None
    if not _is_identity(found):
        raise ModelInvalid(f"{path / IDENTITY}: not of this version of gpunet")
    return found


def _is_identity(found: Any) -> bool:
    """Whether `run.json` holds what it should, and nothing else."""
    if not isinstance(found, dict) or set(found) != set(IDENTITY_TYPES):
        return False
    sound = all(isinstance(found[name], kind) for name, kind in IDENTITY_TYPES.items())
    return sound and found["schema"] == RUN_SCHEMA and all(map(_is_leg, found["legs"]))


def _is_leg(leg: Any) -> bool:
    return isinstance(leg, list) and len(leg) == 2 and all(type(n) is int and n > 0 for n in leg)


def checkpoints(path: Path) -> list[Path]:
    """The checkpoints of a run, the newest first."""
    found = (path / CHECKPOINTS).glob("step-*.safetensors")
    return sorted((each for each in found if CHECKPOINT.fullmatch(each.name)), reverse=True)


Checkpoint = tuple[dict[str, np.ndarray], dict[str, Any]]


def readable(path: Path) -> Iterator[tuple[Path, Checkpoint | GpunetError]]:
    """The checkpoints of a run, the newest first, each as it was read or with why it was not."""
    for each in checkpoints(path):
        try:
            yield each, unpack(each)
        except GpunetError as reason:
            yield each, reason


def _take_lock(path: Path) -> int | None:
    try:
        import fcntl
    except ImportError:
        return None
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise RunBusy(f"{path}: in use by {holder}", "wait for it, or stop it") from None
    except BaseException:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
    return descriptor


def _named(path: str | Path) -> Path:
    chosen = Path(path)
    try:
        files.make_directory(chosen, parents=True)
    except FileExistsError:
        if not chosen.is_dir() or not _is_unbegun(chosen):
            hint = "name another with -o, or leave -o out"
            if (chosen / IDENTITY).is_file():
                hint = f"go on with it: gpunet resume {chosen}; or name another with -o"
            raise OutputExists(f"{chosen}: is there already", hint) from None
    return chosen


def _is_unbegun(path: Path) -> bool:
    """Whether all that a directory holds is what a run leaves that was killed as it began."""
    names = {each.name for each in path.iterdir()}
    return all(name in (LOCK, SETTINGS) or name.startswith(files.TEMPORARY) for name in names)


def _first_free(root: Path, slug: str) -> Path:
    with suppress(FileExistsError):
        files.make_directory(root, parents=True)
    taken = [path.name.removeprefix(f"{slug}-") for path in root.glob(f"{slug}-*")]
    number = max((int(n) for n in taken if n.isascii() and n.isdigit()), default=0) + 1
    while True:
        try:
            files.make_directory(path := root / f"{slug}-{number}")
        except FileExistsError:
            number += 1
        else:
            return path


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "data"
