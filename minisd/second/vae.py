"""Trains the autoencoder: it compresses an image to 1/48 of its numbers and reconstructs it (Rombach et al. 2022, §3.1).

The first edition's autoencoder is the starting point. Encoder and decoder are trained together with a pixel loss, a perceptual loss
(see `features`) and a small KL loss. The fourth part of the recipe, the discriminator, follows in `decoder`.
"""

import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import TINY_VAE
from ..image import to_pil, to_tensor
from ..sheet import image_grid
from ..train.loop import Recipe, batch_noise, device, sample_seeds, train
from ..train.vae import reconstruction_loss
from ..vae import AutoencoderKL
from . import features
from .drawing import draw
from .evaluate.variety import edge_energy
from .features import CROP, PICTURES, Features, crop_near
from .muon import muon
from .picture_book import sample
from .pictures import SIDE, as_tensor, rendered
from .twins import picture

RECIPE = Recipe(steps=5000, batch_size=16, learning_rate=1e-3, ema=0.998, decay=0.5)
VAE = TINY_VAE
KL_WEIGHT = 1e-3  # per latent element, relative to an error per colour value
PERCEPTUAL_WEIGHT = 0.1
TEST = 64


def crop(pictures: np.ndarray, rng: random.Random) -> np.ndarray:
    """A square crop, usually one that contains a thing, since empty sky and sand teach little."""
    i = rng.randrange(len(pictures))
    if rng.random() < 0.75:
        return crop_near(rng.choice(picture(i).things), pictures[i], rng)
    top, left = (rng.randint(0, SIDE - CROP) for _ in range(2))
    return pictures[i, top : top + CROP, left : left + CROP]


def loss_with(pictures: np.ndarray, eyes: Features, recipe: Recipe = RECIPE):
    def loss_of(model: AutoencoderKL, step: int) -> tuple[Tensor, dict[str, float]]:
        x = as_tensor(np.stack([crop(pictures, rng) for rng in sample_seeds(recipe, step)])).to(device())
        posterior = model.encode(x).latent_dist
        noise = batch_noise(recipe, step, *posterior.mean.shape[1:])
        y = model.decode(posterior.mean + posterior.std * noise).sample.float()
        reconstruction, perceptual = reconstruction_loss(y, x), eyes.distance(y, x)
        kl = posterior.kl().mean() / noise[0].numel()
        loss = reconstruction + PERCEPTUAL_WEIGHT * perceptual + KL_WEIGHT * kl
        figures = {"reconstruction": reconstruction, "perceptual": perceptual, "kl": kl, "std": posterior.std.mean()}
        return loss, {"psnr": psnr(y, x)} | {name: float(value.detach()) for name, value in figures.items()}

    return loss_of


def psnr(y: Tensor, x: Tensor) -> float:
    """The peak signal-to-noise ratio of images in [-1, 1], in dB."""
    return float(-10 * ((y - x) / 2).detach().square().mean().log10())


@torch.inference_mode()
def show(model: AutoencoderKL, path: Path) -> dict[str, float]:
    """Write a sheet of fresh images above their reconstructions; return the mean PSNR and edge energy, also per style."""
    scenes = [sample(random.Random(f"sheet/{i}")) for i in range(TEST)]
    x = torch.stack([to_tensor(draw(scene)) for scene in scenes]).to(device())
    latents = torch.cat([model.encode(part).latent_dist.mode() for part in x.split(8)])
    y = torch.cat([model.decode(part).sample for part in latents.split(8)]).clamp(-1, 1)
    image_grid(to_pil(torch.cat([x[:8], y[:8], x[8:16], y[8:16]])), 4, 8).save(path)

    of_style, edges_of_style = defaultdict(list), defaultdict(list)
    for scene, made, true in zip(scenes, y, x):
        of_style[scene.style].append(psnr(made, true))
        edges_of_style[scene.style].append((edge_energy(made), edge_energy(true)))
    figures = {"sheet_psnr": sum(map(sum, of_style.values())) / TEST, "sheet_edges": edge_energy(y) / edge_energy(x)}
    figures |= {f"psnr {style}": sum(of) / len(of) for style, of in sorted(of_style.items())}
    figures |= {f"edges {style}": sum(a for a, _ in of) / sum(b for _, b in of) for style, of in sorted(edges_of_style.items())}
    return figures | {"latent_std": float(latents.std())}


def run(folder: Path, recipe: Recipe = RECIPE):
    pictures = rendered(folder / "twins.uint8", PICTURES, picture)
    first_edition = AutoencoderKL.from_pretrained("tiny", subfolder="vae").requires_grad_(True)
    loss = loss_with(pictures, features.trained(folder), recipe)
    train(folder / "vae", first_edition, recipe, loss, show, optimizer_of=muon)
