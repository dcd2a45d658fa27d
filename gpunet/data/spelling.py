"""Numbers as people write them: 1,234.50 and 1,5, $3, 20 %, −7. Says how to write them plainly;
refuses to read them so unless the decimal mark is said, because 1,234 is two numbers. And labels
that are one, however files write them."""

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np

from gpunet.data.words import NUMBER, is_number, quoted

if TYPE_CHECKING:
    import pyarrow as pa

Label = str | int | bool
MOSTLY = 0.98  # from this share of good cells the rest are mistakes
FIRST, MANY = 3, 1000  # texts, of which one is a number, or no more are looked at; and then so many
THOUSANDS = r"[1-9]\d{0,2}(,\d{3})+(\.\d*)?"
DECIMALS = r"(\d+|\d{1,3}(\.\d{3})+),\d+"
AMOUNT = rf"({THOUSANDS}|{DECIMALS}|\d+\.?\d*|\.\d+)"
TRUTHS = ("true", "false")
PLAIN = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")
"""Numbers as files write what is whole: 01 and 1e2 are codes."""
CURRENCIES, MINUSES = "$€£¥", "−–"
SIGN = rf"[+\-{MINUSES}]?"
SIGNS = {
    "a percent sign": rf"{SIGN}{AMOUNT}\s?%",
    "a currency sign": rf"{SIGN}([{CURRENCIES}]\s?{SIGN}{AMOUNT}|{AMOUNT}\s?[{CURRENCIES}])",
    "a typographic minus sign": rf"[{MINUSES}](\d+\.?\d*|\.\d+)([eE][+-]?\d+)?",
}
MARKS = {".": rf"{SIGN}{THOUSANDS}", ",": rf"{SIGN}{DECIMALS}"}
WAYS = {**SIGNS, "thousands separators": MARKS["."], "a decimal comma": MARKS[","]}
EITHER = re.compile(r"-?[1-9]\d{0,2}[,.]\d{3}", re.ASCII)
_thousands = re.compile(THOUSANDS, re.ASCII)


def like(texts: "pa.Array", pattern: str) -> np.ndarray:
    """Whether each text has what a pattern says, (n,) bool."""
    import pyarrow.compute as pc

    found = pc.match_substring_regex(texts, pattern)
    return np.asarray(found.to_numpy(zero_copy_only=False), bool)


def plainly(texts: "pa.Array", decimal: str) -> "pa.Array":
    """Texts with the numbers among them written plainly, which have this decimal mark, and maybe
    the other one between thousands; a plain number that has not is none any more."""
    import pyarrow.compute as pc

    texts = pc.replace_substring_regex(texts, rf"^[{MINUSES}]([\d.,])", r"-\1")
    if decimal == ",":
        for old, new in ((",", "\0"), (".", ","), ("\0", ".")):
            texts = pc.replace_substring(texts, old, new)
    has_thousands = pc.match_substring_regex(texts, f"^[+-]?{THOUSANDS}$")
    return pc.if_else(has_thousands, pc.replace_substring(texts, ",", ""), texts)


def readings(text: str) -> tuple[str, ...]:
    """A number that is written in one of these ways as it is to be written: both, where a comma or
    a point before three digits may divide either; none for other text."""
    if not any(re.fullmatch(way, text, re.ASCII) for way in WAYS.values()):
        return ()
    if is_number(text := _minus(text)):
        return (text,)
    bare = _bare(text)
    whole, part = bare.replace(",", ""), bare.replace(".", "").replace(",", ".")
    if EITHER.fullmatch(bare):
        return (bare.replace(",", "").replace(".", ""), bare.replace(",", "."))
    if _thousands.fullmatch(bare.lstrip("-")):
        return (whole,)
    return (part,) if "," in bare else (bare,)


def told(texts: "pa.Array", decimal: str | None = None) -> str | None:
    """What to say of different texts that all but a few are numbers, some in one of these ways;
    with a `decimal` mark in one that it is not for."""
    import pyarrow as pa

    if not any(is_number(text) or readings(text) for text in texts[:FIRST].to_pylist()):
        return None
    ways, plain = (WAYS, texts) if decimal is None else (SIGNS, plainly(texts, decimal))

    found = {what: like(texts, f"^({way})$") for what, way in ways.items()}
    good = np.logical_or.reduce([like(plain, NUMBER), *found.values()])
    what = max(found, key=lambda what: np.count_nonzero(found[what]))
    if not found[what].any() or np.count_nonzero(good) < MOSTLY * len(texts):
        return None
    own = texts.filter(pa.array(found[what]))[:MANY].to_pylist()
    example = next((text for text in own if len(readings(text)) == 1), own[0])
    mend = advice(example) if decimal is None else f"write them like {_bare(example)}"
    return f"numbers with {what}, such as {quoted(example)}, were read as text; {mend}"


def advice(text: str, them: str = "them") -> str:
    """What to do about a number that is written in one of these ways."""
    found = readings(text)
    like = found[0] if len(found) == 1 else f"{' or '.join(found)}, whichever is meant"
    mend = f"write {them} like {like}"
    marks = [mark for mark, way in MARKS.items() if re.fullmatch(way, text, re.ASCII)]
    return f"{mend}; --decimal {' or '.join(marks)} reads them as they are" if marks else mend


def _bare(text: str) -> str:
    return re.sub(rf"[{CURRENCIES}%\s+]", "", _minus(text))


def _minus(text: str) -> str:
    return re.sub(f"[{MINUSES}]", "-", text)


def places(own: Sequence[Label], wanted: Sequence[Label]) -> np.ndarray:
    """Where each label stands among those wanted, -1 if nowhere, and last a -1: 1, "1" and "1.0"
    are one number, True and "true" one truth, unless two that are wanted differ in spelling alone.
    """
    for key in (_meaning, str):
        found = {key(label): place for place, label in enumerate(wanted)}
        if len(found) == len(wanted):
            break
    return np.array([*(found.get(key(label), -1) for label in own), -1], np.int32)


def _meaning(label: Label) -> Decimal | str:
    text = str(label)
    if PLAIN.fullmatch(number := text.strip()):
        return Decimal(number)  # float64 takes long whole numbers for one
    truth = text.casefold()
    return truth if truth in TRUTHS else text
