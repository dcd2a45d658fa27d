"""Durable writes: a file is whole or absent, and what was acknowledged outlives a power cut.

Every system call that changes a disk, but for a run's lock, is made here through this module's
`os`: tests stand in for it to fail, kill or record each of them. Refuses to retry after an error.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from gpunet.errors import InputMissing, ModelInvalid, NotPermitted, OutputExists, WriteError
from gpunet.view import finite

TEMPORARY = ".tmp-"
IDENTITY = "run.json"
"""What makes a directory a run."""
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
ADD = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe would wait for its writer
LONGEST = 255
"""Bytes of a name."""


def write(path: Path, content: bytes | str) -> None:
    """Put `content` at `path`, whole or not at all; a link's target is replaced, not the link.

    A temporary file beside it is written, flushed to the disk and renamed over it; then the
    directory is flushed. A pipe or a device is written to as it is. Raises WriteError or
    NotPermitted, and then leaves nothing behind.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.is_symlink():
        with system_errors(path):
            path = _led(path)
    if _is_stream(path):
        _pour(path, data)
        return
    temporary = _temporary(path)
    with system_errors(path):
        try:
            _fill(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        flush_directory(path.parent)


def line(record: Mapping[str, Any]) -> str:
    """One JSON object as a line; numbers that are not finite are null."""
    return json.dumps(finite(record), allow_nan=False) + "\n"


def append(path: Path, line: str) -> None:
    """Add a line: handed to the system, not flushed to the disk."""
    with system_errors(path):
        descriptor = os.open(path, ADD, 0o644)
        try:
            _write_all(descriptor, line.encode())
        finally:
            os.close(descriptor)


def drop_torn_line(path: Path) -> None:
    """Take away what stands behind the last line end of a file."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.lseek(descriptor, max(0, os.fstat(descriptor).st_size - 1), os.SEEK_SET)
        if os.read(descriptor, 1) not in (b"", b"\n"):
            os.ftruncate(descriptor, read(path).rfind(b"\n") + 1)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Put `value` at `path` as indented JSON; numbers that are not finite become null."""
    write(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n")


def make_directory(path: Path, parents: bool = False) -> None:
    """A new directory that outlives a power cut; FileExistsError where there is something."""
    if parents and not path.parent.exists():
        with suppress(FileExistsError):
            make_directory(path.parent, parents)
    os.mkdir(path)
    flush_directory(path.parent)


def rename(path: Path, new: Path) -> None:
    """Give a file or a directory another name beside it; what has that name stays, an error."""
    with system_errors(new):
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
        os.rename(path, new)
        flush_directory(new.parent)


def remove(path: Path) -> None:
    """Take a file away; one that is gone already is fine."""
    with system_errors(path), suppress(FileNotFoundError):
        os.unlink(path)


def read(path: Path, limit: int | None = None) -> bytes:
    """A file's bytes, read rather than mapped; OSError when it is none, or longer than `limit`."""
    descriptor = os.open(path, READ)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if limit is not None and found.st_size > limit:
            raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, more than {limit:,}")
        return file.read()


def check_place(path: Path, named: Path | None = None) -> None:
    """Refuse, before any work is done, a path that nothing could be written to.

    Raises WriteError where it is a directory or in none, NotPermitted where the system forbids;
    both name `named` where that is what the user gave.
    """
    named = path if named is None else named
    with system_errors(named):
        folder = _led(path).parent
        if path.is_dir() or not folder.is_dir():
            number = errno.EISDIR if path.is_dir() else errno.ENOENT
            is_below_a_file = number == errno.ENOENT and folder.exists()
            why = f"{folder} is a file" if is_below_a_file else os.strerror(number)
            raise WriteError(f"{named}: {why}")
    if not _is_stream(path) and not os.access(folder, os.W_OK | os.X_OK):
        raise NotPermitted(f"{named}: {folder} cannot be written to")


def check_new(path: Path, hint: str) -> None:
    """Refuse a file that is there already; a pipe or a device takes what it is given."""
    if os.path.exists(path) and not _is_stream(path):
        raise OutputExists(f"{path}: is there already", hint)


def is_same(a: Path | str, b: Path | str) -> bool:
    """Whether two names are of one file that is there, and no pipe or device."""
    with suppress(OSError, ValueError):
        return os.path.samefile(a, b) and not _is_stream(Path(a))
    return False


def flush_directory(path: Path) -> None:
    """Make the names in a directory outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def system_errors(path: Path | str) -> Iterator[None]:
    """OSErrors as ours, naming the path and the system's reason."""
    try:
        yield
    except OSError as reason:
        message = f"{path}: {reason.strerror or reason}"
        if reason.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise NotPermitted(message) from reason
        if reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WriteError(message, _space(Path(path))) from reason
        raise WriteError(message) from reason


@contextmanager
def missing_is_ours(path: Path | str) -> Iterator[None]:
    """A file that is not there as InputMissing, other OSErrors as `system_errors` has them."""
    with system_errors(path):
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise InputMissing(f"{path}: no such file") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is wrong with a file that gpunet wrote, as it is read and parsed, as ours."""
    try:
        yield
    except FileNotFoundError:
        raise InputMissing(f"{path}: no such file") from None
    except PermissionError as reason:
        raise NotPermitted(f"{path}: {reason.strerror or reason}") from None
    except (OSError, ValueError, RecursionError) as reason:
        raise ModelInvalid(f"{path}: cannot be read ({reason})") from None


def _temporary(path: Path) -> Path:
    """A new name beside a path; not of the process's number, which others have had or will have."""
    start = f"{TEMPORARY}{token_hex(4)}-".encode()
    return path.with_name(os.fsdecode((start + os.fsencode(path.name))[:LONGEST]))


def _led(path: Path) -> Path:
    """Where links lead; OSError where they go round."""
    try:
        os.stat(path)
    except OSError as reason:
        if reason.errno == errno.ELOOP:
            raise
    return Path(os.path.realpath(path))


def _is_stream(path: Path) -> bool:
    with suppress(OSError):
        mode = os.stat(path).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return False


def _pour(path: Path, data: bytes) -> None:
    with system_errors(path):
        descriptor = os.open(path, os.O_WRONLY)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)


def _fill(path: Path, data: bytes) -> None:
    descriptor = os.open(path, NEW, 0o644)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _space(path: Path) -> str:
    is_of_a_run = any((place / IDENTITY).is_file() for place in (path, *path.parents[:2]))
    hint = f"make room, then {'resume' if is_of_a_run else 'try again'}"
    with suppress(OSError, AttributeError):
        found = os.statvfs(path if path.is_dir() else path.parent)
        return f"{found.f_bavail * found.f_frsize / 1e6:,.1f} MB are free there; {hint}"
    return hint
