"""A search for better settings: many trials of a job, the best of which is trained as a run.

A study is a directory with a journal, so that it can be gone on with, by several processes at
once. Trials are judged on their validation rows; no test part is looked at before the end.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from gpunet import auto, isolation, job, loop, predict, rerun, space
from gpunet.config import Settings, flag, pace
from gpunet.data import is_passing
from gpunet.data.limits import automatic
from gpunet.errors import (
    Diverged,
    GpunetError,
    Interrupted,
    ModelInvalid,
    OutOfMemory,
    OutputExists,
    Unavailable,
    UsageError,
    of_code,
)
from gpunet.job import Job
from gpunet.loop import Control
from gpunet.predict import Model
from gpunet.run import BEST, STUDY, SUMMARY, Run, files
from gpunet.space import Range

SCHEMA = "gpunet.tune/1"
JOURNAL = "journal.log"
TRIALS = 50
STARTING = 10
"""Trials at random before the search learns from them; half as many before one may be pruned."""
REPORTS = 32
"""How often a trial is compared with the others."""
POLL = 0.3
"""Seconds between two looks at the journal while other processes work."""
KILLED = -9
"""How a process ends that a system without memory kills."""
SERVE = "from gpunet import tuning; tuning.serve()"
INTERRUPTED, WHY = "interrupted", "why"
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What Optuna raises at lines that are not its own."""
FAILING = (Diverged, OutOfMemory, UsageError)
"""What is wrong with a trial's settings, and not with the search."""


@dataclass(frozen=True)
class Trial:
    """One trial. state: done, pruned or failed (`why` says how). value: what the best epoch has
    least of on the validation rows; loss: of equal epochs the least loss there."""

    number: int
    state: str
    value: float | None
    loss: float | None
    settings: dict[str, Any]
    epochs: int
    seconds: float
    why: str = ""


class Journal:
    """A study's journal as Optuna keeps it, and its lock: whoever takes it drops what a full disk
    or a power cut has left of a line, behind which nothing could be read."""

    def __init__(self, journal: Any, path: Path) -> None:
        self.path, self.lock = path, journal.JournalFileOpenLock(str(path))
        self.kept = journal.JournalFileBackend(str(path), lock_obj=self)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Lines from a number on."""
        with _journal_errors(self.path):
            yield from self.kept.read_logs(log_number_from)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines."""
        with _journal_errors(self.path):
            self.kept.append_logs(logs)

    def acquire(self) -> bool:
        """Wait for whoever writes."""
        self.lock.acquire()
        try:
            files.drop_torn_line(self.path)
        except BaseException:
            self.lock.release()
            raise
        return True

    def release(self) -> None:
        """Let others write."""
        self.lock.release()


class Tuner:
    """A study of a job with some settings; its directory is held until `close`.

    source, flags, file: as of `job.plan`. trials: how many are wanted in all. timeout: seconds, or
    a time such as 10m, counted from where the study is ready; no trial begins later. Once
    `control.stop` is set, the trial in hand ends, to be made again another time.
    Raises Unavailable without Optuna, UsageError where nothing can be searched or judged.
    """

    def __init__(
        self,
        source: Any,
        flags: Mapping[str, Any],
        file: Path | str | None,
        out: Path | str,
        trials: int = TRIALS,
        timeout: float | str | None = None,
        workers: int = 1,
        held: bool = False,
    ) -> None:
        seconds = _seconds(timeout)
        self.optuna = _optuna()
        self.out, self.wanted, self.workers = Path(out), trials, workers
        self.control = Control()
        self.given, self.flags, self.file = source, dict(flags), file
        if own := job.own_parts(flags):
            raise UsageError(f"{flag(next(iter(own)))}: a study wants a share or a file")
        if min(trials, workers) < 1:
            raise UsageError("--trials and --workers want 1 or more")
        if workers > 1 and job.location(source) is None:
            raise UsageError("several workers read the data themselves", "give a file or a set")
        asked = job.settle(source, flags, file)
        if is_passing(source):
            source = self.given = job.read(source, auto.with_memory(asked), ".")
        self.first = job.plan(source, flags, file)
        if self.first.members[0].data.validation is None:
            raise UsageError("trials are judged on a validation part", "set --validation")
        self.space, self.default = space.space(asked, self.first)
        if not self.space:
            raise UsageError(
                "nothing is left to search: every setting was given", "leave some of them out"
            )
        self.source = _read(source, self.first.settings)
        self.run = None if held else self._hold()
        self.deadline = None if seconds is None else time.monotonic() + seconds

    def close(self) -> None:
        """Let others go on with the study."""
        if self.run is not None:
            self.run.close()

    @property
    def metric(self) -> str:
        """What is least for the best trial."""
        by = self.first.config.best_by
        return {"accuracy": "error rate", "log_loss": "log-loss"}.get(by, by)

    def search(self) -> Iterator[Trial]:
        """Make the trials that are wanted and not there yet, yielding each as it ends."""
        study = self._study()
        self._clear(study)
        if not study.trials:
            study.enqueue_trial(self.default)
        if self.workers > 1:
            yield from self._share(study)
            self._clear(study)
        else:
            yield from self.work(study, 0)

    def work(self, study: Any, worker: int) -> Iterator[Trial]:
        """Trials of this process alone."""
        seed = self.first.config.seed + 7919 * worker + len(study.trials)
        study.sampler = self.optuna.samplers.TPESampler(
            seed=seed % 2**32, n_startup_trials=STARTING
        )
        while not self._is_over(study):
            trial = study.ask()
            if self._is_spare(study, trial.number):
                self._give_back(study, trial, again=False)
                return
            try:
                made = self._make(study, trial)
            except Interrupted:
                self._give_back(study, trial)
                return
            except BaseException:
                self._give_back(study, trial)
                raise
            yield made

    def trials(self) -> list[Trial]:
        """Every trial that has ended, in order."""
        return [self._told(each) for each in _ended(self._study())]

    def best(self) -> Trial:
        """The trial of the least value, and of equals of the least loss. Raises Diverged where none
        came to its end, UsageError where the time was over before one began."""
        made = self.trials()
        if not made and self.deadline is not None:
            raise UsageError("no trial began before --timeout was over", "give more time")
        done = [each for each in made if each.state == "done"]
        if not done:
            raise Diverged(f"none of {len(made):,} trials came to its end", "give other settings")
        return min(done, key=lambda each: (each.value, each.loss, each.number))

    def best_job(self, best: Trial) -> tuple[Job, list[str]]:
        """The job of a trial, begun in the study's `best` or taken up there, and warnings. One that
        was the best before is kept beside it, as best-trial3."""
        place = self.out / BEST
        assert self.run is not None
        known = self._known().get("best")
        if (place / job.IDENTITY).is_file() and known == best.number:
            return rerun.take_up(place, None if job.location(self.given) else self.given)
        if place.exists() and known not in (None, best.number):
            files.rename(place, self.out / f"{BEST}-trial{known}")
        planned = job.plan(self.given, {**self.flags, **best.settings}, self.file)
        settings, found = planned.settings, dict.fromkeys(best.settings, f"trial {best.number}")
        planned.settings = replace(settings, origin={**settings.origin, **found})
        self.run.write_json(STUDY, {**self._identity(), "best": best.number})
        planned.begin(Run.create(place, planned.name))
        return planned, list(planned.prepared.notes)

    def summary(self, best: Trial) -> dict[str, Any] | None:
        """The summary of `best`, if that trial was trained to its end there."""
        if self._known().get("best") != best.number:
            return None
        with suppress(OSError, ValueError):
            found = json.loads(files.read(self.out / BEST / SUMMARY))
            is_whole = found["ended"] in loop.FINISHED
            return {**found, "run": str(self.out / BEST)} if is_whole else None
        return None

    def to_dict(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """The study in plain values, with the summary of the best trial's run."""
        searched = {
            name: vars(each) if isinstance(each, Range) else list(each)
            for name, each in self.space.items()
        }
        return {
            "schema": SCHEMA,
            "study": str(self.out),
            "data": self.first.name,
            "metric": self.metric,
            "space": searched,
            "trials": [vars(each) for each in self.trials()],
            "best": vars(self.best()),
            "run": dict(summary),
        }

    def _hold(self) -> Run:
        """The study's directory: a new one, or one that was begun with the same data and
        settings."""
        is_begun = os.path.isfile(self.out / STUDY)
        try:
            with files.system_errors(self.out):
                run = Run(self.out) if is_begun else Run.create(self.out, self.first.name)
        except OutputExists as fault:
            raise OutputExists(fault.message, "name another study with -o") from None
        try:
            if is_begun:
                self._check_own()
            else:
                run.write_json(STUDY, self._identity())
        except BaseException:
            run.close()
            raise
        return run

    def _check_own(self) -> None:
        """Refuse a study of other data or settings."""
        if {**self._known(), "best": None} != {**self._identity(), "best": None}:
            hint = "give those, or name another study with -o"
            raise UsageError(f"{self.out}: was begun with other data or settings", hint)

    def _identity(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **self.first.fingerprints()}

    def _known(self) -> dict[str, Any]:
        """What `study.json` says."""
        path = self.out / STUDY
        with files.reading(path):
            found = json.loads(files.read(path, 1 << 20))
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ModelInvalid(f"{path}: not as gpunet wrote it")
        return found

    def _study(self) -> Any:
        """The study as its journal has it."""
        path, journal = self.out / JOURNAL, self.optuna.storages.journal
        pruner = self.optuna.pruners.MedianPruner(
            n_startup_trials=STARTING // 2, n_warmup_steps=REPORTS // 8
        )
        with _journal_errors(path):
            return self.optuna.create_study(
                storage=journal.JournalStorage(Journal(journal, path)),
                study_name="gpunet",
                load_if_exists=True,
                pruner=pruner,
            )

    def _settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return space.settings(self.first.config, values)

    def _told(self, ended: Any) -> Trial:
        """What the journal says of a trial that has ended."""
        state = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}[ended.state.name]
        facts = ended.user_attrs
        value, loss = (ended.value, facts["loss"]) if state == "done" else (None, None)
        spent = facts.get("epochs", 0), facts.get("seconds", 0.0)
        settings = self._settings(ended.params)
        return Trial(ended.number, state, value, loss, settings, *spent, facts.get(WHY, ""))

    def _is_over(self, study: Any) -> bool:
        is_late = self.deadline is not None and time.monotonic() >= self.deadline
        return self.control.stop or is_late or len(_counted(study)) >= self.wanted

    def _is_spare(self, study: Any, number: int) -> bool:
        """Whether others, asked for at the same time, are enough."""
        return number not in sorted(each.number for each in _counted(study))[: self.wanted]

    def _give_back(self, study: Any, trial: Any, again: bool = True) -> None:
        """Leave a trial unmade; its settings wait for whoever goes on."""
        trial.set_user_attr(INTERRUPTED, True)
        study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        if again and trial.params:
            study.enqueue_trial(trial.params)

    def _clear(self, study: Any) -> None:
        """Give back the trials of processes that were killed."""
        for each in study.get_trials(deepcopy=False):
            if each.state.name == "RUNNING":
                self._give_back(study, self.optuna.trial.Trial(study, each._trial_id))

    def _make(self, study: Any, trial: Any) -> Trial:
        """One trial, told to the journal. Raises Interrupted where it was stopped."""
        began, states = time.perf_counter(), self.optuna.trial.TrialState
        values = {name: _suggested(trial, name, each) for name, each in self.space.items()}
        found: dict[str, Any] = {}
        planned: Job | None = None
        try:
            planned = job.plan(self.source, {**self.flags, **self._settings(values)}, self.file)
            value, is_pruned = self._train(planned, trial)
            found = {"state": states.PRUNED} if is_pruned else {"values": value}
        except FAILING as fault:
            trial.set_user_attr(WHY, fault.message)
            found = {"state": states.FAIL}
        last = planned and planned.last
        trial.set_user_attr("epochs", last.epoch if last else 0)
        trial.set_user_attr("seconds", time.perf_counter() - began)
        return self._told(study.tell(trial, **found))

    def _train(self, planned: Job, trial: Any) -> tuple[float | None, bool]:
        """The least value on the validation rows, and whether others had less by then."""
        config, control = planned.config, planned.control

        def tick(step: int) -> None:
            control.stop = control.stop or self.control.stop

        control.tick = tick
        least: tuple[float, float] | None = None
        told = 0
        for report in planned.reports():
            cost, loss = loop.cost(report.validation, config.best_by), report.validation["loss"]
            if cost is not None and loss is not None:
                least = min(least or (cost, loss), (cost, loss))
            place = report.step * REPORTS // report.steps  # alike, however long a trial is
            if told < place < REPORTS and least is not None:
                told = place
                trial.report(least[0], place)
                if trial.should_prune():
                    return None, True
        if control.ended == "stopped":
            raise Interrupted("the trial was stopped")
        if least is None:
            raise Diverged("no epoch had a finite validation loss")
        trial.set_user_attr("loss", least[1])
        return least[0], False

    def _share(self, study: Any) -> Iterator[Trial]:
        """Trials of other processes, as they end. Raises what ended one of them early."""
        seen = {each.number for each in _ended(study)}
        crew = [self._start(worker) for worker in range(self.workers)]
        is_told = False
        try:
            while True:
                is_alive = any(each.poll() is None for each in crew)
                for each in _ended(study):
                    if each.number not in seen:
                        seen.add(each.number)
                        yield self._told(each)
                if not is_alive:
                    break
                if self.control.stop and not is_told:
                    is_told = True
                    _end(crew)
                time.sleep(POLL)
        finally:
            _end(crew)
            said = [each.communicate()[1] for each in crew]
        lost = [(each.returncode, text) for each, text in zip(crew, said) if each.returncode]
        if lost and not self.control.stop:
            raise _early(lost, len(crew))

    def _start(self, worker: int) -> "subprocess.Popen[str]":
        """A process that works on the study; cores and memory are shared out."""
        origin, device = self.first.settings.origin, self.first.choice.device
        more: dict[str, Any] = {}
        if device.kind == "cpu" and origin["threads"].startswith("auto"):
            more["threads"] = max(1, device.threads // self.workers)
        if origin["max_memory"].startswith("auto"):
            more["max_memory"] = automatic() // self.workers
        seconds = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        asked = {
            "source": self.given,
            "flags": {**self.flags, **more},
            "file": self.file,
            "out": self.out,
            "trials": self.wanted,
            "timeout": seconds,
        }
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the one that started them
        )
        assert process.stdin is not None
        told = {"worker": worker, "parent": os.getpid(), "tuner": asked}
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(json.dumps(told, default=str))
        process.stdin = None
        return process


def serve() -> None:
    """Work on a study that another process holds: what standard input says; SIGTERM ends it."""
    asked = json.load(sys.stdin)
    isolation.die_with(asked["parent"])
    try:
        tuner = Tuner(**asked["tuner"], held=True)
        signal.signal(signal.SIGTERM, lambda *_: setattr(tuner.control, "stop", True))
        for _ in tuner.work(tuner._study(), asked["worker"]):
            pass
    except GpunetError as fault:
        print(fault, file=sys.stderr)
        sys.exit(fault.exit_code)


def tune(
    source: Any,
    target: str | int | Sequence[str | int] = (),
    *,
    out: Path | str,
    trials: int = TRIALS,
    timeout: float | str | None = None,
    workers: int = 1,
    config: Path | str | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    **settings: Any,
) -> Model:
    """Search for better settings than the defaults, and return the model of the best.

    As `train`; settings that are given stay as they are. out: the study's directory; the same call
    goes on with it, until `trials` are made in all. timeout: seconds, or a time such as
    10m, after which no trial begins. Its `best` is a run directory. Raises the errors of train,
    and Unavailable without Optuna.
    """
    flags = job.with_target(target, settings)
    tuner = Tuner(source, flags, config, out, trials, timeout, workers)
    try:
        for trial in tuner.search():
            if on_trial is not None:
                on_trial(trial)
        best = tuner.best()
        if tuner.summary(best) is None:
            planned, _ = tuner.best_job(best)
            with planned.held:
                planned.follow()
    finally:
        tuner.close()
    return predict.load(Path(out) / BEST)


@contextmanager
def _journal_errors(path: Path) -> Iterator[None]:
    """What the system or Optuna finds wrong with a journal, as ours."""
    with files.system_errors(path):
        try:
            yield
        except UNREADABLE as reason:
            hint = "take it out, or name another study with -o"
            raise ModelInvalid(f"{path}: a line is not as gpunet wrote it", hint) from reason


def _optuna() -> ModuleType:
    try:
        import optuna
    except ImportError as reason:
        hint = 'install it with: pip install "gpunet[tune]"'
        raise Unavailable(f"tune needs Optuna ({reason})", hint) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _seconds(timeout: float | str | None) -> float | None:
    """A --timeout as seconds. Raises UsageError for what is no time."""
    if timeout is None or (isinstance(timeout, Real) and timeout >= 0):
        return timeout
    with suppress(ValueError):
        if isinstance(found := pace(str(timeout)), float):
            return found
    raise UsageError(f"--timeout {timeout}: must be a time above 0, such as 30s, 10m, 2h")


def _read(source: Any, settings: Settings) -> Any:
    """The data, read once for all trials."""
    return source if job.location(source) is None else job.read(source, settings, ".")


def _suggested(trial: Any, name: str, each: Any) -> Any:
    if isinstance(each, Range):
        return trial.suggest_float(name, each.low, each.high, log=each.log)
    return trial.suggest_categorical(name, list(each))


def _counted(study: Any) -> list[Any]:
    """The trials that have ended or are being made."""
    states = ("COMPLETE", "PRUNED", "FAIL", "RUNNING")
    known = study.get_trials(deepcopy=False)
    return [t for t in known if t.state.name in states and INTERRUPTED not in t.user_attrs]


def _ended(study: Any) -> list[Any]:
    return [each for each in _counted(study) if each.state.name != "RUNNING"]


def _early(lost: Sequence[tuple[int, str]], crew: int) -> GpunetError:
    """Why workers ended before their work did: by the first of them."""
    code, text = lost[0]
    why = (text.strip().splitlines() or ["it was killed"])[-1]
    kind = OutOfMemory if code == KILLED else of_code(code)
    message = f"{len(lost)} of {crew} workers ended early: {why}"
    return kind(message, "the same command goes on")


def _end(crew: Sequence["subprocess.Popen[str]"]) -> None:
    for each in crew:
        if each.poll() is None:
            each.terminate()
