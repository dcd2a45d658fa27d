"""What rows hold that training never saw, in words."""

from collections import Counter

from gpunet.data.columns import Column
from gpunet.data.unseen import Unseen

ENDS = {"a": (0.5, 3.0), "b": (-1.0, 1.0), "day": (0.0, 31.0)}
COLUMNS = [
    Column(name, "date" if name == "day" else "numeric", False, ends=ends)
    for name, ends in ENDS.items()
]


def test_each_column_has_a_line() -> None:
    unseen = Unseen(100, Counter(town=1), Counter(a=100), Counter(a=2, day=50))
    assert unseen.notes(COLUMNS) == [
        "town: a category that training never saw in 1 row",
        "a: missing in 100 of 100 rows, in none of training",
        "a: far outside the 0.5 … 3 of training in 2 of 100 rows",
        "day: far outside the 1970-01-01 … 1970-02-01 of training in 50 of 100 rows",
    ]


def test_handfuls_of_missing_cells_are_one_line_and_of_numbers_none() -> None:
    unseen = Unseen(1000, Counter(), Counter(a=10, b=11, day=1), Counter(a=1, b=11, day=10))
    assert unseen.notes(COLUMNS) == [
        "b: missing in 11 of 1,000 rows, in none of training",
        "a, day: 11 cells missing, where none of training was",
        "b: far outside the -1 … 1 of training in 11 of 1,000 rows",
    ]
    assert Unseen(1000, missing=Counter(a=1)).notes(COLUMNS) == [
        "a: missing in 1 of 1,000 rows, in none of training"
    ]


def test_counts_add_up_over_pieces() -> None:
    whole = Unseen(2, Counter(a=1)) + Unseen(3, Counter(a=1, b=1), outside=Counter(b=2))
    assert whole == Unseen(5, Counter(a=2, b=1), Counter(), Counter(b=2))
