"""TAESD: a small autoencoder for Stable Diffusion's latents, distilled from the large one (Bohan 2023).

It consists of convolutions and ReLUs only and decodes about forty times as fast as `AutoencoderKL`, with less detail. Use it for
previews, and for images in one to four steps, where the VAE takes most of the time. Its latents are already scaled, as the UNet
sees them, so `config.scaling_factor` is 1. Shapes: images (B, 3, H, W) in [-1, 1], latents (B, 4, H/8, W/8).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .as_mapping import AsMapping
from .noise import Generators
from .pretrained import Pretrained
from .vae import DecoderOutput

LIMIT = 3.0  # latents are softly clamped to ±LIMIT before decoding


@dataclass(frozen=True)
class TAESDConfig(AsMapping):
    """`num_encoder_blocks` starts and `num_decoder_blocks` ends at full resolution; all resolutions have the same width."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0


class Certain(NamedTuple):
    """A distribution with a single value, in place of `AutoencoderKL`'s Gaussian."""

    mean: Tensor

    def sample(self, generator: Generators = None) -> Tensor:
        return self.mean

    def mode(self) -> Tensor:
        return self.mean


class TinyEncoderOutput(NamedTuple):
    latents: Tensor
    latent_dist: Certain


class TinyBlock(nn.Module):
    """Three convolutions and a residual connection: (B, C, h, w) → (B, C, h, w)."""

    def __init__(self, width: int):
        super().__init__()
        between = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(between[0], nn.ReLU(), between[1], nn.ReLU(), between[2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class TinyEncoder(nn.Module):
    """Images (B, 3, H, W) → latents (B, 4, H/8, W/8): groups of blocks; each except the first starts by halving the size."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        width = config.block_out_channels[0]
        self.layers = nn.Sequential(nn.Conv2d(config.in_channels, width, 3, padding=1))
        for size, blocks in enumerate(config.num_encoder_blocks):
            if size > 0:
                self.layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False))
            self.layers.extend([TinyBlock(width) for _ in range(blocks)])
        self.layers.append(nn.Conv2d(width, config.latent_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x / 2 + 0.5)


class TinyDecoder(nn.Module):
    """Latents (B, 4, h, w) → images (B, 3, 8h, 8w): mirrors the encoder; each group except the last ends by doubling the size."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        width = config.block_out_channels[0]
        self.layers = nn.Sequential(nn.Conv2d(config.latent_channels, width, 3, padding=1), nn.ReLU())
        for size, blocks in enumerate(config.num_decoder_blocks):
            if size > 0:
                self.layers.extend([nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)])
            self.layers.extend([TinyBlock(width) for _ in range(blocks)])
        self.layers.append(nn.Conv2d(width, config.out_channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(LIMIT * torch.tanh(x / LIMIT)) * 2 - 1


class AutoencoderTiny(Pretrained, nn.Module):
    """Replaces the VAE of a pipeline: `pipe.vae = AutoencoderTiny.from_pretrained("madebyollin/taesd")`."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config)
        self.decoder = TinyDecoder(config)

    def encode(self, x: Tensor) -> TinyEncoderOutput:
        """Images (B, 3, H, W) in [-1, 1] → scaled latents (B, 4, H/8, W/8)."""
        latents = self.encoder(x)
        return TinyEncoderOutput(latents, Certain(latents))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """Scaled latents (B, 4, h, w) → images (B, 3, 8h, 8w), about -1 to 1."""
        return DecoderOutput(self.decoder(latents))

    def forward(self, x: Tensor) -> DecoderOutput:
        """Encode, then decode."""
        return self.decode(self.encode(x).latents)
