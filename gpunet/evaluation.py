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


@dataclass(frozen=True)
class Judgement:
    """A model with its temperature and threshold, and what there is to say of it.

    metrics: by part, and in `targets` of each of several. intervals: of the parts that were held
    out; `resampled` says what was drawn. baselines: their metrics, by name and part. calibration:
    None where there is none. warnings: in plain words.
    """

    model: Model
    metrics: dict[str, dict[str, float | None]]
    targets: dict[str, dict[str, dict[str, float | None]]]
    intervals: dict[str, dict[str, Interval]]
    resampled: dict[str, str]
    baselines: dict[str, dict[str, dict[str, float | None]]]
    calibration: dict[str, Any] | None
    warnings: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """What a summary holds of it."""
        return {name: value for name, value in vars(self).items() if name != "model"}


def unjudged(model: Model, prepared: Prepared) -> Judgement:
    """Of a run that may go on nothing is said."""
    return Judgement(model, {name: {} for name in prepared.parts}, {}, {}, {}, {}, None, [])


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
    there = {name: of for name, of in judged.items() if of[0].y is not None}
    model, calibrated = decide(model, there.get("validation"))
    held = {name: there[name] for name in HELD_OUT if name in there}
    unseen = {name: of for name, of in held.items() if prepared.parts[name] is not None}
    simple: dict[str, Any] = {}
    warnings: list[str] = []
    if model.config.baselines is True and unseen:
        schema = model.schema
        with device.working(2 * prepared.train.rows * schema.width * schema.target.outputs):
            simple, warnings = _compare(model, prepared, unseen)
    return Judgement(
        model,
        {name: model.judge(*there[name]) if name in there else {} for name in prepared.parts},
        {name: each for name, of in there.items() if (each := model.judge_each(*of))},
        {name: model.intervals(*of) for name, of in held.items()},
        {name: model.resampled(part) for name, (part, _) in held.items()},
        simple,
        calibrated,
        warnings,
    )


def decide(model: Model, validation: Answers | None) -> tuple[Model, dict[str, Any] | None]:
    """The model with a temperature and a threshold of validation rows, and what they change."""
    config, task = model.config, model.schema.target.task
    if task in NUMBERS:
        return model, None
    default = model.schema.target.threshold
    threshold = default if config.threshold == "auto" else float(config.threshold)
    model = replace(model, temperature=1.0, threshold=threshold)
    if validation is None:
        return model, {"temperature": 1.0, "threshold": threshold, "reason": "no validation part"}
    found: dict[str, Any] = {}
    if config.calibrate is True:
        before = model.judge(*validation, ranked=False)["log_loss"]
        part, raw = validation
        assert part.y is not None
        fitted = calibration.temperature(task, part.y, raw, part.sample_weight)
        model = replace(model, temperature=fitted)
        after = model.judge(*validation, ranked=False)["log_loss"]
        found["log_loss"] = {"before": before, "after": after}
    if config.threshold == "auto":
        model, found["f1"] = _with_threshold(model, *validation)
    return model, {**found, "temperature": model.temperature, "threshold": model.threshold}


def _with_threshold(
    model: Model, part: Dataset, raw: np.ndarray
) -> tuple[Model, dict[str, float | None]]:
    """The threshold of the highest F1, and the F1 at the usual one and there."""
    assert part.y is not None
    true, p = part.y[:, 0] > 0.5, outcome("binary", raw, model.temperature)[:, 0]
    best = replace(model, threshold=calibration.best_threshold(true, p, part.sample_weight))
    ends = {"before": model, "after": best}
    return best, {when: at.judge(part, raw)["f1"] for when, at in ends.items()}


def _compare(
    model: Model,
    prepared: Prepared,
    held: Mapping[str, Answers],
) -> tuple[dict[str, Any], list[str]]:
    """The metrics of the baselines, and a warning for each that the model does not beat."""
    last, metric = list(held)[-1], model.loss_metric
    found: dict[str, Any] = {}
    warnings = []
    ours = model.row_values(*held[last])
    for name, predict in baselines(prepared, model.config).items():
        theirs = {each: (part, predict(part)) for each, (part, _) in held.items()}
        alike, fitted_on = model, theirs.get("validation")
        if model.config.folds:  # it has learned from these: they do not say how sure it may be
            fitted_on = prepared.train, predict(prepared.train)
            alike = replace(model, config=replace(model.config, calibrate=False))
        alike, _ = decide(alike, fitted_on)
        found[name] = {each: alike.judge(*of) for each, of in theirs.items()}
        rows = alike.row_values(*theirs[last])
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
