"""Less memory for more time: activations inside blocks are computed again for the gradient, not kept (Chen et al. 2016, §4)."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers import ResnetBlock
from ..unet import SpatialTransformer


def recompute_activations(network: nn.Module):
    """Keep of each ResNet block and transformer only its inputs. The gradient stays the same, bit for bit."""
    for module in network.modules():
        if isinstance(module, ResnetBlock | SpatialTransformer):
            forward = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False)
            vars(module)["forward"] = forward
