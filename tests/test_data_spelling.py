"""Numbers as people write them."""

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.data.spelling import plainly, readings, told
from gpunet.data.words import is_number


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("3,455.84", "3455.84"),
        ("-13,031", "-13031 -13.031"),
        ("€1.234", "1234 1.234"),
        ("2.500,00 €", "2500.00"),
        ("1,234,567.", "1234567."),
        ("1,5", "1.5"),
        ("0,346", "0.346"),
        ("-1.234,5", "-1234.5"),
        ("$12.50", "12.50"),
        ("-$1,250.5", "-1250.5"),
        ("$-3", "-3"),
        ("12,50 €", "12.50"),
        ("£.5", ".5"),
        ("1.2%", "1.2"),
        ("+7 %", "7"),
        ("−1.5", "-1.5"),
        ("–1.234", "-1.234"),
        ("−1,5", "-1.5"),
        ("−$1,250.5", "-1250.5"),
        ("−2e-3", "-2e-3"),
    ],
)
def test_numbers_are_written_plainly(text: str, plain: str) -> None:
    assert readings(text) == tuple(plain.split())
    for each in readings(text):
        float(each)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.5",
        "x",
        "%",
        "$",
        "1,2,3",
        "12,34.5",
        "1.2.3",
        "1,5x",
        "$%",
        "-",
        "1,",
        "−",
        "1–2",
    ],
)
def test_other_text_has_no_plain_way(text: str) -> None:
    assert readings(text) == ()


@given(st.floats(-1e15, 1e15))
def test_python_writes_thousands_that_are_read_back(value: float) -> None:
    assert value == 0 or float(readings(f"${value:,.2f}")[0]) == float(f"{value:.2f}")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["3,455.84", "455.84", "12"], 'such as "3,455.84", .* like 3455.84; --decimal . reads'),
        (["2,654", "0,346"], 'such as "0,346", .* like 0.346; --decimal , reads them as they are$'),
        (
            ["2,654", "1,346"],
            'such as "2,654", .* like 2654 or 2.654, whichever is meant; --decimal . or , reads',
        ),
        (["1.234 €", "2.500,00 €"], 'such as "2.500,00 €", .* like 2500.00$'),
        (["−1.5", "2.5"], 'a typographic minus sign, such as "−1.5", .* like -1.5$'),
        (["1", "20%"], 'a percent sign, such as "20%", .* like 20'),
        (["€1.5", "2 €"], 'a currency sign, such as "€1.5", .* like 1.5'),
        (["1,5"] * 98 + ["x", "y"], "a decimal comma"),
    ],
)
def test_what_they_look_like_is_told(texts: list[str], words: str) -> None:
    found = told(pa.array(texts))
    assert found is not None
    assert re.search(words, found)


@pytest.mark.parametrize(
    ("mark", "written"),
    [
        (",", {"1,5": 1.5, "-1.234,5": -1234.5, "1.234": 1234, "+7": 7, "−0,5": -0.5, ",5": 0.5}),
        (",", {"1,5e3": 1500, "1.234.567": 1234567, "12.345.678,25": 12345678.25, "3,": 3}),
        (".", {"1.5": 1.5, "-1,234.5": -1234.5, "1,234": 1234, "7": 7, "−7": -7, "1e3": 1000}),
    ],
)
def test_a_decimal_mark_that_is_said_reads_numbers_with_it(mark: str, written: dict) -> None:
    plain = plainly(pa.array(list(written)), mark).to_pylist()
    assert all(map(is_number, plain))
    assert list(map(float, plain)) == list(written.values())


@pytest.mark.parametrize(
    ("mark", "texts"),
    [
        (",", ["1.5", "1,234.5", "1,2,3", "12.34,5", "1.5e3", "0.123"]),
        (".", ["1,5", "1.234,5", "1,23", "0,123", "1,2345"]),
    ],
)
def test_what_has_another_mark_is_no_number(mark: str, texts: list[str]) -> None:
    assert not any(map(is_number, plainly(pa.array(texts), mark).to_pylist()))


@given(st.floats(-1e15, 1e15), st.sampled_from([",", "."]))
def test_what_python_writes_is_read_by_its_mark(value: float, mark: str) -> None:
    texts = pa.array([f"{value:,.2f}"])
    texts = (
        texts
        if mark == "."
        else pa.array(["".join({",": ".", ".": ","}.get(c, c) for c in texts[0].as_py())])
    )
    assert float(plainly(texts, mark)[0].as_py()) == float(f"{value:.2f}")


def test_signs_are_told_of_where_the_mark_is_known() -> None:
    found = told(pa.array(["1.234,5 €", "2,5 €", "7"]), ",")
    assert found is not None
    assert found.endswith('"1.234,5 €", were read as text; write them like 1.234,5')
    assert told(pa.array(["1.5", "2.5"]), ",") is None


@pytest.mark.parametrize(
    "texts", [["1", "2.5"], ["a", "1,5", "b", "2,5"], ["1,5"] * 97 + ["x"] * 3, ["x", "y", "z"]]
)
def test_text_that_is_no_number_is_not_told_of(texts: list[str]) -> None:
    assert told(pa.array(texts)) is None
