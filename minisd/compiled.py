"""Networks wrapped by torch.compile."""

from typing import TypeVar

from torch import nn

N = TypeVar("N", bound=nn.Module)


def uncompiled(network: N) -> N:
    """The original network inside torch.compile's wrapper; any other network unchanged."""
    return getattr(network, "_orig_mod", network)
