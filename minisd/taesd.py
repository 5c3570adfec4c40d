"""TAESD: a small autoencoder for Stable Diffusion's latents, distilled from the large one (Bohan 2023).

It has convolutions and ReLUs only and decodes some forty times as fast as `AutoencoderKL`, with less detail: for previews, and for
pictures in one to four steps, where the VAE takes most of the time. Its latents are scaled already, as the UNet sees them, so
`config.scaling_factor` is 1. Shapes: images (B, 3, H, W) in [-1, 1], latents (B, 4, H/8, W/8).
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

LIMIT = 3.0  # beyond which latents are bent back before they are decoded


@dataclass(frozen=True)
class TAESDConfig(AsMapping):
    """`num_encoder_blocks` begins with the full size, `num_decoder_blocks` ends with it; all sizes have one width."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    scaling_factor: float = 1.0


class Certain(NamedTuple):
    """A distribution of a single value, where `AutoencoderKL` has a Gaussian."""

    mean: Tensor

    def sample(self, generator: Generators = None) -> Tensor:
        return self.mean

    def mode(self) -> Tensor:
        return self.mean


class TinyEncoderOutput(NamedTuple):
    latents: Tensor
    latent_dist: Certain


class TinyBlock(nn.Module):
    """Three convolutions and a residual connection."""

    def __init__(self, width: int):
        super().__init__()
        between = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(between[0], nn.ReLU(), between[1], nn.ReLU(), between[2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class TinyEncoder(nn.Module):
    """Blocks; each further group of them begins by halving the size."""

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
    """The encoder mirrored: each group of blocks but the last ends by doubling the size."""

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
    """Takes the VAE's place in a pipeline: `pipe.vae = AutoencoderTiny.from_pretrained("madebyollin/taesd")`."""

    def __init__(self, config: TAESDConfig):
        super().__init__()
        self.config = config
        self.encoder = TinyEncoder(config)
        self.decoder = TinyDecoder(config)

    def encode(self, x: Tensor) -> TinyEncoderOutput:
        latents = self.encoder(x)
        return TinyEncoderOutput(latents, Certain(latents))

    def decode(self, latents: Tensor) -> DecoderOutput:
        return DecoderOutput(self.decoder(latents))

    def forward(self, x: Tensor) -> DecoderOutput:
        """Encode, then decode."""
        return self.decode(self.encode(x).latents)
