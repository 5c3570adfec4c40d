"""The building blocks of all networks: attention, the ResNet block, resampling and the timestep embedding.

Shapes: B batch, C channels, h × w feature map, T tokens, D token width, n heads of d channels each.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """softmax(q kᵀ / √d) v, written out (Vaswani et al. 2017, eq. 1): q (B, n, T, d) with k, v (B, n, S, d) → (B, n, T, d).

    `causal` hides later tokens. The networks call PyTorch's fused kernel for this formula, which accumulates in float32;
    in this version, the scores of Stable Diffusion 2.1 would overflow in float16.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, n, T, S)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores.softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head attention from `x` to `context`, or from `x` to itself (self-attention) without a context."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, qkv_bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=qkv_bias)
        self.to_k = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_v = nn.Linear(context_dim or dim, dim, bias=qkv_bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, causal: bool = False) -> Tensor:
        """x (B, T, D) and context (B, S, context_dim) → (B, T, D)."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)  # (B, T, n·d), (B, S, n·d), (B, S, n·d)
        q, k, v = (rearrange(t, "B T (n d) -> B n T d", n=self.heads) for t in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # = attention(q, k, v, causal)
        return self.to_out(rearrange(x, "B n T d -> B T (n d)"))


class ResnetBlock(nn.Module):
    """Two convolutions and a residual connection (He et al. 2016); the UNet adds the time embedding between the two."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float, temb_channels: int | None = None):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_channels is not None:
            self.time_emb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # The residual is added to x, so if the width changes, a 1×1 convolution changes x's width too
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """x (B, in_channels, h, w), temb (B, E) → (B, out_channels, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        if temb is not None:
            h = h + self.time_emb_proj(F.silu(temb))[:, :, None, None]  # one number per channel, broadcast over positions
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


class Downsample(nn.Module):
    """Halve height and width with a stride-2 convolution: (B, C, h, w) → (B, C, h/2, w/2).

    `pad` is (left, right, top, bottom): one pixel on every side in the UNet, but only right and bottom in the VAE. The wrong
    padding still gives the right shape but shifts the image by a pixel at every level.
    """

    def __init__(self, channels: int, pad: tuple[int, int, int, int]):
        super().__init__()
        self.pad = pad
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class Upsample(nn.Module):
    """Double height and width by repeating pixels, then convolve; `size` overrides doubling if the skip has an odd size."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        size = size or (2 * x.shape[-2], 2 * x.shape[-1])
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t at falling frequencies, cosines first: t (B,) → (B, dim) in float32 (Vaswani et al. 2017, §3.5).

    The high frequencies tell timestep 500 from 501, the low ones tell 100 from 900.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies  # (B, half)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
