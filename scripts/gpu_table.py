"""The short table at the end of gpu_check.sh: how each part ended, and what came of it.

python scripts/gpu_table.py STAGES LOGS RESULTS
STAGES has a line a part: name, exit code, seconds, limit, with tabs between. Exits 6 where a part
did not hold, and takes no file for granted: a part may have ended before it wrote any.
"""

import json
import sys
from pathlib import Path
from typing import Any

OUT_OF_TIME = (124, 137)


def main() -> int:
    stages, logs, results = map(Path, sys.argv[1:])
    parts = [line.split("\t") for line in stages.read_text().splitlines()]
    print("\n== gpu check")
    for name, code, seconds, limit in parts:
        said = SAID.get(name, _last)(name, logs, results)
        ended = f"over {limit} s" if int(code) in OUT_OF_TIME else f"exit {code}"
        print(f"{name:<10} {'ok' if code == '0' else ended:<10} {seconds:>4} s  {said[0]}")
        for line in said[1:]:
            print(f"{'':<29}{line}")
    failed = [name for name, code, *_ in parts if code != "0"]
    print(f"failed: {', '.join(failed)}" if failed else "all held")
    return 6 if failed else 0


def _last(name: str, logs: Path, results: Path) -> list[str]:
    """The last line that a part printed."""
    lines = (logs / f"{name}.log").read_text(errors="replace").splitlines()
    return [next((line.strip()[:150] for line in reversed(lines) if line.strip()), "no word")]


def _agreement(name: str, logs: Path, results: Path) -> list[str]:
    """Of each precision how many cases hold, and the worst."""
    cases = _json(results / "agreement.json").get("cases", [])
    said = []
    for precision in dict.fromkeys(each["precision"] for each in cases):
        own = [each for each in cases if each["precision"] == precision]
        held = sum(each["holds"] for each in own)
        worst = max(own, key=lambda each: 1e9 if each["worst"] is None else each["worst"])
        most = "not finite" if worst["worst"] is None else f"{worst['worst']:.1e}"
        said.append(f"{precision}: {held} of {len(own)} hold, worst {most} ({worst['case']})")
    return said or _last(name, logs, results)


def _speed(name: str, logs: Path, results: Path) -> list[str]:
    found = _json(results / "speed.json").get("bench", {})
    said = []
    for device, each in found.items():
        rates = " ".join(f"{n} {rate / 1e12:.3g}" for n, rate in each["products"].items())
        launches = f"call {each['call'] * 1e6:.3g} µs, launch {each['within'] * 1e6:.3g} µs"
        copies = f"copies {each['copied'] / 1e9:,.4g} GB/s"
        if each.get("sent") is not None:
            copies = f"{copies}, {each['sent'] / 1e9:,.3g} from the host"
        said.append(f"{device}: {copies}, {rates} TFLOP/s, {launches}")
    return said or _last(name, logs, results)


def _benchmark(name: str, logs: Path, results: Path) -> list[str]:
    """Of each work the time of a step, beside the best peer and the floors."""
    found = _json(results / "cuda.json")
    said = [_row(each) for each in found.get("rows", [])]
    images = found.get("images", {})
    if "left_out" in images:
        said.append(f"images: left out: {images['left_out']}")
    elif images:
        loop, wall = (images[part]["median"] for part in ("loop", "wall"))
        said.append(f"images, {images['epochs']} epochs: {loop:.3g} s of {wall:.3g} s in the loop")
    return said or _last(name, logs, results)


def _row(row: dict[str, Any]) -> str:
    found = {name: each["median"] for name, each in row["contestants"].items()}
    if "gpunet" not in found:
        return f"{row['name']}: gpunet left out: {row['left_out'].get('gpunet', 'no word')}"
    ours, unit = found["gpunet"], 1e6 / row["steps"]
    peers = {n: each for n, each in found.items() if n.startswith(("torch", "jax"))}
    said = f"{row['name']}: {ours * unit:,.4g} µs a step"
    if peers:
        best = min(peers, key=peers.__getitem__)
        said += f", best peer {peers[best] / ours:.2f} times that ({best})"
    for floor in ("products-graph", "empty-graph"):
        if floor in found:
            said += f", {ours / found[floor]:.2f} × {floor}"
    facts = row["contestants"]["gpunet"]
    for steps, (one, two) in facts.get("branches", {}).items():
        said += f", in graphs of {steps} {one * 1e6:,.4g} and in two branches {two * 1e6:,.4g}"
    said += f", on {facts['runs_on']}" if "runs_on" in facts else ""
    off = [n for n, each in row["contestants"].items() if each["agrees"] is False]
    return said + (f"; losses differ: {', '.join(off)}" if off else "")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


SAID = {"agreement": _agreement, "speed": _speed, "benchmark": _benchmark}

if __name__ == "__main__":
    sys.exit(main())
