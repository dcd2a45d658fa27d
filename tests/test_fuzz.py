"""Our own parsers under mutated input, the short form of scripts/fuzz.py; and Hypothesis's junk."""

import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import ROOM, idx, npy, npy_header, npz

from gpunet import formula, run
from gpunet.data.idx import read_idx
from gpunet.data.npy import read_npy, read_npz
from gpunet.errors import DataError, GpunetError, ModelInvalid

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "executions"),
    [
        ("idx", 8_000),
        ("npy", 8_000),
        ("npz", 4_000),
        ("model-header", 1_000),
        ("model-state", 500),
        ("formula", 3_000),
        ("settings", 3_000),
        ("sizes", 8_000),
    ],
)
def test_mutated_input_is_taken_or_refused(fuzz, name: str, executions: int) -> None:
    assert list(fuzz.faults(name, 1, range(executions))) == []


def test_every_target_is_in_the_short_form(fuzz) -> None:
    marks = test_mutated_input_is_taken_or_refused.pytestmark
    assert {name for name, _ in marks[0].args[1]} == set(fuzz.TARGETS)


def test_mutations_reach_beyond_the_first_checks(fuzz) -> None:
    """Some input is still sound after mutation, so that all of a parser is run."""
    for name in fuzz.TARGETS:
        taken = 0
        for number in range(400):
            target = fuzz.TARGETS[name]
            with suppress(GpunetError):
                target.parse(target.make(Random(f"0/{name}/{number}")))
                taken += 1
        assert taken, name


@pytest.mark.parametrize(
    "raised", [IndexError("x"), MemoryError(), RecursionError(), GpunetError("of no kind")]
)
def test_what_is_no_error_of_ours_is_a_failure(fuzz, monkeypatch, raised: Exception) -> None:
    def fail(given: bytes) -> None:
        raise raised

    broken = fuzz.Target(1, fuzz.TARGETS["idx"].make, fail)
    monkeypatch.setitem(fuzz.TARGETS, "idx", broken)
    assert len(list(fuzz.faults("idx", 0, range(3)))) == 3
    refusing = fuzz.Target(1, broken.make, lambda given: (_ for _ in ()).throw(DataError("no")))
    monkeypatch.setitem(fuzz.TARGETS, "idx", refusing)
    assert list(fuzz.faults("idx", 0, range(3))) == []


def test_input_that_takes_too_long_is_a_failure(fuzz, monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "SLOW", -1.0)
    assert "s" in fuzz.fault("idx", 0, 0)


def test_the_script_counts_and_repeats() -> None:
    command = [sys.executable, str(SCRIPT), "--only", "sizes"]
    done = subprocess.run([*command, "--executions", "50"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sizes: 50 executions, 0 failures" in done.stdout
    again = subprocess.run([*command, "--at", "3"], capture_output=True, text=True)
    assert again.stdout == "no failure\n"
    assert os.path.basename(SCRIPT) in done.args[1]


LETTERS = st.sampled_from("?bBiufcSUVOMm") | st.characters()
SIDES = st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 4), max_size=6)


@settings(max_examples=300)
@given(st.integers(0, 255), SIDES, st.binary(max_size=64))
def test_any_idx_header(kind: int, dims: list[int], body: bytes) -> None:
    head = bytes([0, 0, kind, len(dims)])
    data = head + b"".join(side.to_bytes(4, "big") for side in dims) + body
    with suppress(DataError):
        source = read_idx(data, "t")
        assert source.x.nbytes == len(body)


@settings(max_examples=300)
@given(
    st.sampled_from("?bBiufcSUVOMm") | st.characters(codec="utf-8"),
    st.integers(-1, 20),
    SIDES,
    st.booleans(),
)
def test_any_npy_header(letter: str, width: int, dims: list[int], packed: bool) -> None:
    shape = f"({', '.join(map(str, dims))},)"
    text = f"{{'descr': '<{letter}{width}', 'fortran_order': {packed}, 'shape': {shape}, }}"
    data = npy_header(text.encode("utf-8").decode("latin-1")) + bytes(64)
    with suppress(DataError):
        assert read_npy(data, "t").rows > 0
    with suppress(DataError):
        read_npz(npz(("x.npy", data)), "t", ROOM)


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
def test_any_bytes_in_the_place_of_a_part(junk: bytes, low: int, length: int) -> None:
    x = np.arange(6, dtype=np.uint8).reshape(3, 2)
    for whole, parse in (
        (idx(x), lambda data: read_idx(data, "t")),
        (npy(x), lambda data: read_npy(data, "t")),
        (npz(("x.npy", npy(x))), lambda data: read_npz(data, "t", ROOM)),
    ):
        with suppress(DataError):
            parse(whole[:low] + junk + whole[low + length :])


@settings(max_examples=150)
@given(st.binary(max_size=100), st.integers(0, 500), st.integers(0, 60))
def test_any_bytes_in_a_model(tmp_path_factory, junk: bytes, low: int, length: int) -> None:
    whole = run.pack({"w": np.arange(4.0)}, {"x": 1})
    path = tmp_path_factory.getbasetemp() / "junk.safetensors"
    path.write_bytes(changed := whole[:low] + junk + whole[low + length :])
    with suppress(ModelInvalid):
        tensors, state = run.unpack(path)
        assert changed == whole or (tensors["w"].tolist(), state) == ([0, 1, 2, 3], {"x": 1})


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text("xy01.()[]*+-/^@,= eE_'\"", max_size=40))
def test_any_text_as_a_formula(text: str) -> None:
    with suppress(GpunetError):
        formula.parse(text)
    with suppress(GpunetError):
        formula.elementwise(text, ("x",))
