"""The bytes of a file or of standard input, unpacked, within a memory budget.

Refuses what is not there, what may not be read and what would not fit; knows no format but gzip.
"""

import codecs
import errno
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import BinaryIO

from gpunet.data.limits import check_fits, check_ratio
from gpunet.data.words import closest
from gpunet.errors import DataError, InputMissing, NotPermitted

CHUNK = 1 << 20
PACKED = 1 << 13  # unpacks to 8.4 MB at most
GZIP = b"\x1f\x8b"
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as UTF-16 does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
HANDED = re.compile(r"-|/dev/(stdin|fd/\d+)|/proc/self/fd/\d+")
STEMS_ALIKE = 0.8
FEWER = "use fewer columns or rows"

Bytes = bytes | bytearray


def is_passing(path: object) -> bool:
    """Whether what a path names can be read once, and by this process alone: standard input, what
    a shell hands over (`<(…)`), a pipe with a name."""
    if not isinstance(path, (str, os.PathLike)):
        return False
    if HANDED.fullmatch(os.fspath(path)):
        return True
    with suppress(OSError, ValueError):
        return stat.S_ISFIFO(os.stat(path).st_mode)
    return False


def here() -> str:
    """The working directory; "" where it is no longer there."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def seen_from(path: str | Path) -> str:
    """The folder from which a path is seen; of an absolute one none, that is "".

    InputMissing where the working directory is gone.
    """
    if os.path.isabs(path):
        return ""
    if folder := here():
        return folder
    raise InputMissing(
        f"{path}: the working directory is no longer there", "give the whole path, from /"
    )


def titled(path: str) -> str:
    """What messages call it."""
    return "stdin" if path == "-" else path


def load(path: str, budget: int, pieces: Iterable[bytes] | None = None) -> Bytes:
    """The content of a file, or of standard input for `-`; gzip is unpacked, whatever the name.

    `pieces` are the content where another process reads it. Raises OutOfMemory for more than
    `budget` bytes, DataError for damage and for what unpacks as decompression bombs do.
    """
    name = titled(path)
    if pieces is None and is_passing(path):
        pieces = chunks(path)
    raw = _read_file(path, budget) if pieces is None else _gathered(pieces, budget, name)
    if raw[:2] != GZIP:
        return raw
    try:
        return _unpack(raw, budget, name)
    except zlib.error as error:
        raise DataError(f"{name}: the gzip file is damaged ({error})") from None


def check_text(data: Bytes, name: str) -> None:
    """Let only UTF-8 without NUL bytes pass; else a DataError with the line and the byte."""
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            raise _not_utf8(name, encoding, encoding.casefold())
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
            "if the file is Windows-1252 or Latin-1: iconv -f cp1252 -t utf-8",
        ) from None


def line_of(data: Bytes, at: int) -> int:
    """The line, from 1, on which byte `at` stands; lines end with LF, CR or both."""
    return 1 + sum(data.count(end, 0, at) for end in (b"\n", b"\r")) - data.count(b"\r\n", 0, at)


def _not_utf8(name: str, encoding: str, argument: str) -> DataError:
    return DataError(
        f"{name}: the text is {encoding}; wanted UTF-8", f"iconv -f {argument} -t utf-8"
    )


def _read_file(path: str, budget: int) -> Bytes:
    with _reading(path), open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return _gathered(_pieces(file), budget, path)
        check_fits(path, status.st_size, budget, FEWER)
        return file.read()


def chunks(path: str = "-") -> Iterator[bytes]:
    """What stands in standard input, or in a file, a megabyte at a time."""
    if path == "-" and sys.stdin is None:
        raise InputMissing("stdin: it is closed")
    with _reading(titled(path)):
        if path == "-":
            yield from _pieces(sys.stdin.buffer)
            return
        with open(path, "rb") as file:
            yield from _pieces(file)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(partial(file.read, CHUNK), b"")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What the system says of a file that cannot be read, as ours."""
    try:
        yield
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


def _gathered(pieces: Iterable[bytes], budget: int, name: str) -> bytearray:
    content = bytearray()
    for piece in pieces:
        content += piece
        check_fits(name, len(content), budget, FEWER)
    return content


def _unpack(raw: Bytes, budget: int, name: str) -> bytearray:
    """The members of a gzip file, one after the other; zeros may follow the last."""
    content, at = bytearray(), 0
    while raw[at:].strip(b"\0"):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if at >= len(raw):
                raise DataError(f"{name}: the gzip file is cut short")
            content += member.decompress(raw[at : at + PACKED])
            at += PACKED
            check_fits(f"{name}, unpacked", len(content), budget, FEWER)
            check_ratio(name, len(content), at)
        at = min(at, len(raw)) - len(member.unused_data)
    return content


def _near(path: str) -> str | None:
    """A file whose name is alike but for its endings, which make all names alike."""
    folder, name = os.path.split(path)
    try:
        names = sorted(os.listdir(folder or "."))[:10_000]
    except (OSError, ValueError):
        return None
    near = get_close_matches(_stem(name), {_stem(other) for other in names}, cutoff=STEMS_ALIKE)
    return closest(name, [other for other in names if _stem(other) in near])


def _stem(name: str) -> str:
    return name.lstrip(".").partition(".")[0].casefold()
