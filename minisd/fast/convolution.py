"""Convolutions on a CPU: channels last in memory, and by Winograd's algorithm where it is faster, between many channels."""

import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from .winograd import transform_weight, winograd

CHANNELS = 192  # with fewer input or output channels, the extra sums cost more than the saved products
SHARE = 1 / 3  # of the machine's memory, at most, for the transformed weights of a network


class FastConv2d(nn.Conv2d):
    """A convolution whose output has channels last in memory; the layers that follow keep this format, which needs less copying.

    With many channels, a 3×3 convolution transforms its weights in the first call and again after they change.
    """

    transformed: tuple[tuple[float, ...], Tensor] | None = None  # the state of the weights, and their transform
    large = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.applies_to(x):
            return super().forward(x)
        if self.large and x.dtype == torch.float32:
            return self.by_winograd(x)
        return super().forward(x.contiguous(memory_format=torch.channels_last))

    @torch.compiler.disable  # a compiled block calls this function as it is
    def by_winograd(self, x: Tensor) -> Tensor:
        if self.weight.is_inference():  # PyTorch does not count its changes
            return super().forward(x)
        state = self.state()
        if self.transformed is None or self.transformed[0] != state:
            self.transformed = state, transform_weight(self.weight.detach())
        assert self.bias is not None
        return winograd(x, self.transformed[1], self.bias)

    def state(self) -> tuple[float, ...]:
        """Detects weight changes. PyTorch's counter misses changes through `weight.data`; a sample of values shows them."""
        return self.weight.data_ptr(), self.weight._version, *self.weight[:, :, 1, 1].diagonal().tolist()

    def __getstate__(self) -> dict:
        return {**vars(self), "transformed": None}  # a copy computes it again

    def _apply(self, *arguments: Any, **options: Any) -> "FastConv2d":
        self.transformed = None  # not kept when the weights move to another device or dtype
        return super()._apply(*arguments, **options)

    def applies_to(self, x: Tensor) -> bool:
        """Whether the fast ways are tried on this input."""
        plain_tensors = x.device.type == "cpu" and x.dtype == self.weight.dtype
        gradients = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        batch = x.ndim == 4 and len(x) > 0
        return batch and plain_tensors and not (gradients or recorded or torch.is_autocast_enabled("cpu"))


def speed_up(network: nn.Module):
    """Make a network's convolutions fast. Large ones use Winograd's algorithm, if there is memory for the transformed weights.

    Names and values of the weights do not change.
    """
    convolutions = [module for module in network.modules() if type(module) is nn.Conv2d]
    large = [conv for conv in convolutions if is_large(conv)]
    enough = sum(4 * 16 * conv.weight[:, :, 0, 0].numel() for conv in large) <= SHARE * physical_memory()
    for conv in convolutions:
        conv.__class__ = FastConv2d
        vars(conv)["large"] = enough and is_large(conv)


def physical_memory() -> float:
    """Bytes of memory of this machine; infinity if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.inf


def is_large(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    usual = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and conv.bias is not None
    return usual and min(conv.in_channels, conv.out_channels) >= CHANNELS
