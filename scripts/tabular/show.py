"""Tables of figures in a terminal: one a metric, and what it all comes to."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tabular.figures import Tables

FIELDS = {"networks": "networks", "all": "everyone"}
METRICS = {"rmse": "RMSE", "accuracy": "accuracy", "log_loss": "log-loss"}
WANTED = {
    "mean rank, networks": "auto first",
    "mean rank by log-loss, everyone": "best first",
    "error over realmlp_td's": "auto ≤ 0.97",
    "error over catboost's": "auto ≤ 1.05, best ≤ 1",
    "log-loss over the best peer's, worst": "auto ≤ 1.02",
    "seconds over realmlp_td's": "auto ≤ 0.3",
}
"""What a preset should reach."""
HERE = ", here"
"""Behind the names of peers that ran on this machine."""


def metrics(console: Console, tables: Tables) -> None:
    """A table a metric and one of seconds: contestants down, tables across."""
    for key, title in METRICS.items():
        rows = {
            name: {n: f.get(key) for n, f in _everyone(t).items()} for name, t in tables.items()
        }
        having = {name: of for name, of in rows.items() if any(v is not None for v in of.values())}
        if having:
            _grid(console, f"{title}, test part", having)
    seconds = {
        name: {n: f.get("seconds", f.get("fit_seconds")) for n, f in _everyone(t).items()}
        for name, t in tables.items()
    }
    _grid(console, "seconds of a fit", seconds)


def summaries(console: Console, found: Mapping[str, Any], factor: float | None) -> None:
    """The figures of each preset, beside what is wanted of them."""
    table = Table(title="summary", title_justify="left", title_style="bold")
    for head in ("", *found, "wanted"):
        table.add_column(head, justify="left" if not head else "right")
    columns = [_lines(name, each) for name, each in found.items()]
    for line in columns[0] if columns else ():
        table.add_row(line, *(column[line] for column in columns), WANTED.get(line, ""))
    console.print(table)
    if factor is not None:
        console.print(f"scikit-learn's fits take {factor:.3g} × the peers' own seconds here")
    for name, each in found.items():
        if each["behind_sklearn_mlp"]:
            console.print(f"{name}: behind sklearn_mlp on {', '.join(each['behind_sklearn_mlp'])}")
        if each["failed"]:
            console.print(f"{name}: failed on {', '.join(each['failed'])}")


def ablation(console: Console, found: Mapping[str, Any], metric: str) -> None:
    """Ratios without a piece to with it, the piece that gains most first."""
    names = dict.fromkeys(key for each in found.values() for key in each[metric]["each"])
    if not names:
        return
    what = {"error": "error", "log_loss": "log-loss"}[metric]
    table = Table(
        title=f"{what} without a piece, over that with it", title_justify="left", title_style="bold"
    )
    for head in ("piece off", "mean", *names):
        table.add_column(head, justify="left" if head == "piece off" else "right")
    order = sorted(found.items(), key=lambda item: -(item[1][metric]["mean"] or 0.0))
    for name, each in order:
        ratios = each[metric]
        if ratios["mean"] is not None:
            cells = [ratios["mean"], *(ratios["each"].get(key) for key in names)]
            table.add_row(name, *map(number, cells))
    console.print(table)


def number(value: float | None) -> str:
    """Four digits; a dash where there is nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _everyone(table: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each contestant's figures: gpunet's presets, the peers, and those that ran here."""
    ours = {f"gpunet {name}": fit for name, fit in table["gpunet"].items()}
    return {**ours, **table["peers"], **{n + HERE: fit for n, fit in table["here"].items()}}


def _grid(console: Console, title: str, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right")
    for who in dict.fromkeys(name for of in rows.values() for name in of):
        table.add_row(who, *(number(of.get(who)) for of in rows.values()))
    console.print(table)


def _lines(name: str, found: Mapping[str, Any]) -> dict[str, str]:
    """One preset's column of the summary."""
    lines = {}
    for key, what in (("rank", ""), ("rank_log_loss", " by log-loss")):
        for field, ranks in found[key].items():
            others = [value for n, value in ranks.items() if n != name and value is not None]
            best = f", best peer {number(min(others))}" if others else ""
            said = f"{number(ranks[name])} of {len(ranks)}{best}"
            lines[f"mean rank{what}, {FIELDS[field]}"] = said
    losses = found["log_loss_over_best"]
    values = {
        "error over realmlp_td's": found["error_over"]["realmlp_td"],
        "error over catboost's": found["error_over"]["catboost"],
        "log-loss over the best peer's, mean": losses["mean"],
        "log-loss over the best peer's, worst": max(losses["each"].values(), default=None),
        "seconds over realmlp_td's": found["seconds_over_realmlp_td"],
    }
    return lines | {what: number(value) for what, value in values.items()}
