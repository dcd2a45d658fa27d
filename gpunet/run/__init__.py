"""The run directory, and the one place that writes files. Knows no model."""

from gpunet.run import files, forms
from gpunet.run.directory import (
    COLUMNS,
    IDENTITY,
    SETTINGS,
    SPLIT,
    Checkpoint,
    Run,
    checkpoints,
    identity,
    readable,
)
from gpunet.run.files import write, write_json
from gpunet.run.tensors import pack, unpack

__all__ = [
    "COLUMNS",
    "IDENTITY",
    "SETTINGS",
    "SPLIT",
    "Checkpoint",
    "Run",
    "checkpoints",
    "files",
    "forms",
    "identity",
    "pack",
    "readable",
    "unpack",
    "write",
    "write_json",
]
