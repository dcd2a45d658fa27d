"""The CUDA launch list: emulated on the CPU, and on a GPU where there is one."""

from dataclasses import replace

import numpy as np
import pytest
from emulation import Emulated
from test_engine import BASE, CPU, GRAPHS, label, lowered

from gpunet.config import Config
from gpunet.device import Device
from gpunet.optim import OPTIMIZERS

CASES = GRAPHS + [("multiclass", replace(BASE, optimizer=name)) for name in OPTIMIZERS]


@pytest.fixture(scope="module")
def emulated() -> Device:
    return Emulated()


def agree(task: str, config: Config, device: Device, dtype: str, rtol: float) -> None:
    """Two passes in batches of 9 give the same weights and totals as NumPy."""
    config = replace(config, lr=1e-2, weight_decay=0.1, clip_norm=0.5)
    weights, totals = [], []
    for each in (CPU, device):
        launches, store = lowered(each, task, config, dtype)
        for _ in range(2):
            launches.rewind()
            launches.run(launches.steps)
        weights.append(store.weights())
        totals.append(each.to_host(launches.totals))
    np.testing.assert_allclose(totals[1], totals[0], rtol=rtol)
    for name, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][name], expected, rtol=rtol, atol=rtol, err_msg=name)


@pytest.mark.parametrize(("task", "config"), CASES, ids=label)
def test_the_emulated_list_is_numpys(emulated: Device, task: str, config: Config) -> None:
    agree(task, config, emulated, "float64", 1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("task", "config"), CASES, ids=label)
def test_the_list_on_a_gpu_is_numpys(gpu: Device, task: str, config: Config, dtype: str) -> None:
    agree(task, config, gpu, dtype, 1e-8 if dtype == "float64" else 2e-3)


@pytest.mark.gpu
def test_a_job_on_a_gpu(gpu: Device, tmp_path) -> None:
    import gpunet

    settings = {"device": gpu.name, "precision": "fp32", "epochs": 30}
    model = gpunet.train("penguins", out=tmp_path / "run", **settings)
    assert model.evaluate("penguins")["accuracy"] > 0.95
    on_gpu = model.predict("penguins", proba=True, device=gpu.name)
    np.testing.assert_allclose(on_gpu, model.predict("penguins", proba=True), rtol=1e-3, atol=1e-5)
