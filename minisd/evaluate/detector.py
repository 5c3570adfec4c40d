"""The second judge: a small network trained only on renders, independent of the first judge.

Things are points (Zhou et al. 2019, "Objects as Points"): each cell of a 16×16 grid predicts how likely it is to be the centre of
each kind of thing and, if it is one, the thing's colour, exact position and size. The background is predicted from all cells.
"""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tiny.drawing import THINGS as KINDS
from ..tiny.picture_book import COLORS, Thing
from ..weights.fill import load_strictly
from ..weights.safetensors import read_tensors
from .findings import PLACES, Finding

WEIGHTS = Path(__file__).parents[1] / "tiny" / "judge.safetensors"
GRID = 16  # cells per side
LEAST_HEAT = 0.4  # the minimum probability of a thing's centre


class Prediction(NamedTuple):
    """The network's output for B images, per cell."""

    heat: Tensor  # (B, kinds, 16, 16): logits
    color: Tensor  # (B, colours, 16, 16): logits
    box: Tensor  # (B, 3, 16, 16): x and y from the cell's corner, in cells, and the logarithm of the scale
    place: Tensor  # (B, places): logits


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.silu(self.norm(x)))


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 5, 2, 2), nn.SiLU(), nn.Conv2d(24, 32, 3, 2, 1), Block(32))
        self.down = nn.Sequential(nn.SiLU(), nn.Conv2d(32, 48, 3, 2, 1), Block(48))
        self.deep = nn.Sequential(nn.SiLU(), nn.Conv2d(48, 64, 3, 2, 1), Block(64), Block(64))
        self.back = nn.Conv2d(64, 48, 1)
        self.head = nn.Sequential(Block(48), nn.GroupNorm(8, 48), nn.SiLU(), nn.Conv2d(48, len(KINDS) + len(COLORS) + 3, 1))
        self.place = nn.Linear(64, len(PLACES))
        bias = self.head[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias[: len(KINDS)], -4.0)  # almost no cell is a centre

    def forward(self, pixels: Tensor) -> Prediction:
        """Images (B, 3, 128, 128) in [-1, 1] → predictions on the 16×16 grid."""
        fine = self.down(self.stem(pixels))  # (B, 48, 16, 16)
        deep = self.deep(fine)  # (B, 64, 8, 8)
        cells = self.head(fine + F.interpolate(self.back(deep), scale_factor=2.0))
        heat, color, box = cells.split([len(KINDS), len(COLORS), 3], dim=1)
        return Prediction(heat, color, box, self.place(deep.mean(dim=(2, 3))))


@cache
def trained() -> Detector:
    """The network with the weights in the package. Raises CheckpointError if they do not fit."""
    with torch.device("meta"):
        model = Detector()
    weights = {name: tensor.float() for name, tensor in read_tensors(WEIGHTS).items()}
    return load_strictly(model, weights, str(WEIGHTS))


@torch.inference_mode()
def judge(pictures: Tensor) -> list[Finding]:
    """The findings in each of the images, (B, 3, 128, 128) in [-1, 1]."""
    return [finding for part in pictures.float().cpu().split(32) for finding in read(trained()(part))]


def read(prediction: Prediction) -> list[Finding]:
    """Peaks of the heat map are things: cells with more heat than their neighbours, each with its most likely kind."""
    heat = prediction.heat.sigmoid()
    peaks = torch.where(heat == F.max_pool2d(heat, 3, 1, 1), heat, 0)
    sure, kinds = peaks.max(dim=1)  # (B, 16, 16)
    findings = []
    for i, place in enumerate(prediction.place.argmax(dim=1).tolist()):
        things = []
        for row, column in (sure[i] > LEAST_HEAT).nonzero().tolist():
            dx, dy, log_scale = prediction.box[i, :, row, column].tolist()
            color = int(prediction.color[i, :, row, column].argmax())
            x, y = (column + dx) / GRID, (row + dy) / GRID
            scale = math.exp(log_scale)
            things.append(Thing(list(KINDS)[kinds[i, row, column]], list(COLORS)[color], x, y, scale))
        findings.append(Finding(tuple(things), PLACES[place]))
    return findings
