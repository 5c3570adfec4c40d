"""The judge of the second world: a detector of things, directions, places and styles, and its training.

As in `minisd.evaluate.detector`, things are points (Zhou et al. 2019). It trains on scenes that the model never saw, including
held-out ones, on sharp, blurred, noisy and distorted renders, and on round trips through the VAE.
"""

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..evaluate.detector import GRID, LEAST_HEAT, Block
from ..evaluate.wear import worn
from ..processes import rank_and_world, wait_for_all
from ..train.judge import mark
from ..train.loop import Recipe, batch_noise, device, sample_seeds, train
from ..train.state import finished, read_state, write_state
from ..train.unet import encoded
from ..vae import AutoencoderKL
from .drawing import draw
from .findings import Finding, is_right
from .picture_book import COLORS, RELATIONS, RIDERS, SCENERY, SEATS, STYLES, THINGS, Request, Scene, Thing, compose
from .pictures import as_tensor, rendered
from .twins import all_of
from .unet import parts

RECIPE = Recipe(steps=3000, batch_size=48, learning_rate=2e-3, ema=0.998)
RENDERS = 40_000
ROUND_TRIPS = 4000  # a third of each batch
PLACES = (*COLORS, *SCENERY)
LOOKS = ("left", "right")
WIDTHS = (32, 64, 96)


class Prediction(NamedTuple):
    """The network's output for B images."""

    heat: Tensor  # (B, kinds, 16, 16): logits of a thing's centre
    color: Tensor  # (B, colours, 16, 16): logits
    looks: Tensor  # (B, 2, 16, 16): logits of the direction
    box: Tensor  # (B, 3, 16, 16): x and y from the cell's corner, in cells, and the logarithm of the scale
    place: Tensor  # (B, places): logits
    style: Tensor  # (B, styles): logits


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        fine, middle, deep = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(3, fine, 5, 2, 2), nn.SiLU(), nn.Conv2d(fine, fine, 3, 2, 1), Block(fine))
        self.down = nn.Sequential(nn.SiLU(), nn.Conv2d(fine, middle, 3, 2, 1), Block(middle))
        self.deep = nn.Sequential(nn.SiLU(), nn.Conv2d(middle, deep, 3, 2, 1), Block(deep), Block(deep))
        self.back = nn.Conv2d(deep, middle, 1)
        self.outputs = [len(THINGS), len(COLORS), len(LOOKS), 3]
        self.head = nn.Sequential(Block(middle), nn.GroupNorm(8, middle), nn.SiLU(), nn.Conv2d(middle, sum(self.outputs), 1))
        self.place, self.style = nn.Linear(deep, len(PLACES)), nn.Linear(deep, len(STYLES))
        bias = self.head[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias[: len(THINGS)], -4.0)  # almost no cell is a centre

    def forward(self, pixels: Tensor) -> Prediction:
        """Images (B, 3, 128, 128) in [-1, 1] → predictions on the 16×16 grid."""
        fine = self.down(self.stem(pixels))  # (B, 64, 16, 16)
        deep = self.deep(fine)  # (B, 96, 8, 8)
        cells = self.head(fine + F.interpolate(self.back(deep), scale_factor=2.0))
        whole = deep.mean(dim=(2, 3))
        return Prediction(*cells.split(self.outputs, dim=1), self.place(whole), self.style(whole))


def read(prediction: Prediction) -> list[Finding]:
    """Peaks of the heat map are things: cells with more heat than their neighbours, each with its most likely kind."""
    heat = prediction.heat.sigmoid()
    sure, kinds = torch.where(heat == F.max_pool2d(heat, 3, 1, 1), heat, 0).max(dim=1)  # (B, 16, 16)
    findings = []
    for i, place in enumerate(prediction.place.argmax(dim=1).tolist()):
        things = []
        for row, column in (sure[i] > LEAST_HEAT).nonzero().tolist():
            kind = list(THINGS)[kinds[i, row, column]]
            color, looks = (int(part[i, :, row, column].argmax()) for part in (prediction.color, prediction.looks))
            dx, dy, log_scale = prediction.box[i, :, row, column].tolist()
            x, y = (column + dx) / GRID, (row + dy) / GRID
            things.append(Thing(kind, list(COLORS)[color], x, y, math.exp(log_scale), looks=LOOKS[looks]))
        findings.append(Finding(tuple(things), PLACES[place], STYLES[int(prediction.style[i].argmax())]))
    return findings


def any_scene(i: int, series: str = "judge") -> Scene:
    """A random scene, which may be a held-out one."""
    rng = random.Random(f"{series}/{i}")
    relation = rng.choices(["", *RELATIONS], [34, 16, 16, 8, 26])[0]
    if relation == "riding":
        kinds = (rng.choice(RIDERS), rng.choice(list(SEATS)))
    else:
        kinds = tuple(rng.choices(list(THINGS), k=2 if relation else 1))
    return compose(Request(kinds, relation=relation), rng)


def round_trip_scene(i: int) -> Scene:
    return any_scene(i, "round trip")


@torch.inference_mode()
def round_trips(vae: AutoencoderKL, file: Path, count: int = ROUND_TRIPS) -> Tensor:
    """Images after a round trip through the VAE, (count, 3, 128, 128) in 8 bits; every second one from noisy latents."""
    if not file.exists():
        latents = encoded(vae, lambda i: draw(round_trip_scene(i)), count).float()
        latents[1::2] += 0.15 * torch.randn(latents[1::2].shape, generator=torch.Generator().manual_seed(0))
        decoded = [vae.decode(part / vae.config.scaling_factor).sample.clamp(-1, 1) for part in latents.split(8)]
        write_state(file, {"pictures": ((torch.cat(decoded) + 1) * 127.5).round().byte()})
    return read_state(file)["pictures"]


def loss_with(renders: np.ndarray, pool: Tensor, recipe: Recipe = RECIPE):
    def loss_of(model: Detector, step: int) -> tuple[Tensor, dict[str, float]]:
        scenes, pictures = [], []
        for rng in sample_seeds(recipe, step):
            if rng.random() < 1 / 3:
                scenes.append(round_trip_scene(i := rng.randrange(len(pool))))
                pictures.append(pool[i] / 127.5 - 1)
            else:
                scenes.append(any_scene(i := rng.randrange(len(renders))))
                pictures.append(as_tensor(renders[i : i + 1])[0])
        strength = batch_noise(recipe, step, 3, uniform=True)
        x = torch.stack(pictures).to(device())
        prediction = model(worn(x, batch_noise(recipe, step, *x.shape[1:]), strength))
        return detection_loss(Prediction(*(part.float().cpu() for part in prediction)), scenes), {}

    return loss_of


def detection_loss(prediction: Prediction, scenes: list[Scene]) -> Tensor:
    """The focal loss of the heat map (Zhou et al. 2019, eq. 1) per thing, plus the losses of all attributes."""
    heat = torch.zeros_like(prediction.heat)
    at, colors, boxes, directed, looks = [], [], [], [], []
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            x, y = thing.x * GRID, thing.y * GRID
            row, column = mark(heat[i, list(THINGS).index(thing.kind)], x, y)
            at.append((i, row, column))
            colors.append(list(COLORS).index(thing.color))
            boxes.append((x - column, y - row, math.log(thing.scale)))
            if thing.looks:
                directed.append((i, row, column))
                looks.append(LOOKS.index(thing.looks))

    def there(part: Tensor, cells: list[tuple[int, int, int]]) -> Tensor:
        which, rows, columns = torch.tensor(cells).unbind(dim=1)
        return part[which, :, rows, columns]

    chance = prediction.heat.sigmoid()
    found = (1 - chance) ** 2 * F.logsigmoid(prediction.heat) * (heat == 1)
    nothing = (1 - heat) ** 4 * chance**2 * F.logsigmoid(-prediction.heat)
    places, styles = [PLACES.index(s.place) for s in scenes], [STYLES.index(s.style) for s in scenes]
    loss = (
        -(found + nothing).sum() / len(at)
        + F.cross_entropy(there(prediction.color, at), torch.tensor(colors))
        + 2 * F.l1_loss(there(prediction.box, at), torch.tensor(boxes))
        + F.cross_entropy(prediction.place, torch.tensor(places))
        + F.cross_entropy(prediction.style, torch.tensor(styles))
    )
    return loss + F.cross_entropy(there(prediction.looks, directed), torch.tensor(looks)) if directed else loss


@torch.inference_mode()
def show(model: Detector, path: Path) -> dict[str, float]:
    """How often everything in 200 fresh renders is found."""
    scenes = [any_scene(i, "judge test") for i in range(200)]
    pictures = as_tensor(np.stack([np.array(draw(scene)) for scene in scenes])).to(device())
    findings = [finding for part in pictures.split(50) for finding in read(model(part))]
    return {"all_right": sum(is_right(f, all_of(s)) for f, s in zip(findings, scenes)) / len(scenes)}


def run(folder: Path, recipe: Recipe = RECIPE):
    pool = folder / "judge" / "round_trips.pt"
    if rank_and_world()[0] == 0 and not pool.exists():
        pool.parent.mkdir(parents=True, exist_ok=True)
        round_trips(parts(folder)[0], pool)
    wait_for_all()
    renders = rendered(folder / "judge.uint8", RENDERS, any_scene)
    torch.manual_seed(recipe.seed)
    train(folder / "judge", Detector(), recipe, loss_with(renders, read_state(pool)["pictures"], recipe), show)


def finder(folder: Path) -> Callable[[Tensor], list[Finding]]:
    """The trained judge: images (B, 3, 128, 128) in [-1, 1] → what is found in each."""
    model = finished(folder / "judge", Detector())

    @torch.inference_mode()
    def look(pictures: Tensor) -> list[Finding]:
        return [finding for part in pictures.float().cpu().split(32) for finding in read(model(part))]

    return look
