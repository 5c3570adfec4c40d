"""Convolutions that compute in Winograd's form where that is faster: on a CPU, in float32, between many channels."""

from typing import Any

import torch
from torch import Tensor, nn

from .winograd import transform_weight, winograd

CHANNELS = 192  # fewer on either side, and the sums cost more than the products that they save


class FastConv2d(nn.Conv2d):
    """A 3×3 convolution. Its weights are transformed at the first call, and again when they have changed."""

    transformed: tuple[tuple[float, ...], Tensor] | None = None  # the state of the weights then, and what they became

    def forward(self, x: Tensor) -> Tensor:
        if not self.pays(x):
            return super().forward(x)
        state = self.state()
        if self.transformed is None or self.transformed[0] != state:
            self.transformed = state, transform_weight(self.weight.detach())
        assert self.bias is not None
        return winograd(x, self.transformed[1], self.bias)

    def state(self) -> tuple[float, ...]:
        """What tells that weights have changed. PyTorch does not count changes by `weight.data`: a number of each channel does."""
        return self.weight.data_ptr(), self.weight._version, *self.weight[:, :, 1, 1].diagonal().tolist()

    def __getstate__(self) -> dict:
        return {**vars(self), "transformed": None}  # a copy makes its own

    def _apply(self, *arguments: Any, **options: Any) -> "FastConv2d":
        self.transformed = None  # weights that move to another device or dtype leave nothing behind
        return super()._apply(*arguments, **options)

    def pays(self, x: Tensor) -> bool:
        plain_tensors = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32 and not self.weight.is_inference()
        gradients = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        batch = x.ndim == 4 and len(x) > 0
        return batch and plain_tensors and not (gradients or recorded or torch.is_autocast_enabled("cpu"))


def speed_up(network: nn.Module):
    """Let a network's large convolutions run in Winograd's form. Their weights keep their names and their numbers."""
    for module in network.modules():
        if type(module) is nn.Conv2d and is_large(module):
            module.__class__ = FastConv2d


def is_large(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    usual = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and conv.bias is not None
    return usual and min(conv.in_channels, conv.out_channels) >= CHANNELS
