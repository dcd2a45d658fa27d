"""The script that compares a GPU with the CPU: it holds for what a format rounds, and can fail."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpunet.device.cpu import Cpu

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def agree(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    import agree

    chosen = [case for case in agree.cases() if case[0] in ("activation tanh", "loss huber")]
    monkeypatch.setattr(agree, "cases", lambda: chosen)
    yield agree
    sys.modules.pop("agree")


class Rounding(Cpu):
    """Operands of float32 products lose their last bits."""

    def __init__(self, bits: int) -> None:
        super().__init__("numpy", 1)
        self.bits = bits

    def product(self, a, b, out, flip_a=False, flip_b=False) -> Callable[[], None]:
        def rounded(array: np.ndarray) -> np.ndarray:
            half, mask = 1 << self.bits >> 1, -1 << self.bits & 0xFFFFFFFF
            words = np.ascontiguousarray(array).view(np.uint32)
            return ((words + np.uint32(half)) & np.uint32(mask)).view(np.float32)

        left, right = (a.T if flip_a else a), (b.T if flip_b else b)
        return lambda: np.dot(rounded(left), rounded(right), out=out)


def test_what_a_format_rounds_is_allowed_and_more_is_not(agree: Any) -> None:
    for precision, bits, holds in (("tf32", 13, True), ("tf32", 22, False), ("fp32", 16, False)):
        records = agree.compare(Rounding(bits), precision, 30)
        assert {each["case"] for each in records} == {"activation tanh", "loss huber"}
        assert all(each["holds"] is holds for each in records), (precision, bits)


def test_the_same_device_agrees_in_float64(agree: Any) -> None:
    assert all(each["worst"] == 0 for each in agree.compare(Cpu(), "fp64", 10))
