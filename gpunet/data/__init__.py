"""The table room: from a file, a set's name or arrays to what a network trains on.

Refuses to print, to fetch anything, and to write but for rows that do not fit in memory, into files
without a name.
"""

from gpunet.data.builtin import BUILTIN, recipe
from gpunet.data.columns import Column
from gpunet.data.dataset import Dataset, joined
from gpunet.data.files import here, is_passing, seen_from
from gpunet.data.formats import read
from gpunet.data.prepared import Prepared, prepare
from gpunet.data.profiles import ColumnProfile, profile
from gpunet.data.schema import Layout, Schema
from gpunet.data.source import Source
from gpunet.data.targets import Target

__all__ = [
    "BUILTIN",
    "Column",
    "ColumnProfile",
    "Dataset",
    "Layout",
    "Prepared",
    "Schema",
    "Source",
    "Target",
    "here",
    "is_passing",
    "joined",
    "prepare",
    "profile",
    "read",
    "recipe",
    "seen_from",
]
