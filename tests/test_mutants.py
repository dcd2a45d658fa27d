"""Each rule that keeps a run, its numbers and its reader safe is checked by a test that can fail.

A check holds on gpunet as it is, and fails on a mutant: gpunet with one line changed so that it
breaks one rule. A mutant of a function is made of its source, so it goes stale with the line.
"""

import errno
import inspect
import io
import json
import os
import re
import signal
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType

import numpy as np
import power
import pyarrow as pa
import pytest
import safetensors.numpy
from corpora import parquet as parquet_file
from corpora import remade
from runs import begin, follow, results
from tables import ROOM, npy

import gpunet.follow
from gpunet import isolation, job, launches, loop, predict, rerun, signals, view
from gpunet.data import formats, limits, parcel, parquet, prepared, schema, windows
from gpunet.data.npy import read_npy
from gpunet.device.cpu import Cpu
from gpunet.errors import (
    DataError,
    Diverged,
    ModelInvalid,
    OutOfMemory,
    OutputExists,
    RunBusy,
    WriteError,
)
from gpunet.kernels import dropout, update
from gpunet.kernels.slots import FAULT, STEP
from gpunet.predict import MODEL_FILE
from gpunet.run import METRICS, SUMMARY, Run, checkpoints, directory, files, tensors, unpack

Apply = Callable[[pytest.MonkeyPatch], None]
Check = Callable[[Path], None]


def line(function: Callable[..., object], old: str, new: str) -> Apply:
    """A function with one piece of its source replaced, wherever it is known."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        plain = inspect.unwrap(function)
        assert isinstance(plain, FunctionType)
        source = textwrap.dedent(inspect.getsource(plain))
        if source.count(old) != 1:
            raise LookupError(f"{plain.__qualname__} has no single {old!r}")
        unit = compile(source.replace(old, new), f"<mutant of {plain.__qualname__}>", "exec")
        codes = [each for each in unit.co_consts if isinstance(each, CodeType)]
        (code,) = (each for each in codes if each.co_name == plain.__name__)
        patch.setattr(plain, "__code__", code)

    return apply


def value(owner: object, name: str, new: object) -> Apply:
    """A constant, or a function of a library, replaced."""
    return lambda patch: patch.setattr(owner, name, new)


# Writing


@dataclass
class Disk:
    """The `os` of gpunet.run.files with one call of its own."""

    name: str
    call: Callable[..., object]

    def __getattr__(self, name: str) -> object:
        return self.call if name == self.name else getattr(os, name)


def refuse(*given: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def check_a_failed_flush_is_a_failed_write(folder: Path) -> None:
    (place := folder / "a").write_bytes(b"before")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", Disk("fsync", refuse))
        with pytest.raises(WriteError):
            files.write(place, b"after")
    assert place.read_bytes() == b"before"
    assert os.listdir(folder) == ["a"]


def check_short_writes_are_gone_on_with(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", Disk("write", lambda fd, data: os.write(fd, data[:3])))
        files.write(folder / "a", b"longer than three")
    assert (folder / "a").read_bytes() == b"longer than three"


def check_no_power_cut_tears_or_loses(folder: Path) -> None:
    found = power.judge(power.record(folder / "run"))
    assert (found.torn, found.lost) == (0, 0)


def check_a_new_directory_outlives_a_power_cut(folder: Path) -> None:
    flushed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", Disk("fsync", lambda fd: flushed.append(os.fstat(fd).st_ino)))
        files.make_directory(folder / "a" / "b", parents=True)
    assert flushed == [folder.stat().st_ino, (folder / "a").stat().st_ino]


def check_a_link_is_not_written_through(folder: Path) -> None:
    (outside := folder / "outside").write_bytes(b"mine")
    (folder / f"{files.TEMPORARY}00-a").symlink_to(outside)
    (folder / "log").symlink_to(outside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "token_hex", lambda size: "00")
        with pytest.raises(WriteError):
            files.write(folder / "a", b"theirs")
    with pytest.raises(WriteError):
        files.append(folder / "log", files.line({}))
    assert outside.read_bytes() == b"mine"


WRITING = {
    "a failed flush is passed over": (
        line(files._fill, "os.fsync(descriptor)", "with suppress(OSError): os.fsync(descriptor)"),
        check_a_failed_flush_is_a_failed_write,
    ),
    "a file is not flushed": (
        line(files._fill, "os.fsync(descriptor)", "pass"),
        check_no_power_cut_tears_or_loses,
    ),
    "its name is not flushed": (
        line(files.write, "flush_directory(path.parent)", "pass"),
        check_no_power_cut_tears_or_loses,
    ),
    "older checkpoints go before the new one is there": (
        line(
            Run.save,
            "files.write(newest, pack(tensors, state))",
            "[files.remove(old) for old in checkpoints(self.path)]; "
            "files.write(newest, pack(tensors, state))",
        ),
        check_no_power_cut_tears_or_loses,
    ),
    "a new directory is not flushed": (
        line(files.make_directory, "flush_directory(path.parent)", "pass"),
        check_a_new_directory_outlives_a_power_cut,
    ),
    "what a failed write has begun is left": (
        line(files.write, "os.unlink(temporary)", "pass"),
        check_a_failed_flush_is_a_failed_write,
    ),
    "a short write is taken for a whole one": (
        line(files._write_all, "rest[os.write(descriptor, rest) :]", "os.write(descriptor, b'')"),
        check_short_writes_are_gone_on_with,
    ),
    "temporary names may be there": (
        value(files, "NEW", os.O_WRONLY | os.O_CREAT),
        check_a_link_is_not_written_through,
    ),
    "links are appended to": (
        value(files, "ADD", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        check_a_link_is_not_written_through,
    ),
}


# Holding a run directory


def check_a_run_is_held_by_one(folder: Path) -> None:
    with begin(folder / "run").run, pytest.raises(RunBusy):
        rerun.take_up(folder / "run")


def check_only_the_holder_clears_up(folder: Path) -> None:
    with begin(folder / "run").run:
        (unfinished := folder / "run" / f"{files.TEMPORARY}x").touch()
        with pytest.raises(RunBusy):
            Run.open(folder / "run")
        assert unfinished.exists()
    Run.open(folder / "run").close()
    assert not unfinished.exists()


def check_a_run_is_not_written_over(folder: Path) -> None:
    begin(folder / "run").run.close()
    with pytest.raises(OutputExists):
        begin(folder / "run")


def check_a_run_holds_no_links(folder: Path) -> None:
    follow(begin(folder / "run"))
    newest = checkpoints(folder / "run")[0]
    newest.rename(folder / newest.name)
    newest.symlink_to(folder / newest.name)
    with pytest.raises(ModelInvalid, match="a link or a device"):
        rerun.take_up(folder / "run")


def check_the_newest_two_are_kept(folder: Path) -> None:
    with Run.create(folder / "run", "x") as run:
        for step in range(1, 5):
            run.save(step, {"a": np.zeros(2)}, {"step": step})
        assert [unpack(each)[1]["step"] for each in checkpoints(run.path)] == [4, 3]


def check_run_json_holds_what_it_must_and_no_more(folder: Path) -> None:
    begin(folder / "run").run.close()
    place = folder / "run" / "run.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "run": "rm -rf /"}))
    with pytest.raises(ModelInvalid):
        Run.open(folder / "run")


HOLDING = {
    "no lock": (
        line(directory._locked, "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),
        check_a_run_is_held_by_one,
    ),
    "clearing up before the lock is held": (
        line(Run.__init__, "self._lock = ", "self._clear(); self._lock = "),
        check_only_the_holder_clears_up,
    ),
    "nothing is cleared up": (
        line(Run._clear, "files.remove(left)", "pass"),
        check_only_the_holder_clears_up,
    ),
    "a directory that is there will do": (
        line(directory._is_unbegun, "return all(", "return bool(names) or all("),
        check_a_run_is_not_written_over,
    ),
    "links are followed": (
        line(directory._refuse_links, "stat.S_ISREG(mode) or", "True or"),
        check_a_run_holds_no_links,
    ),
    "one checkpoint is kept": (value(directory, "KEPT", 1), check_the_newest_two_are_kept),
    "none is taken away": (value(directory, "KEPT", 9), check_the_newest_two_are_kept),
    "run.json may hold anything": (
        line(directory.identity, "not forms.fits(found, forms.IDENTITY)", "False"),
        check_run_json_holds_what_it_must_and_no_more,
    ),
}


# Loading


def packed() -> bytes:
    return tensors.pack({"weight.a": np.arange(6.0), "weight.b": np.ones(3)}, {"step": 3})


def check_a_damaged_file_is_refused(folder: Path) -> None:
    content = bytearray(packed())
    content[-5] ^= 1
    with pytest.raises(ModelInvalid, match="SHA-256"):
        tensors.parse(bytes(content), "x")


def check_no_value_is_other_than_finite(folder: Path) -> None:
    with pytest.raises(ModelInvalid, match="not finite"):
        tensors.parse(tensors.pack({"a": np.array([1.0, np.nan])}, {}), "x")


def check_a_name_stands_once(folder: Path) -> None:
    content, old, new = packed(), b'"weight.a"', b'"weight.b"'
    with pytest.raises(ModelInvalid, match="stands twice"):
        tensors.parse(content.replace(old, new), "x")


def check_names_are_plain(folder: Path) -> None:
    with pytest.raises(ModelInvalid, match="a tensor named"):
        tensors.parse(tensors.pack({"../../etc/passwd": np.ones(1)}, {}), "x")


def check_tensors_are_few_and_of_known_types(folder: Path) -> None:
    half = tensors.pack({"a": np.ones(3, np.float16)}, {})
    with pytest.raises(ModelInvalid, match="a type that gpunet does not write"):
        tensors.parse(half, "x")
    many = tensors.pack({f"a{i}": np.ones(1) for i in range(tensors.MAX_TENSORS + 1)}, {})
    with pytest.raises(ModelInvalid, match="10,001 tensors"):
        tensors.parse(many, "x")


def check_a_header_begins_with_a_brace(folder: Path) -> None:
    content = packed()
    size = int.from_bytes(content[:8], "little")
    moved = (size + 8).to_bytes(8, "little") + b" " * 8 + content[8:]
    with pytest.raises(ModelInvalid, match="no JSON object"):
        tensors.parse(moved, "x")


def check_nothing_comes_after_the_end(folder: Path) -> None:
    with pytest.raises(ModelInvalid):
        tensors.parse(packed() + b"\0", "x")


def _until_its_end(content: bytes) -> dict[str, np.ndarray]:
    return _load(content[: len(packed())])


_load = safetensors.numpy.load


def check_a_newer_format_is_refused(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "FORMAT", "gpunet.model/2")
        newer = packed()
    with pytest.raises(ModelInvalid, match="newer"):
        tensors.parse(newer, "x")


def check_weights_are_of_the_network_that_is_named(folder: Path) -> None:
    model = gpunet.train("penguins", hidden=(6,), folds=0, steps=1, device="cpu")
    sound = model.packed(model.network.weights)

    def wider(entries: dict[str, object], state: dict[str, dict[str, object]]) -> None:
        state["network"]["hidden"] = [100_000]

    (place := folder / "wide").write_bytes(remade(sound, wider))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpunet.model.build", lambda *given: pytest.fail("was built"))
        with pytest.raises(ModelInvalid):
            predict.load(place)


def check_a_checkpoint_has_the_networks_shapes(folder: Path) -> None:
    path = turned(folder / "run", "state0.hidden2.weight")
    with pytest.raises(ModelInvalid, match="does not fit"):
        follow(rerun.take_up(path)[0])


def check_a_checkpoint_of_other_weights_is_not_taken_up(folder: Path) -> None:
    path = turned(folder / "run", "weight.hidden2.weight")
    with pytest.raises(ModelInvalid, match="does not fit"):
        rerun.take_up(path)


def turned(path: Path, name: str) -> Path:
    """A run with a tensor of another shape in its checkpoints."""
    follow(begin(path, hidden=(6, 4)))
    for each in checkpoints(path):
        found, state = unpack(each)
        found[name] = found[name].T
        each.write_bytes(tensors.pack(found, state))
    return path


LOADING = {
    "the hash is skipped": (
        line(tensors.parse, '!= metadata["sha256"]', '!= metadata["sha256"] and False'),
        check_a_damaged_file_is_refused,
    ),
    "any value will do": (
        line(tensors._is_finite, "bool(np.isfinite(array).all())", "True"),
        check_no_value_is_other_than_finite,
    ),
    "of two of a name the last wins": (
        line(tensors._no_duplicates, "len(found) != len(pairs)", "False"),
        check_a_name_stands_once,
    ),
    "any name will do": (
        line(tensors._check_tensors, "not LETTERS.issuperset(name)", "False"),
        check_names_are_plain,
    ),
    "any number of tensors will do": (
        line(tensors._check_tensors, "len(header) > MAX_TENSORS", "False"),
        check_tensors_are_few_and_of_known_types,
    ),
    "any type will do": (
        line(tensors._check_tensors, 'entry.get("dtype") not in DTYPES', "False"),
        check_tensors_are_few_and_of_known_types,
    ),
    "any header will do": (
        line(tensors._metadata, 'content[8:9] != b"{"', "False"),
        check_a_header_begins_with_a_brace,
    ),
    "trailing bytes are passed over": (
        value(safetensors.numpy, "load", _until_its_end),
        check_nothing_comes_after_the_end,
    ),
    "any format will do": (
        line(tensors._check_head, 'head["format"] == FORMAT', "True"),
        check_a_newer_format_is_refused,
    ),
    "a network as large as a file says": (
        line(predict._check_size, "weights[label + name].shape != shape", "False"),
        check_weights_are_of_the_network_that_is_named,
    ),
    "tensors of any shape that has the size": (
        line(loop._check_layout, "layouts[0] != layouts[1]", "False"),
        check_a_checkpoint_has_the_networks_shapes,
    ),
    "weights of any shape are taken up": (
        line(rerun._check_fits, "saved.items() ^ mine.items()", "()"),
        check_a_checkpoint_of_other_weights_is_not_taken_up,
    ),
}


# Going on


LONG = {
    "preset": "plain",
    "epochs": 60,
    "hidden": (16,),
    "lr": 0.1,
    "schedule": "plateau",
    "patience": 12,
}
LONG |= {"validation": 0.3, "precision": "fp64", "checkpoint_every": "17"}
MIDDLE = 51
"""In the middle of an epoch, past a plateau, with epochs behind it that were not the best."""


def check_a_run_goes_on_to_the_same_bytes(folder: Path) -> None:
    follow(begin(folder / "whole", **LONG))
    follow(begin(folder / "run", **LONG), MIDDLE)
    follow(rerun.take_up(folder / "run")[0])
    assert results(folder / "run") == results(folder / "whole")


def check_a_run_goes_on_in_windows(folder: Path) -> None:
    steps = {**LONG, "checkpoint_every": "53"}  # the last of an epoch that ends in an even window
    steps["kernels"] = "numpy"  # a mutant reads beyond the rows: loops would crash
    follow(begin(folder / "whole", **steps))
    follow(begin(folder / "run", **steps), 53)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cpu, "rows_bytes", 7500)  # windows of two batches
        follow(rerun.take_up(folder / "run")[0])
    assert results(folder / "run") == results(folder / "whole")


def check_judging_splits_its_work_as_when_resumed(folder: Path) -> None:
    pytest.importorskip("gpunet.kernels._native", reason="no native loops were built")
    wide = {"hidden": (256, 256), "threads": 2, "batch_size": 256, "preset": "plain"}
    planned = begin(folder / "run", **wide)
    planned.run.close()
    resumed, _ = rerun.take_up(folder / "run")
    resumed.run.close()
    assert planned.choice.device.split == resumed.choice.device.split


def check_lines_past_the_checkpoint_go(folder: Path) -> None:
    follow(begin(folder / "whole", **LONG))
    follow(begin(folder / "run", **LONG), MIDDLE)
    with open(folder / "run" / METRICS, "a") as file:
        file.write('{"step": 54, "ep')
    follow(rerun.take_up(folder / "run")[0])
    assert results(folder / "run") == results(folder / "whole")


def check_the_newest_whole_checkpoint_is_taken(folder: Path) -> None:
    follow(begin(folder / "run", **LONG), MIDDLE)
    newest, before = checkpoints(folder / "run")
    found, _ = rerun.take_up(folder / "run")
    found.run.close()
    assert (found.start.step, found.start.step - 17) == (MIDDLE, unpack(before)[1]["loop"]["done"])
    newest.write_bytes(newest.read_bytes()[:-1])
    try:
        found, notes = rerun.take_up(folder / "run")
    except ModelInvalid:
        raise AssertionError("the one before it was not tried") from None
    found.run.close()
    assert found.start.step == MIDDLE - 17
    assert newest.name in notes[0]


def check_checkpoints_of_other_runs_are_refused(folder: Path) -> None:
    for name in ("a", "b"):
        follow(begin(folder / name))
    for each in checkpoints(folder / "a"):
        each.write_bytes((folder / "b" / "checkpoints" / each.name).read_bytes())
    with pytest.raises(ModelInvalid, match="not a checkpoint of this run"):
        rerun.take_up(folder / "a")[0].run.close()


def check_changed_data_and_settings_are_refused(folder: Path) -> None:
    data = table()
    follow(begin(folder / "run", data, target="y", split_column="part"), 3)
    with pytest.raises(ModelInvalid, match="the data have changed since the run began"):
        rerun.take_up(folder / "run", table(held=2.0))[0].run.close()
    place = folder / "run" / "config.toml"
    place.write_text(re.sub("(?m)^lr = .*", "lr = 0.25", place.read_text()))
    with pytest.raises(ModelInvalid, match="the settings have changed since the run began"):
        rerun.take_up(folder / "run", data)[0].run.close()


def check_another_environment_is_told(folder: Path) -> None:
    follow(begin(folder / "run"), 3)
    place = folder / "run" / "run.json"
    found = json.loads(place.read_text())
    found["environment"]["numpy"] = "0.1"
    place.write_text(json.dumps(found))
    resumed, notes = rerun.take_up(folder / "run")
    resumed.run.close()
    assert any(note.startswith("not bit for bit: numpy") for note in notes)


def check_the_model_is_that_of_the_best_epoch(folder: Path) -> None:
    follow(planned := begin(folder / "run", calibrate=False, **LONG))
    lines = [json.loads(each) for each in planned.lines]
    best = min(each["validation"]["loss"] for each in lines)
    assert lines[-1]["validation"]["loss"] > 2 * best
    summary = json.loads((folder / "run" / SUMMARY).read_text())
    found = summary["metrics"]["validation"]["log_loss"]
    assert found == pytest.approx(best, rel=1e-9)
    kept = unpack(checkpoints(folder / "run")[0])[0]
    model = unpack(folder / "run" / MODEL_FILE)[0]
    assert all((array == kept[f"best.{name}"]).all() for name, array in model.items())


def check_a_stopped_run_goes_on_at_its_last_step(folder: Path) -> None:
    follow(planned := begin(folder / "run", checkpoint_every="1000"), 5)
    saved = [unpack(each)[1]["loop"]["done"] for each in checkpoints(folder / "run")]
    assert saved == [planned.control.done]


def check_each_step_drops_units_of_its_own(folder: Path) -> None:
    clock, hyper, kept = np.zeros(8, np.int64), np.ones(16), []
    x, rate, key = np.ones((4, 64)), np.array([0.5]), np.array([1, 2], np.uint64)
    for step in (1, 2, 1):
        clock[STEP] = step
        dropout.dropout(x, rate, hyper, key, clock, 0, found := np.empty_like(x))()
        kept.append(found.tolist())
    assert kept[0] == kept[2] != kept[1]


def check_each_epoch_has_an_order_of_its_own(folder: Path) -> None:
    planned = job.plan("penguins", {"folds": 0, "device": "cpu", "batch_size": 300})
    config, device = planned.model.config, planned.choice.device
    taken = loop.training_rows(planned.prepared, config, device, planned.config.dtype)
    first, second = (taken.taken(epoch * taken.steps).tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second


def check_verify_sees_another_chain(folder: Path) -> None:
    follow(begin(folder / "run"))
    assert [each.wrong for each in rerun.verify(folder / "run", [2])] == [""]
    place = folder / "run" / METRICS
    lines = [json.loads(each) for each in place.read_text().splitlines()]
    lines[1]["chain"] = "0" * 64
    place.write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    assert [each.wrong for each in rerun.verify(folder / "run", [2])] == ["chain"]


def check_the_chain_covers_the_optimiser(folder: Path) -> None:
    chains = []
    for slot in (0.0, 1.0):
        run = ready(job.plan("penguins", {"folds": 0, "device": "cpu"}))
        run.nets[0].store.state[0][...] = slot
        run._link()
        chains.append(run.chain)
    assert chains[0] != chains[1]


RESTORE, MEMBER, SCALARS = loop._Run.restore, loop._Net.restore, "in SCALARS:"
SAME = check_a_run_goes_on_to_the_same_bytes
GOING_ON = {
    "stale epochs are not restored": (
        line(RESTORE, '("done", "reported", "stale")', '("done", "reported", "reported")'),
        SAME,
    ),
    "the best loss is not restored": (
        line(RESTORE, 'inf if state["lowest"] is None else state["lowest"]', "inf"),
        SAME,
    ),
    "a member's best loss is not restored": (
        line(MEMBER, "inf if lowest is None else lowest", "inf"),
        SAME,
    ),
    "the best weights are not restored": (line(MEMBER, "= best, inf", "= {}, inf"), SAME),
    "the chain begins anew": (line(RESTORE, "self.chain, self.control", "_, self.control"), SAME),
    "the order of another epoch is taken": (
        line(MEMBER, "self.taken.open(done)", "self.taken.open(0)"),
        SAME,
    ),
    "rows are where the clock says": (
        line(MEMBER, "self.list.rewind(*self.taken.open(done))", "self.taken.open(done)"),
        check_a_run_goes_on_in_windows,
    ),
    "every epoch has the first one's windows": (
        line(windows._Gathered._taken, "self.shuffled(epoch)", "self.shuffled(0)"),
        check_a_run_goes_on_in_windows,
    ),
    "the optimiser begins anew": (
        line(loop._Net.load, "enumerate(self.store.state)", "()"),
        SAME,
    ),
    "the step is not restored": (
        line(loop._Net.load, SCALARS, 'in ("hyper", "totals"):'),
        SAME,
    ),
    "the schedule is not restored": (
        line(loop._Net.load, SCALARS, 'in ("clock", "totals"):'),
        SAME,
    ),
    "sums of the epoch begin anew": (
        line(loop._Net.load, SCALARS, 'in ("clock", "hyper"):'),
        SAME,
    ),
    "judging splits its work anew": (
        line(job.plan, 'choice.device.kind == "cpu"', "False"),
        check_judging_splits_its_work_as_when_resumed,
    ),
    "lines past the checkpoint stay": (
        line(rerun._write_again, 'METRICS, "".join(resumed.lines)', 'METRICS + "2", ""'),
        check_lines_past_the_checkpoint_go,
    ),
    "the oldest checkpoint is taken": (
        line(directory.checkpoints, "reverse=True", "reverse=False"),
        check_the_newest_whole_checkpoint_is_taken,
    ),
    "only the newest checkpoint is tried": (
        line(directory.readable, "in checkpoints(path)", "in checkpoints(path)[:1]"),
        check_the_newest_whole_checkpoint_is_taken,
    ),
    "checkpoints of any run are taken": (
        line(rerun._is_ours, 'state["id"] == resumed.identity["id"]', "True"),
        check_checkpoints_of_other_runs_are_refused,
    ),
    "any fingerprint is accepted": (
        line(rerun.take_up, "and not allow_inexact", "and False"),
        check_changed_data_and_settings_are_refused,
    ),
    "the data's fingerprint leaves out rows": (
        line(prepared.Prepared.fingerprint, "in blocks(array)", "in ()"),
        check_changed_data_and_settings_are_refused,
    ),
    "the settings have no fingerprint": (
        line(job.Job.fingerprints, "settled.encode()", 'b""'),
        check_changed_data_and_settings_are_refused,
    ),
    "another environment is passed over": (
        line(rerun._unlike, "here.get(name) != there.get(name)", "False"),
        check_another_environment_is_told,
    ),
    "the last weights are kept": (
        line(loop._Net.close, "self.best or self.store", "self.store"),
        check_the_model_is_that_of_the_best_epoch,
    ),
    "a run that is stopped is not saved": (
        line(loop._Run.reports, "self._keep()", "pass"),
        check_a_stopped_run_goes_on_at_its_last_step,
    ),
    "every step drops the first one's units": (
        line(dropout.dropout, "int(clock[STEP])", "0"),
        check_each_step_drops_units_of_its_own,
    ),
    "every epoch has the first one's order": (
        line(windows._Whole._taken, "epoch=number", "epoch=0"),
        check_each_epoch_has_an_order_of_its_own,
    ),
    "verify leaves out the chain": (
        line(rerun._wrong, "for name in again if", 'for name in again if name != "chain" and'),
        check_verify_sees_another_chain,
    ),
    "the chain leaves out the optimiser": (
        line(loop._Run._link, "*store.state, ", ""),
        check_the_chain_covers_the_optimiser,
    ),
}


# Values that are not finite, and signals


def ready(planned: job.Job, control: loop.Control | None = None) -> loop._Run:
    device, control = planned.choice.device, control or loop.Control()
    return loop._Run(planned.members, device, planned.config.dtype, control, ())


def table(held: float = 1.0) -> dict[str, list[object]]:
    """60 rows, of which 20 are for validation and 20 for tests: these are `held` times as large."""
    x = np.random.default_rng(0).standard_normal((60, 2))
    x[20:] *= held
    y = (x @ [1.0, -2.0]).tolist()
    part = ["train"] * 20 + ["validation"] * 20 + ["test"] * 20
    return {"a": x[:, 0].tolist(), "b": x[:, 1].tolist(), "part": part, "y": y}


def check_nan_never_wins(folder: Path) -> None:
    planned = job.plan("penguins", {"folds": 0, "device": "cpu", "epochs": 3, "kernels": "numpy"})
    planned.prepared.validation.x[...] = np.nan
    found = list(planned.reports())
    assert [report.validation["loss"] for report in found] == [None] * 3
    assert not any(report.best for report in found)


def check_native_loops_go_on_judging(folder: Path) -> None:
    pytest.importorskip("gpunet.kernels._native", reason="no native loops were built")
    planned = job.plan("penguins", {"folds": 0, "device": "cpu", "epochs": 3, "kernels": "native"})
    planned.prepared.validation.x[:1] = np.nan
    assert [report.validation["loss"] for report in planned.reports()] == [None] * 3


def check_no_checkpoint_is_other_than_finite(folder: Path) -> None:
    kept: list[loop.Snapshot] = []
    run = ready(job.plan("penguins", {"folds": 0, "device": "cpu"}), loop.Control(keep=kept.append))
    run._keep()
    run.nets[0].store.values[0] = np.nan
    with pytest.raises(Diverged):
        run._keep()
    assert len(kept) == 1


def check_nothing_moves_after_a_fault(folder: Path) -> None:
    (net,) = ready(job.plan("penguins", {"folds": 0, "device": "cpu", "kernels": "numpy"})).nets
    net.open_step(0)
    before = net.store.values.copy()
    net.list.run(2)
    assert (net.store.values != before).any()
    net.list.clock[FAULT], before = 1, net.store.values.copy()
    net.list.run(2)
    assert (net.store.values == before).all()


def check_handlers_set_flags_and_nothing_else(folder: Path) -> None:
    planned, numbers = begin(folder / "run"), {*signals.ENDING, *signals.SAVING}
    there, before = sorted(os.listdir(folder / "run")), {n: signal.getsignal(n) for n in numbers}
    planned.control.keep = lambda snapshot: planned.run.save(0, {}, {})
    try:
        with planned.run, gpunet.follow._stopping(planned.control) as caught:
            signal.raise_signal(signal.SIGUSR1)
            assert (planned.control.save, planned.control.stop) == (True, False)
            signal.raise_signal(signal.SIGTERM)
            assert (planned.control.stop, caught) == (True, [signal.SIGTERM])
            assert sorted(os.listdir(folder / "run")) == there
            with pytest.raises(signals.Ended):
                signal.raise_signal(signal.SIGINT)
        assert {n: signal.getsignal(n) for n in numbers} == before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check_the_flag_ends_the_loop(folder: Path) -> None:
    follow(planned := begin(folder / "run"), 7)
    assert (planned.control.ended, planned.control.done) == ("stopped", 7)


STOPPING = {
    "NaN wins": (
        line(loop._Run._judged, "loss if isfinite(loss) else None", "loss"),
        check_nan_never_wins,
    ),
    "a loss that is not finite ends all judging": (
        line(launches.LaunchList.evaluate, "self.clock[FAULT] = 0", "pass"),
        check_native_loops_go_on_judging,
    ),
    "NaN is kept": (
        line(loop._Run._keep, "not np.isfinite(array).all()", "False"),
        check_no_checkpoint_is_other_than_finite,
    ),
    "updates go on after a fault": (
        line(update._update, "if clock[FAULT]:", "if False:"),
        check_nothing_moves_after_a_fault,
    ),
    "a handler that saves": (
        line(
            gpunet.follow._stopping,
            "control.save = True",
            "control.save = True; control.keep(None)",
        ),
        check_handlers_set_flags_and_nothing_else,
    ),
    "a second signal waits": (
        line(gpunet.follow._stopping, "if caught and number == signal.SIGINT", "if False"),
        check_handlers_set_flags_and_nothing_else,
    ),
    "handlers stay": (
        line(signals.handling, "signal.signal(number, before[number])", "pass"),
        check_handlers_set_flags_and_nothing_else,
    ),
    "the loop does not look": (
        line(loop._Run._advance, "and not self.control.stop", ""),
        check_the_flag_ends_the_loop,
    ),
}


# Data


def check_rows_held_out_fit_nothing(folder: Path) -> None:
    settings = {"target": "y", "split_column": "part", "epochs": 1, "device": "cpu"}
    found = [gpunet.train(table(held), **settings) for held in (1.0, 50.0)]
    schemas, weights = ([getattr(m, n) for m in found] for n in ("schema", "network"))
    assert schemas[0].to_dict() == schemas[1].to_dict()
    for name, array in weights[0].weights.items():
        assert array.tobytes() == weights[1].weights[name].tobytes()


def check_rows_of_arrays_held_out_fit_nothing(folder: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((60, 2)), [0, 1] * 30
    found = job.plan((x, np.array(y)), {"device": "cpu"}).prepared
    train = found.train.x.astype(np.float64)
    np.testing.assert_allclose(found.schema.scale, 1 / train.std(axis=0), rtol=1e-9)


def check_columns_are_matched_by_name(folder: Path) -> None:
    data = {name: values for name, values in table().items() if name != "part"}
    model = gpunet.train(data, "y", epochs=3, device="cpu")
    turned = {name: data[name] for name in reversed(data)}
    assert (model.predict(data) == model.predict(turned)).all()


def check_memory_is_counted_first(folder: Path) -> None:
    with pytest.raises(OutOfMemory):
        parquet.read_parquet(parquet_file(pa.table({"a": [1.0] * 100})), "t", 100)


def check_pages_are_summed(folder: Path) -> None:
    plain = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    content = parquet_file(pa.table({"a": np.arange(999.0)}), **plain)
    at = content.index(np.arange(500.0, 502.0).tobytes())
    with pytest.raises(DataError, match="not a whole Parquet file"):
        parquet.read_parquet(content[:at] + b"\1" + content[at + 1 :], "t", ROOM)


def check_tables_are_validated(folder: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 9, 2], np.int32))
    text = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])
    with pytest.raises(pa.ArrowInvalid):
        parquet._checked(pa.table({"a": text}))


def check_a_header_promises_no_more_than_there_is(folder: Path) -> None:
    (place := folder / "x.npy").write_bytes(npy(np.arange(64.0))[:-8])
    with pytest.raises(DataError):
        read_npy(place.read_bytes(), "x")


def check_an_answer_is_not_larger_than_it_may_be(folder: Path) -> None:
    with isolation.take("crashing") as worker, pytest.raises(isolation.Crashed, match="larger"):
        worker.ask({"way": "echo"}, 1000)


def check_text_is_sound(folder: Path) -> None:
    starts, text = np.array([0, 3, 1, 4], np.int32), b"abcd"
    buffers = [None, pa.py_buffer(starts), pa.py_buffer(text)]
    table = pa.table({"a": pa.Array.from_buffers(pa.string(), 3, buffers)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcel, "LONG", 0)
        assert not parcel._is_plain_text(table)


def check_files_are_parsed_apart(folder: Path) -> None:
    (place := folder / "t.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "enabled", True)
        patch.setattr(isolation, "take", lambda entry: isolation.Worker("crashing"))
        patch.setattr(isolation.Worker, "ask", lambda *given: given[0].process.kill() or crash())
        with pytest.raises(DataError, match="reader crashed"):
            formats.read(place)


def crash() -> None:
    raise isolation.Crashed("signal SIGSEGV")


def check_the_reader_is_limited_before_it_reads(folder: Path) -> None:
    done: list[str] = []
    asked = {"path": "x", "folder": os.getcwd(), "budget": 1 << 20, "delimiter": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "limit", lambda *given: done.append("limit"))
        patch.setattr(formats, "_read_here", lambda *given: done.append("read"))
        patch.setattr(formats, "pack", lambda source: ({}, []))
        with suppress(AttributeError):  # nothing was read
            formats.answer({**asked, "header": True, "fed": False}, done.append)
    assert done == ["limit", "read"]


def check_what_is_shown_is_no_markup(folder: Path) -> None:
    with redirect_stdout(io.StringIO()) as out:
        view.table(["[bold]a[/bold]"], [["[i]b"]], title="[red]x")
    assert out.getvalue().split() == ["[red]x", "[bold]a[/bold]", "[i]b"]


def check_what_is_shown_has_no_controls(folder: Path) -> None:
    assert view.show("a\x1b[31m\u202eb\r\n\x07").isprintable()


def check_formulas_are_defused(folder: Path) -> None:
    found = predict.spreadsheet_safe({"=a": pa.array(["=cmd|x", "-1.5", "fine", "@x"])})
    assert {name: column.to_pylist() for name, column in found.items()} == {
        "'=a": ["'=cmd|x", "-1.5", "fine", "'@x"]
    }


DATA = {
    "columns are fitted before the split": (
        line(prepared._fit_columns, "fit(name, read, train,", "fit(name, read, np.arange(60),"),
        check_rows_held_out_fit_nothing,
    ),
    "targets are fitted before the split": (
        line(prepared._divide, "(answers, seen, parts.train,", "(answers, seen, np.arange(60),"),
        check_rows_held_out_fit_nothing,
    ),
    "arrays are fitted before the split": (
        line(
            prepared._fit_arrays,
            'else column_moments(x["train"])',
            "else column_moments(source.x)",
        ),
        check_rows_of_arrays_held_out_fit_nothing,
    ),
    "columns are matched by position": (
        line(
            schema.Schema.encode,
            "source, column.name, column.cell_kind))\n        for column in self.columns",
            "source, name, column.cell_kind))"
            " for column, name in zip(self.columns, source.columns)",
        ),
        check_columns_are_matched_by_name,
    ),
    "memory is not counted": (
        line(limits.check_fits, "asked > budget", "False"),
        check_memory_is_counted_first,
    ),
    "pages are not summed": (
        line(parquet._open, "checksum_verification=True", "checksum_verification=False"),
        check_pages_are_summed,
    ),
    "tables are not validated": (
        line(parquet._checked, "full=True", "full=False"),
        check_tables_are_validated,
    ),
    "text from the reader is taken as it is": (
        line(parcel._is_plain_text, "(starts[1:] < starts[:-1]).any()", "False"),
        check_text_is_sound,
    ),
    "an answer of any size": (
        line(isolation.Worker.ask, "most < 0", "False"),
        check_an_answer_is_not_larger_than_it_may_be,
    ),
    "files are parsed in place": (
        line(formats._read_apart, "not isolation.enabled", "True"),
        check_files_are_parsed_apart,
    ),
    "the reader has no limits": (
        line(
            formats.answer,
            "isolation.limit(_room(budget), PROCESSOR_SECONDS + budget // BYTES_A_SECOND)",
            "pass",
        ),
        check_the_reader_is_limited_before_it_reads,
    ),
    "names are taken for markup": (
        line(view._console, "markup=False", "markup=True"),
        check_what_is_shown_is_no_markup,
    ),
    "control characters are shown": (
        line(view.show, "c.isprintable()", "True"),
        check_what_is_shown_has_no_controls,
    ),
    "formulas are written as they are": (
        line(predict._defused, "if_else(is_formula,", "if_else(False,"),
        check_formulas_are_defused,
    ),
}

MUTANTS = WRITING | HOLDING | LOADING | GOING_ON | STOPPING | DATA


@pytest.mark.parametrize(
    "check", dict.fromkeys(check for _, check in MUTANTS.values()), ids=lambda c: c.__name__[6:]
)
def test_the_check_holds(tmp_path: Path, check: Check) -> None:
    check(tmp_path)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    mutate, check = MUTANTS[name]
    mutate(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(tmp_path)
