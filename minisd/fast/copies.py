"""Layers that keep a copy of their weights in a layout that a fast kernel reads."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class WithCopy(nn.Module):
    """A layer with a copy of its weights in another layout. If the weights change, the next call makes the copy again."""

    copied: tuple[tuple[float, ...], Any] | None = None  # the state of the weights, and their copy

    def copy_of(self, weight: Tensor, lay_out: Callable[[Tensor], Any]) -> Any:
        state = state_of(weight)
        if self.copied is None or self.copied[0] != state:
            self.copied = state, lay_out(weight.detach())
        return self.copied[1]

    def __getstate__(self) -> dict:
        return {**vars(self), "copied": None}  # a copy of the layer computes it again

    def _apply(self, *arguments: Any, **options: Any) -> "WithCopy":
        self.copied = None  # not kept when the weights move to another device or dtype
        return super()._apply(*arguments, **options)


def state_of(weight: Tensor) -> tuple[float, ...]:
    """Detects weight changes. PyTorch's counter misses changes through `weight.data`; a sample of values shows them."""
    diagonal = weight.diagonal().flatten()  # of every position of the window
    return weight.data_ptr(), weight._version, *diagonal[-min(weight.shape[:2]) :].tolist()


def computes_plainly(x: Tensor, weight: Tensor) -> bool:
    """Whether a layer computes on a CPU in the dtype of its weights, without gradients, and is not being recorded."""
    on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    gradients = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]
    return on_cpu and x.numel() > 0 and not (gradients or recorded)
