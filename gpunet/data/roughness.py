"""Whether values of a number mean something one by one, as codes do, and amounts at odd thresholds.

Looks at training rows alone. Refuses to call a column rough on little evidence.
"""

import numpy as np

REPEATS = 3
"""Rows from which a value can be held against its neighbours."""
HELD = 0.5
"""Of the rows, at least, that values held against their neighbours must have together."""
FEWEST = 16
"""Values to look at: of fewer, a bend of the curve looks like roughness, and bins tell all."""
MOST_VALUES = 1_000
"""More are names of things rather than codes."""
ROUGH = 5.0
"""Squares of standard errors, on average, by which values miss the line between their neighbours;
1 is chance."""
MOST = 25.0
"""What one value adds at most, so that no few of them speak for a column."""
WINDOW = 3
"""Values on each side that tell how much single rows scatter."""
LEAST_SCATTER = 0.02
"""Of the target's variance: values of a few equal rows are not beyond doubt."""
MOST_CLASSES = 16


def own_values(x: np.ndarray, targets: np.ndarray) -> tuple[float, ...]:
    """The values of x (n,), as float32 and rising, of at least REPEATS rows each, if the mean
    target of a typical one lies far off the line between those of its neighbours; else ().

    targets (n, k): numbers, or memberships of classes; one for which x is rough is enough. What is
    missing in x, or too large for float32, is left out.
    """
    known = np.abs(x) <= np.finfo(np.float32).max
    values, place, count = np.unique(
        x[known].astype(np.float32), return_inverse=True, return_counts=True
    )
    often = count >= REPEATS
    if not FEWEST + 2 <= often.sum() <= MOST_VALUES or count[often].sum() < HELD * len(x):
        return ()
    own = values[often].astype(float)
    misses = (
        _miss(own, count[often], *_sums(_standardised(y[known]), place, often)) for y in targets.T
    )
    return tuple(own.tolist()) if any(miss >= ROUGH for miss in misses) else ()


def memberships(codes: np.ndarray) -> np.ndarray:
    """(n, k) of codes (n,): one column for two classes, else one for each of the most frequent."""
    found, count = np.unique(codes, return_counts=True)
    frequent = found[np.argsort(-count, kind="stable")][:MOST_CLASSES]
    return (codes[:, None] == frequent[: 1 if len(found) <= 2 else None]).astype(np.float64)


def _standardised(y: np.ndarray) -> np.ndarray:
    """y (n,) of mean 0 and deviation 1, or all 0: sums of squares then lose no digits."""
    y = y / max(np.abs(y).max(initial=0.0), np.finfo(float).tiny)
    y = y - y.mean()
    return y / (y.std() or 1.0)


def _sums(y: np.ndarray, place: np.ndarray, often: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each value that is frequent, the sums of y and of y²."""
    first, second = (np.bincount(place, each, len(often))[often] for each in (y, y * y))
    return first, second


def _miss(values: np.ndarray, count: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """The mean of the squared distances of values' means from the line between their neighbours,
    each over its variance and at most MOST; of a target of variance 1."""
    mean, within = first / count, second - first**2 / count
    left, middle, right = slice(None, -2), slice(1, -1), slice(2, None)
    share = (values[middle] - values[left]) / (values[right] - values[left])
    off = mean[middle] - (1 - share) * mean[left] - share * mean[right]
    scatter = _around(within) / np.maximum(_around(count - 1.0), 1)
    scatter = np.maximum(scatter[middle], LEAST_SCATTER)
    parts = 1 / count[middle] + (1 - share) ** 2 / count[left] + share**2 / count[right]
    return float(np.minimum(off**2 / (scatter * parts), MOST).mean())


def _around(x: np.ndarray) -> np.ndarray:
    """Of each element the sum of those within WINDOW places, the ends repeated."""
    return np.convolve(np.pad(x, WINDOW, mode="edge"), np.ones(2 * WINDOW + 1), "valid")
