"""What a judge finds in an image of the second world, and whether a request is true of it."""

from collections.abc import Iterator
from itertools import permutations
from typing import NamedTuple

from ..evaluate.findings import holds
from .picture_book import HALF_SIDES, Request, Thing


class Finding(NamedTuple):
    """Everything in an image: the things, each with kind, colour, direction, x, y and scale, the place, and the style."""

    things: tuple[Thing, ...]
    place: str
    style: str


def is_right(found: Finding, request: Request) -> bool:
    """Whether the image shows everything that the request says, and no other thing. What is not said is never wrong."""
    return all(verdict(found, request).values())


def verdict(found: Finding, request: Request) -> dict[str, bool]:
    """Whether each aspect that the request says is right.

    The found things are matched with the requested ones in the best way, with right kinds counting most. If there are too few or
    too many things, only the place and the style can be right.
    """
    wrong = dict.fromkeys([aspect for aspect, _ in aspects((), request)], False)
    ways = [dict(aspects(things, request)) for things in permutations(found.things) if len(things) == len(request.kinds)]
    right = max(ways, key=lambda way: (way["things"], sum(way.values())), default=wrong)
    whole = {"place": (request.place, found.place), "style": (request.style, found.style)}
    return right | {aspect: asked == seen for aspect, (asked, seen) in whole.items() if asked}


def aspects(things: tuple[Thing, ...], request: Request) -> Iterator[tuple[str, bool]]:
    """The aspects that a request says about its things, and whether each is true of `things`, which are in the same order."""

    def agree(asked: tuple[str | None, ...], seen: list[str]) -> bool:
        return all(want is None or want == have for want, have in zip(asked, seen))

    yield "things", agree(request.kinds, [thing.kind for thing in things])
    if any(request.colors):
        yield "colours", agree(request.colors, [thing.color for thing in things])
    if any(request.looks):
        yield "direction", agree(request.looks, [thing.looks for thing in things])
    if any(request.sizes):
        yield "size", agree(request.sizes, [size_of(thing, i, request) for i, thing in enumerate(things)])
    if request.relation:
        yield "relation", len(things) == 2 and holds(request.relation, *things)


def size_of(thing: Thing, i: int, request: Request) -> str:
    """The size in `HALF_SIDES` that is nearest to that of thing `i`."""
    role = {"": ("alone",), "riding": ("rider", "mount")}.get(request.relation, ("pair", "pair"))[i]
    return min(HALF_SIDES[role], key=lambda size: abs(sum(HALF_SIDES[role][size]) / 2 - thing.scale))
