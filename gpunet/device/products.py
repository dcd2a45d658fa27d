"""Products of arrays on a GPU, put to cuBLASLt: shapes, dtypes and epilogues in its own words."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gpunet.device import cublaslt
from gpunet.device.base import Array, Epilogue, Run

ACTS = {"": 0, "relu": cublaslt.RELU, "gelu": cublaslt.GELU}
SLOPES = {"relu": cublaslt.DRELU, "gelu": cublaslt.DGELU}


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
        if self.is_fixed and then.is_slope:
            raise cublaslt.Refused("the order of an epilogue's sums is not documented")
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
            epilogue=_bits(then),
            fixed=self.is_fixed,
        )
        arrays = {"a": a, "b": b, "out": out, "bias": then.bias, "aux": then.aux}
        at = {name: self.address(each) for name, each in arrays.items() if each is not None}
        stride = _stride(then, out)
        pointers = replace(cublaslt.Pointers(**at), aux_stride=stride)
        return self.blas.bind(product, pointers, owners=arrays)


def _bits(then: Epilogue) -> int:
    if then.is_slope:
        return SLOPES[then.act] | (0 if then.bias is None else cublaslt.BIAS_GRADIENT)
    kept = 0 if then.aux is None else cublaslt.AUX
    return ACTS[then.act] | (0 if then.bias is None else cublaslt.BIAS) | kept


def _stride(then: Epilogue, out: Array) -> int:
    """Elements of a row of aux; of a mask its bits."""
    if then.aux is None:
        return 0
    if then.act == "relu":
        return 8 * int(then.aux.shape[1])
    if out.shape[1] % cublaslt.AUX_COLUMNS:
        raise cublaslt.Refused(f"rows of {out.shape[1]} elements are not kept for the way back")
    return int(out.shape[1])
