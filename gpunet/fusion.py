"""Launches that a device's products do along the way: a bias and an activation behind a product.

What the device refuses stays a launch of its own, and so does what the way back would want beside
the result: a library writes that in a pass of its own. Looks at a list that is lowered and planned;
changes none of its memory.
"""

from collections.abc import Sequence
from itertools import pairwise

from gpunet.device import Device, Epilogue, Turn
from gpunet.kernels.registry import Run
from gpunet.launches import Launch

EPILOGUES = {"identity_forward": "", "relu_forward": "relu", "gelu_forward": "gelu"}
NARROW = "relu_narrow_forward"
"""Its result is another array; what the product gives is then kept nowhere."""


def bound(launches: Sequence[Launch], device: Device) -> tuple[list[Run], list[Turn]]:
    """Every launch, bound, but for those that a product before them does; and when each runs."""
    calls: list[Run] = []
    turns: list[Turn] = []
    made: list[int] = []  # the place of each launch's call
    is_done = False
    for each, then in pairwise([*launches, None]):
        assert each is not None
        waits = made[-each.waits] if each.waits else -1
        if is_done:
            turns[-1] = Turn(each.branch, max(waits, turns[-1].waits))
            is_done = False
        else:
            joined = None if then is None else _joined(each, then, device)
            calls.append(joined or each.bind(device, *each.step.arguments))
            turns.append(Turn(each.branch, waits))
            is_done = joined is not None
        made.append(len(calls) - 1)
    return calls, turns


def _joined(product: Launch, then: Launch, device: Device) -> Run | None:
    """A product and what follows it in place; None where they are two launches."""
    if device.kind != "cuda" or product.name != "gemm" or then.name not in (*EPILOGUES, NARROW):
        return None
    if then.branch != product.branch:
        return None
    z, bias, y = then.arguments[:3]
    if z is not product.writes[0] or (y is not z and then.name != NARROW):
        return None
    (a, b, _), flips = product.step.arguments, product.sizes[-1]
    act = EPILOGUES.get(then.name, "relu")
    epilogue = Epilogue(act, None if bias is None else bias.array)
    return device.fused_product(a, b, y.array, bool(flips & 1), bool(flips & 2), epilogue)
