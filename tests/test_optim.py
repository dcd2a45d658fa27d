"""Schedules as tables, and the optimisers' settings."""

import numpy as np
import pytest

from gpunet.optim import OPTIMIZERS, SCHEDULES, optimizer, schedule


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
