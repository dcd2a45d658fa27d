"""What `gpunet tune` searches: ranges around the recipe for tables, or around a plain network.

A setting that the user gave stays as it is; what has no meaning beside the others is left out.
The ranges for tables are those of RealMLP's authors (Holzmüller et al., 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from gpunet import optim, presets
from gpunet.config import Config, NumericEmbedding, Settings
from gpunet.data.targets import CLASSES
from gpunet.job import Job


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, drawn evenly, or of their logarithm."""

    low: float
    high: float
    log: bool = False


Choices = tuple[Any, ...]
Space = dict[str, Range | Choices]

RECIPE: Mapping[str, Range | Choices] = {
    "lr": Range(0.02, 0.3, log=True),
    "layers": (2, 3, 4),
    "width": (128, 256, 384, 512),
    "activation": ("mish", "selu"),
    "dropout": Range(0.0, 0.5),
    "weight_decay": Range(1e-3, 0.05, log=True),
    "beta2": Range(0.95, 0.995),
    "label_smoothing": Range(0.0, 0.1),
    "numeric_embedding": get_args(NumericEmbedding),
    "one_hot_levels": (4, 8, 16, 32),
}
PLAIN: Mapping[str, Range | Choices] = {
    "lr": Range(2e-4, 2e-2, log=True),
    "layers": (1, 2, 3, 4),
    "width": (64, 128, 256, 512),
    "activation": ("relu", "gelu", "silu"),
    "norm": ("none", "layer", "batch"),
    "dropout": Range(0.0, 0.5),
    "weight_decay": Range(1e-4, 0.1, log=True),
    "label_smoothing": Range(0.0, 0.1),
    "batch_size": (32, 64, 128, 256, 512),
}
SETTING = {"layers": "hidden", "width": "hidden", "beta2": "betas"}
"""What a name of a space is part of, where it is no setting itself."""
OF_LAYERS = ("activation", "norm", "dropout")


def space(asked: Settings, first: Job) -> tuple[Space, dict[str, Any]]:
    """What is searched beside the settings that were asked for, and its values in the default job,
    which every range and choice holds."""
    known = _default(first.config)
    ranges = PLAIN if first.config.preset == "plain" else RECIPE
    found = {
        name: _with(each, known[name])
        for name, each in ranges.items()
        if name in known and _is_free(name, asked, first)
    }
    return found, {name: known[name] for name in found}


def settings(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that values of a space stand for, `config` being those of the default job."""
    found = {name: value for name, value in values.items() if name not in SETTING}
    if "layers" in values:
        found["hidden"] = _widths(config.preset, values["layers"], values["width"])
    if "beta2" in values:
        found["betas"] = (_betas(config)[0], values["beta2"])
    return found


def _is_free(name: str, asked: Settings, first: Job) -> bool:
    setting, config = SETTING.get(name, name), asked.config
    has_layers = first.config.hidden != ()
    is_given = not asked.is_open(setting) and getattr(config, setting) != "auto"
    if is_given or (name in OF_LAYERS and not has_layers):
        return False
    if not presets.has_meaning(setting, config):
        return False
    if name in ("batch_size", "norm") and asked.given("micro_batch_size"):
        return False
    if name == "label_smoothing":
        return config.loss == "auto" and first.prepared.schema.target.task in CLASSES
    if name == "one_hot_levels":
        return any(each.kind == "category" for each in first.prepared.seen)
    if name == "numeric_embedding":
        return first.prepared.schema.kind == "table"
    return True


def _default(config: Config) -> dict[str, Any]:
    """Every name's value in the default job; no layers where their widths have another shape."""
    found = {name: getattr(config, name) for name in {*RECIPE, *PLAIN} - SETTING.keys()}
    found["beta2"] = _betas(config)[1]
    layers = len(config.hidden)
    if layers and _widths(config.preset, layers, int(config.hidden[0])) == config.hidden:
        found |= {"layers": layers, "width": config.hidden[0]}
    return found


def _widths(preset: str, layers: int, width: int) -> tuple[int, ...]:
    """The recipe's layers are alike; each of a plain network's is half as wide as the last."""
    return tuple(max(1, width >> i) if preset == "plain" else width for i in range(layers))


def _betas(config: Config) -> tuple[float, float]:
    found = optim.optimizer(config.optimizer, config.momentum, config.betas)
    return found.beta1, found.beta2


def _with(each: Range | Choices, value: Any) -> Range | Choices:
    """A range or choices that hold a value."""
    if isinstance(each, Range):
        return replace(each, low=min(each.low, value), high=max(each.high, value))
    return each if value in each else (*each, value)
