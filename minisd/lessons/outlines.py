"""Colouring pages: scenes of the picture book as white lines on black, to teach a ControlNet what to draw where."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

from ..tiny.drawing import THINGS, Color, Pen
from ..tiny.picture_book import Scene, caption, draw, training_scene

CONTROLNET = Path(__file__).with_name("controlnet")  # trained by docs/outlines.py, in float8
PAPER, CHALK = (0, 0, 0), (255, 255, 255)


class Chalk(Pen):
    """Draws shapes as white outlines filled with black, so that nearer things hide farther ones, whatever their colours."""

    def polygon(self, points, fill: Color):
        self.draw.polygon(self.page(points), PAPER, outline=CHALK, width=2)

    def line(self, points, color: Color, width: float):
        self.draw.line(self.page(points), CHALK, 2, joint="curve")

    def dot(self, x, y, radius, color: Color):
        ((x, y),) = self.page([(x, y)])
        r = radius * self.scale
        self.draw.ellipse((x - r, y - r, x + r, y + r), PAPER, outline=CHALK, width=2)


def outlines(scene: Scene, size: int = 128) -> Image.Image:
    """The outlines of a scene's things, `size` × `size` pixels. They show neither the colours nor the place."""
    side = 2 * size
    page = Image.new("RGB", (side, side), PAPER)
    for thing in scene.things[::-1]:
        pen = Chalk(ImageDraw.Draw(page), thing.x * side, thing.y * side, thing.scale * side, thing.angle)
        THINGS[thing.kind](pen, CHALK)
    return page.reduce(2)


def write_pairs(folder: Path, count: int):
    """Write `count` training scenes of the built-in model with their outlines and captions, as `minisd.finetune` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        scene = training_scene(i)
        draw(scene).save(folder / f"{i:05}.png")
        outlines(scene).save(folder / f"{i:05}.condition.png")
        (folder / f"{i:05}.txt").write_text(caption(scene, random.Random(f"caption/{i}")) + "\n", encoding="utf-8")
