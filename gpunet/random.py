"""Stateless random numbers: the same seed and place give the same numbers on every device.

Nothing here keeps state: a stream is a function of (seed, purpose, epoch, step, layer). Streams are
Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) as NumPy
counts it: block j of a stream is Philox(counter + 1 + j).
"""

from enum import IntEnum

import numpy as np

SHUFFLE_ROUNDS = 8
SHUFFLE_TILE = 32768
"""Elements that go through the network together: a cache holds them."""


class Purpose(IntEnum):
    """What a stream is for: the second word of its key."""

    INIT = 1
    SHUFFLE = 2
    DROPOUT = 3
    SPLIT = 4
    DATA = 5
    CHECK = 6
    BLOCKS = 7
    WINDOW = 8
    MEMBER = 9
    FOLD = 10
    BOOTSTRAP = 11
    PERMUTE = 12
    BASELINE = 13


def bits(
    seed: int, purpose: Purpose, *, epoch: int = 0, step: int = 0, layer: int = 0
) -> np.random.Philox:
    """The bit generator at one place; its raw words are uint64."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, epoch, step, layer], np.uint64))


def stream(
    seed: int, purpose: Purpose, *, epoch: int = 0, step: int = 0, layer: int = 0
) -> np.random.Generator:
    """A generator of normals, uniforms and integers at one place."""
    return np.random.Generator(bits(seed, purpose, epoch=epoch, step=step, layer=layer))


def member_seed(seed: int, member: int) -> int:
    """The seed of a network of an ensemble, counted from 0; the first one's is the run's."""
    return int(bits(seed, Purpose.MEMBER, layer=member).random_raw()) >> 1 if member else seed


def permutation(
    n: int, seed: int, purpose: Purpose = Purpose.SHUFFLE, *, epoch: int = 0
) -> np.ndarray:
    """A permutation of 0 … n-1, as int32 (n,): a keyed Feistel network with cycle walking.

    Any element can be computed on its own, on any device, from the eight round keys.
    """
    if not 0 <= n < 2**31:
        raise ValueError(f"cannot permute {n} rows: the limit is 2**31 - 1")
    half = half_bits(n)
    keys = shuffle_keys(seed, purpose, epoch=epoch)
    order = np.arange(n, dtype=np.uint32)
    _step(order, half, keys)
    outside = np.flatnonzero(order >= n)
    while outside.size:
        walked = order[outside]
        _step(walked, half, keys)
        order[outside] = walked
        outside = outside[walked >= n]
    return order.view(np.int32)


def half_bits(n: int) -> int:
    """Half of the bits of `permutation`'s network, which permutes 0 … 4**half - 1."""
    return max(1, (max(n - 1, 0).bit_length() + 1) // 2)


def shuffle_keys(seed: int, purpose: Purpose = Purpose.SHUFFLE, *, epoch: int = 0) -> np.ndarray:
    """The round keys of `permutation`, as uint32 (8,)."""
    words = bits(seed, purpose, epoch=epoch).random_raw(SHUFFLE_ROUNDS)
    return (words & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def _step(x: np.ndarray, half: int, keys: np.ndarray) -> None:
    """Send each element through the network once, in place."""
    for first in range(0, len(x), SHUFFLE_TILE):
        tile = x[first : first + SHUFFLE_TILE]
        tile[...] = _feistel(tile, half, keys)


def _feistel(x: np.ndarray, half: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint32((1 << half) - 1)
    left, right = x >> np.uint32(half), x & mask
    for key in keys:
        mixed = _mix(right ^ key)
        mixed ^= left
        mixed &= mask
        left, right = right, mixed
    return (left << np.uint32(half)) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """Scramble the bits of x, in place."""
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return x
