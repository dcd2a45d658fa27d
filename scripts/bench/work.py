"""What is measured: networks, their data, first weights and orders of rows, on disk for every
process alike. Times nothing."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np

CLASSES, SIDE, ADAM_LR, LECTURE_LR = 10, 28, 1e-3, 1e-4
WIDTH, WIDE_LR, DECAY = 4096, 1e-4, 0.01
BYTES_A_BLOCK = 1 << 24


@dataclass(frozen=True)
class Work:
    """One row of the table: a network, its data and how it is trained.

    rows: those the data has; an epoch takes whole batches of them. passes: over the data, in one
    order, that count as one sample. precision: what products on CUDA round to, if it is said.
    """

    name: str
    data: str
    hidden: tuple[int, ...]
    activation: str = "relu"
    batch: int = 256
    rows: int = 60_000
    dtype: str = "float32"
    passes: int = 1
    precision: str = ""
    decay: float = 0.0

    @property
    def inputs(self) -> int:
        return {"images": SIDE * SIDE, "table": 64, "lecture": 1000, "wide": WIDTH}[self.data]

    @property
    def outputs(self) -> int:
        return {"images": CLASSES, "table": 1, "lecture": 10, "wide": WIDTH}[self.data]

    @property
    def loss(self) -> str:
        names = {"images": "softmax_cross_entropy", "lecture": "sum_squares"}
        return names.get(self.data, "mean_squared")

    @property
    def optimizer(self) -> str:
        if self.data == "lecture":
            return "sgd"
        return "adamw" if self.decay else "adam"

    @property
    def lr(self) -> float:
        return {"lecture": LECTURE_LR, "wide": WIDE_LR}.get(self.data, ADAM_LR)

    @property
    def bias(self) -> bool:
        return self.data != "lecture"

    @property
    def steps(self) -> int:
        """Updates in one sample."""
        return self.passes * (self.rows // self.batch)

    @property
    def used(self) -> int:
        """Rows of an epoch."""
        return self.rows // self.batch * self.batch

    @property
    def is_one_batch(self) -> bool:
        """Whether each step takes all rows, so that there is no order and nothing to gather."""
        return self.used == self.batch

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.inputs, *self.hidden, self.outputs)

    @property
    def title(self) -> str:
        widths = "-".join(map(str, self.sizes))
        made = f"{widths} {self.activation}, batch {self.batch:,}, {self.optimizer}"
        made = made if self.dtype == "float32" else f"{made}, {self.dtype}"
        return f"{made}, {self.precision}" if self.precision else made

    @property
    def parameters(self) -> int:
        return sum(n * m + m * self.bias for n, m in pairwise(self.sizes))

    @property
    def flops(self) -> int:
        """Operations of a step's products: the first layer has no gradient to hand on."""
        products = [2 * self.batch * n * m for n, m in pairwise(self.sizes)]
        return 3 * sum(products) - products[0]

    @property
    def nbytes(self) -> int:
        """What a step moves if no cache helps, in the work's own dtype: the batch is read; of each
        layer the result and its gradient are written once and read twice; weights are read twice,
        their gradient is written and read, they and the optimiser's vectors are read and written.
        """
        rows = self.inputs + self.outputs + 6 * sum(self.sizes[1:])
        vectors = 1 if self.optimizer == "sgd" else 3
        word = np.dtype(self.dtype).itemsize
        return word * (self.batch * rows + self.parameters * (4 + 2 * vectors))


LECTURE = Work("lecture", "lecture", (100,), "sigmoid", batch=64, rows=64, passes=500)
FIRST = Work("mlp-256", "images", (256, 128))
ROWS = (
    FIRST,
    Work("mlp-1024", "images", (1024, 1024)),
    Work("mlp-100", "images", (100,), "sigmoid", batch=64),
    LECTURE,
    Work("table-2m", "table", (128, 64), batch=1024, rows=2_000_000),
    replace(FIRST, name="batch-8192", batch=8192),
    Work("five-512", "images", (512,) * 5),
    replace(LECTURE, name="lecture-fp64", dtype="float64"),
)
TINY = Work("tiny", "images", (16,), batch=100, rows=2_000)
ON_CUDA = (
    replace(LECTURE, passes=2000, precision="tf32"),
    replace(FIRST, precision="tf32", decay=DECAY),
    replace(FIRST, name="mlp-1024", hidden=(1024, 1024), batch=1024, precision="tf32", decay=DECAY),
    *(
        Work(
            f"wide-{precision}",
            "wide",
            (WIDTH,) * 3,
            batch=4096,
            rows=8192,
            passes=25,
            precision=precision,
            decay=DECAY,
        )
        for precision in ("tf32", "bf16")
    ),
)
QUICK_ROWS = {"images": 16_384, "table": 100_000}
SWEEPS = {
    "rows": tuple(
        Work(f"rows-{n}", "table", (128, 64), batch=1024, rows=n)
        for n in (10_240, 40_960, 163_840, 655_360)
    ),
    "width": tuple(
        Work(f"width-{n}", "images", (n, n), rows=8_192) for n in (32, 128, 512, 1024, 2048)
    ),
    "batch": tuple(
        replace(FIRST, name=f"batch-{n}", batch=n, rows=16_384) for n in (16, 64, 256, 1024, 8192)
    ),
}


def shortened(work: Work) -> Work:
    """The same work on fewer rows; on a GPU, which waking takes as long as many steps, on all."""
    if work.precision:
        return replace(work, passes=min(work.passes, 1000))
    passes = min(work.passes, 200)
    return replace(work, rows=min(work.rows, QUICK_ROWS.get(work.data, work.rows)), passes=passes)


@dataclass(frozen=True)
class Given:
    """What a contestant is given: the work, and the folder and file names that hold its arrays."""

    work: Work
    folder: str
    data: str

    @classmethod
    def from_plain(cls, plain: dict) -> "Given":
        work = plain["work"] | {"hidden": tuple(plain["work"]["hidden"])}
        return cls(Work(**work), plain["folder"], plain["data"])

    def plain(self) -> dict:
        return asdict(self)

    @cached_property
    def x(self) -> np.ndarray:
        """(used, inputs), in its own dtype: uint8 for images."""
        return self._array("x")[: self.work.used]

    @cached_property
    def y(self) -> np.ndarray:
        """Class numbers int32 (used,), or numbers of the work's dtype (used, outputs)."""
        return self._array("y")[: self.work.used]

    @cached_property
    def scaling(self) -> tuple[float, float] | None:
        """(scale, shift) of standardised bytes: x * scale + shift."""
        path = self._path("scaling").with_suffix(".json")
        return tuple(json.loads(path.read_text())) if path.exists() else None

    def numbers(self) -> np.ndarray:
        """x in the work's dtype, standardised."""
        if self.scaling is None:
            return self.x
        scale, shift = np.asarray(self.scaling, self.work.dtype)
        found = np.multiply(self.x, scale, dtype=self.work.dtype)
        return np.add(found, shift, out=found)

    def weights(self) -> dict[str, np.ndarray]:
        """The first weights, by gpunet's names."""
        with np.load(Path(self.folder) / f"{self.work.name}.weights.npz") as found:
            return {name: found[name] for name in found.files}

    def layers(self) -> list[tuple[np.ndarray, ...]]:
        """The first weights by layer: (weight (in, out), bias (out,)), or the weight alone."""
        found, names = self.weights(), [f"hidden{i + 1}" for i in range(len(self.work.hidden))]
        parts = ("weight", "bias") if self.work.bias else ("weight",)
        return [tuple(found[f"{name}.{p}"] for p in parts) for name in (*names, "output")]

    def sample(self, order: np.ndarray) -> np.ndarray:
        """The rows of every step of a sample, (steps, batch), from the order of one pass."""
        shape = self.work.steps, self.work.batch
        if self.work.passes == 1:
            return order.reshape(shape)
        return np.broadcast_to(order, shape) if self.work.is_one_batch else np.resize(order, shape)

    def order(self, epoch: int) -> np.ndarray:
        """The order of rows in an epoch, int32 (used,)."""
        if self.work.is_one_batch:
            return np.arange(self.work.used, dtype=np.int32)
        return np.load(_order_path(self.folder, self.work.used, epoch))

    def _path(self, part: str) -> Path:
        return Path(self.folder) / f"{self.data}.{part}.npy"

    def _array(self, part: str) -> np.ndarray:
        return np.load(self._path(part))


def prepare(work: Work, folder: Path, images: Path | None, epochs: int) -> Given:
    """Put a work's arrays on disk, those that are not there yet."""
    given = Given(work, str(folder), f"{work.data}-{work.rows}-{work.dtype}")
    if not given._path("x").exists():
        write_data(given, images)
    write_weights(given)
    if not work.is_one_batch:
        write_orders(folder, work.used, range(epochs))
    return given


def write_data(given: Given, images: Path | None) -> None:
    work, rng = given.work, np.random.default_rng(0)
    if work.data == "images":
        x, y = _fashion(images) if images else _images(work.rows, rng)
        x, y = x[: work.rows], y[: work.rows]
        scale = 1 / float(x.std(dtype=np.float64))
        scaling = [scale, -float(x.mean()) * scale]
        given._path("scaling").with_suffix(".json").write_text(json.dumps(scaling))
    elif work.data == "table":
        x, y = _table(work.rows, work.inputs, rng)
    elif work.data == "wide":
        x = rng.standard_normal((work.rows, work.inputs), np.float32)
        y = np.roll(x, 1, axis=1) / 2
    else:
        x = rng.standard_normal((work.rows, work.inputs)).astype(work.dtype)
        y = rng.standard_normal((work.rows, work.outputs)).astype(work.dtype)
    np.save(given._path("x"), x)
    np.save(given._path("y"), y)


def write_weights(given: Given) -> None:
    from bench.ours import network

    weights = network(given.work).weights
    path = Path(given.folder) / f"{given.work.name}.weights.npz"
    np.savez(path, **{name: array.astype(given.work.dtype) for name, array in weights.items()})


def write_orders(folder: Path, rows: int, epochs: Sequence[int]) -> None:
    from gpunet.random import permutation

    for epoch in epochs:
        path = _order_path(str(folder), rows, epoch)
        if not path.exists():
            np.save(path, permutation(rows, 0, epoch=epoch))


def _order_path(folder: str, rows: int, epoch: int) -> Path:
    return Path(folder) / f"order-{rows}-{epoch}.npy"


def _fashion(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The training images and labels of a folder in MNIST's format, gzipped."""

    def read(name: str, header: int) -> np.ndarray:
        with gzip.open(folder / name) as file:
            return np.frombuffer(file.read(), np.uint8, offset=header)

    x = read("train-images-idx3-ubyte.gz", 16).reshape(-1, SIDE * SIDE)
    return x, read("train-labels-idx1-ubyte.gz", 8).astype(np.int32)


def _images(rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ten smooth pictures under noise; a fifth of the labels drawn at random, so that there is
    always something left to learn."""
    rough = rng.uniform(0, 255, (CLASSES, 7, 7))
    pictures = np.kron(rough, np.ones((1, 4, 4))).reshape(CLASSES, -1)
    y = rng.integers(0, CLASSES, rows).astype(np.int32)
    x = np.empty((rows, SIDE * SIDE), np.uint8)
    for rows_here in _blocks(rows, SIDE * SIDE):
        noisy = pictures[y[rows_here]] + rng.normal(0, 300, x[rows_here].shape)
        x[rows_here] = np.clip(noisy, 0, 255)
    drawn = rng.random(rows) < 0.2
    y[drawn] = rng.integers(0, CLASSES, drawn.sum())
    return x, y


def _table(rows: int, columns: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Standard normals, and a smooth function of them under noise, float32."""
    directions = rng.standard_normal((columns, 8)).astype(np.float32) / columns**0.5
    x, y = np.empty((rows, columns), np.float32), np.empty((rows, 1), np.float32)
    for part in _blocks(rows, columns):
        x[part] = rng.standard_normal(x[part].shape, np.float32)
        y[part] = np.sin(2 * (x[part] @ directions)).sum(axis=1, keepdims=True)
        y[part] += 0.1 * rng.standard_normal(y[part].shape, np.float32)
    return x, y


def _blocks(rows: int, columns: int) -> list[slice]:
    step = max(1, BYTES_A_BLOCK // (8 * columns))
    return [slice(low, min(low + step, rows)) for low in range(0, rows, step)]
