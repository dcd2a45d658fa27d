"""The run directory: where it is made, and the one place that writes files. Knows no model.

A write is whole or absent: a temporary file beside the target, flushed to disk, renamed over it,
and the directory flushed.
"""

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import (
    GpunetError,
    InputMissing,
    ModelInvalid,
    NotPermitted,
    OutputExists,
    WriteError,
)
from gpunet.view import finite

FORMAT = "gpunet.model/1"
NAME = re.compile(r"[a-z0-9_.]{1,128}")
MAX_HEADER = 64 * 2**20


def create(path: str | Path | None, data_name: str, root: Path | str = "runs") -> Path:
    """A new, empty run directory: `path`, or the first free `runs/<data>-<n>`.

    Raises OutputExists for a path that is taken, NotPermitted or WriteError where the system
    refuses.
    """
    with _system_errors(path or root):
        if path is not None:
            chosen = Path(path)
            chosen.parent.mkdir(parents=True, exist_ok=True)
            if chosen.is_dir() and not any(chosen.iterdir()):
                return chosen
            try:
                chosen.mkdir()
            except FileExistsError:
                hint = "name another with -o, or leave -o out"
                raise OutputExists(f"{chosen}: is there already", hint) from None
            return chosen
        return _first_free(Path(root), _slug(data_name))


def write(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _system_errors(path):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_directory(path.parent)


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON object as a line; numbers that are not finite become null."""
    with _system_errors(path), open(path, "a") as file:
        file.write(json.dumps(finite(record), allow_nan=False) + "\n")


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as indented JSON; numbers that are not finite become null."""
    write(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def pack(tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bytes:
    """A safetensors file of arrays and a JSON state, with the SHA-256 of both in its metadata."""
    from safetensors.numpy import save

    dense = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    head = {"format": FORMAT, "sha256": _digest(dense, text), "state": text}
    return save(dense, metadata={"gpunet": json.dumps(head)})


def unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and state of a file that `pack` made.

    Raises InputMissing, NotPermitted, or ModelInvalid with what is wrong: nothing of a file is
    used before all of it has been checked.
    """
    with _system_errors(path):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise InputMissing(f"{path}: no such file") from None
        except IsADirectoryError:
            raise ModelInvalid(f"{path}: a directory, not a model file") from None
    try:
        metadata = _metadata(content)
        from safetensors.numpy import load

        tensors = load(content)
        text = metadata["state"]
        if _digest(tensors, text) != metadata["sha256"]:
            raise ValueError("the SHA-256 does not match: the file is damaged")
        state = json.loads(text)
    except GpunetError:
        raise
    except Exception as reason:
        raise ModelInvalid(f"{path}: not a gpunet model: {_first_line(reason)}") from None
    return tensors, state


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, after a strict look at its header."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("the header's length is wrong")
    header = json.loads(content[8 : 8 + size], object_pairs_hook=_no_duplicates)
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or set(metadata) != {"gpunet"}:
        raise ValueError("no gpunet metadata")
    metadata = json.loads(metadata["gpunet"], object_pairs_hook=_no_duplicates)
    if not isinstance(metadata, dict) or set(metadata) != {"format", "sha256", "state"}:
        raise ValueError("gpunet metadata of another form")
    if metadata["format"] != FORMAT:
        raise ValueError(f"format {metadata['format']!r}; this gpunet reads {FORMAT}")
    if wrong := [name for name in header if not NAME.fullmatch(name)]:
        raise ValueError(f"a tensor named {wrong[0]!r}")
    return metadata


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _digest(tensors: Mapping[str, np.ndarray], text: str) -> str:
    digest = sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _first_free(root: Path, slug: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    taken = [path.name.removeprefix(f"{slug}-") for path in root.glob(f"{slug}-*")]
    number = max((int(n) for n in taken if n.isascii() and n.isdigit()), default=0) + 1
    while True:
        try:
            (path := root / f"{slug}-{number}").mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "data"


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _system_errors(path: Path | str) -> Iterator[None]:
    """OSErrors as ours, naming the path and the system's reason."""
    try:
        yield
    except OSError as reason:
        message = f"{path}: {reason.strerror or reason}"
        if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermitted(message) from reason
        raise WriteError(message) from reason


def _first_line(reason: BaseException) -> str:
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]
