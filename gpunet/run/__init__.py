"""The run directory, and the one place that writes files. Knows no model."""

from gpunet.run import files, forms
from gpunet.run.directory import (
    BEST,
    COLUMNS,
    IDENTITY,
    METRICS,
    SETTINGS,
    SPLIT,
    STUDY,
    SUMMARY,
    Checkpoint,
    Run,
    checkpoints,
    history,
    identity,
    readable,
    refuse_study,
    summary,
)
from gpunet.run.files import write, write_json
from gpunet.run.tensors import pack, parse, unpack

__all__ = [
    "BEST",
    "COLUMNS",
    "IDENTITY",
    "METRICS",
    "SETTINGS",
    "SPLIT",
    "STUDY",
    "SUMMARY",
    "Checkpoint",
    "Run",
    "checkpoints",
    "files",
    "forms",
    "history",
    "identity",
    "pack",
    "parse",
    "readable",
    "refuse_study",
    "summary",
    "unpack",
    "write",
    "write_json",
]
