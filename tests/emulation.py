"""A device that runs CUDA sources on the CPU: g++ builds them with emulator.h, ctypes calls them.

It is strict where a GPU is not: an array that is not contiguous, of another dtype than the
parameter's, or read-only where the kernel may write is an error. Refuses dynamic shared memory.
"""

import ctypes
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpunet.device.base import Launcher
from gpunet.device.cpu import Cpu, available_cores

COMPILER = shutil.which("g++")
FLAGS = ("-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-x", "c++", "-")
DTYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned": np.uint32,
    "long long": np.int64,
    "unsigned long long": np.uint64,
    "unsigned char": np.uint8,
    "unsigned short": np.uint16,
}
ENTRY = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\))?\s*(\w+)\(([^)]*)\)')
TYPEDEF = re.compile(r"typedef ((?:\w+ )+)(\w+);")


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry point: its C type, and what its argument must be."""

    type: str
    dtype: Any
    is_pointer: bool
    is_const: bool


class Emulated(Cpu):
    """NumPy arrays and emulated launches; `reverse`: the threads of a block in falling order."""

    kind = "cuda"
    name = "emulated"

    def __init__(self, reverse: bool = False) -> None:
        super().__init__()
        self.reverse = reverse

    def launcher(self, source: str, entry: str) -> Launcher:
        library, entries = _library(source)
        parameters = entries[entry]
        run = library[f"run_{entry}"]
        run.restype = ctypes.c_char_p

        def launch(
            grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: Sequence[Any]
        ) -> None:
            assert shared == 0
            assert len(block) == 1
            values = [_value(*pair) for pair in zip(arguments, parameters, strict=True)]
            slots = (ctypes.c_uint64 * len(values))(*values)
            sizes = (ctypes.c_longlong * 3)(*grid, *(1,) * (3 - len(grid)))
            failure = run(slots, sizes, block[0], self.reverse)
            if failure:
                raise RuntimeError(f"{entry}: {failure.decode()}")

        return launch


def build(sources: Iterable[str]) -> None:
    """Compile several sources at once; each is compiled once a session."""
    _folder()  # two threads that ask first would make two, and lose one under the other's feet
    with ThreadPoolExecutor(available_cores()) as pool:
        list(pool.map(_library, sources))


def load(source: str) -> ctypes.CDLL:
    """Plain C++ as a library, without the emulator."""
    return _compile(source)


@cache
def _library(source: str) -> tuple[ctypes.CDLL, dict[str, tuple[Parameter, ...]]]:
    expanded = _run("-E", "-P", "-x", "c++", "-", source=source).decode()
    types = {name: meaning.strip() for meaning, name in TYPEDEF.findall(expanded)}
    entries = {
        name: tuple(_parameter(text, types) for text in parameters.split(","))
        for name, parameters in ENTRY.findall(expanded)
    }
    header = Path(__file__).with_name("emulator.h").read_text()
    wrappers = (_wrapper(name, parameters) for name, parameters in entries.items())
    return _compile("\n".join((header, expanded, *wrappers))), entries


def _parameter(text: str, types: dict[str, str]) -> Parameter:
    type = re.sub(r"\s*\w+$", "", text.strip())
    bare = type.replace("const ", "").replace("*", "").strip()
    while bare in types:
        bare = types[bare]
    return Parameter(type, DTYPES[bare], "*" in type, type.startswith("const"))


def _wrapper(entry: str, parameters: tuple[Parameter, ...]) -> str:
    values = ", ".join(f"({each.type})given[{i}]" for i, each in enumerate(parameters))
    return f"""
static void call_{entry}(void** given) {{ {entry}({values}); }}
extern "C" const char* run_{entry}(void** given, const long long* grid, int block, bool reverse) {{
    return emulator::launch(call_{entry}, given, grid, block, reverse);
}}"""


def _value(argument: Any, parameter: Parameter) -> int:
    if not isinstance(argument, np.ndarray):
        if parameter.is_pointer and (argument != 0 or argument.dtype != np.uint64):
            raise TypeError(f"{argument!r} for a {parameter.type}")
        return int(argument) % 2**64
    if not parameter.is_pointer or argument.dtype != parameter.dtype:
        raise TypeError(f"{argument.dtype} {argument.shape} for a {parameter.type}")
    if not argument.flags.c_contiguous or not (parameter.is_const or argument.flags.writeable):
        raise TypeError(f"an array that is not contiguous, or read-only, for a {parameter.type}")
    return argument.ctypes.data


@cache
def _compile(source: str) -> ctypes.CDLL:
    path = Path(_folder().name) / f"{hashlib.sha256(source.encode()).hexdigest()}.so"
    _run("-o", str(path), *FLAGS, source=source)
    return ctypes.CDLL(str(path))


def _run(*arguments: str, source: str) -> bytes:
    assert COMPILER is not None
    done = subprocess.run([COMPILER, *arguments], input=source.encode(), capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[:4000])
    return done.stdout


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="gpunet-emulation-")
