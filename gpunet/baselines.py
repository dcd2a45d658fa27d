"""What a network must beat: a constant, and a linear model of the same inputs."""

from contextlib import suppress

import numpy as np

from gpunet import linear, model
from gpunet.config import Config
from gpunet.data import Prepared, Target
from gpunet.data.limits import allowed
from gpunet.linear import Predictor
from gpunet.metrics import TINY

WIDEST = 2000
"""Inputs of which the normal equations are solved; of more, the slopes are trained."""


def baselines(prepared: Prepared, config: Config) -> dict[str, Predictor]:
    """The baselines by name, fitted on the training part; one that cannot be solved is left out."""
    level = trivial(prepared, config)
    found: dict[str, Predictor] = {
        "trivial": lambda part: np.broadcast_to(level, (part.rows, len(level)))
    }
    schema = prepared.schema
    task = schema.target.task
    with suppress(np.linalg.LinAlgError):
        if task == "regression" and not config.quantiles and linear.width(schema) <= WIDEST:
            found["linear"] = linear.ridge(prepared, config.seed)
        else:
            name = "pinball" if config.quantiles else model.TASK_LOSSES[task][0]
            gate = model.loss(name, task, quantiles=config.quantiles)
            memory = allowed(config.max_memory)
            found["linear"] = linear.descent(prepared, gate, level, memory, config.seed)
    return found


def trivial(prepared: Prepared, config: Config) -> np.ndarray:
    """What is predicted for every row, raw (k,): the mean of the training targets (for
    mean_absolute their median, or the quantiles that were asked for), or class frequencies."""
    part, target = prepared.train, prepared.schema.target
    assert part.y is not None
    y, weight = part.y, part.sample_weight
    shares = target.quantiles or ((0.5,) if config.loss == "mean_absolute" else ())
    if shares:
        raw = _quantiles(y.astype(np.float64), shares * len(target.names), weight)
    elif target.transform == "log":
        raw = _mean_of_logs(y, target, weight)
    elif target.task == "regression":
        raw = _mean(y, weight)
    elif target.task == "count":
        raw = np.log(np.maximum(_mean(y, weight), TINY))
    elif target.task == "multiclass":
        raw = np.log(np.clip(np.bincount(y, weight, target.outputs) / len(y), TINY, 1))
    else:
        share = np.clip(_mean(y, weight), TINY, 1 - TINY)
        raw = np.log(share) - np.log1p(-share)
    return raw


def _mean(y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    return np.asarray(np.average(y, axis=0, weights=weight), np.float64)


def _mean_of_logs(y: np.ndarray, target: Target, weight: np.ndarray | None) -> np.ndarray:
    """The mean of targets in their own units, among their standardised logarithms y."""
    logs = y.astype(np.float64) * target.std + target.mean
    top = logs.max(axis=0)
    mean = top + np.log(_mean(np.exp(logs - top), weight))
    return (mean - target.mean) / target.std


def _quantiles(y: np.ndarray, shares: tuple[float, ...], weight: np.ndarray | None) -> np.ndarray:
    """A quantile (k,) of each column; of weights the lowest value at or below which that share of
    them lies."""
    if weight is None:
        return np.array([np.quantile(of, share) for of, share in zip(y.T, shares, strict=True)])
    order = np.argsort(y, axis=0)
    reached = np.cumsum(weight[order], axis=0) >= np.multiply(shares, weight.sum())
    return np.take_along_axis(np.take_along_axis(y, order, 0), reached.argmax(axis=0)[None], 0)[0]
