"""Lowering of a table's first layer: windows, waves, bins, embeddings give what the graph gives."""

from collections.abc import Callable
from dataclasses import replace

import emulation
import numpy as np
import pytest
import test_engine
from test_engine import BASE, check_plan, lower

from gpunet import engine, gates
from gpunet.device import Device
from gpunet.device.cpu import Cpu
from gpunet.errors import Unavailable
from gpunet.graph import Graph, Node
from gpunet.kernels import native
from gpunet.launches import Feed
from gpunet.model import Network

ROWS, UNITS, OUTPUTS = 23, 6, 4
NUMBERS, PLAIN, SIZES, WIDTH = 3, 2, (5, 3), 4
COLUMNS = NUMBERS + PLAIN + len(SIZES)
KNOTS = ((-1.0, -0.2, 0.3, 1.1), (), (-0.5, 0.4, 0.9))
CONFIG = replace(BASE, lr=0.05)


def table(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, size, (rows, 1)) for size in SIZES]
    x = np.hstack([rng.standard_normal((rows, NUMBERS + PLAIN)), *codes])
    return x, rng.integers(0, OUTPUTS, rows).astype(np.int32)


class Builder:
    """A graph under way: parameters by name and shape, layers, and the network at its end."""

    def __init__(self) -> None:
        self.graph, self.rng = Graph(), np.random.default_rng(7)
        self.x = self.graph.input("x")

    def columns(self, first: int, stop: int, of: Node | None = None) -> Node:
        return self.graph.apply(gates.Columns(first, stop), of or self.x)

    def parameter(self, name: str, *shape: int) -> Node:
        return self.graph.parameter(name, self.rng.standard_normal(shape) / 2)

    def dense(self, h: Node, name: str, width: int, units: int) -> Node:
        product = self.graph.apply(
            gates.MatMul(), h, self.parameter(f"{name}.weight", width, units)
        )
        return self.graph.apply(gates.Add(), product, self.parameter(f"{name}.bias", units))

    def waves(self, x: Node, f: int, k: int = 5, e: int = 2) -> Node:
        shapes = {"frequency": (f, k), "phase": (f, k), "weight": (f, k, e), "bias": (f, e)}
        parts = [self.parameter(f"waves.{name}", *shape) for name, shape in shapes.items()]
        return self.graph.apply(gates.Periodic(), x, *parts)

    def bins(self, x: Node, knots: tuple[tuple[float, ...], ...]) -> Node:
        return self.graph.apply(gates.Piecewise(knots), x)

    def embedding(self, codes: Node) -> Node:
        rows = self.parameter("table", sum(SIZES), WIDTH)
        return self.graph.apply(gates.Embedding((0, SIZES[0])), codes, rows)

    def join(self, *parts: Node, axis: int = -1) -> Node:
        return self.graph.apply(gates.Concatenate(axis), *parts, name="join")

    def network(self, h: Node, width: int) -> Network:
        hidden = self.graph.apply(gates.Mish(), self.dense(h, "hidden", width, UNITS))
        prediction = self.dense(hidden, "output", UNITS, OUTPUTS)
        target = self.graph.input("target")
        loss = gates.SoftmaxCrossEntropy()
        self.graph.output = self.graph.apply(loss, prediction, target, name="loss")
        return Network(self.graph, prediction)


def whole_layer() -> Network:
    b = Builder()
    waves = b.waves(b.columns(0, NUMBERS), NUMBERS)
    plain = b.columns(NUMBERS, NUMBERS + PLAIN)
    codes = b.embedding(b.columns(NUMBERS + PLAIN, COLUMNS))
    h, width = b.join(waves, plain, codes), 3 * NUMBERS + PLAIN + len(SIZES) * WIDTH
    return b.network(b.graph.apply(gates.Multiply(), h, b.parameter("scale", width)), width)


def between_other_gates() -> Network:
    """Windows of windows, read twice; parts that are copied; a join that an activation reads."""
    b = Builder()
    numbers = b.columns(0, NUMBERS + PLAIN)
    inner = b.columns(1, 3, numbers)
    dense = b.graph.apply(gates.ReLU(), b.dense(b.columns(1, 5), "dense", 4, 3))
    h = b.join(b.columns(0, 2, numbers), dense, b.waves(inner, 2), b.dense(b.x, "all", COLUMNS, 2))
    return b.network(b.graph.apply(gates.Mish(), h), 2 + 3 + 6 + 2)


def alone() -> Network:
    """No join: waves of what has a gradient, then a product."""
    b = Builder()
    inner = b.graph.apply(gates.Tanh(), b.dense(b.columns(0, 4), "dense", 4, 3))
    return b.network(b.waves(inner, 3), 9)


def bins_beside_waves() -> Network:
    """Both read the same numbers where they are."""
    b = Builder()
    numbers = b.columns(0, NUMBERS)
    waves, bins = b.waves(numbers, NUMBERS), b.bins(numbers, KNOTS)
    codes = b.embedding(b.columns(NUMBERS + PLAIN, COLUMNS))
    h = b.join(waves, b.columns(NUMBERS, NUMBERS + PLAIN), bins, codes)
    width = 3 * NUMBERS + PLAIN + 5 + len(SIZES) * WIDTH
    return b.network(b.graph.apply(gates.Multiply(), h, b.parameter("scale", width)), width)


def bins_of_a_layer() -> Network:
    """Bins of what has a gradient, in a join behind an activation."""
    b = Builder()
    inner = b.graph.apply(gates.Tanh(), b.dense(b.columns(0, 4), "dense", 4, 3))
    h = b.join(b.columns(0, 2), b.bins(inner, KNOTS), b.bins(b.columns(1, 4), KNOTS))
    return b.network(h, 2 + 5 + 5)


def codes_alone() -> Network:
    b = Builder()
    return b.network(b.embedding(b.columns(NUMBERS + PLAIN, COLUMNS)), len(SIZES) * WIDTH)


NETWORKS = [
    *(whole_layer, between_other_gates, alone, bins_beside_waves, bins_of_a_layer),
    codes_alone,
]
each_network = pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)


def lanes(count: int) -> Device:
    try:
        native.load()
    except Unavailable as reason:
        pytest.skip(f"{reason}")
    return Cpu("native", count)


@pytest.fixture(autouse=True)
def thin_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LEAST_ROWS", 4)


@each_network
@pytest.mark.parametrize("batch", [ROWS, ROWS + 5])
def test_the_list_gives_the_graphs_loss_and_gradients(
    build: Callable[[], Network], batch: int
) -> None:
    network, (x, y) = build(), table()
    launches, store = lower(network, Feed(x, y), CONFIG, batch)
    launches.run()
    check_plan(launches.launches, launches.arena_bytes)
    loss, grads = network.graph.forward(x=x, target=y), network.graph.backward()
    assert float(launches.totals[0]) == pytest.approx(float(loss), rel=1e-12)
    for name, (where, shape) in store.views.items():
        found = store.gradient[where].reshape(shape)
        np.testing.assert_allclose(found, grads[name], rtol=1e-9, atol=1e-12, err_msg=name)


def trained(build: Callable[[], Network], device: Device, dtype: str) -> np.ndarray:
    """The weights after two passes in short batches."""
    (x, y), order = table(), np.random.default_rng(5).permutation(ROWS).astype(np.int32)
    feed = Feed(x.astype(dtype), y, order=order)
    launches, store = lower(build(), feed, CONFIG, 13, dtype, device)
    assert (launches.program is not None) == (getattr(device, "kernels", "") == "native")
    for _ in range(2):
        launches.rewind()
        launches.run(launches.steps)
    return np.concatenate([array.ravel() for array in store.named(store.values).values()])


@each_network
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_team_computes_what_numpy_computes(
    build: Callable[[], Network], dtype: str, count: int
) -> None:
    found, wanted = (trained(build, d, dtype) for d in (lanes(count), Cpu("numpy")))
    tolerance = 1e-10 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    assert (trained(build, lanes(count), dtype) == found).all()


@each_network
def test_deterministic_bits_are_the_same_for_any_number_of_threads(
    build: Callable[[], Network],
) -> None:
    found = []
    for threads in (1, 2, 3):
        device = lanes(threads)
        device.deterministic = True
        found.append(trained(build, device, "float32"))
    assert all((each == found[0]).all() for each in found)


@pytest.mark.skipif(emulation.COMPILER is None, reason="no g++")
@each_network
def test_the_emulated_list_is_numpys(build: Callable[[], Network]) -> None:
    found, wanted = (
        trained(build, device, "float64") for device in (emulation.Emulated(), Cpu("numpy"))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.gpu
@each_network
def test_the_list_on_a_gpu_is_numpys(gpu: Device, build: Callable[[], Network]) -> None:
    (x, y), found = table(), []
    for device in (gpu, Cpu("numpy")):
        feed = Feed(device.asarray(x), device.asarray(y))
        launches, store = lower(build(), feed, CONFIG, 13, device=device)
        launches.run(launches.steps)
        found.append(store.weights())
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-8, atol=1e-10, err_msg=name)


@each_network
@pytest.mark.parametrize("kernels", ["numpy", "native"])
def test_evaluation_is_the_graphs(build: Callable[[], Network], kernels: str) -> None:
    network, (x, y) = build(), table()
    device = Cpu("numpy") if kernels == "numpy" else lanes(2)
    store = engine.store(network, device, "float64")
    found, loss = engine.lower(network, Feed(x, y), store, 8, "evaluate").evaluate()
    assert loss == pytest.approx(float(network.graph.forward(x=x, target=y)), rel=1e-12)
    np.testing.assert_allclose(found, network.prediction.value, rtol=1e-11)


def test_parts_are_written_where_they_lie() -> None:
    """The waves and the rows of the table are never copied, plain columns once."""
    x, y = table()
    launches, _ = lower(whole_layer(), Feed(x, y), CONFIG, 8)
    names = [launch.name for launch in launches.launches]
    assert names.count("copy_columns") == 1
    forward = names[names.index("periodic_forward") : names.index("scale_forward")]
    assert forward == ["periodic_forward", "embedding_forward", "copy_columns"]
    launches, _ = lower(bins_beside_waves(), Feed(x, y), CONFIG, 8)
    names = [launch.name for launch in launches.launches]
    assert names.count("piecewise_forward") == names.count("copy_columns") == 1
    assert "piecewise_backward" not in names


@pytest.mark.parametrize("kernels", ["numpy", "native"])
def test_a_step_allocates_no_array(kernels: str) -> None:
    """But for NumPy's tiles, and the row numbers of the codes."""
    rows = 20_000
    x, y = table(rows)
    device = Cpu("numpy") if kernels == "numpy" else lanes(2)
    launches, _ = lower(whole_layer(), Feed(x, y), CONFIG, rows, device=device)
    peak = test_engine.peak_of_a_step(launches)
    assert peak < (4096 if kernels == "native" else 8 * x.itemsize * rows), f"{peak:,} bytes"


def branch(b: Builder) -> Node:
    h = b.dense(b.x, "dense", COLUMNS, 3)
    return b.join(h, b.graph.apply(gates.ReLU(), h))


def columns_of_a_layer(b: Builder) -> Node:
    return b.columns(0, 6, b.dense(b.x, "dense", COLUMNS, 9))


def columns_read_in_two_ways(b: Builder) -> Node:
    part = b.columns(0, 3)
    return b.join(part, b.graph.apply(gates.ReLU(), part))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (branch, "read 2 times"),
        (columns_read_in_two_ways, "read 2 times"),
        (columns_of_a_layer, "by some columns"),
    ],
)
def test_what_has_no_launch_is_an_error(make: Callable[[Builder], Node], reason: str) -> None:
    b, (x, y) = Builder(), table()
    network = b.network(make(b), 6)
    with pytest.raises(TypeError, match=reason):
        lower(network, Feed(x, y), CONFIG, ROWS)


def test_rows_one_below_the_other_have_no_launch() -> None:
    b, (x, y) = Builder(), table()
    network = b.network(b.join(b.columns(0, 3), b.columns(1, 4), axis=0), 3)
    with pytest.raises(TypeError, match="axis 0"):
        lower(network, Feed(x, y), CONFIG, ROWS)
