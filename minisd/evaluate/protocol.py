"""The protocol: measure the judges, then the model, then controls, in which nothing should be right.

A painter is a function from prompts to images: the model, the picture book's renderer, or the renderer followed by the model's VAE.
Renders are known to be correct, so every miss there is a false negative of the judge. Near misses are known to be wrong, so every
hit there is a false positive.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..image import to_tensor
from ..noise import randn
from ..pipeline import StableDiffusionPipeline
from ..processes import objects_from_all, rank_and_world
from ..tiny.picture_book import draw, training_scene
from ..tiny.twins import twin
from ..vae import AutoencoderKL
from .findings import Finding, Judge, is_right
from .prompts import Prompt
from .wear import worn

Painter = Callable[[list[Prompt]], Tensor]  # prompts → images (B, 3, 128, 128) in [-1, 1]
Sets = Mapping[str, list[Prompt]]
BATCH = 8
CONTROLLED = "one thing"  # the set of prompts for the controls


@dataclass(frozen=True)
class Evaluation:
    """The findings of every judge in the images of every painter."""

    sets: Sets
    calibration: dict[str, dict[str, dict[str, list[Finding]]]]  # painter with known errors → judge → set → findings
    judged: dict[str, dict[str, list[Finding]]]  # judge → set → findings
    controls: dict[str, dict[str, list[Finding]]]  # control → judge → findings
    psnr: float  # of round trips through the VAE, in dB
    nearest: dict[str, Tensor]  # source of images → distance of each image to the nearest training image
    pictures: dict[str, Tensor]  # set → the model's images


def render(prompts: list[Prompt]) -> Tensor:
    """A painter without errors."""
    return torch.stack([to_tensor(draw(prompt.scene)) for prompt in prompts])


def render_worn(prompts: list[Prompt]) -> Tensor:
    """Renders with half the distortion, blur and noise that the second judge was trained on."""
    pictures = render(prompts)
    noise = randn(pictures.shape, torch.Generator().manual_seed(0))
    return worn(pictures, noise, pictures.new_full((len(pictures), 3), 0.5)).clamp(-1, 1)


def render_near_misses(prompts: list[Prompt]) -> Tensor:
    """A painter that always makes one error: in a colour, a thing, the place or the arrangement."""
    others = []
    for prompt in prompts:
        rng = random.Random(f"near miss/{prompt.text}/{prompt.seed}")
        while is_right(Finding((other := twin(prompt.scene, rng)).things, other.place), prompt.scene):
            pass
        others.append(Prompt(prompt.text, prompt.seed, other))
    return render(others)


def through(vae: AutoencoderKL) -> Painter:
    """A painter that passes renders through a VAE: an upper bound for any model that uses this VAE."""

    @torch.inference_mode()
    def paint(prompts: list[Prompt]) -> Tensor:
        weight = vae.post_quant_conv.weight
        latents = (vae.encode(part.to(weight)).latent_dist.mode() for part in render(prompts).split(BATCH))
        return torch.cat([vae.decode(z).sample.float().cpu() for z in latents]).clamp(-1, 1)

    return paint


def painter(pipe: StableDiffusionPipeline, steps: int | None, guidance_scale: float | None, words: bool = True) -> Painter:
    """A model as a painter; without `words`, it gets no prompt. Under torchrun, each process draws a share."""

    def paint(prompts: list[Prompt]) -> Tensor:
        rank, world = rank_and_world()
        mine = range(rank, len(prompts), world)
        pictures: dict[int, Tensor] = {}
        for first in tqdm(range(0, len(mine), BATCH), desc="pictures", leave=False, disable=rank > 0):
            batch = mine[first : first + BATCH]
            images = pipe(
                [prompts[i].text if words else "" for i in batch],
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=[torch.Generator().manual_seed(prompts[i].seed) for i in batch],
                output_type="pt",
            ).images
            assert isinstance(images, Tensor)
            pictures |= dict(zip(batch, 2 * images.cpu() - 1))
        shares = objects_from_all(pictures)
        return torch.stack([shares[i % world][i] for i in range(len(prompts))])

    return paint


def evaluate(
    vae: AutoencoderKL,
    model: Painter,
    controls: Mapping[str, Painter],
    judges: Mapping[str, Judge],
    sets: Sets,
    training: int,
) -> Evaluation | None:
    """Run the whole protocol. Under torchrun, only the first process returns the result.

    `training` is the number of training scenes to search for the one nearest to each image.
    """
    leads = rank_and_world()[0] == 0
    painters = calibration_painters(vae) if leads else {}
    fresh = {painter: {name: paint(sets[name]) for name in sets} for painter, paint in painters.items()}
    calibration = {painter: judge_all(judges, pictures) for painter, pictures in fresh.items()}
    pictures = {name: model(prompts) for name, prompts in sets.items()}
    controlled = {name: paint(sets[CONTROLLED]) for name, paint in controls.items()}
    if not leads:
        return None
    judged = judge_all(judges, pictures)
    findings = {name: {judge: look(part) for judge, look in judges.items()} for name, part in controlled.items()}
    everything = {name: torch.cat(list(part.values())) for name, part in [*fresh.items(), ("the model's", pictures)]}
    samples = {"fresh renders": everything["round trips"], "the model's": everything["the model's"]}
    repeated = [Prompt("", 0, training_scene(i)) for i in random.Random(0).sample(range(training), min(200, training))]
    nearest = nearest_training_picture({"training pictures": through(vae)(repeated), **samples}, training)
    psnr = float(-10 * ((everything["round trips"] - everything["renders"]) / 2).square().mean(dim=(1, 2, 3)).log10().mean())
    return Evaluation(sets, calibration, judged, findings, psnr, nearest, pictures)


def calibration_painters(vae: AutoencoderKL) -> dict[str, Painter]:
    """Painters whose errors are known: the first three make none, the last makes one in each image."""
    return {"renders": render, "worn": render_worn, "round trips": through(vae), "near misses": render_near_misses}


def judge_all(judges: Mapping[str, Judge], pictures: Mapping[str, Tensor]) -> dict[str, dict[str, list[Finding]]]:
    return {judge: {name: look(part) for name, part in pictures.items()} for judge, look in judges.items()}


def thumbnails(pictures: Tensor) -> Tensor:
    """Images of any size → 16×16 thumbnails, (B, 16·16·3) values from 0 to 255."""
    return (F.adaptive_avg_pool2d(pictures, 16).flatten(1) + 1) * 127.5


def nearest_training_picture(samples: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The distance of each image to the nearest of the first `count` training scenes: the root mean square difference of 16×16
    thumbnails, 0 to 255. The images of a model that memorises are nearer to its training data than fresh images are."""
    small = {name: thumbnails(pictures) for name, pictures in samples.items()}
    least = {name: pictures.new_full((len(pictures),), torch.inf) for name, pictures in samples.items()}
    for first in tqdm(range(0, count, 1000), desc="training pictures", leave=False):
        scenes = [training_scene(i) for i in range(first, min(first + 1000, count))]
        training = thumbnails(torch.stack([to_tensor(draw(scene, 32)) for scene in scenes]))
        for name, pictures in small.items():
            distance = torch.cdist(pictures, training).amin(dim=1) / pictures.shape[1] ** 0.5
            least[name] = torch.minimum(least[name], distance)
    return least
