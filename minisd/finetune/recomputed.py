"""Less memory for more time: activations inside blocks are computed again for the gradient, not kept (Chen et al. 2016, §4)."""

from contextlib import nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers import ResnetBlock
from ..train.loop import Recipe, fast_arithmetic
from ..unet import SpatialTransformer


def recompute_activations(network: nn.Module, recipe: Recipe):
    """Keep of each ResNet block and transformer only its inputs. The gradient stays the same, bit for bit."""

    def contexts():
        return nullcontext(), fast_arithmetic(recipe)  # the second time, too, although the loop has left it by then

    for module in network.modules():
        if isinstance(module, ResnetBlock | SpatialTransformer):
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            vars(module)["forward"] = again
