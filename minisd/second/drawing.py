"""From a scene to its image: places the parts on the page and passes them to the renderer of the scene's style."""

import random
from dataclasses import dataclass
from functools import cache
from math import cos, sin

import numpy as np
from PIL import Image

from .creatures import CREATURES
from .objects import OBJECTS
from .places import COLORS, backdrop
from .shapes import Color, Part, mix
from .styles import book, pencil, photo, watercolour

THINGS = CREATURES | OBJECTS
RENDERERS = {style.__name__.split(".")[-1]: style.render for style in (book, pencil, watercolour, photo)}

PAINTS = {  # fixed colours
    "white": (255, 254, 250), "ink": (44, 42, 50), "gold": (250, 206, 84), "cream": (250, 238, 212), "rose": (228, 112, 120),
    "blush": (248, 176, 176), "leaf": (112, 176, 92), "wood": (150, 108, 74), "cocoa": (98, 72, 64), "glass": (180, 218, 240),
    "steel": (172, 180, 194), "sky": (120, 176, 226), "visor": (88, 128, 184), "skin": (250, 214, 184), "brick": (196, 116, 96),
    "detail": (84, 76, 84),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Shape:
    """A part on the page: its outline in fractions of the page, its colour, and half of its maximum width."""

    points: np.ndarray
    color: Color
    fine: bool
    radius: float


@cache
def palette(color: str) -> dict[str, Color]:
    """All paints for a thing of the given colour. White and black need different highlights and shades."""
    body = COLORS[color]
    shades = {
        "body": body,
        "light": mix(body, (255, 250, 238), 0.55),
        "shade": mix(body, (60, 44, 80), 0.18),
        "dark": mix(body, (60, 44, 80), 0.32),
        "line": PAINTS["ink"],
        "spot": PAINTS["white"],
    }
    if color == "white":
        shades |= {"light": (216, 224, 236), "shade": (220, 224, 232), "dark": (196, 204, 220), "spot": (208, 216, 230)}
    if color == "black":
        shades |= {"light": (136, 134, 146), "shade": (72, 70, 82), "dark": (88, 86, 100), "line": (214, 212, 220)}
    return PAINTS | shades


def thickness(points: np.ndarray) -> float:
    """Approximately the radius of the largest circle inside an outline: exact for a disc, half the width for a long bar."""
    following = np.roll(points, -1, axis=0)
    area = abs(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0])) / 2
    around = np.hypot(*(following - points).T).sum()
    return float(min(2 * area / around, np.ptp(points, axis=0).min() / 2))


THICKNESS = {kind: [thickness(part.points) for part in parts] for kind, parts in THINGS.items()}


def on_page(thing) -> list[Shape]:
    """The shapes of one thing, from back to front."""
    paints = palette(thing.color)
    turn = np.array([[cos(thing.angle), sin(thing.angle)], [-sin(thing.angle), cos(thing.angle)]]) * thing.scale
    if thing.looks == "left":
        turn = np.array([[-1.0], [1.0]]) * turn
    place = lambda part: part.points @ turn + (thing.x, thing.y)  # noqa: E731
    radii = THICKNESS[thing.kind]
    return [Shape(place(part), paints[part.paint], part.fine, thing.scale * r) for part, r in zip(THINGS[thing.kind], radii)]


def as_shape(part: Part) -> Shape:
    return Shape(part.points, part.paint, part.fine, 0.0)


def draw(scene, size: int = 128) -> Image.Image:
    """The image of a scene, `size` × `size` pixels. The same scene always gives the same image."""
    rng = random.Random(scene.seed)
    ground = [as_shape(part) for part in backdrop(scene.place, rng)]
    figures = [on_page(thing) for thing in scene.things[::-1]]  # a rider is in front of its mount
    return RENDERERS[scene.style](ground, figures, size, rng)
