"""Small sources for the tests of the table room."""

import io
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from gpunet.data.delimited import read_delimited
from gpunet.data.source import Source

ROOM = 1 << 30
"""A budget that no test comes near."""


def csv(text: str | bytes, budget: int = ROOM, **options: object) -> Source:
    """A Source of CSV text, named `t`."""
    data = text.encode() if isinstance(text, str) else text
    return read_delimited(data, "t", budget, **options)  # type: ignore[arg-type]


def columns(values: Mapping[str, Sequence[object]]) -> Source:
    """A text Source, as CSV gives it, without the writing and reading."""
    table = pa.table({name: pa.array([str(v) for v in cells]) for name, cells in values.items()})
    return Source("t", table, text=True, first=2)


def mixed(n: int = 200, seed: int = 0) -> dict[str, list[object]]:
    """Columns of every kind that networks take: two numeric, text, yes or no, a date, a class."""
    rng = np.random.default_rng(seed)
    days = np.datetime64("2021-01-01") + rng.integers(0, 700, n).astype("m8[D]")
    size = rng.normal(50, 10, n).round(3)
    return {
        "size": ["NA" if i % 17 == 3 else v for i, v in enumerate(size.tolist())],
        "rooms": rng.integers(1, 9, n).tolist(),
        "town": rng.choice(["York", "Bath", "Wells", "Ely"], n).tolist(),
        "garden": rng.choice(["yes", "no"], n).tolist(),
        "sold": [str(day) for day in days],
        "kind": rng.choice(["flat", "house", "cottage"], n, p=[0.5, 0.3, 0.2]).tolist(),
    }


def text_of(values: Mapping[str, Sequence[object]]) -> str:
    """Columns as CSV text."""
    rows = zip(*values.values(), strict=True)
    return "\n".join([",".join(values), *(",".join(map(str, row)) for row in rows)]) + "\n"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """The head of an NPY file that promises whatever it likes."""
    head = text.encode("latin1") + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes(version) + length + head


def npz(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def idx(array: np.ndarray, kind: int = 0x08, dims: Sequence[int] | None = None) -> bytes:
    """An IDX file of `array`; `dims` may lie about its shape."""
    dims = array.shape if dims is None else dims
    big = array.astype(array.dtype.newbyteorder(">"))
    return bytes([0, 0, kind, len(dims)]) + struct.pack(f">{len(dims)}I", *dims) + big.tobytes()


class Counted(list):
    """Names, and how often somebody went through them."""

    times = 0

    def __iter__(self):
        self.times += 1
        return super().__iter__()
