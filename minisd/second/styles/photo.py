"""The photo style: clay toys in front of a blurred backdrop, lit from the upper left.

Each part is shaped like a pillow. Its height is its blurred mask, so its slope is the derivative of the blurred mask; both blur and
derivative are products with a small matrix. The slopes give the normals, and these give the light (Lambert, Blinn).
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .paper import PAGES, clouds, cut_out, pixels

LIGHT = np.array([-0.5, -0.62, 0.6]) / np.linalg.norm([-0.5, -0.62, 0.6])
HALFWAY = (LIGHT + (0, 0, 1)) / np.linalg.norm(LIGHT + (0, 0, 1))
STEEP, BODY_RADIUS = 1.8, 8  # the height of a pillow, and the radius in pixels to which it applies
FILL = np.float32([0.42, 0.45, 0.52])  # fill light in the shadows, slightly cooler than the main light
WRAP, GLOSS = 0.25, 60  # how far light wraps around edges; how glossy clay is


def render(ground, figures, size, rng):
    page = rng.randrange(PAGES)
    picture = backdrop(ground, size, page)
    relief = np.zeros((3, size, size), np.float32)  # slope to the right, slope downwards, and the coverage by clay
    for figure in figures:
        cast_shadow(picture, figure, size)
        for shape in figure:
            model(picture, relief, shape, size)
    return lit(picture, relief)


def backdrop(ground, size, page):
    """The place, out of focus."""
    picture = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(picture)
    for shape in ground:
        pen.polygon(pixels(shape.points, size), shape.color)
    picture = picture.filter(ImageFilter.BoxBlur(0.011 * size))
    picture.paste((36, 30, 52), mask=vignette(size, page))
    return picture


@cache
def vignette(size, page):
    """The backdrop's shading: light falls off to the right and downwards, differently in each image."""
    y, x = np.mgrid[0:size, 0:size] / size
    uneven = np.asarray(clouds(size, 4, page), np.float32) / 255
    return Image.fromarray((255 * np.clip(0.18 * (0.7 * x + 0.3 * y) ** 2 + 0.03 * uneven, 0, 1)).astype(np.uint8))


def cast_shadow(picture, figure, size):
    """A soft shadow to the lower right, and a darker one where the thing touches the ground."""
    small = size // 2  # soft enough to be drawn at half size
    shadow = Image.new("L", (small, small))
    pen = ImageDraw.Draw(shadow)
    for shape in figure:
        pen.polygon(pixels(shape.points + (0.045, 0.035), small), 105)
    shadow = shadow.filter(ImageFilter.GaussianBlur(0.03 * small))
    xs, ys = np.concatenate([shape.points for shape in figure]).T
    if ys.max() > 0.7:
        contact, half = Image.new("L", (small, small)), 0.4 * np.ptp(xs)
        middle, bottom = xs.mean() + 0.02, ys.max()
        box = (middle - half, bottom - 0.03, middle + half, bottom + 0.025)
        ImageDraw.Draw(contact).ellipse([small * value for value in box], 120)
        shadow.paste(150, mask=contact.filter(ImageFilter.GaussianBlur(0.025 * small)))
    left, top, right, bottom = shadow.getbbox() or (0, 0, 1, 1)
    mask = shadow.crop((left, top, right, bottom)).resize((2 * (right - left), 2 * (bottom - top)), Image.Resampling.BILINEAR)
    picture.paste((28, 22, 48), (2 * left, 2 * top), mask)


def model(picture, relief, shape, size):
    """Add one part: its colour to the image, its slopes to the relief. Details are painted on and stay flat."""
    radius = shape.radius * size
    if not (cut := cut_out(pixels(shape.points, size), 1 if shape.fine else round(1.5 * radius) + 1, size)):
        return
    mask, (left, top) = cut
    picture.paste(shape.color, (left, top), mask)
    if shape.fine:
        return
    shrink = max(1.0, radius / BODY_RADIUS)
    small = mask.resize((max(2, round(mask.width / shrink)), max(2, round(mask.height / shrink))), Image.Resampling.BOX)
    across, down = pillow(np.asarray(small, np.float32) / 255, min(BODY_RADIUS, radius))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + mask.width, size), min(top + mask.height, size)
    window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    cover = np.asarray(mask)[window].astype(np.float32) / 255
    for plane, slope in zip(relief, (across, down, None)):
        full = 1 if slope is None else enlarged(slope, mask.size)[window]
        under = plane[y0:y1, x0:x1]
        under += cover * (full - under)


def enlarged(slope, size):
    return slope if slope.shape == size[::-1] else np.asarray(Image.fromarray(slope).resize(size, Image.Resampling.BILINEAR))


def pillow(mask, radius):
    """The slopes, across and down, of a mask blurred into a pillow."""
    (blur_y, slope_y), (blur_x, slope_x) = (blur_and_slope(n, round(2 * radius) / 2) for n in mask.shape)
    return blur_y @ mask @ slope_x.T * radius, slope_y @ mask @ blur_x.T * radius


@cache
def blur_and_slope(n, radius):
    """Two n × n matrices: a Gaussian blur of pixels, and its derivative."""
    sigma = max(0.55 * radius, 0.8)
    away = np.arange(n)[:, None] - np.arange(n)
    gauss = np.exp(-(away**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return gauss.astype(np.float32), (-away / sigma**2 * gauss).astype(np.float32)


def lit(picture, relief):
    """Apply the light to the colours."""
    clay = relief[2]
    across, down = -STEEP * relief[:2] / np.maximum(clay, 0.25)  # at an edge, the slope of the clay part of the pixel
    up = 1 / np.sqrt(across * across + down * down + 1)
    lambert = np.maximum(0, (across * LIGHT[0] + down * LIGHT[1] + LIGHT[2]) * up + WRAP) / (LIGHT[2] + WRAP)
    shine = (across * HALFWAY[0] + down * HALFWAY[1] + HALFWAY[2]) * up
    for _ in range(4):  # to the 16th power
        shine = shine * shine
    glow = GLOSS * clay * np.maximum(0, shine - HALFWAY[2] ** 16)  # none on flat parts
    light = 1 + (clay * (lambert - 1))[..., None] * (1 - FILL)
    color = np.asarray(picture, np.float32) * light + glow[..., None]
    return Image.fromarray(color.clip(0, 255).astype(np.uint8))
