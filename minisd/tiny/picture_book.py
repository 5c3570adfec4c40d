"""The world of the built-in model: scenes of one or two things, their images, and captions that describe them.

    scene = sample(random.Random(0))      # the exact content of an image
    draw(scene).save("scene.png")         # 128×128 pixels
    caption(scene, random.Random(0))      # "a drawing of a red ball to the left of a horse at night"

A few combinations are held out: `sample` never returns them, so they are new to a trained model.
"""

import random
from dataclasses import dataclass
from math import cos, pi, sin

from PIL import Image, ImageDraw

from .drawing import THINGS, Pen, mix

COLORS = {
    "red": (220, 50, 47), "orange": (245, 140, 30), "yellow": (250, 215, 50), "green": (60, 165, 75), "blue": (50, 110, 220),
    "purple": (140, 80, 190), "pink": (245, 150, 190), "white": (248, 248, 248), "black": (45, 45, 50), "brown": (140, 90, 50),
}  # fmt: skip
USUAL_COLOR = {  # the colour of a thing whose caption names none
    "ball": "red", "box": "purple", "star": "yellow", "heart": "red", "house": "orange", "tree": "green", "car": "blue",
    "boat": "brown", "fish": "orange", "flower": "pink", "balloon": "purple", "mushroom": "red", "rocket": "white", "cat": "black",
    "bird": "yellow", "robot": "blue", "horse": "brown", "dragon": "green", "astronaut": "white",
}  # fmt: skip
SYNONYM = {
    "ball": "sphere", "box": "present", "house": "home", "car": "automobile", "boat": "ship", "flower": "blossom",
    "mushroom": "toadstool", "rocket": "spaceship", "cat": "kitten", "robot": "android", "horse": "pony", "astronaut": "spaceman",
}  # fmt: skip
SIZES = {"small": (0.16, 0.20), "": (0.26, 0.34), "big": (0.40, 0.44)}  # half the side of a thing, as a fraction of the page
SCENERY = {
    "beach": ("on the beach", "at the beach"),
    "night": ("at night", "in the night"),
    "sunset": ("at sunset", "in the sunset"),
    "snow": ("in the snow", "on the snow"),
    "meadow": ("on the grass", "in a meadow"),
}
RELATIONS = {  # phrases from the first thing to the second, and back; the first is left of, above, or on the second
    "left": ("to the left of", "to the right of"),
    "above": ("above", "below"),
    "next": ("next to", "next to"),
    "riding": ("riding", "riding"),
}
REPHRASED = {"to the left of": "left of", "to the right of": "right of", "above": "over", "below": "under", "next to": "beside"}
FORMS = ("a photograph of", "a photo of", "a picture of", "a drawing of", "a painting of")

RIDERS = ("astronaut", "cat", "bird", "robot")
SEATS = {  # mount: the position of a rider, in the mount's own square
    "horse": (-0.12, -0.16), "dragon": (-0.06, -0.08), "fish": (0.12, -0.44), "car": (-0.05, -0.46), "boat": (-0.3, 0.22),
}  # fmt: skip

# Held out of training: one colour of each thing, one mount of each rider, a tenth of the ordered pairs of things.
HELD_OUT_COLORS = {(kind, list(COLORS)[(3 * i + 4) % 10]) for i, kind in enumerate(THINGS)}
HELD_OUT_RIDES = set(zip(RIDERS, SEATS))
HELD_OUT_PAIRS = {(a, b) for i, a in enumerate(THINGS) for j, b in enumerate(THINGS) if (3 * i + 7 * j) % 10 == 4}

TRAINING_SCENES = 60_000


@dataclass(frozen=True)
class Thing:
    """One thing on the page. Positions are fractions of the page's side; `scale` is half the side of the thing."""

    kind: str
    color: str
    x: float
    y: float
    scale: float
    angle: float = 0.0
    size: str = ""
    color_is_named: bool = True


@dataclass(frozen=True)
class Scene:
    """One or two things, their relation (a key of RELATIONS), and the place (a scenery, a colour, or "" for the pale page)."""

    things: tuple[Thing, ...]
    relation: str = ""
    place: str = ""


def is_held_out(scene: Scene) -> bool:
    """Whether a scene has a held-out combination. With "next to", training still has the other order, whose image is the same."""
    kinds = tuple(thing.kind for thing in scene.things)
    if scene.relation == "riding" and kinds in HELD_OUT_RIDES:
        return True
    if scene.relation not in ("", "riding") and kinds in HELD_OUT_PAIRS:
        return True
    return any((thing.kind, thing.color) in HELD_OUT_COLORS for thing in scene.things)


def sample(rng: random.Random, held_out: bool = False) -> Scene:
    """A random scene without held-out combinations or, with `held_out`, with one."""
    while True:
        relation = rng.choices(["", "left", "above", "next", "riding"], [30, 20, 20, 10, 20])[0]
        scene = compose(rng, relation)
        if is_held_out(scene) == held_out:
            return scene


def training_scene(i: int) -> Scene:
    """Training scene i of the built-in UNet, 0 to TRAINING_SCENES - 1."""
    return sample(random.Random(f"unet/{i}"))


def compose(rng: random.Random, relation: str, kinds=(), colors=(), place=None) -> Scene:
    """A scene with the given relation. Kinds and colours (None or a name per thing) and the place are random unless given."""
    if place is None:
        place = rng.choices(["", rng.choice(list(COLORS)), rng.choice(list(SCENERY))], [25, 30, 45])[0]
    if relation == "riding":
        kinds = kinds or (rng.choice(RIDERS), rng.choice(list(SEATS)))
    else:
        kinds = kinds or tuple(rng.choice(list(THINGS)) for _ in range(2 if relation else 1))
    named = [color is not None for color in colors] or [rng.random() < 0.7 for _ in kinds]
    free = [color for color in COLORS if color != place]
    colors = colors or [rng.choice(free) if name else None for name in named]
    size = rng.choices(list(SIZES), [15, 70, 15])[0] if not relation else ""
    things = [
        Thing(kind, color or USUAL_COLOR[kind], x, y, scale, rng.uniform(-0.08, 0.08), size, is_named)
        for kind, color, is_named, (x, y, scale) in zip(kinds, colors, named, spots(rng, relation, size, kinds))
    ]
    if place in [thing.color for thing in things]:  # a white horse on a white page would be invisible
        place = ""
    return Scene(tuple(things), relation, place)


def spots(rng: random.Random, relation: str, size: str, kinds) -> list[tuple[float, float, float]]:
    """The positions of a scene's things: (x, y, scale) for each."""
    near = lambda centre, spread: rng.uniform(centre - spread, centre + spread)  # noqa: E731
    if relation == "":
        scale = rng.uniform(*SIZES[size])
        room = 0.48 - scale
        return [(near(0.5, min(0.12, room)), near(0.53, min(0.08, room)), scale)]
    if relation == "riding":
        x, y, scale = near(0.5, 0.05), near(0.66, 0.03), near(0.30, 0.02)
        seat_x, seat_y = SEATS[kinds[1]]
        rider = near(0.185, 0.01)
        return [(x + scale * seat_x, y + scale * seat_y - 0.78 * rider, rider), (x, y, scale)]
    scales = [rng.uniform(0.20, 0.235) for _ in kinds]
    if relation == "above":
        middle = near(0.5, 0.12)
        return [(near(middle, 0.06), near(0.26, 0.02), scales[0]), (near(middle, 0.06), near(0.74, 0.02), scales[1])]
    middle = near(0.58, 0.1)
    return [(near(0.26, 0.02), near(middle, 0.05), scales[0]), (near(0.74, 0.02), near(middle, 0.05), scales[1])]


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the many ways to describe a scene."""
    nouns = [noun_phrase(thing, rng) for thing in scene.things]
    text = nouns[0]
    if scene.relation:
        forward, backward = RELATIONS[scene.relation]
        if scene.relation != "riding" and rng.random() < 0.5:
            forward, nouns = backward, nouns[::-1]
        if rng.random() < 0.25:
            forward = REPHRASED.get(forward, forward)
        text = f"{nouns[0]} {forward} {nouns[1]}"
    if scene.place in COLORS:
        text += f" on {with_article(scene.place)} background"
    elif scene.place:
        text += " " + rng.choice(SCENERY[scene.place])
    return f"{rng.choice(FORMS)} {text}" if rng.random() < 0.4 else text


def noun_phrase(thing: Thing, rng: random.Random) -> str:
    kind = SYNONYM[thing.kind] if thing.kind in SYNONYM and rng.random() < 0.2 else thing.kind
    words = " ".join(word for word in (thing.size, thing.color if thing.color_is_named else "", kind) if word)
    return words if rng.random() < 0.1 else with_article(words)


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def draw(scene: Scene, size: int = 128) -> Image.Image:
    """The image of a scene, `size` × `size` pixels, drawn at twice the size and averaged down."""
    side = 2 * size
    page = Image.new("RGB", (side, side), (246, 240, 228))
    brush = ImageDraw.Draw(page)
    draw_place(brush, scene.place, side)
    for thing in scene.things[::-1]:  # a rider is in front of its mount
        pen = Pen(brush, thing.x * side, thing.y * side, thing.scale * side, thing.angle)
        THINGS[thing.kind](pen, COLORS[thing.color])
    return page.reduce(2)


def draw_place(brush: ImageDraw.ImageDraw, place: str, side: int):
    def bands(*rows):
        for top, color in rows:
            brush.rectangle((0, top * side, side, side), color)

    def disc(x, y, radius, color):
        brush.ellipse([side * v for v in (x - radius, y - radius, x + radius, y + radius)], color)

    if place in COLORS:
        bands((0, mix(COLORS[place], (255, 255, 255), 0.3)))
    elif place == "beach":
        bands((0, (172, 216, 245)), (0.48, (80, 155, 215)), (0.72, (240, 220, 165)))
        disc(0.88, 0.12, 0.09, (255, 226, 110))
    elif place == "night":
        bands((0, (44, 52, 118)), (0.78, (58, 82, 84)))
        disc(0.87, 0.13, 0.09, (250, 240, 190))
        disc(0.83, 0.11, 0.08, (44, 52, 118))
        for x, y in ((0.1, 0.1), (0.3, 0.2), (0.55, 0.08), (0.08, 0.45), (0.93, 0.5), (0.68, 0.3)):
            disc(x, y, 0.012, (250, 245, 215))
    elif place == "sunset":
        bands((0, (120, 80, 140)), (0.2, (205, 95, 115)), (0.4, (240, 140, 95)), (0.6, (252, 190, 105)))
        disc(0.5, 0.78, 0.2, (255, 232, 140))
        bands((0.78, (92, 66, 88)))
    elif place == "snow":
        bands((0, (188, 208, 230)), (0.7, (232, 238, 247)))
        for i in range(16):
            disc((0.5 + 0.47 * sin(5 * i)) % 1, (0.35 + 0.33 * cos(2.2 * i * pi / 3)) % 1, 0.014, (255, 255, 255))
    elif place == "meadow":
        bands((0, (176, 220, 248)), (0.66, (128, 196, 98)))
        for x, y, r in ((0.12, 0.16, 0.06), (0.2, 0.13, 0.075), (0.28, 0.17, 0.055)):
            disc(x, y, r, (255, 255, 255))


def words_of_the_world() -> set[str]:
    """All words that captions can contain."""
    places = [phrase for phrases in SCENERY.values() for phrase in phrases]
    relations = [phrase for phrases in RELATIONS.values() for phrase in phrases]
    texts = [*THINGS, *SYNONYM.values(), *COLORS, *SIZES, *places, *relations, *REPHRASED.values(), *FORMS, "a an on background"]
    return {word for text in texts for word in text.split()}


WORDS = sorted(words_of_the_world())
