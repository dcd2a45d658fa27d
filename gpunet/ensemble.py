"""The networks of a run: members that differ by their seed, and one for each fold of the rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gpunet import initial, loop, model
from gpunet.config import Config
from gpunet.data import Dataset, Prepared, joined
from gpunet.device import Device
from gpunet.loop import Member
from gpunet.model import Ensemble
from gpunet.predict import Model
from gpunet.random import member_seed


def members(prepared: Prepared, config: Config) -> list[Member]:
    """Fresh networks of a resolved config: `members` of each fold, or of all rows that train."""
    parts = prepared.folds(config.folds, config.seed) if config.folds else [prepared]
    count = config.members * len(parts)
    return [
        _member(parts[i % len(parts)], replace(config, seed=member_seed(config.seed, i)))
        for i in range(count)
    ]


def settled(given: Sequence[Member], config: Config) -> list[Member]:
    """The same networks under settings of which more are decided; their seeds stay their own."""
    return [replace(each, config=replace(config, seed=each.config.seed)) for each in given]


def _member(data: Prepared, config: Config) -> Member:
    schema = data.schema
    target = schema.target
    network = model.build(config, schema.layout, target.outputs, target.task)
    if config.init == "data":
        widest = max((schema.width, *config.hidden))
        rows = initial.sample(data.train.rows, widest, config.seed)
        initial.fit(network, schema.scaled(data.train.x[rows]), config.seed)
    if target.task == "count":
        model.start_at(network, target.log_mean)
    return Member(network, data, config)


def together(given: Sequence[Member]) -> Ensemble:
    """Their networks."""
    return Ensemble(tuple(member.network for member in given))


def judged(
    given: Sequence[Member], trained: Model, device: Device
) -> dict[str, tuple[Dataset, np.ndarray]]:
    """Each part, and the raw predictions (n, k) for it: of folds the validation part is all rows
    that train too, each predicted by the networks that did not learn from it."""
    first = given[0].data
    whole = {name: part for name, part in first.parts.items() if part is not None}
    if not given[0].config.folds:
        return {name: (part, trained.run(part, device)) for name, part in whole.items()}
    whole["train"] = joined([whole["train"], whole.pop("validation")])
    found = {name: (part, trained.run(part, device)) for name, part in whole.items()}
    parts = [member.data.validation for member in given]
    raws = [
        trained.of(member.network).run(part, device)
        for member, part in zip(given, parts, strict=True)
        if part is not None
    ]
    task = first.schema.target.task
    return {**found, "validation": loop.held_out(parts, raws, task)}
