"""Takes launch lists of plain layers, in the form that suits them; for all others, and where a step
is large enough to be worth a launch of each product, there is the list, which is the reference.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from gpunet.device import Array, Device
from gpunet.errors import kind_and_line
from gpunet.kernels.loss import LOSSES
from gpunet.kernels.registry import source_text
from gpunet.kernels.slots import THREADS
from gpunet.launches import Launch, Store
from gpunet.persistent.plain import Network, recognised
from gpunet.persistent.resident import Resident, divided
from gpunet.persistent.tiled import Tiled

LEAST_STEPS = 50_000
"""It is compiled for the network's sizes, which takes as long as so many of its steps save."""
WIDEST_LOAD = 16
"""Bytes."""
LEAST_BLOCKS = 2
"""One works, one keeps the books."""


def bound(
    launches: Sequence[Launch],
    store: Store,
    otherwise: Callable[[int], None] | None,
    planned: int | None = None,
) -> "Persistent | None":
    """The list in one launch, where it is of such a network, the device has room for it and many
    steps are planned, or any number. Steps that a run is given later may not count: it adds in
    another order than the list, and the first ones are made again as they were. Should the launch
    fail, it goes on as `otherwise` does."""
    most, room = store.device.room()
    network = recognised(launches) if most >= LEAST_BLOCKS else None
    if network is None or (planned is not None and planned < LEAST_STEPS):
        return None
    dtype = str(store.values.dtype)
    if not (_is_aligned(network, store.device) and network.y.dtype == network.target(dtype)):
        return None
    is_tf32 = store.device.precision == "tf32" and dtype == "float32"
    form = divided(network, dtype, most, room) or Tiled(network, dtype, is_tf32, most, room)
    if isinstance(form, Tiled) and not form.is_apt:
        return None
    try:
        return Persistent(form, launches, store, otherwise)
    except Exception as reason:
        if otherwise is None:
            raise
        _warn(reason)
        return None


class Persistent:
    """persistent(steps): so many steps in one launch."""

    def __init__(
        self,
        form: Resident | Tiled,
        launches: Sequence[Launch],
        store: Store,
        otherwise: Callable[[int], None] | None,
    ) -> None:
        device, network, dtype = store.device, form.network, form.dtype
        self.device, self.form, self.otherwise, self.reason = device, form, otherwise, ""
        source = source_text(form.source, dtype, generated=form.definitions(store))
        self.open = device.launcher(source, "persistent_open")
        self.train = device.meeting(source, "persistent_train", form.shared_bytes)
        signs = device.zeros((form.signs,), np.uint32)
        work = device.zeros((form.work,), dtype)
        data = (network.x, network.y, network.scale, network.shift, network.order)
        state = (*store.state, None, None)[:2]
        arrays = (*data, store.values, *state, *_paces(network, store), *_scalars(launches))
        given = (*arrays, work, signs)
        self.pointers = tuple(np.uint64(0) if each is None else each for each in given)
        self.entries = np.int64(len(launches[0].arguments[2]))

    def __str__(self) -> str:
        return str(self.otherwise) if self.reason else "CUDA, many steps a launch"

    def __call__(self, steps: int) -> None:
        while steps and not self.reason:
            some = min(steps, self.form.most_steps)
            try:
                self._launch(some)
            except Exception as reason:
                self._give_up(reason)
            else:
                steps -= some
        if steps:
            assert self.otherwise is not None
            self.otherwise(steps)

    def _launch(self, steps: int) -> None:
        assert self.open is not None
        assert self.train is not None
        form, block = self.form, (THREADS,)
        given = (*self.pointers, np.int64(steps), self.entries)
        with self.device.working(0):
            self.open((form.opening,), block, 0, given)
            self.train((form.blocks,), block, form.shared_bytes, given)

    def _give_up(self, reason: Exception) -> None:
        if self.otherwise is None:
            raise reason
        self.reason = _warn(reason)


def _warn(reason: Exception) -> str:
    """Why there is no launch of many steps; it is shown, too."""
    why = kind_and_line(reason)
    message = f"no launch of many steps, but one of each kernel: {why}"
    warnings.warn(message, RuntimeWarning, stacklevel=5)
    return why


def _is_aligned(network: Network, device: Device) -> bool:
    """Whether rows of inputs in fours can be loaded by fours: a view of other data may begin
    anywhere."""
    width = min(4 * network.x.dtype.itemsize, WIDEST_LOAD)
    return network.inputs % 4 > 0 or device.address(network.x) % width == 0


def _paces(network: Network, store: Store) -> tuple[Array, Array]:
    """Shares of the learning rate and of the decay: of each layer's weight, and of its bias."""
    starts, rates, decays = (
        store.device.to_host(each) for each in (store.starts, store.rates, store.decays)
    )
    names = [name for layer in network.layers for name in (layer.weight, layer.bias)]
    places = [0 if name is None else store.views[name][0].start for name in names]
    segments = np.searchsorted(starts[:-1], places, "right") - 1
    return tuple(store.device.asarray(each[segments], np.float64) for each in (rates, decays))


def _scalars(launches: Sequence[Launch]) -> tuple[Array, ...]:
    """hyper, schedule, clock, the loss's parameter, totals."""
    clock, hyper, table = (slot.array for slot in launches[0].arguments[:3])
    (judge,) = (each.arguments for each in launches if each.name in LOSSES)
    return hyper, table, clock, judge[3].array, judge[7].array
