"""The shim: which device, whose arrays, and no silent fallback."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from gpunet import about
from gpunet.device import cpu, device_of, module_of, resolve
from gpunet.device.counted import Counted
from gpunet.device.cpu import Cpu, available_cores, wanted_threads
from gpunet.errors import Unavailable, UsageError

NO_CUPY = "import sys; sys.modules['cupy'] = None\n"


class FromDlpack:
    """An array of another library: only DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_the_cpu_is_always_there() -> None:
    choice = resolve("cpu")
    assert choice.device.name == "cpu"
    assert choice.device.xp is np
    memory = choice.device.memory()
    assert 0 < memory.free <= memory.total


def test_arrays_of_others_are_taken() -> None:
    device, values = resolve("cpu").device, np.arange(4.0)
    assert (device.asarray(FromDlpack(values)) == values).all()
    assert device.asarray([1, 2], np.float32).dtype == np.float32
    assert device.to_host(values) is values


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "cuda:-1", "cuda:²"])
def test_other_names_are_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="no device"):
        resolve(name)


def test_a_number_of_threads_is_written_in_plain_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    for word, threads in (("1", 1), ("²", available_cores()), ("x", available_cores())):
        monkeypatch.setenv("OMP_NUM_THREADS", word)
        assert wanted_threads() == threads


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cuda_without_cupy_is_an_error_with_the_reason_and_auto_says_why() -> None:
    code = NO_CUPY + (
        "from gpunet.device import resolve\n"
        "from gpunet.errors import Unavailable\n"
        "print(resolve('auto').device.name, resolve('auto').reason)\n"
        "try: resolve('cuda')\n"
        "except Unavailable as e: print(e.exit_code, e)\n"
    )
    auto, cuda = run(code).splitlines()
    assert auto.startswith("cpu no CuPy")
    assert cuda.startswith("69 no CuPy")
    assert "gpunet[cuda13]" in cuda


def test_cuda_without_a_driver_keeps_the_librarys_reason() -> None:
    cupy = pytest.importorskip("cupy")
    if cupy.is_available():
        assert resolve("cuda").device.kind == "cuda"
        return
    with pytest.raises(Unavailable, match=r"no CUDA.*--device cpu") as caught:
        resolve("cuda")
    assert resolve("auto").device.name == "cpu"
    assert resolve("auto").reason in str(caught.value)


def test_one_module_a_call() -> None:
    assert module_of(np.ones(2), 3.0, [1]) is np
    assert module_of() is np
    assert device_of(np.ones(2)).name == "cpu"


@pytest.mark.gpu
def test_arrays_of_two_devices_are_refused(gpu) -> None:
    with pytest.raises(TypeError, match="two devices"):
        module_of(np.ones(2), gpu.asarray([1.0]))
    assert device_of(gpu.asarray([1.0])).name == gpu.name
    assert gpu.memory().total > 2**30


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_arrays_start_at_a_cache_line(dtype: str) -> None:
    cpu = Cpu()
    for shape in ((0,), (1,), (3, 5), (2, 100_000)):
        empty, zeros = cpu.empty(shape, dtype), cpu.zeros(shape, dtype)
        assert empty.shape == zeros.shape == shape
        assert empty.dtype == zeros.dtype == dtype
        assert not empty.size or empty.ctypes.data % 64 == zeros.ctypes.data % 64 == 0
        assert zeros.flags.c_contiguous
        assert not zeros.any()


def test_a_mirror_on_the_cpu_is_one_array() -> None:
    found = Cpu().mirrored((3, 2), np.float32)
    assert found.here is found.there
    assert (found.there.shape, found.there.dtype) == ((3, 2), np.float32)
    assert not found.there.any()
    found.here[1:] = 5
    found.send(slice(1, 3))
    assert found.there.tolist() == [[0, 0], [5, 5], [5, 5]]


def test_of_a_mirror_only_what_is_on_the_device_is_counted() -> None:
    counted = Counted()
    found = counted.mirrored((1 << 40, 4), np.float32)
    assert counted.asked == found.there.nbytes == 1 << 44


def test_rows_have_the_room_that_is_left_to_them() -> None:
    device = Cpu()
    with device.leaving(3):
        assert device.room_for_rows() == 3
        with device.leaving(None):
            assert device.room_for_rows() == 3
    assert device.room_for_rows() == np.inf
    assert Counted(3).room_for_rows() == 3
    assert Counted().room_for_rows() == np.inf


def blas_in_use() -> set[int]:
    pools = [each for each in threadpool_info() if each["user_api"] == "blas"]
    return {each["num_threads"] for each in pools[:1]}  # NumPy's; others may have come since


def test_large_products_get_the_threads_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = blas_in_use()
    for threads, flops, wanted in ((2, 10**9, 2), (1, 10**9, 1), (2, 10**5, 1)):
        with Cpu("numpy", threads).working(flops):
            assert blas_in_use() == {wanted}
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    with Cpu("numpy", 2).working(10**9):
        assert blas_in_use() == {1}
    assert blas_in_use() == before


def test_the_least_of_several_at_work_holds_and_the_last_one_restores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    before = blas_in_use()
    one, two = Cpu("numpy", 1), Cpu("numpy", 2)
    with ThreadPoolExecutor(1) as other:

        def elsewhere(act: Callable[..., Any], *arguments: Any) -> None:
            other.submit(act, *arguments).result()

        held = one.working(10**9)
        elsewhere(held.__enter__)
        with two.working(10**9):
            assert blas_in_use() == {1}
            elsewhere(held.__exit__, None, None, None)
            assert blas_in_use() == {2}
            with one.working(10**9), two.working(10**9):
                assert blas_in_use() == {2}
            held = two.working(10**9)
            elsewhere(held.__enter__)
        elsewhere(held.__exit__, None, None, None)
    assert blas_in_use() == before


def test_threads_of_openmp_have_limits_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_is_openmp", lambda: True)
    monkeypatch.setattr(cpu, "_blas_limit", None)
    before = blas_in_use()
    with Cpu("numpy", 1).working(0):
        assert blas_in_use() == {1}
    assert blas_in_use() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_no_share_in_its_parents_limit() -> None:
    code = (
        "import os, threading, time\n"
        "from test_device import Cpu, blas_in_use\n"
        "before, held, over = blas_in_use(), threading.Event(), threading.Event()\n"
        "def work():\n"
        "    with Cpu('numpy', 1).working(0): held.set(), over.wait()\n"
        "threading.Thread(target=work).start()\n"
        "held.wait()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    with Cpu('numpy', 1).working(0): pass\n"
        "    os._exit(blas_in_use() != before)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "over.set()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.stdout == "0\n", done.stderr


def test_info_is_plain_and_says_why() -> None:
    found = json.loads(json.dumps(about.collect()))
    assert found["schema"] == "gpunet.info/1"
    assert found["auto"]["reason"]
    assert found["packages"]["numpy"] == np.__version__
    assert found["cpu"]["blas_threads"] >= 1
    words = [word for word, _ in about.lines(found)]
    assert words[0] == "gpunet"
    assert "auto" in words
