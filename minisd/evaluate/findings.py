"""The findings of a judge in an image, and whether they match the prompt."""

from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

from torch import Tensor

from ..tiny.picture_book import COLORS, SCENERY, Scene, Thing

PLACES = ("", *COLORS, *SCENERY)
# Distances between two centres, as fractions of the sum of the two scales
CLOSE = 0.75  # a rider is at most 0.6 away from its mount, a neighbour at least 0.93
ASIDE = 0.35  # a rider is at most 0.2 to the side of its mount's centre,
ON_TOP = 0.08  # and at least 0.13 above it
SMALL, BIG = 0.23, 0.37  # half-way between the sizes in the picture book


class Finding(NamedTuple):
    """Everything in an image: the things, each with kind, colour, x, y and scale, and the place (the background)."""

    things: tuple[Thing, ...]
    place: str


Judge = Callable[[Tensor], list[Finding]]  # images (B, 3, 128, 128) in [-1, 1] → the findings in each


def is_right(found: Finding, scene: Scene) -> bool:
    """Whether an image shows everything in the scene's caption and nothing else. Colours that the caption does not name must be
    the things' usual ones; if it names no background, it must be the pale page."""
    return all(verdict(found, scene).values())


def verdict(found: Finding, scene: Scene) -> dict[str, bool]:
    """Whether each aspect of the caption is right: things, colours, place and, if the caption has one, size or relation.

    The found things are matched with the wanted things in the best way; matching kinds count most. If there are too few or too
    many things, only the place can be right.
    """
    wrong = dict.fromkeys(compare(scene.things, scene), False)
    ways = [compare(things, scene) for things in permutations(found.things) if len(things) == len(scene.things)]
    best = max(ways, key=lambda way: (way["things"], sum(way.values())), default=wrong)
    return {**best, "place": found.place == scene.place}


def compare(things: tuple[Thing, ...], scene: Scene) -> dict[str, bool]:
    """Which aspects agree between the found things and a scene with the same number of things."""
    pairs = list(zip(things, scene.things))
    way = {
        "things": all(thing.kind == wanted.kind for thing, wanted in pairs),
        "colours": all(thing.color == wanted.color for thing, wanted in pairs),
    }
    if scene.relation:
        way["relation"] = holds(scene.relation, *things)
    if scene.things[0].size:
        way["size"] = {"small": things[0].scale < SMALL, "big": things[0].scale > BIG}[scene.things[0].size]
    return way


def holds(relation: str, first: Thing, second: Thing) -> bool:
    """Whether the first thing is left of, above, next to, or riding on the second."""
    right, down = second.x - first.x, second.y - first.y
    reach = first.scale + second.scale
    close = max(abs(right), abs(down)) < CLOSE * reach
    return {
        "left": not close and right > abs(down),
        "above": not close and down > abs(right),
        "next": not close and abs(right) > abs(down),
        "riding": close and abs(right) < ASIDE * reach and down > ON_TOP * reach,
    }[relation]
