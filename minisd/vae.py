"""The KL autoencoder: encodes an image as a Gaussian over latents of 1/8 the side length, and decodes latents to an image.

Kingma & Welling 2013; Rombach et al. 2022, §3.1 and appendix G. Shapes: images (B, 3, H, W) in [-1, 1], latents (B, 4, H/8, W/8).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import VAEConfig
from .layers import Attention, Downsample, ResnetBlock, Upsample
from .noise import Generators, randn
from .pretrained import Pretrained

EPS = 1e-6  # for every GroupNorm of the VAE; the UNet's ResNet blocks use 1e-5


class DiagonalGaussian:
    """The encoder's output: a mean and a log-variance for each element of the latents."""

    def __init__(self, moments: Tensor):
        self.mean, logvar = moments.chunk(2, dim=1)  # (B, 8, h, w) → each (B, 4, h, w)
        self.logvar = logvar.clamp(-30, 20)  # so that exp neither overflows nor underflows
        self.std = torch.exp(0.5 * self.logvar)

    def sample(self, generator: Generators = None) -> Tensor:
        """A random draw, (B, 4, h, w)."""
        return self.mean + self.std * randn(self.mean.shape, generator, self.mean.device, self.mean.dtype)

    def mode(self) -> Tensor:
        return self.mean

    def kl(self) -> Tensor:
        """KL(this ‖ standard normal) for each image, (B,), in nats (Kingma & Welling 2013, appendix B)."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).sum(dim=(1, 2, 3))


class EncoderOutput(NamedTuple):
    latent_dist: DiagonalGaussian


class DecoderOutput(NamedTuple):
    sample: Tensor


class SelfAttention2D(nn.Module):
    """Single-head self-attention over the positions of a feature map (B, C, h, w)."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, EPS)
        self.attn = Attention(channels, heads=1, qkv_bias=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.norm(x), "B C h w -> B (h w) C")  # (B, T, C): each position is a token
        return x + rearrange(self.attn(tokens), "B (h w) C -> B C h w", h=x.shape[-2])


class VAEMidBlock(nn.Module):
    """ResNet block, attention, ResNet block at the smallest size; only here do distant positions interact directly."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.resnet_1 = ResnetBlock(channels, channels, groups, EPS)
        self.attention = SelfAttention2D(channels, groups)
        self.resnet_2 = ResnetBlock(channels, channels, groups, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.resnet_2(self.attention(self.resnet_1(x)))


def resnets(in_channels: int, out_channels: int, layers: int, groups: int) -> nn.Sequential:
    """A sequence of `layers` ResNet blocks; the first changes the width."""
    widths = [in_channels] + [out_channels] * layers
    return nn.Sequential(*(ResnetBlock(a, b, groups, EPS) for a, b in zip(widths, widths[1:])))


class EncoderLevel(nn.Module):
    """ResNet blocks, then, except in the last level, downsampling by 2."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool):
        super().__init__()
        self.resnets = resnets(in_channels, out_channels, layers, groups)
        self.downsample = nn.Identity() if last else Downsample(out_channels, pad=(0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.resnets(x))


class DecoderLevel(nn.Module):
    """ResNet blocks, then, except in the last level, upsampling by 2."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, groups: int, last: bool):
        super().__init__()
        self.resnets = resnets(in_channels, out_channels, layers, groups)
        self.upsample = nn.Identity() if last else Upsample(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample(self.resnets(x))


class Encoder(nn.Module):
    """Images (B, 3, H, W) → mean and log-variance (B, 2·4, H/8, W/8): a convolutional network that halves the size three times."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths):
            last = len(self.down_blocks) == len(widths) - 1
            self.down_blocks.append(EncoderLevel(before, width, config.layers_per_block, groups, last))
        self.mid_block = VAEMidBlock(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)  # (B, 128, 512, 512) for 512 × 512 images
        for block in self.down_blocks:
            x = block(x)  # finally (B, 512, 64, 64)
        x = self.mid_block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))  # (B, 8, 64, 64)


class Decoder(nn.Module):
    """Latents (B, 4, h, w) → images (B, 3, 8h, 8w): mirrors the encoder, with one more ResNet block per level."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = VAEMidBlock(widths[0], groups)
        self.up_blocks = nn.ModuleList()
        for before, width in zip((widths[0], *widths), widths):
            last = len(self.up_blocks) == len(widths) - 1
            self.up_blocks.append(DecoderLevel(before, width, config.layers_per_block + 1, groups, last))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))  # (B, 512, 64, 64)
        for block in self.up_blocks:
            x = block(x)  # finally (B, 128, 512, 512)
        return self.conv_out(F.silu(self.conv_norm_out(x)))  # (B, 3, 512, 512)


class AutoencoderKL(Pretrained, nn.Module):
    """Encoder and decoder, each with a 1×1 convolution next to the latents.

    The latents here are unscaled. Callers multiply them by `config.scaling_factor` after encoding, so that the UNet sees a variance
    of about 1, and divide by it before decoding.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> EncoderOutput:
        return EncoderOutput(DiagonalGaussian(self.quant_conv(self.encoder(x))))  # (B, 3, H, W) → latents (B, 4, H/8, W/8)

    def decode(self, latents: Tensor) -> DecoderOutput:
        return DecoderOutput(self.decoder(self.post_quant_conv(latents)))  # (B, 4, h, w) → (B, 3, 8h, 8w)

    def forward(self, x: Tensor) -> DecoderOutput:
        """Images (B, 3, H, W) → their reconstructions: encode, then decode the mode."""
        return self.decode(self.encode(x).latent_dist.mode())
