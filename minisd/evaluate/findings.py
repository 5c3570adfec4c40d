"""What a judge finds in a picture, and whether that is what the prompt asked for."""

from collections.abc import Callable
from itertools import permutations
from typing import NamedTuple

from torch import Tensor

from ..tiny.picture_book import COLORS, SCENERY, Scene, Thing

PLACES = ("", *COLORS, *SCENERY)
# Distances of two centres, as shares of the sum of the two scales
CLOSE = 0.75  # a rider is at most 0.6 away from its mount, a neighbour at least 0.93
ASIDE = 0.35  # a rider is at most 0.2 beside its mount's middle,
ON_TOP = 0.08  # and at least 0.13 above it
SMALL, BIG = 0.23, 0.37  # half-way between the sizes that the book draws


class Finding(NamedTuple):
    """Everything that is to be seen: the things, of which a judge tells kind, colour, x, y and scale, and the place."""

    things: tuple[Thing, ...]
    place: str


Judge = Callable[[Tensor], list[Finding]]  # pictures (B, 3, 128, 128) in [-1, 1] → what is in each of them


def is_right(found: Finding, scene: Scene) -> bool:
    """Whether all that the scene's caption says is to be seen, and nothing more. Colours that it does not name must be the
    things' usual ones, and a page that it does not name must be the pale one."""
    return all(verdict(found, scene).values())


def verdict(found: Finding, scene: Scene) -> dict[str, bool]:
    """Each of the things that the caption speaks of: things, colours, place, and size or relation if there is one.

    Where what was found can be what was wanted in two ways, the one with the right things counts, and of two such the better
    one. With a thing too few or too many, only the place can be right.
    """
    wrong = dict.fromkeys(compare(scene.things, scene), False)
    ways = [compare(things, scene) for things in permutations(found.things) if len(things) == len(scene.things)]
    best = max(ways, key=lambda way: (way["things"], sum(way.values())), default=wrong)
    return {**best, "place": found.place == scene.place}


def compare(things: tuple[Thing, ...], scene: Scene) -> dict[str, bool]:
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
