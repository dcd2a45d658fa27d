"""The run directory, and the one place that writes files. Knows no model."""

from gpunet.run import files
from gpunet.run.directory import (
    IDENTITY,
    RUN_SCHEMA,
    SETTINGS,
    Checkpoint,
    Run,
    checkpoints,
    identity,
    readable,
)
from gpunet.run.files import write, write_json
from gpunet.run.tensors import pack, unpack

__all__ = [
    "IDENTITY",
    "RUN_SCHEMA",
    "SETTINGS",
    "Checkpoint",
    "Run",
    "checkpoints",
    "files",
    "identity",
    "pack",
    "readable",
    "unpack",
    "write",
    "write_json",
]
