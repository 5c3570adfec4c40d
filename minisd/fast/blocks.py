"""torch.compile for the blocks that a network repeats, one by one, which takes seconds where the whole network takes minutes.

A compiled block fuses its sums, norms and activations into few passes over memory. Blocks of the same shape are compiled once, and
PyTorch keeps the result on disk for the next process.
"""

from typing import Any

import torch
from torch import nn

from ..layers import ResnetBlock
from ..unet import SpatialTransformer

SHAPES = 64  # of blocks, at most: Stable Diffusion's UNet has 18, for each size of image


def compile_blocks(network: nn.Module, **options: Any):
    """Compile the ResNet blocks and transformers of a network, each at its first call. Names of weights do not change.

    `options` are those of torch.compile.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
    for module in network.modules():
        if isinstance(module, ResnetBlock | SpatialTransformer):
            module.compile(dynamic=False, **options)
