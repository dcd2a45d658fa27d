"""Bytes in words, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.sizes import counted, parse_size, plain, shown


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1234", 1234),
        ("512M", 512 << 20),
        ("2G", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("0.5 kb", 512),
        (" 1t ", 1 << 40),
        ("7B", 7),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "1_000", "2 GG", "nan", "٣M", "9" * 400])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="must be a size such as 512M"):
        parse_size(text)


def test_sizes_are_shown() -> None:
    sizes = (0, 1023, 1024, 20 << 20, 3 << 29, 5 << 50)
    assert [shown(size) for size in sizes] == [
        "0 B",
        "1,023 B",
        "1.0 KiB",
        "20.0 MiB",
        "1.5 GiB",
        "5,120.0 TiB",
    ]


@pytest.mark.parametrize("text", ["0", "0.0001K", "0GiB"])
def test_no_memory_at_all_is_no_limit_to_give(text: str) -> None:
    with pytest.raises(ValueError, match="must be a byte or more"):
        parse_size(text)


@given(st.integers(1, 1 << 45))
def test_what_is_shown_is_read_back_to_a_twentieth_of_its_unit(count: int) -> None:
    back = parse_size(shown(count).replace(",", ""))
    assert abs(back - count) <= max(0, count // 20)


def test_things_are_counted_in_words() -> None:
    assert [counted(n, "epoch") for n in (0, 1, 1200)] == ["0 epochs", "1 epoch", "1,200 epochs"]
    assert [counted(2, noun) for noun in ("class", "category")] == ["2 classes", "2 categories"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2007.0, "2007"),
        (1e6, "1000000"),
        (0.0, "0"),
        (-2.5, "-2.5"),
        (1 / 3, "0.333333"),
        (1e99, "1e+99"),
    ],
)
def test_numbers_of_a_table(value: float, text: str) -> None:
    assert plain(value) == text
