"""CUDA GPUs through CuPy: the only file that imports CuPy. Refuses to fall back to the CPU."""

from functools import cache
from typing import Any

from gpunet.device.base import Array, Device, Launcher, Memory
from gpunet.errors import Unavailable

NO_MEMORY = 2
"""The status of the runtime and of the driver alike."""


def _import_cupy() -> Any:
    try:
        import cupy
    except Exception as reason:
        message = f"no CuPy: {type(reason).__name__}: {_first_line(reason)}"
        hint = 'install it with: pip install "gpunet[cuda13]" (or [cuda12]), or use --device cpu'
        raise Unavailable(message, hint) from reason
    return cupy


def count() -> int:
    """The number of CUDA devices that CuPy sees; Unavailable, with its reason, when none."""
    cupy = _import_cupy()
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except Exception as reason:
        raise Unavailable(f"no CUDA: {_first_line(reason)}", "use --device cpu") from reason
    if found == 0:
        raise Unavailable("no CUDA device is visible", "check CUDA_VISIBLE_DEVICES")
    return int(found)


class Cuda(Device):
    """GPU number `index` of those visible."""

    kind = "cuda"

    def __init__(self, index: int = 0) -> None:
        found = count()
        if not 0 <= index < found:
            raise Unavailable(f"no CUDA device {index}: {found} visible", "see gpunet info")
        self.xp = _import_cupy()
        self.index = index
        self.name = f"cuda:{index}"
        self._device = self.xp.cuda.Device(index)
        self._device.use()

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        with self._device:
            if hasattr(values, "__dlpack__") and not hasattr(values, "__array__"):
                values = self.xp.from_dlpack(values)
            return self.xp.asarray(values, dtype)

    def to_host(self, array: Array) -> Any:
        return self.xp.asnumpy(array)

    def synchronize(self) -> None:
        self._device.synchronize()

    def memory(self) -> Memory:
        with self._device:
            free, total = self.xp.cuda.runtime.memGetInfo()
        pool = self.xp.get_default_memory_pool()
        return Memory(total, free + pool.free_bytes(), pool.used_bytes())

    def shortage(self, fault: BaseException) -> int | None:
        cuda = self.xp.cuda
        if isinstance(fault, cuda.memory.OutOfMemoryError):
            return int(getattr(fault, "_size", 0))
        is_ours = isinstance(fault, (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError))
        is_memory = is_ours and getattr(fault, "status", 0) == NO_MEMORY
        return 0 if is_memory else super().shortage(fault)

    def describe(self) -> dict[str, Any]:
        memory, runtime = self.memory(), self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        return {
            "name": self.name,
            "model": properties["name"].decode(),
            "compute_capability": f"{properties['major']}.{properties['minor']}",
            "memory_total": memory.total,
            "memory_free": memory.free,
            "driver": _version(runtime.driverGetVersion()),
            "runtime": _version(runtime.runtimeGetVersion()),
            "cupy": self.xp.__version__,
        }

    def traits(self) -> dict[str, str]:
        found = self.describe()
        return {name: found[name] for name in ("model", "driver", "runtime", "cupy")}

    def set_tf32(self, allowed: bool) -> None:
        from cupy._core import _routines_linalg, set_compute_type

        name = "COMPUTE_TYPE_TF32" if allowed else "COMPUTE_TYPE_DEFAULT"
        set_compute_type(self.xp.float32, getattr(_routines_linalg, name))

    def launcher(self, source: str, entry: str) -> Launcher:
        function = _module(self.index, source).get_function(entry)

        def launch(grid: Any, block: Any, shared_bytes: int, arguments: Any) -> None:
            function(grid, block, tuple(arguments), shared_mem=shared_bytes)

        return launch


@cache
def _module(index: int, source: str) -> Any:
    return _import_cupy().RawModule(code=source, options=("-std=c++17",))


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(reason: BaseException) -> str:
    return (str(reason).strip() or type(reason).__name__).splitlines()[0]
