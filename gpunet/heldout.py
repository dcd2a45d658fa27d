"""Which rows a run held out, and which it has seen: these say little of how good it is.

Rows are known by where they lie, and by the fingerprint of what a run makes of them.
"""

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import job, rerun
from gpunet.data import Source
from gpunet.errors import GpunetError, ModelInvalid, UsageError
from gpunet.job import Job
from gpunet.predict import load
from gpunet.run import SPLIT, files, identity, unpack


def seen_by(run: Path | str, data: Any, source: Source) -> str:
    """How rows are known to be those that a run has seen: by the `place` of `data`, which may hold
    others by now, or all that `source` holds are its `rows`: a copy is no other data. "" where they
    are not."""
    if not rerun.is_run(run):
        return ""
    here = job.location(data)
    if any(is_one(here, place) for place in _places(Path(run))):
        return "place"
    return "rows" if _was_made_of(Path(run), source) else ""


def held_out(path: Path | str, device: str = "cpu") -> tuple[Job, Source]:
    """The job of a run whose data have not changed, and the rows of its test part.

    Raises UsageError where nothing was held out, or nothing says what was: of a model file.
    """
    if os.path.isfile(path):
        raise UsageError(f"{path}: a model file does not say which rows it has seen", "give DATA")
    path = Path(path)
    found = identity(path)
    settings, folder = rerun.settings_of(path), found["folder"]
    if found["data"] is None:
        raise UsageError(f"{path}: was trained on data in memory", "give DATA")
    if job.IN_MEMORY in (settings.config.validation, settings.config.test):
        raise UsageError(f"{path}: was trained with parts in memory", "give DATA")
    rerun.check_there(path, found["data"], "give DATA that it was not trained on")
    source = job.read(found["data"], settings, folder)
    reopened = rerun.reopen(path, source, device)
    if changed := rerun.differences(reopened, path):
        raise ModelInvalid(changed[0], "give DATA that it was not trained on")
    rows = reopened.prepared.rows
    if "test" in rows:
        return reopened, source.take(rows["test"])
    if reopened.prepared.test is None:
        raise UsageError(f"{path}: has no test part", "give DATA that it was not trained on")
    own = source.test or job.read(settings.config.test, settings, folder)
    schema, kept = reopened.model.schema, np.arange(own.rows)
    if settings.config.drop_missing_target:
        kept = schema.answered(own)
    return reopened, own.take(schema.counting(own, kept))


def is_one(a: str | None, b: str | None) -> bool:
    """Whether two places, as runs note them, are one: a set's name is no file."""
    if a is None or b is None:
        return False
    return a == b or (os.path.isabs(a) and os.path.isabs(b) and files.is_same(a, b))


def _places(path: Path) -> tuple[str | None, ...]:
    """Where rows lie that a run has seen: its data, and the file of its validation part."""
    found = identity(path)
    with suppress(ModelInvalid):  # settings that are not its own say nothing
        validation = rerun.settings_of(path).config.validation
        return found["data"], job.location(validation, found["folder"])
    return (found["data"],)


def _was_made_of(path: Path, source: Source) -> bool:
    """Whether a run was made of all of these rows, wherever they lie, by their fingerprint.

    Rows of another number are told apart at once.
    """
    with suppress(GpunetError, MemoryError):  # what cannot be prepared as its data is other data
        held = sum(map(len, unpack(path / SPLIT)[0].values()))
        config = rerun.settings_of(path).config
        leaves_out = config.drop_missing_target or config.weight
        if source.rows != held and not (leaves_out and source.rows > held):
            return False
        again = rerun.reopen(path, _with_target(path, source), "cpu")
        return again.fingerprints()["data"] == again.identity["fingerprints"]["data"]
    return False


def _with_target(path: Path, source: Source) -> Source:
    """A source that does not say what is predicted, with what a run predicts: its own data may
    have said it."""
    if source.target:
        return source
    names = load(path).schema.target.names
    if source.table is None and len(names) > 1:
        names = (names[0].removesuffix("1"),)  # arrays number theirs
    return replace(source, target=names)
