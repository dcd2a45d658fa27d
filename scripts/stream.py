"""Training on data larger than the memory it may use: how fast, and how much memory.

    python scripts/stream.py [--gigabytes 1] [--max-memory 600M] [--repeats 1]

Makes a Parquet file of float32 columns and a binary target, and the same numbers as NPY files, then
trains on each from memory and streamed, in fresh processes that take turns.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

COLUMNS, GROUP = 64, 1 << 17
# The peak is that of the process's own pages: ru_maxrss would begin with the parent's.
TRAIN = """
import json, re, sys
from gpunet import job
path, target, memory, hidden, epochs = sys.argv[1:]
flags = {"target": (target,)} if target else {}
flags |= {"max_memory": memory, "epochs": int(epochs), "batch_size": 1024, "device": "cpu"}
planned = job.plan(path, flags | {"hidden": hidden, "task": "binary", "seed": 1})
found = [(r.rows_per_second, r.validation) for r in planned.reports()]
summary = planned.finish()
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
where = type(planned.prepared.train.x).__name__
print(json.dumps({"rows": [r for r, _ in found], "peak": peak, "where": where,
    "metrics": summary["metrics"]["test"], "seconds": summary["seconds"]}))
"""


def main() -> None:
    """Make the data, train on it in turns, print the figures."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(dir=asked.folder) as place:
        folder = Path(place)
        rows = int(asked.gigabytes * 2**30) // (4 * COLUMNS)
        make(folder, rows)
        files = {"parquet": (folder / "table.parquet", "y"), "npy": (folder / "arrays", "")}
        for name, (path, target) in files.items():
            found: dict[str, list[dict]] = {"memory": [], "streamed": []}
            for _ in range(asked.repeats):
                for how, memory in (("memory", "1T"), ("streamed", asked.max_memory)):
                    found[how].append(trained(path, target, memory, asked))
            show(name, found)


def make(folder: Path, rows: int) -> None:
    """A Parquet file and a folder of x.npy and y.npy with the same rows, a group at a time."""
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "arrays").mkdir()
    rng, writer = np.random.default_rng(0), None
    weights = rng.standard_normal(COLUMNS)
    x = np.lib.format.open_memmap(folder / "arrays/x.npy", "w+", np.float32, (rows, COLUMNS))
    y = np.lib.format.open_memmap(folder / "arrays/y.npy", "w+", np.int64, (rows,))
    for first in range(0, rows, GROUP):
        stop = min(first + GROUP, rows)
        values = rng.standard_normal((stop - first, COLUMNS), np.float32)
        score = values @ weights / 4 + np.sin(3 * values[:, 0]) * values[:, 1]
        labels = (score + rng.standard_normal(len(score)) > 0).astype(np.int64)
        x[first:stop], y[first:stop] = values, labels
        table = pa.table({f"f{i}": values[:, i] for i in range(COLUMNS)} | {"y": labels})
        if writer is None:
            writer = parquet.ParquetWriter(folder / "table.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def trained(path: Path, target: str, memory: str, asked: argparse.Namespace) -> dict:
    """What a fresh process that trains on `path` reports."""
    arguments = [str(path), target, memory, asked.hidden, str(asked.epochs)]
    command = [sys.executable, "-P", "-c", TRAIN, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout))


def show(name: str, found: dict[str, list[dict]]) -> None:
    """A line for each way, and the streamed speed over the other's."""
    speeds = {}
    for how, runs in found.items():
        steady = [speed for run in runs for speed in run["rows"][1:]]
        speeds[how] = median(steady)
        peak = max(run["peak"] for run in runs) / 2**20
        accuracy = median(run["metrics"]["accuracy"] for run in runs)
        print(
            f"{name:8} {how:9} {speeds[how] / 1e6:6.3f} M rows/s "
            f"({min(steady) / 1e6:.3f} to {max(steady) / 1e6:.3f}), peak {peak:7,.0f} MiB, "
            f"test accuracy {accuracy:.4f}, x is a {runs[0]['where']}"
        )
    print(f"{name:8} streamed over memory: {speeds['streamed'] / speeds['memory']:.3f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of x")
    parser.add_argument("--max-memory", default="600M", help="of the streamed runs")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=4, help="the first is not counted")
    parser.add_argument("--hidden", default="128,64")
    parser.add_argument("--folder", help="where the data are made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
