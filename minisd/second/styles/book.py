"""The picture book style: flat colours with thin outlines."""

from PIL import Image, ImageDraw

from .paper import ZOOM, pixels


def render(ground, figures, size, rng):
    side = ZOOM * size
    page = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(page)
    for shape in ground:
        pen.polygon(pixels(shape.points, side), shape.color)
    for shape in [shape for figure in figures for shape in figure]:
        points = pixels(shape.points, side)
        pen.polygon(points, shape.color)
        if not shape.fine:
            pen.line([*points, *points[:2]], outline(shape.color), round(side / 90))
    return page.reduce(ZOOM)


def outline(color):
    """A dark line colour with the same hue."""
    return tuple(round(0.45 * value + 0.55 * ink) for value, ink in zip(color, (54, 40, 52)))
