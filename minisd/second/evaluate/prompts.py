"""The prompts of the evaluation, each with one seed, in sets that mention different traits or ask for held-out combinations."""

import random
from dataclasses import dataclass, replace

from ..captions import phrase
from ..picture_book import (
    HELD_OUT_COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RIDES,
    HELD_OUT_STYLES,
    RIDERS,
    SEATS,
    THINGS,
    Request,
    compose,
)
from ..twins import all_of

FAMOUS = "an astronaut riding a horse"
TRAITS = {"colors": (None, None), "sizes": (None, None), "looks": (None, None), "place": None, "style": None}
PAIRED = ("left", "above", "next")


@dataclass(frozen=True)
class Prompt:
    """A prompt, its seed, and its meaning."""

    text: str
    seed: int
    request: Request


@dataclass(frozen=True)
class PromptSet:
    """What the prompts of a set have in common."""

    relations: tuple[str, ...]
    traits: tuple[str, ...]  # mentioned wherever a thing has them
    new: str = ""  # the held-out combination in every prompt; other prompts have none


def new_in(request: Request) -> set[str]:
    """The kinds of held-out combinations in a request.

    If "a next to b" is held out, "b next to a" is not, and its images are the same. So no such pair is new.
    """
    new = set()
    if HELD_OUT_COLORS & set(zip(request.kinds, request.colors)):
        new.add("colour")
    if HELD_OUT_STYLES & {(kind, request.style) for kind in request.kinds}:
        new.add("style")
    if request.relation == "riding" and request.kinds in HELD_OUT_RIDES:
        new.add("ride")
    if request.relation in ("left", "above") and request.kinds in HELD_OUT_PAIRS:
        new.add("pair")
    return new


ONE = ("",)
SETS = {
    "one thing": PromptSet(ONE, ("colors",)),
    "a style": PromptSet(ONE, ("style",)),
    "a place": PromptSet(ONE, ("place",)),
    "a size": PromptSet(ONE, ("sizes",)),
    "a direction": PromptSet(ONE, ("looks",)),
    "everything about one thing": PromptSet(ONE, tuple(TRAITS)),
    "two things": PromptSet(PAIRED, ("colors",)),
    "riding": PromptSet(("riding",), ("colors",)),
    "one thing, new colour": PromptSet(ONE, ("colors",), new="colour"),
    "a style, new for the thing": PromptSet(ONE, ("style",), new="style"),
    "two things, new pair": PromptSet(PAIRED, ("colors",), new="pair"),
    "riding, new ride": PromptSet(("riding",), ("colors",), new="ride"),
}
HELD_OUT = [name for name, asked in SETS.items() if asked.new]


def request_of(asked: PromptSet, rng: random.Random) -> Request:
    """A random request of this set."""
    while True:
        relation = rng.choice(asked.relations)
        if relation == "riding":
            kinds = (rng.choice(RIDERS), rng.choice(list(SEATS)))
        else:
            kinds = tuple(rng.sample(list(THINGS), 2 if relation else 1))
        everything = all_of(compose(Request(kinds, relation=relation), rng))
        request = replace(everything, **{name: nothing for name, nothing in TRAITS.items() if name not in asked.traits})
        if new_in(request) == ({asked.new} if asked.new else set()) and (len(asked.traits) > 1 or mentions(request, *asked.traits)):
            return request


def mentions(request: Request, trait: str) -> bool:
    return getattr(request, trait) not in (None, (None,), (None, None))


def prompts_of(name: str, count: int, seed: int, series: str = "evaluate") -> list[Prompt]:
    """The first `count` prompts of a set; prompt i has the seed `seed` + i. FAMOUS is a single prompt with many seeds.

    Each `series` has its own prompts: settings such as the guidance scale must not be tuned on the prompts of the evaluation.
    """
    if name == FAMOUS:
        return repeated(FAMOUS, Request(("astronaut", "horse"), relation="riding"), count, seed)
    prompts = []
    for i in range(count):
        rng = random.Random(f"{series}/{name}/{i}")
        request = request_of(SETS[name], rng)
        prompts.append(Prompt(phrase(request, rng), seed + i, request))
    return prompts


def repeated(text: str, request: Request, count: int, seed: int) -> list[Prompt]:
    """One prompt with `count` seeds."""
    return [Prompt(text, seed + i, request) for i in range(count)]
