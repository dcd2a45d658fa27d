"""Where the values of an input lie and how far they spread: by moments, or by quartiles.

Plain float64 arithmetic that stays finite for whatever is finite. Refuses to know what a column is.
"""

from collections.abc import Iterator

import numpy as np

from gpunet.data.rows import Rows, blocks

BLOCK = 1 << 22  # values that are looked through at a time
SMOOTH = 3.0
"""Scaled by quartiles, inputs lie within this of 0."""


def scaled(values: np.ndarray, centre: float, spread: float) -> np.ndarray:
    """(values - centre) / spread, and 0 where spread is 0."""
    if spread == 0.0:
        return np.zeros_like(values)
    with np.errstate(over="ignore"):
        return (values - centre) / spread


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and (population) standard deviation of values (n,), exact zeros for equal values."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 0.0
    size = max(abs(low), abs(high))
    scale = 1.0 if 1e-150 < size < 1e150 else size  # squares must neither overflow nor vanish
    values = values / scale
    return float(values.mean()) * scale, float(values.std()) * scale


def skewness(values: np.ndarray) -> float:
    """The mean cube of values (n,) in deviations from their mean; 0 of equal values."""
    mean, std = moments(values)
    return float((scaled(values, mean, std) ** 3).mean())


def byte_moments(x: Rows) -> tuple[float, float]:
    """Mean and standard deviation over all bytes of x (n, d), exactly."""
    counts = np.zeros(256, np.int64)
    for part in _blocks(x):
        counts += np.bincount(part.ravel(), minlength=256)
    values, n = np.arange(256.0), float(counts.sum())
    mean = float(counts @ values) / n
    return mean, float(np.sqrt(counts @ (values - mean) ** 2 / n))


def column_moments(x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of each column of x (n, d); exactly 0 for equal values."""
    low = np.min([part.min(axis=0) for part in _blocks(x)], axis=0).astype(np.float64)
    high = np.max([part.max(axis=0) for part in _blocks(x)], axis=0).astype(np.float64)
    size = np.maximum(np.abs(low), np.abs(high))
    unit = np.where((size > 1e-150) & (size < 1e150) | (size == 0), 1.0, size)
    mean = np.zeros(len(unit), np.float64)
    for part in _blocks(x):
        mean += (part / unit).sum(axis=0) / len(x)
    square = np.zeros(len(unit))
    for part in _blocks(x):
        square += ((part / unit - mean) ** 2).sum(axis=0) / len(x)
    std = np.where(low == high, 0.0, np.sqrt(square) * unit)
    return np.where(low == high, low, mean * unit), std


def _blocks(x: Rows) -> Iterator[np.ndarray]:
    """The rows of x (n, d), a few megabytes at a time."""
    return (part for _, part in blocks(x, max(1, BLOCK // x.shape[1])))


def median(values: np.ndarray) -> float:
    """The median of values (n,), finite even where two of them cannot be added."""
    return quantiles(values, (0.5,))[0]


def quantiles(values: np.ndarray, shares: tuple[float, ...]) -> list[float]:
    """The values (n,) below which these shares lie, interpolated between neighbours."""
    places = np.array(shares) * (len(values) - 1)
    below, above = np.floor(places).astype(np.intp), np.ceil(places).astype(np.intp)
    ordered = np.partition(values, np.unique((below, above)))
    low, high, part = ordered[below], ordered[above], places - below
    between = low * (1 - part) + high * part
    return np.where(low == high, low, between).tolist()


def robust(values: np.ndarray) -> tuple[float, float]:
    """Median, and the distance of the quartiles; where they are equal half of the whole range."""
    low, middle, high = quantiles(values, (0.25, 0.5, 0.75))
    if low == high:
        half = float(values.max()) / 2 - float(values.min()) / 2
        return middle, half
    return middle, min(high - low, float(np.finfo(np.float64).max))


def smooth_clip(values: np.ndarray) -> np.ndarray:
    """values / sqrt(1 + (values / 3)^2): near 0 itself, never beyond 3 (arXiv:2407.04491)."""
    return values / np.hypot(1.0, values / SMOOTH)
