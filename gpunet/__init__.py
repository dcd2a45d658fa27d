"""gpunet: circuits of gates, from the chain rule to a trained network, on CUDA or any CPU.

Public names are loaded when they are first used, so that `import gpunet` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `as` says that a name is public
    # fmt: off
    # isort: off
    from gpunet import errors as errors
    from gpunet.job import train as train
    from gpunet.repeats import repeat as repeat
    from gpunet.rerun import resume as resume, verify as verify
    from gpunet.tuning import tune as tune
    from gpunet.comparison import compare as compare
    from gpunet.permutation import importance as importance
    from gpunet.slicing import slices as slices
    from gpunet.predict import load as load, Model as Model
    from gpunet.graph import Graph as Graph, Gate as Gate, Node as Node
    from gpunet.formula import parse as parse
    from gpunet.gradcheck import check_gate as check_gate, check_graph as check_graph
    from gpunet.gates import (
        Add as Add, Subtract as Subtract, Multiply as Multiply, Divide as Divide, Negate as Negate,
        Power as Power, Exp as Exp, Log as Log, Sqrt as Sqrt, Abs as Abs, Maximum as Maximum,
        Minimum as Minimum, Sin as Sin, Cos as Cos, Softplus as Softplus, Identity as Identity,
        Sigmoid as Sigmoid, Tanh as Tanh, ReLU as ReLU, SELU as SELU, GELU as GELU, SiLU as SiLU,
        Mish as Mish, Parametric as Parametric, MatMul as MatMul, Sum as Sum, Mean as Mean,
        Max as Max, Reshape as Reshape, Transpose as Transpose, Broadcast as Broadcast,
        Take as Take, Concatenate as Concatenate, Columns as Columns, Periodic as Periodic,
        Piecewise as Piecewise, Embedding as Embedding, Dropout as Dropout, LayerNorm as LayerNorm,
        BatchNorm as BatchNorm, SoftmaxCrossEntropy as SoftmaxCrossEntropy,
        SigmoidCrossEntropy as SigmoidCrossEntropy, SumSquares as SumSquares,
        MeanSquared as MeanSquared, MeanAbsolute as MeanAbsolute, Huber as Huber,
        Pinball as Pinball, Poisson as Poisson,
    )
    # isort: on
    # fmt: on

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


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "errors":
            return import_module("gpunet.errors")
        if name not in _HOMES:
            raise AttributeError(f"module 'gpunet' has no attribute {name!r}")
        return getattr(import_module(f"gpunet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
