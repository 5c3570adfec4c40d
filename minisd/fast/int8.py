"""Weights in 8 bits: integers from -127 to 127 and one scale for each output channel (Dettmers et al. 2022, §2, "absmax").

Layers compute as before, with weights that are multiplied out for each call. That takes a quarter of float32's memory and about as
much time.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

from .speed_up import slow_down


class Int8(nn.Module):
    """The weights of a layer, from integers (O, …) and scales (O, 1, …)."""

    def forward(self, integers: Tensor, scale: Tensor) -> Tensor:
        return integers * scale

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        largest = weight.abs().flatten(1).amax(dim=1)
        scale = (largest / 127).clamp(min=1e-12).view(-1, *[1] * (weight.ndim - 1))
        return (weight / scale).round().to(torch.int8), scale


def quantize(network: nn.Module):
    """Store the weights of all linear and convolutional layers in 8 bits. They can then be neither trained, adapted nor saved."""
    slow_down(network)  # a copy of the weights would need the memory saved
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not is_quantized(module):
            register_parametrization(module.requires_grad_(False), "weight", Int8())


def is_quantized(module: nn.Module) -> bool:
    """Whether the module or any module in it has weights in 8 bits."""
    return any(is_parametrized(part, "weight") for part in module.modules())
