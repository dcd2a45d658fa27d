"""NVRTC as CuPy calls it, on a machine without a GPU or a driver."""

import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def nvrtc() -> Iterator[Callable[[str, str], str]]:
    """compiled(source, architecture) gives the compiler's log; skips where there is no NVRTC."""
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("no CuPy")
    from cupy._core import core
    from cupy.cuda import compiler

    name = "_get_arch_for_options_for_nvrtc"
    memoized = getattr(compiler, name)
    options = core.assemble_cupy_compiler_options(("-std=c++17", "--ptxas-options=-v"))

    def compiled(source: str, architecture: str) -> str:
        log = io.StringIO()
        flags = (*options, "-ftz=true")
        compiler.compile_using_nvrtc(source, flags, arch=architecture, log_stream=log)
        return log.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        # The memo asks the driver for the current device; the function behind it does not.
        patch.setattr(compiler, name, getattr(memoized, "__wrapped__", memoized))
        try:
            compiled('extern "C" __global__ void nothing() {}', "90")
        except (OSError, RuntimeError, ImportError) as reason:
            pytest.skip(f"no NVRTC: {reason}")
        yield compiled
