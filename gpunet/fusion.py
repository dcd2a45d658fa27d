"""Launches that a device's products do along the way: a bias and an activation behind a product,
an activation's gradient and its column sums. What the device refuses stays a launch of its own.

Looks at a list that is lowered and planned; changes none of its memory.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gpunet.device import Array, Device, Epilogue
from gpunet.kernels.registry import Run

if TYPE_CHECKING:
    from gpunet.engine import Launch, Slot

FORWARD = {"identity_forward": "", "relu_forward": "relu", "gelu_forward": "gelu"}
BACKWARD = {"relu_backward": "relu", "gelu_backward": "gelu"}


def bound(launches: "Sequence[Launch]", device: Device) -> list[Run]:
    """Every launch, bound, but for those that a product before them does."""
    work = _Fusion(launches, device)
    for i, (first, then) in enumerate(pairwise(launches if device.kind == "cuda" else ())):
        if first.name == "gemm" and then.name in FORWARD and then.arguments[0] is first.writes[0]:
            work.forward(i)
    return work.calls()


class _Fusion:
    """Which products do more, by their place in the list; and which launches are done then."""

    def __init__(self, launches: "Sequence[Launch]", device: Device) -> None:
        self.launches, self.device = list(launches), device
        self.products: dict[int, Run] = {}
        self.done: set[int] = set()

    def calls(self) -> list[Run]:
        return [
            self.products[i] if i in self.products else each.bind(self.device, *each.step.arguments)
            for i, each in enumerate(self.launches)
            if i not in self.done
        ]

    def forward(self, i: int) -> None:
        """Let product i do the bias and the activation behind it, and product j on the way back
        the activation's slope, where there is one."""
        act, (z, bias, y) = FORWARD[self.launches[i + 1].name], self.launches[i + 1].arguments[:3]
        if y is not z and (act != "gelu" or self._is_read_from(i, y)):
            return
        j = self._way_back(act, y)
        if y is not z:
            self._keep_input(i, j, Epilogue(act, _array(bias), z.array))
        elif not (j is not None and act == "relu" and self._keep_mask(i, j, bias)):
            self._try(i, Epilogue(act, _array(bias)))

    def _keep_input(self, i: int, j: int | None, then: Epilogue) -> None:
        """z then has the bias in it."""
        if self._try(i, then):
            for k, each in enumerate(self.launches):
                if each.name == "gelu_backward" and each.arguments[1].array is then.aux:
                    arguments = (*each.arguments[:2], None, *each.arguments[3:])
                    self.launches[k] = replace(each, arguments=arguments)
            if j is not None:
                self._try_back(j, then.act, then.aux)

    def _keep_mask(self, i: int, j: int, bias: "Slot | None") -> bool:
        """Both or none: neither is of use without the other."""
        mask = self.device.mask(self.launches[i].writes[0].shape)  # type: ignore[arg-type]
        if not self._try_back(j, "relu", mask):
            return False
        if self._try(i, Epilogue("relu", _array(bias), mask)):
            return True
        del self.products[j]
        self.done.remove(j + 1)
        return False

    def _way_back(self, act: str, y: "Slot") -> int | None:
        """The product whose result the gradient of the activation with value y is made of."""
        for j, (first, then) in enumerate(pairwise(self.launches)):
            if first.name == "gemm" and BACKWARD.get(then.name) == act:
                grad, _, _, value, dz = then.arguments[:5]
                if value is y and grad is first.writes[0] is dz:
                    return j
        return None

    def _is_read_from(self, i: int, y: "Slot") -> bool:
        """Whether product i reads memory that y gets only after it."""
        reads = self.launches[i].reads
        return any(self.device.xp.may_share_memory(y.array, slot.array) for slot in reads)

    def _try(self, i: int, then: Epilogue) -> bool:
        return self._bind(i, self.launches[i + 1].arguments[2], then)

    def _try_back(self, j: int, act: str, aux: Array) -> bool:
        dz, dbias = self.launches[j + 1].arguments[4:6]
        return self._bind(j, dz, Epilogue(act, _array(dbias), aux, is_slope=True))

    def _bind(self, i: int, out: "Slot", then: Epilogue) -> bool:
        a, b = self.launches[i].arguments[:2]
        flips = self.launches[i].sizes[-1]
        given = (a.array, b.array, out.array, bool(flips & 1), bool(flips & 2))
        call = self.device.fused_product(*given, then)
        if call is not None:
            self.products[i] = call
            self.done.add(i + 1)
        return call is not None


def _array(slot: Any) -> Array:
    return None if slot is None else slot.array
