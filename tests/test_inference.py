"""Launch lists that are kept between calls: the same answers as of new ones, whatever changed."""

import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpunet
from gpunet import engine
from gpunet.data import read
from gpunet.device.cpu import Cpu
from gpunet.inference import FEW_ROWS
from gpunet.predict import Model

rng = np.random.default_rng(0)
X = rng.standard_normal((80, 5)).astype(np.float32)
Y = X[:, 0] * X[:, 1] + 0.1 * rng.standard_normal(80)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("runs") / "one"
    trained = gpunet.train(
        (X, Y), hidden=[16], members=3, norm="batch", epochs=5, out=place, device="cpu"
    )
    return pickle.dumps(trained)


@pytest.fixture
def fresh(content: bytes) -> Callable[[], Model]:
    return lambda: pickle.loads(content)


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each list that is written down, its rows."""
    found: list[int] = []
    lower = engine.lower

    def counted(network: Any, feed: Any, store: Any, batch: int, *rest: Any, **more: Any) -> Any:
        found.append(batch)
        return lower(network, feed, store, batch, *rest, **more)

    monkeypatch.setattr(engine, "lower", counted)
    return found


def test_lists_for_few_rows_are_written_once(
    fresh: Callable[[], Model], lowered: list[int]
) -> None:
    model = fresh()
    for row in range(5):
        model.predict(X[row : row + 1])
    assert lowered == [1, 1, 1]


def test_lists_for_many_rows_are_not_kept(fresh: Callable[[], Model], lowered: list[int]) -> None:
    model = fresh()
    model.predict(X[: FEW_ROWS + 1])
    model.predict(X[: FEW_ROWS + 1])
    assert len(lowered) == 6


def test_every_call_answers_as_a_new_model(fresh: Callable[[], Model]) -> None:
    model = fresh()
    for first, count in ((0, 1), (7, 1), (3, FEW_ROWS), (9, FEW_ROWS), (2, 70), (5, 1), (0, 2)):
        rows = X[first : first + count]
        assert model.predict(rows).tobytes() == fresh().predict(rows).tobytes()


def test_an_answer_stays_as_it_was_given(fresh: Callable[[], Model]) -> None:
    model = fresh()
    first = model.predict(X[:2])
    kept = first.copy()
    model.predict(X[2:4])
    assert first.tobytes() == kept.tobytes()


def test_rows_of_the_caller_are_not_written_to(fresh: Callable[[], Model]) -> None:
    model, given = fresh(), X[:2].copy()
    given.flags.writeable = False
    model.predict(given)
    model.predict(X[2:4])
    assert given.tobytes() == X[:2].tobytes()


def test_weights_count_as_they_are_at_the_call(fresh: Callable[[], Model]) -> None:
    model, other = fresh(), fresh()
    before = model.predict(X[:2])
    for array in (*model.network.weights.values(), *other.network.weights.values()):
        array *= 1.5
    assert model.predict(X[:2]).tobytes() == other.predict(X[:2]).tobytes() != before.tobytes()
    model.network.load(fresh().network.weights)
    assert model.predict(X[:2]).tobytes() == before.tobytes()


def test_weights_of_another_precision_have_lists_of_their_own(fresh: Callable[[], Model]) -> None:
    model = fresh()
    single = model.predict(X[:2])
    doubled = {n: w.astype(np.float64) for n, w in model.network.weights.items()}
    model.network.load(doubled)
    double = model.predict(X[:2])
    assert single.tobytes() != double.tobytes()
    assert np.allclose(single, double, atol=1e-5)


def test_a_setting_of_the_device_has_lists_of_its_own(
    fresh: Callable[[], Model], lowered: list[int]
) -> None:
    model, source = fresh(), read(X[:1])
    for kernels, lists in (("auto", 3), ("numpy", 6), ("numpy", 6)):
        model.outcome(source, Cpu(kernels))
        assert len(lowered) == lists


def test_threads_share_a_model_but_no_list(fresh: Callable[[], Model]) -> None:
    model = fresh()
    alone = [fresh().predict(X[i : i + 1]) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: model.predict(X[i % 8 : i % 8 + 1]), range(200)))
    for i, each in enumerate(found):
        assert each.tobytes() == alone[i % 8].tobytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_goes_on_with_them(fresh: Callable[[], Model], tmp_path: Path) -> None:
    model, out = fresh(), tmp_path / "answer"
    wanted = model.predict(X[:FEW_ROWS])
    child = os.fork()
    if child == 0:
        out.write_bytes(model.predict(X[:FEW_ROWS]).tobytes())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert out.read_bytes() == wanted.tobytes()


def test_a_list_that_could_not_be_written_is_not_taken_for_one(
    fresh: Callable[[], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fresh()
    model.predict(X[:1])
    with monkeypatch.context() as patched:
        patched.setattr(engine, "store", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.predict(X[:2])
    for count in (1, 2):
        assert model.predict(X[:count]).tobytes() == fresh().predict(X[:count]).tobytes()
