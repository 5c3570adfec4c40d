"""The prompts of the protocol, fixed and each with one seed, in sets that require additional skills or held-out combinations."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..tiny.picture_book import (
    COLORS,
    HELD_OUT_COLORS,
    HELD_OUT_PAIRS,
    HELD_OUT_RIDES,
    Scene,
    caption,
    compose,
)

FAMOUS = "an astronaut riding a horse"


@dataclass(frozen=True)
class Prompt:
    """A prompt, its seed, and the scene that it describes."""

    text: str
    seed: int
    scene: Scene


def kinds_of(scene: Scene) -> tuple[str, ...]:
    return tuple(thing.kind for thing in scene.things)


def has_new_color(scene: Scene) -> bool:
    return any((thing.kind, thing.color) in HELD_OUT_COLORS for thing in scene.things)


def one(rng: random.Random) -> Scene:
    return compose(rng, "", colors=(rng.choice(list(COLORS)),))


def two(rng: random.Random) -> Scene:
    return compose(rng, rng.choice(["left", "above", "next"]), colors=tuple(rng.sample(list(COLORS), 2)))


def ride(rng: random.Random) -> Scene:
    return compose(rng, "riding", colors=tuple(rng.sample(list(COLORS), 2)))


# For each set, how its scenes are sampled and which of them are used. All colours are named, and two things differ in colour.
SETS: dict[str, tuple[Callable[[random.Random], Scene], Callable[[Scene], bool]]] = {
    "one thing": (one, lambda s: not s.things[0].size and not has_new_color(s)),
    "one thing, new colour": (one, lambda s: not s.things[0].size and has_new_color(s)),
    "a size": (one, lambda s: bool(s.things[0].size) and not has_new_color(s)),
    "two things": (two, lambda s: kinds_of(s) not in HELD_OUT_PAIRS and not has_new_color(s)),
    # training has "a next to b" if it has "b next to a", which is the same image
    "two things, new pair": (two, lambda s: s.relation != "next" and kinds_of(s) in HELD_OUT_PAIRS and not has_new_color(s)),
    "riding": (ride, lambda s: kinds_of(s) not in HELD_OUT_RIDES and not has_new_color(s)),
    "riding, new pair": (ride, lambda s: kinds_of(s) in HELD_OUT_RIDES and not has_new_color(s)),
}
HELD_OUT = [name for name in SETS if "new" in name]


def prompts_of(name: str, count: int, seed: int, series: str = "evaluate") -> list[Prompt]:
    """The first `count` prompts of a set; prompt i has the seed `seed` + i. FAMOUS is a single prompt with many seeds.

    Each `series` has its own prompts: settings such as the guidance scale must not be tuned on the prompts of the evaluation.
    """
    if name == FAMOUS:
        scene = compose(random.Random(name), "riding", ("astronaut", "horse"), (None, None), "")
        return [Prompt(FAMOUS, seed + i, scene) for i in range(count)]
    make, fits = SETS[name]
    prompts = []
    for i in range(count):
        rng = random.Random(f"{series}/{name}/{i}")
        while not fits(scene := make(rng)):
            pass
        prompts.append(Prompt(caption(scene, rng), seed + i, scene))
    return prompts
