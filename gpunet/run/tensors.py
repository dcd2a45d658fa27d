"""One file of arrays and plain state: safetensors, with the SHA-256 of all of it inside.

Models and checkpoints are such files. Nothing of a file is used before all of it was checked: its
header, every name, its hash, and that every value is finite.
"""

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.errors import GpunetError, ModelInvalid, first_line
from gpunet.run.files import missing_is_ours, read

FORMAT = "gpunet.model/1"
FAMILY = FORMAT.split("/")[0]
MAX_HEADER, MAX_TENSORS = 64 * 2**20, 10_000
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.")
DTYPES = frozenset(("F32", "F64", "I64", "U8"))


def pack(tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bytes:
    """A file's bytes, the same for equal arrays and state. Names are of a-z, 0-9, _ and dots."""
    from safetensors.numpy import save

    dense = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    text = json.dumps(state, sort_keys=True, allow_nan=False)
    head = {"format": FORMAT, "sha256": _digest(dense, text), "state": text}
    return save(dense, metadata={"gpunet": json.dumps(head)})


def unpack(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and state of a file that `pack` made.

    Raises InputMissing, NotPermitted, or ModelInvalid with what is wrong.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ModelInvalid(f"{path}: a directory or a device, not a file of gpunet's")
    with missing_is_ours(path):
        content = read(path)
    return parse(content, str(path))


def parse(content: bytes, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """`unpack` on bytes; `name` is for messages."""
    try:
        metadata = _metadata(content)
        from safetensors.numpy import load

        tensors = load(content)
        if _digest(tensors, metadata["state"]) != metadata["sha256"]:
            raise ValueError("the SHA-256 does not match: the file is damaged")
        if broken := [name for name, array in tensors.items() if not _is_finite(array)]:
            raise ValueError(f"values of {broken[0]} are not finite")
        state = json.loads(metadata["state"], object_pairs_hook=_no_duplicates)
    except GpunetError:
        raise
    except Exception as reason:
        raise ModelInvalid(f"{name}: not a gpunet model: {first_line(reason)}") from None
    return tensors, state


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, after a strict look at its header."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= size <= min(MAX_HEADER, len(content) - 8):
        raise ValueError("the header's length is wrong")
    if content[8:9] != b"{":
        raise ValueError("the header is no JSON object")
    header = json.loads(content[8 : 8 + size], object_pairs_hook=_no_duplicates)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {"gpunet"}:
        raise ValueError("no gpunet metadata")
    _check_tensors(header)
    return _check_head(json.loads(metadata["gpunet"], object_pairs_hook=_no_duplicates))


def _check_tensors(header: Mapping[str, Any]) -> None:
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header):,} tensors; the limit is {MAX_TENSORS:,}")
    for name, entry in header.items():
        if not 1 <= len(name) <= 128 or not LETTERS.issuperset(name):
            raise ValueError(f"a tensor named {name[:40]!r}")
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
            raise ValueError(f"the tensor {name} is of a type that gpunet does not write")


def _check_head(head: Any) -> dict[str, str]:
    if not isinstance(head, dict) or set(head) != {"format", "sha256", "state"}:
        raise ValueError("gpunet metadata of another form")
    if not all(isinstance(value, str) for value in head.values()):
        raise ValueError("gpunet metadata of another form")
    if head["format"] == FORMAT:
        return head
    family, _, version = head["format"].partition("/")
    is_newer = family == FAMILY and version.isascii() and version.isdigit() and int(version) > 1
    writer = "written by a newer gpunet: " if is_newer else ""
    raise ValueError(f"{writer}format {head['format'][:40]!r}; this one reads {FORMAT}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _digest(tensors: Mapping[str, np.ndarray], text: str) -> str:
    digest = sha256(text.encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
