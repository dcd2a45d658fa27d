"""Every fused kernel: a NumPy reference, a CUDA source, one table of both."""

from gpunet.kernels import (
    activation,
    columns,
    dropout,
    loss,
    narrow,
    norm,
    rows,
    scale,
    slots,
    update,
)
from gpunet.kernels.registry import REGISTRY, Kernel, register

__all__ = [
    "REGISTRY",
    "Kernel",
    "activation",
    "columns",
    "dropout",
    "loss",
    "narrow",
    "norm",
    "register",
    "rows",
    "scale",
    "slots",
    "update",
]
