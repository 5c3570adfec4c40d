"""Helpers of the styles: outlines in pixels, masks of shapes, low-frequency noise, and paper."""

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

ZOOM = 3  # outlines are drawn larger and averaged down, for smooth edges
PAGES = 16  # sheets of paper: enough that the model does not memorise them, few enough to cache


def pixels(points: np.ndarray, side: int, wobble: float = 0.0, phase: float = 0.0) -> list[tuple[float, float]]:
    """An outline in pixels; `wobble` (a fraction of the page) bends it like a line drawn by hand."""
    if wobble:
        across, down = points[:, 0], points[:, 1]
        bend = np.stack([np.sin(31 * down + phase) + np.sin(17 * across - phase), np.sin(29 * across + 2 * phase)], axis=1)
        points = points + wobble * bend
    return list(map(tuple, (points * side).tolist()))


def cut_out(points: list[tuple[float, float]], margin: int, side: int) -> tuple[Image.Image, tuple[int, int]] | None:
    """The smooth mask of one outline with a margin, and the position of its corner on the page. None if it is off the page."""
    xs, ys = zip(*points)
    left, top = max(int(min(xs)) - margin, -margin), max(int(min(ys)) - margin, -margin)
    right, bottom = min(int(max(xs)) + margin + 2, side + margin), min(int(max(ys)) + margin + 2, side + margin)
    if right - left <= 2 * margin or bottom - top <= 2 * margin:
        return None
    mask = Image.new("L", (ZOOM * (right - left), ZOOM * (bottom - top)))
    ImageDraw.Draw(mask).polygon([(ZOOM * (x - left), ZOOM * (y - top)) for x, y in points], 255)
    return mask.reduce(ZOOM), (left, top)


@cache
def clouds(side: int, cells: int, page: int) -> Image.Image:
    """Low-frequency noise, black to white, with about `cells` bumps per side."""
    noise = np.random.default_rng(1000 * page + cells).uniform(0, 255, (cells, cells))
    return Image.fromarray(noise.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


@cache
def grain(side: int, page: int) -> Image.Image:
    """Paper grain around 128. It is weak and coarse, because an autoencoder would waste its latents on anything finer."""
    fine, coarse = (np.asarray(clouds(side, cells, page), np.float32) / 255 - 0.5 for cells in (40, 9))
    noise = 128 + 4 * fine + 3 * coarse
    return Image.fromarray(noise.round().astype(np.uint8)).convert("RGB")


def on_grain(picture: Image.Image, page: int) -> Image.Image:
    """The image with the paper's grain showing through."""
    return ImageChops.add(picture, grain(picture.width, page), 1, -128)


@cache
def painted_area(side: int, margin: float, softness: float, page: int) -> Image.Image:
    """A mask of the page without an uneven border, which stays bare paper."""
    y, x = np.mgrid[0:side, 0:side] / side
    border = np.minimum.reduce([x, y, 1 - x, 1 - y])
    uneven = (np.asarray(clouds(side, 9, page), np.float32) / 255 - 0.5) * margin
    return Image.fromarray((255 * np.clip((border + uneven - margin) / softness + 0.5, 0, 1)).astype(np.uint8))
