"""Maps of the UNet's cross-attention: where in the image each word is attended to. Recorded from outside, for any checkpoint.

    with attention_maps(pipe) as maps:
        image = pipe("a red ball above a horse").images[0]
    maps.at(step=10, level=0)  # (2B, 77, h, w): one map per word; the conditional half of the batch is last

Inside the context manager, cross-attention is computed by the explicit formula of `layers.attention`, so that the probabilities
exist as a tensor. They are averaged over the heads and layers of a level. At each position they sum to 1 over the 77 words.

Shapes: B batch, n heads, T = h·w positions of a level, S = 77 words.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .layers import Attention
from .unet import UNet2DConditionModel


def probabilities(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q kᵀ / √d), computed in float32: q (B, n, T, d), k (B, n, S, d) → (B, n, T, S)."""
    return (q.float() @ k.float().transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)


def cross_attentions(unet: UNet2DConditionModel) -> list[tuple[int, Attention]]:
    """Every cross-attention layer in the order of execution, with its level: 0 is the finest."""
    deepest = len(unet.config.block_out_channels) - 1
    levels = [*enumerate(unet.down_blocks), (deepest, unet.mid_block)]
    levels += [(deepest - i, block) for i, block in enumerate(unet.up_blocks)]
    return [(level, layer) for level, block in levels for name, layer in block.named_modules() if name.endswith(".attn2")]


def level_size(height: int, width: int, level: int) -> tuple[int, int]:
    """The size of a level's feature map for latents of the given size. Halving rounds up."""
    return math.ceil(height / 2**level), math.ceil(width / 2**level)


class AttentionMaps:
    """The recorded maps. A step here is one UNet call; PNDM makes one more call than it has steps."""

    def __init__(self, word_scale: Tensor | None = None):
        """`word_scale`, (77,) or (2B, 77), multiplies the attention to each word: 0 mutes a word."""
        self.word_scale = word_scale
        self.steps: list[dict[int, list[Tensor]]] = []  # per step and level, the probabilities of each layer (2B, T, S)
        self.sizes: list[tuple[int, int]] = []  # per step, the height and width of the latents

    @property
    def levels(self) -> list[int]:
        return sorted(self.steps[0]) if self.steps else []

    def begin(self, latents: Tensor):
        self.steps.append({})
        self.sizes.append((latents.shape[-2], latents.shape[-1]))

    def record(self, level: int, p: Tensor):
        self.steps[-1].setdefault(level, []).append(p.detach().mean(dim=1))

    def rows(self, step: int, level: int) -> Tensor:
        """(2B, T, S): how each position divides its attention among the words; rows sum to 1."""
        return torch.stack(self.steps[step][level]).mean(dim=0)

    def at(self, step: int, level: int) -> Tensor:
        """(2B, S, h, w): the same probabilities as one map per word."""
        h, _ = level_size(*self.sizes[step], level)
        return rearrange(self.rows(step, level), "B (h w) S -> B S h w", h=h)


def recorded_forward(
    self: Attention, x: Tensor, context: Tensor, causal: bool = False, *, maps: AttentionMaps, level: int
) -> Tensor:
    """`Attention.forward` by the explicit formula; records the probabilities."""
    q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
    q, k, v = (rearrange(t, "B T (n d) -> B n T d", n=self.heads) for t in (q, k, v))
    p = probabilities(q, k)
    maps.record(level, p)
    if maps.word_scale is not None:
        p = p * rearrange(torch.atleast_2d(maps.word_scale).to(p), "B S -> B 1 1 S")
    return self.to_out(rearrange(p.to(v.dtype) @ v, "B n T d -> B T (n d)"))


@contextmanager
def attention_maps(pipe: Any, word_scale: Tensor | None = None) -> Iterator[AttentionMaps]:
    """Record the cross-attention of a UNet, or of a pipeline's UNet, inside the context."""
    unet = pipe if isinstance(pipe, UNet2DConditionModel) else pipe.unet
    maps, layers = AttentionMaps(word_scale), cross_attentions(unet)
    hook = unet.register_forward_pre_hook(
        lambda _, args, kwargs: maps.begin(args[0] if args else kwargs["sample"]), with_kwargs=True
    )
    for level, layer in layers:
        vars(layer)["forward"] = partial(recorded_forward, layer, maps=maps, level=level)  # shadows the class's method
    try:
        yield maps
    finally:
        hook.remove()
        for _, layer in layers:
            del layer.forward
