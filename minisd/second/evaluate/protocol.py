"""The protocol: measure the judges on images whose errors are known, then the model, then controls.

A painter is a function from prompts to images: the model, the picture book's renderer, or the renderer followed by the model's VAE.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ...evaluate.protocol import thumbnails
from ...evaluate.wear import worn
from ...image import to_tensor
from ...noise import randn
from ...pipeline import StableDiffusionPipeline
from ...processes import objects_from_all, rank_and_world
from ...vae import AutoencoderKL
from ..drawing import draw
from ..findings import Finding, verdict
from ..picture_book import Request, Scene
from ..twins import RESPECTS, all_of, changed, is_true
from ..unet import scene_number
from .prompts import Prompt, repeated
from .rates import Judge, Verdict
from .variety import diversity, edge_energy, render_of

Painter = Callable[[list[Prompt]], Tensor]  # prompts → images (B, 3, 128, 128) in [-1, 1]
Sets = Mapping[str, list[Prompt]]
BATCH = 8
CONTROLLED = "everything about one thing"  # the set of prompts for the controls
OPEN_KINDS = ("cat", "boat")  # "a cat" and "a boat" leave everything else open
SEEDS = 64
NEGATIVES: dict[str, Callable[[Finding], bool]] = {  # negative prompt: what images of "a cat" should no longer show
    "night": lambda found: found.place == "night",
    "pencil drawing": lambda found: found.style == "pencil",
}


@dataclass(frozen=True)
class Evaluation:
    """The verdicts of every judge on the images of every painter."""

    sets: Sets
    calibration: dict[str, dict[str, dict[str, list[Verdict]]]]  # painter with known errors → judge → set → verdicts
    judged: dict[str, dict[str, list[Verdict]]]  # judge → set → verdicts
    chance: dict[str, dict[str, list[Verdict]]]  # judge → set → verdicts of each image with the next prompt
    controls: dict[str, dict[str, list[Verdict]]]  # control → judge → verdicts
    diversity: dict[str, dict[str, float]]  # kind → open trait → share of the book's entropy
    negatives: dict[str, tuple[int, int, int]]  # negative prompt → images that show it without and with it, and images
    psnr: float  # of round trips through the VAE, in dB
    edges: dict[str, float]  # painter → edge energy as a share of the renders'
    nearest: dict[str, Tensor]  # source of images → distance of each image to the nearest training image
    pictures: dict[str, Tensor]  # set → the model's images


def render(prompts: list[Prompt]) -> Tensor:
    """A painter without errors. What the prompt does not mention is random."""
    return torch.stack([to_tensor(draw(render_of(prompt.request, prompt.seed))) for prompt in prompts])


def render_worn(prompts: list[Prompt]) -> Tensor:
    """Renders with half the distortion, blur and noise that the first judge was trained on."""
    pictures = render(prompts)
    noise = randn(pictures.shape, torch.Generator().manual_seed(0))
    return worn(pictures, noise, pictures.new_full((len(pictures), 3), 0.5)).clamp(-1, 1)


def render_near_misses(prompts: list[Prompt]) -> Tensor:
    """A painter that makes exactly one error in each image, in something that the prompt mentions."""
    return torch.stack([to_tensor(draw(near_miss(prompt))) for prompt in prompts])


def near_miss(prompt: Prompt) -> Scene:
    """A scene that differs from the prompt in one respect that the prompt mentions."""
    rng = random.Random(f"near miss/{prompt.text}/{prompt.seed}")
    while True:
        scene = render_of(prompt.request, rng.getrandbits(31))
        other = changed(all_of(scene), rng.choice(list(RESPECTS)), rng)
        if not is_true(prompt.request, miss := render_of(other, rng.getrandbits(31))):
            return miss


def through(vae: AutoencoderKL) -> Painter:
    """A painter that passes renders through a VAE: an upper bound for any model that uses this VAE."""
    return lambda prompts: round_trip(vae, render(prompts))


@torch.inference_mode()
def round_trip(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    weight = vae.post_quant_conv.weight
    latents = (vae.encode(part.to(weight)).latent_dist.mode() for part in pictures.split(BATCH))
    return torch.cat([vae.decode(z).sample.float().cpu() for z in latents]).clamp(-1, 1)


def painter(
    pipe: StableDiffusionPipeline, steps: int | None, scale: float | None, negative: str = "", words: bool = True
) -> Painter:
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
                guidance_scale=scale,
                negative_prompt=[negative] * len(batch),
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
    negatives: Mapping[str, Painter],
    judges: Mapping[str, Judge],
    look: Callable[[Tensor], list[Finding]],
    sets: Sets,
    training: int,
) -> Evaluation | None:
    """Run the whole protocol. Under torchrun, only the first process returns the result.

    `negatives` are painters with the negative prompts in `NEGATIVES`, `look` returns what is found in images, and `training` is the
    number of training scenes to search for the one nearest to each image.
    """
    leads = rank_and_world()[0] == 0
    painters = calibration_painters(vae) if leads else {}
    fresh = {painter: {name: paint(sets[name]) for name in sets} for painter, paint in painters.items()}
    calibration = {painter: judge_all(judges, pictures, sets) for painter, pictures in fresh.items()}
    pictures = {name: model(prompts) for name, prompts in sets.items()}
    controlled = {name: {CONTROLLED: paint(sets[CONTROLLED])} for name, paint in controls.items()}
    varied = {kind: model(open_prompts(kind)) for kind in OPEN_KINDS}
    without = {name: paint(open_prompts("cat")) for name, paint in negatives.items()}
    if not leads:
        return None
    following = {name: [*prompts[1:], *prompts[:1]] for name, prompts in sets.items()}
    everything = {name: torch.cat(list(part.values())) for name, part in [*fresh.items(), ("the model's", pictures)]}
    round_trips, renders = everything["round trips"], everything["renders"]
    cats = look(varied["cat"])
    some = [scene_number(i) for i in random.Random(0).sample(range(training), min(training, 200))]
    learned = round_trip(vae, torch.stack([to_tensor(draw(scene)) for scene in some]))
    samples = {"training images": learned, "fresh renders": round_trips, "the model's": everything["the model's"]}
    return Evaluation(
        sets,
        calibration,
        judged=judge_all(judges, pictures, sets),
        chance=judge_all(judges, pictures, following),
        controls={
            name: {judge: of[CONTROLLED] for judge, of in judge_all(judges, part, sets).items()}
            for name, part in controlled.items()
        },
        diversity={kind: diversity(look(part), kind) for kind, part in varied.items()},
        negatives={
            name: (sum(map(NEGATIVES[name], cats)), sum(map(NEGATIVES[name], look(part))), len(part))
            for name, part in without.items()
        },
        psnr=float(-10 * ((round_trips - renders) / 2).square().mean(dim=(1, 2, 3)).log10().mean()),
        edges={name: edge_energy(everything[name]) / edge_energy(renders) for name in ("round trips", "the model's")},
        nearest=nearest_training_picture(samples, training),
        pictures=pictures,
    )


def open_prompts(kind: str) -> list[Prompt]:
    """A prompt that mentions only the kind of thing, with many seeds."""
    return repeated(f"a {kind}", Request((kind,)), SEEDS, seed=1000)


def calibration_painters(vae: AutoencoderKL) -> dict[str, Painter]:
    """Painters whose errors are known: the first three make none, the last makes one in each image."""
    return {"renders": render, "worn": render_worn, "round trips": through(vae), "near misses": render_near_misses}


def verdicts_with(look: Callable[[Tensor], list[Finding]]) -> Judge:
    """The judge that compares what is found in images with their prompts."""
    return lambda pictures, prompts: [verdict(found, prompt.request) for found, prompt in zip(look(pictures), prompts)]


def judge_all(judges: Mapping[str, Judge], pictures: Mapping[str, Tensor], sets: Sets) -> dict[str, dict[str, list[Verdict]]]:
    return {judge: {name: verdicts(part, sets[name]) for name, part in pictures.items()} for judge, verdicts in judges.items()}


def nearest_training_picture(samples: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The distance of each image to the nearest of the first `count` training scenes: the root mean square difference of 16×16
    thumbnails, 0 to 255. The images of a model that memorises are nearer to its training data than fresh images are."""
    small = {name: thumbnails(pictures) for name, pictures in samples.items()}
    least = {name: pictures.new_full((len(pictures),), torch.inf) for name, pictures in samples.items()}
    for first in tqdm(range(0, count, 1000), desc="training pictures", leave=False):
        scenes = [scene_number(i) for i in range(first, min(first + 1000, count))]
        training = thumbnails(torch.stack([to_tensor(draw(scene, 32)) for scene in scenes]))
        for name, pictures in small.items():
            distance = torch.cdist(pictures, training).amin(dim=1) / pictures.shape[1] ** 0.5
            least[name] = torch.minimum(least[name], distance)
    return least
