"""Targets: which task the values suggest, labels as written, and what cannot be learnt."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from tables import columns

from gpunet.data.answers import check_present, read_answers
from gpunet.data.source import Source
from gpunet.data.targets import (
    Aim,
    Target,
    choose_task,
    decode_answers,
    decode_values,
    doubts,
    encode_answers,
    fit_target,
)
from gpunet.errors import DataError, UsageError


def answers_of(source, *names):
    return read_answers(source, names or ("y",))


def text(values):
    return columns({"y": values})


def typed(values, kind=None):
    return Source("t", pa.table({"y": pa.array(values, kind)}))


def arrays(y):
    y = np.asarray(y)
    return Source("t", x=np.zeros((len(y), 1)), y=y)


def chosen(source, task="auto"):
    return choose_task(answers_of(source), task, source.has_codes)


def fitted(source, task="auto", standardise=True):
    answers = answers_of(source)
    rows = np.arange(source.rows)
    task, reason = choose_task(answers, task, source.has_codes)
    return fit_target(answers, rows, rows, task, reason, Aim(standardise))


def encoded(target, source, dtype="float32"):
    rows = np.arange(source.rows)
    answers = answers_of(source, *target.names)
    return encode_answers(target, source, answers, rows, np.dtype(dtype))


@pytest.mark.parametrize("low", [-1.7e308, 0.5])
def test_values_that_cannot_be_added_up_are_refused(low):
    with pytest.raises(DataError, match=r"y: values of up to 1.7e\+308 are too large to be added"):
        encoded(fitted(typed([low, 1.7e308, 2.5])), typed([low, 1.7e308, 2.5]))
    fine = typed([low / 100, 1e306, 2.5])
    assert np.isfinite(encoded(fitted(fine), fine)).all()


COUNTS = "; if they are counts, --task count"


@pytest.mark.parametrize(
    ("source", "task", "reason"),
    [
        (text(["a", "b", "a"]), "binary", "text with 2 different values"),
        (text(["a", "b", "c"]), "multiclass", "text with 3 different values"),
        (text(["yes", "no", "yes"]), "binary", "text with 2 different values"),
        (text([1, 2, 1, 2]), "binary", "whole numbers with 2 different values"),
        (text(["1.0", "2.0", "1.0", "2.0"]), "binary", "whole numbers with 2 different values"),
        (text([1, 2, 1, 3]), "regression", "whole numbers with 3 different values"),
        (text(["1.5", "2", "1.5", "2"]), "regression", "numbers with fractions"),
        (text(list(range(20)) * 2), "multiclass", "whole numbers with 20 different values"),
        (
            text(list(range(21)) * 2),
            "regression",
            "whole numbers with 21 different values" + COUNTS,
        ),
        (text(list(range(21)) * 10), "multiclass", "whole numbers with 21 different values"),
        (text(list(range(1, 22)) * 10), "regression", "whole numbers with 21 different values"),
        (
            text(list(range(101)) * 10),
            "regression",
            "whole numbers with 101 different values" + COUNTS,
        ),
        (typed([True, False, True]), "binary", "true or false with 2 different values"),
        (typed([1.0, 2.0, 1.0, 2.0]), "binary", "whole numbers with 2 different values"),
        (
            typed([0.0, 1.0, 2.0] * 2),
            "multiclass",
            "whole numbers with 3 different values",
        ),
        (typed([1.0, 2.0, 1.0, 2.5]), "regression", "numbers with fractions"),
        (typed([1.0, 2.0, 1.0, 3.0]), "regression", "whole numbers with 3 different values"),
        (typed([10**18 + 999 * i for i in range(9)]), "regression", "whole numbers"),
        (text([10**18 + 999 * i for i in range(9)]), "regression", "whole numbers"),
        (arrays([10**18 + 999 * i for i in range(9)]), "regression", "whole numbers"),
        (typed([1, 2, 1, 2]), "binary", "whole numbers with 2 different values"),
        (typed(["a", "b", "c"]), "multiclass", "text with 3 different values"),
        (arrays([0, 1, 2]), "multiclass", "whole numbers with 3 different values"),
        (arrays([0.0, 1.0] * 2), "binary", "whole numbers with 2 different values"),
        (arrays([0.0, 1.0, 2.0]), "regression", "whole numbers with 3 different values" + COUNTS),
        (arrays(list(range(50)) * 2), "multiclass", "whole numbers with 50 different values"),
        (arrays(list(range(50))), "regression", "whole numbers with 50 different values" + COUNTS),
        (arrays(["a", "b"]), "binary", "text with 2 different values"),
        (arrays([True, False]), "binary", "true or false with 2 different values"),
    ],
)
def test_the_task_that_values_suggest(source, task, reason):
    assert chosen(source) == (task, reason)


def test_numbers_that_may_be_classes_are_doubted():
    zips = answers_of(text(["00500", "00537", "10001"]))
    assert doubts(zips, "regression", False) == [
        "y: numbers that begin with 0, as codes do, were read as numbers; --task multiclass takes "
        "them for classes"
    ]
    assert doubts(zips, "multiclass", False) == []
    assert doubts(answers_of(text([500, 537])), "regression", False) == []
    ones = np.eye(3)[[0, 2, 1, 1]]
    several = read_answers(Source("t", x=np.zeros((4, 1)), y=ones), ("a", "b", "c"))
    assert doubts(several, "multilabel", True) == [
        "a, b, c: each row has exactly one 1; for classes give y.argmax(axis=1)"
    ]
    assert doubts(several[:2], "multilabel", False) == []


def test_several_targets():
    zeros_and_ones = columns({"a": [0, 1, 0], "b": ["yes", "no", "no"]})
    answers = answers_of(zeros_and_ones, "a", "b")
    assert choose_task(answers, "auto", False) == ("multilabel", "2 targets of 0 and 1")
    numbers = answers_of(columns({"a": [0, 1, 2], "b": [0, 1, 1]}), "a", "b")
    assert choose_task(numbers, "auto", False) == ("regression", "2 targets of numbers")
    mixed = answers_of(columns({"a": [0, 1, 0], "b": ["x", "y", "z"]}), "a", "b")
    with pytest.raises(DataError, match=r'b: holds text \("x"\); regression wants numbers'):
        choose_task(mixed, "auto", False)
    with pytest.raises(UsageError, match=r"multiclass takes one target, not 2 \(a, b\)"):
        choose_task(numbers, "multiclass", False)
    with pytest.raises(DataError, match="a: multilabel wants 0 and 1 in every target"):
        choose_task(numbers, "multilabel", False)


@pytest.mark.parametrize(
    ("source", "task", "error", "message"),
    [
        (text(["a", "b"]), "regression", DataError, "regression wants numbers"),
        (text(["1.5", "2"]), "multiclass", DataError, "fractions; multiclass wants classes"),
        (text(["a", "b", "c"]), "binary", DataError, "3 classes; binary wants 2"),
        (text(["a", "b"]), "clustering", UsageError, "task clustering: wanted auto, regression"),
        (text(["a", "a"]), "auto", DataError, r'the same value in every row \("a"\)'),
        (text([5, 5, 5]), "regression", DataError, r'same value in every row \("5"\)'),
        (typed([2.5, 2.5]), "auto", DataError, r'same value in every row \("2.5"\)'),
        (text([f"n{i}" for i in range(50)]), "auto", DataError, "50 different texts in 50 rows"),
    ],
)
def test_tasks_that_values_do_not_allow(source, task, error, message):
    with pytest.raises(error, match=message):
        chosen(source, task)


def test_a_task_can_be_asked_for():
    assert chosen(text([1, 2, 1, 2]), "regression") == ("regression", "as asked")
    assert chosen(typed([1.0, 2.0]), "multiclass") == ("multiclass", "as asked")
    assert chosen(text(["a", "b"]), "multiclass") == ("multiclass", "as asked")
    assert chosen(text([0, 1]), "multilabel") == ("multilabel", "as asked")


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        (text(["b", "a ", "b"]), ("a ", "b")),
        (text([10, 9, 10, 9]), ("9", "10")),
        (text(["1.0", "01", "2", "2.00"]), ("1.0", "2")),
        (text([-1, 1, -1, 1]), ("-1", "1")),
        (text(["True", "False", "True"]), ("False", "True")),
        (typed([7, 0, 7, 0]), (0, 7)),
        (typed([True, False]), (False, True)),
        (typed(["x", "y"]), ("x", "y")),
        (typed(["NA", "None", "x"]), ("NA", "None", "x")),
        (Source("t", pa.table({"y": pa.array([9, 10, 9]).dictionary_encode()})), (9, 10)),
        (Source("t", pa.table({"y": pa.array(["b", "a"]).dictionary_encode()})), ("a", "b")),
        (arrays(np.array([3, 1, 3], np.uint8)), (1, 3)),
        (arrays(["u", "t"]), ("t", "u")),
    ],
)
def test_labels_are_written_as_in_the_file(source, labels):
    got = fitted(source, "multiclass").labels
    assert got == labels
    assert [type(label) for label in got] == [type(label) for label in labels]


def test_classes_are_codes_and_two_classes_a_column_of_0_and_1():
    source = text(["b", "a", "b", "c"])
    codes = encoded(fitted(source), source)
    assert codes.dtype == np.int32
    assert codes.tolist() == [1, 0, 1, 2]
    two = text(["no", "yes", "no"])
    y = encoded(fitted(two), two)
    assert y.dtype == np.float32
    assert y.tolist() == [[0], [1], [0]]


def test_numbers_are_standardised_and_come_back():
    source = text(["1.5", "2", "10"])
    target = fitted(source)
    y = encoded(target, source, "float64")
    assert y.shape == (3, 1)
    np.testing.assert_allclose(y.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(y.std(), 1)
    np.testing.assert_allclose(decode_values(target, y), [[1.5], [2], [10]])
    raw = fitted(source, standardise=False)
    assert (raw.mean, raw.std) == ((0.0,), (1.0,))
    assert encoded(raw, source).tolist() == [[1.5], [2], [10]]
    with pytest.raises(ValueError, match="have no units"):
        decode_values(Target(("y",), "binary", ("a", "b"), (0.0,), (1.0,), ""), y)


def test_clamped_predictions_stay_within_the_targets_that_train():
    source = columns({"a": ["1.5", "2.5", "7", "90.5"], "b": ["4", "0.5", "4", "-9"]})
    answers, rows = answers_of(source, "a", "b"), np.arange(4)
    target = fit_target(answers, rows, rows[:3], "regression", "", Aim(clamp=True))
    assert (target.low, target.high) == ((1.5, 0.5), (7.0, 4.0))
    y = encode_answers(target, source, answers, rows, np.dtype("float64"))
    np.testing.assert_allclose(decode_answers(target, y)[3], [90.5, -9])
    np.testing.assert_allclose(decode_values(target, y)[2:], [[7, 4], [7, 0.5]])
    classes = text(["a", "b"])
    answers, rows = answers_of(classes), rows[:2]
    assert fit_target(answers, rows, rows, "binary", "", Aim(clamp=True)).low == ()


def test_the_logarithm_of_a_target_is_standardised_and_comes_back():
    source = text(["0.5", "20", "3e4"])
    answers, rows = answers_of(source), np.arange(3)
    target = fit_target(answers, rows, rows, "regression", "", Aim(transform="log"))
    logs = np.log([0.5, 20, 3e4])
    assert (target.mean, target.std) == (
        pytest.approx((logs.mean(),)),
        pytest.approx((logs.std(),)),
    )
    y = encoded(target, source, "float64")
    np.testing.assert_allclose(y[:, 0], (logs - logs.mean()) / logs.std())
    np.testing.assert_allclose(decode_values(target, y)[:, 0], [0.5, 20, 3e4])
    assert np.isfinite(decode_values(target, [[1e4]])).all()
    plain = fit_target(answers, rows, rows, "regression", "", Aim(False, "log", clamp=True))
    np.testing.assert_allclose(encoded(plain, source)[:, 0], logs, rtol=1e-6)
    np.testing.assert_allclose(decode_values(plain, [[20.0], [-9.0]]), [[3e4], [0.5]])
    with pytest.raises(DataError, match=r"2 of 3 values are 0 or less \(row 3: -1\)"):
        encoded(target, text(["0.5", "-1", "0"]))


def test_numbers_that_float32_cannot_hold_are_refused():
    source = typed([1e300, 1.0, 2.0])
    assert np.isfinite(encoded(fitted(source), source)).all()
    with pytest.raises(DataError, match="y: values too large for float32"):
        encoded(fitted(source, standardise=False), source)


def test_a_constant_target_beside_another_stays_finite():
    source = columns({"a": ["1.5", "2.5", "7"], "b": ["4", "4", "4"]})
    answers, rows = answers_of(source, "a", "b"), np.arange(3)
    target = fit_target(answers, rows, rows, "regression", "", Aim())
    assert target.std[1] == 1.0
    assert encoded(target, source)[:, 1].tolist() == [0, 0, 0]


def test_several_labels_are_a_matrix():
    source = Source("t", x=np.zeros((2, 1)), y=np.array([[0, 1], [1, 1]]))
    answers = read_answers(source, ("y1", "y2"))
    rows = np.arange(2)
    target = fit_target(answers, rows, rows, "multilabel", "", Aim())
    y = encode_answers(target, source, answers, rows, np.dtype("float64"))
    assert y.dtype == np.float32
    assert y.tolist() == [[0, 1], [1, 1]]
    with pytest.raises(DataError, match="y has 2 columns; wanted 1"):
        read_answers(source, ("y",))


@pytest.mark.parametrize(
    ("train", "later"),
    [
        (text([1, 2, 1, 2]), typed([2, 1])),
        (text(["1.0", "2.0", "1.0", "2.0"]), text([2, 1])),
        (typed([1, 2, 1, 2]), text(["2", "1.0"])),
        (typed([1, 2, 1, 2]), typed([2.0, 1.0])),
        (typed([False, True]), text(["true", "False"])),
        (text(["false", "true"]), typed([True, False])),
        (arrays([1, 2]), typed([2, 1])),
        (text(["a", "b"]), typed(["b", "a"])),
    ],
)
def test_labels_are_known_again_in_other_formats(train, later):
    target = fitted(train, "multiclass")
    assert encoded(target, later).tolist() == [1, 0]


@pytest.mark.parametrize("read", [typed, arrays])
@pytest.mark.parametrize("labels", [("01", "1"), ("100000", "1E5", "20"), ("True", "true")])
def test_texts_that_are_one_number_stay_classes_of_their_own(read, labels):
    source = read([*labels, *labels])
    target = fitted(source, "multiclass")
    assert target.labels == labels
    assert encoded(target, source).tolist() == [*range(len(labels))] * 2


def test_labels_that_training_never_saw():
    target = fitted(text(["Adelie", "Gentoo", "Adelie"]))
    with pytest.raises(
        DataError,
        match=r'^y: 2 of 3 values are none of the classes Adelie, Gentoo \(row 3: "yeti"\)',
    ):
        encoded(target, text(["Adelie", "yeti", "troll"]))
    with pytest.raises(DataError, match="holds numbers with fractions; wanted the classes"):
        encoded(target, text(["1.5", "2"]))
    numbers = fitted(text(["1.5", "2"]))
    with pytest.raises(DataError, match=r'holds text \(row 2: "x"\); wanted numbers'):
        encoded(numbers, text(["x", "y"]))
    labels = Target(("y",), "multilabel", (), (0.0,), (1.0,), "")
    with pytest.raises(DataError, match="wanted 0 and 1 alone"):
        encoded(labels, text(["0", "2"]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (text(["a", "", "b", "NA"]), r"2 of 4 values of the target are missing \(row 3\)"),
        (text(["1", "?", "2"]), r"1 of 3 values .* \(row 3\); .*--drop-missing-target"),
        (typed([1.5, None, float("nan")]), r"2 of 3 values .* \(row 2\)"),
        (arrays([1.5, np.nan]), r"1 of 2 values .* \(row 2\)"),
        (text(["", "NA"]), "no value in any row"),
        (typed([None, None]), "no value in any row"),
    ],
)
def test_gaps_in_the_target(source, message):
    with pytest.raises(DataError, match=message):
        check_present(source, answers_of(source), np.arange(source.rows))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (text(["1", "inf"]), "infinite"),
        (arrays([1.0, np.inf]), r"t: y: 1 of 2 values not finite \(row 2"),
        (text([*map(str, range(99)), "x"]), r'1 of 100 values are not numbers \(row 101: "x"\)'),
        (typed([datetime.date(2020, 1, 1)]), "holds dates; a target is numbers or classes"),
        (Source("t", x=np.zeros((1, 1))), "no targets; wanted an array y"),
    ],
)
def test_targets_that_cannot_be_read(source, message):
    with pytest.raises(DataError, match=message):
        answers_of(source)


def test_whole_numbers_beyond_float64_are_no_classes():
    assert chosen(typed([2**60, 2**60 + 1, 2**60] * 2 + [5]))[0] == "regression"


@pytest.mark.parametrize("task", ["auto", "multiclass", "regression"])
@pytest.mark.parametrize("read", [typed, arrays, text])
def test_large_whole_numbers_that_become_alike_are_told_as_such(read, task):
    values = [2**60 + i % 3 for i in range(30)]
    source = read([*map(str, values)] if read is text else values)
    (answer,) = answers_of(source)
    assert "lose their last digits" in answer.note
    with pytest.raises(DataError, match="y: whole numbers above 9,007,199,254,740,992 lose"):
        choose_task((answer,), task, read is arrays)
    with_fractions = answers_of(typed([2.0**60, 0.5]))
    with pytest.raises(DataError, match="holds numbers with fractions"):
        choose_task(with_fractions, "multiclass", False)


def test_a_target_of_numbers_that_were_read_as_text_says_how_to_write_them():
    answers = read_answers(text([f"{i},5" for i in range(99)]), ("y",))
    like = (
        r"; numbers with a decimal comma, such as \"0,5\", were read as text; .* like 0\.5; --dec"
    )
    with pytest.raises(DataError, match="99 different texts in 99 rows .*" + like):
        choose_task(answers, "auto", coded=False)
    with pytest.raises(DataError, match="holds text .* regression wants numbers" + like):
        choose_task(answers, "regression", coded=False)
    assert answers[0].note.startswith("y: numbers with a decimal comma")
