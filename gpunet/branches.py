"""Which launches of a list may run beside the others, on a second branch, and what each waits for.

Looks at the memory that launches read and write. Two branches, no more: a product fills a good part
of a GPU.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

from gpunet.device import Array
from gpunet.launches import Launch, Slot

OPEN = 3
"""Launches beside the main branch, at most, that it has not waited for, of those that have to do
with memory that is used again: it is kept for them until then."""
Memory = dict[Slot, frozenset[Slot | int]]
"""What each slot consists of: itself, or, where it has an array, the pieces into which memory falls
at the ends of all arrays."""
Conflict = Callable[[int, int], bool]
"""Whether a launch, by its place, may not overtake an earlier one."""


def divided(
    launches: Sequence[Launch], cuts: Sequence[int], address: Callable[[Array], int]
) -> list[Launch]:
    """The same launches, each with its branch and with what it waits for.

    `cuts` are the ends of parts of the list: the branches part and join within each, so that a part
    may be repeated. Slots without an array get memory that they share with no other slot.
    """
    memory, found = _memory(launches, address), []
    for start, stop in pairwise(sorted({0, *cuts, len(launches)})):
        part = launches[start:stop]
        conflict = _conflicts(part, memory)
        branches = _branches(len(part), conflict)
        waits = _waits(branches, [_holds_memory(each) for each in part], conflict)
        for each, branch, distance in zip(part, branches, waits):
            found.append(replace(each, branch=branch, waits=distance))
    return found


def _memory(launches: Sequence[Launch], address: Callable[[Array], int]) -> Memory:
    slots = {slot for launch in launches for slot in launch.slots}
    places = {slot: address(slot.array) for slot in slots if slot.array is not None}
    ends = sorted({end for slot, at in places.items() for end in (at, at + slot.nbytes)})

    def pieces(slot: Slot) -> frozenset[Slot | int]:
        if slot not in places:
            return frozenset((slot,))
        at = places[slot]
        return frozenset(range(bisect_left(ends, at), bisect_left(ends, at + slot.nbytes)))

    return {slot: pieces(slot) for slot in slots}


def _conflicts(launches: Sequence[Launch], memory: Memory) -> Conflict:
    """Two launches conflict where one writes what the other reads or writes."""

    def union(slots: Sequence[Slot]) -> frozenset[Slot | int]:
        return frozenset[Slot | int]().union(*(memory[slot] for slot in slots))

    touched = [union(each.slots) for each in launches]
    written = [union(each.writes) for each in launches]

    def conflict(i: int, j: int) -> bool:
        return not (written[i].isdisjoint(touched[j]) and touched[i].isdisjoint(written[j]))

    return conflict


def _branches(count: int, conflict: Conflict) -> list[int]:
    """0 for the main branch, 1 for the one beside it, where a launch goes that would hold up the
    next one on the main branch, which that branch waits for sooner. The ends are on the main
    branch: the other one leaves it behind the first, and is back before the last."""
    found, needed, sooner = [0] * count, [count] * count, count
    for i in reversed(range(1, count - 1)):
        waiting = (j for j in range(i + 1, count) if conflict(i, j))
        needed[i] = min((needed[j] if found[j] else j for j in waiting), default=count)
        if needed[i] > sooner:
            found[i] = 1
        else:
            sooner = needed[i]
    return found


def _holds_memory(launch: Launch) -> bool:
    """Whether it has to do with slots of the arena, but for its scratch."""
    slots = launch.slots[:-1] if launch.has_work else launch.slots
    return any(slot.array is None for slot in slots)


def _waits(branches: Sequence[int], holds: Sequence[bool], conflict: Conflict) -> list[int]:
    """How many places before each launch the one of the other branch is that it waits for: the
    latest that it conflicts with, 0 where its branch has waited for that one already. The main
    branch waits for all but the last few of the other that hold memory."""
    found, waited, last = [], [-1, -1], len(branches) - 1
    for i, own in enumerate(branches):
        others = [j for j in range(waited[own] + 1, i) if branches[j] != own]
        holding = [j for j in others if holds[j]]
        due = set() if own else set(others if i == last else holding[:-OPEN])
        held = [j for j in others if j in due or conflict(j, i)]
        if own and waited[own] < 0:
            held = [0, *held]
        if held:
            waited[own] = held[-1]
        found.append(i - held[-1] if held else 0)
    return found
