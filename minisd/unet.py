"""The UNet: predicts the noise in latents from the latents, the timestep and the text states.

Ho et al. 2020, appendix B, with the cross-attention of Rombach et al. 2022, §3.3. The levels form a U: each level on the way down
halves the size; each on the way up doubles it and receives the matching down level's outputs through skip connections.

Shapes: latents (B, 4, h, w), t (B,), context (B, T, D), temb (B, E); E is four times the first level's width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import UNetConfig
from .layers import Attention, Downsample, ResnetBlock, Upsample, timestep_embedding
from .pretrained import Pretrained

EPS = 1e-5  # for the GroupNorms of ResNet blocks and of the output; the norms before transformers use 1e-6


class UNet2DConditionOutput(NamedTuple):
    sample: Tensor


class TimestepEmbedding(nn.Module):
    """Two layers that turn the sinusoids of `timestep_embedding` into the vector that every ResNet block reads."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(dim, out_dim)
        self.linear_2 = nn.Linear(out_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))  # (B, dim) → (B, E)


class FeedForward(nn.Module):
    """GEGLU: one half of a wide linear layer gates the other (Shazeer 2020, §2)."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * 4 * dim)
        self.proj_out = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=-1)  # each (B, T, 4·C)
        return self.proj_out(value * F.gelu(gate))  # (B, T, C)


class BasicTransformerBlock(nn.Module):
    """Positions attend to each other, then to the prompt's tokens; then a feed-forward layer acts on each position."""

    def __init__(self, dim: int, heads: int, context_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)  # the only place where the prompt enters
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the positions of a feature map (Rombach et al. 2022, appendix E.2.1)."""

    def __init__(self, channels: int, heads: int, context_dim: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.block = BasicTransformerBlock(channels, heads, context_dim)
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(rearrange(self.norm(x), "B C h w -> B (h w) C"))  # (B, T, C): each position is a token
        tokens = self.proj_out(self.block(tokens, context))
        return x + rearrange(tokens, "B (h w) C -> B C h w", h=x.shape[-2])


class NoAttention(nn.Module):
    """Stands in for the transformer in levels without one: in Stable Diffusion, the deepest."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return x


class Level(nn.Module):
    """One resolution of the U: ResNet blocks, each followed by a transformer. `widths_in` are the blocks' input channels."""

    def __init__(self, widths_in: list[int], width: int, level: int, config: UNetConfig):
        super().__init__()
        groups, temb_channels = config.norm_num_groups, 4 * config.block_out_channels[0]
        heads, context_dim = config.num_attention_heads[level], config.cross_attention_dim
        self.resnets = nn.ModuleList(ResnetBlock(w, width, groups, EPS, temb_channels) for w in widths_in)
        self.attentions = nn.ModuleList(
            SpatialTransformer(width, heads, context_dim, groups) if config.cross_attention[level] else NoAttention()
            for _ in widths_in
        )


class DownBlock(Level):
    """A level on the way down; all levels except the last end by halving the size."""

    def __init__(self, in_channels: int, level: int, config: UNetConfig):
        width, last = config.block_out_channels[level], level == len(config.block_out_channels) - 1
        super().__init__([in_channels] + [width] * (config.layers_per_block - 1), width, level, config)
        self.downsample = None if last else Downsample(width, pad=(1, 1, 1, 1))

    def forward(self, x: Tensor, temb: Tensor, context: Tensor) -> list[Tensor]:
        """x (B, in, h, w) → all outputs, for the skip connections; the last, (B, width, h/2, w/2), enters the next level."""
        outputs = []
        for resnet, attention in zip(self.resnets, self.attentions):
            x = attention(resnet(x, temb), context)
            outputs.append(x)
        return outputs + ([self.downsample(x)] if self.downsample else [])


class MidBlock(nn.Module):
    """ResNet block, transformer, ResNet block at the bottom of the U."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width, groups = config.block_out_channels[-1], config.norm_num_groups
        temb_channels, heads = 4 * config.block_out_channels[0], config.num_attention_heads[-1]
        self.resnet_1 = ResnetBlock(width, width, groups, EPS, temb_channels)
        self.attention = SpatialTransformer(width, heads, config.cross_attention_dim, groups)
        self.resnet_2 = ResnetBlock(width, width, groups, EPS, temb_channels)

    def forward(self, x: Tensor, temb: Tensor, context: Tensor) -> Tensor:
        x = self.resnet_1(x, temb)
        x = self.attention(x, context)
        return self.resnet_2(x, temb)


class UpBlock(Level):
    """A level on the way up: each ResNet block reads one skip connection; all levels except the finest end by doubling the size."""

    def __init__(self, in_channels: int, skip_channels: list[int], level: int, config: UNetConfig):
        width = config.block_out_channels[level]
        from_below = [in_channels] + [width] * config.layers_per_block
        super().__init__([a + b for a, b in zip(from_below, skip_channels)], width, level, config)
        self.upsample = Upsample(width) if level > 0 else None

    def forward(self, x: Tensor, skips: list[Tensor], temb: Tensor, context: Tensor) -> Tensor:
        """Pops its skips from the end of the list. Halving rounds odd sizes up, so the next skip determines the upsampled size."""
        for resnet, attention in zip(self.resnets, self.attentions):
            x = torch.cat([x, skips.pop()], dim=1)  # (B, below + skip, h, w)
            x = attention(resnet(x, temb), context)  # (B, width, h, w)
        return self.upsample(x, size=skips[-1].shape[-2:]) if self.upsample else x


class UNet2DConditionModel(Pretrained, nn.Module):
    """Predicts the noise in latents (or v, if trained for v) at timestep t, given the prompt."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)

        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]  # the channels of every skip connection, in order of computation
        for level, width in enumerate(widths):
            self.down_blocks.append(DownBlock(skips[-1], level, config))
            skips += [width] * (layers if level == len(widths) - 1 else layers + 1)
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for level in reversed(range(len(widths))):
            self.up_blocks.append(UpBlock(below, [skips.pop() for _ in range(layers + 1)], level, config))
            below = widths[level]

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    @property
    def in_channels(self) -> int:
        return self.config.in_channels

    def forward(self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor) -> UNet2DConditionOutput:
        """Latents (B, in, h, w), one timestep for all or (B,), text states (B, T, D) → `.sample` (B, out, h, w).

        The comments give Stable Diffusion v1's shapes for 512 × 512 images.
        """
        x, context = sample, encoder_hidden_states  # (B, 4, 64, 64), (B, 77, 768)

        # Time: sinusoids, then the vector that every ResNet block reads
        t = torch.as_tensor(timestep, dtype=torch.float32, device=x.device).expand(len(x))
        temb = timestep_embedding(t, self.config.block_out_channels[0])  # (B, 320)
        temb = self.time_embedding(temb.to(x.dtype))  # (B, 1280)

        # Down: 64 → 32 → 16 → 8; every output is kept for a skip connection
        skips = [self.conv_in(x)]  # (B, 320, 64, 64)
        for block in self.down_blocks:
            skips += block(skips[-1], temb, context)

        # Middle
        x = self.mid_block(skips[-1], temb, context)  # (B, 1280, 8, 8)

        # Up: 8 → 16 → 32 → 64; every ResNet block reads one skip connection
        for block in self.up_blocks:
            x = block(x, skips, temb, context)  # finally (B, 320, 64, 64)
        return UNet2DConditionOutput(self.conv_out(F.silu(self.conv_norm_out(x))))  # (B, 4, 64, 64)
