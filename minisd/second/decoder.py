"""Fine-tunes the decoder with a frozen encoder and a discriminator (Rombach et al. 2022, §3.1 and appendix G).

It trains on whole images instead of crops, with a little noise on the latents, because a UNet's latents are not perfect either. The
discriminator starts late, as in the original, since it would win easily while all images are blurred. The frozen encoder saves half
of the computation and allows the UNet to be trained at the same time.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..train.loop import Recipe, batch_noise, device, sample_seeds, train
from ..train.state import finished
from ..train.vae import reconstruction_loss
from ..vae import AutoencoderKL
from . import features, vae
from .discriminator import Duel, adaptive_weight, to_deceive, to_tell
from .features import PICTURES, Features
from .muon import muon
from .pictures import as_tensor, rendered
from .twins import picture
from .vae import PERCEPTUAL_WEIGHT, VAE, psnr

RECIPE = Recipe(steps=8000, batch_size=4, learning_rate=8e-4, ema=0.999, decay=0.6)
NOISE = 0.05  # standard deviation, in units of the latents
ADVERSARIAL_FROM = 1000  # before this step, only the discriminator learns
ADVERSARIAL_WEIGHT = 0.5  # of the adversarial gradient in the last layer, relative to the reconstruction's


def loss_with(pictures: np.ndarray, eyes: Features, recipe: Recipe = RECIPE):
    def loss_of(model: Duel, step: int) -> tuple[Tensor, dict[str, float]]:
        which = [rng.randrange(len(pictures)) for rng in sample_seeds(recipe, step)]
        x = as_tensor(pictures[which]).to(device())
        autoencoder, discriminator = model.autoencoder, model.discriminator
        with torch.no_grad():
            latents = autoencoder.encode(x).latent_dist.mode()
        y = autoencoder.decode(latents + NOISE * batch_noise(recipe, step, *latents.shape[1:])).sample.float()
        squares = ((y - x) / 2).square().mean()
        reconstruction = reconstruction_loss(y, x) + 4 * squares + PERCEPTUAL_WEIGHT * eyes.distance(y, x)
        telling = to_tell(discriminator, y, x)
        loss, figures = reconstruction + telling, {"psnr": psnr(y, x), "telling": float(telling.detach())}
        if step >= ADVERSARIAL_FROM:
            deceiving = to_deceive(discriminator, y)
            weight = adaptive_weight(reconstruction, deceiving, autoencoder.decoder.conv_out.weight)
            loss = loss + ADVERSARIAL_WEIGHT * weight * deceiving
            figures |= {"deceiving": float(deceiving.detach()), "weight": float(weight)}
        return loss, figures

    return loss_of


def show(model: Duel, path: Path) -> dict[str, float]:
    return vae.show(model.autoencoder, path)


def decoding_half(autoencoder: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with all parameters frozen except the decoder's."""
    autoencoder.requires_grad_(False)
    autoencoder.decoder.requires_grad_(True)
    autoencoder.post_quant_conv.requires_grad_(True)
    return autoencoder


def run(folder: Path, recipe: Recipe = RECIPE):
    autoencoder = finished(folder / "vae", AutoencoderKL(VAE))
    pictures = rendered(folder / "twins.uint8", PICTURES, picture)
    torch.manual_seed(recipe.seed)
    model = Duel(decoding_half(autoencoder))
    loss = loss_with(pictures, features.trained(folder), recipe)
    train(folder / "decoder", model, recipe, loss, show, optimizer_of=muon)
