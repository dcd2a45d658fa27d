"""The binding of cuBLASLt: against a stand-in, and against the library where it is installed."""

import ctypes

import numpy as np
import pytest
import reference
from fakelt import FakeLt, memory

from gpunet.device import cublaslt
from gpunet.device.base import Epilogue
from gpunet.device.cublaslt import Description, Pointers, Product, Refused
from gpunet.device.products import Products
from gpunet.errors import Unavailable
from gpunet.kernels.narrow import nearest, widened

M, N, K = 6, 16, 5


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLt:
    found = FakeLt()
    monkeypatch.setattr(cublaslt, "loaded", lambda: found)
    return found


def bind(fake: FakeLt, *given, is_tf32: bool = False, is_fixed: bool = False, **more):
    blas = cublaslt.Blas(stream=1, workspace=256, workspace_bytes=1024)
    return Products(blas, lambda array: array.ctypes.data, is_tf32, is_fixed).bind(*given, **more)


def operands(flip_a: bool, flip_b: bool, dtype: str = "float64") -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((K, M) if flip_a else (M, K)).astype(dtype)
    b = rng.standard_normal((N, K) if flip_b else (K, N)).astype(dtype)
    return a, b, (a.T if flip_a else a) @ (b.T if flip_b else b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
def test_products_of_rows(fake: FakeLt, flip_a: bool, flip_b: bool, dtype: str) -> None:
    a, b, wanted = operands(flip_a, flip_b, dtype)
    out = np.full((M, N), np.nan, dtype)
    bind(fake, a, b, out, flip_a, flip_b)()
    np.testing.assert_allclose(out, wanted, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_operands_of_bfloat16_give_float32(fake: FakeLt) -> None:
    a, b, _ = operands(False, True, "float32")
    out = np.full((M, N), np.nan, np.float32)
    bind(fake, nearest(a), nearest(b), out, False, True)()
    np.testing.assert_allclose(out, widened(nearest(a)) @ widened(nearest(b)).T, rtol=1e-5)


@pytest.mark.parametrize("act", ["", "relu", "gelu"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_bias_and_an_activation_behind_it(fake: FakeLt, act: str, has_bias: bool) -> None:
    a, b, inner = operands(False, False)
    bias = np.arange(float(N)) / 4 if has_bias else None
    out = np.full((M, N), np.nan)
    bind(fake, a, b, out, False, False, epilogue=Epilogue(act, bias))()
    wanted = reference.ACTIVATIONS[act or "identity"](inner + (0 if bias is None else bias))
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-15)


def test_the_search_is_told_how_pointers_are_aligned(fake: FakeLt) -> None:
    a, b, out = (memory(each.ctypes.data + 8, 4, np.float64) for each in np.zeros((3, 64)))
    bind(fake, a.reshape(2, 2), b.reshape(2, 2), out.reshape(2, 2), False, False)()
    assert {fake.searches[-1].attributes[key] for key in (5, 6, 7, 8)} == {8}
    a, b, out, bias = np.zeros((4, 64))
    bias = memory(bias.ctypes.data + 8, 2, np.float64)
    a, b, out = (each[:4].reshape(2, 2) for each in (a, b, out))
    bind(fake, a, b, out, False, False, epilogue=Epilogue("", bias))()
    assert fake.searches[-1].attributes[8] == 8


def test_a_product_goes_where_it_is_launched(fake: FakeLt, monkeypatch) -> None:
    """To another stream with another workspace, by the same algorithm."""
    a, b, _ = operands(False, False)
    blas, out, given = cublaslt.Blas(1, 256, 1024), np.zeros((M, N)), []
    monkeypatch.setattr(
        fake, "cublasLtMatmul", lambda *call: given.append(call) or 0, raising=False
    )
    product = Products(blas, lambda array: array.ctypes.data, False, False).bind(
        a, b, out, False, False
    )
    product()
    with blas.on(stream=2, workspace=4096):
        product()
    with pytest.raises(ZeroDivisionError), blas.on(stream=2, workspace=4096):
        _ = 1 // 0
    product()
    assert [call[-3:] for call in given] == [(256, 1024, 1), (4096, 1024, 2), (256, 1024, 1)]
    assert given[0][:-3] == given[1][:-3] == given[2][:-3]
    assert len(fake.searches) == 1


def test_what_there_is_no_algorithm_for_is_refused(fake: FakeLt) -> None:
    fake.refuses = {6}
    a, b, out = np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4))
    with pytest.raises(Refused, match="not supported"):
        bind(fake, a, b, out, False, False, epilogue=Epilogue("relu", np.ones(4)))


def test_a_missing_library_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder")

    def missing(name: str) -> None:
        raise RuntimeError(f"no {name} anywhere\nand more")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    cublaslt.loaded.cache_clear()
    with pytest.raises(Unavailable, match=r"no cuBLASLt: no cublasLt anywhere; .*cuda13"):
        cublaslt.loaded()
    assert cublaslt.version() == "no cuBLASLt: no cublasLt anywhere"


# The library itself, where it is installed; it needs no GPU to describe a product


@pytest.fixture
def real() -> ctypes.CDLL:
    cublaslt.loaded.cache_clear()
    try:
        return cublaslt.loaded()
    except Unavailable as reason:
        pytest.skip(reason.message)


def attribute(real: ctypes.CDLL, handle: ctypes.c_void_p, number: int, kind: type) -> int:
    value, written = kind(), ctypes.c_size_t()
    get = real.cublasLtMatmulDescGetAttribute
    get.argtypes = [
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
    ]
    size = ctypes.c_size_t(ctypes.sizeof(value))
    assert get(handle, number, ctypes.byref(value), size, ctypes.byref(written)) == 0
    assert written.value == size.value
    return value.value


def test_the_library_takes_the_descriptions(real: ctypes.CDLL) -> None:
    bits = cublaslt.RELU | cublaslt.BIAS
    product = Product(64, 100, 1000, flip_a=True, tf32=True, epilogue=bits)
    at = Pointers(4096, 8192, 16384, bias=512)
    description = Description(product, at)
    made = description.matmul.handle
    expected = {3: 0, 4: 1, 7: 6, 8: 512, 0: 77, 1: 0}
    wide = {8: ctypes.c_uint64}
    found = {n: attribute(real, made, n, wide.get(n, ctypes.c_int32)) for n in expected}
    assert found == expected
    assert cublaslt.version()[0].isdigit()
