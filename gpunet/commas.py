"""Lists with commas, and names, as the command line has them. Refuses nothing: quotes that do not
close are text."""

import re
from collections.abc import Iterable
from shlex import quote

_part = re.compile(r'\s*("(?:[^"]|"")*")?([^,]*)(,|$)')


def split(text: str) -> tuple[str, ...]:
    """The parts of `a, "b, c"=1`, here `a` and `b, c=1`: quotes at the front of a part keep its
    commas and spaces, and stand for themselves doubled, as in CSV."""
    found = []
    for each in _part.finditer(text):
        quotes, rest, comma = each.groups("")
        found.append(quotes[1:-1].replace('""', '"') + (rest.rstrip() if quotes else rest.strip()))
        if not comma:
            break
    return tuple(found)


def joined(parts: Iterable[object]) -> str:
    """What `split` makes these parts of, with quotes where they are needed."""
    return ",".join(map(_quoted, map(str, parts)))


def argument(path: object) -> str:
    """A path as it is typed into a shell, where none is an option."""
    text = str(path)
    return quote(f"./{text}" if text.startswith("-") else text)


def _quoted(part: str) -> str:
    if part == part.strip() and "," not in part and not part.startswith('"'):
        return part
    doubled = part.replace('"', '""')
    return f'"{doubled}"'
