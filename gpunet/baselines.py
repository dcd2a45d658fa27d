"""What a network must beat: a constant, and a linear model of the same inputs."""

from collections.abc import Callable

import numpy as np

from gpunet import loop, model
from gpunet.config import Config
from gpunet.data import Dataset, Prepared, Target
from gpunet.data.rows import blocks
from gpunet.device import Device
from gpunet.errors import Diverged
from gpunet.loop import Member
from gpunet.metrics import TINY
from gpunet.model import Ensemble
from gpunet.predict import Model

STEPS, MOST_ROWS, RATE = 300, 4096, 0.05
WIDEST = 2000
"""Inputs of which the normal equations are solved; more, and embeddings, are trained."""
RIDGES = np.logspace(-6, 4, 31)

Predictor = Callable[[Dataset], np.ndarray]
"""Raw predictions (n, k) for a part's rows, as a network gives them."""


def baselines(prepared: Prepared, config: Config, device: Device) -> dict[str, Predictor]:
    """The baselines by name, fitted on the training part; one that diverges is left out."""
    found = {"trivial": trivial(prepared, config)}
    schema = prepared.schema
    is_mean = schema.target.task == "regression" and not config.quantiles
    try:
        is_solved = is_mean and schema.width <= WIDEST and not schema.layout.codes
        solve = ridge(prepared) if is_solved else linear(prepared, config, device)
        found["linear"] = solve
    except (Diverged, np.linalg.LinAlgError):
        pass
    return found


def trivial(prepared: Prepared, config: Config) -> Predictor:
    """The mean of the training targets (for mean_absolute their median, or the quantiles that were
    asked for), or class frequencies."""
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
    return lambda part: np.broadcast_to(raw, (part.rows, len(raw)))


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


def linear(prepared: Prepared, config: Config, device: Device) -> Predictor:
    """A network without hidden layers, trained for STEPS steps of many rows each."""
    schema = prepared.schema
    task, rows = schema.target.task, prepared.train.rows
    plain = Config(
        hidden=(),
        init="xavier",
        loss="pinball" if config.quantiles else model.TASK_LOSSES[task][0],
        quantiles=config.quantiles,
        lr=RATE,
        batch_size=min(rows, MOST_ROWS),
        steps=STEPS,
        patience=0,
        weight=config.weight,
        class_weight=config.class_weight,
        seed=config.seed,
        max_memory=config.max_memory,
    )
    network = model.build(plain, schema.layout, schema.target.outputs, task)
    if task == "count":
        model.start_at(network, schema.target.log_mean)
    for _ in loop.train([Member(network, prepared, plain)], device, config.dtype):
        pass
    trained = Model(Ensemble((network,)), schema, plain)
    return lambda part: trained.run(part, device)


def ridge(prepared: Prepared) -> Predictor:
    """Least squares with the penalty of the least generalised cross-validation error (Golub,
    Heath and Wahba, 1979), from the normal equations in float64."""
    schema, y = prepared.schema, prepared.train.y
    assert y is not None
    w = np.ones(len(y)) if prepared.train.sample_weight is None else prepared.train.sample_weight
    n, centre, level = len(y), np.zeros(schema.width), _mean(y, w)
    for first, x in blocks(prepared.train.x):
        centre += w[first : first + len(x)] @ schema.scaled(x) / n
    gram, right = np.zeros((schema.width, schema.width)), np.zeros((schema.width, y.shape[1]))
    for first, x in blocks(prepared.train.x):
        rows = slice(first, first + len(x))
        off = schema.scaled(x) - centre
        gram += off.T @ (off * w[rows, None])
        right += off.T @ ((y[rows] - level) * w[rows, None])
    values, vectors = np.linalg.eigh(gram)
    total = float((w[:, None] * np.square(y - level)).sum())
    slope = vectors @ _shrunk(np.maximum(values, 0), vectors.T @ right, total, n)

    def predict(part: Dataset) -> np.ndarray:
        return np.concatenate(
            [(schema.scaled(x) - centre) @ slope + level for _, x in blocks(part.x)]
        )

    return predict


def _shrunk(values: np.ndarray, right: np.ndarray, total: float, n: int) -> np.ndarray:
    """Weights in the basis of eigenvectors, (d, k); `total`: the sum of squares of n targets."""
    best, least = right * 0, np.inf
    for penalty in RIDGES * max(float(values.max()), TINY):
        w = right / (values + penalty)[:, None]
        left = total - float((w * (2 * right - values[:, None] * w)).sum())
        free = n - 1 - float((values / (values + penalty)).sum())
        error = max(left, 0.0) / free**2 if free > 0 else np.inf
        best, least = (w, error) if error < least else (best, least)
    return best
