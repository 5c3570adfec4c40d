"""Fine-tunes the decoder with a frozen encoder: the UNet's latents keep their meaning, and images become sharper.

Stability AI did the same for Stable Diffusion's autoencoder ("ft-MSE"). The decoder trains on whole images instead of crops, with
a little noise on the latents, because a UNet's latents are not perfect either.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..config import TINY_VAE
from ..image import to_tensor
from ..tiny.picture_book import draw, sample
from ..vae import AutoencoderKL
from .loop import Recipe, batch_noise, device, sample_seeds, train
from .state import finished
from .vae import reconstruction_loss, show

RECIPE = Recipe(steps=5000, batch_size=4, learning_rate=8e-4, ema=0.999, decay=0.6)
NOISE = 0.05  # standard deviation, in units of the latents


def loss_with(recipe: Recipe):
    def loss_of(model: AutoencoderKL, step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.stack([to_tensor(draw(sample(rng))) for rng in sample_seeds(recipe, step)]).to(device())
        with torch.no_grad():
            latents = model.encode(x).latent_dist.mode()
        y = model.decode(latents + NOISE * batch_noise(recipe, step, *latents.shape[1:])).sample.float()
        squares = ((y - x) / 2).square().mean()
        return reconstruction_loss(y, x) + 4 * squares, {"psnr": float(-10 * squares.detach().log10())}

    return loss_of


def run(folder: Path, recipe: Recipe = RECIPE):
    model = finished(folder / "vae", AutoencoderKL(TINY_VAE))
    model.decoder.requires_grad_(True)
    model.post_quant_conv.requires_grad_(True)
    train(folder / "decoder", model, recipe, loss_with(recipe), show)
