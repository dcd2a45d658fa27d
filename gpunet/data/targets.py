"""What is predicted: the task that the target's values suggest, and these as a network takes them.

Refuses targets with a single value, and with labels that training never saw.
"""

from dataclasses import dataclass
from math import log

import numpy as np

from gpunet.data.answers import Answer
from gpunet.data.cells import LOST_DIGITS, ZEROS
from gpunet.data.scales import moments
from gpunet.data.source import Source
from gpunet.data.spelling import Label, places
from gpunet.data.words import listed
from gpunet.errors import DataError, UsageError
from gpunet.sizes import counted

CLASSES = ("binary", "multiclass")
NUMBERS = ("regression", "count")
TASKS = ("regression", "count", "binary", "multiclass", "multilabel")
TRANSFORMS = ("none", "log")
LARGEST = float(np.finfo(np.float64).max)
SPARE = 16.0  # errors, and sums of resampled rows, are not larger than the values by more
FEW = 20  # whole numbers with no more different values than this are taken for classes


@dataclass(frozen=True)
class Aim:
    """How targets are learnt, as was asked for: `standardise` and `transform` their numbers,
    `clamp` predictions to the limits of training; `weight` and `quantiles` as a Target has them."""

    standardise: bool = True
    transform: str = "none"
    clamp: bool = False
    weight: str | None = None
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Target:
    """What a network predicts.

    `labels` are the classes as the training file spells them, () where there are none; `mean` and
    `std` standardise regression, one of each a target, 0 and 1 when that is off; of counts `mean`
    is where a network begins; `reason` says in words why this task was chosen. `low` and `high`:
    predictions are kept within these, one of each a target; () when they are not. `transform`: what
    is standardised is the value itself or its natural logarithm. `weight` is the column that says
    how much each row counts. Of `quantiles`, rising, each target has as many outputs, one behind
    the other. `factors`: what a row of each class counts in the loss, () where all are alike.
    """

    names: tuple[str, ...]
    task: str
    labels: tuple[Label, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reason: str
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    transform: str = "none"
    weight: str | None = None
    quantiles: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """k, the width of the network's prediction."""
        return len(self.labels) if self.task == "multiclass" else len(self.names) * self.each

    @property
    def each(self) -> int:
        """Outputs of one target that is no class."""
        return max(1, len(self.quantiles))

    @property
    def log_mean(self) -> tuple[float, ...]:
        """The logarithm of each target's mean, 0 where the mean is."""
        return tuple(log(mean) if mean else 0.0 for mean in self.mean)

    @property
    def lean(self) -> np.ndarray:
        """By what probabilities (n, k) are multiplied to choose a class."""
        return np.array(self.factors or 1.0)

    @property
    def threshold(self) -> float:
        """The probability of the second class from which on it is chosen."""
        return self.factors[0] / sum(self.factors) if self.factors else 0.5

    def unweighted(self, raw: np.ndarray) -> np.ndarray:
        """Logits (n, k) of shares, from those of a network in whose loss classes had weights:
        its odds are as many times too large (Elkan, 2001)."""
        if not self.factors:
            return raw
        shift = np.log(self.factors)
        return np.asarray(raw - (shift if self.task == "multiclass" else shift[1] - shift[0]))

    @property
    def middle(self) -> int:
        """Which of the quantiles is nearest to the median."""
        return min(range(self.each), key=lambda i: abs(self.quantiles[i] - 0.5))


def choose_task(answers: tuple[Answer, ...], task: str, coded: bool) -> tuple[str, str]:
    """The task and why: `task` itself if the values allow it, for `auto` what they suggest;
    `coded`: they came as codes of classes do."""
    if task not in ("auto", *TASKS):
        raise UsageError(f"task {task}: wanted {listed(('auto', *TASKS))}")
    if task == "auto":
        task, reason = _several(answers) if len(answers) > 1 else _single(answers[0], coded)
    else:
        reason = "as asked"
    _check_task(answers, task)
    return task, reason


def doubts(answers: tuple[Answer, ...], task: str, is_array: bool) -> list[str]:
    """Notes where numbers were taken for this task, and may be classes."""
    if task == "regression" and answers[0].has_zeros and len(answers) == 1:
        return [f"{answers[0].name}: {ZEROS}; --task multiclass takes them for classes"]
    if task != "multilabel" or np.any(sum(map(_numbers, answers)) != 1):
        return []
    names = listed(answer.name for answer in answers)
    give = "y.argmax(axis=1)" if is_array else "one column that names them"
    return [f"{names}: each row has exactly one 1; for classes give {give}"]


def _several(answers: tuple[Answer, ...]) -> tuple[str, str]:
    if all(map(_is_binary, answers)):
        return "multilabel", f"{len(answers)} targets of 0 and 1"
    return "regression", f"{len(answers)} targets of numbers"


def _single(answer: Answer, coded: bool) -> tuple[str, str]:
    used, counts = np.unique(answer.codes, return_counts=True)
    classes = "binary" if len(used) == 2 else "multiclass"
    if answer.kind in ("text", "boolean"):
        if len(used) > max(FEW, len(answer.codes) // 2):
            raise DataError(
                f"{answer.name}: {len(used):,} different texts in {len(answer.codes):,} rows are "
                "too many for classes",
                _like_numbers(answer) or "choose another target",
            )
        noun = "text" if answer.kind == "text" else "true or false"
        return classes, f"{noun} with {counted(len(used), 'different value')}"
    if not answer.labels:
        return "regression", "whole numbers" if answer.kind == "whole" else "numbers with fractions"
    reason = f"whole numbers with {counted(len(used), 'different value')}"
    each = len(answer.codes) // len(used)
    few = len(used) <= FEW and (coded or counts.min() >= 2)
    counting = len(used) <= 100 and each >= 10 and _counts_up(answer)
    many = coded and len(used) <= 1000 and each >= 2
    if few or counting or many:
        return classes, reason
    from_zero = answer.numbers is not None and np.nanmin(answer.numbers) == 0
    return "regression", f"{reason}; if they are counts, --task count" if from_zero else reason


def _like_numbers(answer: Answer) -> str | None:
    return answer.note and answer.note.removeprefix(f"{answer.name}: ")


def _counts_up(answer: Answer) -> bool:
    assert answer.numbers is not None
    values = np.unique(answer.numbers)
    return bool((values == np.arange(len(values))).all())


def _check_task(answers: tuple[Answer, ...], task: str) -> None:
    names = listed(answer.name for answer in answers)
    if task in CLASSES and len(answers) > 1:
        raise UsageError(f"{task} takes one target, not {len(answers):,} ({names})")
    for answer in answers:
        if task in NUMBERS and answer.kind == "text":
            raise DataError(
                f"{answer.name}: holds text ({answer.shown(0)}); {task} wants numbers",
                _like_numbers(answer),
            )
        if task == "multilabel" and not _is_binary(answer):
            raise DataError(f"{answer.name}: multilabel wants 0 and 1 in every target")
        if task in CLASSES and not answer.labels:
            _refuse_lost_digits(answer)
            raise DataError(f"{answer.name}: holds numbers with fractions; {task} wants classes")
    if all(_is_constant(answer) for answer in answers):
        _refuse_lost_digits(answers[0])
        raise DataError(
            f"{names}: the same value in every row ({answers[0].shown(0)}); nothing to learn from"
        )
    classes = len(np.unique(answers[0].codes))
    if task == "binary" and classes != 2:
        raise DataError(f"{names}: {classes:,} classes; binary wants 2")


def _refuse_lost_digits(answer: Answer) -> None:
    """Raise DataError where numbers are alike, or no classes, only because digits were lost."""
    if answer.kind == "whole" and not answer.labels:
        hint = "give classes as text, numbers as differences"
        raise DataError(f"{answer.name}: {LOST_DIGITS}", hint)


def _is_binary(answer: Answer) -> bool:
    return answer.numbers is not None and bool(np.isin(answer.numbers, (0.0, 1.0)).all())


def _is_constant(answer: Answer) -> bool:
    values = answer.codes if answer.labels else answer.numbers
    assert values is not None
    return bool((values == values[0]).all())


def fit_target(
    answers: tuple[Answer, ...],
    seen: np.ndarray,
    train: np.ndarray,
    task: str,
    reason: str,
    aim: Aim,
) -> Target:
    """A target with the labels of the rows `seen`, and the moments of the rows `train`; to clamp
    predictions their limits too."""
    labels: tuple[Label, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mean, std = (0.0,) * len(answers), (1.0,) * len(answers)
    if task in CLASSES:
        used = np.unique(answers[0].codes[seen])
        labels = tuple(answers[0].labels[code] for code in used.tolist())
    is_count = task == "count"
    numbers = [_numbers(a)[train] for a in answers] if task in NUMBERS else []
    if numbers and aim.standardise:
        forward = np.log if aim.transform == "log" else np.asarray
        mean, spread = zip(*(moments(forward(each)) for each in numbers), strict=True)
        std = std if is_count else tuple(value or 1.0 for value in spread)
    if numbers and aim.clamp and not is_count:
        low, high = (tuple(float(limit(each)) for each in numbers) for limit in (np.min, np.max))
    names = tuple(answer.name for answer in answers)
    fitted = (names, task, labels, mean, std, reason, low, high)
    return Target(*fitted, aim.transform, aim.weight, aim.quantiles)


def check_transform(transform: str, task: str) -> None:
    """Raise UsageError for a transform that there is not, or not for the task."""
    if transform not in TRANSFORMS:
        raise UsageError(f"target transform {transform}: wanted {listed(TRANSFORMS)}")
    if transform != "none" and task != "regression":
        raise UsageError(f"target transform {transform}: no meaning for a {task} target")


def check_positive(source: Source, answers: tuple[Answer, ...], rows: np.ndarray) -> None:
    """Raise DataError when a number in `rows` has no logarithm."""
    for answer in answers:
        numbers = np.ones(len(rows)) if answer.numbers is None else answer.numbers[rows]
        wrong = rows[numbers <= 0]
        if len(wrong):
            first = int(wrong[0])
            raise DataError(
                f"{answer.name}: {len(wrong):,} of {len(rows):,} values are 0 or less "
                f"({source.row(first)}: {_numbers(answer)[first]:g}) and have no logarithm",
                "leave those rows out, or train without --target-transform log",
            )


def _numbers(answer: Answer) -> np.ndarray:
    assert answer.numbers is not None
    return answer.numbers


def encode_answers(
    target: Target, source: Source, answers: tuple[Answer, ...], rows: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    """y of some rows, as networks take it.

    multiclass int32 codes (n,); binary float32 (n, 1) and multilabel (n, k) of 0 and 1;
    regression (n, k) of `dtype`, standardised, each target once for every quantile; counts as they
    are. Raises DataError for what training never saw.
    """
    if target.task in CLASSES:
        codes = _class_codes(target, source, answers[0], rows)
        return codes if target.task == "multiclass" else codes[:, None].astype(np.float32)
    for answer in answers:
        if answer.numbers is None:
            raise DataError(
                f"{answer.name}: holds text ({source.row(int(rows[0]))}: "
                f"{answer.shown(int(rows[0]))}); wanted numbers"
            )
        if target.task == "multilabel" and not _is_binary(answer.take(rows)):
            raise DataError(f"{answer.name}: wanted 0 and 1 alone")
        if target.task == "count":
            check_counts(source, answer, rows)
    values = np.stack([answer.numbers[rows] for answer in answers], axis=1)  # type: ignore[index]
    if target.task == "multilabel":
        return values.astype(np.float32)
    _check_sums(target, values)
    if target.task == "count":
        return values.astype(dtype)
    if target.transform == "log":
        check_positive(source, answers, rows)
        values = np.log(values)
    with np.errstate(over="ignore"):
        y = ((values - target.mean) / target.std).astype(dtype)
    if not np.isfinite(y).all():
        raise DataError(f"{listed(target.names)}: values too large for {dtype}")
    return np.repeat(y, target.each, axis=1)


def _check_sums(target: Target, values: np.ndarray) -> None:
    """Raise DataError for values (n, k) of which the sums, and those of errors, would overflow."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest * SPARE * len(values) > LARGEST:
        raise DataError(
            f"{listed(target.names)}: values of up to {largest:.3g} are too large to be added up",
            "learn them in a larger unit: divided by 1e10, say",
        )


def check_counts(source: Source, answer: Answer, rows: np.ndarray) -> None:
    """Raise DataError when a number in `rows` is no count."""
    numbers = _numbers(answer)[rows]
    wrong = rows[(numbers < 0) | (numbers % 1 != 0)]
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{answer.name}: {len(wrong):,} of {len(rows):,} values are no counts "
            f"({source.row(first)}: {answer.shown(first)}); wanted 0, 1, 2 …"
        )


def decode_answers(target: Target, y: np.ndarray) -> np.ndarray:
    """Regression targets (n, k) from `encode_answers` in their own units again, float64."""
    if target.task != "regression":
        raise ValueError(f"{target.task} outputs have no units")
    std, mean = (np.repeat(each, target.each) for each in (target.std, target.mean))
    values = np.asarray(y, np.float64) * std + mean
    if target.transform == "none":
        return values
    with np.errstate(over="ignore"):
        return np.minimum(np.exp(values), LARGEST)


def decode_values(target: Target, output: np.ndarray) -> np.ndarray:
    """Regression outputs (n, k) in the target's own units, float64, within its limits if any;
    quantiles made to rise."""
    values = decode_answers(target, output)
    if target.quantiles:
        values = np.sort(by_target(target, values), axis=2).reshape(values.shape)
    low, high = (np.repeat(each, target.each) for each in (target.low, target.high))
    return np.clip(values, low, high) if target.low else values


def by_target(target: Target, values: np.ndarray) -> np.ndarray:
    """Outputs (n, k) as (n, targets, quantiles)."""
    return values.reshape(len(values), -1, target.each)


def _class_codes(target: Target, source: Source, answer: Answer, rows: np.ndarray) -> np.ndarray:
    if not answer.labels:
        _refuse_lost_digits(answer)
        raise DataError(
            f"{answer.name}: holds numbers with fractions; wanted the classes "
            f"{listed(target.labels)}"
        )
    codes = places(answer.labels, target.labels)[answer.codes[rows]]
    unknown = rows[codes < 0]
    if len(unknown):
        first = int(unknown[0])
        raise DataError(
            f"{answer.name}: {len(unknown):,} of {len(rows):,} values are none of the classes "
            f"{listed(target.labels)} ({source.row(first)}: {answer.shown(first)})"
        )
    return codes
