"""The first judge: analysis by synthesis, without learning. The findings are the scene that explains an image best.

The book has 16 places; the image's place is the one whose empty page is nearest to it. A thing explains an image to the extent that
the image resembles the thing more than the page behind it. With the thing's coverage α (0 to 1) and colours C, image I and page B,

    gain(t) = Σ_p α(p - t) [s(I(p), C(p - t)) - s(I(p), B(p))]        s(a, b) = mean of cos 2π(a - b) over red, green and blue

is a sum of correlations, which the FFT computes for all positions t at once. Where the image equals the page, flat shapes gain
nothing. The cosine saturates quickly, so outlines that are half a cell off do not outweigh a thing that is only slightly brighter
than its page. The thing with the largest gain is drawn, then moved, resized and rotated until the drawing is nearest to the image.
The search repeats until another thing no longer improves the drawing.
"""

from dataclasses import replace
from functools import cache
from math import pi

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from ..tiny.drawing import THINGS, Color, Pen
from ..tiny.picture_book import COLORS, Scene, Thing, draw
from .findings import PLACES, Finding

GRID, FINE = 32, 64  # cells per side for the search and for the refinement
SCALES = [0.16 * 1.0927**i for i in range(12)]  # to 0.42
STEPS = {"x": 0.02, "y": 0.02, "scale": 0.012, "angle": 0.06}  # step sizes of moving, resizing and rotating a thing
LEAST_DROP = 0.025  # a thing must lower the error (values 0 to 1) in its cells by this much to count as present
LEAST_DROP_NEAR_ITS_LIKE = 0.1  # so that a limb of a distorted thing does not count as a second thing of its colour
LEAST_SHARE = 0.3  # and by this share of the error; a thing that lowers it less is an artefact
MOST_THINGS = 3  # one more than a scene has
Things = tuple[Thing, ...]  # from front to back


def judge(pictures: Tensor) -> list[Finding]:
    """The findings in each of the images, (B, 3, 128, 128) in [-1, 1]."""
    return [look((picture / 2 + 0.5).clamp(0, 1).cpu()) for picture in pictures.float()]


def look(picture: Tensor) -> Finding:
    """The findings in one image, (3, 128, 128) in [0, 1]."""
    coarse, fine = (F.avg_pool2d(picture, picture.shape[-1] // side) for side in (GRID, FINE))
    place, colors = place_of(fine), colors_in(fine)
    things: Things = ()
    while colors and len(things) < MOST_THINGS:
        more, new = add(things, place, coarse, fine, colors)
        like = any(overlap(new, thing) and new.color == thing.color for thing in things)
        if drop(more, new, place, fine)[0] < (LEAST_DROP_NEAR_ITS_LIKE if like else LEAST_DROP):
            break
        things = reconsider(more, place, coarse, fine, colors)
    return Finding(tuple(t for t in things if drop(things, t, place, fine)[1] > LEAST_SHARE), place)


def page(things: Things, place: str, side: int) -> Tensor:
    """The picture book's render of a scene, (3, side, side) in [0, 1]."""
    return pixels(draw(Scene(things, "", place), side))


@cache
def bare_pages() -> Tensor:
    """All places without things, (16, 3, FINE, FINE)."""
    return torch.stack([page((), place, FINE) for place in PLACES])


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def place_of(picture: Tensor) -> str:
    """The place with the nearest empty page. Errors per pixel are capped, since things hide a part of the page."""
    distance = (bare_pages() - picture).abs().mean(dim=1).clamp(max=0.05).mean(dim=(1, 2))
    return PLACES[int(distance.argmin())]


def colors_in(picture: Tensor) -> list[str]:
    """The colours that a thing in the image can have: those that more than a few pixels nearly have."""
    near = {name: (picture - picture.new_tensor(rgb).view(3, 1, 1) / 255).norm(dim=0) < 0.2 for name, rgb in COLORS.items()}
    return [name for name, where in near.items() if where.float().mean() > 0.006]


def angles(x: Tensor) -> Tensor:
    """Colour values (…, 3, h, w) as points on a circle, (…, 6, h, w), so that the product of two is s(a, b)."""
    return torch.cat([(2 * pi * x).cos(), (2 * pi * x).sin()], dim=-3) / 3**0.5


def alone(thing: Thing, color: Color, background: int, side: int) -> Tensor:
    """A thing on a grey page, (3, side, side) in [0, 1]."""
    sheet = Image.new("RGB", (4 * side, 4 * side), (background,) * 3)
    pen = Pen(ImageDraw.Draw(sheet), thing.x * 4 * side, thing.y * 4 * side, thing.scale * 4 * side, thing.angle)
    THINGS[thing.kind](pen, color)
    return pixels(sheet.reduce(4))


def coverage(thing: Thing, side: int) -> Tensor:
    """The fraction of each cell that a thing covers, (side, side), computed from its drawings on black and on white."""
    black, white = (alone(thing, COLORS["red"], background, side) for background in (0, 255))
    return 1 - (white - black).mean(dim=0)


@cache
def templates() -> tuple[list[tuple[str, float]], Tensor, dict[str, Tensor]]:
    """All kinds at all scales in the centre of the page: the N names, the spectra of α, (N, GRID, GRID / 2 + 1), and, for each
    colour, the spectra of α·C, (N, 6, GRID, GRID / 2 + 1)."""
    names = [(kind, scale) for kind in THINGS for scale in SCALES]
    middle = [Thing(kind, "", 0.5, 0.5, scale) for kind, scale in names]
    alpha = torch.stack([coverage(thing, GRID) for thing in middle])
    painted = {}
    for color, rgb in COLORS.items():
        paint = torch.stack([alone(thing, rgb, 0, GRID) for thing in middle]) / alpha[:, None].clamp(min=1 / 255)
        painted[color] = torch.fft.rfft2(angles(paint) * alpha[:, None]).conj().resolve_conj()
    return names, torch.fft.rfft2(alpha).conj().resolve_conj(), painted


def search(picture: Tensor, things: Things, place: str, colors: list[str]) -> tuple[Thing, bool]:
    """The thing with the largest gain in an image (3, GRID, GRID) with known things, and whether it is in front of them.

    A thing behind them is compared with the empty page and gains nothing in their cells. No two things have the same centre.
    """
    page_with, page_without = page(things, place, GRID), page((), place, GRID)
    seen, visible = angles(picture), 1 - silhouette(things, GRID)
    gains = [gain(seen, page_with, colors)] + ([gain(seen * visible, page_without, colors)] if things else [])
    all_gains = torch.stack(gains).roll((GRID // 2, GRID // 2), dims=(-2, -1))  # from shifts to centres
    centres = torch.arange(GRID, dtype=torch.float32, device="cpu") / GRID
    for thing in things:
        near_x, near_y = ((centres - at).abs() < 0.25 * thing.scale for at in (thing.x, thing.y))
        all_gains[..., near_y[:, None] & near_x] = -torch.inf
    behind, color, name, y, x = np.unravel_index(int(all_gains.argmax()), all_gains.shape)
    kind, scale = templates()[0][name]
    return Thing(kind, colors[color], float(x) / GRID, float(y) / GRID, scale), not behind


def gain(seen: Tensor, behind: Tensor, colors: list[str]) -> Tensor:
    """The gain of every colour, template and shift, (colours, N, GRID, GRID), given an image's angles (6, GRID, GRID)."""
    _, alpha, painted = templates()
    spectra = torch.fft.rfft2(torch.cat([seen, (seen * angles(behind)).sum(dim=0, keepdim=True)]))
    return torch.fft.irfft2(torch.stack([(painted[color] * spectra[:-1]).sum(dim=1) - alpha * spectra[-1] for color in colors]))


def add(things: Things, place: str, coarse: Tensor, fine: Tensor, colors: list[str]) -> tuple[Things, Thing]:
    """Add a thing, refine all, and return the things and the new one."""
    found, in_front = search(coarse, things, place, colors)
    more = refine((found, *things), 0, place, fine) if in_front else refine((*things, found), len(things), place, fine)
    return more, more[0 if in_front else -1]


def silhouette(things: Things, side: int) -> Tensor:
    """The fraction of each cell that is covered by any of the things, (side, side)."""
    nothing = torch.zeros(side, side, dtype=torch.float32, device="cpu")
    return torch.stack([nothing, *(coverage(thing, side) for thing in things)]).amax(dim=0)


def same_place(a: Things, b: Things) -> float:
    """How well the silhouettes of two sets of things agree: their intersection divided by their union, 0 to 1."""
    first, second = (silhouette(things, FINE) for things in (a, b))
    return float(torch.minimum(first, second).sum() / torch.maximum(first, second).sum())


def error(things: Things, place: str, picture: Tensor) -> float:
    """The mean absolute difference between the drawing and the image."""
    return float((page(things, place, FINE) - picture).abs().mean())


def drop(things: Things, thing: Thing, place: str, picture: Tensor) -> tuple[float, float]:
    """The decrease of the mean error in the cells that a thing covers, in absolute terms and as a fraction of that error."""
    which = things.index(thing)
    covered = coverage(thing, FINE)
    seen = covered * (1 - silhouette(things[:which], FINE))
    without, with_it = (
        float(((page(drawn, place, FINE) - picture).abs().mean(dim=0) * seen).sum() / (covered.sum() + 1))
        for drawn in (things[:which] + things[which + 1 :], things)
    )
    return without - with_it, 1 - with_it / (without + 1e-6)


def refine(things: Things, which: int, place: str, picture: Tensor) -> Things:
    """Move, resize and rotate one of the things so that the drawing comes nearer to the image."""
    least = error(things, place, picture)
    for part in (1, 0.5):
        for name, step in STEPS.items():
            for sign in (1, -1):
                moved = replace(things[which], **{name: getattr(things[which], name) + sign * part * step})
                others = (*things[:which], moved, *things[which + 1 :])
                if (now := error(others, place, picture)) < least:
                    least, things = now, others
                    break
    return things


def reconsider(things: Things, place: str, coarse: Tensor, fine: Tensor, colors: list[str]) -> Things:
    """Search again for each overlapping thing, now that the others are known; keep a result that is nearer to the image."""
    for thing in things:
        others = tuple(other for other in things if other is not thing)
        if any(overlap(thing, other) for other in others):
            again, _ = add(others, place, coarse, fine, colors)
            things = min(things, again, key=lambda drawn: error(drawn, place, fine))
    return things


def overlap(a: Thing, b: Thing) -> bool:
    return max(abs(a.x - b.x), abs(a.y - b.y)) < 0.9 * (a.scale + b.scale)
