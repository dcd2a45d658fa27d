"""PyTorch as a contestant: eager, compiled, or whole steps in a CUDA graph of its own."""

import time
from collections.abc import Callable
from contextlib import suppress
from math import gcd
from typing import Any

import numpy as np
import torch
from bench.work import Given, Work
from torch import nn

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
WARM_STEPS, GRAPH_STEPS = 3, 50
"""Before capture; in a graph, of data that are one batch."""


class PyTorch:
    """The data in memory, the fused update."""

    draws_its_order = False
    capturable = False

    def __init__(self, given: Given, threads: int, where: str, compiled: bool = False) -> None:
        self.given, self.work, self.where = given, given.work, where
        work = self.work
        torch.set_num_threads(threads)
        if where != "cpu":
            _begin_anew("highest" if work.precision == "fp32" else "high")
        self.x, self.y = (torch.from_numpy(a).to(where) for a in (given.numbers(), given.y))
        if work.data == "images":
            self.y = self.y.long()
        self.net = _network(given).to(where)
        self.optimizer = _optimizer(self.net, work, self.capturable)
        if work.precision == "bf16":
            self.x, self.loss = self.x.bfloat16(), self._rounded(self.loss)
        self.compile_seconds, self.mark = 0.0, _nothing
        if compiled:
            self.compile_seconds = self._compile("default" if where == "cpu" else "reduce-overhead")
            self.mark = _nothing if where == "cpu" else torch.compiler.cudagraph_mark_step_begin

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = self.net(x)
        if self.work.data == "images":
            return nn.functional.cross_entropy(found, y)
        reduction = "sum" if self.work.loss == "sum_squares" else "mean"
        return nn.functional.mse_loss(found, y, reduction=reduction)

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        """The mean loss of a step."""
        rows = self._rows(order)
        total = torch.zeros((), dtype=self.kind, device=self.x.device)
        for step in range(self.work.steps):
            total += self.step(rows, step)
        return float(total) / self.work.steps

    def step(self, rows: torch.Tensor, step: int) -> torch.Tensor:
        """Train on the rows (steps, batch) of a step; their loss."""
        x, y = self.x, self.y
        if not self.work.is_one_batch:
            x, y = x.index_select(0, rows[step]), y.index_select(0, rows[step])
        self.mark()
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def facts(self) -> dict[str, int | None]:
        """Bytes that it has had on the GPU; kernels of a step, where a profiler may count them."""
        found: dict[str, int | None] = {"device_bytes": torch.cuda.max_memory_allocated()}
        with suppress(Exception):
            found["kernels"] = self._kernels()
        return found

    @property
    def kind(self) -> torch.dtype:
        """Of losses and weights."""
        return getattr(torch, self.work.dtype)

    def _rows(self, order: np.ndarray) -> torch.Tensor:
        """(steps, batch); of one batch nothing is asked."""
        rows = order[None] if self.work.is_one_batch else self.given.sample(order)
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.x.device)

    def _kernels(self) -> int:
        rows = self._rows(self.given.order(0))
        return _launched(lambda: self.step(rows, 0))

    def _rounded(self, loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Products in bfloat16 over weights in float32; the loss in float32."""

        def rounded(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.autocast(self.where.partition(":")[0], torch.bfloat16):
                return loss(x, y)

        return rounded

    def _compile(self, mode: str) -> float:
        """Compile forward and backward; how long that took."""
        self.loss = torch.compile(self.loss, mode=mode, dynamic=False)
        began = time.perf_counter()
        self.loss(self.x[: self.work.batch], self.y[: self.work.batch]).backward()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began


class Captured(PyTorch):
    """Some steps as one CUDA graph: rows taken, forward and backward compiled, fused update.

    mode: of the compiler, None for none. Where there are no graphs, on a CPU, the same steps run.
    """

    capturable = True

    def __init__(self, given: Given, threads: int, where: str, mode: str | None) -> None:
        super().__init__(given, threads, where)
        began = time.perf_counter()
        if mode is not None:
            self.loss = torch.compile(self.loss, mode=mode, dynamic=False)
        work = self.work
        per_pass = work.steps // work.passes
        self.unit = gcd(work.steps, GRAPH_STEPS) if work.is_one_batch else per_pass
        self.rows = torch.arange(work.used, dtype=torch.int32, device=where).view(-1, work.batch)
        self.total = torch.zeros((), dtype=self.kind, device=where)
        self.replay = self._captured() if where != "cpu" else self._steps
        self.compile_seconds = time.perf_counter() - began

    def epoch(self, epoch: int, order: np.ndarray) -> float:
        self.rows.copy_(torch.from_numpy(order).view_as(self.rows))
        self.total.zero_()
        for _ in range(self.work.steps // self.unit):
            self.replay()
        return float(self.total) / self.work.steps

    def _steps(self, count: int = 0) -> None:
        """So many steps, or those of a graph."""
        for step in range(count or self.unit):
            self.total += self.step(self.rows, step)

    def _captured(self) -> Callable[[], None]:
        """What replays the graph, made behind a few steps that are then undone."""
        kept = [each.detach().clone() for each in self.net.parameters()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._steps(min(WARM_STEPS, self.unit))
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._steps()
        self.undo(kept)
        return self.graph.replay

    def undo(self, kept: list[torch.Tensor]) -> None:
        """Weights as they were, and an optimiser that has not begun, in their own memory."""
        with torch.no_grad():
            for each, first in zip(self.net.parameters(), kept, strict=True):
                each.copy_(first)
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, torch.Tensor):
                        value.zero_()

    def _kernels(self) -> int:
        return round(_launched(self.replay) / self.unit)


def _begin_anew(rounding: str) -> None:
    """On a GPU, as if no work had come before this."""
    torch.set_float32_matmul_precision(rounding)
    torch.compiler.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


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


def _optimizer(net: nn.Module, work: Work, capturable: bool) -> torch.optim.Optimizer:
    """Decay pulls biases too: telling them apart would cost another launch."""
    if work.optimizer == "sgd":
        return torch.optim.SGD(net.parameters(), lr=work.lr, fused=True)
    more: dict[str, Any] = {"lr": work.lr, "fused": True, "capturable": capturable}
    if work.optimizer == "adamw":
        return torch.optim.AdamW(net.parameters(), weight_decay=work.decay, **more)
    return torch.optim.Adam(net.parameters(), **more)


def _launched(call: Callable[[], object]) -> int:
    """Kernels that a call launches on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        call()
        torch.cuda.synchronize()
    events = [each for each in seen.events() if each.device_type == DeviceType.CUDA]
    return sum(not each.name.startswith(("Memcpy", "Memset")) for each in events)


def _nothing() -> None:
    """What has to be said before a step that is not in a graph of the compiler's."""
