"""How much images vary where the prompt leaves something open, and how sharp and colourful they are."""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

from ...train.vae import edges
from ..findings import Finding
from ..picture_book import Request, Scene, compose, is_held_out

OPEN: dict[str, Callable[[Finding], Hashable]] = {  # the traits of an image of one thing that its prompt does not mention
    "colour": lambda found: found.things[0].color,
    "place": lambda found: found.place,
    "style": lambda found: found.style,
    "direction": lambda found: found.things[0].looks,
}
BOOKS = 100  # number of samples of the book's scenes over which its entropy is averaged


def entropy(values: Sequence[Hashable]) -> float:
    """The entropy of the values' distribution in bits."""
    shares = [count / len(values) for count in Counter(values).values()]
    return -sum(share * math.log2(share) for share in shares)


def diversity(findings: Sequence[Finding], kind: str) -> dict[str, float]:
    """The entropy of each open trait in images of one thing of this kind, as a share of the picture book's own entropy.

    Images with the wrong things do not count. The entropy of a few samples is too low on average (Miller 1955), so the book's is
    measured on as many samples.
    """
    right = [found for found in findings if [thing.kind for thing in found.things] == [kind]]
    books = [[scene_of(kind, f"{book}/{i}") for i in range(len(right))] for book in range(BOOKS)]
    shares = {}
    for trait, value in OPEN.items():
        own = sum(entropy([value(found) for found in book]) for book in books) / BOOKS if right else 0.0
        if own:
            shares[trait] = entropy([value(found) for found in right]) / own
    return shares


def scene_of(kind: str, seed: str) -> Finding:
    """The content of a random training scene with one thing of this kind."""
    rng = random.Random(f"book/{kind}/{seed}")
    while is_held_out(scene := compose(Request((kind,)), rng)):
        pass
    return Finding(scene.things, scene.place, scene.style)


def render_of(request: Request, seed: int) -> Scene:
    """A random training scene that fits the request or, if the request itself is held out, any random scene that fits it."""
    rng = random.Random(f"render/{request}/{seed}")
    while is_held_out(scene := compose(request, rng)) and not is_held_out(request):
        pass
    return scene


def edge_energy(pictures: Tensor) -> float:
    """The mean squared difference of neighbouring pixels, which blur reduces."""
    return float(sum(difference.square().mean() for difference in edges(pictures)))


def saturation(pictures: Tensor) -> float:
    """The mean difference between the largest and the smallest of a pixel's three colour values, from 0 (grey) to 1."""
    return float((pictures.amax(dim=1) - pictures.amin(dim=1)).mean() / 2)
