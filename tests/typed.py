"""A user's script, which a type checker reads and nobody runs: what is wrong in it is marked so,
and a mark on what is right would be an error as well."""

from pathlib import Path
from typing import Any

import numpy as np

import gpunet
from gpunet import Gate, Model, Node
from gpunet.errors import GpunetError


class Square(gpunet.Gate):
    """z = x²; dx = dz * 2 x."""

    saves = ("inputs",)

    def _forward(self, xp: Any, out: Any, x: Any) -> None:
        xp.multiply(x, x, out=out)

    def _backward(self, xp: Any, grad: Any, dx: Any) -> None:
        xp.multiply(grad, 2 * self.inputs[0], out=dx)


def learn(path: Path) -> Model:
    arrays = np.ones((9, 2)), np.ones(9)
    gpunet.train(path, target="price", epochs=50, hidden=(8,), out=Path("runs/a"))
    model = gpunet.train({"a": [1.0], "y": [2.0]}, "y", on_report=lambda r: print(r.loss + 1))
    several = gpunet.repeat("penguins", seeds=3)
    best = gpunet.tune("penguins", out="studies/a", on_trial=lambda trial: print(trial.number + 1))
    found = gpunet.compare("runs/a", "runs/b", arrays, device="cuda:1")
    print(found.rows + 1, several.models[0].predict(path), several.mean, best.threshold + 1)
    print([each.epoch + 1 for each in gpunet.verify("runs/a", epochs=[1, 2])])
    labels: np.ndarray = model.predict(arrays[0], proba=True)
    metrics: dict[str, float | None] = model.evaluate(arrays)
    print(labels, metrics["rmse"])
    gpunet.load("runs/a").save("m.safetensors")
    return gpunet.resume("runs/a", epochs="+5")


def circuits() -> float:
    circuit = gpunet.parse("w0*x0")
    gradients = circuit.backward() if circuit.forward(w0=2, x0=-1) else {}
    graph = gpunet.Graph()
    x, w = graph.input("x"), graph.parameter("w", [1.0, 2.0])
    node: Node = graph.apply(gpunet.Multiply(), x, w, name="z")
    graph.output = graph.apply(gpunet.Sum(), graph.apply(Square(), node))
    print(gradients["w0"], [r.error + 1 for r in gpunet.check_graph(graph, {"x": 3.0})])
    gates: list[Gate] = [gpunet.Exp(), gpunet.Huber(2.0), gpunet.Dropout(0.5), gpunet.Pinball()]
    return gpunet.check_gate(gates[0], [np.ones(3)])


def wrong() -> None:
    print(gpunet.nonsense)  # type: ignore[attr-defined]
    gpunet.load(3)  # type: ignore[arg-type]
    gpunet.train("penguins", out=3)  # type: ignore[arg-type]
    gpunet.train("penguins").predict()  # type: ignore[call-arg]
    gpunet.Huber("a")  # type: ignore[arg-type]
    gpunet.Graph().apply(gpunet.Exp)  # type: ignore[arg-type]
    gpunet.tune("penguins")  # type: ignore[call-arg]
    print(gpunet.verify("runs/a")[0].nonsense)  # type: ignore[attr-defined]


try:
    learn(Path("a.csv"))
except (GpunetError, gpunet.errors.UsageError) as error:
    print(error.hint, gpunet.__version__)
