"""How each thing in the picture book is drawn, one small function per thing.

A thing is drawn in its own square, x to the right and y down, both from -1 to 1; `Pen` places that square on the page. Each
function takes the pen and the thing's body colour. All other colours (wheels, eyes, a visor) are fixed.
"""

from math import cos, pi, sin

from PIL import ImageDraw

INK, CLOUD, GLASS, GLOW, LEAF, WOOD = (40, 40, 48), (250, 250, 250), (150, 205, 240), (255, 215, 90), (85, 160, 75), (125, 85, 55)
CREAM = (245, 228, 200)

Color = tuple[int, int, int]


def mix(a: Color, b: Color, amount: float) -> Color:
    """`amount` of the way from colour `a` to colour `b`."""
    red, green, blue = (round(x + (y - x) * amount) for x, y in zip(a, b))
    return red, green, blue


def darker(color: Color) -> Color:
    """A darker shade of the colour; black becomes lighter instead."""
    return mix(color, (0, 0, 0), 0.35) if sum(color) > 200 else mix(color, (255, 255, 255), 0.35)


class Pen:
    """Draws in the square of one thing, with centre `(x, y)` and half side `scale` in pixels, rotated by `angle` radians."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, scale: float, angle: float = 0.0):
        self.draw, self.x, self.y, self.scale = draw, x, y, scale
        self.cos, self.sin = scale * cos(angle), scale * sin(angle)

    def page(self, points):
        return [(self.x + self.cos * x - self.sin * y, self.y + self.sin * x + self.cos * y) for x, y in points]

    def polygon(self, points, fill: Color):
        """A filled shape with a thin outline in a darker shade."""
        self.draw.polygon(self.page(points), fill, outline=darker(fill), width=max(1, round(self.scale * 0.035)))

    def oval(self, x, y, width, height, fill: Color, start=0.0, stop=1.0):
        """An ellipse with the given half axes, or the part of it between two fractions of a turn (clockwise from the right)."""
        turns = [start + (stop - start) * i / 28 for i in range(28 if stop - start == 1 else 29)]
        self.polygon([(x + width * cos(2 * pi * t), y + height * sin(2 * pi * t)) for t in turns], fill)

    def box(self, left, top, right, bottom, fill: Color):
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def line(self, points, color: Color, width: float):
        self.draw.line(self.page(points), color, max(1, round(self.scale * width)), joint="curve")

    def dot(self, x, y, radius, color: Color):
        ((x, y),) = self.page([(x, y)])
        r = radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), color)


def ball(pen, color):
    pen.oval(0, 0, 0.9, 0.9, color)
    pen.oval(0, 0, 0.9, 0.28, mix(color, CLOUD, 0.45))
    pen.dot(-0.35, -0.5, 0.14, CLOUD)


def box(pen, color):
    pen.box(-0.85, -0.6, 0.85, 0.9, color)
    pen.box(-0.16, -0.6, 0.16, 0.9, mix(color, CLOUD, 0.6))
    pen.oval(-0.3, -0.74, 0.3, 0.15, mix(color, CLOUD, 0.6))
    pen.oval(0.3, -0.74, 0.3, 0.15, mix(color, CLOUD, 0.6))


def star(pen, color):
    radii = [0.98 if i % 2 == 0 else 0.46 for i in range(10)]
    pen.polygon([(r * sin(pi * i / 5), 0.06 - r * cos(pi * i / 5)) for i, r in enumerate(radii)], color)
    smile(pen, 0, 0.08, 0.9)


def heart(pen, color):
    turns = [2 * pi * i / 40 for i in range(40)]
    curve = [(16 * sin(t) ** 3, -(13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t))) for t in turns]
    pen.polygon([(x / 17, y / 16 - 0.12) for x, y in curve], color)
    pen.dot(-0.45, -0.45, 0.13, mix(color, CLOUD, 0.7))


def house(pen, color):
    pen.box(0.35, -0.85, 0.6, -0.3, darker(color))
    pen.box(-0.7, -0.15, 0.7, 0.9, color)
    pen.polygon([(-0.95, -0.12), (0, -0.95), (0.95, -0.12)], mix(color, INK, 0.45))
    pen.box(-0.5, 0.25, -0.1, 0.9, WOOD)
    pen.box(0.15, 0.15, 0.52, 0.5, GLOW)


def tree(pen, color):
    pen.box(-0.17, 0.3, 0.17, 0.95, WOOD)
    pen.polygon([(-0.8, 0.45), (0, -0.35), (0.8, 0.45)], color)
    pen.polygon([(-0.66, 0.02), (0, -0.68), (0.66, 0.02)], color)
    pen.polygon([(-0.5, -0.4), (0, -0.98), (0.5, -0.4)], color)


def car(pen, color):
    pen.polygon([(-0.6, 0.05), (-0.4, -0.5), (0.3, -0.5), (0.6, 0.05)], color)
    pen.polygon([(-0.42, 0.02), (-0.3, -0.36), (-0.06, -0.36), (-0.06, 0.02)], GLASS)
    pen.polygon([(0.06, 0.02), (0.06, -0.36), (0.23, -0.36), (0.4, 0.02)], GLASS)
    pen.polygon([(-0.97, 0.5), (-0.97, 0.1), (-0.85, 0), (0.7, 0), (0.95, 0.15), (0.97, 0.5)], color)
    for x in (-0.52, 0.52):
        pen.oval(x, 0.5, 0.25, 0.25, INK)
        pen.dot(x, 0.5, 0.11, CREAM)


def boat(pen, color):
    pen.line([(0, -0.95), (0, 0.3)], WOOD, 0.08)
    pen.polygon([(0.08, -0.9), (0.08, 0.15), (0.75, 0.15)], CREAM)
    pen.polygon([(-0.08, -0.7), (-0.08, 0.15), (-0.6, 0.15)], CREAM)
    pen.polygon([(-0.97, 0.25), (0.97, 0.25), (0.62, 0.85), (-0.62, 0.85)], color)


def fish(pen, color):
    pen.polygon([(-0.4, 0), (-0.97, -0.5), (-0.82, 0), (-0.97, 0.5)], mix(color, CLOUD, 0.3))
    pen.polygon([(-0.2, -0.4), (0.1, -0.78), (0.35, -0.4)], mix(color, CLOUD, 0.3))
    pen.oval(0.18, 0, 0.76, 0.52, color)
    pen.line([(-0.02, -0.28), (0.08, 0), (-0.02, 0.28)], darker(color), 0.06)
    eye(pen, 0.6, -0.14)


def flower(pen, color):
    pen.line([(0, 0), (0, 0.97)], LEAF, 0.12)
    pen.oval(0.26, 0.68, 0.26, 0.12, LEAF)
    for i in range(6):
        pen.oval(0.4 * cos(pi * i / 3), -0.32 + 0.4 * sin(pi * i / 3), 0.27, 0.27, color)
    pen.oval(0, -0.32, 0.24, 0.24, GLOW)


def balloon(pen, color):
    pen.line([(0, 0.45), (0.08, 0.65), (-0.06, 0.8), (0, 0.98)], INK, 0.05)
    pen.polygon([(-0.12, 0.54), (0, 0.36), (0.12, 0.54)], color)
    pen.oval(0, -0.28, 0.6, 0.7, color)
    pen.oval(-0.22, -0.55, 0.12, 0.18, mix(color, CLOUD, 0.7))


def mushroom(pen, color):
    pen.polygon([(-0.28, 0), (0.28, 0), (0.36, 0.92), (-0.36, 0.92)], CREAM)
    pen.oval(0, 0.1, 0.95, 0.95, color, 0.5, 1.0)
    for x, y, r in ((-0.5, -0.18, 0.13), (0, -0.5, 0.17), (0.5, -0.18, 0.13)):
        pen.dot(x, y, r, CLOUD)
    smile(pen, 0, 0.42, 0.6)


def rocket(pen, color):
    pen.polygon([(-0.2, 0.55), (0, 0.98), (0.2, 0.55)], GLOW)
    for side in (-1, 1):
        pen.polygon([(0.3 * side, 0.1), (0.66 * side, 0.65), (0.28 * side, 0.55)], mix(color, INK, 0.45))
    pen.polygon([(0, -0.98), (0.27, -0.55), (0.34, 0), (0.26, 0.6), (-0.26, 0.6), (-0.34, 0), (-0.27, -0.55)], color)
    pen.oval(0, -0.22, 0.17, 0.17, GLASS)


def cat(pen, color):
    pen.line([(0.45, 0.75), (0.8, 0.6), (0.82, 0.2), (0.68, 0.05)], color, 0.16)
    pen.oval(0, 0.45, 0.5, 0.52, color)
    for side in (-1, 1):
        pen.polygon([(0.14 * side, -0.6), (0.5 * side, -0.98), (0.54 * side, -0.35)], color)
    pen.oval(0, -0.32, 0.56, 0.46, color)
    face(pen, 0, -0.36)
    pen.oval(0, 0.55, 0.24, 0.34, mix(color, CLOUD, 0.55))


def bird(pen, color):
    for x in (-0.15, 0.15):
        pen.line([(x, 0.5), (x, 0.95)], GLOW, 0.09)
    pen.polygon([(-0.5, 0.15), (-0.98, -0.15), (-0.92, 0.35)], color)
    pen.oval(-0.05, 0.15, 0.62, 0.5, color)
    pen.polygon([(0.66, -0.56), (0.98, -0.4), (0.66, -0.26)], GLOW)
    pen.oval(0.36, -0.42, 0.4, 0.4, color)
    pen.oval(-0.2, 0.16, 0.32, 0.2, mix(color, CLOUD, 0.45))
    eye(pen, 0.48, -0.48)


def robot(pen, color):
    pen.line([(0, -0.95), (0, -0.6)], INK, 0.08)
    pen.dot(0, -0.9, 0.12, GLOW)
    for side in (-1, 1):
        pen.box(min(0.5 * side, 0.74 * side), 0.02, max(0.5 * side, 0.74 * side), 0.55, mix(color, CLOUD, 0.4))
        pen.box(min(0.1 * side, 0.38 * side), 0.6, max(0.1 * side, 0.38 * side), 0.95, mix(color, CLOUD, 0.4))
    pen.box(-0.5, -0.06, 0.5, 0.68, color)
    pen.box(-0.25, 0.12, 0.25, 0.42, CREAM)
    pen.box(-0.58, -0.72, 0.58, -0.08, color)
    eye(pen, -0.26, -0.42)
    eye(pen, 0.26, -0.42)


def horse(pen, color):
    pen.polygon([(-0.6, -0.1), (-0.95, 0.1), (-0.9, 0.6), (-0.72, 0.25)], darker(color))
    for x in (-0.5, -0.24, 0.2, 0.44):
        pen.box(x - 0.1, 0.2, x + 0.1, 0.95, color)
        pen.box(x - 0.1, 0.83, x + 0.1, 0.95, INK)
    pen.oval(-0.03, 0.12, 0.68, 0.34, color)
    pen.polygon([(0.2, 0.1), (0.42, -0.6), (0.74, -0.5), (0.62, 0.2)], color)
    pen.polygon([(0.46, -0.86), (0.4, -0.5), (0.86, -0.24), (0.98, -0.4), (0.68, -0.78)], color)
    pen.polygon([(0.48, -0.95), (0.42, -0.6), (0.16, -0.02), (0.24, -0.5), (0.34, -0.85)], darker(color))
    eye(pen, 0.6, -0.56)


def dragon(pen, color):
    pen.polygon([(-0.3, 0.2), (-0.98, -0.25), (-0.86, 0.3), (-0.4, 0.62)], color)
    pen.polygon([(-0.1, 0), (-0.6, -0.7), (-0.26, -0.62), (-0.06, -0.9), (0.14, -0.56), (0.22, 0)], mix(color, CLOUD, 0.5))
    for x in (-0.3, 0.22):
        pen.box(x - 0.13, 0.4, x + 0.13, 0.95, color)
    pen.oval(-0.05, 0.28, 0.56, 0.42, color)
    pen.polygon([(0.12, 0.1), (0.38, -0.5), (0.66, -0.4), (0.5, 0.3)], color)
    for x, y in ((0.34, -0.7), (0.54, -0.74)):
        pen.polygon([(x - 0.08, y + 0.14), (x - 0.06, y - 0.2), (x + 0.1, y + 0.1)], CREAM)
    pen.oval(0.6, -0.46, 0.38, 0.25, color)
    pen.oval(-0.02, 0.42, 0.3, 0.24, mix(color, CREAM, 0.65))
    eye(pen, 0.56, -0.52)


def astronaut(pen, color):
    pen.box(-0.6, -0.1, 0.6, 0.5, mix(color, INK, 0.4))
    for side in (-1, 1):
        pen.oval(0.55 * side, 0.2, 0.2, 0.36, color)
        pen.oval(0.24 * side, 0.72, 0.22, 0.25, color)
    pen.oval(0, 0.25, 0.46, 0.48, color)
    pen.oval(0, -0.42, 0.56, 0.54, color)
    pen.oval(0.04, -0.4, 0.4, 0.34, (60, 105, 165))
    pen.dot(0.2, -0.54, 0.09, CLOUD)
    pen.box(-0.2, 0.16, 0.2, 0.4, GLOW)


def eye(pen, x, y):
    pen.dot(x, y, 0.13, CLOUD)
    pen.dot(x + 0.03, y, 0.07, INK)


def smile(pen, x, y, size):
    pen.dot(x - 0.2 * size, y - 0.1 * size, 0.09 * size, INK)
    pen.dot(x + 0.2 * size, y - 0.1 * size, 0.09 * size, INK)
    pen.line(
        [(x + 0.2 * size * dx, y + 0.15 * size + 0.1 * size * dy) for dx, dy in ((-1, 0), (-0.5, 1), (0.5, 1), (1, 0))],
        INK,
        0.07 * size,
    )


def face(pen, x, y):
    eye(pen, x - 0.22, y)
    eye(pen, x + 0.22, y)
    pen.dot(x, y + 0.19, 0.08, (235, 130, 140))


THINGS = {
    draw.__name__: draw
    for draw in (ball, box, star, heart, house, tree, car, boat, fish, flower, balloon, mushroom, rocket)
    + (cat, bird, robot, horse, dragon, astronaut)
}
