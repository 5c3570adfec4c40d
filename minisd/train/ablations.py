"""Ablations: short UNet training runs that differ from the recipe in one respect, and how well each result follows prompts.

    python -m minisd.train ablations      # an hour or two; resumes after an interruption

All runs use the built-in model's text encoder and autoencoder, and train on the same scenes of one thing each, in the same order,
from the same initial weights.
"""

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..clip import CLIPTextModel
from ..config import TINY_UNET
from ..evaluate import geometry
from ..evaluate.prompts import prompts_of
from ..evaluate.protocol import painter
from ..evaluate.rates import rate, right, skills
from ..pipeline import StableDiffusionPipeline
from ..processes import rank_and_world
from ..schedulers import PNDMScheduler
from ..tiny.picture_book import Scene, compose, is_held_out
from ..unet import UNet2DConditionModel, UNet2DConditionOutput
from .clip import begin_small
from .loop import Recipe, device, train
from .state import finished
from .unet import CAPTION_DROPOUT, GUIDANCE_SCALE, cached_latents, ids_with, loss_with

# The learning rate decays little at the end, because decay also averages weights and would hide the effect of the moving average.
RECIPE = Recipe(steps=4000, batch_size=16, learning_rate=1e-3, ema=0.998, decay=0.01)
SCENES = 10_000
PROMPTS, STEPS, SCALES = 60, 20, (1.0, GUIDANCE_SCALE)


@dataclass(frozen=True)
class Variant:
    """How a training run differs from the recipe."""

    dropout: float = CAPTION_DROPOUT
    scaling_factor: float | None = None  # of the latents; None gives them variance 1
    averaged: bool = True  # False draws with the last weights instead of their moving average
    joint: bool = False  # whether the text encoder is trained from scratch with the UNet's loss


VARIANTS = {
    "as it is": Variant(),
    "weights not averaged": Variant(averaged=False),
    "no caption dropped": Variant(dropout=0.0),
    "latents too small": Variant(scaling_factor=0.18215),  # Stable Diffusion's own factor, which fits another autoencoder
    "text encoder trained jointly": Variant(joint=True),
}


def one_thing(i: int) -> Scene:
    rng = random.Random(f"one thing/{i}")
    while is_held_out(scene := compose(rng, "")):
        pass
    return scene


class Joint(nn.Module):
    """UNet and text encoder as one network: latents (B, 4, h, w), timesteps (B,), ids (B, T) → noise (B, 4, h, w)."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel):
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> UNet2DConditionOutput:
        return self.unet(x, t, self.text_encoder(ids).last_hidden_state)


def run(folder: Path, recipe: Recipe = RECIPE):
    """Train every variant and write its success rates to `folder/ablations/ablations.json`."""
    place = folder / "ablations"
    place.mkdir(parents=True, exist_ok=True)
    built_in = StableDiffusionPipeline.from_pretrained("tiny").to(device())
    vae, text_encoder, tokenizer = built_in.vae, built_in.text_encoder, built_in.tokenizer
    own, latents, results = vae.config.scaling_factor, cached_latents(vae, place / "latents.pt", SCENES, one_thing), {}
    for name, variant in VARIANTS.items():
        torch.manual_seed(recipe.seed)
        model = Joint(UNet2DConditionModel(TINY_UNET), CLIPTextModel(text_encoder.config))
        begin_small(model.text_encoder)
        if not variant.joint:
            model.text_encoder.load_state_dict(text_encoder.state_dict())
            model.text_encoder.requires_grad_(False)
        vae.config = replace(vae.config, scaling_factor=variant.scaling_factor or own)
        scaled = latents * (vae.config.scaling_factor / own)
        trained_as = next(name for name, other in VARIANTS.items() if other == replace(variant, averaged=True))
        training = place / trained_as.replace(" ", "-")
        train(training, model, recipe, loss_with(scaled, ids_with(tokenizer), recipe, variant.dropout, one_thing))

        finished(training, model, variant.averaged)
        pipe = StableDiffusionPipeline(vae, model.text_encoder, tokenizer, model.unet, PNDMScheduler())
        results[name] = {f"guidance {scale:g}": drawn_right(pipe.to(device()), scale) for scale in SCALES}
        if rank_and_world()[0] == 0:
            (place / "ablations.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def drawn_right(pipe: StableDiffusionPipeline, guidance_scale: float) -> dict[str, tuple[int, int]]:
    """Count the images that are right in everything, and in each skill, for prompts with one thing; each count with the total."""
    pipe.set_progress_bar_config(disable=True)
    prompts = prompts_of("one thing", PROMPTS, 10_000, series="tuning")
    found = geometry.judge(painter(pipe, STEPS, guidance_scale)(prompts))
    rates = {"all": rate(right(found, prompts)), **skills(found, prompts)}
    return {name: (rate.right, rate.of) for name, rate in rates.items()}
