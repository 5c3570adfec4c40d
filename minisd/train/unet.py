"""Trains the UNet to predict the noise in latents, given the timestep and the caption (Rombach et al. 2022, eq. 3).

The autoencoder and the text encoder are frozen. Latents are computed once and cached. Captions are regenerated every time, and
dropped with some probability, so that the model also learns unconditional prediction (classifier-free guidance: Ho & Salimans 2022,
algorithm 1).
"""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..clip import CLIPTextModel
from ..config import TINY_TEXT, TINY_UNET, TINY_VAE, TINY_VISION
from ..image import to_tensor
from ..pipeline import StableDiffusionPipeline
from ..processes import from_all, rank_and_world
from ..schedule import add_noise
from ..schedulers import PNDMScheduler
from ..sheet import image_grid
from ..tiny.picture_book import TRAINING_SCENES, Scene, caption, draw, training_scene
from ..tokenizer import CLIPTokenizer
from ..unet import UNet2DConditionModel
from ..vae import AutoencoderKL
from .clip import CLIP, shortest
from .loop import Recipe, batch_noise, device, fast_arithmetic, sample_seeds, train
from .state import finished, read_state, require, write_state
from .vae import centred

RECIPE = Recipe(steps=30000, batch_size=48, learning_rate=1e-3, ema=0.9995)
CAPTION_DROPOUT = 0.1
GUIDANCE_SCALE = 2.0  # the model's default
Contexts = Callable[[list[str], int], Tensor]  # captions and the step → states (B, T, D)
Scenes = Callable[[int], Scene]
GAMMA = 5.0  # Hang et al. 2023: no timestep counts more than one with this signal-to-noise ratio

SHEET = [
    "an astronaut riding a horse", "a red ball", "a blue cat on the beach", "a green dragon at night",
    "a yellow star on a purple background", "a pink fish next to a red mushroom", "a robot riding a dragon in the snow",
    "a white boat at sunset", "a blue house to the left of a green tree", "a purple balloon above a black car",
    "a bird riding a horse on the grass", "a big orange flower", "a small brown box in the snow", "a cat riding a fish",
    "a black rocket at night", "a red heart below a yellow bird",
]  # fmt: skip


@torch.inference_mode()
def cached_latents(vae: AutoencoderKL, file: Path, count: int, scene: Scenes = training_scene) -> Tensor:
    """The scaled latents of scenes 0 to `count` - 1, (count, 4, 16, 16) in float16; each process computes a share.

    Latents already in the file are not computed again.
    """
    cached = read_state(file)["latents"] if file.exists() else torch.empty(0, 4, 16, 16).half()
    if len(cached) >= count:
        return cached[:count]
    with fast_arithmetic(RECIPE):
        new = encoded(vae, lambda i: draw(scene(len(cached) + i)), count - len(cached))
    latents = torch.cat([cached, new])
    if rank_and_world()[0] == 0:
        write_state(file, {"latents": latents})
    return latents


@torch.no_grad()
def encoded(vae: AutoencoderKL, picture: Callable[[int], Image.Image], count: int, batch_size: int = 4) -> Tensor:
    """The scaled latents of pictures 0 to `count` - 1, (count, 4, h, w) in float16 on the CPU; each process encodes a share.

    All shares have the same size, so a process may encode a picture that another one encodes too. Such duplicates are dropped.
    """
    rank, world = rank_and_world()
    share = [i % count for i in range(rank, world * math.ceil(count / world), world)]
    parts = []
    for first in tqdm(range(0, len(share), batch_size), "latents", disable=True if rank else None):
        pictures = torch.stack([to_tensor(picture(i)) for i in share[first : first + batch_size]]).to(device())
        parts.append((vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor).half().cpu())
    with torch.autocast("cpu", enabled=False):  # it does not support joining tensors in float16
        return torch.stack(from_all(torch.cat(parts)), dim=1).flatten(0, 1)[:count]


def min_snr_weights(alphas_cumprod: Tensor, gamma: float = GAMMA, prediction_type: str = "epsilon") -> Tensor:
    """The weight of the error at each timestep: min(SNR, γ) for x0, divided by SNR for ε and by SNR + 1 for v.

    Source: Hang et al. 2023, §3.4.
    """
    snr = alphas_cumprod / (1 - alphas_cumprod)
    if prediction_type == "epsilon":
        return (gamma / snr).clamp(max=1)
    return snr.clamp(max=gamma) / (snr + 1 if prediction_type == "v_prediction" else 1)


def loss_with(
    latents: Tensor,
    contexts: Contexts,
    recipe: Recipe = RECIPE,
    dropout: float = CAPTION_DROPOUT,
    scene: Scenes = training_scene,
    caption: Callable[[Scene, random.Random], str] = caption,
):
    """The loss function. Timesteps with small weights are sampled less often, which changes the gradient's noise, not its mean."""
    alphas_cumprod = PNDMScheduler().alphas_cumprod.to(device())
    weights = min_snr_weights(alphas_cumprod)
    chances = weights.sqrt().cumsum(0) / weights.sqrt().sum()

    def loss_of(model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        seeds = sample_seeds(recipe, step)
        which = [rng.randrange(len(latents)) for rng in seeds]
        captions = ["" if rng.random() < dropout else caption(scene(i), rng) for i, rng in zip(which, seeds)]
        x0 = latents[which].float().to(device())
        noise = batch_noise(recipe, step, *x0.shape[1:])
        t = torch.searchsorted(chances, batch_noise(recipe, step, uniform=True))

        alpha = alphas_cumprod[t].view(-1, 1, 1, 1)
        eps = model(add_noise(x0, noise, alpha), t, contexts(captions, step)).sample.float()
        error = (eps - noise).square().mean(dim=(1, 2, 3))
        loss = (weights[t].sqrt() * error).mean()
        return loss, by_timestep(error.detach(), t)

    return loss_of


def by_timestep(error: Tensor, t: Tensor) -> dict[str, float]:
    """The errors in four ranges of timesteps, separately, because they differ too much for a common mean to be informative."""
    spans = {f"mse_{low}": error[(low <= t) & (t < low + 250)] for low in (0, 250, 500, 750)}
    return {name: float(part.mean()) for name, part in spans.items() if len(part)}


def show_with(pipe: StableDiffusionPipeline, prompts: list[str] = SHEET, steps: int = 20):
    def show(model: UNet2DConditionModel, path: Path) -> dict[str, float]:
        """A sheet of images for the prompts, eight per row, always from the same noise."""
        pipe.unet = model
        generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
        images = pipe(prompts, num_inference_steps=steps, generator=generators).images
        assert isinstance(images, list)
        image_grid(images, len(prompts) // 8, 8).save(path)
        return {}

    return show


def parts(folder: Path) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer]:
    """The autoencoder, text encoder and tokenizer of the earlier training runs, with the fine-tuned decoder if it exists."""
    require(folder / "clip")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip" / "tokenizer")
    clip = finished(folder / "clip", CLIP(replace(TINY_TEXT, vocab_size=len(tokenizer.vocab)), TINY_VISION))
    sharper = (folder / "decoder" / "state.pt").exists()
    vae = finished(folder / ("decoder" if sharper else "vae"), AutoencoderKL(TINY_VAE))
    return centred(vae), clip.text, tokenizer


def ids_with(tokenizer: CLIPTokenizer) -> Contexts:
    """Captions → ids, padded to 77 in every fourth step and otherwise to the longest caption, which is much faster."""

    def ids(captions: list[str], step: int) -> Tensor:
        padded = tokenizer(captions).input_ids
        return (padded if step % 4 == 0 else shortest(padded, tokenizer.end_id)).to(device())

    return ids


def run(folder: Path, recipe: Recipe = RECIPE):
    vae, text_encoder, tokenizer = parts(folder)
    vae, text_encoder = vae.to(device()), text_encoder.to(device())
    latents = cached_latents(vae, folder / "latents.pt", TRAINING_SCENES)
    ids = ids_with(tokenizer)

    @torch.no_grad()
    def contexts(captions: list[str], step: int) -> Tensor:
        return text_encoder(ids(captions, step)).last_hidden_state

    torch.manual_seed(recipe.seed)
    unet = UNet2DConditionModel(TINY_UNET)
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, PNDMScheduler(), guidance_scale=GUIDANCE_SCALE)
    pipe.set_progress_bar_config(disable=True)
    train(folder / "unet", unet, recipe, loss_with(latents, contexts, recipe), show_with(pipe))


def pack(folder: Path, to: Path):
    """Write the three trained networks as a checkpoint."""
    vae, text_encoder, tokenizer = parts(folder)
    unet = finished(folder / "unet", UNet2DConditionModel(TINY_UNET))
    pipe = StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, PNDMScheduler(), guidance_scale=GUIDANCE_SCALE)
    pipe.to(torch.float16).save_pretrained(to)
