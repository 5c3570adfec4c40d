"""Parts: the closed outlines that make up everything in the picture book.

A part has only points and a paint. Each style decides how to render it: as an outline, a wash or a volume.
"""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

Color = tuple[int, int, int]


def mix(a: Color, b: Color, amount: float) -> Color:
    """`amount` of the way from colour `a` to colour `b`."""
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b))


@dataclass(frozen=True, eq=False)
class Part:
    """A closed outline (N, 2) and its paint: a colour, or the name of a paint derived from the thing's colour.

    `fine` marks details such as eyes and spots, which get no outline and no volume.
    """

    points: np.ndarray
    paint: str | Color
    fine: bool = False


def polygon(points, paint, fine=False) -> Part:
    """A polygon. Long sides are subdivided, so that a style can bend them."""
    points = np.asarray(points, float)
    sides = zip(points, np.roll(points, -1, axis=0))
    dense = [np.linspace(a, b, 1 + int(np.hypot(*(b - a)) / 0.15), endpoint=False) for a, b in sides]
    return Part(np.concatenate(dense), paint, fine)


def box(left, top, right, bottom, paint, fine=False) -> Part:
    return polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint, fine)


def oval(x, y, width, height, paint, fine=False, start=0.0, stop=1.0) -> Part:
    """An ellipse with the given half axes, or the part of it between two fractions of a turn (clockwise from the right)."""
    turns = 2 * pi * np.linspace(start, stop, 29)[: 28 if stop - start == 1 else 29]
    return Part(np.stack([x + width * np.cos(turns), y + height * np.sin(turns)], axis=1), paint, fine)


def dot(x, y, radius, paint) -> Part:
    return oval(x, y, radius, radius, paint, fine=True)


def curve(points, closed: bool) -> np.ndarray:
    """A smooth curve through all points (Catmull-Rom)."""
    points = np.asarray(points, float)
    before, after = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.concatenate([before, points, after])
    pieces = [padded[i : i + 4] for i in range(len(padded) - 3)]
    t = np.linspace(0, 1, 6, endpoint=False)[:, None]
    bend = lambda a, b, c, d: b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))  # noqa: E731
    return np.concatenate([bend(*piece) for piece in pieces] + ([] if closed else [points[-1:]]))


def blob(points, paint, fine=False) -> Part:
    """A smooth outline through the points."""
    return Part(curve(points, closed=True), paint, fine)


def stroke(points, paint, width, end_width=None, fine=False) -> Part:
    """A smooth line with round ends; its width is `width`, or changes from `width` to `end_width`."""
    path = curve(points, closed=False)
    along = np.gradient(path, axis=0)
    along /= np.maximum(np.hypot(*along.T), 1e-6)[:, None]
    across = along[:, ::-1] * (-1, 1)
    half = np.linspace(width, width if end_width is None else end_width, len(path))[:, None] / 2
    turns = pi * np.linspace(-0.5, 0.5, 7)[1:-1, None]
    end_cap = path[-1] + half[-1] * (np.cos(turns) * along[-1] - np.sin(turns) * across[-1])
    start_cap = path[0] - half[0] * (np.cos(turns) * along[0] - np.sin(turns) * across[0])
    return Part(np.concatenate([path + half * across, end_cap, (path - half * across)[::-1], start_cap]), paint, fine)


def ring(count, x, y, radius, start=0.0):
    """`count` points on a circle."""
    return [(x + radius * cos(2 * pi * (start + i / count)), y + radius * sin(2 * pi * (start + i / count))) for i in range(count)]
