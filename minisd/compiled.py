"""Networks that torch.compile has wrapped."""

from typing import TypeVar

from torch import nn

N = TypeVar("N", bound=nn.Module)


def uncompiled(network: N) -> N:
    """The network inside what torch.compile makes of one; any other as it is."""
    return getattr(network, "_orig_mod", network)
