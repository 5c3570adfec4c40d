"""The photograph: toys of clay before a blurred backdrop, lit from the upper left.

Every part is a pillow. Its height is its own blurred mask, so its slope is the blurred mask's derivative, and both blur and
derivative are products with a small matrix. From the slopes follow the normals, and from these the light (Lambert, Blinn).
"""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .paper import PAGES, clouds, cut_out, pixels

ZOOM = 2
LIGHT = np.array([-0.5, -0.62, 0.6]) / np.linalg.norm([-0.5, -0.62, 0.6])
HALFWAY = (LIGHT + (0, 0, 1)) / np.linalg.norm(LIGHT + (0, 0, 1))
STEEP, BODY_RADIUS = 2.2, 10  # of a pillow: how high it is, and the radius in pixels that it is measured at
KEY, FILL = np.float32([1.02, 0.98, 0.9]), np.float32([0.44, 0.46, 0.54])  # warm light, cool shadow


def render(ground, figures, size, rng):
    side, page = ZOOM * size, rng.randrange(PAGES)
    picture = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(picture)
    for shape in ground:
        pen.polygon(pixels(shape.points, side), shape.color)
    picture = picture.filter(ImageFilter.BoxBlur(0.012 * side))
    picture.paste((30, 26, 40), mask=vignette(side, page))
    slopes = np.zeros((2, side, side), np.float32)
    for figure in figures:
        cast_shadow(picture, figure, side)
        for shape in figure:
            model(picture, slopes, shape, side)
    return lit(picture.reduce(ZOOM), slopes.reshape(2, size, ZOOM, size, ZOOM).mean((2, 4)))


@cache
def vignette(side, page):
    """The backdrop's own shading: light falls off to the right and below, and no two studios are alike."""
    y, x = np.mgrid[0:side, 0:side] / side
    uneven = np.asarray(clouds(side, 4, page), np.float32) / 255
    return Image.fromarray((255 * np.clip(0.02 + 0.14 * (0.6 * x + 0.4 * y) ** 1.5 + 0.06 * uneven, 0, 1)).astype(np.uint8))


def cast_shadow(picture, figure, side):
    """A soft shadow to the lower right, and a darker one where the thing touches the ground."""
    small = side // 4
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
    picture.paste((28, 22, 48), mask=shadow.resize((side, side), Image.Resampling.BICUBIC))


def model(picture, slopes, shape, side):
    """One part of clay: its colour into the picture, its slopes into the relief. Details are painted on and stay flat."""
    radius = shape.radius * side
    if not (cut := cut_out(pixels(shape.points, side), 2 if shape.fine else round(1.5 * radius) + 2, side)):
        return
    mask, (left, top) = cut
    picture.paste(shape.color, (left, top), mask)
    if shape.fine:
        return
    shrink = max(1.0, radius / BODY_RADIUS)
    small = mask.resize((max(2, round(mask.width / shrink)), max(2, round(mask.height / shrink))), Image.Resampling.BOX)
    across, down = pillow(np.asarray(small, np.float32) / 255, min(BODY_RADIUS, radius))
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + mask.width, side), min(top + mask.height, side)
    window = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    inside = np.asarray(mask)[window] > 127
    for slope, relief in zip((across, down), slopes):
        full = np.asarray(Image.fromarray(slope).resize(mask.size, Image.Resampling.BILINEAR))
        np.copyto(relief[y0:y1, x0:x1], full[window], where=inside)


def pillow(mask, radius):
    """The slopes, across and down, of a mask blurred to a pillow."""
    (blur_y, slope_y), (blur_x, slope_x) = (blur_and_slope(n, round(2 * radius) / 2) for n in mask.shape)
    return blur_y @ mask @ slope_x.T * radius, slope_y @ mask @ blur_x.T * radius


@cache
def blur_and_slope(n, radius):
    """Two n × n matrices: a Gaussian blur of pixels, and the derivative of that blur."""
    sigma = max(0.55 * radius, 0.8)
    away = np.arange(n)[:, None] - np.arange(n)
    gauss = np.exp(-(away**2) / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return gauss.astype(np.float32), (-away / sigma**2 * gauss).astype(np.float32)


def lit(picture, slopes):
    """The colours under the light."""
    across, down = -STEEP * slopes
    up = 1 / np.sqrt(across**2 + down**2 + 1)
    lambert = np.maximum(0, (across * LIGHT[0] + down * LIGHT[1] + LIGHT[2]) * up) / LIGHT[2]
    shine = np.maximum(0, (across * HALFWAY[0] + down * HALFWAY[1] + HALFWAY[2]) * up) ** 24
    glow = 70 * (shine - HALFWAY[2] ** 24)  # nothing on flat ground
    color = np.asarray(picture, np.float32) * (FILL + lambert[..., None] * (1 - FILL) * KEY) + np.maximum(glow, 0)[..., None]
    return Image.fromarray(color.clip(0, 255).astype(np.uint8))
