"""Power cuts without hardware: what a disk may hold after one, for a recorded series of writes.

The model is a journalled file system: the bytes of a file are safe once it was flushed, a name
once its directory was; unflushed bytes may be missing, cut or zeros; of the unflushed changes of
names any first part, or all but one, may have happened.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import GpunetError
from gpunet.run import Run, files
from gpunet.run.tensors import parse

MUTANTS = ("no file flush", "no directory flush", "rename first", "delete first")
Names = dict[str, int]


@dataclass
class Recorded:
    """Operations on files by number, in order, and after which of them a save had returned."""

    operations: list[tuple[Any, ...]] = field(default_factory=list)
    acknowledged: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """How many states were looked at; checkpoints that were torn, and saves that were lost."""

    states: int
    torn: int
    lost: int


class Recorder:
    """The `os` of gpunet.run.files: does what it is asked, and writes it down."""

    def __init__(self, recorded: Recorded, mutant: str) -> None:
        self.recorded, self.mutant = recorded, mutant
        self.files: dict[int, tuple[str, int] | None] = {}
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self.files[descriptor] = None
        if flags & os.O_CREAT:
            self.count += 1
            self.files[descriptor] = (str(path), self.count)
            self._note("create", str(path), self.count)
        else:
            self.files[descriptor] = (str(path), 0)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        size = os.write(descriptor, data)
        found = self.files.get(descriptor)
        if found is not None:
            self._note("write", found[1], bytes(data[:size]))
        return size

    def fsync(self, descriptor: int) -> None:
        found = self.files.get(descriptor)
        assert found is not None
        path, number = found
        if number == 0 and self.mutant != "no directory flush":
            self._note("flush names", path)
        if number and self.mutant != "no file flush":
            self._note("flush", number)

    def replace(self, old: Any, new: Any) -> None:
        os.replace(old, new)
        operation = ("rename", str(old), str(new))
        flushes = [i for i, each in enumerate(self.recorded.operations) if each[0] == "flush"]
        if self.mutant == "rename first" and flushes:
            self.recorded.operations.insert(flushes[-1], operation)
        else:
            self._note(*operation)

    def unlink(self, path: Any) -> None:
        os.unlink(path)
        self._note("unlink", str(path))

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        os.mkdir(path, mode)

    def _note(self, *operation: Any) -> None:
        self.recorded.operations.append(operation)


def record(path: Path, mutant: str = "") -> Recorded:
    """The operations of five saves."""
    recorded = Recorded()
    real = files.os
    with Run.create(path, "x") as run:
        files.os = Recorder(recorded, mutant)  # type: ignore[assignment]
        try:
            for step in range(1, 6):
                if mutant == "delete first":
                    for old in sorted((path / "checkpoints").glob("step-*")):
                        files.remove(old)
                run.save(step, {"a": np.full(40, step, np.float32)}, {"step": step})
                recorded.acknowledged[len(recorded.operations)] = step
        finally:
            files.os = real
    return recorded


def judge(recorded: Recorded) -> Found:
    """Look at every state that a cut after every operation may leave."""
    states = torn = lost = 0
    for stop in range(len(recorded.operations) + 1):
        known = max((s for at, s in recorded.acknowledged.items() if at <= stop), default=0)
        for contents in _outcomes(recorded.operations[:stop]):
            states += 1
            whole, broken = _readable(contents)
            torn += broken
            lost += whole < known
    return Found(states, torn, lost)


def _outcomes(operations: list[tuple[Any, ...]]) -> Iterator[dict[str, bytes]]:
    """What names and bytes a disk may hold."""
    data: dict[int, bytes] = {}
    flushed: dict[int, bytes] = {}
    settled: list[tuple[Any, ...]] = []
    pending: list[tuple[Any, ...]] = []
    for kind, *rest in operations:
        if kind == "write":
            data[rest[0]] = data.get(rest[0], b"") + rest[1]
        elif kind == "flush":
            flushed[rest[0]] = data.get(rest[0], b"")
        elif kind == "flush names":
            settled += pending
            pending = []
        else:
            pending.append((kind, *rest))
    for happened in _parts(pending):
        names = _names([*settled, *happened])
        for damage in (_as_written, _cut, _zeros, _missing):
            yield {
                name: flushed[number]
                if number in flushed and flushed[number] == data.get(number, b"")
                else damage(data.get(number, b""))
                for name, number in names.items()
            }


def _parts(pending: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    for count in range(len(pending) + 1):
        yield pending[:count]
    for left_out in range(len(pending)):
        yield pending[:left_out] + pending[left_out + 1 :]


def _names(operations: list[tuple[Any, ...]]) -> Names:
    names: Names = {}
    for kind, *rest in operations:
        if kind == "create":
            names[rest[0]] = rest[1]
        elif kind == "unlink":
            names.pop(rest[0], None)
        elif kind == "rename" and rest[0] in names:
            names[rest[1]] = names.pop(rest[0])
    return names


def _readable(contents: dict[str, bytes]) -> tuple[int, int]:
    """The newest step that is whole, and how many visible checkpoints are torn."""
    newest = torn = 0
    for name, content in contents.items():
        if not Path(name).name.startswith("step-"):
            continue
        try:
            newest = max(newest, int(parse(content, name)[1]["step"]))
        except GpunetError:
            torn += 1
    return newest, torn


def _as_written(data: bytes) -> bytes:
    return data


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _zeros(data: bytes) -> bytes:
    return bytes(len(data))


def _missing(data: bytes) -> bytes:
    return b""
