"""What a device is capable of, measured, and what a launch list should take by that.

Refuses to judge a step that was run: that is what scripts/bench.py does.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from statistics import median
from typing import Any

import numpy as np

from gpunet import engine, model, optim
from gpunet.config import Config
from gpunet.data.windows import WINDOW_BYTES
from gpunet.device import Array, Device
from gpunet.errors import Unavailable
from gpunet.launches import Feed, LaunchList

REPEATS, LEAST_SECONDS = 5, 0.02
"""Of a figure: the median of so many timings, each of as many calls as take so long."""
SIZES = {"cpu": (1024, 1 << 26), "cuda": (4096, 1 << 29)}
"""Rows of the square products, and bytes that are copied: far beyond any cache."""
PRECISIONS = {"cpu": ("fp32", "fp64"), "cuda": ("fp64", "fp32", "tf32", "bf16")}
NODES = 100
"""Kernels of a graph that is timed."""
EMPTY = 'extern "C" __global__ void empty(const int* nothing) {}'


@dataclass(frozen=True)
class Speed:
    """What a device does.

    copied: bytes a second, read and written both counted. products: operations a second by
    precision. Seconds: `call` of running a whole list once, which on CUDA is a graph; `within` of
    each launch in it; `alone` of a kernel that the host launches by itself. sent: bytes a second
    that come from the host while other work goes on. Both are None on the CPU.
    """

    copied: float
    products: dict[str, float]
    call: float
    within: float
    alone: float | None = None
    sent: float | None = None


@dataclass(frozen=True)
class Expected:
    """Seconds of a step by a device's speed: of its products, of its bytes if all come from memory,
    of its launches; and of all, where products and bytes of a launch go on side by side."""

    products: float
    memory: float
    launches: float
    step: float


def measure(device: Device) -> Speed:
    """Measure a device, in a few seconds."""
    size, nbytes = SIZES[device.kind]
    free = device.memory().free
    copied, before = _copied(device, min(nbytes, free // 8) if free else nbytes), device.precision
    try:
        products = dict(_products(device, size))
    finally:
        device.precision = before
    if device.kind == "cpu":
        return Speed(copied, products, *_steps(device))
    return Speed(copied, products, *_kernels(device), _sent(device))


def expected(launches: LaunchList, speed: Speed, precision: str) -> Expected:
    """What a step of the list should take on a device of such a speed."""
    rate = speed.products[precision]
    pairs = [((each.flops or 0) / rate, each.nbytes / speed.copied) for each in launches.launches]
    spent = speed.within * len(pairs)
    products, memory = (sum(part) for part in zip(*pairs))
    return Expected(products, memory, spent, sum(map(max, pairs)) + spent)


def lines(name: str, speed: Speed) -> list[tuple[str, str]]:
    """The speed of the device `name` for reading."""
    rates = (f"{precision} {_rate(rate)}" for precision, rate in speed.products.items())
    within = f"{speed.within * 1e6:.3g} µs a launch within it"
    called = f"{speed.call * 1e6:.3g} µs a call of a step · {within}"
    if speed.alone is not None:
        called = f"{speed.alone * 1e6:.3g} µs a kernel by itself · {called}"
    copies = f"{speed.copied / 1e9:,.3g} GB/s, read and written"
    if speed.sent is not None:
        copies = f"{copies} · {speed.sent / 1e9:,.3g} GB/s from the host"
    return [
        (f"{name} copies", copies),
        ("products", " · ".join(rates)),
        ("launches", called),
    ]


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.3g} GFLOP/s"


def expected_line(found: Expected) -> str:
    """The same for reading."""
    parts = {"products": found.products, "memory": found.memory, "launches": found.launches}
    said = ", ".join(f"{name} {each * 1e6:,.3g}" for name, each in parts.items())
    return f"about {found.step * 1e6:,.4g} µs a step ({said})"


def seconds(call: Callable[[], Any], device: Device) -> float:
    """Of one call: the median of several timings."""
    call()
    count, took = 1, _timed(call, device, 1)
    while took < LEAST_SECONDS:
        count = max(2 * count, min(100 * count, ceil(count * LEAST_SECONDS / max(took, 1e-9))))
        took = _timed(call, device, count)
    return median(_timed(call, device, count) for _ in range(REPEATS)) / count


def _timed(call: Callable[[], Any], device: Device, count: int) -> float:
    device.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        call()
    device.synchronize()
    return time.perf_counter() - began


def _copied(device: Device, nbytes: int) -> float:
    """Bytes a second, on as many threads as the device has."""
    here, there = (device.zeros((nbytes // 4,), np.float32) for _ in range(2))
    here[...], there[...] = 1, 2  # pages that were never written are not read from memory
    with device.working(0), _copy(device, here, there) as copy:
        return 2 * here.nbytes / seconds(copy, device)


@contextmanager
def _copy(device: Device, here: Array, there: Array) -> Iterator[Callable[[], Any]]:
    if device.kind != "cpu":
        yield partial(there.__setitem__, ..., here)
        return
    parts = [np.array_split(array, device.threads) for array in (there, here)]
    with ThreadPoolExecutor(device.threads) as pool:
        yield lambda: list(pool.map(np.copyto, *parts))


def _sent(device: Device) -> float:
    """Bytes a second of a window of rows."""
    mirror = device.mirrored((WINDOW_BYTES,), np.uint8)
    return WINDOW_BYTES / seconds(partial(mirror.send, slice(0, WINDOW_BYTES)), device)


def _products(device: Device, size: int) -> Iterator[tuple[str, float]]:
    """Operations a second of square products, by precision; what a device has not is left out."""
    drawn = np.random.default_rng(0).standard_normal((size, size), np.float32)
    flops = 2 * size**3
    for precision in PRECISIONS[device.kind]:
        device.precision = precision
        a = device.asarray(_as(precision, drawn))
        out = device.empty((size, size), np.float64 if precision == "fp64" else np.float32)
        try:
            with device.working(flops):
                yield precision, flops / seconds(device.product(a, a, out), device)
        except Unavailable:
            continue


def _as(precision: str, drawn: np.ndarray) -> np.ndarray:
    """Numbers as a product of that precision takes them: of bfloat16 the bits."""
    if precision == "bf16":
        return (drawn.view(np.uint32) >> 16).astype(np.uint16)
    return drawn.astype(np.float64) if precision == "fp64" else drawn


def empty_kernel(device: Device) -> Callable[[], None]:
    """A kernel of one thread that does nothing, on a device that launches sources."""
    launch = device.launcher(EMPTY, "empty")
    assert launch is not None
    return partial(launch, (1,), (1,), 0, (np.uint64(0),))


def _kernels(device: Device) -> tuple[float, float, float]:
    """Seconds of a graph of one kernel, of a kernel in a graph, of one that the host launches."""
    empty = empty_kernel(device)
    with device.working(0):
        alone = seconds(empty, device)
        one, many = device.replay([empty]), device.replay([empty] * NODES)
        if one is None or many is None:
            return alone, alone, alone
        return seconds(partial(one, 1), device), seconds(partial(many, 1), device) / NODES, alone


def _steps(device: Device) -> tuple[float, float]:
    """Seconds of a call that runs a list once, and of each launch of many such steps in one call:
    a network of one weight."""
    built = model.build(Config(hidden=(), init="lecun", loss="mean_squared"), 1, 1, "regression")
    optimizer = optim.optimizer("sgd")
    ones = device.asarray(np.ones((1, 1), np.float32))
    launches = engine.lower(
        built,
        Feed(ones, ones),
        engine.store(built, device, "float32", optimizer.slots),
        1,
        "train",
        optimizer=optimizer,
        schedule=np.zeros((1, 3)),
    )
    steps = 1000
    many = seconds(partial(launches.run, steps), device) / steps
    return seconds(launches.run, device), many / len(launches.launches)
