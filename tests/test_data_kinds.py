"""Kinds of columns: as the user says them, and what the cells show."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest
from tables import columns, mixed

from gpunet.data import Schema, prepare, profile
from gpunet.data.kinds import centred_ranks, correlation
from gpunet.data.source import Source
from gpunet.errors import DataError, UsageError

VALUES = mixed()
SOURCE = columns(VALUES)


def prepared(source=SOURCE, **options):
    return prepare(source, **{"target": ("kind",), **options})


def kinds(found):
    return {column.name: column.kind for column in found.schema.columns}


def test_types_that_are_given_go_before_what_the_cells_show():
    assert kinds(prepared())["rooms"] == "numeric"
    found = prepared(types={"rooms": "category", "garden": "category"})
    assert kinds(found) == {
        "size": "numeric",
        "rooms": "category",
        "town": "category",
        "garden": "category",
        "sold": "date",
    }
    again = Schema.from_dict(found.schema.to_dict()).encode(SOURCE)[0]
    assert again[found.split.train].tobytes() == found.train.x.tobytes()


def test_ones_and_zeros_may_be_said_to_be_booleans():
    flags = columns({**VALUES, "flag": [i % 2 for i in range(200)]})
    assert kinds(prepared(flags))["flag"] == "numeric"
    assert kinds(prepared(flags, types={"flag": "boolean"}))["flag"] == "boolean"


@pytest.mark.parametrize(
    ("types", "error", "message"),
    [
        (
            {"romms": "numeric"},
            UsageError,
            '^--types romms: t has no such column; did you mean "rooms"',
        ),
        ({"kind": "category"}, UsageError, "--types kind: not a column that is learnt from"),
        ({"town": "numeric"}, DataError, r'200 of 200 values are not numbers \(row 2: "'),
        (
            {"rooms": "boolean"},
            DataError,
            r"rooms: 1\d\d of 200 values are not true or false \(row",
        ),
        ({"size": "date"}, DataError, r"size: 188 of 200 values are not dates \(row 2: "),
    ],
)
def test_types_that_do_not_fit(types, error, message):
    with pytest.raises(error, match=message):
        prepared(types=types)


def test_numbers_of_a_typed_column_that_are_no_booleans():
    table = pa.table({"a": [0, 1, 2, 1] * 5, "kind": ["x", "y"] * 10})
    with pytest.raises(DataError, match=r'a: 5 of 20 values are not true or false \(row 3: "2"\)'):
        prepared(Source("t", table), types={"a": "boolean"})


def test_a_time_that_is_read_as_said():
    values = {**VALUES, "when": [f" 2021-01-{1 + i % 28:02d}" for i in range(200)]}
    with pytest.raises(DataError, match="when: 200 of 200 values are not numbers"):
        prepared(columns(values), time="when", types={"when": "numeric"})
    assert "sold" in kinds(prepared(columns(values), time="when", types={"when": "date"}))


def test_words_for_missing_are_kept_with_the_schema():
    values = {**VALUES, "size": [-1 if v == "NA" else v for v in VALUES["size"]]}
    plain = prepared()
    found = prepared(columns(values), na=("-1",))
    assert found.train.x.tobytes() == plain.train.x.tobytes()
    again = Schema.from_dict(found.schema.to_dict())
    assert again.na == ("-1",)
    assert again.encode(columns(values))[0].tobytes() == plain.schema.encode(SOURCE)[0].tobytes()


def test_words_for_missing_that_no_cell_is_are_told():
    found = prepared(na=("York", "never", "-9"))
    assert "--na never,-9: found in no column that is used" in found.notes
    assert (
        "--na York: found in no column that is used" in prepared(na=("York",), drop=["town"]).notes
    )
    assert not any(
        "--na" in note for note in prepared(na=("York", "flat"), target=("rooms",)).notes
    )


def test_words_for_missing_count_in_the_target_and_in_parts_of_their_own():
    values = {**VALUES, "kind": ["unsaid", *VALUES["kind"][1:]]}
    with pytest.raises(
        DataError, match=r"kind: 1 of 200 values of the target are missing \(row 2\)"
    ):
        prepared(columns(values), na=("unsaid",))
    rows = {name: cells[:30] for name, cells in VALUES.items()}
    rows["kind"] = ["unsaid", *rows["kind"][1:]]
    with pytest.raises(DataError, match="validation part: kind: 1 of 30 values of the target are"):
        prepared(validation=columns(rows), test=0.0, na=("unsaid",))


def test_arrays_have_neither_types_nor_words():
    arrays = dataclasses.replace(Source("a", x=np.zeros((4, 2)), y=np.arange(4) % 2))
    with pytest.raises(UsageError, match="arrays have no columns"):
        prepare(arrays, types={"x": "category"})
    with pytest.raises(UsageError, match="arrays hold no words"):
        prepare(arrays, na=("?",))


RNG = np.random.default_rng(3)
CLASSES = RNG.integers(0, 3, 400)
AMOUNTS = RNG.normal(size=400)
OFTEN_ONCE = [f"n{i - (i % 3 == 2)}" for i in range(400)]
ALMOST_NAMES = [f"n{i - (i % 20 == 9)}" for i in range(400)]


def seen(values, target=CLASSES, **options):
    """What one column is taken for beside a target, all rows training, and the notes."""
    table = columns({"a": values, "b": RNG.normal(size=len(target)), "y": target})
    found = prepare(table, target=("y",), validation=0.0, test=0.0, **options)
    return found.seen[0], [note for note in found.notes if note.startswith("a: ")]


@pytest.mark.parametrize(
    ("values", "kind", "evidence"),
    [
        (RNG.normal(size=400), "numeric", r"400 numbers, -\d\.\d{1,5} … \d\.\d{1,5}"),
        (["NA", *range(399, 0, -1)], "numeric", "399 of 400 values are numbers, 1 … 399"),
        (np.arange(400) % 12 + 1, "ordinal", "12 different whole numbers 1 … 12"),
        (["yes", "no", "no", ""] * 100, "boolean", "100 times true, 200 times false"),
        ([f"2024-01-{i % 28 + 1:02d}" for i in range(400)], "date",
         "dates like 2024-01-01; 2024-01-01 … 2024-01-28"),
        ([f"2024-01-01T{i % 24:02d}:30" for i in range(400)], "timestamp",
         "times like 2024-01-01T00:30:00; .*"),
        (["York", "Bath", "York", "7"] * 100, "category",
         '3 different texts, "York" 50%; 100 of 400 values are numbers'),
        (OFTEN_ONCE, "text", "267 different texts in 400 values"),
        (["4"] * 400, "constant", "4 in every row"),
        ([2**62] * 400, "constant", "4.61169e[+]18 in every row"),
        ([2**62 + i for i in range(400)], "numeric", "400 numbers, 4.6.*"),
        ([2**62 + 3 * i for i in range(400)], "numeric", "400 numbers, 4.6.*"),
        (["x"] * 400, "constant", '"x" in every row'),
        (["NA"] * 400, "empty", "no value in 400 rows"),
        ([f"name {i}" for i in range(400)], "id", "a different text in every row"),
        ([*range(300), *(f"n{i}" for i in range(100))], "id",
         "a different text in every row; 300 of 400 values are numbers"),
        ([*range(300), *["<9"] * 100], "text",
         "301 different texts in 400 values; 300 of 400 values are numbers"),
        (np.cumsum(RNG.integers(1, 9, 400)), "id", "whole numbers that rise from row to row.*"),
    ],
)  # fmt: skip
def test_what_a_column_is_taken_for_and_why(values, kind, evidence):
    found, _ = seen(values)
    assert found.kind == kind
    assert re.fullmatch(evidence, found.evidence), found.evidence
    assert found.values + found.missing == 400
    assert 0 < found.confidence < 1


@pytest.mark.parametrize("kind", [pa.string(), pa.uint64()])
def test_ids_that_lose_their_last_digits_are_not_called_constant(kind):
    ids = pa.array(range(2**63, 2**63 + 40), pa.uint64()).cast(kind)
    parts = {"id": ids, "b": [str(i % 7) for i in range(40)], "y": ["x", "y"] * 20}
    source = Source("t", pa.table(parts), text=kind == pa.string())
    found = prepare(source, target=("y",))
    assert found.notes[0].startswith("left out id: alike as whole numbers above 9,007")
    assert found.seen[0].kind == "numeric"
    assert profile(source)[0].distinct == 40
    assert profile(source)[0].note.startswith("left out: alike as")


def test_confidence_follows_the_evidence():
    few, many = seen(AMOUNTS[:20], CLASSES[:20])[0], seen(AMOUNTS)[0]
    assert few.confidence == pytest.approx(21 / 22, abs=1e-3)
    assert many.confidence == pytest.approx(401 / 402, abs=1e-3)
    assert seen(np.arange(400) % 7)[0].confidence < many.confidence
    mixed, said = (seen(["a", "1", "2", "3"] * 100, types=t)[0] for t in ({}, {"a": "category"}))
    assert mixed.confidence < 0.3
    assert seen([*range(300), *["<9"] * 100])[0].confidence < 0.3
    assert said.confidence == 1.0
    assert said.evidence.startswith("as --types says; 4 different texts")


def test_rows_held_out_are_no_evidence():
    whole = {**VALUES, "size": list(VALUES["size"])}
    first = prepared(columns(whole))
    for row in np.concatenate([first.split.validation, first.split.test]).tolist():
        whole["size"][row], whole["town"][row] = "1e9", "elsewhere"
    assert prepared(columns(whole)).seen == first.seen


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (AMOUNTS * 3 + 1, AMOUNTS),
        (-np.exp(AMOUNTS), AMOUNTS),
        (AMOUNTS + 0.01 * RNG.normal(size=400), AMOUNTS),
        ([f"c{label}" for label in CLASSES], CLASSES),
        (CLASSES * 10 + 5, CLASSES),
        (CLASSES + RNG.random(400) * 0.9, CLASSES),
        (["NA" if i % 5 == 0 else c for i, c in enumerate(CLASSES + 0.5)], CLASSES),
    ],
)
def test_a_column_that_gives_the_target_away_is_told(values, target):
    found, notes = seen(values, target)
    assert any("like a leak" in note and "--drop a" in note for note in notes)
    assert set(notes) == set(found.warnings)


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (AMOUNTS + 0.3 * RNG.normal(size=400), AMOUNTS),
        (CLASSES + RNG.random(400) * 1.2, CLASSES),
        ([f"c{c if i % 50 else 0}" for i, c in enumerate(CLASSES)], CLASSES),
        ([f"{c}{i}" for i, c in enumerate(CLASSES)], CLASSES),
        (RNG.normal(size=400), np.arange(400) < 3),
        (AMOUNTS[:60], AMOUNTS[:60]),
    ],
)
def test_a_column_that_only_helps_is_no_leak(values, target):
    _, notes = seen(values, target)
    assert not any("leak" in note for note in notes)


def test_each_column_is_held_against_the_targets_of_its_own_rows():
    first, second = AMOUNTS, RNG.normal(size=400)
    leaks = {"a": first, "b": second, "c": first + 1, "d": first, "e": -second, "f": second * 2}
    gaps = {"b": 3, "c": 3, "d": 5}
    values = {
        name: ["" if i % 7 == gaps.get(name) else value for i, value in enumerate(of)]
        for name, of in leaks.items()
    }
    targets = {"y": first, "z": second}

    def told(names):
        table = columns({**{name: values[name] for name in names}, **targets})
        found = prepare(table, target=("y", "z"), validation=0.0, test=0.0)
        return [note for note in found.notes if "like a leak" in note]

    assert told(values) == [note for name in values for note in told([name])]
    assert [note.split(":")[0] for note in told(values)] == list(leaks)


def test_the_rank_correlation_is_spearmans():
    x, y = RNG.integers(0, 9, 300), RNG.normal(size=300)
    y += x
    wanted = np.corrcoef(*(mean_ranks(values) for values in (x, y)))[0, 1]
    assert correlation(*map(centred_ranks, (x, y))) == pytest.approx(wanted, rel=1e-12)
    assert correlation(np.zeros(5), np.arange(-2, 3)) == 0


def mean_ranks(values):
    """Mean ranks, counted pair by pair."""
    below = (values[None] < values[:, None]).sum(axis=1)
    return below + ((values[None] == values[:, None]).sum(axis=1) + 1) / 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.arange(400), "rises by one from row to row, like a row number; --drop a leaves it out"),
        (["" if i % 9 == 4 else i for i in range(400)], "rises by one from row to row, like a"),
        (np.cumsum(RNG.integers(1, 9, 400)), "whole numbers that rise like ids; --drop a leaves"),
        (ALMOST_NAMES, "hardly a text comes twice, like names; --drop a leaves it out"),
    ],
)
def test_ids_are_told(values, said):
    assert any(said in note for note in seen(values)[1])
    assert not any("names" in note for note in seen(OFTEN_ONCE)[1])


def test_dates_in_several_formats_are_told_with_their_counts():
    ways = ["2024-01-{:02d}", "{:02d}.01.2024", "01/{:02d}/2024", "2024-01-{:02d}"]
    dates = [ways[i % 4].format(i % 28 + 1) for i in range(400)]
    found, notes = seen(dates)
    assert found.kind == "category"
    assert notes == [
        "a: dates in 3 formats were read as text: 200 like 2024-01-01, 100 like 02.01.2024, "
        "100 like 01/03/2024; write them all like 2024-01-31"
    ]
    assert "1 format" in seen([f"{i % 28 + 1}.1.2024" for i in range(400)])[1][0]
    for way in ("02/{:02d}/2021 10:03", "{}.1.2024, 10:03:15", "1/{}/2021 9:05 PM"):
        notes = seen([way.format(i % 28 + 1) for i in range(400)])[1]
        assert "1 format" in notes[0]
        assert notes[0].endswith("write them all like 2024-01-31T12:30")
    assert "400 like 2021-01" in seen([f"2021-{i % 12 + 1:02d}" for i in range(400)])[1][0]
    assert seen([f"2021-{i % 20 + 13}" for i in range(400)])[1] == []
    assert seen(["1.2.3", "4.5.6"] * 200)[1] == []


WORD = "read it as missing with --na {0}, or the column as text with --types a=category"


@pytest.mark.parametrize(
    ("good", "noun"),
    [
        (AMOUNTS.round(6), "numbers"),
        (np.arange(400) % 90, "numbers"),
        ([f"2024-{i % 12 + 1:02d}-{i % 28 + 1:02d}" for i in range(400)], "dates"),
    ],
)
@pytest.mark.parametrize("every", [2, 20])
def test_numbers_and_dates_but_for_a_word_are_told_with_the_way_out(good, noun, every):
    values = ["na" if i % every == 1 else value for i, value in enumerate(good)]
    found, notes = seen(values)
    others = 400 // every
    assert (
        f'a: {400 - others} of 400 values are {noun}, but for {others} "na"; all were read as '
        f"text: {WORD.format('na')}" in notes
    )
    assert set(notes) == set(found.warnings)
    assert not any("names" in note for note in notes)
    for options in ({"types": {"a": "category"}}, {"na": ("na",)}):
        assert not any("but for" in note for note in seen(values, **options)[1])


def test_numbers_but_for_words_are_told_of_a_column_that_is_left_out_too():
    n = 1500
    values = [f"w{i % 4}" if i % 15 == 2 else i for i in range(n)]
    found, notes = seen(values, RNG.integers(0, 3, n), one_hot_levels=8)
    assert found.evidence.endswith("1,400 of 1,500 values are numbers")
    assert notes == [
        'a: 1,400 of 1,500 values are numbers, but for 25 "w2", 25 "w1", 25 "w0" and 1 more; all '
        "were read as text: read them as missing with --na w2,w1,w0,w3, or the column as text with "
        "--types a=category"
    ]


@pytest.mark.parametrize(
    "values",
    [
        ["A" if i % 5 == 0 else i % 4 for i in range(400)],
        [f"A{i}" if i % 3 == 0 else i for i in range(400)],
        ["x" if i % 5 < 3 else i for i in range(400)],
    ],
)
def test_codes_and_texts_with_numbers_among_them_are_not_told_as_numbers(values):
    assert not any("but for" in note for note in seen(values)[1])


def test_days_that_no_calendar_has_are_named():
    days = [str(np.datetime64("2022-01-01") + i) for i in range(400)]
    (note,) = [
        note
        for note in seen(["2022-02-30" if i % 20 == 7 else day for i, day in enumerate(days)])[1]
        if "dates" in note
    ]
    assert note.startswith('a: 380 of 400 values are dates, but for 20 "2022-02-30"; all were read')
    assert "--na 2022-02-30," in note
    many = [f"2022-13-{i % 60:02d}" if i % 4 == 0 else day for i, day in enumerate(days)]
    (note,) = [note for note in seen(many)[1] if "dates" in note]
    assert note.startswith('a: dates were read as text, since no calendar has "2022-13-00", "2022-')


def test_a_word_after_four_hundred_thousand_numbers_is_named():
    numbers = [str(i % 1000) for i in range(400_000)]
    source = columns({"a": [*numbers, "oops"], "y": [i % 2 for i in range(400_001)]})
    with pytest.raises(
        DataError, match=r'a: 1 of 400,001 values are not numbers \(row 400,002: "o'
    ):
        prepare(source, target=("y",))


def test_a_hundred_thousand_levels():
    source = columns(
        {"a": [f"l{i % 100_000}" for i in range(200_000)], "y": np.arange(200_000) % 2}
    )
    found = prepare(source, target=("y",))
    assert found.seen[0].kind == "text"
    assert found.schema.width < 100
    assert any("all but the 64 most frequent" in note for note in found.notes)


def test_ten_thousand_classes():
    source = columns({"a": RNG.normal(size=20_000), "y": [f"c{i % 10_000}" for i in range(20_000)]})
    found = prepare(source, target=("y",), test=0.0)
    assert len(found.schema.target.labels) == 10_000
    assert "y: 10,000 classes with 1.7 training rows each: few to learn them from" in found.notes


def test_fewer_rows_than_classes_would_need():
    source = columns({"a": range(5), "y": "pqrst"})
    with pytest.raises(DataError, match="5 rows in 5 classes are too few"):
        prepare(source, target=("y",))
