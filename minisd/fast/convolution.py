"""Convolutions on a CPU: by Winograd's algorithm in float32 between many channels, with packed weights in half precision."""

import math
import os

import torch
from torch import Tensor, nn

from .copies import WithCopy, computes_plainly
from .packed import can_pack, convolution, pack_convolution
from .winograd import transform_weight, winograd

CHANNELS = 192  # with fewer input or output channels, the extra sums cost more than the saved products
SHARE = 1 / 3  # of the machine's memory, at most, for the transformed weights of a network


class FastConv2d(WithCopy, nn.Conv2d):
    """A convolution with a copy of its weights for a fast kernel.

    In float32, a `large` one uses Winograd's algorithm. In half precision, all have packed weights and return channels last in
    memory, which the layers that follow keep: for the transformers, a position's channels are then already a token.
    """

    large = False

    def forward(self, x: Tensor) -> Tensor:
        return self.fast_forward(x) if self.applies_to(x) else super().forward(x)

    @torch.compiler.disable  # a compiled block calls this function as it is
    def fast_forward(self, x: Tensor) -> Tensor:
        if self.weight.is_inference():  # PyTorch does not count its changes
            return super().forward(x)
        if x.dtype == torch.float32:
            assert self.bias is not None
            return winograd(x, self.copy_of(self.weight, transform_weight), self.bias)
        x = x.contiguous(memory_format=torch.channels_last)
        return convolution(self, x, self.copy_of(self.weight, lambda _: pack_convolution(self, x)))

    def applies_to(self, x: Tensor) -> bool:
        """Whether the fast way is for this input."""
        fast = can_pack(x.dtype) or (x.dtype == torch.float32 and self.large)
        return fast and x.ndim == 4 and self.padding_mode == "zeros" and computes_plainly(x, self.weight)


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
