"""The pencil style: coloured hatching and graphite lines on warm paper."""

from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .paper import PAGES, clouds, on_grain, painted_area, pixels

ZOOM = 2
PAPER, GRAPHITE = (251, 245, 232), (70, 66, 74)


def render(ground, figures, size, rng):
    side, page, phase = ZOOM * size, rng.randrange(PAGES), rng.uniform(0, 6)
    color = Image.new("RGB", (side, side))
    lines, front = Image.new("L", (side, side)), Image.new("L", (side, side))
    paint, draw_line, cover = ImageDraw.Draw(color), ImageDraw.Draw(lines), ImageDraw.Draw(front)
    paint_ground(paint, draw_line, ground, side, phase)
    lines.paste(0, mask=bare_paper(side, page))
    for shape in [shape for figure in figures for shape in figure]:
        points = pixels(shape.points, side, 0.003, phase)
        paint.polygon(points, shape.color)
        cover.polygon(points, 255)
        draw_line.polygon(points, 0)  # hides what is behind
        if not shape.fine:
            draw_line.line([*points, *points[:2]], 220, round(side / 90))
            again = pixels(shape.points, side, 0.005, phase + 2)
            draw_line.line([*again, *again[:2]], 120, round(side / 128))
    pressure = Image.composite(hatching(side, page, 0.66, 0.97, 1.0), ground_hatching(side, page), front)
    drawing = Image.composite(color, Image.new("RGB", color.size, PAPER), pressure)
    drawing.paste(GRAPHITE, mask=lines)
    return on_grain(drawing.reduce(ZOOM), page)


def paint_ground(paint, draw_line, ground, side, phase):
    """The place, with a faint line along the edge of the land."""
    for shape in ground:
        points = pixels(shape.points, side, 0.003, phase)
        paint.polygon(points, shape.color)
        draw_line.polygon(points, 0)
        draw_line.line([*points, points[0]], 60 if shape.fine else 110, round(side / 128))


@cache
def hatching(side, page, weak, strong, slant):
    """The pressure of the pencil: slightly uneven parallel strokes, each about two pixels wide in the final image."""
    y, x = np.mgrid[0:side, 0:side] / side
    unsteady = np.asarray(clouds(side, 6, page), np.float32) / 255
    waves = np.sin(2 * np.pi * (24 * (x * np.cos(slant) + y * np.sin(slant)) + 0.7 * unsteady))
    strokes = np.clip(0.5 + 0.9 * waves, 0, 1) * (0.75 + 0.25 * unsteady)
    return Image.fromarray((255 * (weak + (strong - weak) * strokes)).astype(np.uint8))


@cache
def ground_hatching(side, page):
    """Lighter strokes in the other direction, so that things stand out, surrounded by bare paper."""
    strokes = hatching(side, page, 0.48, 0.66, 2.3)
    return Image.composite(strokes, Image.new("L", strokes.size), painted_area(side, 0.03, 0.03, page))


@cache
def bare_paper(side, page):
    return ImageChops.invert(painted_area(side, 0.03, 0.03, page))
