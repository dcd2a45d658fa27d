"""A network's training as one launch for many steps: the blocks of a GPU stay and meet in between.

plain.py recognises the launch lists that can be had so, resident.py and tiled.py divide their work
among blocks, training.py launches.
"""

from gpunet.persistent.training import Persistent, bound

__all__ = ["Persistent", "bound"]
