"""PyTorch as a contestant: eager or compiled, the data in memory, the fused update."""

import time

import numpy as np
import torch
from bench.work import Given
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class PyTorch:
    draws_its_order = False

    def __init__(self, given: Given, threads: int, where: str, compiled: bool = False) -> None:
        self.work = work = given.work
        torch.set_num_threads(threads)
        if where != "cpu":
            torch.set_float32_matmul_precision("high")
        self.x, self.y = (torch.from_numpy(a).to(where) for a in (given.numbers(), given.y))
        if work.data == "images":
            self.y = self.y.long()
        self.net = _network(given).to(where)
        kind = torch.optim.SGD if work.optimizer == "sgd" else torch.optim.Adam
        self.optimizer = kind(self.net.parameters(), lr=work.lr, fused=True)
        self.compile_seconds = 0.0
        if compiled:
            self.compile_seconds = self._compile("default" if where == "cpu" else "reduce-overhead")

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = self.net(x)
        if self.work.data == "images":
            return nn.functional.cross_entropy(found, y)
        reduction = "sum" if self.work.loss == "sum_squares" else "mean"
        return nn.functional.mse_loss(found, y, reduction=reduction)

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a step."""
        rows = torch.from_numpy(order).to(self.x.device)
        total = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for step in range(self.work.steps):
            x, y = self.x, self.y
            if not self.work.is_one_batch:
                here = rows[step * self.work.batch : (step + 1) * self.work.batch]
                x, y = x.index_select(0, here), y.index_select(0, here)
            loss = self.loss(x, y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.detach()
        return float(total) / self.work.steps

    def _compile(self, mode: str) -> float:
        """Compile forward and backward; how long that took."""
        self.loss = torch.compile(self.loss, mode=mode, dynamic=False)
        began = time.perf_counter()
        self.loss(self.x[: self.work.batch], self.y[: self.work.batch]).backward()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began


def _network(given: Given) -> nn.Sequential:
    work, parts = given.work, []
    for weight, *bias in given.layers():
        layer = nn.Linear(*weight.shape, bias=work.bias, dtype=getattr(torch, work.dtype))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            for values in bias:
                layer.bias.copy_(torch.from_numpy(values))
        parts += [layer, ACTIVATIONS[work.activation]()]
    return nn.Sequential(*parts[:-1])
