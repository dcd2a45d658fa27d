"""Lists with commas, and quotes in them."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.commas import joined, split


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a, b ", ("a", "b")),
        ("a,,b,", ("a", "", "b", "")),
        ("", ("",)),
        ('"y, USD",c', ("y, USD", "c")),
        ('"a, m"=category, b=date', ("a, m=category", "b=date")),
        ('"say ""hi"""', ('say "hi"',)),
        ('5" pipe,b', ('5" pipe', "b")),
        ('"open,b', ('"open', "b")),
        ('" a "', (" a ",)),
    ],
)
def test_a_list_is_cut_at_commas_outside_quotes(text: str, parts: tuple[str, ...]) -> None:
    assert split(text) == parts


@given(st.lists(st.text(), min_size=1))
def test_what_was_joined_is_split_again(parts: list[str]) -> None:
    assert list(split(joined(parts))) == parts


@given(st.lists(st.text("ab ,'\"="), min_size=1))
def test_a_list_in_quotes_is_read_as_csv_reads_it(parts: list[str]) -> None:
    text = ",".join('"' + part.replace('"', '""') + '"' for part in parts)
    assert list(split(text)) == next(csv.reader([text]))


def test_quotes_stand_only_where_they_are_needed() -> None:
    assert joined(["a b", "c,d", 3]) == 'a b,"c,d",3'
