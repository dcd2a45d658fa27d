"""A trained model judged: its temperature and threshold, its metrics with intervals, and what
simple models reach on the same rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpunet import bootstrap, calibration
from gpunet.baselines import baselines
from gpunet.bootstrap import Difference, Interval
from gpunet.data import Dataset, Prepared
from gpunet.data.targets import NUMBERS
from gpunet.device import Device
from gpunet.model import outcome
from gpunet.predict import Answers, Model

HELD_OUT = ("validation", "test")
SHIFTED = (
    "--class-weight moves probabilities towards the classes that count more, and a temperature "
    "does not move them back: they put rows in order, but are no shares"
)


@dataclass(frozen=True)
class Judgement:
    """A model with its temperature and threshold, and what there is to say of it.

    metrics: by part. intervals: of the parts that were held out. baselines: their metrics, by name
    and part. calibration: None where there is none. warnings: in plain words.
    """

    model: Model
    metrics: dict[str, dict[str, float | None]]
    intervals: dict[str, dict[str, Interval]]
    baselines: dict[str, dict[str, dict[str, float | None]]]
    calibration: dict[str, Any] | None
    warnings: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What a summary holds of it."""
        return {name: value for name, value in vars(self).items() if name != "model"}


def unjudged(model: Model, prepared: Prepared) -> Judgement:
    """Of a run that may go on nothing is said."""
    return Judgement(model, {name: {} for name in prepared.parts}, {}, {}, None, [])


def judge(
    model: Model,
    prepared: Prepared,
    judged: Mapping[str, tuple[Dataset, np.ndarray]],
    device: Device,
) -> Judgement:
    """Fit temperature and threshold on the validation part, then judge every part.

    judged: each part with the raw predictions (n, k) for it; of folds the validation part is all
    rows that train, which no baseline may be judged on.
    """
    there = {
        name: (part.y, raw, part.sample_weight)
        for name, (part, raw) in judged.items()
        if part.y is not None
    }
    model, calibrated = decide(model, there.get("validation"))
    held = {name: there[name] for name in HELD_OUT if name in there}
    unseen = {name: of for name, of in held.items() if prepared.parts[name] is not None}
    simple: dict[str, Any] = {}
    warnings = [SHIFTED] if model.config.class_weight else []
    if model.config.baselines is True and unseen:
        schema = model.schema
        with device.working(2 * prepared.train.rows * schema.width * schema.target.outputs):
            simple, unbeaten = _compare(model, prepared, unseen)
        warnings += unbeaten
    return Judgement(
        model,
        {name: model.judge(*there[name]) if name in there else {} for name in prepared.parts},
        {name: model.intervals(*of) for name, of in held.items()},
        simple,
        calibrated,
        warnings,
    )


def decide(model: Model, validation: Answers | None) -> tuple[Model, dict[str, Any] | None]:
    """The model with a temperature and a threshold of validation rows, and what they change."""
    config, task = model.config, model.schema.target.task
    if task in NUMBERS:
        return model, None
    threshold = 0.5 if config.threshold == "auto" else float(config.threshold)
    model = replace(model, temperature=1.0, threshold=threshold)
    if validation is None:
        return model, {"temperature": 1.0, "threshold": threshold, "reason": "no validation part"}
    found: dict[str, Any] = {}
    if config.calibrate is True:
        before = model.judge(*validation, ranked=False)["log_loss"]
        model = replace(model, temperature=calibration.temperature(task, *validation))
        after = model.judge(*validation, ranked=False)["log_loss"]
        found["log_loss"] = {"before": before, "after": after}
    if config.threshold == "auto":
        model, found["f1"] = _with_threshold(model, *validation)
    return model, {**found, "temperature": model.temperature, "threshold": model.threshold}


def _with_threshold(
    model: Model, y: np.ndarray, raw: np.ndarray, weight: np.ndarray | None
) -> tuple[Model, dict[str, float]]:
    """The threshold of the highest F1, and the F1 at one half and there."""
    true, p = y[:, 0] > 0.5, outcome("binary", raw, model.temperature)[:, 0]
    best = calibration.best_threshold(true, p, weight)
    ends = {"before": 0.5, "after": best}
    found = {when: calibration.f1(true, p, at, weight) for when, at in ends.items()}
    return replace(model, threshold=best), found


def _compare(
    model: Model,
    prepared: Prepared,
    held: Mapping[str, Answers],
) -> tuple[dict[str, Any], list[str]]:
    """The metrics of the baselines, and a warning for each that the model does not beat."""
    last, plain = list(held)[-1], replace(model, temperature=1.0, threshold=0.5)
    metric = model.loss_metric
    found: dict[str, Any] = {}
    warnings = []
    ours = model.row_values(*held[last])
    for name, predict in baselines(prepared, model.config).items():
        theirs = {
            each: (part.y, predict(part), part.sample_weight)
            for each, part in prepared.parts.items()
            if each in held and part is not None and part.y is not None
        }
        found[name] = {each: plain.judge(*of) for each, of in theirs.items()}
        rows = plain.row_values(*theirs[last])
        difference = bootstrap.differences(rows, ours, model.config.seed)[metric]
        if not difference.interval[1] < 0:
            warnings.append(_unbeaten(name, last, metric, difference))
    return found, warnings


def _unbeaten(name: str, part: str, metric: str, difference: Difference) -> str:
    low, high = difference.interval
    said = f"worse than the {name} baseline"
    if difference.is_noise:
        said = f"no better than the {name} baseline beyond noise"
    sure = f" ({low:+.4g}…{high:+.4g})" if difference.is_known else ""
    return f"{said}: {metric} on {part} differs by {difference.value:+.4g}{sure}"
