"""Memory of a device: counted before it is taken, and one clear line where there is too little."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpunet import auto, job, loop, memory
from gpunet.cli import _run
from gpunet.data.rows import RowFile
from gpunet.device import Choice
from gpunet.device.base import Memory
from gpunet.device.counted import Counted
from gpunet.device.cpu import Cpu
from gpunet.errors import OutOfMemory, UsageError

GIB = 1 << 30
SETTINGS = {"device": "cpu", "hidden": (32,), "preset": "plain"}


class Small(Cpu):
    """A device of so many bytes; `kind` says whether rows have to be brought there."""

    def __init__(self, free: int, kind: str = "cpu", kernels: str = "auto") -> None:
        super().__init__(kernels)
        self.free, self.kind, self.name = free, kind, kind if kind == "cpu" else "cuda:0"

    def memory(self) -> Memory:
        return Memory(80 * GIB, self.free)


def plan(monkeypatch: pytest.MonkeyPatch, device: Cpu, **settings: object) -> job.Job:
    monkeypatch.setattr(auto, "resolve", lambda name: Choice(device, "a test"))
    monkeypatch.setattr(auto, "set_up", lambda *_: None)
    return job.plan("digits", {**SETTINGS, **settings})


def planned(**settings: object) -> job.Job:
    return job.plan("digits", {**SETTINGS, **settings})


def test_what_is_counted_is_what_a_run_takes() -> None:
    done = planned(kernels="numpy", optimizer="sgd", batch_size=64)
    found = memory.needs(done.members, done.choice.device, done.config.dtype)
    network = done.members[0].network
    numbers = sum(weight.size for weight in network.weights.values())
    assert found.rows == 0
    rates = (done.steps + 1) * 3 * 8
    copied = numbers * 4  # to get there
    kept = (memory.KEPT + 1) * numbers * 4
    assert 0 <= found.weights - numbers * 4 * 2 - rates - copied - kept < 3_000  # clocks, scaling
    on_gpu = memory.needs(done.members, Small(GIB, "cuda"), done.config.dtype)
    train, validation = done.prepared.train, done.prepared.validation
    order = train.rows * 4
    given = sum(a.nbytes for part in (train, validation) for a in (part.x, part.y))
    assert on_gpu.rows == given + order
    assert (on_gpu.step, on_gpu.weights) == (found.step, found.weights - kept)
    assert found.step > done.launches.arena_bytes
    assert found.total == found.rows + found.weights + found.step
    more = planned(kernels="numpy", optimizer="adamw", batch_size=64)
    assert memory.needs(
        more.members, more.choice.device, "float32"
    ).weights == found.weights + numbers * 4 * 2 * (1 + memory.KEPT)
    several = memory.needs(done.members * 3, Small(GIB, "cuda"), done.config.dtype)
    assert several.total == 3 * on_gpu.total


def test_what_two_branches_take_is_counted() -> None:
    """For training alone: of an evaluation nothing lasts longer."""
    done = planned(hidden=(256,) * 5, batch_size=512)
    device = Small(GIB, "cuda")
    one = memory.needs(done.members, device, "float32")
    device.branches = 2
    two = memory.needs(done.members, device, "float32")
    arenas = []
    for branches in (1, 2):
        counted, member = Counted(None, branches), done.members[0]
        rows = loop.training_rows(member.data, member.config, counted, "float32")
        rates = loop.rates(member.config, rows.rows)
        given = (rows, member.data.schema, member.config, counted, "float32", rates)
        arenas.append(loop.lower(member.network, *given)[1].arena_bytes)
        rows.close()
    assert arenas[1] - arenas[0] == two.step - one.step > 512 * 256 * 4
    assert (two.rows, two.weights, two.batch) == (one.rows, one.weights, one.batch)


def test_what_bf16_wants_beside_is_counted() -> None:
    done = planned(kernels="numpy", activation="tanh")
    device = Small(GIB, "cuda")
    without = memory.needs(done.members, device, "float32")
    device.precision = "bf16"
    found = memory.needs(done.members, device, "float32")
    size = done.members[0].network.graph.parameters
    numbers = sum(node.value.size for node in size.values())
    assert 2 * numbers <= found.weights - without.weights < 2 * numbers + 2_000
    assert found.step > without.step


def test_what_products_work_in_is_counted_once() -> None:
    done = planned(kernels="numpy")
    device = Small(GIB, "cuda")
    without = memory.needs(done.members * 3, device, "float32")
    device.workspace_bytes = GIB
    found = memory.needs(done.members * 3, device, "float32")
    assert found.weights - without.weights == GIB
    assert not memory.is_small(done.members, device)


def test_of_rows_that_do_not_fit_windows_are_counted() -> None:
    done = planned(batch_size=64, validation=0.0)
    device = Small(GIB, "cuda")
    part = done.prepared.train
    room = (part.x.nbytes + part.y.nbytes) // 2
    found = memory.needs(done.members, device, done.config.dtype, room)
    assert room * 0.8 < found.rows <= room
    assert memory.needs(done.members, device, done.config.dtype).rows > 2 * room


def test_counting_takes_no_memory_and_leaves_the_network_alone() -> None:
    done = planned(batch_size=1)
    before = {name: w.copy() for name, w in done.members[0].network.weights.items()}
    config = replace(done.members[0].config, batch_size=1_000)
    members = [replace(done.members[0], config=config)]
    assert memory.needs(members, done.choice.device, "float64").step > 1_000 * 64 * 8
    for name, weight in done.members[0].network.weights.items():
        np.testing.assert_array_equal(weight, before[name])
        assert weight.dtype == before[name].dtype
    counted = Counted()
    assert counted.empty((1 << 44,), "uint8").nbytes == counted.asked == 1 << 44
    with pytest.raises(TypeError, match="runs nothing"):
        counted.launcher("", "")((1,), (1,), 0, ())


WIDE = {"hidden": (4096,), "validation": 0, "optimizer": "sgd", "batch_size": 1024}


def too_small(**settings: object) -> Small:
    """A device that has room for two thirds of what steps write on their way."""
    whole = planned(**WIDE, **settings)
    wanted = memory.needs(whole.members, Small(0, "cuda"), "float32")
    assert wanted.batch == 1024
    return Small(wanted.total - wanted.step // 3, "cuda", "numpy")


def test_a_batch_that_does_not_fit_is_taken_in_micro_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = too_small()
    found = plan(monkeypatch, device, **WIDE)
    config = found.settings.config
    assert (config.batch_size, config.micro_batch_size) == (1024, 512)
    assert "1,024 rows at a time do not fit cuda:0" in found.settings.origin["micro_batch_size"]
    needs = memory.needs(found.members, device, "float32")
    assert needs.batch == 512
    assert needs.total <= device.free
    assert found.launches.micro_batch == 512
    with pytest.raises(OutOfMemory, match="try --micro-batch-size 512") as caught:
        plan(monkeypatch, device, micro_batch_size=1000, **WIDE)
    assert caught.value.exit_code == 71
    for part in ("training asks for", "of rows", "1,000 rows of a step at a time", "are free"):
        assert part in caught.value.message
    with pytest.raises(OutOfMemory, match="try --micro-batch-size 512"):
        plan(monkeypatch, device, micro_batch_size="all", **WIDE)


def test_a_batch_that_must_be_whole_shrinks_where_nobody_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = too_small(norm="batch")
    open_size = {**WIDE, "batch_size": "auto"}
    monkeypatch.setattr(auto, "_batch_size", lambda rows: (1024, "a test"))
    found = plan(monkeypatch, device, norm="batch", **open_size)
    config = found.settings.config
    assert (config.batch_size, config.micro_batch_size) == (512, "all")
    assert "1,024 rows at a time do not fit cuda:0" in found.settings.origin["batch_size"]
    per_epoch = -(-found.training_rows // 512)
    assert config.epochs == max(20, min(200, -(-6000 // per_epoch)))
    with pytest.raises(OutOfMemory, match="try --batch-size 512"):
        plan(monkeypatch, device, norm="batch", **WIDE)


def test_no_more_rows_are_taken_at_a_time_than_gain_something() -> None:
    wanted = memory.Needs(batch=1 << 22, parts=1, rows=0, weights=10, step=1 << 32)
    assert wanted.fitting_batch(1 << 31) == memory.ENOUGH
    assert wanted.fitting_batch(1 << 24) == 1 << 13
    assert wanted.fitting_batch(10) == 0


def needed(found: job.Job, device: Small) -> int:
    """Bytes that a planned run takes of a device."""
    return memory.needs(found.members, device, "float32", found.rows_bytes).total


@pytest.mark.parametrize("share", [0.9, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35])
def test_whatever_fits_in_some_way_is_planned_and_in_no_small_micro_batches(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Rows and a step are about as large as each other."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 100)).astype(np.float32), rng.integers(0, 3, 20_000)
    settings = {"hidden": (256, 256), "batch_size": 2048, "validation": 0, "test": 0, "steps": 9}
    settings = {**SETTINGS, **settings, "optimizer": "sgd"}
    wanted = memory.needs(job.plan((x, y), settings).members, Small(0, "cuda"), "float32")
    assert 0.4 < wanted.rows / wanted.step < 2.5
    device = Small(int(wanted.total * share), "cuda", "numpy")
    monkeypatch.setattr(auto, "resolve", lambda name: Choice(device, "a test"))
    monkeypatch.setattr(auto, "set_up", lambda *_: None)
    found = job.plan((x, y), settings)
    size = found.settings.config.micro_batch_size
    assert needed(found, device) <= device.free
    assert size == "all" or size >= 512


def test_windows_of_a_file_shrink_for_a_device_and_stay_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Which rows a step takes depends on them, so what was decided is a setting of the run."""
    rng = np.random.default_rng(0)
    for name, array in (("x", rng.standard_normal((40_000, 50))), ("y", np.arange(40_000.0))):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    monkeypatch.setattr("gpunet.data.limits.available", lambda: 12 << 20)
    monkeypatch.setattr(auto, "available", lambda: 12 << 20)
    monkeypatch.setattr(auto, "set_up", lambda *_: None)
    settings = {**SETTINGS, "validation": 0, "test": 0, "epochs": 1}
    whole = job.plan(tmp_path, settings)
    assert isinstance(whole.members[0].data.train.x, RowFile)
    wanted = memory.needs(whole.members, Small(0, "cuda"), "float32")
    device = Small(wanted.total - wanted.rows // 2, "cuda", "numpy")
    monkeypatch.setattr(auto, "resolve", lambda name: Choice(device, "a test"))
    found = job.plan(tmp_path, settings)
    config = found.settings.config
    assert config.max_memory < whole.settings.config.max_memory
    assert "rows that fit cuda:0" in found.settings.origin["max_memory"]
    assert needed(found, device) <= device.free
    assert not found.sends_rows
    with pytest.raises(OutOfMemory, match="lower --max-memory"):
        job.plan(tmp_path, {**settings, "max_memory": "6MiB", "micro_batch_size": "all"})


def test_rows_that_do_not_fit_are_sent_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {"hidden": (4,), "batch_size": 32, "validation": 0, "test": 0, "epochs": 1}
    whole = planned(**narrow)
    wanted = memory.needs(whole.members, Small(0, "cuda"), "float32")
    assert wanted.rows > wanted.step
    device = Small(wanted.total - wanted.rows // 2, "cuda", "numpy")
    found = plan(monkeypatch, device, **narrow)
    assert found.settings.config.micro_batch_size == "all"
    assert found.sends_rows
    assert needed(found, device) <= device.free
    assert len(found.launches.feed.x) < found.training_rows // 2
    roomy = Small(wanted.total, "cuda", "numpy")
    assert not plan(monkeypatch, roomy, **narrow).sends_rows
    full = Small(wanted.total - wanted.rows, "cuda", "numpy")
    both = plan(monkeypatch, full, **narrow)
    assert both.sends_rows
    assert both.settings.config.micro_batch_size < 32
    assert needed(both, full) <= full.free
    with pytest.raises(OutOfMemory, match="32 rows of a step at a time"):
        plan(monkeypatch, full, micro_batch_size="all", **narrow)


def test_where_no_batch_helps_the_flag_that_does_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutOfMemory, match="narrower"):
        plan(monkeypatch, Small(1 << 20, "cuda"), hidden=(2048,))
    with pytest.raises(OutOfMemory, match="use --device cpu"):
        plan(monkeypatch, Small(1 << 10, "cuda"), hidden=(1,), steps=1)
    assert plan(monkeypatch, Small(0), hidden=(1,)).choice.reason == "a test"  # not told


class Fault(Exception):
    """As CuPy's own."""


class Failing(Small):
    def shortage(self, fault: BaseException) -> int | None:
        return 3 * GIB if isinstance(fault, Fault) else super().shortage(fault)


def test_running_out_is_one_line_with_what_was_asked_what_is_free_and_what_helps() -> None:
    device = Failing(GIB, "cuda")
    with pytest.raises(OutOfMemory) as caught, device.watching("lower --batch-size"):
        raise Fault
    assert str(caught.value) == (
        "out of memory on cuda:0: asked for 3.0 GiB; 1.0 GiB of 80.0 GiB are free; "
        "lower --batch-size"
    )
    with pytest.raises(OutOfMemory, match="more than there is"), device.watching("-"):
        raise MemoryError
    with pytest.raises(OutOfMemory, match=r"asked for 8,192\.0 TiB"), Cpu().watching("-"):
        np.empty((1 << 50,), np.float64)
    with pytest.raises(ZeroDivisionError), device.watching("-"):
        _ = 1 // 0


def test_cupys_faults_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    from gpunet.device import cuda

    monkeypatch.setattr(cuda.Cuda, "__init__", lambda self: setattr(self, "xp", cupy))
    device = cuda.Cuda()
    assert device.shortage(cupy.cuda.memory.OutOfMemoryError(GIB, 0, 0)) == GIB
    assert device.shortage(cupy.cuda.runtime.CUDARuntimeError(2)) == 0
    assert device.shortage(cupy.cuda.runtime.CUDARuntimeError(700)) is None
    assert device.shortage(MemoryError()) == 0
    assert device.shortage(ValueError()) is None


def test_a_run_that_runs_out_says_so(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*given: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpunet.launches.LaunchList.run", fails)
    assert _run(["train", "penguins", "-q", "--device", "cpu", "-o", "run"]) == 71
    shown = capsys.readouterr().err
    assert shown.startswith("gpunet: error: out of memory on cpu: asked for more")
    assert "lower --micro-batch-size" in shown
    assert '"failed"' in (tmp_path / "run" / "status.json").read_text()


@pytest.mark.parametrize("asked", [{"epochs": 10**18}, {"epochs": 10**12}, {"steps": 10**15}])
def test_steps_whose_rates_have_no_room_are_refused(asked: dict[str, int]) -> None:
    ((name, count),) = asked.items()
    with pytest.raises(UsageError, match=f"--{name} {count:,}: the learning rates .* take fewer"):
        job.plan("penguins", {"preset": "plain", **asked})


def test_a_network_that_cannot_even_be_drawn_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ["--hidden", "900000,9000000", "--preset", "plain", "--device", "cpu"]
    assert _run(["plan", "digits", *wide]) == 71
    shown = capsys.readouterr().err
    assert "8,100,147,600,000 weights ask for 176.8 TiB" in shown
    assert "make --hidden narrower" in shown


@pytest.mark.gpu
def test_a_gpu_says_what_it_has(gpu) -> None:
    total = gpu.memory().total
    with pytest.raises(OutOfMemory, match="are free; flag") as caught, gpu.watching("flag"):
        gpu.empty((2 * total,), np.uint8)
    assert "asked for" in str(caught.value)
    assert gpu.to_host(gpu.zeros((3,), np.float32)).tolist() == [0, 0, 0]
