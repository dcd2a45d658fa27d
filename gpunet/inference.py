"""Inference: the raw predictions of networks for encoded rows, by launch lists.

Knows no labels and no files; what the predictions mean is predict.py's.
"""

from collections.abc import Sequence
from threading import local

import numpy as np

from gpunet import engine, loop
from gpunet.data import Dataset, Schema
from gpunet.data.windows import Windows
from gpunet.device import Device
from gpunet.launches import LaunchList, Store
from gpunet.model import Network

FEW_ROWS = 64
"""Lists for so many rows are kept: writing them down takes far longer than running them."""


class Inference(local):
    """Networks over one schema, run on whatever they weigh at the time.

    Each thread keeps the lists for the few rows that it asked for last, and with them a copy of the
    weights; rows of another number, or on a device with other settings, have new ones written.
    """

    def __init__(self, networks: Sequence[Network], schema: Schema) -> None:
        self.networks, self.schema = networks, schema
        self.made_for: tuple[object, ...] = ()
        self.rows: Windows | None = None
        self.kept: list[tuple[Store, LaunchList]] = []

    def raw(self, part: Dataset, device: Device) -> list[np.ndarray]:
        """The raw prediction (n, k) of each network for n > 0 encoded rows."""
        if part.rows > FEW_ROWS:
            return [self._alone(network, part, device) for network in self.networks]
        return self._again(part.x[:], device)

    def _alone(self, network: Network, part: Dataset, device: Device) -> np.ndarray:
        rows = loop.judged_rows(Dataset(part.x, None), device, _precision(network))
        _, launches = self._lowered(network, rows, device)
        try:
            with device.working(launches.largest_product):
                return launches.evaluate(rows.sweep(), rows.rows)[0]
        finally:
            rows.close()

    def _again(self, x: np.ndarray, device: Device) -> list[np.ndarray]:
        """By the lists that are kept, on rows and weights as they are now."""
        precisions = tuple(map(_precision, self.networks))
        wanted = (x.shape, x.dtype, precisions, device.settings)
        if self.made_for != wanted:
            self.made_for = ()
            self.rows = loop.judged_rows(Dataset(x.copy(), None), device, precisions[0])
            self.kept = [self._lowered(network, self.rows, device) for network in self.networks]
            self.made_for = wanted
        assert self.rows is not None
        self.rows.x[...] = device.asarray(x)
        for network, (store, _) in zip(self.networks, self.kept, strict=True):
            store.load(network.weights)
        with device.working(max(launches.largest_product for _, launches in self.kept)):
            return [launches.evaluate()[0] for _, launches in self.kept]

    def _lowered(self, network: Network, rows: Windows, device: Device) -> tuple[Store, LaunchList]:
        given, store = (
            loop.feed(rows, self.schema, device),
            engine.store(network, device, _precision(network)),
        )
        return store, engine.lower(network, given, store, rows.batch, "evaluate")


def _precision(network: Network) -> str:
    """float64 where any of its weights is."""
    is_double = any(array.dtype == np.float64 for array in network.weights.values())
    return "float64" if is_double else "float32"
