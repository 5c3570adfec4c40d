"""Twins: two scenes whose captions differ in one respect, and neither caption is true of the other's image.

The contrast between twins teaches the text encoder word order, direction and style. If the captions of a pair fitted both images,
CLIP would be trained to distinguish what cannot be distinguished.
"""

import random
from dataclasses import replace

from .captions import mention
from .picture_book import COLORS, DIRECTED, RIDERS, SCENERY, SEATS, STYLES, THINGS, Request, Scene, compose, is_held_out, sample

# How often each respect is chosen, among those that the scene has. The roles of the two things are hardest to learn.
RESPECTS = {
    "color": 2, "kind": 2, "place": 2, "style": 2, "looks": 3, "size": 2, "swapped colors": 4, "order": 4, "relation": 6,
}  # fmt: skip
OPPOSITE = {"left": "right", "right": "left", "small": "big", "big": "small"}


def all_of(scene: Scene) -> Request:
    """The request that mentions everything that a caption can say about a scene."""
    things = scene.things
    return Request(
        kinds=tuple(thing.kind for thing in things),
        colors=tuple(thing.color for thing in things),
        sizes=tuple(thing.size or None for thing in things),
        looks=tuple(thing.looks or None for thing in things),
        relation=scene.relation,
        place=scene.place,
        style=scene.style,
    )


def changed(request: Request, respect: str, rng: random.Random) -> Request:
    """The request with another value in one respect, or the same value if there is no other."""
    which = rng.randrange(len(request.kinds))
    riding = request.relation == "riding"

    def with_new(values: tuple, value) -> tuple:
        return tuple(value if i == which else old for i, old in enumerate(values))

    if respect == "color":
        new = rng.choice([color for color in COLORS if color != request.place])
        return replace(request, colors=with_new(request.colors, new))
    if respect == "kind":
        kinds = (RIDERS, tuple(SEATS))[which] if riding else tuple(THINGS)
        directed = request.kinds[which] in DIRECTED
        return replace(request, kinds=with_new(request.kinds, rng.choice([k for k in kinds if (k in DIRECTED) == directed])))
    if respect == "place":
        return replace(request, place=rng.choice([place for place in (*SCENERY, *COLORS) if place not in request.colors]))
    if respect == "style":
        return replace(request, style=rng.choice(STYLES))
    if respect == "looks":
        looks = tuple(OPPOSITE.get(look) for look in request.looks)  # a rider looks in the direction of its mount
        return replace(request, looks=looks if riding else with_new(request.looks, looks[which]))
    if respect == "size":
        return replace(request, sizes=with_new(request.sizes, OPPOSITE.get(request.sizes[which])))
    if respect == "relation" and request.relation in ("left", "above", "next"):
        return replace(request, relation=rng.choice(("left", "above", "next")))
    if respect == "swapped colors":
        return replace(request, colors=request.colors[::-1])
    return turned(request) if respect == "order" and not riding else request


def turned(request: Request) -> Request:
    """Swap the two things, with everything said about each."""
    return replace(request, **{name: getattr(request, name)[::-1] for name in ("kinds", "colors", "sizes", "looks")})


def readings(scene: Scene) -> list[Scene]:
    """All readings of the scene's image: "next to" looks like "to the left of" in one of the two orders."""
    if scene.relation not in ("left", "next"):
        return [scene]
    from_left = tuple(sorted(scene.things, key=lambda thing: thing.x))
    return [replace(scene, things=from_left, relation=relation) for relation in ("left", "next")]


def is_true(request: Request, scene: Scene) -> bool:
    """Whether a caption with this content fits the scene's image."""
    return any(request.holds(reading) for reading in readings(scene))


def truth_of(requests: list[Request], scenes: list[Scene]) -> list[list[bool]]:
    """For each scene (rows), which requests (columns) are true of its image."""
    read = [readings(scene) for scene in scenes]
    return [[any(request.holds(reading) for reading in ways) for request in requests] for ways in read]


def scene_and_twin(i: int, respect: str | None = None) -> tuple[Scene, Scene, str]:
    """Training pair `i` and the respect in which it differs; `respect` requires a certain one."""
    rng = random.Random(f"twins/{respect}/{i}")
    while True:
        scene, asked = sample(rng), respect or rng.choices(list(RESPECTS), list(RESPECTS.values()))[0]
        said = all_of(scene)
        other = changed(said, asked, rng)
        if other == said or is_held_out(other):
            continue
        twin = compose(other, rng)
        if not is_true(said, twin) and not is_true(other, scene):
            return scene, twin, asked


def picture(i: int) -> Scene:
    """The scene of training image `i`: scenes have even numbers, their twins odd ones."""
    return scene_and_twin(i // 2)[i % 2]


def said_alike(request: Request, everything: Request) -> Request:
    """`everything`, restricted to what `request` mentions."""

    def where_said(asked, full):
        return tuple(value if told is not None else None for told, value in zip(asked, full))

    return replace(
        everything,
        colors=where_said(request.colors, everything.colors),
        sizes=where_said(request.sizes, everything.sizes),
        looks=where_said(request.looks, everything.looks),
        place=everything.place if request.place is not None else None,
        style=everything.style if request.style is not None else None,
    )


def mentions(scene: Scene, twin: Scene, respect: str, rng: random.Random) -> tuple[Request, Request]:
    """The contents of two captions that differ in this respect. Both mention the same random part of the rest."""
    while True:
        request = mention(scene, rng)
        other = said_alike(turned(request) if respect == "order" else request, all_of(twin))
        if not is_true(request, twin) and not is_true(other, scene):
            return request, other
