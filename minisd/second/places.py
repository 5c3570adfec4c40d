"""The places of the picture book, made of the same parts as its things, in fractions of the page.

Places are pale and plain, so that things stand out. Their details are random, so no two beaches are alike.
"""

import random
from math import pi

import numpy as np

from .shapes import Color, Part, mix, oval

COLORS = {
    "red": (219, 62, 56), "orange": (244, 142, 44), "yellow": (250, 212, 66), "green": (72, 164, 84), "blue": (58, 118, 212),
    "purple": (140, 84, 186), "pink": (246, 152, 190), "white": (250, 249, 246), "black": (50, 48, 56), "brown": (142, 94, 58),
}  # fmt: skip
PAPER_TINT = {"white": 0.0, "black": 0.12}  # how much a plain page is lightened, so that things on it stay visible
MOONLIGHT = (250, 240, 190)


def backdrop(place: str, rng: random.Random) -> list[Part]:
    """The parts of a place, from back to front. The first covers the page; a plain page has no others."""
    if place in COLORS:
        return [whole_page(mix(COLORS[place], (255, 255, 255), PAPER_TINT.get(place, 0.32)))]
    return SCENERY[place](rng)


def whole_page(color: Color) -> Part:
    return Part(np.array([(-0.1, -0.1), (1.1, -0.1), (1.1, 1.1), (-0.1, 1.1)]), color)


def land(rng: random.Random, top: float, height: float, color: Color) -> Part:
    """Everything below a gently waving line."""
    start, waves = rng.uniform(0, 2 * pi), rng.uniform(0.5, 1.3)
    x = np.linspace(-0.1, 1.1, 25)
    line = np.stack([x, top + height * np.sin(start + 2 * pi * waves * x)], axis=1)
    return Part(np.concatenate([line, [(1.1, 1.1), (-0.1, 1.1)]]), color)


def cloud(rng: random.Random, y: float, color: Color) -> list[Part]:
    x, size = rng.uniform(0.08, 0.92), rng.uniform(0.045, 0.065)
    puffs = ((-1.3, 0.2, 0.8), (0.0, -0.25, 1.15), (1.3, 0.15, 0.85))
    return [oval(x + size * dx, y + size * dy, 1.15 * size * r, 0.85 * size * r, color, fine=True) for dx, dy, r in puffs]


def sprinkle(rng: random.Random, count: int, top: float, bottom: float, radius: float, color: Color) -> list[Part]:
    """Dots in a jittered grid: evenly spread but different on every page."""
    columns = [(i + rng.uniform(0.15, 0.85)) / count for i in range(count)]
    return [oval(x, rng.uniform(top, bottom), r, r, color, fine=True) for x in columns if (r := radius * rng.uniform(0.75, 1.25))]


def beach(rng):
    horizon = rng.uniform(0.46, 0.54)
    sun = oval(rng.choice([0.13, 0.87]), rng.uniform(0.1, 0.16), 0.085, 0.085, (255, 226, 128))
    sea = [land(rng, horizon, 0.0, (124, 192, 216)), land(rng, horizon + 0.09, 0.006, (148, 207, 222))]
    surf = land(rng, rng.uniform(0.68, 0.72), 0.012, (250, 246, 232))
    sand = land(rng, rng.uniform(0.73, 0.77), 0.014, (243, 224, 178))
    return [whole_page((196, 228, 244)), sun, *cloud(rng, rng.uniform(0.12, 0.3), (248, 251, 253)), *sea, surf, sand]


def night(rng):
    sky = (66, 76, 140)
    stars = sprinkle(rng, 7, 0.04, 0.24, 0.013, MOONLIGHT) + sprinkle(rng, 5, 0.26, 0.5, 0.013, MOONLIGHT)
    hills = [land(rng, rng.uniform(0.66, 0.7), 0.03, (58, 92, 116)), land(rng, rng.uniform(0.78, 0.82), 0.02, (74, 108, 112))]
    return [whole_page(sky), land(rng, 0.4, 0.02, mix(sky, (140, 140, 200), 0.25)), *stars, *hills]


def sunset(rng):
    bands = [whole_page((176, 140, 184))]
    for top, color in ((0.18, (224, 156, 170)), (0.36, (246, 180, 150)), (0.54, (253, 208, 146))):
        bands.append(land(rng, top + rng.uniform(-0.03, 0.03), 0.02, color))
    bands.append(oval(rng.uniform(0.15, 0.85), rng.uniform(0.66, 0.72), 0.16, 0.16, (255, 238, 170), fine=True))
    return [*bands, land(rng, rng.uniform(0.74, 0.78), 0.02, (128, 98, 124))]


def snow(rng):
    flakes = sprinkle(rng, 8, 0.04, 0.3, 0.016, (252, 253, 255)) + sprinkle(rng, 7, 0.3, 0.6, 0.016, (252, 253, 255))
    hills = [land(rng, rng.uniform(0.6, 0.66), 0.03, (212, 224, 240)), land(rng, rng.uniform(0.72, 0.77), 0.02, (232, 239, 248))]
    return [whole_page((170, 196, 222)), *hills[:1], *flakes, *hills[1:]]


def meadow(rng):
    sky = [whole_page((194, 226, 246)), *cloud(rng, rng.uniform(0.1, 0.18), (250, 252, 253)), *cloud(rng, 0.3, (250, 252, 253))]
    hills = [land(rng, rng.uniform(0.6, 0.65), 0.03, (186, 218, 142)), land(rng, rng.uniform(0.72, 0.77), 0.02, (160, 206, 120))]
    return sky + hills + sprinkle(rng, 7, 0.82, 0.97, 0.013, (252, 250, 226))


SCENERY = {"beach": beach, "night": night, "sunset": sunset, "snow": snow, "meadow": meadow}
