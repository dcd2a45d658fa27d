"""Stateless random numbers: permutations, streams, and Philox as it is published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet.random import Purpose, bits, member_seed, permutation, shuffle_keys, stream


@given(st.integers(0, 3000), st.integers(0, 2**63 - 1), st.integers(0, 5))
def test_a_permutation_has_every_row_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(n, seed, epoch=epoch).tolist()) == list(range(n))


def test_permutations_follow_from_seed_and_epoch_alone() -> None:
    first = permutation(1000, 1, epoch=2)
    assert (first == permutation(1000, 1, epoch=2)).all()
    assert (first != permutation(1000, 1, epoch=3)).mean() > 0.9
    assert (first != permutation(1000, 2, epoch=2)).mean() > 0.9


def test_a_shuffle_leaves_no_order() -> None:
    order = permutation(60_000, 0)
    assert abs(np.corrcoef(np.arange(60_000), order)[0, 1]) < 0.02
    assert (np.abs(np.diff(order)) == 1).sum() < 20


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot permute"):
        permutation(2**31, 0)


def test_streams_differ_in_each_coordinate() -> None:
    def draw(**place: int) -> float:
        return float(stream(0, Purpose.INIT, **place).random())

    draws = {draw(), draw(epoch=1), draw(step=1), draw(layer=1)}
    assert len(draws | {float(stream(0, Purpose.DATA).random())}) == 5


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10, transcribed from Salmon et al. 2011, table 2."""
    mask = 2**64 - 1
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [
            (p1 >> 64) ^ counter[1] ^ key[0],
            p1 & mask,
            (p0 >> 64) ^ counter[3] ^ key[1],
            p0 & mask,
        ]
        key = [(key[0] + 0x9E3779B97F4A7C15) & mask, (key[1] + 0xBB67AE8584CAA73B) & mask]
    return counter


def test_bits_are_philox_with_the_block_in_the_first_word() -> None:
    words = bits(7, Purpose.DROPOUT, epoch=1, step=5, layer=2).random_raw(8).tolist()
    key = [7, int(Purpose.DROPOUT)]
    assert words == philox([1, 1, 5, 2], key) + philox([2, 1, 5, 2], key)


def test_shuffle_keys_are_eight_words_of_32_bits() -> None:
    keys = shuffle_keys(3, epoch=1)
    assert keys.dtype == np.uint32
    assert keys.shape == (8,)


def test_members_have_seeds_of_their_own_and_the_first_the_runs() -> None:
    seeds = [member_seed(seed, member) for seed in (0, 1, 2**63 - 1) for member in range(200)]
    assert len(set(seeds)) == 600
    assert [seeds[0], seeds[200], seeds[400]] == [0, 1, 2**63 - 1]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[1:200] == [member_seed(0, member) for member in range(1, 200)]
