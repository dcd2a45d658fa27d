"""What a preset sets where the user left a setting open: `plain` nothing, the others the recipe.

The recipe is RealMLP's (Holzmüller et al., 2024), as far as it gained on the tables tried, with
piecewise-linear inputs beside its waves, and folds of the rows. A piece that has no meaning beside
what the user chose is left out.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from gpunet.config import USES_BETAS, Config, Settings
from gpunet.data import Source
from gpunet.errors import UsageError
from gpunet.kernels.activation import PARAMETRIC

DATA: Mapping[str, Any] = {
    "scaling": "robust",
    "one_hot_levels": 8,
    "numeric_embedding": "both",
    "value_embedding": "rough",
}
"""What has to be known before the data are encoded."""
COMMON: Mapping[str, Any] = {
    "input_scale": True,
    "parametric": True,
    "parametrisation": "ntk",
    "init": "data",
    "dropout": 0.15,
    "schedule": "coslog4",
    "weight_decay": 0.02,
    "betas": (0.9, 0.95),
}
CLASSES: Mapping[str, Any] = {"activation": "selu", "lr": 0.04, "best_by": "log_loss"}
NUMBERS: Mapping[str, Any] = {"activation": "mish", "lr": 0.2, "fade": "cosine"}
COUNTS: Mapping[str, Any] = {"activation": "mish", "lr": 0.04, "fade": "cosine"}
"""Their gradient grows with the rate, which is not standardised."""
SIZES: Mapping[str, Mapping[str, Any]] = {
    "fast": {"hidden": (128, 128), "folds": 0, "members": 1},
    "auto": {"hidden": (128, 128, 128), "folds": 6, "members": 1},
    "best": {"hidden": (128, 128, 128), "folds": 10, "members": 2},
}
"""What a preset spends."""
FEW, MANY = 100, 50_000
"""Rows below which a fold says too little, and above which one network learns what there is."""
BATCHES = ((1_024, 64), (2_800, 128), (32_000, 256), (108_000, 512))
LARGE_BATCH = 1024
UPDATES, EPOCHS, ROWS_SEEN = 1_536, (16, 64, 128), 4_000_000
"""Epochs are 64; as many more as make these updates, at most 128; fewer, but 16, where a network
has seen so many rows."""
LEAST_PATIENCE = 10

MEANINGLESS: Mapping[str, Callable[[Config], bool]] = {
    "scaling": lambda config: not config.standardise,
    "parametric": lambda config: config.hidden == () or config.activation not in PARAMETRIC,
    "dropout": lambda config: config.hidden == (),
    "activation": lambda config: config.hidden == (),
    "init": lambda config: config.hidden == (),
    "lr": lambda config: config.optimizer != "adamw",
    "betas": lambda config: config.optimizer not in USES_BETAS,
    "epochs": lambda config: config.steps is not None,
    "best_by": lambda config: config.is_blind,
    "patience": lambda config: config.is_blind,
}
"""Where a piece is left out."""


def has_meaning(name: str, config: Config) -> bool:
    """Whether a setting says anything beside the others."""
    return name not in MEANINGLESS or not MEANINGLESS[name](config)


def of_data(settings: Settings, source: Source) -> Settings:
    """The preset chosen, and what it says of encoding, folds and members: arrays get `plain`.

    Raises UsageError where another was asked for with arrays.
    """
    if settings.config.preset == "auto" and source.table is None:
        settings = settings.resolve("preset", "plain", "arrays")
    if settings.config.preset == "plain":
        return settings
    if source.table is None:
        name = settings.config.preset
        raise UsageError(f"--preset {name} is for tables; these are arrays", "use --preset plain")
    return _taken(settings, {**DATA, **_networks(settings, source)})


def of_network(settings: Settings, task: str, rows: int) -> Settings:
    """What the preset says of networks for a task and so many training rows, and of training."""
    if settings.config.preset == "plain":
        return settings
    own = {"regression": NUMBERS, "count": COUNTS}.get(task, CLASSES)
    hidden = SIZES[settings.config.preset]["hidden"]
    settings = _taken(settings, {**own, **COMMON, "hidden": hidden})
    learnt = rows - rows // settings.config.folds if settings.config.folds else rows
    settings = _taken(settings, {"batch_size": batch_size(learnt)})
    size = settings.config.batch_size
    if size != "auto":
        settings = _taken(settings, {"epochs": epochs(learnt, int(size))})
    return _taken(settings, {"patience": patience(settings.config)})


def batch_size(rows: int) -> int:
    """Rows a step, by how many train."""
    return next((size for limit, size in BATCHES if rows <= limit), LARGE_BATCH)


def epochs(rows: int, batch: int) -> int:
    """Passes over so many training rows."""
    least, usual, most = EPOCHS
    wanted = max(ceil(UPDATES / ceil(rows / batch)), min(usual, ROWS_SEEN // rows))
    return min(most, max(least, wanted))


def patience(config: Config) -> int:
    """Epochs to wait for a better one: half of them, as the best is often the end of the rate's
    last wave, which takes 8 of 15. Runs counted in steps go on to their end."""
    if config.steps is not None or config.epochs == "auto":
        return 0
    return max(LEAST_PATIENCE, ceil(config.epochs / 2))


def _networks(settings: Settings, source: Source) -> Mapping[str, Any]:
    """Folds and members, which take the place of folds where the user gave the parts."""
    folds, members = (SIZES[settings.config.preset][name] for name in ("folds", "members"))
    if not settings.is_open("folds") or source.rows > MANY:
        return {"members": members}
    if _can_fold(settings, source):
        return {"folds": folds, "members": members}
    return {"members": members * max(1, folds)}


def _can_fold(settings: Settings, source: Source) -> bool:
    """Whether a validation part is still open, of rows that are not too few."""
    parts = ("validation", "split_column", "group", "time")
    is_taken = not all(settings.is_open(name) for name in parts)
    return not is_taken and not source.streams and source.rows >= FEW


def _taken(settings: Settings, values: Mapping[str, Any]) -> Settings:
    for name, value in values.items():
        if settings.is_open(name) and has_meaning(name, settings.config):
            settings = settings.preset(name, value)
    return settings
