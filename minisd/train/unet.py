"""Training the UNet: guess the noise in latents, given the time and the caption (Ho et al. 2020, algorithm 1; Rombach et al. 2022, eq. 3).

The autoencoder and the text encoder are finished and stay as they are. Latents are computed once and kept; captions are made
anew every time, and now and then left out, so that the model also learns what pictures look like that nobody asked for
(classifier-free guidance: Ho & Salimans 2022, algorithm 1).
"""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..image import to_tensor
from ..schedule import add_noise
from ..schedulers import DDIMScheduler
from ..tiny.picture_book import Scene, caption, draw, sample
from ..vae import AutoencoderKL
from .loop import Recipe, batch_noise, sample_seeds, write_atomically

RECIPE = Recipe(steps=30000, batch_size=32, learning_rate=8e-4, ema=0.9995)
SCENES = 120_000
CAPTION_DROPOUT = 0.1
GAMMA = 5.0  # Hang et al. 2023: no timestep counts more than one with this signal-to-noise ratio

SHEET = [
    "an astronaut riding a horse", "a red ball", "a blue cat on the beach", "a green dragon at night",
    "a yellow star on a purple background", "a pink fish next to a red mushroom", "a robot riding a dragon in the snow",
    "a white boat at sunset", "a blue house to the left of a green tree", "a purple balloon above a black car",
    "a bird riding a horse on the grass", "a big orange flower", "a small brown box in the snow", "a cat riding a fish",
    "a black rocket at night", "a red heart below a yellow bird",
]  # fmt: skip


def scene_number(i: int) -> Scene:
    return sample(random.Random(f"unet/{i}"))


@torch.inference_mode()
def cached_latents(vae: AutoencoderKL, file: Path, count: int = SCENES) -> Tensor:
    """The scaled latents of the first `count` scenes, (count, 4, 16, 16) in float16: computed once, then read from the file."""
    if file.exists():
        return torch.load(file, weights_only=True)["latents"]
    parts = []
    for first in tqdm(range(0, count, 16), desc="latents"):
        pictures = torch.stack([to_tensor(draw(scene_number(i))) for i in range(first, min(first + 16, count))])
        parts.append((vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor).half())
    latents = torch.cat(parts)
    write_atomically(file, {"latents": latents})
    return latents


def loss_with(latents: Tensor, contexts: Callable[[list[str]], Tensor], recipe: Recipe = RECIPE):
    alphas_cumprod = DDIMScheduler().alphas_cumprod

    def loss_of(model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        seeds = sample_seeds(recipe, step)
        which = [rng.randrange(len(latents)) for rng in seeds]
        captions = ["" if rng.random() < CAPTION_DROPOUT else caption(scene_number(i), rng) for i, rng in zip(which, seeds)]
        x0 = latents[which].float()
        noise = batch_noise(recipe, step, *x0.shape[1:])
        t = (1000 * batch_noise(recipe, step, uniform=True)).long()

        alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = model(add_noise(x0, noise, alpha), t, contexts(captions)).sample.float()
        error = (eps - noise).square().mean(dim=(1, 2, 3))
        signal_to_noise = (alpha / (1 - alpha)).flatten()
        loss = (error * (GAMMA / signal_to_noise).clamp(max=1)).mean()
        return loss, {"mse": float(error.detach().mean()), **by_timestep(error.detach(), t)}

    return loss_of


def by_timestep(error: Tensor, t: Tensor) -> dict[str, float]:
    """The error at early, middle and late times apart: their sizes differ so much that a mean over all hides what goes on."""
    spans = {f"mse_{low}": error[(low <= t) & (t < low + 250)] for low in (0, 250, 500, 750)}
    return {name: float(part.mean()) for name, part in spans.items() if len(part)}
