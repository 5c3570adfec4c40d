"""Pairs of scenes that differ in one respect, which a text encoder must learn to distinguish and a judge to detect."""

import random

from .drawing import THINGS
from .picture_book import COLORS, RELATIONS, RIDERS, SCENERY, SEATS, Scene, compose, is_held_out, sample


def twin(scene: Scene, rng: random.Random) -> Scene:
    """A scene whose caption differs in one respect: a colour, a thing, the place, the relation, or the roles of the things.

    The roles are hardest to learn, so they change most often.
    """
    kinds, colors = [t.kind for t in scene.things], [t.color if t.color_is_named else None for t in scene.things]
    relation, place, which = scene.relation, scene.place, rng.randrange(len(kinds))
    change = rng.choice(["color", "kind", "place"] + 2 * ["colors", "order", "relation"] * (relation not in ("", "riding")))
    if change == "color":
        colors[which] = rng.choice(list(COLORS))
    elif change == "kind":
        riding = relation == "riding"
        kinds[which] = rng.choice(list((RIDERS, SEATS)[which] if riding else THINGS))
    elif change == "place":
        place = rng.choice(["", *SCENERY, *COLORS])
    elif change == "colors":
        colors.reverse()
    elif change == "order":
        kinds.reverse()
        colors.reverse()
    else:
        relation = rng.choice([r for r in RELATIONS if r != "riding"])
    return compose(rng, relation, tuple(kinds), tuple(colors), place)


def meaning(scene: Scene) -> tuple:
    """The content of a caption without sizes, independent of its wording. "Next to" is symmetric."""
    things = [(thing.kind, thing.color) for thing in scene.things]
    return (sorted(things) if scene.relation == "next" else things), scene.relation, scene.place


def scene_and_twin(rng: random.Random) -> list[Scene]:
    """Two scenes with different meanings, neither of them held out."""
    scene = sample(rng)
    while is_held_out(other := twin(scene, rng)) or meaning(other) == meaning(scene):
        pass
    return [scene, other]
