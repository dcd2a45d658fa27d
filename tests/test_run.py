"""The run directory and the one place that writes."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpunet import run
from gpunet.errors import InputMissing, ModelInvalid, NotPermitted, OutputExists, WriteError
from gpunet.run import Run, files, identity

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}
STATE = {"x": 0.1, "names": ["é", "[/red]"]}


def test_runs_are_numbered_and_never_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for taken in (None, None, "my-data-9"):
        if taken is not None:
            Path("runs", taken).mkdir()
        with Run.create(None, "my data/β") as made:
            names.append(str(made.path))
    assert names == ["runs/my-data-1", "runs/my-data-2", "runs/my-data-10"]


def test_a_named_run_must_be_new_or_empty(tmp_path: Path) -> None:
    for _ in range(2):
        with Run.create(tmp_path / "deep" / "er", "x") as made:
            place = made.path
    (place / "file").touch()
    with pytest.raises(OutputExists, match="is there already"):
        Run.create(place, "x")
    with pytest.raises(OutputExists):
        Run.create(place / "file", "x")


def test_a_directory_that_is_read_only_is_told_by_the_name_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *given: False)
    for place in (tmp_path, tmp_path / "deep" / "er"):
        with pytest.raises(NotPermitted, match="cannot be written to") as caught:
            Run.check(place)
        assert str(caught.value) == f"{place}: {tmp_path} cannot be written to"


def test_a_run_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: object) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "read", refuse)
    for find in (identity, Run.open):
        with pytest.raises(NotPermitted, match=r"run\.json: Permission denied$"):
            find(tmp_path)


def test_a_run_keeps_its_place_as_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.create("run", "x") as made:
        (tmp_path / "run" / "taken").mkdir()
        for at, shown in ((tmp_path, "run/taken"), (tmp_path / "run", tmp_path / "run/taken")):
            monkeypatch.chdir(at)
            made.save(1, TENSORS, STATE)
            made.append("log", files.line(STATE))
            made.status("running")
            with pytest.raises(WriteError, match=f"^{shown}: Is a directory"):
                made.write("taken", "x")
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == sorted(
        [".lock", "log", "status.json", "step-000000000001.safetensors"]
    )


def test_a_write_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    run.write(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left"):
        run.write(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    found = {"rmse": np.inf, "parts": [1.5, np.nan]}
    run.write_json(tmp_path / "a", found)
    files.append(tmp_path / "b", files.line(found))
    for name in ("a", "b"):
        assert json.loads((tmp_path / name).read_text()) == {"rmse": None, "parts": [1.5, None]}


def test_what_the_system_forbids_is_77(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*given: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", forbid)
    with pytest.raises(NotPermitted, match="Permission denied") as caught:
        run.write(tmp_path / "file", b"x")
    assert caught.value.exit_code == 77
    assert list(tmp_path.iterdir()) == []


def test_pack_and_unpack(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    run.write(path, run.pack(TENSORS, STATE))
    tensors, state = run.unpack(path)
    assert state == STATE
    assert all((tensors[name] == TENSORS[name]).all() for name in TENSORS)
    assert run.pack(TENSORS, STATE) == run.pack(dict(reversed(TENSORS.items())), STATE)


def test_files_that_are_not_models(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        run.unpack(tmp_path / "none")
    with pytest.raises(ModelInvalid):
        run.unpack(tmp_path)
    from safetensors.numpy import save

    others = {
        "empty": b"",
        "short": b"\1" * 7,
        "long": (2**63).to_bytes(8, "little") + b"{}",
        "array": (2).to_bytes(8, "little") + b"[]",
        "junk": os.urandom(500),
        "foreign": save({"x": np.ones(2)}),
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelInvalid, match=name):
            run.unpack(tmp_path / name)


PACKED = run.pack(TENSORS, STATE)


@given(st.integers(0, 8 * len(PACKED) - 1))
def test_no_flipped_bit_goes_unseen(tmp_path_factory: pytest.TempPathFactory, bit: int) -> None:
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("flip") / "m"
    path.write_bytes(damaged)
    with pytest.raises(ModelInvalid):
        run.unpack(path)


@given(st.integers(0, len(PACKED) - 1))
def test_no_truncation_goes_unseen(tmp_path_factory: pytest.TempPathFactory, size: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "m"
    path.write_bytes(PACKED[:size])
    with pytest.raises(ModelInvalid):
        run.unpack(path)
