"""A preview of latents without the VAE's decoder: each position becomes one colour, by a linear map."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..vae import AutoencoderKL

LEVELS = (-1.0, -1 / 3, 1 / 3, 1.0)  # of red, green and blue, in the images that the map is fitted on
SIDE = 64  # pixels of these images


@torch.no_grad()
def preview_matrix(vae: AutoencoderKL) -> Tensor:
    """The map (5, 3) from the four scaled latents and a constant 1 to red, green and blue in [-1, 1].

    Fitted by least squares on the latents of 64 images of a single colour.
    """
    colors = torch.tensor(list(product(LEVELS, repeat=3)), dtype=torch.float32, device="cpu")  # (64, 3)
    images = colors[:, :, None, None].expand(-1, -1, SIDE, SIDE).to(next(vae.parameters()))
    latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor  # (64, 4, 8, 8)
    centre = latents[:, :, SIDE // 16, SIDE // 16].float().cpu()
    return torch.linalg.lstsq(F.pad(centre, (0, 1), value=1.0), colors).solution


def preview(latents: Tensor, matrix: Tensor, scale: int = 8) -> Tensor:
    """Scaled latents (B, 4, h, w) → images (B, 3, scale · h, scale · w) in [-1, 1]."""
    matrix = matrix.to(latents)
    colors = torch.einsum("bchw, cr -> brhw", latents, matrix[:-1]) + matrix[-1][:, None, None]
    return F.interpolate(colors.clamp(-1, 1), scale_factor=scale, mode="bilinear")
