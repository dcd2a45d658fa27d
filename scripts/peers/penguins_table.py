"""The penguins as numbers, with the standard library and NumPy: read, standardised, one-hot; and
what the scripts of peers are told."""

import argparse
import csv
from pathlib import Path

import numpy as np

NUMBERS = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "year")
WORDS = ("island", "sex")


def arguments(about: str | None) -> argparse.Namespace:
    """The table, its parts, where the model goes, and the network's settings."""
    parser = argparse.ArgumentParser(description=about)
    kinds = {"csv": Path, "parts": Path, "out": Path, "hidden": str}
    for name, kind in {**kinds, "epochs": int, "batch": int, "lr": float}.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return parser.parse_args()


def read(path: Path, parts: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(x (n, d) float32, y (n,) int64) of train, validation and test, whose rows `parts` names.

    A missing number is the training rows' mean, a missing word no category.
    """
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(parts) as found:
        places = {name: found[name] for name in found.files}
    missing = {"NA": "nan", "": "nan"}
    raw = [[float(missing.get(row[name], row[name])) for name in NUMBERS] for row in rows]
    x = np.array(raw)
    train = x[places["train"]]
    x = np.nan_to_num((x - np.nanmean(train, axis=0)) / np.nanstd(train, axis=0))
    columns = [x]
    for name in WORDS:
        cells = np.array([row[name] for row in rows])
        levels = sorted(set(cells) - set(missing))
        columns.append(cells[:, None] == np.array(levels))
    species = np.array([row["species"] for row in rows])
    y = np.searchsorted(sorted(set(species)), species)
    x = np.concatenate(columns, axis=1).astype(np.float32)
    return {name: (x[at], y[at]) for name, at in places.items()}
