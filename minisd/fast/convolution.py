"""Convolutions on a CPU: by Winograd's algorithm in float32 between many channels, with channels last in half precision."""

import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from .half import HALF
from .winograd import transform_weight, winograd

CHANNELS = 192  # with fewer input or output channels, the extra sums cost more than the saved products
SHARE = 1 / 3  # of the machine's memory, at most, for the transformed weights of a network


class FastConv2d(nn.Conv2d):
    """A convolution that keeps a copy of its weights in the layout of the fast way; it makes the copy again if they change.

    In float32, a `large` one uses Winograd's algorithm. In half precision, all are PyTorch's, with channels last in memory; the
    layers that follow keep this layout.
    """

    copied: tuple[tuple[float, ...], Tensor] | None = None  # the state of the weights, and their copy
    large = False

    def forward(self, x: Tensor) -> Tensor:
        return self.fast_forward(x) if self.applies_to(x) else super().forward(x)

    @torch.compiler.disable  # a compiled block calls this function as it is
    def fast_forward(self, x: Tensor) -> Tensor:
        if self.weight.is_inference():  # PyTorch does not count its changes
            return super().forward(x)
        by_winograd, state = x.dtype == torch.float32, self.state()
        if self.copied is None or self.copied[0] != state:
            weight = self.weight.detach()
            self.copied = state, transform_weight(weight) if by_winograd else weight.contiguous(memory_format=torch.channels_last)
        if by_winograd:
            assert self.bias is not None
            return winograd(x, self.copied[1], self.bias)
        return self._conv_forward(x.contiguous(memory_format=torch.channels_last), self.copied[1], self.bias)

    def state(self) -> tuple[float, ...]:
        """Detects weight changes. PyTorch's counter misses changes through `weight.data`; a sample of values shows them."""
        return self.weight.data_ptr(), self.weight._version, *self.weight[:, :, -1, -1].diagonal().tolist()

    def __getstate__(self) -> dict:
        return {**vars(self), "copied": None}  # a copy computes it again

    def _apply(self, *arguments: Any, **options: Any) -> "FastConv2d":
        self.copied = None  # not kept when the weights move to another device or dtype
        return super()._apply(*arguments, **options)

    def applies_to(self, x: Tensor) -> bool:
        """Whether the fast way is for this input. Compiled blocks lay out half precision themselves."""
        float32 = x.dtype == torch.float32 and self.large
        half = x.dtype in HALF and not torch.compiler.is_compiling()
        on_cpu = x.device.type == "cpu" and x.dtype == self.weight.dtype
        gradients = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        recorded = torch.compiler.is_exporting() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        batch = x.ndim == 4 and len(x) > 0
        return (float32 or half) and batch and on_cpu and not (gradients or recorded or torch.is_autocast_enabled("cpu"))


def speed_up(network: nn.Module):
    """Make a network's convolutions fast. Large ones use Winograd's algorithm, if there is memory for the transformed weights.

    Names and values of the weights do not change.
    """
    convolutions = [module for module in network.modules() if type(module) is nn.Conv2d]
    large = {conv for conv in convolutions if is_large(conv)}
    enough = sum(4 * 16 * conv.weight[:, :, 0, 0].numel() for conv in large) <= SHARE * physical_memory()
    for conv in convolutions:
        conv.__class__ = FastConv2d
        vars(conv)["large"] = enough and conv in large


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
