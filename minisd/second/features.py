"""The network of the perceptual loss: a small VGG, trained to classify crops of images.

Two images can be close in pixel values but look different: a blurred outline changes only a few grey levels. The features of a
network trained for recognition differ where people see a difference (Zhang et al. 2018). Stable Diffusion uses VGG's features,
trained on photographs. CLIP's image encoder sees patches of 8 × 8 pixels, which are too coarse for outlines. So this world has its
own VGG: convolutions from fine to coarse, trained to classify kind, colour, style and place.
"""

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..image import to_pil
from ..sheet import image_grid
from ..train.loop import Recipe, device, sample_seeds, train
from ..train.state import finished
from .muon import muon
from .picture_book import COLORS, SCENERY, STYLES, THINGS, Scene, Thing
from .pictures import SIDE, as_tensor, rendered
from .twins import picture

RECIPE = Recipe(steps=2500, batch_size=64, learning_rate=1e-3, ema=0.995)
PICTURES = 60_000
WIDTHS = (16, 32, 64, 96)
CROP = 64
ANSWERS = {"kind": list(THINGS), "color": list(COLORS), "style": list(STYLES), "place": [*COLORS, *SCENERY]}


class Features(nn.Module):
    """Images (B, 3, H, W) → one feature map per level, finest first; each level has half the size of the previous one."""

    def __init__(self):
        super().__init__()
        levels = [
            nn.Sequential(nn.Conv2d(before, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
            for before, width in zip((3, *WIDTHS), WIDTHS)
        ]
        self.levels = nn.ModuleList(levels)
        for conv in (layer for level in levels for layer in level if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # the default loses the signal over eight layers
            nn.init.zeros_(conv.bias)
        self.heads = nn.ModuleDict({question: nn.Linear(WIDTHS[-1], len(answers)) for question, answers in ANSWERS.items()})

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for level in self.levels:
            x = level(F.avg_pool2d(x, 2) if maps else x)
            maps.append(x)
        return maps

    def answers(self, x: Tensor) -> dict[str, Tensor]:
        """The logits of the classes for each question (kind, colour, style, place)."""
        coarsest = self(x)[-1].amax(dim=(2, 3))
        return {question: head(coarsest) for question, head in self.heads.items()}

    def distance(self, y: Tensor, x: Tensor) -> Tensor:
        """The mean squared distance of the normalised feature vectors (Zhang et al. 2018, eq. 1, without w)."""
        pairs = zip(self(y), self(x))
        return sum((F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean() for a, b in pairs) / len(WIDTHS)


def crop_near(thing: Thing, picture: np.ndarray, rng: random.Random) -> np.ndarray:
    """A square crop that contains the thing or most of it."""
    corner = [int((at + rng.uniform(-0.2, 0.2)) * SIDE - CROP / 2) for at in (thing.y, thing.x)]
    top, left = (min(max(at, 0), SIDE - CROP) for at in corner)
    return picture[top : top + CROP, left : left + CROP]


def example(pictures: np.ndarray, rng: random.Random) -> tuple[np.ndarray, Scene, Thing]:
    i = rng.randrange(len(pictures))
    scene = picture(i)
    thing = rng.choice(scene.things)
    return crop_near(thing, pictures[i], rng), scene, thing


def loss_with(pictures: np.ndarray, recipe: Recipe = RECIPE):
    def loss_of(model: Features, step: int) -> tuple[Tensor, dict[str, float]]:
        crops, scenes, things = zip(*(example(pictures, rng) for rng in sample_seeds(recipe, step)))
        said = {
            "kind": [thing.kind for thing in things],
            "color": [thing.color for thing in things],
            "style": [scene.style for scene in scenes],
            "place": [scene.place for scene in scenes],
        }
        logits = model.answers(as_tensor(np.stack(crops)).to(device()))
        truth = {q: torch.tensor([ANSWERS[q].index(answer) for answer in answers]).to(device()) for q, answers in said.items()}
        loss = sum(F.cross_entropy(logits[question].float(), truth[question]) for question in ANSWERS)
        return loss, {question: float((logits[question].argmax(dim=1) == truth[question]).float().mean()) for question in ANSWERS}

    return loss_of


def show_with(pictures: np.ndarray):
    @torch.inference_mode()
    def show(model: Features, path: Path) -> dict[str, float]:
        """A sheet of eight images above the strength of each level's features."""
        x = as_tensor(pictures[:16:2]).to(device())
        rows = [x, *(strength(level, SIDE) for level in model(x))]
        image_grid(to_pil(torch.cat(rows)), len(rows), 8).save(path)
        return {}

    return show


def strength(level: Tensor, side: int) -> Tensor:
    """The norms of the feature vectors, as grey images."""
    length = level.norm(dim=1, keepdim=True)
    grey = 2 * length / length.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6) - 1
    return F.interpolate(grey.float(), size=side).expand(-1, 3, -1, -1)


def trained(folder: Path) -> Features:
    return finished(folder / "features", Features()).to(device())


def run(folder: Path, recipe: Recipe = RECIPE):
    pictures = rendered(folder / "twins.uint8", PICTURES, picture)
    torch.manual_seed(recipe.seed)
    train(folder / "features", Features(), recipe, loss_with(pictures, recipe), show_with(pictures), optimizer_of=muon)
