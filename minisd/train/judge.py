"""Trains the second judge of `minisd.evaluate` to find things in renders: sharp, blurred, noisy, distorted, or through the VAE.

It trains on all combinations, including held-out ones, and on scenes that no caption describes, so that its findings depend on the
image and not on the usual content of scenes.
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..evaluate.detector import GRID, Detector, Prediction, read
from ..evaluate.findings import PLACES
from ..evaluate.wear import worn
from ..image import to_tensor
from ..processes import rank_and_world, wait_for_all
from ..tiny.drawing import THINGS as KINDS
from ..tiny.picture_book import COLORS, RELATIONS, Scene, Thing, compose, draw
from ..vae import AutoencoderKL
from .loop import Recipe, batch_noise, device, sample_seeds, train
from .state import finished, read_state, write_state
from .unet import parts

RECIPE = Recipe(steps=3000, batch_size=48, learning_rate=2e-3, ema=0.998)
ROUND_TRIPS = 2000  # images through the VAE, a third of each batch


def any_scene(rng: random.Random) -> Scene:
    """A scene that a caption can describe, or up to three things anywhere."""
    if rng.random() < 0.75:
        return compose(rng, rng.choices(["", *RELATIONS], [30, 15, 15, 10, 30])[0])
    things: list[Thing] = []
    for _ in range(rng.randrange(4)):
        scale, color = rng.uniform(0.16, 0.26), rng.choice(list(COLORS))
        x, y = (rng.uniform(scale, 1 - scale) for _ in "xy")
        if all(max(abs(x - other.x), abs(y - other.y)) > 0.8 * (scale + other.scale) for other in things):
            things.append(Thing(rng.choice(list(KINDS)), color, x, y, scale, rng.uniform(-0.08, 0.08)))
    return Scene(tuple(things), "", rng.choice([place for place in PLACES if place not in [t.color for t in things]]))


def round_trip_scene(i: int) -> Scene:
    return any_scene(random.Random(f"round trip/{i}"))


@torch.inference_mode()
def round_trips(vae: AutoencoderKL, file: Path, count: int = ROUND_TRIPS) -> Tensor:
    """Images after a round trip through the VAE, (count, 3, 128, 128) in 8 bits; every second one from noisy latents."""
    if file.exists():
        return read_state(file)["pictures"]
    generator, parts = torch.Generator().manual_seed(0), []
    for first in tqdm(range(0, count, 8), desc="round trips"):
        x = torch.stack([to_tensor(draw(round_trip_scene(i))) for i in range(first, min(first + 8, count))])
        z = vae.encode(x).latent_dist.mode()
        noise = torch.randn(z.shape, generator=generator) * 0.15 / vae.config.scaling_factor
        noise[::2] = 0
        parts.append(((vae.decode(z + noise).sample.clamp(-1, 1) + 1) * 127.5).round().byte())
    write_state(file, {"pictures": torch.cat(parts)})
    return torch.cat(parts)


def loss_with(pool: Tensor, recipe: Recipe = RECIPE):
    def loss_of(model: Detector, step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, pictures = [], []
        for rng in sample_seeds(recipe, step):
            i = rng.randrange(3 * len(pool))
            scenes.append(round_trip_scene(i) if i < len(pool) else any_scene(rng))
            pictures.append(pool[i] / 127.5 - 1 if i < len(pool) else to_tensor(draw(scenes[-1])))
        x = torch.stack(pictures)
        strength = batch_noise(recipe, step, 3, uniform=True)
        prediction = model(worn(x.to(device()), batch_noise(recipe, step, *x.shape[1:]), strength))
        return detection_loss(Prediction(*(part.float().cpu() for part in prediction)), scenes), {}

    return loss_of


def mark(heat: Tensor, x: float, y: float) -> tuple[int, int]:
    """Add a thing's centre (x, y), in cells, to the target heat map (16, 16) of its kind; returns its row and column."""
    axis = torch.arange(GRID) + 0.5
    row, column = (min(max(int(at), 0), GRID - 1) for at in (y, x))
    torch.maximum(heat, (-((axis[:, None] - y) ** 2 + (axis - x) ** 2) / 2).exp(), out=heat)
    heat[row, column] = 1
    return row, column


def detection_loss(prediction: Prediction, scenes: list[Scene]) -> Tensor:
    """The focal loss of the heat map (Zhou et al. 2019, eq. 1) per thing, plus the losses of colour, box and place."""
    heat = torch.zeros_like(prediction.heat)
    cells, colors, boxes = [], [], []
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            x, y = thing.x * GRID, thing.y * GRID
            row, column = mark(heat[i, list(KINDS).index(thing.kind)], x, y)
            cells.append((i, row, column))
            colors.append(list(COLORS).index(thing.color))
            boxes.append((x - column, y - row, torch.tensor(thing.scale).log()))
    chance = prediction.heat.sigmoid()
    found = (1 - chance) ** 2 * F.logsigmoid(prediction.heat) * (heat == 1)
    nothing = (1 - heat) ** 4 * chance**2 * F.logsigmoid(-prediction.heat)
    which, rows, columns = torch.tensor(cells).unbind(dim=1)
    places = torch.tensor([PLACES.index(scene.place) for scene in scenes])
    return (
        -(found + nothing).sum() / len(cells)
        + F.cross_entropy(prediction.color[which, :, rows, columns], torch.tensor(colors))
        + 2 * F.l1_loss(prediction.box[which, :, rows, columns], torch.tensor(boxes))
        + F.cross_entropy(prediction.place, places)
    )


@torch.inference_mode()
def show(model: Detector, path: Path) -> dict[str, float]:
    """Measure how often kinds, colours and the place are right in 200 fresh renders."""
    scenes = [any_scene(random.Random(f"judge/{i}")) for i in range(200)]
    findings = read(model(torch.stack([to_tensor(draw(scene)) for scene in scenes]).to(device())))
    what = lambda things: sorted((thing.kind, thing.color) for thing in things)  # noqa: E731
    right = [what(f.things) == what(s.things) and f.place == s.place for f, s in zip(findings, scenes)]
    return {"all_right": sum(right) / len(right)}


def run(folder: Path, recipe: Recipe = RECIPE):
    """Train the judge and write its weights to `folder/judge/judge.safetensors`."""
    pool = folder / "judge" / "round_trips.pt"
    if rank_and_world()[0] == 0 and not pool.exists():
        pool.parent.mkdir(parents=True, exist_ok=True)
        round_trips(parts(folder)[0], pool)
    wait_for_all()
    torch.manual_seed(recipe.seed)
    train(folder / "judge", Detector(), recipe, loss_with(read_state(pool)["pictures"], recipe), show)
    if rank_and_world()[0] == 0:
        weights = finished(folder / "judge", Detector()).state_dict()
        save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "judge" / "judge.safetensors")
