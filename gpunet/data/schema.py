"""How data become a network's inputs and targets: fitted on training rows, saved with the model.

Matches columns by name, never by place. Refuses a saved schema with anything unexpected in it.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from gpunet.data.columns import INPUTS, KINDS, MOST_LEVELS, SCALED, Column
from gpunet.data.source import Source
from gpunet.data.targets import (
    TASKS,
    Target,
    check_present,
    decode_values,
    encode_answers,
    read_answers,
)
from gpunet.data.words import closest, counted, listed
from gpunet.errors import DataError, ModelInvalid

VERSION = 1
DTYPES = ("uint8", "float32", "float64")
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Schema:
    """What a network was trained on, and how to turn more of it into x and y.

    Of tables: `columns`, encoded as float32. Of arrays: `dtype`, `scale` and `shift` (width,)
    float64, by which the network takes x * scale + shift; None leaves x as it is.
    """

    kind: str
    columns: tuple[Column, ...]
    target: Target
    width: int
    dtype: str = "float32"
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    def encode(self, source: Source) -> tuple[np.ndarray, dict[str, int]]:
        """x (n, width) of a source, and for each column how many cells were never-seen categories.

        Raises DataError when columns are missing or hold another type than in training.
        """
        if self.kind == "arrays":
            return self._flat(source), {}
        if source.table is None:
            raise DataError(f"{source.name}: holds arrays; wanted a table with named columns")
        check_columns(source, [column.name for column in self.columns])
        return encode_columns(self.columns, source, source.rows)

    def encode_target(self, source: Source) -> np.ndarray:
        """y as `Dataset.y` has it; raises DataError for gaps, unknown labels, no target at all."""
        if source.table is not None:
            check_columns(source, self.target.names)
        answers = read_answers(source, self.target.names)
        check_present(source, answers)
        return encode_answers(self.target, source, answers, self.target_dtype)

    def decode(self, output: np.ndarray) -> np.ndarray:
        """Regression outputs (n, k) in the target's own units, float64."""
        return decode_values(self.target, output)

    @property
    def target_dtype(self) -> np.dtype:
        """Regression targets are float64 where x is, else float32."""
        return np.dtype("float64" if self.dtype == "float64" else "float32")

    def _flat(self, source: Source) -> np.ndarray:
        if source.x is None:
            raise DataError(f"{source.name}: a table; wanted arrays with {self.width:,} features")
        x = flat(source.x)
        if x.shape[1] != self.width:
            raise DataError(
                f"{source.name}: {counted(x.shape[1], 'feature')} a row; wanted {self.width:,}"
            )
        dtype = np.dtype(self.dtype)
        with np.errstate(over="ignore"):
            same = x.astype(dtype, copy=False)
        exact = dtype.kind == "u" and x.dtype != dtype
        if (exact and not np.array_equal(same, x)) or not np.isfinite(same).all():
            raise DataError(
                f"{source.name}: x is {source.x.dtype} and does not fit {self.dtype}, which the "
                "network was trained on"
            )
        return np.ascontiguousarray(same)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; floats survive JSON exactly."""
        return {
            "version": VERSION,
            "kind": self.kind,
            "columns": [_plain(asdict(column)) for column in self.columns],
            "target": _plain(asdict(self.target)),
            "width": self.width,
            "dtype": self.dtype,
            "scale": None if self.scale is None else self.scale.tolist(),
            "shift": None if self.shift is None else self.shift.tolist(),
        }

    @classmethod
    def from_dict(cls, saved: object) -> "Schema":
        """A schema from `to_dict`; raises ModelInvalid at anything unexpected."""
        return _schema(saved)


def check_columns(source: Source, names: list[str] | tuple[str, ...]) -> None:
    """Raise DataError naming all columns that a table lacks, and what comes near them."""
    have = source.columns
    known = set(have)
    lacking = [name for name in names if name not in known]
    if not lacking:
        return
    spare = [name for name in have if name not in set(names)]
    hints = [closest(name, spare) for name in lacking[:3]]
    raise DataError(
        f"{source.name}: no column {listed(lacking)}" if len(lacking) == 1
        else f"{source.name}: {counted(len(lacking), 'column')} missing: {listed(lacking)}",
        "; ".join(hint for hint in hints if hint) or f"the columns are {listed(have)}",
    )


def encode_columns(
    columns: tuple[Column, ...], source: Source, rows: int
) -> tuple[np.ndarray, dict[str, int]]:
    """x (n, d) float32, columns side by side, and the cells that were never-seen categories."""
