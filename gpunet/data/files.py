"""The bytes of a file or of standard input, unpacked, within a memory budget.

Refuses what is not there, what may not be read and what would not fit; knows no format but gzip.
"""

import codecs
import errno
import os
import stat
import sys
import zlib
from pathlib import Path
from typing import IO

from gpunet.data.words import closest
from gpunet.errors import DataError, InputMissing, NotPermitted

CHUNK = 1 << 20
PACKED = 1 << 13  # unpacks to 8.4 MB at most
GZIP = b"\x1f\x8b"

Bytes = bytes | bytearray


def budget() -> int:
    """How many bytes one input may take: half of the memory that this process may use."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        memory = 8 << 30
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(limit).read_text()))
        except (OSError, ValueError):
            continue
    return memory // 2


def text_budget() -> int:
    """How many bytes of text one input may hold: as a table they take a good deal more."""
    return budget() // 8


def size(count: int) -> str:
    """`2.1 GB`, `12 bytes`."""
    for unit, scale in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def load(path: str) -> Bytes:
    """The content of a file, or of standard input for `-`; gzip is unpacked, whatever the name."""
    name = "stdin" if path == "-" else path
    raw = _read_stdin() if path == "-" else _read_file(path)
    if raw[:2] != GZIP:
        return raw
    try:
        return _unpack(raw, text_budget(), name)
    except zlib.error as error:
        raise DataError(f"{name}: the gzip file is damaged ({error})") from None


def check_text(data: Bytes, name: str) -> None:
    """Let only UTF-8 without NUL bytes pass; else a DataError with the line and the byte."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if data.startswith(mark):
            raise _not_utf8(name, encoding, "utf-16")
    nul = data.find(b"\0")
    if nul >= 0:
        if data[:200].count(b"\0") * 3 > len(data[:200]):
            raise _not_utf8(name, "UTF-16 without a byte order mark", "utf-16")
        raise DataError(f"{name}: line {line_of(data, nul):,} holds a NUL byte; wanted text")
    if data.isascii():
        return
    decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        while at < len(data):
            decoder.decode(data[at : at + CHUNK], final=at + CHUNK >= len(data))
            at += CHUNK
    except UnicodeDecodeError as error:
        held = len(error.object) - len(data[at : at + CHUNK])
        where = at - held + error.start
        raise DataError(
            f"{name}: line {line_of(data, where):,}, byte {where:,} is 0x{data[where]:02x}, "
            "which is not UTF-8",
            "if the file is Latin-1: iconv -f latin1 -t utf-8",
        ) from None


def line_of(data: Bytes, at: int) -> int:
    """The line, from 1, on which byte `at` stands."""
    return data.count(b"\n", 0, at) + 1


def _not_utf8(name: str, encoding: str, argument: str) -> DataError:
    return DataError(
        f"{name}: the text is {encoding}; wanted UTF-8", f"iconv -f {argument} -t utf-8"
    )


def _read_file(path: str) -> Bytes:
    try:
        with open(path, "rb") as file:
            status, limit = os.fstat(file.fileno()), budget()
            if stat.S_ISREG(status.st_mode) and status.st_size > limit:
                raise _too_large(path, limit)
            return file.read() if stat.S_ISREG(status.st_mode) else _drain(file, limit, path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputMissing(f"{path}: no such file", _near(path)) from None
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read", "check its permissions") from None
    except ValueError:
        raise InputMissing(f"{path!r} is not a file name") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputMissing(f"{path[:60]}…: the name is too long for a file") from None
        raise DataError(f"{path}: could not be read ({error.strerror})") from None


def _read_stdin() -> Bytes:
    if sys.stdin is None:
        raise InputMissing("stdin: it is closed")
    try:
        return _drain(sys.stdin.buffer, budget(), "stdin")
    except OSError as error:
        raise DataError(f"stdin: could not be read ({error.strerror})") from None


def _drain(file: IO[bytes], limit: int, name: str) -> bytearray:
    content = bytearray()
    while chunk := file.read(CHUNK):
        content += chunk
        if len(content) > limit:
            raise _too_large(name, limit)
    return content


def _unpack(raw: Bytes, limit: int, name: str) -> bytearray:
    """The members of a gzip file, one after the other; zeros may follow the last."""
    content, at = bytearray(), 0
    while raw[at:].strip(b"\0"):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if at >= len(raw):
                raise DataError(f"{name}: the gzip file is cut short")
            content += member.decompress(raw[at : at + PACKED])
            at += PACKED
            if len(content) > limit:
                raise _too_large(name, limit)
        at = min(at, len(raw)) - len(member.unused_data)
    return content


def _too_large(name: str, limit: int) -> DataError:
    return DataError(
        f"{name}: holds more than {size(limit)}, the share of this machine's memory for one input",
        "use fewer columns or fewer rows",
    )


def _near(path: str) -> str | None:
    folder, name = os.path.split(path)
    try:
        return closest(name, sorted(os.listdir(folder or "."))[:10_000])
    except (OSError, ValueError):
        return None
