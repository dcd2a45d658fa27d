"""Launches that others do along the way: a bias and an activation behind a product, the dropout
behind an activation, or before its way back.

What the device refuses stays a launch of its own, and so does what the way back would want beside
the result of a product: a library writes that in a pass of its own. Looks at a list that is lowered
and planned; changes none of its memory.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from gpunet.device import Device, Epilogue, Turn
from gpunet.kernels.registry import Run
from gpunet.launches import Launch, Slot

EPILOGUES = {
    "identity_forward": "",
    "relu_forward": "relu",
    "relu_narrow_forward": "relu",
    "gelu_forward": "gelu",
}


def bound(launches: Sequence[Launch], device: Device) -> tuple[list[Run], list[Turn]]:
    """Every launch, bound, but for those that the one before them does; and when each runs."""
    once = {id(each): each for each in launches}.values()  # micro-batches repeat theirs
    users = Counter(slot for each in once for slot in set(each.slots))
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
            joined = None if then is None else _joined(each, then, users, device)
            calls.append(joined or each.bind(device, *each.step.arguments))
            turns.append(Turn(each.branch, waits))
            is_done = joined is not None
        made.append(len(calls) - 1)
    return calls, turns


def _joined(first: Launch, then: Launch, users: Mapping[Slot, int], device: Device) -> Run | None:
    """A launch and what follows it as one; None where they are two. `users`: how many launches have
    to do with a slot."""
    if device.kind != "cuda" or first.branch != then.branch:
        return None
    if first.name == "gemm" and then.name in EPILOGUES:
        return _with_epilogue(first, then, device)
    if first.name.endswith("_forward") and then.name == "dropout":
        return _dropped_value(first, then, users, device)
    if first.name == "dropout" and then.name.endswith("_backward"):
        return _dropped_gradient(first, then, device)
    return None


def _with_epilogue(product: Launch, then: Launch, device: Device) -> Run | None:
    """A product and what follows it, in place, or in memory that the product does not read."""
    z, bias, y = then.arguments[:3]
    if z is not product.writes[0] or not (y is z or then.follows):
        return None
    (a, b, _), flips = product.step.arguments, product.sizes[-1]
    epilogue = Epilogue(EPILOGUES[then.name], None if bias is None else bias.array)
    return device.fused_product(a, b, y.array, bool(flips & 1), bool(flips & 2), epilogue)


def _dropped_value(
    forward: Launch, dropout: Launch, users: Mapping[Slot, int], device: Device
) -> Run | None:
    """An activation and the dropout of its value, which is written only where others read it too.
    The result may not lie where the activation still reads."""
    *given, y, work = forward.arguments
    x, *mask, dropped = dropout.arguments
    read = [each.array for each in given if each is not None]
    if forward.dropped is None or x is not y:
        return None
    if any(device.xp.may_share_memory(each, dropped.array) for each in read):
        return None
    kept = y if users[y] > 2 else None
    both = replace(forward, arguments=(*given, kept, *mask, dropped, work))
    return forward.dropped(device, *both.step.arguments)


def _dropped_gradient(dropout: Launch, backward: Launch, device: Device) -> Run | None:
    """The dropout of a gradient and an activation's way back, all in place."""
    grad, *mask, dropped = dropout.arguments
    first, *others = backward.arguments
    if backward.dropped is None or not (grad is dropped is first and first in backward.writes):
        return None
    both = replace(backward, arguments=(grad, *mask, *others))
    return backward.dropped(device, *both.step.arguments)
