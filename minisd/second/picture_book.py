"""The world of the built-in model: scenes of one or two things, and what a caption may say of them.

    scene = sample(random.Random(0))      # the exact content of an image
    draw(scene).save("scene.png")         # 128×128 pixels, by `drawing`
    caption(scene, random.Random(0))      # "a watercolour of a small red ball to the left of a horse at night", by `captions`

Colour, place, size, direction and style are random if the caption does not mention them, so one caption fits many images. A few
combinations are held out: `sample` never returns them, so they test whether a trained model generalises.
"""

import random
from dataclasses import dataclass

from .drawing import THINGS
from .places import COLORS, SCENERY

STYLES = ("book", "pencil", "watercolour", "photo")
RELATIONS = ("left", "above", "next", "riding")  # the first thing is left of the second, above it, next to it, or rides it
SIZES = ("small", "", "big")
DIRECTED = ("cat", "dog", "bird", "fish", "horse", "dragon", "car", "boat")  # these look left or right
AIRBORNE = ("star", "heart", "moon", "balloon", "rocket", "bird", "butterfly", "fish")  # these need not stand on the ground

HALF_SIDES = {  # half the side of a thing, as a fraction of the page
    "alone": {"small": (0.17, 0.2), "": (0.26, 0.32), "big": (0.38, 0.42)},
    "pair": {"small": (0.125, 0.145), "": (0.175, 0.195), "big": (0.215, 0.23)},
    "rider": {"small": (0.125, 0.14), "": (0.18, 0.195), "big": (0.205, 0.215)},
    "mount": {"small": (0.2, 0.22), "": (0.28, 0.31), "big": (0.32, 0.34)},
}
RIDERS = ("astronaut", "cat", "bird", "robot", "dog")
SEATS = {  # mount: the position of a rider, in the mount's own square
    "horse": (-0.2, -0.14), "dragon": (-0.24, 0.06), "fish": (0.1, -0.5), "car": (-0.1, -0.5), "boat": (-0.3, 0.3),
}  # fmt: skip

# Held out of training: one colour of each thing, one style of every second thing, one mount of each rider, and a tenth of the
# ordered pairs of things.
HELD_OUT_COLORS = {(kind, list(COLORS)[(3 * i + 4) % 10]) for i, kind in enumerate(THINGS)}
HELD_OUT_STYLES = {(kind, STYLES[i // 2 % 4]) for i, kind in enumerate(THINGS) if i % 2 == 0}
HELD_OUT_RIDES = set(zip(RIDERS, SEATS))
HELD_OUT_PAIRS = {(a, b) for i, a in enumerate(THINGS) for j, b in enumerate(THINGS) if (3 * i + 7 * j) % 10 == 4}


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
    looks: str = ""


@dataclass(frozen=True)
class Scene:
    """The whole content of an image: one or two things, their relation, the place (a scenery or a colour), the style, and a seed
    for everything else, such as the positions of clouds."""

    things: tuple[Thing, ...]
    relation: str
    place: str
    style: str
    seed: int


@dataclass(frozen=True)
class Request:
    """What a caption says: kinds and relation always, the rest or None. Colours, sizes and directions have one entry per thing."""

    kinds: tuple[str, ...]
    colors: tuple[str | None, ...] = (None, None)
    sizes: tuple[str | None, ...] = (None, None)
    looks: tuple[str | None, ...] = (None, None)
    relation: str = ""
    place: str | None = None
    style: str | None = None

    def __post_init__(self):
        for name in ("colors", "sizes", "looks"):
            object.__setattr__(self, name, tuple(getattr(self, name))[: len(self.kinds)])

    def holds(self, scene: Scene) -> bool:
        """Whether the request is true of the scene. Two things next to each other can be in either order."""
        if self.relation != scene.relation or len(self.kinds) != len(scene.things):
            return False
        if not said(self.place, scene.place) or not said(self.style, scene.style):
            return False
        orders = [scene.things, scene.things[::-1]] if self.relation == "next" else [scene.things]
        return any(all(map(self.describes, range(len(things)), things)) for things in orders)

    def describes(self, i: int, thing: Thing) -> bool:
        """Whether everything said about thing `i` is true of this one."""
        traits = (self.colors[i], thing.color), (self.sizes[i], thing.size), (self.looks[i], thing.looks)
        return self.kinds[i] == thing.kind and all(said(asked, seen) for asked, seen in traits)


def said(asked: str | None, seen: str) -> bool:
    return asked is None or asked == seen


def is_held_out(scene: Scene | Request) -> bool:
    """Whether a scene has, or a request asks for, a held-out combination.

    Two things next to each other are held out in one order only; training still has the other order, whose image is the same.
    """
    kinds = scene.kinds if isinstance(scene, Request) else tuple(thing.kind for thing in scene.things)
    colors = scene.colors if isinstance(scene, Request) else tuple(thing.color for thing in scene.things)
    if scene.relation == "riding" and kinds in HELD_OUT_RIDES:
        return True
    if scene.relation not in ("", "riding") and kinds in HELD_OUT_PAIRS:
        return True
    return bool(HELD_OUT_COLORS & set(zip(kinds, colors)) or HELD_OUT_STYLES & {(kind, scene.style) for kind in kinds})


def sample(rng: random.Random, held_out: bool = False) -> Scene:
    """A random scene without held-out combinations or, with `held_out`, with one."""
    while True:
        relation = rng.choices(["", *RELATIONS], [38, 18, 18, 9, 17])[0]
        if relation == "riding":
            kinds = (rng.choice(RIDERS), rng.choice(list(SEATS)))
        else:
            kinds = tuple(rng.choices(list(THINGS), k=2 if relation else 1))
        scene = compose(Request(kinds, relation=relation), rng)
        if is_held_out(scene) == held_out:
            return scene


def compose(request: Request, rng: random.Random) -> Scene:
    """A scene that matches the request; everything else is random."""
    places = rng.sample([*COLORS], 10) if rng.random() < 0.45 else rng.sample([*SCENERY], 5)
    place = request.place or next(place for place in places if place not in request.colors)
    colors = free_colors(request.colors, place, rng)
    style = request.style or rng.choice(STYLES)
    chances = [15, 70, 15] if request.relation else [30, 40, 30]
    sizes = [rng.choices(SIZES, chances)[0] if size is None else size for size in request.sizes]
    things = [
        Thing(kind, color, x, y, scale, rng.uniform(-0.08, 0.08), size, looks)
        for kind, color, size, looks, (x, y, scale) in zip(request.kinds, colors, sizes, *layout(request, sizes, rng))
    ]
    return Scene(tuple(things), request.relation, place, style, rng.getrandbits(31))


def free_colors(asked, place: str, rng: random.Random) -> list[str]:
    """Choose the unrequested colours, different from the page and from the other thing, so that both things stay visible."""
    colors = list(asked)
    for i, color in enumerate(colors):
        colors[i] = color or rng.choice([name for name in COLORS if name != place and name not in colors])
    return colors


def layout(request: Request, sizes: list[str], rng: random.Random) -> tuple[list[str], list[tuple[float, float, float]]]:
    """The direction of each thing, and its (x, y, scale)."""
    lots = [rng.choice(("left", "right")) if kind in DIRECTED else "" for kind in request.kinds]
    looks = [asked or lot for asked, lot in zip(request.looks, lots)]
    if request.relation == "riding":
        if request.kinds[0] in DIRECTED and not request.looks[0]:  # a rider looks ahead
            looks[0] = looks[1]
        return looks, riding_spots(request.kinds[1], sizes, looks[1], rng)
    if request.relation:
        return looks, pair_spots(request, sizes, rng)
    scale = rng.uniform(*HALF_SIDES["alone"][sizes[0]])
    room = 0.49 - scale
    return looks, [(0.5 + rng.uniform(-1, 1) * min(room, 0.2), height(request.kinds[0], scale, rng), scale)]


def height(kind: str, scale: float, rng: random.Random) -> float:
    """The y of a thing's centre: somewhere in the air, or such that the thing stands on the ground."""
    if kind in AIRBORNE:
        return 0.48 + rng.uniform(-1, 1) * min(0.47 - scale, 0.14)
    return max(rng.uniform(0.84, 0.93) - scale, scale + 0.03)


def riding_spots(mount: str, sizes, looks: str, rng: random.Random):
    rider, scale = (rng.uniform(*HALF_SIDES[role][size]) for role, size in zip(("rider", "mount"), sizes))
    x, y = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.91, 0.95) - scale
    seat_x, seat_y = SEATS[mount]
    side = -1 if looks == "left" else 1
    return [(x + side * scale * seat_x, y + scale * seat_y - 0.78 * rider, rider), (x, y, scale)]


def pair_spots(request: Request, sizes, rng: random.Random):
    scales = [rng.uniform(*HALF_SIDES["pair"][size]) for size in sizes]
    near = lambda centre, spread: rng.uniform(centre - spread, centre + spread)  # noqa: E731
    if request.relation == "above":
        middle = near(0.5, 0.14)
        return [(near(middle, 0.06), near(0.26, 0.01), scales[0]), (near(middle, 0.06), near(0.74, 0.01), scales[1])]
    spots = [(near(x, 0.01), near(0.62, 0.06), scale) for x, scale in zip((0.26, 0.74), scales)]
    if request.relation == "next" and rng.random() < 0.5:  # in either order
        spots = [(1 - x, y, scale) for x, y, scale in spots]
    return spots
