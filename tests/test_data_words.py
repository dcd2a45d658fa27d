"""The phrases of messages."""

import pytest

from gpunet.data.words import closest, is_number, like_data, listed, option, quoted
from gpunet.sizes import counted


@pytest.mark.parametrize("text", ["1", "-1", "+1.5", ".5", "5.", "1e5", "1E+5", "00501"])
def test_plain_decimal_numbers_are_numbers(text):
    assert is_number(text)


@pytest.mark.parametrize(
    "text", ["", "0x10", "1_000", "1,5", " 1", "inf", "nan", "1e", ".", "\u0661"]
)
def test_everything_else_is_not(text):
    assert not is_number(text)


def test_counts_are_grouped_and_plural():
    assert counted(1, "row") == "1 row"
    assert counted(20640, "row") == "20,640 rows"
    assert counted(3, "category") == "3 categories"
    assert counted(2, "class") == "2 classes"


def test_long_lists_and_long_values_are_cut():
    assert listed("abc") == "a, b, c"
    assert listed(range(1012), most=2) == "0, 1 and 1,010 more"
    assert quoted("x" * 50) == '"' + "x" * 37 + '…"'


def test_the_closest_name_ignores_case_and_gives_up_on_strangers():
    assert closest("prise", ["size", "Price"]) == 'did you mean "Price"?'
    assert closest("PRICE", ["price"]) == 'did you mean "price"?'
    assert closest(("SIZE", "mass", "Size", "prise"), ["size", "price"]) == (
        'did you mean "size", "price"?'
    )
    assert closest("zzz", ["price"]) is None


def test_the_closest_name_is_found_among_very_many():
    assert closest("c990x", [f"c{i}" for i in range(10_000)]) is not None


@pytest.mark.parametrize(
    ("names", "is_like"),
    [
        (["1", "2"], True),
        (["0.5", "x"], True),
        (["country", "2019", "2020", "2021"], False),
        (["sample", "400.0", "400.5", "401.0", "protein"], False),
        (["2018", "2019", "2020"], False),
        (["0.3456", "-0.5928", "2.6541"], True),
        (["0.5", "x", "y"], False),
        (["a", "b"], False),
        ([], False),
    ],
)
def test_names_that_look_like_data(names, is_like):
    assert like_data(names) == is_like


def test_an_option_is_written_as_a_shell_takes_it():
    assert option("--drop", "a") == "--drop a"
    assert option("--drop", "a b", "c,d", 'e"') == """--drop 'a b,"c,d",e"'"""
