"""Trains the autoencoder: it compresses an image to 1/48 of its numbers and reconstructs it (Rombach et al. 2022, §3.1)."""

import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TINY_VAE
from ..image import to_pil, to_tensor
from ..sheet import image_grid
from ..tiny.picture_book import Scene, draw, sample
from ..vae import AutoencoderKL
from .loop import Recipe, batch_noise, device, sample_seeds, train

RECIPE = Recipe(steps=11000, batch_size=16, learning_rate=1.5e-3, ema=0.998)
KL_WEIGHT = 2e-3  # per latent element, relative to an error per colour value
COLOR_STEPS = 1500  # steps in which three of the four latent channels are pulled towards the image's colours
CROP = 64


def crop_near_a_thing(scene: Scene, rng: random.Random) -> Tensor:
    """A square crop that contains a thing, since empty sky and sand teach little."""
    thing = rng.choice(scene.things)
    picture = draw(scene)
    corner = [int(min(max(at + rng.uniform(-0.2, 0.2), 0), 1) * 128 - CROP / 2) for at in (thing.x, thing.y)]
    left, top = (min(max(at, 0), 128 - CROP) for at in corner)
    return to_tensor(picture.crop((left, top, left + CROP, top + CROP)))


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """The mean absolute error of the pixels, of differences between neighbouring pixels, and of the images downsampled by 4."""
    pixels = (y - x).abs().mean()
    outlines = sum((a - b).abs().mean() for a, b in zip(edges(y), edges(x)))
    blobs = (F.avg_pool2d(y, 4) - F.avg_pool2d(x, 4)).abs().mean()
    return pixels + outlines + blobs


def loss_with(recipe: Recipe):
    def loss_of(model: AutoencoderKL, step: int) -> tuple[Tensor, dict[str, float]]:
        x = torch.stack([crop_near_a_thing(sample(rng), rng) for rng in sample_seeds(recipe, step)]).to(device())
        posterior = model.encode(x).latent_dist
        noise = batch_noise(recipe, step, *posterior.mean.shape[1:])
        y = model.decode(posterior.mean + posterior.std * noise).sample.float()
        reconstruction = reconstruction_loss(y, x)
        kl = posterior.kl().mean() / noise[0].numel()
        loss = reconstruction + KL_WEIGHT * kl
        if step < COLOR_STEPS:
            colors = 2 * F.avg_pool2d(x, 8)
            loss = loss + (1 - step / COLOR_STEPS) * (posterior.mean[:, :3] - colors).abs().mean()
        mse = ((y - x) / 2).square().mean()
        figures = {"reconstruction": reconstruction, "kl": kl, "psnr": -10 * mse.log10(), "std": posterior.std.mean()}
        return loss, {name: float(value.detach()) for name, value in figures.items()}

    return loss_of


@torch.inference_mode()
def show(model: AutoencoderKL, path: Path) -> dict[str, float]:
    """Save a sheet of fresh images above their reconstructions. Return the mean PSNR of 64 images, in dB, and latent statistics."""
    x = torch.stack([to_tensor(draw(sample(random.Random(f"sheet/{i}")))) for i in range(64)]).to(device())
    moments = [model.encode(part).latent_dist for part in x.split(8)]
    y = torch.cat([model.decode(m.mean).sample for m in moments]).clamp(-1, 1)
    latents = torch.cat([m.mean for m in moments])
    image_grid(to_pil(torch.cat([x[:8], y[:8], x[8:16], y[8:16]])), 4, 8).save(path)
    psnr = -10 * ((y - x) / 2).square().mean(dim=(1, 2, 3)).log10()
    channels = {f"mean{i}": float(latents[:, i].mean()) for i in range(latents.shape[1])}
    return {"sheet_psnr": float(psnr.mean()), "latent_std": float(latents.std()), **channels}


def centred(model: AutoencoderKL, pictures: int = 512) -> AutoencoderKL:
    """The autoencoder with latents of mean 0 and variance 1, measured on this many scenes."""
    scenes = (sample(random.Random(f"scale/{i}")) for i in range(pictures))
    return centred_on(torch.stack([to_tensor(draw(scene)) for scene in scenes]), model)


@torch.no_grad()
def centred_on(x: Tensor, model: AutoencoderKL) -> AutoencoderKL:
    """The autoencoder with latents of mean 0 for the images `x`, and with the scaling factor that gives them variance 1.

    The mean is subtracted after the encoder's last 1×1 convolution and added back before the decoder's first: only biases change.
    """
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in x.split(16)])
    mean = latents.mean(dim=(0, 2, 3))
    last, first = model.quant_conv, model.post_quant_conv
    assert last.bias is not None and first.bias is not None
    first.bias += first.weight[:, :, 0, 0] @ mean
    last.bias[: len(mean)] -= mean
    model.config = replace(model.config, scaling_factor=round(1 / float((latents - mean.view(1, -1, 1, 1)).std()), 5))
    return model


def run(folder: Path, recipe: Recipe = RECIPE):
    torch.manual_seed(recipe.seed)
    train(folder / "vae", AutoencoderKL(TINY_VAE), recipe, loss_with(recipe), show)
