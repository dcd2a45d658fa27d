"""The run directory, and the one place that writes files. Knows no model."""

from gpunet.run import files, forms
from gpunet.run.directory import (
    BEST,
    COLUMNS,
    IDENTITY,
    SETTINGS,
    SPLIT,
    STUDY,
    Checkpoint,
    Run,
    checkpoints,
    identity,
    readable,
    refuse_study,
)
from gpunet.run.files import write, write_json
from gpunet.run.tensors import pack, parse, unpack

__all__ = [
    "BEST",
    "COLUMNS",
    "IDENTITY",
    "SETTINGS",
    "SPLIT",
    "STUDY",
    "Checkpoint",
    "Run",
    "checkpoints",
    "files",
    "forms",
    "identity",
    "pack",
    "parse",
    "readable",
    "refuse_study",
    "unpack",
    "write",
    "write_json",
]
