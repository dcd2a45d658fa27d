#!/usr/bin/env python3
"""Feeds gpunet's own parsers mutated input: anything but an error of gpunet's is a failure.

    python scripts/fuzz.py [--executions 1000000] [--seed 0] [--only NAME [--at I]]

Every execution follows from the seed, the target's name and its number; a failure is printed with
its input and the command that repeats it. Exit 6 when there is one.
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from corpora import remade
from tables import idx, npy, npz

import gpunet
from gpunet import config, formula, predict, run, sizes
from gpunet.data.idx import read_idx
from gpunet.data.npy import read_npy, read_npz
from gpunet.errors import CheckFailed, GpunetError, GpunetWarning

SLOW = 2.0  # seconds of processor time that no single input may take
BUDGET = 1 << 26
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
LARGE = (*NUMBERS, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
WORDS = (b"\x93NUMPY", b"PK\3\4", b"PK\1\2", b"PK\5\6", b"'descr'", b"'shape'", b"True", b"False")
MARKS = (b"{", b"}", b"[", b"]", b"(", b")", b"'", b'"', b",", b":", b"-", b"9" * 30, b"\0" * 8)
LEAVES = (None, True, -1, 0, 1, 1.5, 1e308, 2**63, 10**40, "", "x", "\x1b[0m", [], {}, [[]], "auto")
TOKENS = """
    x y w0 pred target 0 1 2.5 1e999 1e-400 0x10 1_000 9999999999999999999 + - * / ** @ % // ( ) [ ]
    , : ; = == < > . ... ' " \\ # ~ ! & | ^ lambda if else for in await yield not and or is None
    True exp log sqrt abs sum mean max min sigmoid tanh relu softmax softmax_cross_entropy where
    __import__ __class__
    \u03c0 \u0661 \u00b2 \u202e \ud800 f"{x}" b"" x[0] x.T x: x:=1 pi e -- ++ **-
""".split()
SETTINGS = ("hidden", "lr", "betas", "max_memory", "validation", "warmup", "seed", "loss", "task")


@dataclass(frozen=True)
class Target:
    """A parser: how often it is run, what it is given, and what it does with it."""

    share: int
    make: Callable[[Random], Any]
    parse: Callable[[Any], object]


def mutated(rng: Random, data: bytes) -> bytes:
    """One to six changes of bits, bytes, numbers and runs."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1)
        _change(rng, changed, at, min(len(changed), at + rng.randint(1, 16)))
    return bytes(changed)


def _change(rng: Random, data: bytearray, low: int, high: int) -> None:
    kind = rng.randrange(8)
    if kind == 0 and low < len(data):
        data[low] ^= 1 << rng.randrange(8)
    elif kind == 1 and low < len(data):
        data[low] = rng.randrange(256)
    elif kind == 2:
        width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
        data[low : low + width] = (rng.choice(LARGE) % 256**width).to_bytes(width, order)
    elif kind == 3:
        del data[low:high]
    elif kind == 4:
        data[low:low] = rng.choice(WORDS + MARKS)
    elif kind == 5:
        data[low:high] = rng.choice(MARKS)
    elif kind == 6:
        data[low:low] = data[low:high] * rng.randint(1, 4)
    elif kind == 7 and rng.random() < 0.3:
        del data[low:]


def _reshaped(rng: Random, value: Any) -> Any:
    """A JSON value with one leaf or branch of it replaced, removed or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        kind = rng.random()
        if kind < 0.05:
            return {name: each for name, each in value.items() if name != key}
        if kind < 0.1:
            return {**value, rng.choice(("", "x", key + "2")): rng.choice(LEAVES)}
        return {**value, key: _reshaped(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        kind = rng.random()
        if kind < 0.1:
            return value[:at] + value[at + 1 :]
        if kind < 0.2:
            return value * 2
        return [*value[:at], _reshaped(rng, value[at]), *value[at + 1 :]]
    return rng.choice((*LEAVES, *LARGE))


@cache
def _idx_files() -> tuple[bytes, ...]:
    x = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    return idx(x), idx(x.astype("f4"), 0x0D), idx(x[:, 0, 0]), idx(x.astype("i2"), 0x0B)


@cache
def _npy_files() -> tuple[bytes, ...]:
    x = np.arange(6.0).reshape(3, 2)
    made = (x, x.astype(">f4"), np.asfortranarray(x), np.array(["a", "bc"]), x > 2, x.astype("u1"))
    return tuple(map(npy, made))


@cache
def _npz_files() -> tuple[bytes, ...]:
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    parts = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    every = npz(*((f"{name}.npy", npy(array)) for name, array in parts.items()))
    return npz(("x.npy", npy(x)), ("y.npy", npy(y))), every


@cache
def _models() -> tuple[bytes, ...]:
    table = {"a": [1.0, 2.0, 3.0, 4.0] * 5, "b": ["u", "v", "u", "w"] * 5, "y": [0, 1, 1, 0] * 5}
    made = []
    for options in ({"norm": "batch"}, {"activation": "x*sigmoid(x)", "task": "regression"}):
        with warnings.catch_warnings(category=GpunetWarning, action="ignore"):
            model = gpunet.train(table, "y", hidden=(3,), steps=1, device="cpu", **options)
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "m.safetensors")
            made.append((Path(folder) / "m.safetensors").read_bytes())
    return tuple(made)


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")  # a disk that others keep busy would set the pace
    return tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)


def _file(data: bytes) -> Path:
    path = Path(_scratch().name) / "m.safetensors"
    path.write_bytes(data)
    return path


def _model_state(rng: Random) -> bytes:
    """A model with a changed state or entry, and a hash that fits."""

    def change(entries: dict[str, Any], state: dict[str, Any]) -> None:
        found = _reshaped(rng, state)
        for _ in range(rng.randrange(3)):
            found = _reshaped(rng, found)
        state.clear()
        state.update(found if isinstance(found, dict) else {"schema": found})

    return remade(rng.choice(_models()), change)


def _model_bytes(rng: Random) -> bytes:
    """A model with a changed header: the text of its JSON, or the bytes of the file."""
    sound = rng.choice(_models())
    if rng.random() < 0.5:
        return mutated(rng, sound)
    size = int.from_bytes(sound[:8], "little")
    head = _reshaped(rng, json.loads(sound[8 : 8 + size]))
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + sound[8 + size :]


def _text(rng: Random) -> str:
    parts = [rng.choice(TOKENS) for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.05:
        parts *= rng.randint(10, 400)
    return rng.choice(("", " ", "(", "*")).join(parts)


def _formula(rng: Random) -> str:
    if rng.random() < 0.5:
        return _text(rng)
    sound = rng.choice((b"1/(1+exp(-(w0*x0+w1*x1+w2)))", b"sum(max(0, x @ w))", b"mean((x-y)**2)"))
    return mutated(rng, sound).decode("utf-8", "surrogateescape")


def _setting(rng: Random) -> tuple[str, str]:
    sound = (b"256,128", b"1e-3", b"0.9,0.999", b"1.5GiB", b"0.15", b"none", b"auto", b"huber(2)")
    return rng.choice(SETTINGS), mutated(rng, rng.choice(sound)).decode("utf-8", "replace")


def _parse_size(text: str) -> None:
    try:
        sizes.parse_size(text)
    except ValueError as reason:
        if "must be" not in str(reason):
            raise


def _parse_formula(text: str) -> None:
    with suppress(GpunetError):
        formula.elementwise(text, ("x", "y"))
    formula.parse(text)


def _one_of(files: Callable[[], tuple[bytes, ...]]) -> Callable[[Random], bytes]:
    return lambda rng: mutated(rng, rng.choice(files()))


TARGETS = {
    "idx": Target(20, _one_of(_idx_files), lambda data: read_idx(data, "f")),
    "npy": Target(20, _one_of(_npy_files), lambda data: read_npy(data, "f")),
    "npz": Target(10, _one_of(_npz_files), lambda data: read_npz(data, "f", BUDGET)),
    "model-header": Target(15, _model_bytes, lambda data: run.unpack(_file(data))),
    "model-state": Target(10, _model_state, lambda data: predict.load(_file(data))),
    "formula": Target(15, _formula, _parse_formula),
    "settings": Target(5, _setting, lambda pair: config.gather({pair[0]: pair[1]})),
    "sizes": Target(5, lambda r: _setting(r)[1], _parse_size),
}


def fault(target: str, seed: int, number: int) -> str | None:
    """What goes wrong in one execution, with its input; None for nothing."""
    given = TARGETS[target].make(Random(f"{seed}/{target}/{number}"))
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TARGETS[target].parse(given)
    except GpunetError as reason:
        if reason.exit_code == 1:
            return f"{given!r}: an error of no kind: {reason}"
    except BaseException as reason:
        if isinstance(reason, KeyboardInterrupt):
            raise
        place = traceback.format_exception(reason)[-2].strip()
        return f"{given!r}: {type(reason).__name__}: {reason} ({place})"
    taken = time.process_time() - began
    return f"{given!r}: {taken:.1f} s" if taken > SLOW else None


def shares(executions: int, names: Iterable[str]) -> dict[str, int]:
    """How many of the executions each target gets."""
    each = {name: TARGETS[name].share for name in names}
    return {name: max(1, executions * of // sum(each.values())) for name, of in each.items()}


def faults(target: str, seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, str]]:
    """The number and words of each failure among executions of a target."""
    for number in numbers:
        if found := fault(target, seed, number):
            yield number, found


def limit_memory(size: int) -> None:
    """Make an allocation that no input deserves a MemoryError."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument("--at", type=int, help="one execution alone, with --only")
    given = parser.parse_args()
    limit_memory(4 << 30)
    if given.only and given.at is not None:
        print(fault(given.only, given.seed, given.at) or "no failure")
        return
    failed = 0
    for name, count in shares(given.executions, [given.only] if given.only else TARGETS).items():
        began, wrong = time.monotonic(), 0
        for number, words in faults(name, given.seed, range(count)):
            wrong += 1
            if wrong <= 10:
                repeat = f"--seed {given.seed} --only {name} --at {number}"
                print(f"{name}: {words[:2_000]}\n    again with {repeat}")
        rate = count / (time.monotonic() - began)
        print(f"{name}: {count:,} executions, {wrong:,} failures, {rate:,.0f} a second", flush=True)
        failed += wrong
    if failed:
        sys.exit(CheckFailed.exit_code)


if __name__ == "__main__":
    main()
