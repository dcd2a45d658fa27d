"""The native loops against the NumPy path: the same list, the same numbers, on any team."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import test_engine
from emulation import Emulated
from test_engine import BASE, GRAPHS, ORDER, ROWS, build, label, lower, lowered

from gpunet import auto, engine, job
from gpunet.config import Config, gather
from gpunet.device.cpu import Cpu
from gpunet.errors import Unavailable, UsageError
from gpunet.kernels import native
from gpunet.kernels.slots import FAULT, SCALE
from gpunet.launches import Feed, LaunchList, Store
from gpunet.optim import OPTIMIZERS
from gpunet.random import permutation

try:
    native.load()
except Unavailable as reason:
    pytest.skip(f"{reason}", allow_module_level=True)

TRAINED = replace(BASE, optimizer="adamw", lr=1e-2, weight_decay=0.1)
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}


@pytest.fixture(autouse=True)
def thin_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LEAST_ROWS", 4)


def trained(
    task: str, config: Config, device: Cpu, dtype: str = "float64", passes: int = 3
) -> tuple[LaunchList, Store]:
    launches, store = lowered(device, task, config, dtype, 13)
    for _ in range(passes):
        launches.rewind()
        launches.run(launches.steps)
    return launches, store


def is_native(config: Config) -> bool:
    return config.activation.isidentifier() and config.loss.isidentifier()


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("task", "config"), [g for g in GRAPHS if is_native(g[1])], ids=label)
def test_a_team_computes_what_numpy_computes(
    task: str, config: Config, dtype: str, lanes: int
) -> None:
    config = replace(config, optimizer="adam", lr=1e-3, clip_norm=0.5)
    expected, plain = trained(task, config, Cpu("numpy"), dtype)
    found, team = trained(task, config, Cpu("native", lanes), dtype)
    assert found.program is not None
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] / 100}
    np.testing.assert_allclose(team.values, plain.values, **near)
    for name, kept in plain.statistics.items():
        np.testing.assert_allclose(team.statistics[name], kept, **near)
    np.testing.assert_allclose(found.totals, expected.totals, **near)
    np.testing.assert_allclose(found.hyper, expected.hyper, **near)
    assert (found.clock[:5] == expected.clock[:5]).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser(name: str) -> None:
    config = replace(TRAINED, optimizer=name)
    _, plain = trained("multiclass", config, Cpu("numpy"))
    _, team = trained("multiclass", config, Cpu("native", 2))
    np.testing.assert_allclose(team.values, plain.values, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(team.state, plain.state):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_the_same_team_gives_the_same_bits(lanes: int) -> None:
    config = replace(TRAINED, dropout=0.2)
    runs = [trained("multiclass", config, Cpu("native", lanes), "float32") for _ in range(4)]
    assert all((store.values == runs[0][1].values).all() for _, store in runs)


def test_many_steps_a_call_are_one_step_a_call() -> None:
    _, together = trained("multiclass", TRAINED, Cpu("native", 2))
    launches, store = lowered(Cpu("native", 2), "multiclass", TRAINED, batch=13)
    for _ in range(3):
        launches.rewind()
        for _ in range(launches.steps):
            launches.run()
    assert (store.values == together.values).all()


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_moves_after_a_non_finite_loss(bad: float, lanes: int) -> None:
    config = replace(BASE, loss="mean_squared")
    network, x, y = build("regression", config)
    x[17, 2] = bad
    launches, store = lower(network, Feed(x, y), config, ROWS, device=Cpu("native", lanes))
    before = store.values.copy()
    launches.run(5)
    assert launches.fault & 1
    assert launches.step == 1
    assert (store.values == before).all()


def test_a_non_finite_gradient_and_weight_are_faults() -> None:
    config = replace(BASE, loss="sum_squares", optimizer="sgd", lr=1e300)
    network, x, y = build("regression", config)
    launches, _ = lower(network, Feed(x * 1e5, y), config, ROWS, device=Cpu("native", 2))
    launches.run(9)
    assert launches.fault
    assert launches.step < 9


def test_a_fault_that_is_taken_back_is_gone() -> None:
    network, x, y = build("multiclass", BASE)
    launches, _ = lower(network, Feed(x, y), BASE, ROWS, device=Cpu("native", 2))
    launches.hyper[SCALE] = np.inf
    launches.run()
    assert launches.fault
    launches.hyper[SCALE], launches.clock[FAULT] = 1, 0
    launches.run()
    assert not launches.fault


@pytest.mark.parametrize(
    "config",
    [
        BASE,
        replace(BASE, norm="batch"),
        replace(BASE, norm="layer"),
        replace(BASE, parametric=True),
    ],
    ids=label,
)
def test_a_sum_over_many_rows_keeps_its_digits(config: Config) -> None:
    """Rows that are all alike round alike, so that a plain running sum would be 0.1 % off."""
    config = replace(config, loss="mean_absolute", optimizer="sgd", lr=1.0, input_scale=True)
    found = []
    for dtype, device in (("float64", Cpu("numpy")), ("float32", Cpu("native", 1))):
        network, x, _ = build("regression", config)
        x, y = np.resize(x[:2], (100_000, x.shape[1])), np.full((100_000, test_engine.OUTPUTS), 9.0)
        launches, store = lower(
            network, Feed(x.astype(dtype), y.astype(dtype)), config, len(x), dtype, device
        )
        launches.run()
        found.append({**store.weights(), **store.statistics})
    for name, wide in found[0].items():
        if wide.ndim == 1:
            np.testing.assert_allclose(found[1][name], wide, rtol=5e-5, atol=5e-5, err_msg=name)


def test_bytes_are_scaled_as_numpy_scales_them() -> None:
    network, _, y = build("multiclass", BASE)
    x = np.random.default_rng(3).integers(0, 256, (ROWS, test_engine.COLUMNS)).astype(np.uint8)
    scale, shift = np.full(test_engine.COLUMNS, 1 / 255), np.arange(test_engine.COLUMNS) / 10
    found = []
    for device in (Cpu("numpy"), Cpu("native", 2)):
        launches, store = lower(network, Feed(x, y, scale, shift, ORDER), BASE, 9, device=device)
        launches.run(launches.steps)
        found.append(store.values)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-10)


def test_slices_keep_enough_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LEAST_ROWS", 32)
    assert [native.team_for(batch, 4).lanes for batch in (1, 32, 63, 64, 100, 128, 9999)] == [
        1, 1, 1, 2, 3, 4, 4,
    ]  # fmt: skip


def test_what_has_no_loop_runs_on_numpy_or_says_so() -> None:
    config = replace(BASE, activation="x*sigmoid(1.702*x)")
    launches, _ = trained("multiclass", config, Cpu("auto"))
    assert launches.program is None
    with pytest.raises(Unavailable, match="no native loop for formula"):
        trained("multiclass", config, Cpu("native"))


def test_the_whole_job_agrees() -> None:
    def final(kernels: str) -> dict[str, float | None]:
        settings = {"kernels": kernels, "device": "cpu", "epochs": 20, "threads": 2}
        planned = job.plan("penguins", settings)
        list(planned.reports())
        assert planned.settings.config.kernels == kernels
        return planned.finish()["metrics"]["validation"]

    native_found, numpy_found = final("native"), final("numpy")
    for name, value in numpy_found.items():
        assert native_found[name] == pytest.approx(value, rel=1e-2), name


def test_loading_keeps_subnormal_numbers() -> None:
    code = (
        "from gpunet.kernels import native\nnative.load()\n"
        "import numpy as np\nassert np.float64(5e-324) > 0 and np.float64(2e-308) / 100 > 0"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_without_the_extension_numpy_runs_and_info_says_why(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.modules['gpunet.kernels._native'] = None\n"
        "from gpunet import about, job\nfrom gpunet.errors import Unavailable\n"
        "assert about.collect()['cpu']['kernels'].startswith('numpy (no native kernels')\n"
        "list(job.plan('penguins', {'epochs': 1, 'device': 'cpu'}).reports())\n"
        "try: job.plan('penguins', {'kernels': 'native', 'device': 'cpu'})\n"
        "except Unavailable as reason: print(reason.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "69\n"


FORKED = """
import os, signal, threading, numpy as np, gpunet
x = np.random.default_rng(0).normal(size=(512, 8))
settings = {"device": "cpu", "kernels": "native", "threads": 2, "hidden": (32,)}
model = gpunet.train((x, x[:, 0]), epochs=1, **settings)
expected = model.predict(x)
longer = {"epochs": 10**5, "patience": 0, **settings}
busy = threading.Thread(target=gpunet.train, args=((x, x[:, 0]),), kwargs=longer, daemon=True)
for is_at_work in (False, True):
    if is_at_work:
        busy.start()
    for _ in range(4):
        child = os.fork()
        if not child:
            signal.alarm(20)
            os._exit(not (model.predict(x) == expected).all())
        assert os.waitpid(child, 0)[1] == 0
        assert busy.is_alive() == is_at_work
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_team_of_its_own_though_the_parents_is_at_work() -> None:
    subprocess.run([sys.executable, "-P", "-W", "ignore", "-c", FORKED], check=True, timeout=120)


def test_a_weight_moves_block_by_block_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = trained("multiclass", TRAINED, Cpu("native", 2))
    monkeypatch.setattr(native, "BLOCK_BYTES", 1)
    _, blocks = trained("multiclass", TRAINED, Cpu("native", 2))
    np.testing.assert_allclose(blocks.values, whole.values, rtol=1e-12)
    clipped = replace(TRAINED, clip_norm=1e9)
    _, apart = trained("multiclass", clipped, Cpu("native", 2))
    np.testing.assert_allclose(apart.values, whole.values, rtol=1e-12)


def test_averages_that_fade_out_become_zero_and_only_there() -> None:
    network, x, y = build("multiclass", TRAINED)
    launches, store = lower(network, Feed(x * 0, y), TRAINED, ROWS, "float32", Cpu("native", 2))
    store.state[0][:] = 1e-39
    launches.run()
    where, _ = store.views["hidden1.weight"]
    assert (store.state[0][where] == 0).all()
    assert np.float32(1e-39) * np.float32(0.5) > 0


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_of_batch_norm_is_applied_as_numpy_does(dtype: str, lanes: int) -> None:
    config, found = replace(BASE, norm="batch", optimizer="sgd"), []
    _, kept = trained("multiclass", config, Cpu("numpy"), dtype)
    for device in (Cpu("numpy"), Cpu("native", lanes)):
        network, x, y = build("multiclass", config)
        network.load(kept.weights())
        store = engine.store(network, device, dtype)
        judged = engine.lower(network, Feed(x.astype(dtype), y), store, 12, "evaluate")
        assert (judged.program is not None) == (device.kernels == "native")
        found.append(judged.evaluate())
    near = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype] / 100}
    np.testing.assert_allclose(found[1][0], found[0][0], **near)
    assert found[1][1] == pytest.approx(found[0][1], rel=TOLERANCE[dtype])


WIDE = replace(TRAINED, hidden=(40, 70))


@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("config", [WIDE, replace(WIDE, norm="batch", clip_norm=0.5)], ids=label)
def test_wide_products_are_split_by_columns(
    config: Config, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LEAST_FLOPS", 0)
    monkeypatch.setattr(native, "LEAST_COLUMNS", 8)
    _, plain = trained("multiclass", config, Cpu("numpy"))
    device = Cpu("native", threads)
    found, team = trained("multiclass", config, device)
    assert found.program is not None
    assert found.program.team == native.Team(threads, threads, by_columns=True)
    np.testing.assert_allclose(team.values, plain.values, rtol=1e-9, atol=1e-10)
    device.split = "rows"
    assert trained("multiclass", config, device)[0].program.team.by_columns is False


FIXED = {
    "plain": TRAINED,
    "layer norm": replace(TRAINED, norm="layer"),
    "batch norm": replace(TRAINED, norm="batch"),
    "dropout": replace(TRAINED, dropout=0.3),
    "clipped": replace(TRAINED, clip_norm=0.1),
    "wide": WIDE,
}


@pytest.mark.parametrize("kernels", ["native", "numpy"])
@pytest.mark.parametrize("name", FIXED)
def test_deterministic_bits_are_the_same_for_any_number_of_threads(
    name: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LEAST_ROWS", 2)

    def run(threads: int) -> tuple[np.ndarray, ...]:
        device = Cpu(kernels, threads)
        device.deterministic = True
        with device.working(10**12):
            launches, store = trained("multiclass", FIXED[name], device, "float32")
        if kernels == "native":
            assert launches.program is not None
            assert launches.program.team == native.Team(6, min(threads, 6))
        running = (store.statistics[each] for each in sorted(store.statistics))
        return store.values, *store.state, launches.totals, *running

    first = run(1)
    for threads in (2, 3, 5):
        assert all((a == b).all() for a, b in zip(run(threads), first, strict=True))


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1023, 1024, 1025, 4096, 4097, 70_001])
def test_the_order_of_rows_is_the_one_of_numpy(n: int) -> None:
    for seed, epoch in ((0, 0), (3, 7)):
        found = native.permutation(n, seed, epoch=epoch)
        assert found.dtype == np.int32
        assert (found == permutation(n, seed, epoch=epoch)).all()


@pytest.mark.parametrize("kernels", ["numpy", "native"])
def test_after_the_last_rows_come_the_first(kernels: str) -> None:
    def moved(passes: int) -> np.ndarray:
        network, x, y = build("multiclass", TRAINED)
        launches, store = lower(network, Feed(x, y), TRAINED, 9, device=Cpu(kernels, 2))
        for _ in range(passes):
            launches.rewind()
            launches.run(6 // passes)
        return store.values

    assert (moved(1) == moved(2)).all()


def test_threads_that_a_program_does_not_take_leave_it_alone() -> None:
    for turn in range(300):
        lanes = (5, 1, 2, 4)[turn % 4]
        steps = [
            native.Step("tick", (np.zeros(8, np.int64), np.zeros(16), np.zeros((2, 3)), 9), (2,))
        ]
        clock, hyper, gradient = np.zeros(8, np.int64), np.zeros(16), np.zeros(1)
        team = native.Team(lanes, lanes)
        program = native.Program(native.load(), steps, clock, hyper, gradient, 9, team)
        program.run(3)
        assert clock[0] == 3
        del program


@pytest.mark.parametrize(
    ("settings", "split", "reason"),
    [
        ({"hidden": (512,), "batch_size": 64}, "columns", "a layer is wider than a batch of 64"),
        ({"hidden": (64, 32), "batch_size": 64}, "rows", "no layer is wider than a batch of 64"),
        ({"hidden": (512,), "batch_size": 64, "deterministic": True}, "rows", "deterministic"),
        ({"hidden": (512,), "batch_size": 64, "kernels": "numpy"}, "rows", "not by native loops"),
    ],
)
def test_the_split_is_decided_as_the_engine_runs_it(
    settings: dict[str, object], split: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "LEAST_ROWS", 32)
    planned = job.plan("digits", {"device": "cpu", "threads": 2, **settings})
    assert planned.settings.config.split == split
    assert planned.settings.origin["split"] == f"auto: {reason}"
    program = planned.launches.program
    assert (program is not None and program.team.by_columns) == (split == "columns")


def test_a_whole_deterministic_run_is_the_same_for_any_number_of_threads() -> None:
    def chains(threads: int) -> list[str]:
        settings = {"device": "cpu", "epochs": 2, "deterministic": True, "threads": threads}
        return [report.chain for report in job.plan("digits", settings).reports()]

    assert chains(1) == chains(2) == chains(3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"split": "columns", "deterministic": True},
            "--split columns and --deterministic conflict",
        ),
        ({"split": "columns", "kernels": "numpy"}, "--split columns and --kernels numpy conflict"),
    ],
)
def test_what_cannot_be_had_together_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gather({"split": "columns", **settings})


@pytest.mark.parametrize(
    ("name", "formula"),
    [("activation", "x*sigmoid(x)"), ("activation", "x"), ("loss", "(pred - target)**2")],
)
def test_native_loops_of_a_formula_are_refused_before_a_run_is_made(
    name: str, formula: str
) -> None:
    with pytest.raises(UsageError, match=f"--kernels native conflicts with a formula as --{name}"):
        auto.set_up(gather({"kernels": "native", name: formula}), Cpu())


@pytest.mark.parametrize("settings", [{"kernels": "numpy"}, {"split": "rows"}])
def test_a_gpu_refuses_what_is_for_the_cpu(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="has no meaning on emulated"):
        auto.set_up(gather(settings), Emulated())
