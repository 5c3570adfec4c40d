"""Estimates the time and memory of a training run with a trial pass that changes no weights."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..train.loop import Recipe, fast_arithmetic

OF_TRAINED = 5  # values per trained parameter: itself, gradient, two of Adam, moving average


class Forecast(NamedTuple):
    """Seconds per step, and bytes of memory."""

    seconds: float
    bytes: int

    def sentence(self, steps: int, batch_size: int) -> str:
        memory = f"{self.bytes / 2**30:.1f} GB" if self.bytes >= 2**30 else f"{self.bytes / 2**20:.0f} MB"
        return f"{steps:,} steps of {batch_size} images take about {duration(steps * self.seconds)} and {memory} of memory"


def forecast(networks: list[nn.Module], trained: nn.Module, loss_of: Callable, recipe: Recipe) -> Forecast:
    """Time a pass after a warm-up pass; count the bytes of the weights and of the activations kept for the backward pass."""
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for net in networks for p in net.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        run_pass(trained, loss_of, recipe)
    started = time.perf_counter()
    run_pass(trained, loss_of, recipe)
    seconds = recipe.accumulate * (time.perf_counter() - started)
    learnt = sum(p.numel() * p.element_size() for p in trained.parameters())
    inside = sum(p.numel() * p.element_size() for p in trained.parameters() if p.untyped_storage().data_ptr() in weights)
    return Forecast(seconds, sum(weights.values()) - inside + OF_TRAINED * learnt + sum(kept.values()))


def run_pass(trained: nn.Module, loss_of: Callable, recipe: Recipe):
    """Compute a loss and its gradient."""
    with fast_arithmetic(recipe):
        loss, _ = loss_of(trained, 0)
    loss.backward()
    loss.item()  # waits for a GPU
    trained.zero_grad(set_to_none=True)


def duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 2):.0f} seconds"
