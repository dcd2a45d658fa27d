"""Numbers as people write them: 1,234.50 and 1,5, $3, 20 %. Says how to write them plainly; refuses
to read them so, because 1,234 is two numbers."""

import re
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.words import NUMBER, is_number, quoted

if TYPE_CHECKING:
    import pyarrow as pa

MOSTLY = 0.98  # from this share of good cells the rest are mistakes
FIRST = 3  # texts, of which one is a number, or no more are looked at
THOUSANDS = r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?"
DECIMALS = r"(\d+|\d{1,3}(\.\d{3})+),\d+"
AMOUNT = rf"({THOUSANDS}|{DECIMALS}|\d+\.?\d*|\.\d+)"
CURRENCIES = "$€£¥"
WAYS = {
    "a percent sign": rf"[+-]?{AMOUNT}\s?%",
    "a currency sign": rf"[+-]?([{CURRENCIES}]\s?[+-]?{AMOUNT}|{AMOUNT}\s?[{CURRENCIES}])",
    "thousands separators": rf"[+-]?{THOUSANDS}",
    "a decimal comma": rf"[+-]?{DECIMALS}",
}
_thousands = re.compile(THOUSANDS, re.ASCII)


def plainly(text: str) -> str | None:
    """A number that is written in one of these ways as it is to be written; None for other text."""
    if not any(re.fullmatch(way, text, re.ASCII) for way in WAYS.values()):
        return None
    bare = re.sub(rf"[{CURRENCIES}%\s+]", "", text)
    if _thousands.fullmatch(bare.lstrip("-")):
        return bare.replace(",", "")
    return bare.replace(".", "").replace(",", ".") if "," in bare else bare


def told(texts: "pa.Array") -> str | None:
    """What to say of different texts that all but a few are numbers, some in one of these ways."""
    import pyarrow.compute as pc

    if not any(is_number(text) or plainly(text) for text in texts[:FIRST].to_pylist()):
        return None

    def alike(way: str) -> np.ndarray:
        found = pc.match_substring_regex(texts, way)
        return np.asarray(found.to_numpy(zero_copy_only=False), bool)

    found = {what: alike(f"^({way})$") for what, way in WAYS.items()}
    good = np.logical_or.reduce([alike(NUMBER), *found.values()])
    what = max(found, key=lambda what: np.count_nonzero(found[what]))
    if not found[what].any() or np.count_nonzero(good) < MOSTLY * len(texts):
        return None
    sure = found[what] & (sum(found.values()) == 1)
    example = texts[int(np.argmax(sure if sure.any() else found[what]))].as_py()
    return (
        f"numbers with {what}, such as {quoted(example)}, were read as text; "
        f"write them like {plainly(example)}"
    )
