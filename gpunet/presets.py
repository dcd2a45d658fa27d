"""What a preset sets where the user left a setting open: `plain` nothing, the others the recipe.

The recipe is RealMLP's (Holzmüller et al., 2024). A piece that has no meaning beside what the user
chose is left out.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gpunet.config import USES_BETAS, Config, Settings

DATA: Mapping[str, Any] = {"scaling": "robust", "one_hot_levels": 8, "clamp": "on"}
"""What has to be known before the data are encoded."""
COMMON: Mapping[str, Any] = {
    "numeric_embedding": "periodic",
    "input_scale": True,
    "hidden": (256, 256, 256),
    "parametric": True,
    "parametrisation": "ntk",
    "init": "data",
    "dropout": 0.15,
    "schedule": "coslog4",
    "fade": "cosine",
    "weight_decay": 0.02,
    "betas": (0.9, 0.95),
    "batch_size": 256,
    "epochs": 256,
    "patience": 0,
}
CLASSES: Mapping[str, Any] = {
    "activation": "selu",
    "lr": 0.04,
    "best_by": "accuracy",
    "label_smoothing": 0.1,
}
NUMBERS: Mapping[str, Any] = {"activation": "mish", "lr": 0.2}
COUNTS: Mapping[str, Any] = {"activation": "mish", "lr": 0.04}
"""Their gradient grows with the rate, which is not standardised."""

MEANINGLESS: Mapping[str, Callable[[Config], bool]] = {
    "scaling": lambda config: not config.standardise,
    "parametric": lambda config: config.hidden == () or not config.activation.isidentifier(),
    "dropout": lambda config: config.hidden == (),
    "activation": lambda config: config.hidden == (),
    "init": lambda config: config.hidden == (),
    "lr": lambda config: config.optimizer != "adamw",
    "betas": lambda config: config.optimizer not in USES_BETAS,
    "epochs": lambda config: config.steps is not None,
    "best_by": lambda config: config.validation == 0 and not config.folds,
    "label_smoothing": lambda config: config.loss != "auto",
}
"""Where a piece is left out."""


def of_data(settings: Settings, is_table: bool) -> Settings:
    """The preset chosen, and what it says of encoding: arrays get `plain`."""
    if settings.config.preset == "auto" and not is_table:
        settings = settings.resolve("preset", "plain", "arrays")
    return _taken(settings, DATA)


def of_network(settings: Settings, task: str) -> Settings:
    """What the preset says of a network for a task, and of its training."""
    own = {"regression": NUMBERS, "count": COUNTS}.get(task, CLASSES)
    if task != "regression" and settings.origin["clamp"].startswith("preset"):
        settings = settings.resolve("clamp", "off", f"a {task} target")
    return _taken(settings, {**own, **COMMON})


def _taken(settings: Settings, values: Mapping[str, Any]) -> Settings:
    if settings.config.preset == "plain":
        return settings
    for name, value in values.items():
        if settings.is_open(name) and not MEANINGLESS.get(name, _never)(settings.config):
            settings = settings.preset(name, value)
    return settings


def _never(config: Config) -> bool:
    return False
