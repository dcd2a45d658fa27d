"""What many fits come to: errors, ranks, ratios, on plain values.

`table` is {"metric", "test_rows", "gpunet": {preset: fit}, "peers": {name: figures}}.
"""

from collections.abc import Callable, Iterable, Mapping
from math import exp, log, sqrt
from typing import Any

NETWORKS = ("realmlp_td", "realmlp_td_s", "tabm_d", "sklearn_mlp")
BARS = ("realmlp_td", "catboost")
SHIFT = 0.01
"""Added to a share of wrong answers, so that ratios of small ones stay calm."""

Figures = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]
Figure = Callable[[Figures], float | None]


def error(found: Figures) -> float | None:
    """RMSE, or the share of wrong answers and a little; None where there is neither."""
    if found.get("rmse") is not None:
        return float(found["rmse"])
    return None if found.get("accuracy") is None else 1.0 - float(found["accuracy"]) + SHIFT


def log_loss(found: Figures) -> float | None:
    """The log-loss, where classes are told apart."""
    value = found.get("log_loss")
    return None if value is None else float(value)


def geometric(values: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    logs = [log(max(value, 1e-12)) for value in values]
    return exp(sum(logs) / len(logs)) if logs else None


def mean(values: Iterable[float]) -> float | None:
    """The mean; None of nothing."""
    given = list(values)
    return sum(given) / len(given) if given else None


def rank(own: float, others: Iterable[float]) -> float:
    """The place of the smallest first, those alike sharing theirs."""
    given = list(others)
    return 1.0 + sum(o < own for o in given) + sum(o == own for o in given) / 2


def summary(tables: Tables, preset: str) -> dict[str, Any]:
    """One preset beside the peers: mean ranks, ratios of error, log-loss and time."""
    done = {name: t for name, t in tables.items() if "failed" not in t["gpunet"][preset]}
    classes = {name: t for name, t in done.items() if t["metric"] == "accuracy"}
    losses = {
        name: ours / best
        for name, t in classes.items()
        if (ours := t["gpunet"][preset].get("log_loss")) and (best := _best_loss(t))
    }
    return {
        "tables": sorted(done),
        "failed": sorted(set(tables) - set(done)),
        "rank": _ranks(done, preset, error),
        "rank_log_loss": _ranks(classes, preset, log_loss),
        "error_over": {peer: geometric(_error_ratios(done, preset, peer)) for peer in BARS},
        "log_loss_over_best": {"each": losses, "mean": geometric(losses.values())},
        "seconds_over_realmlp_td": _time_ratio(done, preset),
        "behind_sklearn_mlp": _behind(done, preset, "sklearn_mlp"),
    }


def machine_factor(tables: Tables) -> float | None:
    """Seconds of scikit-learn here over those in the peers' figures: how slow this machine is."""
    return geometric(
        fit["seconds"] / theirs["fit_seconds"]
        for t in tables.values()
        for name, fit in t["here"].items()
        if name.startswith("sklearn") and (theirs := t["peers"].get(name))
    )


def ablation(tables: Tables, whole: str) -> dict[str, dict[str, Any]]:
    """Of each piece the ratio of the error, and of the log-loss, without it to that with it."""
    names = dict.fromkeys(name for t in tables.values() for name in t["gpunet"] if name != whole)
    return {
        name: {
            "error": _without(tables, name, whole, error),
            "log_loss": _without(tables, name, whole, log_loss),
        }
        for name in names
    }


def _without(tables: Tables, name: str, whole: str, figure: Figure) -> dict[str, Any]:
    each = {
        key: without / having
        for key, t in tables.items()
        if (without := figure(t["gpunet"].get(name, {}))) and (having := figure(t["gpunet"][whole]))
    }
    return {"each": each, "mean": geometric(each.values())}


def _ranks(tables: Tables, preset: str, figure: Figure) -> dict[str, Any]:
    """Mean ranks among the peers that have figures of every table; those alone are the field."""
    known = [set(t["peers"]) for t in tables.values()]
    everywhere = sorted(set.intersection(*known)) if known else []
    fields = {"networks": [p for p in everywhere if p in NETWORKS], "all": everywhere}
    return {name: _mean_ranks(tables, preset, field, figure) for name, field in fields.items()}


def _mean_ranks(
    tables: Tables, preset: str, field: list[str], figure: Figure
) -> dict[str, float | None]:
    """Of the preset, under its own name, and of each peer in a field."""
    places: dict[str, list[float]] = {name: [] for name in (preset, *field)}
    for t in tables.values():
        given = {preset: t["gpunet"][preset]} | {peer: t["peers"][peer] for peer in field}
        values = {name: v for name, of in given.items() if (v := figure(of)) is not None}
        for name, own in values.items():
            others = (value for other, value in values.items() if other != name)
            places[name].append(rank(own, others))
    return {name: mean(found) for name, found in places.items()}


def _error_ratios(tables: Tables, preset: str, peer: str) -> Iterable[float]:
    for t in tables.values():
        ours, theirs = error(t["gpunet"][preset]), error(t["peers"].get(peer, {}))
        if ours is not None and theirs:
            yield ours / theirs


def _best_loss(table: Mapping[str, Any]) -> float | None:
    known = [p["log_loss"] for p in table["peers"].values() if p.get("log_loss")]
    return min(known, default=None)


def _time_ratio(tables: Tables, preset: str) -> float | None:
    """Of all tables; RealMLP-TD's seconds are those here, where it was run."""
    pairs = [
        (t["gpunet"][preset]["seconds"], theirs)
        for t in tables.values()
        if (theirs := _seconds(t, "realmlp_td"))
    ]
    return sum(ours for ours, _ in pairs) / sum(theirs for _, theirs in pairs) if pairs else None


def _seconds(table: Mapping[str, Any], peer: str) -> float | None:
    here, there = table["here"].get(peer), table["peers"].get(peer)
    return here["seconds"] if here else there and there["fit_seconds"]


def _behind(tables: Tables, preset: str, peer: str) -> list[str]:
    """Where a peer is better: in RMSE or log-loss at all, in accuracy by over a standard error."""
    found = []
    for name, t in tables.items():
        ours, theirs = t["gpunet"][preset], t["peers"].get(peer, {})
        for metric in ("rmse", "log_loss"):
            if theirs.get(metric) is not None and ours[metric] >= theirs[metric]:
                found.append(f"{name} {metric}")
        if theirs.get("accuracy") is not None:
            p = theirs["accuracy"]
            if ours["accuracy"] < p - sqrt(p * (1 - p) / t["test_rows"]):
                found.append(f"{name} accuracy")
    return found
