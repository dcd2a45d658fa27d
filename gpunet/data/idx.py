"""IDX files, as MNIST's are: arrays of one type behind a header, alone or in a folder.

Every header is checked against the bytes that are there. Refuses labels without images.
"""

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpunet.data.arrays import check_promised, from_arrays
from gpunet.data.files import Bytes, load
from gpunet.data.source import Source
from gpunet.data.words import quoted
from gpunet.errors import DataError, NotPermitted

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAME = re.compile(r"(train|t10k|test)-(images|labels)[.-]idx\d-ubyte(\.gz)?$")


def is_idx(data: Bytes) -> bool:
    """Whether a file begins as IDX files do: 00 00, a known type, a number of dimensions."""
    return len(data) >= 4 and data[:2] == b"\0\0" and data[2] in TYPES and 0 < data[3] <= 32


def read_idx(data: Bytes, name: str) -> Source:
    """Features alone, from one IDX file of images."""
    x = _read(data, name)
    if x.ndim == 1:
        raise DataError(
            f"{name}: an IDX file of labels", "name the folder that holds the images as well"
        )
    return from_arrays(name, x)


def read_idx_folder(path: str, name: str, budget: int) -> Source:
    """A folder with MNIST's file names; t10k-images… and t10k-labels… are its test part."""
    files: dict[tuple[str, str], str] = {}
    try:
        inside = sorted(Path(path).iterdir(), reverse=True)  # plain files win over their .gz
    except PermissionError:
        raise NotPermitted(f"{path}: may not be read", "check its permissions") from None
    for file in inside:
        if found := NAME.search(file.name):
            part = "train" if found[1] == "train" else "test"
            files[part, found[2]] = str(file)
    if not files:
        raise DataError(f"{path}: a folder without MNIST's files", "name a file instead")
    train = _pair(files, "train", name, budget)
    if ("test", "images") not in files and ("test", "labels") not in files:
        return train
    return replace(train, test=_pair(files, "test", name, budget))


def _pair(files: dict[tuple[str, str], str], part: str, name: str, budget: int) -> Source:
    for what in ("images", "labels"):
        if (part, what) not in files:
            raise DataError(
                f"{name}: the folder lacks {part}-{what}-idx{3 if what == 'images' else 1}-ubyte"
            )
    found = (files[part, what] for what in ("images", "labels"))
    x, y = (_read(load(file, budget), file) for file in found)
    if x.ndim < 2 or y.ndim != 1:
        raise DataError(
            f"{name}: the {part} images have {x.ndim} and the labels {y.ndim} dimensions; "
            "wanted 2 or more and 1"
        )
    return from_arrays(name if part == "train" else f"{name} (test)", x, y)


def _read(data: Bytes, name: str) -> np.ndarray:
    if not is_idx(data) or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{name}: not an IDX file (begins with {quoted(bytes(data[:4]).hex(' '))})")
    dtype = np.dtype(TYPES[data[2]])
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    start = 4 + 4 * len(shape)
    check_promised(name, shape, dtype.newbyteorder("="), len(data) - start)
    return np.frombuffer(data, dtype, offset=start).reshape(shape)
