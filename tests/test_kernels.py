"""Every kernel's NumPy reference against reference.py, and gradients against differences."""

import numpy as np
import pytest
import reference
from kernel_cases import CASES, cases, kernels_and_dtypes
from kernel_check import Case, check

from gpunet.device.cpu import Cpu
from gpunet.kernels import REGISTRY, Kernel, register

CPU = Cpu("numpy")
KERNELS = kernels_and_dtypes()
SMALL = ((3, 5),)
HAVE_GRADIENTS = [
    name
    for name in REGISTRY
    if (name.endswith("_backward") and "narrow" not in name) or name in reference.LOSS_ROWS
] + ["scatter_add"]
"""But for those that round to bfloat16: steps small enough to tell a gradient are rounded away."""


def test_every_kernel_has_cases():
    assert set(CASES) == set(REGISTRY)


def test_a_name_is_registered_once():
    sgd = REGISTRY["sgd"]
    with pytest.raises(ValueError, match="registered twice"):
        register(sgd.reference, "", outputs="", typed_by="", sizes=sgd.sizes, stages=(), name="sgd")


@pytest.mark.parametrize("names", [{"outputs": "z"}, {"typed_by": "z"}])
def test_what_a_kernel_says_of_its_parameters_is_so(names: dict):
    take = REGISTRY["take"]
    given = {"outputs": "y", "typed_by": "x", **names}
    with pytest.raises(ValueError, match="taken has no parameter 'z' among x, index, y"):
        register(take.reference, "", stages=(), name="taken", **given)
    assert "taken" not in REGISTRY


def test_another_dtype_is_an_error():
    with pytest.raises(TypeError, match="takes float32 or float64, not float16"):
        REGISTRY["take"](np.zeros((2, 2), np.float16), np.zeros(2, np.int32), np.zeros((2, 2)))


@pytest.mark.parametrize("layout", ["dense", "strided", "shared"])
@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_reference(name: str, dtype: str, layout: str):
    for case in cases(name, dtype):
        check(case, dtype, case.kernel, layout)


def test_batches_larger_than_a_tile():
    for name, dtype in KERNELS:
        for case in cases(name, dtype, ((700, 40),)):
            check(case, dtype, case.kernel)


AS_BOUND = {"scale", "shift", "starts"}
"""Arguments that a reference may read when it is bound."""


def bound_early(kernel: Kernel):
    """The kernel, bound before its arrays have their values, run twice from the same start."""

    def run(*arguments):
        arrays = [(a, a.copy()) for a in arguments if isinstance(a, np.ndarray)]
        for name, array in zip(kernel.parameters, arguments, strict=True):
            if isinstance(array, np.ndarray) and name not in AS_BOUND:
                array.fill(0)
        step = kernel.bind(CPU, *arguments)
        for _ in range(2):
            for array, start in arrays:
                array[...] = start
            with np.errstate(all="ignore"):
                step()

    return run


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_a_bound_kernel_reads_its_arrays_at_every_run(name: str, dtype: str):
    for case in cases(name, dtype, ((67, 33),)):
        check(case, dtype, bound_early(case.kernel))


# Gradients by central differences


def differences(case: Case, factor: float = 1.0) -> None:
    """The outputs, times `factor`, are the gradients of the case's number."""
    found, slopes = check(case, "float64", case.kernel), case.slopes
    for name, output in slopes.outputs.items():
        numeric = reference.central_difference(
            lambda x, name=name: slopes.number(**{**slopes.point, name: x}), slopes.point[name]
        )
        error = np.abs(factor * found[output] - numeric).max()
        assert error < 1e-6 * max(1e-2, np.abs(numeric).max()), f"{case.label} {output}: {error}"


@pytest.mark.parametrize("name", HAVE_GRADIENTS)
def test_gradient(name: str):
    checked = [case for case in cases(name, "float64", SMALL) if case.slopes]
    assert checked
    for case in checked:
        differences(case)
        with pytest.raises(AssertionError):
            differences(case, factor=1.001)


# The check itself can fail


def broken(kernel: Kernel, output: str, spoil):
    """The kernel, then `spoil(array before, array after)` on one output."""

    def run(*arguments):
        array = arguments[kernel.parameters.index(output)]
        before = array.copy()
        kernel(*arguments)
        spoil(before, array)

    return run


def skip_the_last(before: np.ndarray, after: np.ndarray) -> None:
    after[..., -1] = before[..., -1]


def add_a_thousandth(before: np.ndarray, after: np.ndarray) -> None:
    if after.dtype.kind in "iu":  # or, of a bfloat16's bits, the next one
        after += 1
    else:
        after *= 1.001


def leave(before: np.ndarray, after: np.ndarray) -> None:
    after[...] = before


def check_broken(name: str, dtype: str, output: str, spoil) -> None:
    for case in cases(name, dtype, SMALL):
        if case.expected.get(output) is not None:
            check(case, dtype, broken(case.kernel, output, spoil))


@pytest.mark.parametrize(("name", "dtype"), KERNELS)
def test_a_broken_kernel_is_caught(name: str, dtype: str):
    for output in REGISTRY[name].outputs:
        spoils = [leave]
        if output not in ("clock", "hyper"):
            spoils.append(skip_the_last)
        if output != "clock":
            spoils.append(add_a_thousandth)
        for spoil in spoils:
            with pytest.raises(AssertionError):
                check_broken(name, dtype, output, spoil)


def test_a_changed_input_and_a_write_outside_are_caught():
    case = next(cases("column_sums", "float64", SMALL))
    with pytest.raises(AssertionError, match="an input was changed"):
        check(case, "float64", lambda x, out, work: (case.kernel(x, out, work), x.fill(0)))
    with pytest.raises(AssertionError, match="written outside"):
        check(case, "float64", lambda x, out, work: (case.kernel(x, out, work), past(out)))


def past(array: np.ndarray) -> None:
    """Write one element behind the end."""
    longer = np.lib.stride_tricks.as_strided(array, (array.size + 1,), array.strides)
    longer[-1] = 0
