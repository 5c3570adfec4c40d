"""Activation checkpointing: recomputes activations in the backward pass to save memory (Chen et al. 2016, §4)."""

from contextlib import nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers import ResnetBlock
from ..train.loop import Recipe, fast_arithmetic
from ..unet import SpatialTransformer


def recompute_activations(network: nn.Module, recipe: Recipe):
    """Keep only the inputs of each ResNet block and transformer. The gradient is the same, bit for bit."""

    def contexts():
        return nullcontext(), fast_arithmetic(recipe)  # the backward pass runs outside the training loop's own context

    for module in network.modules():
        if isinstance(module, ResnetBlock | SpatialTransformer):
            again = partial(checkpoint, module.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            vars(module)["forward"] = again
