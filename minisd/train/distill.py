"""Consistency distillation: a LoRA that makes a finished UNet draw in four steps (Luo et al. 2023, algorithm 1).

A sampler follows a curve from noise to a picture in small steps. The student learns to jump from any point of a curve to its end.
Nobody has computed that end, but all points of a curve share it. So the teacher takes one guided step of DDIM, from t to t − 60,
and the jump from t should land where the jump from t − 60 lands. At t = 0 the jump leaves the latents as they are. During
training, the right answer spreads from there to all timesteps.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from ..adapters.lora import LoRA, attach, layers_of
from ..adapters.lora_writer import lora_tensors
from ..disk import replacing
from ..pipeline import StableDiffusionPipeline, guide
from ..processes import rank_and_world
from ..schedule import add_noise, to_x0, transfer
from ..schedulers.lcm import LCMScheduler, end_of_curve
from ..tiny.picture_book import caption, training_scene
from ..unet import UNet2DConditionModel
from ..weights.safetensors import write_tensors
from .loop import Recipe, batch_noise, device, sample_seeds, train
from .unet import Scenes, cached_latents, ids_with, show_with

RECIPE = Recipe(steps=1000, batch_size=16, learning_rate=1e-3, warmup=100, decay=0.5, weight_decay=0, ema=0.99)
RANK = 20  # of every layer's LoRA: 2.9 MB in float16
SCENES = 4000  # number of scenes whose latents are noised for training
SKIP = 60  # timesteps between the two points: 17 of the teacher's steps make a picture
HUBER = 0.01  # errors below it count quadratically, larger ones linearly (Song & Dhariwal 2023, §3.3)
STEPS = 4
FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers gives the file of a LoRA


def student_of(unet: UNet2DConditionModel, rank: int = RANK) -> UNet2DConditionModel:
    """A copy of the network in which only LoRAs learn, one beside each layer."""
    student = copy.deepcopy(unet).requires_grad_(False)
    for layer in layers_of(student).values():
        attach(layer, LoRA(layer, rank))
    return student


def loss_with(pipe: StableDiffusionPipeline, latents: Tensor, scene: Scenes = training_scene, recipe: Recipe = RECIPE):
    """The loss: how far apart the jumps from two neighbouring points land. The jump from the less noisy one is the target."""
    scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    config, alphas_cumprod = scheduler.config, scheduler.alphas_cumprod.to(device())
    ids = ids_with(pipe.tokenizer)

    def loss_of(student: UNet2DConditionModel, step: int) -> tuple[Tensor, dict[str, float]]:
        seeds = sample_seeds(recipe, step)
        which = [rng.randrange(len(latents)) for rng in seeds]
        captions = [caption(scene(i), rng) for i, rng in zip(which, seeds)]
        with torch.no_grad():
            context = pipe.text_encoder(ids([""] * len(captions) + captions, step)).last_hidden_state
        prompt = context[len(captions) :]

        x0 = latents[which].float().to(device())
        t = (batch_noise(recipe, step, uniform=True) * config.num_train_timesteps).long()
        t_next = (t - SKIP).clamp(min=0)
        alpha, alpha_next = (alphas_cumprod[at].view(-1, 1, 1, 1) for at in (t, t_next))
        x = add_noise(x0, batch_noise(recipe, step, *x0.shape[1:]), alpha)

        def jump(x: Tensor, t: Tensor, alpha: Tensor) -> Tensor:
            eps = student(x, t, prompt).sample.float()
            return end_of_curve(x, to_x0(x, eps, alpha), t.view(-1, 1, 1, 1) * config.timestep_scaling)

        with torch.no_grad():
            eps_uncond, eps_cond = pipe.unet(torch.cat([x, x]), torch.cat([t, t]), context).sample.float().chunk(2)
            eps = guide(eps_uncond, eps_cond, pipe.guidance_scale)
            right = jump(transfer(x, eps, alpha, alpha_next), t_next, alpha_next)
        error = jump(x, t, alpha) - right
        loss = ((error.square() + HUBER**2).sqrt() - HUBER).mean()
        return loss, {"distance": float(error.detach().square().mean().sqrt())}

    return loss_of


def run(folder: Path, recipe: Recipe = RECIPE, model: str = "tiny"):
    pipe = StableDiffusionPipeline.from_pretrained(model).to(device())
    pipe.set_progress_bar_config(disable=True)
    latents = cached_latents(pipe.vae, folder / "distill_latents.pt", SCENES)
    torch.manual_seed(recipe.seed)
    student = student_of(pipe.unet)
    fast = StableDiffusionPipeline(**{**pipe.components, "unet": student, "scheduler": LCMScheduler()}, guidance_scale=1.0)
    fast.set_progress_bar_config(disable=True)
    trained = train(folder / "distill", student, recipe, loss_with(pipe, latents, recipe=recipe), show_with(fast, steps=STEPS))
    if rank_and_world()[0] == 0:
        with replacing(folder / "distill" / FILE) as partial:
            write_tensors(partial, lora_tensors("unet", trained), torch.float16)
