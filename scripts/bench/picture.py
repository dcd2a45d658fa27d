"""The picture: time against rows, width and batch, gpunet and its peers, on logarithmic axes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report import FLOORS, TITLES

AXES = {
    "rows": ("rows of a table, 64-128-64-1", "seconds an epoch"),
    "width": ("width of two hidden layers", "µs a row"),
    "batch": ("rows a step, 784-256-128-10", "µs a row"),
}


def draw(sweeps: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """One panel a sweep; the points' medians, their spread as a band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(sweeps), figsize=(5 * len(sweeps), 4.2), squeeze=False)
    for panel, (name, points) in zip(panels[0], sweeps.items()):
        for contestant in (each for each in TITLES if each not in FLOORS):
            _curve(panel, name, contestant, points)
        _floor(panel, name, points)
        panel.set(xscale="log", yscale="log", xlabel=AXES[name][0], ylabel=AXES[name][1])
        panel.grid(alpha=0.3, which="both", linewidth=0.4)
    panels[0][0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def _curve(panel: Any, sweep: str, contestant: str, points: Sequence[Mapping[str, Any]]) -> None:
    found = [point for point in points if contestant in point["contestants"]]
    if not found:
        return
    units, at = _units(sweep, found), [point["at"] for point in found]
    median, low, high = (
        [point["contestants"][contestant][key] * u for point, u in zip(found, units)]
        for key in ("median", "min", "max")
    )
    ours = contestant.startswith("gpunet")
    (line,) = panel.plot(at, median, "o-" if ours else "s--", ms=3, label=TITLES[contestant])
    panel.fill_between(at, low, high, color=line.get_color(), alpha=0.12, linewidth=0)


def _floor(panel: Any, sweep: str, points: Sequence[Mapping[str, Any]]) -> None:
    found = [point for point in points if point["floor"]]
    seconds = [point["floor"]["seconds"] * unit for point, unit in zip(found, _units(sweep, found))]
    panel.plot([point["at"] for point in found], seconds, ":", color="0.4", label="products alone")


def _units(sweep: str, points: Sequence[Mapping[str, Any]]) -> list[float]:
    """What makes an epoch's seconds the panel's unit."""
    return [1.0 if sweep == "rows" else 1e6 / point["rows"] for point in points]
