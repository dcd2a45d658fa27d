"""The CUDA sources: compiled for GPUs without one, run on the CPU, and run on a GPU if there is
one; all with the cases of kernel_cases.py."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import emulation
import numpy as np
import pytest
from emulation import Emulated
from kernel_cases import cases, kernels_and_dtypes
from kernel_check import Case, check
from nvrtc import nvrtc

from gpunet.device import Device
from gpunet.device.cpu import Cpu, available_cores
from gpunet.errors import Unavailable
from gpunet.kernels import REGISTRY, Kernel, dropout, tiles
from gpunet.kernels.registry import C_TYPES, Stage, source_text

KERNELS = kernels_and_dtypes()
SOURCES = sorted({(kernel.source, kernel.variant) for kernel in REGISTRY.values()})
ARCHITECTURES = ("80", "90", "100", "120")
SHARED_MEMORY = 48 * 1024

emulated = pytest.mark.skipif(emulation.COMPILER is None, reason="no g++")


def texts() -> dict[tuple[str, str, str], str]:
    return {
        (source, variant, dtype): source_text(source, dtype, variant)
        for source, variant in SOURCES
        for dtype in C_TYPES
    }


# NVRTC


@pytest.fixture(scope="module")
def nvrtc_logs() -> Iterator[dict[tuple[str, ...], str]]:
    """What NVRTC says of every source, dtype and architecture. Needs no GPU and no driver."""
    sources = texts()
    keys = [(*key, architecture) for key in sources for architecture in ARCHITECTURES]
    with nvrtc() as compiled, ThreadPoolExecutor(available_cores()) as pool:
        logs = pool.map(lambda key: compiled(sources[key[:3]], key[3]), keys)
        yield dict(zip(keys, logs))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("source", "variant"), SOURCES)
def test_compiles(nvrtc_logs: dict[Any, str], source: str, variant: str, architecture: str):
    for dtype in C_TYPES:
        log = nvrtc_logs[source, variant, dtype, architecture]
        assert "warning" not in log
        spills = re.findall(r"(\d+) bytes spill", log)
        assert len(spills) >= 2 * log.count("Compiling entry function") > 0
        assert set(spills) == {"0"}
        assert all(int(size) <= SHARED_MEMORY for size in re.findall(r"(\d+) bytes smem", log))


# The same sources on the CPU


@pytest.fixture(scope="module")
def built() -> None:
    emulation.build(texts().values())


def runner(kernel: Kernel, device: Device):
    return lambda *arguments: kernel.bind(device, *arguments)()


@emulated
@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_emulated(name: str, dtype: str, reverse: bool):
    device = Emulated(reverse)
    for layout in ("dense", "shared"):
        for case in cases(name, dtype):
            if layout == "dense" or case.shares:
                check(case, dtype, runner(case.kernel, device), layout)


STRIDING = {
    *("row_losses", "fold_rows", "layer_norm_forward", "dropout"),
    *("gather_labels", "gather_weights"),
    *("clear_rows", "scatter_add", "sgd", "adamw", "copy_columns", "periodic_forward"),
    *("piecewise_forward", "piecewise_backward"),
    *("narrow", "sgd_narrow", "adamw_narrow"),
    *("embedding_forward", "clear_table", "embedding_backward"),
}


def of_blocks(stage: Stage, blocks: int) -> Stage:
    return Stage(stage.entry, lambda *given: tuple(min(blocks, g) for g in stage.grid(*given)))


@emulated
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_grid_that_is_capped_strides_over_the_rest(blocks: int):
    found = set()
    for name, kernel in REGISTRY.items():
        entries = {stage.entry for stage in kernel.stages}
        for case in cases(name, "float32", ((67, 33),)) if entries <= STRIDING else ():
            found |= entries
            stages = tuple(of_blocks(stage, blocks) for stage in kernel.stages)
            few = replace(case.kernel, stages=stages)
            check(replace(case, kernel=few), "float32", runner(few, Emulated()))
    assert found == STRIDING


class Grids(Cpu):
    """Runs nothing, but keeps the grids of launches."""

    def __init__(self) -> None:
        super().__init__("numpy")
        self.grids: list[tuple[int, ...]] = []

    def launcher(self, source: str, entry: str):
        return lambda grid, *given: self.grids.append(grid)


def wide(dtype: str, *shape: int) -> np.ndarray:
    """An array whose numbers all lie in one place."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def test_a_matrix_that_is_too_wide_for_a_grid_is_an_error():
    """Rows that are added strip by strip take any width."""
    device, scale, add = Grids(), REGISTRY["scale_forward"], REGISTRY["scatter_add"]
    for columns in (2_097_120, 2_097_121):
        x, row, index = wide("float32", 300, columns), wide("float32", columns), wide("int32", 300)
        add.bind(device, x, index, x)()
        if columns % 32 == 0:
            scale.bind(device, x, row, x)()
    assert max(grid[1] for grid in device.grids if len(grid) > 1) == 65_535
    with pytest.raises(Unavailable, match="65,536 strips of columns, a GPU takes 65,535"):
        scale.bind(device, x, row, x)
    device.runs = False  # what only counts launches nothing, on a CPU neither
    scale.bind(device, x, row, x)


@pytest.mark.parametrize("rows", [129, 256])
def test_tiles_of_few_rows_stay_wide_enough_for_a_grid(rows: int):
    device, scale = Grids(), REGISTRY["scale_forward"]
    for columns in (524_280, 600_000, 1_048_561, 2_097_120):
        x, row = wide("float32", rows, columns), wide("float32", columns)
        scale.bind(device, x, row, x)()
    narrow, *wider = device.grids
    assert narrow == (1, 65_535)
    assert all(chunks > 1 and strips <= 65_535 for chunks, strips in wider)


FOLDING = [
    *("column_sums", "relu_backward", "tanh_dropped_backward", "scale_backward"),
    *("batch_norm_forward", "batch_norm_backward", "layer_norm_backward", "relu_narrow_backward"),
]


@emulated
@pytest.mark.parametrize("name", FOLDING)
def test_wide_tiles_of_few_rows_are_folded(name: str, monkeypatch: pytest.MonkeyPatch):
    """As those of more rows than 256."""
    monkeypatch.setattr(tiles, "MOST_STRIPS", 2)
    device = Mutant("#define MOST_STRIPS 65535", "#define MOST_STRIPS 2")
    for case in cases(name, "float32", ((256, 20), (130, 33))):
        assert tiles.column_chunks(next(iter(case.given.values()))) > 1
        check(case, "float32", runner(case.kernel, device))


DROPPED = ("tanh", "parametric_tanh")
WIDTHS = ((9, 15), (300, 15), (150, 16), (70, 17), (129, 31), (65, 32), (256, 33), (270, 130))


@emulated
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("name", DROPPED)
def test_masks_of_tiles_of_any_width(name: str, way: str):
    for case in cases(f"{name}_dropped_{way}", "float32", WIDTHS):
        check(case, "float32", runner(case.kernel, Emulated()))


@emulated
@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("name", DROPPED)
def test_dropout_beside_an_activation_is_both_to_the_bit(name: str, way: str):
    """By the kernels one after the other, of a whole batch and of a part of one."""
    kernel, device = REGISTRY[f"{name}_dropped_{way}"], Emulated()
    for case in cases(kernel.name, "float32", ((67, 33), (67, 16))):
        written = check(case, "float32", runner(kernel, device))
        given = {**case.given, **{name: np.empty_like(a) for name, a in written.items()}}
        mask = [case.given[name] for name in dropout.MASK]
        plain = REGISTRY[f"{name}_{way}"]
        work = np.empty(plain.work(next(iter(given.values()))), np.float32)
        given = {"dbias": None, **given, "work": work}
        if way == "forward":
            y = given.setdefault("y", np.empty_like(given["dropped"]))
            runner(plain, device)(*(given[each] for each in plain.parameters))
            runner(REGISTRY["dropout"], device)(y, *mask, given["dropped"])
        else:
            runner(REGISTRY["dropout"], device)(given["grad"], *mask, given["dz"])
            given["grad"] = given["dz"]
            runner(plain, device)(*(given[each] for each in plain.parameters))
        for each, array in written.items():
            assert array.tobytes() == given[each].tobytes(), f"{case.label} {each}"


class Mutant(Emulated):
    """Runs sources in which `old` reads `new`."""

    def __init__(self, old: str, new: str, reverse: bool = False) -> None:
        super().__init__(reverse)
        self.old, self.new = old, new

    def launcher(self, source: str, entry: str):
        assert self.old in source
        return super().launcher(source.replace(self.old, self.new), entry)


@emulated
@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("relu_backward", "y > 0 ? g", "y > 0 ? g * T(1.001)", "dz"),
        ("relu_backward", "total += slope;", "total = slope;", "dbias"),
        (
            "relu_backward",
            "dz[row * m + tile.column] = slope;",
            "dz[row * m + tile.column] = ((T*)grad)[row * m + tile.column] = slope;",
            "input was changed",
        ),
        ("relu_forward", "row < (tile).last)", "row + 1 < (tile).last)", "y.* is np.float64.nan"),
        ("column_sums", "out[tile.column] = sum", "out[tile.column + 1] = sum", "outside"),
        ("column_sums", "if (lane < half)", "if (lane <= half)", "out"),
        ("squared_norm", "half /= 2) {\n        __syncthreads();", "half /= 2) {", "out"),
        ("adam", "return report(clock, fault);", "return;", "clock"),
        ("adam", "(unsigned long long*)found, ", "(unsigned long long*)clock, ", "clock|found"),
        ("adam", "if (!found) return", "return", "found|clock"),
        ("show_faults", "found[i] = 0;", "", "found"),
        ("adam_narrow", "shadow[i] = narrowed((float)p);", "shadow[i] = 0;", "shadow"),
        ("adam_narrow", "if (shadow) shadow[i] = narrowed((float)p);", "", "shadow"),
        ("gelu_dropped_forward", "if (y) y[i] = value;", "", "y"),
        (
            "gelu_dropped_forward",
            "words, at);\n        }\n        __syncthreads();",
            "words, at); }",
            "dropped",
        ),
        ("gelu_dropped_backward", "start + down * drift", "start", "dz"),
        ("parametric_selu_dropped_backward", "dropout.before + first", "first", "dz"),
        ("parametric_selu_dropped_backward", "+ tile.column - across", "", "dz"),
    ],
)
def test_a_mutant_is_caught(name: str, old: str, new: str, reason: str):
    with pytest.raises(AssertionError, match=reason):
        check_mutant(name, old, new)


def check_mutant(name: str, old: str, new: str) -> None:
    for case in cases(name, "float64", ((67, 33),)):
        for reverse in (False, True):
            check(case, "float64", runner(case.kernel, Mutant(old, new, reverse)))


@emulated
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "    __syncthreads();\n    shared[me] = x;",
            "if (me) __syncthreads();",
            "different|others",
        ),
        ("T total = 0;", "T total = 0; if (threadIdx.x == 5) return;", "others wait"),
    ],
)
def test_a_barrier_that_some_miss_is_caught(old: str, new: str, reason: str):
    case = next(cases("column_sums", "float64", ((67, 33),)))
    with pytest.raises(RuntimeError, match=reason):
        check(case, "float64", runner(case.kernel, Mutant(old, new)))


@emulated
def test_what_a_gpu_would_not_notice_is_an_error():
    kernel, device = REGISTRY["take"], Emulated()
    x, index, y = np.zeros((4, 4)), np.zeros(2, np.int32), np.zeros((2, 4))
    with pytest.raises(TypeError, match="int64"):
        kernel.bind(device, x, index.astype(np.int64), y)()
    with pytest.raises(TypeError, match="contiguous"):
        kernel.bind(device, x.T, index, y)()


@emulated
def test_a_generated_formula():
    """A formula given at run time is C text that the known sources call."""
    made = replace(
        REGISTRY["tanh_forward"],
        variant="formula",
        generated="HD T f_formula(T a) { return f_multiply(a, a); }\n"
        "HD T f_formula_grad(T g, T a, T y) { return g * 2 * a; }\n",
    )
    z, y = np.arange(6.0).reshape(2, 3), np.empty((2, 3))
    runner(made, Emulated())(z, None, y, np.empty(12))
    assert y.tolist() == (z * z).tolist()


# A GPU


def on_gpu(kernel: Kernel, gpu: Device, layout: str):
    """Run on copies in the GPU's memory, then copy all of them back."""

    def moved(array: np.ndarray) -> Any:
        if layout != "strided" or not array.ndim:
            return gpu.asarray(np.ascontiguousarray(array))
        return gpu.asarray(np.repeat(array, 2, axis=-1))[..., ::2]

    def run(*arguments: Any) -> None:
        copies = {id(a): moved(a) for a in arguments if isinstance(a, np.ndarray)}
        kernel(*(copies.get(id(a), a) for a in arguments))
        for argument in arguments:
            if id(argument) in copies:
                argument[...] = gpu.to_host(copies[id(argument)])

    return run


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["dense", "strided", "shared"])
@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_on_a_gpu(gpu: Device, name: str, dtype: str, layout: str):
    for case in cases(name, dtype):
        if not _has_subnormals(case):  # which CUDA takes for zero
            check(case, dtype, on_gpu(case.kernel, gpu, layout), layout)


def _has_subnormals(case: Case) -> bool:
    return any(
        ((array != 0) & (np.abs(array) < np.finfo(np.float32).tiny)).any()
        for array in case.given.values()
        if isinstance(array, np.ndarray) and array.dtype == np.float32
    )
