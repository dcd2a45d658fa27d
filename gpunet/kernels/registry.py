"""Pairs every kernel with its NumPy reference and its CUDA source; none exists without both.

A kernel writes into the arrays that it is given and allocates nothing. Called, it runs where its
arrays live; bound to a device, it becomes a function of no arguments for a launch list.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from inspect import Parameter, Signature, signature
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpunet.device import Array, Device, device_of, module_of
from gpunet.device.base import Run
from gpunet.errors import Unavailable
from gpunet.kernels.slots import MOST_STRIPS, THREADS, c_constants
from gpunet.kernels.tiles import shape2

C_TYPES = {"float32": "float", "float64": "double"}

Reference = Callable[..., Run]
"""A kernel's NumPy formula, bound: from the arguments, a function of none that runs it on them.
What the runs share, such as views of tiles and scratch, it makes once."""


class Stage(NamedTuple):
    """One CUDA launch: its entry point, and its grid as a function of the kernel's arguments.

    `entry` may name a dtype: `"gather_{x.dtype}"`. The block is always THREADS threads in a row.
    """

    entry: str
    grid: Callable[..., tuple[int, ...]]


@dataclass(frozen=True)
class Kernel:
    """One fused kernel.

    name: its registered name, also the reference's.
    reference: the NumPy formula, bound; its parameters are the kernel's arguments.
    source: the file under `kernels/` that holds the CUDA entry points.
    outputs: the parameters that are written, whole.
    typed_by: the parameter whose dtype is the kernel's; None where no array's dtype varies.
    sizes: the integers that follow the arrays in the CUDA signature, from the arguments.
    stages: the CUDA launches, in order; all take the same arguments.
    work: elements of scratch that the kernel wants as its last argument `work`, from the others.
    variant: the name for which this kernel's copy of the source is built, if it has several.
    generated: C functions that the source calls, for formulas given at run time.
    dropped: the kernel that does the dropout beside it too, if there is one.
    """

    name: str
    reference: Reference
    source: str
    outputs: tuple[str, ...]
    typed_by: str | None
    sizes: Callable[..., tuple[int, ...]]
    stages: tuple[Stage, ...]
    work: Callable[..., int] | None
    variant: str = ""
    generated: str = ""
    dropped: "Kernel | None" = None

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(C_TYPES) if self.typed_by else ("float32",)

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        return tuple(signature(self.reference).parameters)

    def __call__(self, *arguments: Any) -> None:
        """Run at once, where the arrays live. A missing `work` is allocated."""
        xp = module_of(*arguments)
        if self.work is not None and len(arguments) == len(self.parameters) - 1:
            dtype = self._dtype(arguments)
            arguments = (*arguments, xp.empty(max(1, self.work(*arguments)), dtype))
        if xp is np:
            self._dtype(arguments)
            with np.errstate(all="ignore"):
                self.reference(*arguments)()
        else:
            self._run_strided(xp, arguments)

    def bind(self, device: Device, *arguments: Any) -> Run:
        """A function of no arguments that runs this kernel on these arrays.

        On a device that launches sources, every array must be contiguous.
        """
        dtype = self._dtype(arguments)
        source = source_text(self.source, dtype, self.variant, self.generated)
        sizes = tuple(np.int64(size) for size in self.sizes(*arguments))
        pointers = tuple(_pointer(argument) for argument in arguments)
        calls: list[Run] = []
        for stage in self.stages:
            entry = stage.entry.format(**dict(zip(self.parameters, arguments, strict=True)))
            launch = device.launcher(source, entry)
            if launch is None:
                return self.reference(*arguments)
            grid = stage.grid(*arguments)
            if device.runs and max(grid[1:], default=0) > MOST_STRIPS:
                found = f"{self.name}: {grid[1]:,} strips of columns, a GPU takes {MOST_STRIPS:,}"
                raise Unavailable(found, "take fewer columns, or --device cpu")
            if 0 not in grid:
                calls.append(partial(launch, grid, (THREADS,), 0, (*pointers, *sizes)))
        return calls[0] if len(calls) == 1 else partial(run_all, tuple(calls))

    def _run_strided(self, xp: Any, arguments: tuple[Any, ...]) -> None:
        dense = tuple(
            xp.ascontiguousarray(a) if isinstance(a, xp.ndarray) else a for a in arguments
        )
        self.bind(device_of(*arguments), *dense)()
        for name, given, used in zip(self.parameters, arguments, dense, strict=True):
            if name in self.outputs and given is not used:
                given[...] = used

    def _dtype(self, arguments: tuple[Any, ...]) -> str:
        if self.typed_by is None:
            return self.dtypes[0]
        dtype = str(arguments[self.parameters.index(self.typed_by)].dtype)
        if dtype not in self.dtypes:
            raise TypeError(f"kernel {self.name} takes {' or '.join(self.dtypes)}, not {dtype}")
        return dtype


REGISTRY: dict[str, Kernel] = {}


def register(
    reference: Reference,
    source: str,
    *,
    outputs: str,
    typed_by: str | None,
    stages: tuple[Stage, ...],
    sizes: Callable[..., tuple[int, ...]] = shape2,
    work: Callable[..., int] | None = None,
    name: str | None = None,
    variant: str = "",
    beside: Callable[[Kernel], Kernel] | None = None,
) -> Kernel:
    """Add a kernel to REGISTRY and return it; `outputs` is a list of names divided by spaces, and
    `sizes` are the rows and columns of the first argument unless given.

    `beside` makes the one of it that does the dropout beside it too, which is added as well.
    """
    name = name or reference.__name__
    written = tuple(outputs.split())
    kernel = Kernel(name, reference, source, written, typed_by, sizes, stages, work, variant)
    if beside is not None:
        kernel = replace(kernel, dropped=_added(beside(kernel)))
    return _added(kernel)


def _added(kernel: Kernel) -> Kernel:
    if kernel.name in REGISTRY:
        raise ValueError(f"kernel {kernel.name} is registered twice")
    for name in (*kernel.outputs, *filter(None, [kernel.typed_by])):
        if name not in kernel.parameters:
            listed = ", ".join(kernel.parameters)
            raise ValueError(f"kernel {kernel.name} has no parameter {name!r} among {listed}")
    REGISTRY[kernel.name] = kernel
    return kernel


@cache
def source_text(source: str, dtype: str, variant: str = "", generated: str = "") -> str:
    """A CUDA translation unit: the prelude, the block-wide sums, `generated`, the files `source`,
    whose names are divided by spaces.

    A file of several variants is built for one at a time: it sees VARIANT, the name, and IS_name.
    """
    chosen = f"#define VARIANT {variant}\n#define IS_{variant} 1\n" if variant else ""
    files = map(_file, source.split())
    return "\n".join((prelude(dtype), _file("blocks.h"), chosen + generated, *files))


@cache
def prelude(dtype: str) -> str:
    """What every source opens with, generated ones too: T as `dtype`, the slots, the formulas."""
    bits = 8 * np.dtype(dtype).itemsize
    typed = f"#define T_BITS {bits}\ntypedef {C_TYPES[dtype]} T;\n{c_constants()}"
    return typed + _file("formulas.h")


def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text()


def per_thread(count: int) -> tuple[int, ...]:
    """A grid of so many threads, capped: the kernels stride over the rest."""
    return (min(ceil(count / THREADS), 2_048),)


def per_element(array: Array) -> tuple[int, ...]:
    """A grid with a thread an element of `array`."""
    return per_thread(array.size)


def per_four(array: Array) -> tuple[int, ...]:
    """The same for kernels whose threads take four elements at once."""
    return per_thread(ceil(array.size / 4))


def named(*names: str) -> Signature:
    """The signature of a reference that takes `*arguments`."""
    return Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])


def _pointer(argument: Any) -> Any:
    if argument is None:
        return np.uint64(0)
    return np.int64(argument) if isinstance(argument, int) else argument


def run_all(calls: tuple[Run, ...]) -> None:
    for call in calls:
        call()
