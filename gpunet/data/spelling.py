"""Numbers as people write them: 1,234.50 and 1,5, $3, 20 %, −7. Says how to write them plainly;
refuses to read them so, because 1,234 is two numbers."""

import re
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.words import NUMBER, is_number, quoted

if TYPE_CHECKING:
    import pyarrow as pa

MOSTLY = 0.98  # from this share of good cells the rest are mistakes
FIRST, MANY = 3, 1000  # texts, of which one is a number, or no more are looked at; and then so many
THOUSANDS = r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?"
DECIMALS = r"(\d+|\d{1,3}(\.\d{3})+),\d+"
AMOUNT = rf"({THOUSANDS}|{DECIMALS}|\d+\.?\d*|\.\d+)"
CURRENCIES, MINUSES = "$€£¥", "−–"
SIGN = rf"[+\-{MINUSES}]?"
WAYS = {
    "a percent sign": rf"{SIGN}{AMOUNT}\s?%",
    "a currency sign": rf"{SIGN}([{CURRENCIES}]\s?{SIGN}{AMOUNT}|{AMOUNT}\s?[{CURRENCIES}])",
    "thousands separators": rf"{SIGN}{THOUSANDS}",
    "a decimal comma": rf"{SIGN}{DECIMALS}",
    "a typographic minus sign": rf"[{MINUSES}](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
}
EITHER = re.compile(r"-?[1-9]\d{0,2}[,.]\d{3}", re.ASCII)
_thousands = re.compile(THOUSANDS, re.ASCII)


def readings(text: str) -> tuple[str, ...]:
    """A number that is written in one of these ways as it is to be written: both, where a comma or
    a point before three digits may divide either; none for other text."""
    if not any(re.fullmatch(way, text, re.ASCII) for way in WAYS.values()):
        return ()
    text = re.sub(f"[{MINUSES}]", "-", text)
    if is_number(text):
        return (text,)
    bare = re.sub(rf"[{CURRENCIES}%\s+]", "", text)
    whole, part = bare.replace(",", ""), bare.replace(".", "").replace(",", ".")
    if EITHER.fullmatch(bare):
        return (bare.replace(",", "").replace(".", ""), bare.replace(",", "."))
    if _thousands.fullmatch(bare.lstrip("-")):
        return (whole,)
    return (part,) if "," in bare else (bare,)


def told(texts: "pa.Array") -> str | None:
    """What to say of different texts that all but a few are numbers, some in one of these ways."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not any(is_number(text) or readings(text) for text in texts[:FIRST].to_pylist()):
        return None

    def alike(way: str) -> np.ndarray:
        found = pc.match_substring_regex(texts, way)
        return np.asarray(found.to_numpy(zero_copy_only=False), bool)

    found = {what: alike(f"^({way})$") for what, way in WAYS.items()}
    good = np.logical_or.reduce([alike(NUMBER), *found.values()])
    what = max(found, key=lambda what: np.count_nonzero(found[what]))
    if not found[what].any() or np.count_nonzero(good) < MOSTLY * len(texts):
        return None
    own = texts.filter(pa.array(found[what]))[:MANY].to_pylist()
    example = next((text for text in own if len(readings(text)) == 1), own[0])
    return (
        f"numbers with {what}, such as {quoted(example)}, were read as text; "
        f"write them like {alternatives(example)}"
    )


def alternatives(text: str) -> str:
    """The readings of a number, for a message."""
    found = readings(text)
    return found[0] if len(found) == 1 else f"{' or '.join(found)}, whichever is meant"
