"""An emulated device whose blocks may wait for each other (meeting.h).

Blocks have eight warps there, of one lane each unless told otherwise; memory that they share is
exactly as large as was asked for.
"""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import emulation
from emulation import ENTRY, TYPEDEF, Emulated

WARPS = 8
"""As many as a GPU's block has."""
ALONE = """
#define lane_sum(x) sum_of_lanes(x, LANES)
#define lane_sums(x)
#define seen(place) seen_now(place)
#define count_in(place) (++*(place))
#define fresh(place) (*(place))
#define received(place) seen_now(place)
#define post(place, packets) (*(place) = (packets))
#define fresh_four(to, place) for (int e = 0; e < 4; ++e) to[e] = (place)[e]
#define DYNAMIC(name) double* name = (double*)block_memory
#define SYNC_LANES()
"""


class Meeting(Emulated):
    """`blocks` run at once, at most; `launches` has the steps of each launch. With a `seed` threads
    run in an order by chance."""

    def __init__(self, blocks: int = 4, lanes: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.blocks, self.lanes, self.seed = blocks, lanes, seed
        self.launches: list[int] = []

    def room(self) -> tuple[int, int]:
        return self.blocks, 1 << 20

    def launcher(self, source: str, entry: str) -> Callable[..., None]:
        if not entry.startswith("persistent"):
            return super().launcher(source, entry)
        return self.meeting(source, entry, 0)

    def meeting(self, source: str, entry: str, shared_bytes: int) -> Callable[..., None]:
        library, entries = _built(source, self.lanes)
        parameters, threads = entries[entry], WARPS * self.lanes

        def launch(
            grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: Sequence[Any]
        ) -> None:
            assert shared == shared_bytes
            values = [emulation._value(*pair) for pair in zip(arguments, parameters, strict=True)]
            if shared:
                self.launches.append(int(arguments[len(arguments) - 2]))
            slots = (ctypes.c_uint64 * len(values))(*values)
            run = getattr(library, f"run_{entry}")
            run.restype = ctypes.c_char_p
            numbers = (ctypes.c_longlong(shared), ctypes.c_ulonglong(self.seed))
            failure = run(slots, grid[0], threads, *numbers)
            if failure:
                raise RuntimeError(f"{entry}: {failure.decode()}")

        return launch


@cache
def _built(source: str, lanes: int) -> tuple[ctypes.CDLL, dict[str, Any]]:
    small = source.replace("#define THREADS 256", f"#define THREADS {WARPS * lanes}")
    assert small != source
    alone = f"#define LANES {lanes}{ALONE}{small}"
    expanded = emulation._run("-E", "-P", "-x", "c++", "-", source=alone).decode()
    types = {name: meaning.strip() for meaning, name in TYPEDEF.findall(expanded)}
    entries = {
        name: tuple(emulation._parameter(text, types) for text in parameters.split(","))
        for name, parameters in ENTRY.findall(expanded)
    }
    header = Path(__file__).with_name("meeting.h").read_text()
    wrappers = (_wrapper(name, parameters) for name, parameters in entries.items())
    return emulation._compile("\n".join((header, expanded, *wrappers))), entries


def _wrapper(entry: str, parameters: tuple[Any, ...]) -> str:
    values = ", ".join(f"({each.type})given[{i}]" for i, each in enumerate(parameters))
    return f"""
static void call_{entry}(void** given) {{ {entry}({values}); }}
extern "C" const char* run_{entry}(void** given, int blocks, int threads, long long bytes,
                                   unsigned long long seed) {{
    return meeting::launch(call_{entry}, given, blocks, threads, bytes, seed);
}}"""
