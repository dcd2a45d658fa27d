"""Encoded rows of a part with their targets and weights, and whether two parts hold the same ones.

Refuses to know what they were made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpunet.data.rows import Rows, blocks
from gpunet.sizes import counted

BLOCK = 1 << 22  # bytes of rows that are hashed at a time
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True, eq=False)
class Dataset:
    """x (n, d), C-contiguous: float32 of tables, uint8, float32 or float64 of arrays; and y.

    x is a RowFile where it does not fit in memory.
    y: multiclass int32 codes (n,); binary float32 (n, 1) and multilabel (n, k) of 0 and 1;
    regression (n, k), standardised if the schema says so; None where it is not known.
    sample_weight (n,): how much each row counts in the metrics, and `weight` (n,) in the loss,
    where the weights of classes are multiplied in; float64 of mean 1, None for all alike.
    cluster (n,): a code of the rows that belong together, None where each stands alone.
    """

    x: Rows
    y: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    weight: np.ndarray | None = None
    cluster: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def clusters(self) -> int | None:
        """How many clusters there are; None where each row stands alone."""
        return None if self.cluster is None else len(np.unique(self.cluster))

    def take(self, rows: np.ndarray) -> "Dataset":
        """Some of the rows, copied."""
        given = (self.y, self.sample_weight, self.weight, self.cluster)
        parts = (None if each is None else each[rows] for each in given)
        return Dataset(np.asarray(self.x[rows]), *parts)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """Parts one behind the other."""
    if len(parts) == 1:
        return parts[0]

    def join(arrays: list[Any]) -> np.ndarray | None:
        return None if arrays[0] is None else np.concatenate(arrays)

    x = np.concatenate([np.asarray(part.x[:]) for part in parts])
    names = ("y", "sample_weight", "weight", "cluster")
    return Dataset(x, *(join([getattr(part, name) for part in parts]) for name in names))


def duplicates(held: Mapping[str, Dataset]) -> list[str]:
    """A note of how many rows of the other parts are in the training part as well, their weights
    as they were given among what tells them apart."""
    others = [data for part, data in held.items() if part != "train"]
    if not others:
        return []
    keys = np.concatenate([_row_keys(data) for data in others])
    train = _row_keys(held["train"])
    keys.sort()
    train.sort()
    places = np.minimum(np.searchsorted(train, keys), len(train) - 1)
    twice = int(np.count_nonzero(train[places] == keys))
    if not twice:
        return []
    return [f"{twice:,} of {counted(len(keys), 'row')} held out are in the training part as well"]


def _row_keys(data: Dataset) -> np.ndarray:
    """A 64-bit hash of each row's x, y and weight (splitmix64 of every word, added up)."""
    keys = np.zeros(data.rows, np.uint64)
    beside = [array for array in (data.y, data.sample_weight) if array is not None]
    for low, x in blocks(data.x, max(1, BLOCK // data.x[:1].nbytes)):
        here = slice(low, low + len(x))
        for array in (x, *(each[here] for each in beside)):
            keys[here] = keys[here] * np.uint64(5) + _hashed(array.reshape(len(x), -1))
    return keys


def _hashed(rows: np.ndarray) -> np.ndarray:
    raw = np.ascontiguousarray(rows).view(np.uint8)
    words = np.pad(raw, ((0, 0), (0, -raw.shape[1] % 8))).view(np.uint64)
    words += np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (words ^ (words >> np.uint64(31))).sum(axis=1, dtype=np.uint64)
