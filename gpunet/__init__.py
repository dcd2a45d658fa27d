"""gpunet: circuits of gates, from the chain rule to a trained network, on CUDA or any CPU.

Public names are loaded when they are first used, so that `import gpunet` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "train": "job",
    "repeat": "repeats",
    "resume": "rerun",
    "tune": "tuning",
    "verify": "rerun",
    "compare": "comparison",
    "importance": "permutation",
    "slices": "slicing",
    "load": "predict",
    "Model": "predict",
    "Graph": "graph",
    "Gate": "graph",
    "Node": "graph",
    "parse": "formula",
    "check_gate": "gradcheck",
    "check_graph": "gradcheck",
}
_GATES = """
    Add Subtract Multiply Divide Negate Power Exp Log Sqrt Abs Maximum Minimum Sin Cos
    Softplus Identity Sigmoid Tanh ReLU SELU GELU SiLU Mish Parametric MatMul Sum Mean Max
    Reshape Transpose Broadcast Take Concatenate Columns Periodic Piecewise Embedding Dropout
    LayerNorm BatchNorm SoftmaxCrossEntropy SigmoidCrossEntropy SumSquares MeanSquared
    MeanAbsolute Huber Pinball Poisson
""".split()
_HOMES.update(dict.fromkeys(_GATES, "gates"))

__all__ = ["__version__", "errors", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("gpunet.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'gpunet' has no attribute {name!r}")
    return getattr(import_module(f"gpunet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
