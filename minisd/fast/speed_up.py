"""Makes the layers of a network fast on a CPU. Names and values of the weights do not change."""

from torch import nn

from ..unet import FeedForward
from .convolution import SHARE, FastConv2d, is_large, physical_memory
from .linear import FastFeedForward, FastLinear

FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: FastConv2d, nn.Linear: FastLinear, FeedForward: FastFeedForward}


def speed_up(network: nn.Module):
    """Give the layers their fast classes. Large convolutions use Winograd's algorithm if there is memory for their weights."""
    large = {module for module in network.modules() if type(module) is nn.Conv2d and is_large(module)}
    enough = sum(4 * 16 * conv.weight[:, :, 0, 0].numel() for conv in large) <= SHARE * physical_memory()
    for module in network.modules():
        module.__class__ = FAST.get(type(module), type(module))
        if module in large:
            vars(module)["large"] = enough


def slow_down(network: nn.Module):
    """Undo `speed_up`, and drop all copies of weights."""
    plain = {fast: kind for kind, fast in FAST.items()}
    for module in network.modules():
        module.__class__ = plain.get(type(module), type(module))
        vars(module).pop("copied", None)
