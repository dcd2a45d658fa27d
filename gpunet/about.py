"""What gpunet runs on: versions, devices, and what `--device auto` would choose and why."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gpunet import __version__
from gpunet.device import Device, cuda, resolve
from gpunet.device.cpu import Cpu
from gpunet.errors import Unavailable
from gpunet.kernels import native
from gpunet.sizes import shown

SCHEMA = "gpunet.info/1"
PACKAGES = ("numpy", "pyarrow", "safetensors", "typer", "rich", "cupy-cuda12x", "cupy-cuda13x")


def collect() -> dict[str, Any]:
    """All of it in plain values."""
    choice = resolve("auto")
    gpus, reason = _gpus()
    return {
        "schema": SCHEMA,
        "gpunet": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "cpu": Cpu().describe() | {"kernels": _kernels()},
        "gpus": gpus,
        "no_gpu_because": reason,
        "auto": {"device": choice.device.name, "reason": choice.reason + _limit(choice.device)},
    }


def environment(device: Device) -> dict[str, str]:
    """What a run's bits depend on, beside its data and settings: versions, BLAS, device."""
    found = {"gpunet": __version__, "numpy": version("numpy"), "device": device.name}
    if device.kind == "cpu":
        auto = _kernels().partition(" ")[0]
        found["kernels"] = auto if device.kernels == "auto" else device.kernels
    return {**found, **device.traits()}


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for reading."""
    cpu, auto = found["cpu"], found["auto"]
    packages = " · ".join(f"{name} {number}" for name, number in found["packages"].items())
    memory = f"{shown(cpu['memory_free'])} of {shown(cpu['memory_total'])} free"
    gpus = [
        (
            gpu["name"],
            f"{gpu['model']}, {shown(gpu['memory_free'])} of {shown(gpu['memory_total'])} free"
            f" · driver {gpu['driver']} · capability {gpu['compute_capability']}",
        )
        for gpu in found["gpus"]
    ]
    return [
        ("gpunet", f"{found['gpunet']} on Python {found['python']}, {found['system']}"),
        ("packages", packages),
        ("cpu", f"{cpu['cores']} cores · {memory} · {cpu['blas']}, {cpu['blas_threads']} threads"),
        ("kernels", cpu["kernels"]),
        *(gpus or [("gpu", found["no_gpu_because"])]),
        ("auto", f"{auto['device']}: {auto['reason']}"),
    ]


def _limit(device: Device) -> str:
    """What `auto` weighs once it knows the work."""
    return "" if device.kind == "cpu" else "; what the CPU does before it starts stays there"


def _kernels() -> str:
    """`native`, or why NumPy runs instead."""
    try:
        native.load()
    except Unavailable as reason:
        return f"numpy ({reason.message})"
    return "native"


def _gpus() -> tuple[list[dict[str, Any]], str | None]:
    try:
        return [cuda.Cuda(index).describe() for index in range(cuda.count())], None
    except Unavailable as reason:
        return [], reason.message


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
