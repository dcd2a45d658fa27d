"""The header of formulas, built by g++ as it stands: accuracy, special values, random numbers."""

import ctypes
import re
from functools import cache
from pathlib import Path

import emulation
import numpy as np
import pytest
import reference

from gpunet.kernels import registry
from gpunet.random import Purpose, permutation, shuffle_keys

HEADER = (Path(registry.__file__).parent / "formulas.h").read_text()
SIGNATURES = dict(re.findall(r"^HD T ((?:f|loss)_\w+)\(((?:T ?\w*,? ?)+)\)", HEADER, re.MULTILINE))
ROUNDINGS = 4
"""How many roundings a formula may be off, relative to 1 or to its value if larger; twice that for
a gradient."""

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="no g++")


@cache
def library(dtype: str) -> ctypes.CDLL:
    """Every formula as a loop over arrays: run_name(n, a, b, ..., out)."""
    loops = []
    for name, parameters in SIGNATURES.items():
        count = parameters.count("T")
        arrays = "".join(f"const T* x{i}, " for i in range(count))
        values = ", ".join(f"x{i}[i]" for i in range(count))
        loops.append(
            f'extern "C" void run_{name}(long long n, {arrays}T* out) {{\n'
            f"    for (long long i = 0; i < n; ++i) out[i] = {name}({values});\n}}"
        )
    loops.append("""
extern "C" void run_philox(const Words* x, const unsigned long long* key, Words* out) {
    *out = philox(*x, key[0], key[1]);
}
extern "C" void run_shuffled(unsigned n, unsigned half, const unsigned* keys, unsigned* out) {
    for (unsigned i = 0; i < n; ++i) out[i] = shuffled(i, n, half, keys);
}""")
    return emulation.load("\n".join((registry.prelude(dtype), *loops)))


def run(name: str, dtype: str, *arrays: np.ndarray) -> np.ndarray:
    arrays = tuple(np.ascontiguousarray(a, dtype) for a in np.broadcast_arrays(*arrays))
    out = np.empty_like(arrays[0])
    pointers = (ctypes.c_void_p(a.ctypes.data) for a in (*arrays, out))
    library(dtype)[f"run_{name}"](ctypes.c_longlong(out.size), *pointers)
    return out


def pi_times(x: np.ndarray) -> np.ndarray:
    return 4 * np.arctan(np.ones((), x.dtype)) * x


def half_turns(x: np.ndarray) -> np.ndarray:
    """x less whole turns, which is exact: between -1 and 1."""
    rest = np.fmod(x, 2)
    return rest - 2 * (rest > 1) + 2 * (rest < -1)


def sinpi(x: np.ndarray) -> np.ndarray:
    rest = half_turns(x)
    away = np.abs(rest)
    return np.copysign(np.sin(pi_times(np.minimum(away, 1 - away))), rest)


def cospi(x: np.ndarray) -> np.ndarray:
    return np.sin(pi_times(0.5 - np.abs(half_turns(x))))


UNARY = {
    **reference.ACTIVATIONS,
    "negate": np.negative,
    "exp": np.exp,
    "log": np.log,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "softplus": reference.softplus,
    "sin": np.sin,
    "cos": np.cos,
    "sinpi": sinpi,
    "cospi": cospi,
}
BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
LOSSES = {name: rows for name, rows in reference.LOSS_ROWS.items() if name[:7] != "softmax"}
NO_GRADIENT = ("expm1", "sinpi", "cospi")
POSITIVE = ("log", "sqrt", "power", "divide")
EXACT = {"exp": (-760, 720), "expm1": (-50, 720), "log": (0, 1e300), "tanh": (-25, 25),
         "sigmoid": (-760, 760), "softplus": (-760, 760), "sinpi": (-1e4, 1e4),
         "cospi": (-1e4, 1e4)}  # fmt: skip


def points(name: str, dtype: str, count: int = 2) -> list[np.ndarray]:
    rng = np.random.default_rng(len(name))
    values = [3 * rng.standard_normal(5000).astype(dtype) for _ in range(count)]
    return [np.abs(v) + np.asarray(0.1, dtype) if name in POSITIVE else v for v in values]


def test_every_formula_is_tested():
    expected = {f"f_{name}" for name in (*UNARY, *BINARY)}
    expected |= {f"f_{name}_grad" for name in UNARY if name not in NO_GRADIENT}
    expected |= {f"f_{name}_grad{i}" for name in BINARY for i in (0, 1)}
    expected |= {f"loss_{name}{end}" for name in LOSSES for end in ("", "_grad")}
    assert set(SIGNATURES) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_value(name: str, dtype: str):
    arrays = points(name, dtype, 1 if name in UNARY else 2)
    wanted = {**UNARY, **BINARY}[name](*(a.astype(float) for a in arrays))
    assert_near(run(f"f_{name}", dtype, *arrays), wanted, dtype)


@pytest.mark.parametrize("name", [name for name in UNARY if name not in NO_GRADIENT])
def test_gradient_of_one(name: str):
    (a,) = points(name, "float64", 1)
    a = a[np.abs(a) > 1e-3]
    slope = (UNARY[name](a + 1e-6) - UNARY[name](a - 1e-6)) / 2e-6
    got = run(f"f_{name}_grad", "float64", np.full_like(a, -1.5), a, UNARY[name](a))
    np.testing.assert_allclose(got, -1.5 * slope, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", BINARY)
def test_gradient_of_two(name: str):
    a, b = points(name, "float64")
    y = BINARY[name](a, b)
    slopes = [
        (BINARY[name](a + da, b + db) - BINARY[name](a - da, b - db)) / 2e-6
        for da, db in ((1e-6, 0), (0, 1e-6))
    ]
    for i, slope in enumerate(slopes):
        got = run(f"f_{name}_grad{i}", "float64", np.full_like(a, -1.5), a, b, y)
        np.testing.assert_allclose(got, -1.5 * slope, rtol=1e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("name", UNARY)
def test_gradient_in_float32(name: str):
    if name in NO_GRADIENT:
        return
    (a,) = points(name, "float32", 1)
    y = UNARY[name](a.astype(float))
    wide = run(f"f_{name}_grad", "float64", np.ones_like(y), a, y.astype(np.float32))
    assert_near(run(f"f_{name}_grad", "float32", np.ones_like(a), a, y) / 2, wide / 2, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str, dtype: str):
    p, t = points(name, dtype)
    t = (t > 0).astype(dtype) if "sigmoid" in name else t
    parameter = np.asarray(0.3, dtype)
    columns = (p[:, None].astype(float), t[:, None].astype(float), float(parameter))
    rows, grad = LOSSES[name](*columns)
    terms = (p * t, t) if name == "poisson" else (0, 0)  # a rate near them leaves little
    assert_near(run(f"loss_{name}", dtype, p, t, parameter), rows, dtype, terms[0])
    assert_near(run(f"loss_{name}_grad", dtype, p, t, parameter), grad[:, 0], dtype, terms[1])


def assert_near(got: np.ndarray, wanted: np.ndarray, dtype: str, term: object = 0) -> None:
    error = np.abs(got - wanted) / np.maximum(np.maximum(1, np.abs(wanted)), np.abs(term))
    assert error.max() <= ROUNDINGS * np.finfo(dtype).eps, error.max()


# The accuracy that the header states


def stated() -> dict[str, dict[str, float]]:
    """The table of the header's opening comment: type → formula → units in the last place."""
    names, *rows = re.findall(r"^// {3,}(.*)", HEADER, re.MULTILINE)[:3]
    table = {row.split()[0]: map(float, row.split()[1:]) for row in rows}
    return {kind: dict(zip(names.split(), values)) for kind, values in table.items()}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accuracy(name: str, dtype: str):
    exact = np.float64 if dtype == "float32" else np.longdouble
    if np.finfo(exact).nmant < np.finfo(dtype).nmant + 10:
        pytest.skip("no wider type to compare with")
    x = spread(name, dtype)
    with np.errstate(all="ignore"):
        wanted = EXACT_FORMULAS.get(name, UNARY[name])(x.astype(exact))
        nearest = wanted.astype(dtype)
    got, finite = run(f"f_{name}", dtype, x), np.isfinite(nearest)
    np.testing.assert_array_equal(got[~finite], nearest[~finite])
    off = np.abs(got[finite].astype(exact) - wanted[finite]) / np.spacing(np.abs(nearest[finite]))
    bound = stated()["float" if dtype == "float32" else "double"][name]
    assert off.max() <= bound + 0.01


EXACT_FORMULAS = {
    "sigmoid": lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x)))
}


def spread(name: str, dtype: str) -> np.ndarray:
    """Where it matters, near zero, and any bits."""
    rng, (low, high) = np.random.default_rng(1), EXACT[name]
    high = min(high, float(np.finfo(dtype).max))
    bits = rng.integers(0, 2**64, 100_000, dtype=np.uint64).astype(
        "u4" if dtype == "float32" else "u8"
    )
    parts = (rng.uniform(low, high, 100_000), rng.uniform(-2, 2, 100_000), [0, np.inf, -np.inf])
    return np.concatenate((*(np.asarray(part, dtype) for part in parts), bits.view(dtype)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_special_values(dtype: str):
    tiny = np.finfo(dtype).smallest_subnormal
    for name, at, value in (
        ("exp", 1e4, np.inf),
        ("exp", -1e4, 0.0),
        ("exp", np.log(float(tiny)) + 0.1, tiny),
        ("log", 0.0, -np.inf),
        ("log", -1.0, np.nan),
        ("log", np.inf, np.inf),
        ("log", tiny, np.log(float(tiny))),
        ("expm1", tiny, tiny),
        ("tanh", tiny, tiny),
        ("tanh", -np.inf, -1.0),
        ("sigmoid", 1e4, 1.0),
        ("sigmoid", -1e4, 0.0),
        ("softplus", 1e4, 1e4),
        ("softplus", -1e4, 0.0),
        ("sinpi", tiny, np.pi * float(tiny)),
        ("sinpi", 1e6, 0.0),
        ("cospi", 1e6 + 1, -1.0),
        ("cospi", 0.5, 0.0),
        ("cospi", np.inf, np.nan),
    ):
        assert_same(run(f"f_{name}", dtype, np.array([at])), np.asarray([value], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_in_nan_out(dtype: str):
    nan, one = np.array([np.nan]), np.ones(1)
    for name in UNARY:
        assert np.isnan(run(f"f_{name}", dtype, nan)).all(), name
    for name in BINARY:
        if name != "power":
            assert np.isnan(run(f"f_{name}", dtype, nan, one)).all(), name
            assert np.isnan(run(f"f_{name}", dtype, one, nan)).all(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_goes_all_the_way_back(dtype: str):
    nan, one = np.array([np.nan]), np.ones(1)
    assert np.isnan(run("f_abs_grad", dtype, one, nan, nan))
    for name in ("maximum", "minimum"):
        for i in (0, 1):
            for pair in ((nan, one), (one, nan)):
                assert np.isnan(run(f"f_{name}_grad{i}", dtype, one, *pair, nan)), (name, i)


def test_ties_and_kinks():
    one, zero = np.ones(1), np.zeros(1)
    for name in ("maximum", "minimum"):
        for i in (0, 1):
            assert run(f"f_{name}_grad{i}", "float64", one, one, one, one) == 0.5
    assert run("f_abs_grad", "float64", one, zero, zero) == 0
    assert run("f_relu_grad", "float64", one, zero, zero) == 0
    assert run("f_power_grad0", "float64", one, zero, zero, one) == 0
    assert run("f_power_grad1", "float64", one, zero, 2 * one, zero) == 0


def test_loading_leaves_subnormals_alone():
    library("float32")
    assert np.float64(5e-324) > 0
    assert np.float64(2e-308) / 100 > 0


def assert_same(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(got.dtype).eps, atol=0)


# Random numbers


def test_philox():
    for counter in ((0, 0, 0, 0), (7, 0, 99, 3), (2**64 - 1, 5, 2**63, 1)):
        x, out = np.array(counter, np.uint64), np.empty(4, np.uint64)
        key = np.array([0x1234567890ABCDEF, 42], np.uint64)
        library("float32").run_philox(*(ctypes.c_void_p(a.ctypes.data) for a in (x, key, out)))
        assert out.tolist() == reference.philox(counter, tuple(key.tolist()))


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 4097])
def test_shuffle(n: int):
    keys, out = shuffle_keys(9, Purpose.SHUFFLE, epoch=3), np.empty(n, np.uint32)
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    pointers = (ctypes.c_void_p(a.ctypes.data) for a in (keys, out))
    library("float32").run_shuffled(ctypes.c_uint(n), ctypes.c_uint(half), *pointers)
    assert out.tolist() == permutation(n, 9, Purpose.SHUFFLE, epoch=3).tolist()
