"""Sizes in words: bytes, and back (1.5 GiB), so many of a thing, and a table's numbers. Refuses to
count bytes in powers of ten."""

import re

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of `512M`, `2G`, `1.5GiB` or a plain number; ValueError for anything else."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be a size such as 512M, 1.5GiB or a number of bytes")
    power = " KMGT".index(found[2].upper() or " ")
    whole, _, rest = found[1].partition(".")
    count = (int(whole + rest) << 10 * power) // 10 ** len(rest)
    if count == 0:
        raise ValueError("must be a byte or more")
    return count


def shown(count: int) -> str:
    """Bytes in words: 512 B, 3.1 KiB, 20.0 MiB."""
    value, unit = float(count), UNITS[0]
    for larger in UNITS[1:]:
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count:,} B" if unit == "B" else f"{value:,.1f} {unit}"


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,204 rows`; nouns that take -ies or -es do so."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def plain(value: float) -> str:
    """A number of a table: a whole one in full, of others six digits; no commas, which years have
    not."""
    return f"{value:.0f}" if value % 1 == 0 and abs(value) < 1e15 else f"{value:.6g}"
