"""scikit-learn's MLP and histogram boosting with their defaults, on the same rows and machine.

The MLP sees numbers with the median where they are missing, standardised, and one-hot categories;
its numeric targets are standardised. Boosting sees numbers as they are and categories as codes.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, log_loss, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from tabular.work import Work, averaged

MOST_CODES = 255
"""Boosting takes no category with more levels; one that has them is a number."""

Arrays = tuple[np.ndarray, np.ndarray]


def fits(work: Work, seeds: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Each peer's runs: metrics of the test part, and seconds of encoding and fitting."""
    seeds = list(seeds)
    makers = {"sklearn_mlp": _mlp, "sklearn_hgb": _boosting}
    return {
        name: averaged([_run(work, make, seed) for seed in seeds]) for name, make in makers.items()
    }


def _run(work: Work, make: Callable[..., Any], seed: int) -> dict[str, float]:
    train, y = columns(work, work.train), target(work, work.train)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictor, encode = make(work.is_regression, train, seed)
        predictor.fit(encode(train), y)
    seconds = time.perf_counter() - began
    return scores(work, predictor, encode(columns(work, work.test))) | {"seconds": seconds}


def scores(work: Work, predictor: Any, inputs: Any) -> dict[str, float]:
    """The metrics of the test part, from a fitted predictor and its inputs."""
    answers = target(work, work.test)
    if work.is_regression:
        found = {"rmse": root_mean_squared_error(answers, np.ravel(predictor.predict(inputs)))}
    else:
        p = np.asarray(predictor.predict_proba(inputs), float)
        p, classes = p / p.sum(axis=1, keepdims=True), np.asarray(predictor.classes_)
        found = {
            "accuracy": accuracy_score(answers, classes[p.argmax(axis=1)]),
            "log_loss": log_loss(answers, p, labels=classes),
        }
    return {name: float(value) for name, value in found.items()}


def _mlp(is_regression: bool, train: Arrays, seed: int) -> tuple[Any, Callable[[Arrays], Any]]:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    words = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encode = _fitted(train, numbers, words)
    if not is_regression:
        return MLPClassifier(random_state=seed), encode
    inner = MLPRegressor(random_state=seed)
    return TransformedTargetRegressor(inner, transformer=StandardScaler()), encode


def _boosting(is_regression: bool, train: Arrays, seed: int) -> tuple[Any, Callable[[Arrays], Any]]:
    words = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    numbers = train[0].shape[1]
    few = [len(np.unique(train[1][:, j])) <= MOST_CODES for j in range(train[1].shape[1])]
    marks = [False] * numbers + few
    kind = HistGradientBoostingRegressor if is_regression else HistGradientBoostingClassifier
    return kind(categorical_features=marks, random_state=seed), _fitted(train, None, words)


def _fitted(train: Arrays, numbers: Any, words: Any) -> Callable[[Arrays], np.ndarray]:
    """An encoding of (numbers, words), each fitted to its columns if there are any."""
    steps = [
        step.fit(part) if step is not None and part.shape[1] else None
        for step, part in zip((numbers, words), train, strict=True)
    ]

    def encode(parts: Arrays) -> np.ndarray:
        found = [p if s is None else s.transform(p) for s, p in zip(steps, parts, strict=True)]
        return np.concatenate([part.astype(np.float64) for part in found], axis=1)

    return encode


def columns(work: Work, part: pa.Table) -> Arrays:
    """Numbers (n, a) float64 with NaN, and words (n, b) as text, missing ones empty."""
    names = [name for name in part.column_names if name != work.target]
    is_word = {
        name: name in work.categorical or not _is_number(part.schema.field(name).type)
        for name in names
    }
    numbers = [
        part[n].cast(pa.float64()).fill_null(np.nan).to_numpy() for n in names if not is_word[n]
    ]
    words = [
        np.array(["" if v is None else str(v) for v in part[n].to_pylist()], object)
        for n in names
        if is_word[n]
    ]
    n = part.num_rows
    return (
        np.stack(numbers, axis=1) if numbers else np.empty((n, 0)),
        np.stack(words, axis=1) if words else np.empty((n, 0), object),
    )


def target(work: Work, part: pa.Table) -> np.ndarray:
    found = part[work.target]
    if work.is_regression:
        return found.cast(pa.float64()).to_numpy()
    return np.array([str(value) for value in found.to_pylist()])


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
