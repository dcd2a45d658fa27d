"""What was measured as plain values, and as tables in a terminal."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.crew import Result
from bench.work import Work
from gpunet.device import resolve

SCHEMA = "gpunet.bench/1"
TOLERANCE = 0.02
"""How far an epoch's mean loss may lie from the median of all contestants', as a share of the first
epoch's: float32 sums in another order drift apart by about a tenth of that."""

ACHIEVED = ("kernels", "TFLOP/s", "GB/s", "on GPU MB")
QUIET_CORES = 0.1
"""Other processes may take this much before a row says that it was disturbed."""

TITLES = {
    "gpunet": "gpunet",
    "gpunet-numpy": "gpunet, NumPy kernels",
    "torch": "PyTorch",
    "torch-compile": "PyTorch compiled",
    "torch-graph": "PyTorch, steps in a graph",
    "torch-graph-tuned": "the same, autotuned",
    "jax": "JAX jit + scan",
    "jax-unrolled": "JAX, scan unrolled",
    "sklearn": "scikit-learn",
    "products-blas": "products, BLAS threads",
    "products-sliced": "products, sliced",
    "products-graph": "products in a graph",
    "empty-graph": "as many empty kernels",
}
ON_GPU = ("torch-graph", "torch-graph-tuned", "jax-unrolled", "products-graph", "empty-graph")
FLOORS = ("products-blas", "products-sliced", "products-graph")
PEERS = {
    "torch": "torch",
    "torch-compile": "torch",
    "torch-graph": "torch",
    "torch-graph-tuned": "torch",
    "jax": "jax",
    "jax-unrolled": "jax",
    "sklearn": "sklearn",
}
"""Who is not gpunet, and the package that it needs."""
PACKAGES = ("gpunet", "numpy", "torch", "jax", "jaxlib", "scikit-learn", "cupy-cuda13x")


def row(work: Work, results: Mapping[str, Result], lost: Mapping[str, str]) -> dict[str, Any]:
    """One work's figures: every sample, medians, spread, ratios, and whether losses agree."""
    floors = {name: results[name].median for name in FLOORS if name in results}
    floor = min(floors, key=floors.__getitem__) if floors else None
    far = deviations({name: each.losses for name, each in results.items()})
    ours = results["gpunet"].median if "gpunet" in results else None
    is_on_gpu = any(each.facts for each in results.values())
    more = {"flops": work.flops, "bytes": work.nbytes} if is_on_gpu else {}
    return more | {
        "name": work.name,
        "title": work.title,
        "rows": work.used,
        "batch": work.batch,
        "steps": work.steps,
        "floor": floor and {"contestant": floor, "seconds": floors[floor]},
        "foreign_cores": foreign_cores(results),
        "left_out": dict(lost),
        "contestants": {
            name: {
                "samples": each.samples,
                "median": each.median,
                "min": min(each.samples),
                "max": max(each.samples),
                "over_floor": each.median / floors[floor] if floor else None,
                "over_gpunet": each.median / ours if ours else None,
                "compile_seconds": each.compile_seconds,
                "peak_bytes": each.peak_bytes,
                "losses": [loss if is_finite(loss) else None for loss in each.losses],
                "deviation": far.get(name),
                "agrees": far[name] <= TOLERANCE if name in far else None,
                **(_on_gpu(work, each) if each.facts else {}),
            }
            for name, each in results.items()
        },
    }


def _on_gpu(work: Work, result: Result) -> dict[str, Any]:
    """Of a step: seconds, kernels, and what was achieved of the work's own operations and bytes."""
    step = result.median / work.steps
    rates = {"flops_per_second": work.flops / step, "bytes_per_second": work.nbytes / step}
    return {"step_seconds": step, **rates, **result.facts}


def deviations(losses: Mapping[str, list[float | None]]) -> dict[str, float]:
    """Each curve's largest distance from the median curve, as a share of where that begins; those
    without a curve are left out, and one that is not finite is infinitely far (1e9: JSON)."""
    curves = {name: each for name, each in losses.items() if None not in each}
    middle = [median(values) for values in zip(*curves.values())]
    return {
        name: max(
            abs(a - b) / abs(middle[0]) if is_finite(a) else 1e9 for a, b in zip(curve, middle)
        )
        for name, curve in curves.items()
    }


def foreign_cores(results: Mapping[str, Result]) -> float:
    """Cores that other processes took, on average, while samples were measured."""
    measured = sum(sum(each.samples) for each in results.values())
    return sum(each.foreign for each in results.values()) / max(measured, 1e-9)


def is_finite(value: float | None) -> bool:
    return value is not None and value - value == 0


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """The processor's name, the system, what gpunet says of the CPU and of the device in use."""
    devices = [resolve(name).device.describe() for name in sorted({"cpu", device})]
    return {"cpu": _cpu_model(), "system": platform.platform(), "devices": devices}


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def write(path: Path | None, found: Mapping[str, Any]) -> None:
    """What there is so far, where it was asked for: the run may be ended."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


def show_row(console: Console, found: Mapping[str, Any]) -> None:
    """A table of one work, a line a contestant."""
    is_on_gpu = "flops" in found
    is_short = found["name"].startswith("lecture") or is_on_gpu
    unit = 1e6 / found["steps"] if is_short else 1.0
    table = Table(title=found["title"], title_justify="left", title_style="bold")
    table.add_column("")
    what = "µs a step" if unit != 1 else "s an epoch"
    heads = [what, "min", "max", "× floor", "× gpunet", "compile", "peak MB", "loss"]
    for name in (*heads, *(ACHIEVED if is_on_gpu else ())):
        table.add_column(name, justify="right")
    for name, each in sorted(found["contestants"].items(), key=lambda item: item[1]["median"]):
        achieved = _achieved(each) if is_on_gpu else []
        table.add_row(TITLES[name], *_cells(each, unit), *achieved)
    console.print(table)
    if found["foreign_cores"] > QUIET_CORES:
        console.print(f"not quiet: others took {found['foreign_cores']:.1f} cores meanwhile")
    for name, reason in found["left_out"].items():
        console.print(f"{TITLES[name]}: left out: {reason}")
    for name, each in found["contestants"].items():
        if each["agrees"] is False:
            console.print(f"{TITLES[name]}: its losses are {each['deviation']:.1%} off the median")
    console.print()


def _cells(each: Mapping[str, Any], unit: float) -> list[str]:
    seconds = [_number(each[key] * unit) for key in ("median", "min", "max")]
    ratios = [_ratio(each[key]) for key in ("over_floor", "over_gpunet")]
    made = f"{each['compile_seconds']:.1f} s" if each["compile_seconds"] else ""
    loss = each["losses"][-1]
    return [
        *seconds,
        *ratios,
        made,
        f"{each['peak_bytes'] / 1e6:,.0f}" if each["peak_bytes"] else "",
        "" if loss is None else f"{loss:.4g}{'' if each['agrees'] else ' ✗'}",
    ]


def _achieved(each: Mapping[str, Any]) -> list[str]:
    """Cells of a contestant on a GPU; floors do part of the work alone."""
    kernels, nbytes = each.get("kernels"), each.get("device_bytes")
    is_whole = each["losses"][-1] is not None
    return [
        "" if kernels is None else f"{kernels:,}",
        f"{each['flops_per_second'] / 1e12:.3g}" if is_whole else "",
        f"{each['bytes_per_second'] / 1e9:,.0f}" if is_whole else "",
        "" if nbytes is None else f"{nbytes / 1e6:,.0f}",
    ]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


SHORT = {"PyTorch ÷ gpunet": "gpunet", "PyTorch ÷ NumPy kernels": "gpunet-numpy"}


def show_summary(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """The figures that matter, a line a work."""
    table = Table(title="In short", title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("gpunet ÷ floor", "fastest peer ÷ gpunet", *SHORT):
        table.add_column(name, justify="right")
    for each in rows:
        table.add_row(each["name"], *_short(each["contestants"]))
    console.print(table)


def _short(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    def ratio(a: str, b: str) -> str:
        there = a in found and b in found
        return _ratio(found[a]["median"] / found[b]["median"] if there else None)

    peers = [name for name in PEERS if name in found]
    fastest = min(peers, key=lambda name: found[name]["median"], default="")
    best = f"{ratio(fastest, 'gpunet')} ({TITLES[fastest]})" if fastest else "–"
    floor = _ratio(found.get("gpunet", {}).get("over_floor"))
    return [floor, best, *(ratio("torch", ours) for ours in SHORT.values())]


def show_images(console: Console, found: Mapping[str, Any]) -> None:
    loop, wall = (found[name]["median"] for name in ("loop", "wall"))
    console.print(
        f"{found['epochs']} epochs of {found['rows']:,} images: {loop:.3g} s in the warm loop, "
        f"{wall:.3g} s from process start to saved model, accuracy {found['accuracy']:.3f}\n"
    )


def show_penguins(console: Console, found: Mapping[str, Any]) -> None:
    title = "penguins, from process start to saved model, seconds"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for name in ("median", "min", "max", "× gpunet", "test accuracy"):
        table.add_column(name, justify="right")
    for name, each in sorted(found["contestants"].items(), key=lambda item: item[1]["median"]):
        seconds = [f"{each[key]:.2f}" for key in ("median", "min", "max", "over_gpunet")]
        accuracy = f"{each['accuracy']:.3f}{'' if each['agrees'] else ' ✗'}"
        table.add_row(TITLES[name], *seconds, accuracy)
    console.print(table)
    console.print()
