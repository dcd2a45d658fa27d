"""Measure gpunet's presets on a folder of tables, beside peers' figures.

python scripts/tables.py --tables FOLDER [--presets auto,best] [--seeds 3] [--only NAME]
Each folder in FOLDER (or $GPUNET_TABLES) has train.parquet, test.parquet and meta.json; peers.json
beside them holds the figures of other libraries. All learn from the first 6,000 rows of
train.parquet and are judged on the whole of test.parquet; means over the seeds. scikit-learn, and
with it RealMLP-TD (pytabkit) and CatBoost, run beside them where they are installed. --ablate turns
off each piece of a preset in turn.
A full run writes benchmarks/results/tables.json, or ablation.json; --quick and --only write where
--json says. Exit 6 when a fit failed.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from bench import report  # noqa: E402
from rich.console import Console  # noqa: E402
from tabular import figures, show  # noqa: E402
from tabular.work import Work, fit, load, pieces  # noqa: E402

from gpunet.about import environment  # noqa: E402
from gpunet.config import Preset  # noqa: E402
from gpunet.device import resolve  # noqa: E402
from gpunet.presets import SIZES  # noqa: E402

SCHEMA = "gpunet.tables/1"
ROWS, QUICK_ROWS, WARM_ROWS, QUICK_EPOCHS = 6000, 600, 200, 8
PRESETS: tuple[str, ...] = Preset.__args__  # type: ignore[attr-defined]


def main() -> int:
    given = arguments()
    folders = sorted(each.parent for each in given.tables.glob("*/meta.json"))
    folders = [each for each in folders if each.name in (given.only or [each.name])]
    if not folders or len(folders) < len(set(given.only or [])):
        print(f"tables: error: {given.tables}: not all these tables are there", file=sys.stderr)
        return 66
    found = Tables(given).run(folders)
    return 6 if found["failed"] else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = os.environ.get("GPUNET_TABLES")
    parser.add_argument(
        "--tables", type=Path, default=folder, required=not folder, help="or GPUNET_TABLES"
    )
    parser.add_argument("--presets", default=",".join(PRESETS), help="with commas")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each")
    parser.add_argument("--only", action="append", metavar="NAME", help="or several")
    recipes = [name for name in PRESETS if name in SIZES]
    without = {"nargs": "?", "const": "auto", "choices": recipes}
    parser.add_argument("--ablate", **without, help="a preset without each piece")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="few rows and epochs: does it run?")
    given = parser.parse_args()
    given.presets = [given.ablate] if given.ablate else given.presets.split(",")
    if unknown := sorted(set(given.presets) - set(PRESETS)):
        parser.error(f"--presets {unknown[0]}: wanted some of {', '.join(PRESETS)}")
    if given.seeds < 1:
        parser.error(f"--seeds {given.seeds}: wanted 1 or more")
    given.json = given.json or _place(given)
    return given


def _place(given: argparse.Namespace) -> Path | None:
    """Where a full run's figures lie."""
    if given.quick or given.only:
        return None
    name = "ablation" if given.ablate else "tables"
    return ROOT / "benchmarks" / "results" / f"{name}.json"


class Tables:
    """One run over folders of tables; its document is written after each."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.seeds = range(1 if given.quick else given.seeds)
        self.more = {"epochs": QUICK_EPOCHS} if given.quick else {}
        self.rows = QUICK_ROWS if given.quick else ROWS
        peers = given.tables / "peers.json"
        self.peers = json.loads(peers.read_text()) if peers.exists() else {}
        self.others = [] if given.ablate else _others()
        self.out = Console(markup=False, highlight=False, emoji=False)
        self.talk = Console(stderr=True, markup=False, highlight=False, emoji=False)
        if not sys.stdout.isatty():
            self.out.width = 150
        if not self.others and not given.ablate:
            self.talk.print("scikit-learn is left out: it is not installed")

    def run(self, folders: list[Path]) -> dict[str, Any]:
        """Every fit that was asked for, shown; the JSON document."""
        began = time.time()
        found = self._facts(began)
        tables = found["tables"]
        self._warm_up(load(folders[0], self.rows))
        for folder in folders:
            tables[folder.name] = self._table(load(folder, self.rows))
            found |= self._summary(tables) | {"seconds": time.time() - began}
            report.write(self.given.json, found)
        if self.given.ablate:
            for metric in ("error", "log_loss"):
                show.ablation(self.out, found["ablation"], metric)
        else:
            show.metrics(self.out, tables)
            show.summaries(self.out, found["summary"], found["sklearn_seconds_over_peers"])
        return found

    def _facts(self, began: float) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "commit": _commit(),
            "quick": self.given.quick,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "machine": report.machine("cpu"),
            "versions": report.versions(),
            "rows": self.rows,
            "seeds": len(self.seeds),
            "ablated": self.given.ablate,
            "environment": environment(resolve("auto").device),
            "encodings": {each.__name__: (each.__doc__ or "").strip() for each in self.others},
            "tables": {},
        }

    def _table(self, work: Work) -> dict[str, Any]:
        """One table's fits: gpunet's, and others' on the same rows."""
        asked = {name: {"preset": name, **self.more} for name in self.given.presets}
        if self.given.ablate:
            without = pieces(work.is_regression, self.given.ablate)
            asked |= {name: asked[self.given.ablate] | off for name, off in without.items()}
        ours = {name: self._told(work, name, settings) for name, settings in asked.items()}
        return {
            "metric": work.metric,
            "train_rows": work.train.num_rows,
            "test_rows": work.test.num_rows,
            "gpunet": ours,
            "here": self._here(work),
            "peers": {} if self.given.ablate else self.peers.get(work.name, {}),
        }

    def _told(self, work: Work, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        found = fit(work, self.seeds, settings)
        self._say(work, name, found)
        return found

    def _say(self, work: Work, name: str, found: dict[str, Any]) -> None:
        figure = found.get("failed") or f"{show.number(found[work.metric])}"
        seconds = f", {found['seconds']:.1f} s" if "seconds" in found else ""
        self.talk.print(f"{work.name} {name}: {work.metric} {figure}{seconds}")

    def _warm_up(self, work: Work) -> None:
        """What is imported and built at the first fit is in no figure."""
        few = replace(work, train=work.train.slice(0, WARM_ROWS))
        fit(few, [0], {"epochs": 1})
        for other in self.others:
            other.fits(few, [0])

    def _here(self, work: Work) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for other in self.others:
            found |= (own := other.fits(work, self.seeds))
            for name, each in own.items():
                self._say(work, name, each)
        return found

    def _summary(self, tables: dict[str, Any]) -> dict[str, Any]:
        failed = [
            f"{name} {who}: {each['failed']}"
            for name, t in tables.items()
            for who, each in t["gpunet"].items()
            if "failed" in each
        ]
        if self.given.ablate:
            return {"failed": failed, "ablation": figures.ablation(tables, self.given.ablate)}
        return {
            "failed": failed,
            "summary": {name: figures.summary(tables, name) for name in self.given.presets},
            "sklearn_seconds_over_peers": figures.machine_factor(tables),
        }


def _others() -> list[ModuleType]:
    """Who else can be run here."""
    names = ("tabular.scikit", "tabular.bars") if find_spec("sklearn") else ()
    return [import_module(name) for name in names]


def _commit() -> str | None:
    """The commit that is measured, with a + where files differ from it; None outside of git."""
    try:
        said = [
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return said[0] + ("+" if said[1] else "")


if __name__ == "__main__":
    sys.exit(main())
