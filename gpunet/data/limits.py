"""How much memory data may take: what this process may use, and what was asked of it."""

import os
from pathlib import Path, PurePosixPath

from gpunet.errors import DataError, OutOfMemory
from gpunet.sizes import shown

CGROUPS = Path("/sys/fs/cgroup")
UNKNOWN = 8 << 30
PLAUSIBLE = 200  # times that data shrink when they are packed
HARMLESS = 64 << 20  # bytes that may come of however few


def available() -> int:
    """Bytes of memory that this process may use: the machine's, or the least limit on it."""
    return min([_physical(), *_cgroup_limits(), *_process_limits()])


def automatic() -> int:
    """What `--max-memory auto` means, in bytes."""
    return available() // 2


def allowed(asked: int | str) -> int:
    """The bytes of a `--max-memory` that may be auto."""
    return automatic() if isinstance(asked, str) else asked


def check_fits(what: str, asked: int, budget: int, hint: str | None = None) -> None:
    """OutOfMemory, with both numbers, when `asked` bytes are more than `budget`."""
    if asked > budget:
        raise OutOfMemory(
            f"{what}: needs {shown(asked)}; --max-memory allows {shown(budget)}",
            f"{f'{hint}, or ' if hint else ''}raise --max-memory",
        )


def check_ratio(what: str, unpacked: int, packed: int, hint: str = "gunzip it first") -> None:
    """DataError when so few bytes unpack to so many that they look like a decompression bomb."""
    if unpacked > max(HARMLESS, PLAUSIBLE * packed):
        raise DataError(
            f"{what}: {shown(packed)} unpack to {shown(unpacked)} or more, more than "
            f"{PLAUSIBLE} times as much, as decompression bombs do",
            f"if it is no bomb: {hint}",
        )


def _physical() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _cgroup_limits() -> list[int]:
    """The limits of this process's memory cgroups and of all above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            found += _limits_above(CGROUPS, path, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits_above(CGROUPS / "memory", path, "memory.limit_in_bytes")
    return found


def _limits_above(root: Path, path: str, name: str) -> list[int]:
    here, found = PurePosixPath(path.lstrip("/")), []
    for group in (here, *here.parents):
        try:
            found.append(int((root / group / name).read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return found


def _process_limits() -> list[int]:
    try:
        import resource
    except ImportError:
        return []
    limits = (resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]
