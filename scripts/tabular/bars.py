"""RealMLP-TD (pytabkit) and CatBoost with their defaults, on the same rows and machine: those of
them that are installed.

RealMLP-TD sees numbers with the median where they are missing; PyTorch has one thread, with which
it is quickest. CatBoost has all. Categories are text.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from tabular.scikit import columns, scores, target
from tabular.work import Work, averaged


def fits(work: Work, seeds: Iterable[int]) -> dict[str, dict[str, Any]]:
    """Each one's runs: metrics of the test part, and seconds of fitting."""
    seeds = list(seeds)
    makers = {"realmlp_td": ("pytabkit", _realmlp), "catboost": ("catboost", _catboost)}
    return {
        name: averaged([_run(work, make, seed) for seed in seeds])
        for name, (module, make) in makers.items()
        if find_spec(module)
    }


def _run(work: Work, make: Callable[[bool, int, list[str]], Any], seed: int) -> dict[str, float]:
    train, test = (_frame(work, part) for part in (work.train, work.test))
    y = target(work, work.train)
    predictor = make(work.is_regression, seed, list(train.select_dtypes("category")))
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predictor.fit(train, y)
    seconds = time.perf_counter() - began
    return scores(work, predictor, test) | {"seconds": seconds}


def _frame(work: Work, part: pa.Table) -> Any:
    """The columns as pandas has them: numbers without gaps, and categories."""
    import pandas as pd

    numbers, words = columns(work, part)
    known = columns(work, work.train)[0]
    numbers = np.where(np.isnan(numbers), np.nanmedian(known, axis=0), numbers)
    frame = pd.DataFrame({f"n{j}": numbers[:, j] for j in range(numbers.shape[1])})
    for j in range(words.shape[1]):
        frame[f"c{j}"] = pd.Series(words[:, j].astype(str)).astype("category")
    return frame


def _realmlp(is_regression: bool, seed: int, categories: list[str]) -> Any:
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")
    import torch
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    torch.set_num_threads(1)
    kind = RealMLP_TD_Regressor if is_regression else RealMLP_TD_Classifier
    folder = tempfile.mkdtemp(prefix="gpunet-realmlp-")
    return kind(device="cpu", random_state=seed, n_threads=1, verbosity=0, tmp_folder=folder)


def _catboost(is_regression: bool, seed: int, categories: list[str]) -> Any:
    from catboost import CatBoostClassifier, CatBoostRegressor

    kind = CatBoostRegressor if is_regression else CatBoostClassifier
    return kind(random_seed=seed, cat_features=categories, verbose=False, allow_writing_files=False)
