"""The picture book: flat colours with thin outlines."""

from PIL import Image, ImageDraw

ZOOM = 3  # drawn larger and averaged down, for smooth edges


def render(ground, figures, size, rng):
    side = ZOOM * size
    page = Image.new("RGB", (side, side))
    pen = ImageDraw.Draw(page)
    for shape in ground:
        pen.polygon(on_canvas(shape.points, side), shape.color)
    for figure in figures:
        for shape in figure:
            points = on_canvas(shape.points, side)
            pen.polygon(points, shape.color)
            if not shape.fine:
                pen.line([*points, *points[:2]], outline(shape.color), round(side / 90))
    return page.reduce(ZOOM)


def on_canvas(points, side):
    return list(map(tuple, points * side))


def outline(color):
    """A line of the colour's own hue, dark enough to hold the shape; around black, a light one would jump out, so it is grey."""
    return tuple(round(0.45 * value + 0.55 * ink) for value, ink in zip(color, (54, 40, 52)))
