"""The captions of the picture book: what a caption mentions of a scene, and the many ways to phrase it."""

import random
import re

from .drawing import THINGS
from .picture_book import COLORS, SIZES, Request, Scene

STYLE_WORDS = {
    "book": ("a picture book drawing of", "an illustration of"),
    "pencil": ("a pencil drawing of", "a sketch of"),
    "watercolour": ("a watercolour of", "a watercolor of", "a painting of"),
    "photo": ("a photo of", "a photograph of"),
    None: ("", "", "", "a picture of"),
}
PLACE_WORDS = {
    "beach": ("on the beach", "at the beach"),
    "night": ("at night", "in the night"),
    "sunset": ("at sunset", "in the sunset"),
    "snow": ("in the snow", "on the snow"),
    "meadow": ("on the grass", "in a meadow"),
}
RELATION_WORDS = {  # phrases from the first thing to the second, and from the second to the first
    "left": (("to the left of", "left of"), ("to the right of", "right of")),
    "above": (("above", "over"), ("below", "under")),
    "next": (("next to", "beside"), ("next to", "beside")),
    "riding": (("riding",), ()),
}
LOOKS_WORDS = ("that looks", "facing", "looking")
SYNONYM = {
    "ball": "sphere", "box": "present", "house": "home", "car": "automobile", "boat": "ship", "flower": "blossom",
    "mushroom": "toadstool", "rocket": "spaceship", "cat": "kitten", "dog": "puppy", "robot": "android", "horse": "pony",
    "astronaut": "spaceman",
}  # fmt: skip


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the many captions of a scene."""
    return phrase(mention(scene, rng), rng)


def mention(scene: Scene, rng: random.Random) -> Request:
    """What a caption mentions: one in ten only the kinds and the relation, one in ten everything, the others a random part."""
    talk = rng.choices((0.0, 1.0, None), (10, 10, 80))[0]
    told = lambda value, chance: value if value and rng.random() < (chance if talk is None else talk) else None  # noqa: E731
    return Request(
        kinds=tuple(thing.kind for thing in scene.things),
        colors=tuple(told(thing.color, 0.62) for thing in scene.things),
        sizes=tuple(told(thing.size, 0.4) for thing in scene.things),
        looks=tuple(told(thing.looks, 0.3) for thing in scene.things),
        relation=scene.relation,
        place=told(scene.place, 0.55),
        style=told(scene.style, 0.5),
    )


def phrase(request: Request, rng: random.Random) -> str:
    """One of the ways to phrase a request."""
    nouns = [noun_phrase(*traits, rng) for traits in zip(request.kinds, request.colors, request.sizes, request.looks)]
    text = nouns[0]
    if request.relation:
        forward, backward = RELATION_WORDS[request.relation]
        if backward and rng.random() < 0.5:
            forward, nouns = backward, nouns[::-1]
        text = f"{nouns[0]} {forward[rng.random() < 0.25 and len(forward) > 1]} {nouns[1]}"
    if request.place in COLORS:
        text += f" on {with_article(request.place)} background"
    elif request.place:
        comma = "," if text.endswith((" left", " right")) else ""  # "that looks left, on the beach"
        text += f"{comma} {rng.choice(PLACE_WORDS[request.place])}"
    return f"{rng.choice(STYLE_WORDS[request.style])} {text}".strip()


def noun_phrase(kind: str, color: str | None, size: str | None, looks: str | None, rng: random.Random) -> str:
    """One thing with its mentioned attributes, sometimes without an article."""
    noun = SYNONYM[kind] if kind in SYNONYM and rng.random() < 0.2 else kind
    words = " ".join(word for word in (size, color, noun) if word)
    words = words if rng.random() < 0.1 else with_article(words)
    return f"{words} {rng.choice(LOOKS_WORDS)} {looks}" if looks else words


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def words_of_the_world() -> list[str]:
    """All words that captions can contain, without punctuation."""
    texts = [*THINGS, *SYNONYM.values(), *COLORS, *SIZES, *LOOKS_WORDS, "a an on background left right"]
    for ways in (*STYLE_WORDS.values(), *PLACE_WORDS.values(), *(way for both in RELATION_WORDS.values() for way in both)):
        texts += ways
    return sorted({word for text in texts for word in re.findall("[a-z]+", text)})


WORDS = words_of_the_world()
