"""Small runs of the main job in this process, which can be stopped at a step."""

from pathlib import Path

from gpunet import job
from gpunet.predict import MODEL_FILE
from gpunet.run import METRICS, Run

SETTINGS = {"device": "cpu", "hidden": (8,), "folds": 0, "epochs": 4, "batch_size": 32}
SETTINGS |= {"dropout": 0.1}


def begin(path: Path, data: object = "penguins", **more: object) -> job.Job:
    """A run that is written down and has made no step."""
    planned = job.plan(data, {**SETTINGS, "patience": 0, "checkpoint_every": "7", **more})
    run = Run.create(path, planned.name)
    try:
        planned.begin(run)
    except BaseException:
        run.close()
        raise
    return planned


def follow(planned: job.Job, stop_after: int | None = None) -> None:
    """Train to the end, or until so many steps are made; then let go of the directory."""

    def tick(done: int) -> None:
        planned.control.stop = stop_after is not None and done >= stop_after

    planned.control.tick = tick
    try:
        planned.follow()
    finally:
        planned.run.close()


def results(path: Path) -> tuple[bytes, bytes]:
    """What must not depend on how often a run was stopped."""
    return (path / MODEL_FILE).read_bytes(), (path / METRICS).read_bytes()
