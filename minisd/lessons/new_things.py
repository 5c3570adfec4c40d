"""Things that the built-in model never saw, drawn in the style of its picture book: something to teach it.

with new_things():                                    # inside, the picture book and the first judge know them
    write_examples(Path("umbrellas"), ["umbrella"], 12)
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import cos, pi, sin
from pathlib import Path

from ..evaluate import geometry
from ..evaluate.prompts import Prompt
from ..tiny.drawing import CLOUD, CREAM, GLOW, INK, THINGS, WOOD, Color, Pen, darker, mix
from ..tiny.picture_book import COLORS, USUAL_COLOR, Scene, caption, compose, draw


def umbrella(pen: Pen, color: Color):
    hook = [(0.16 - 0.16 * cos(pi * i / 8), 0.75 + 0.16 * sin(pi * i / 8)) for i in range(9)]
    pen.line([(0, -0.1), (0, 0.75), *hook], WOOD, 0.1)
    dome = [(0.95 * cos(pi + pi * i / 24), 0.15 + 0.95 * sin(pi + pi * i / 24)) for i in range(25)]
    scallops = [(0.95 - 0.475 * (i + j / 6), 0.15 - 0.13 * sin(pi * j / 6)) for i in range(4) for j in range(1, 7)]
    pen.polygon(dome + scallops, color)
    for x in (-0.475, 0, 0.475):
        pen.line([(0, -0.8), (0.55 * x, -0.4), (x, 0.13)], darker(color), 0.04)
    pen.dot(0, -0.86, 0.07, WOOD)


def cup(pen: Pen, color: Color):
    pen.oval(0.62, 0.1, 0.32, 0.34, darker(color))
    pen.oval(0.62, 0.1, 0.17, 0.19, CREAM)
    pen.polygon([(-0.75, -0.4), (0.6, -0.4), (0.45, 0.8), (-0.6, 0.8)], color)
    pen.oval(-0.075, -0.4, 0.675, 0.16, mix(color, INK, 0.3))
    for x in (-0.35, 0.15):
        pen.line([(x + 0.09 * sin(pi * i / 3), -0.62 - 0.06 * i) for i in range(6)], mix(CLOUD, INK, 0.25), 0.05)


def kite(pen: Pen, color: Color):
    pen.line([(0.12 * sin(pi * i / 3), 0.3 + 0.11 * i) for i in range(7)], INK, 0.04)
    for i in (2, 4, 6):
        pen.dot(0.12 * sin(pi * i / 3), 0.3 + 0.11 * i, 0.08, GLOW)
    pen.polygon([(0, -0.95), (0.65, -0.25), (0, 0.35), (-0.65, -0.25)], color)
    pen.polygon([(0, -0.95), (0.65, -0.25), (0, -0.25)], mix(color, CLOUD, 0.5))
    pen.polygon([(0, 0.35), (-0.65, -0.25), (0, -0.25)], mix(color, CLOUD, 0.5))


def snail(pen: Pen, color: Color):
    pen.polygon([(-0.95, 0.75), (-0.8, 0.5), (0.5, 0.55), (0.62, -0.1), (0.9, -0.15), (0.95, 0.3), (0.8, 0.75)], CREAM)
    for x in (0.68, 0.88):
        pen.line([(x, -0.1), (x + 0.06, -0.45)], INK, 0.05)
        pen.dot(x + 0.06, -0.47, 0.07, INK)
    pen.oval(-0.15, 0.05, 0.62, 0.58, color)
    spiral = [((0.5 - 0.04 * i) * cos(0.7 * i), (0.47 - 0.04 * i) * sin(0.7 * i)) for i in range(12)]
    pen.line([(x - 0.15, y + 0.05) for x, y in spiral], darker(color), 0.07)


def lamp(pen: Pen, color: Color):
    pen.box(-0.07, -0.1, 0.07, 0.75, WOOD)
    pen.oval(0, 0.8, 0.45, 0.13, WOOD)
    pen.dot(0, 0.02, 0.16, GLOW)
    pen.polygon([(-0.35, -0.9), (0.35, -0.9), (0.75, 0.0), (-0.75, 0.0)], color)
    pen.line([(-0.63, -0.2), (0.63, -0.2)], darker(color), 0.06)


NEW_THINGS = {"umbrella": umbrella, "cup": cup, "kite": kite, "snail": snail, "lamp": lamp}


@contextmanager
def new_things() -> Iterator[None]:
    """Inside the context, scenes, captions and the first judge know the new things too."""
    THINGS.update(NEW_THINGS)
    USUAL_COLOR.update(dict.fromkeys(NEW_THINGS, "red"))
    geometry.templates.cache_clear()
    try:
        yield
    finally:
        for known in (THINGS, USUAL_COLOR):
            for kind in NEW_THINGS:
                del known[kind]
        geometry.templates.cache_clear()


def example(kind: str, i: int) -> tuple[Scene, str]:
    """Scene i of a new thing and its caption. Colours take turns; place, size and words are random."""
    rng = random.Random(f"{kind}/{i}")
    scene = compose(rng, "", (kind,), (list(COLORS)[i % len(COLORS)],))
    return scene, caption(scene, rng)


def prompts_for(kind: str, count: int) -> list[Prompt]:
    """Prompts for a new thing in the protocol's form, different from the captions of the examples."""
    prompts = []
    for i in range(count):
        rng = random.Random(f"prompt/{kind}/{i}")
        scene = compose(rng, "", (kind,), (rng.choice(list(COLORS)),))
        prompts.append(Prompt(caption(scene, rng), i, scene))
    return prompts


def write_examples(folder: Path, kinds: Sequence[str], count: int):
    """Write `count` drawings of each kind, with captions beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        for i in range(count):
            scene, words = example(kind, i)
            draw(scene).save(folder / f"{kind}-{i:03}.png")
            (folder / f"{kind}-{i:03}.txt").write_text(words + "\n", encoding="utf-8")
