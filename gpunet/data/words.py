"""The words of the table room: what stands for missing, true and false, and how names and values
are quoted in messages. Refuses to print and to escape: messages carry data as it stands.
"""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise
from shlex import quote

from gpunet.commas import joined

MISSING = ("", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None")
# Categories may well be called so, and these words are missing only among numbers and dates; the
# last ones are what C writes for NaN.
MISSING_NUMBER = (*MISSING, "?", "-", "NAN", "-nan", "nan(ind)", "-nan(ind)")
TRUE = ("true", "yes", "t", "y")
FALSE = ("false", "no", "f", "n")

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
FORMULA = r"^[=+\-@\t\r]"
"""How text begins that a spreadsheet runs, unless it is a number."""
TABULAR = "columns of several kinds, or one row, are given as a table: a dict of lists, a frame"
HEADERLESS = "the first line looks like data; --no-header says that it is"
_number, _formula = re.compile(NUMBER, re.ASCII), re.compile(FORMULA)


def is_number(text: str) -> bool:
    """Whether a text is a plain decimal number: no hexadecimal, no underscores, no padding."""
    return _number.match(text) is not None


def is_formula(text: str) -> bool:
    """Whether a spreadsheet would take a text for a formula."""
    return _formula.match(text) is not None and not is_number(text)


def quoted(value: object) -> str:
    """A value for a message, at most 40 characters of it."""
    text = str(value)
    return f'"{text}"' if len(text) <= 40 else f'"{text[:37]}…"'


def listed(names: Iterable[object], most: int = 10) -> str:
    """Names with commas; past `most` only their number."""
    words = [str(name) for name in names]
    if len(words) <= most:
        return ", ".join(words)
    return f"{', '.join(words[:most])} and {len(words) - most:,} more"


def like_data(names: Sequence[str]) -> bool:
    """Whether names look like a row of a table: all are numbers, or half of them and one with a
    fraction, which a year has not; and they are no scale, which rises or falls throughout."""
    numbers = list(filter(is_number, names))
    values = list(map(float, numbers))
    if len(values) > 2 and (_rises(values) or _rises(values[::-1])):
        return False
    has_fraction = any("." in number for number in numbers)
    return bool(numbers) and (
        len(numbers) == len(names) or (has_fraction and 2 * len(numbers) >= len(names))
    )


def _rises(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def option(name: str, *values: object) -> str:
    """An option with a list of values, as it is typed into a shell: `--drop 'a b',c`."""
    return f"{name} {quote(joined(values))}"


def closest(name: str | Sequence[str], names: Sequence[str]) -> str | None:
    """The hint `did you mean "price"?` for a name, or for several; None when none comes near."""
    wrong = [name] if isinstance(name, str) else name
    near = dict.fromkeys(found for each in wrong if (found := _closest(each, names)))
    return f"did you mean {', '.join(near)}?" if near else None


def _closest(name: str, names: Sequence[str]) -> str:
    if len(names) > 2000:
        names = [other for other in names if abs(len(other) - len(name)) <= 2]
    folded = {other.casefold(): other for other in reversed(names)}
    near = get_close_matches(name.casefold(), list(folded), n=2, cutoff=0.6)
    return " or ".join(quoted(folded[word]) for word in near)
