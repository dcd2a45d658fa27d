"""Schedules as tables, and the optimisers' settings."""

import numpy as np
import pytest

from gpunet.optim import OPTIMIZERS, SCHEDULES, fading, optimizer, schedule


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 100])
def test_a_table_has_an_entry_a_step_and_never_passes_lr(name: str, steps: int) -> None:
    table = schedule(name, 0.5, steps)
    assert table.shape == (steps + 1,)
    assert table.max() <= 0.5
    assert (table[1:] > 0).all()


def test_the_shapes_of_the_schedules() -> None:
    assert (schedule("constant", 0.1, 10)[1:] == 0.1).all()
    linear, cosine = schedule("linear", 1.0, 100), schedule("cosine", 1.0, 100)
    assert linear[1] == 1
    assert linear[51] == pytest.approx(0.5)
    assert cosine[1] == 1
    assert cosine[51] == pytest.approx(0.5)
    assert cosine[26] == pytest.approx(0.5 * (1 + np.cos(np.pi / 4)))
    onecycle = schedule("onecycle", 1.0, 1000)
    assert onecycle[1] == pytest.approx(0.04)
    assert onecycle.argmax() == pytest.approx(301, abs=2)
    assert onecycle[-1] < 1e-3


def test_warm_up_rises_linearly_to_lr() -> None:
    table = schedule("constant", 1.0, 100, warmup=9)
    assert table[1:10] == pytest.approx(np.arange(1, 10) / 10)
    assert (table[10:] == 1).all()
    assert (schedule("cosine", 1.0, 5, warmup=50)[1:] < 0.2).all()


def test_momentum_makes_sgd_momentum() -> None:
    assert optimizer("sgd", 0.8).kernel is OPTIMIZERS["momentum"].kernel
    assert optimizer("sgd", 0.8).beta1 == 0.8
    assert optimizer("sgd").slots == 0
    assert optimizer("adam", betas=(0.5, 0.6)).beta2 == 0.6


def test_fading_is_whole_for_half_the_steps_and_then_a_cosine_to_nothing() -> None:
    table = fading(1000)
    assert table.shape == (1001,)
    assert (table[: 501 + 1] == 1).all()
    assert table[751] == pytest.approx(0.5)
    assert table[1000] == pytest.approx(0, abs=1e-4)
    assert (np.diff(table[502:]) < 0).all()
    assert fading(1).tolist() == [1, 1]


def test_coslog4_makes_four_waves_each_twice_as_long_as_the_last() -> None:
    table = schedule("coslog4", 2.0, 15_000)[1:]
    done = np.arange(15_000) / 15_000
    inner = np.flatnonzero((table[1:-1] > table[:-2]) & (table[1:-1] >= table[2:])) + 1
    assert done[inner] == pytest.approx((2 ** (np.arange(4) + 0.5) - 1) / 15, abs=1e-4)
    assert table[inner] == pytest.approx(2)
    ends = np.array([0, 1, 3, 7]) * 1000
    assert table[ends] == pytest.approx(2e-3)
    assert table[-1] == pytest.approx(2e-3, rel=0.1)
    middle = schedule("coslog4", 1.0, 15_000)[1 + 500]
    assert middle == pytest.approx(0.5 * (1 - np.cos(2 * np.pi * np.log2(1.5))))
