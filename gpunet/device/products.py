"""Products of arrays on a GPU, put to cuBLASLt: shapes, dtypes and epilogues in its own words."""

from collections.abc import Callable
from dataclasses import dataclass

from gpunet.device import cublaslt
from gpunet.device.base import Array, Epilogue, Run

ACTS = {"": 0, "relu": cublaslt.RELU, "gelu": cublaslt.GELU}


@dataclass(frozen=True)
class Products:
    """Binds products to a library on a stream. `address` is that of an array; `is_tf32` says what
    float32 operands round to; `is_fixed` that no sum is split."""

    blas: cublaslt.Blas
    address: Callable[[Array], int]
    is_tf32: bool
    is_fixed: bool

    def bind(
        self,
        a: Array,
        b: Array,
        out: Array,
        flip_a: bool,
        flip_b: bool,
        epilogue: Epilogue | None = None,
    ) -> Run:
        """A function of no arguments that launches the product. Raises cublaslt.Refused."""
        then = epilogue or Epilogue()
        m, n = out.shape
        product = cublaslt.Product(
            m,
            n,
            a.shape[0 if flip_a else 1],
            flip_a,
            flip_b,
            operands=str(a.dtype),
            out=str(out.dtype),
            tf32=self.is_tf32 and a.dtype == "float32",
            epilogue=ACTS[then.act] | (0 if then.bias is None else cublaslt.BIAS),
            fixed=self.is_fixed,
        )
        arrays = {"a": a, "b": b, "out": out, "bias": then.bias}
        at = {name: self.address(each) for name, each in arrays.items() if each is not None}
        return self.blas.bind(product, cublaslt.Pointers(**at), owners=arrays)
