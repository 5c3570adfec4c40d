"""Notebook 10, does it understand: findings in words, the figures, and the exercises."""

from collections.abc import Mapping, Sequence
from math import log, sqrt

import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from ..evaluate.findings import Finding, holds
from ..evaluate.prompts import Prompt
from ..evaluate.rates import Rate
from ..image import to_tensor
from ..tiny.picture_book import SCENERY, Scene, Thing, draw, with_article
from .exercise import Exercise
from .figures import BLUE, GREY, INK, ORANGE, page, pictures, show

NEW = {"one thing": "colour", "two things": "pair", "riding": "pair"}  # what is new in a held-out combination of each kind
FIVE_RIDES = (
    "Five drawings for the prompt “an astronaut riding a horse”, from the seeds 0 to 4: each a white astronaut on a brown horse."
)
NEAREST = (
    "Five of the model's pictures, and below each the nearest training page: mostly the same place, with similar colours in "
    "similar parts, but not the same scene."
)
FAILURES = "Ten numbered pictures. Most look right. The prompts and the judges' findings are printed below."
UPSIDE_DOWN = (
    "Five drawings for the prompt “a horse riding an astronaut”, from the seeds 0 to 4: each a brown astronaut on something white."
)


def words(found: Finding) -> str:
    """A finding as a phrase."""
    things = " and ".join(f"{thing.color} {thing.kind}" for thing in found.things) or "nothing"
    return f"{things}, {where(found.place)}"


def where(place: str) -> str:
    return SCENERY[place][0] if place in SCENERY else f"on {place or 'the pale page'}"


def in_words(rate: Rate) -> str:
    """A rate with its 95 % interval."""
    low, high = rate.interval()
    return f"{rate.right:>2} of {rate.of} ({low:.2f} to {high:.2f})"


def swapped(rides: Sequence[tuple[str, str]], scene: Scene) -> list[tuple[Prompt, str, str]]:
    """For each (rider, mount), a prompt in which the mount rides the rider, followed by the mount and the rider."""
    texts = [f"{with_article(mount)} riding {with_article(rider)}" for rider, mount in rides]
    return [(Prompt(text, seed, scene), mount, rider) for seed, (text, (rider, mount)) in enumerate(zip(texts, rides))]


def on_top(found: Finding, mount: str, rider: str) -> str:
    """Who sits on whom in a picture of a mount and a rider, according to a finding."""
    kinds = [thing.kind for thing in sorted(found.things, key=lambda thing: thing.y)]
    return {(mount, rider): "the mount", (rider, mount): "the rider"}.get(tuple(kinds), "not both found")


def total(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.right for rate in rates), sum(rate.of for rate in rates))


def show_findings(images: Sequence[Tensor], findings: Sequence[Finding]):
    """Pictures (3, 128, 128) with a frame around each thing that was found; below, the findings as the book draws them."""
    drawn = [to_tensor(draw(Scene(found.things, "", found.place))) for found in findings]
    titles = ["picture"] * len(images) + [where(found.place) for found in findings]
    figure = pictures([*images, *drawn], titles, columns=len(images))
    for ax, found in zip(figure.axes, findings):
        for thing in found.things:
            left, top, side = 128 * (thing.x - thing.scale), 128 * (thing.y - thing.scale), 256 * thing.scale
            ax.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=INK, linewidth=1.2))
            # Labels must not hide each other
            below = any((round(other.y, 1), other.x) < (round(thing.y, 1), thing.x) for other in found.things)
            y = min(top + side, 124) if below else max(top, 4)
            paper = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            x = min(max(left + side / 2, 34), 94)
            ax.text(x, y, f"{thing.color} {thing.kind}", size=7, ha="center", va="center", bbox=paper)
    seen = "; ".join(words(found) for found in findings)
    show(
        figure, f"Pictures with frames around what the judge found; below them, its findings, drawn by the book. It found: {seen}."
    )


def bars(rate: Rate) -> tuple[float, float]:
    """The lengths of the interval below the share and above it."""
    low, high = rate.interval()
    return max(rate.share - low, 0.0), max(high - rate.share, 0.0)  # rounding can make a difference negative at 0 and 1


def show_rates(rates: Mapping[str, tuple[Rate, Rate]], independent: Mapping[str, float]):
    """For every kind of prompt, the rates of seen and new combinations with intervals, and the rate that independence predicts."""
    figure, ax = page(height=3)
    for at, (kind, pair) in enumerate(rates.items()):
        for rate, name, shift, color, marker in zip(pair, ("seen", "new"), (-0.12, 0.12), (BLUE, ORANGE), "os"):
            style = {"color": color, "fmt": marker, "capsize": 4, "markersize": 8, "label": name}
            ax.errorbar([at + shift], [rate.share], [[length] for length in bars(rate)], **style)
        if kind in independent:
            ax.plot([at - 0.25, at + 0.25], [independent[kind]] * 2, "--", color=GREY, label="if independent")
    legend = {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    ax.set(xticks=range(len(rates)), xticklabels=list(rates), ylim=(-0.05, 1.05), ylabel="share of right pictures")
    ax.set_xlim(-0.5, len(rates) - 0.5)
    ax.grid(False, axis="x")
    figure.legend(legend.values(), legend.keys(), loc="outside right center")
    said = "; ".join(f"{kind} {seen.share:.2f} seen, {new.share:.2f} new" for kind, (seen, new) in rates.items())
    show(figure, f"Shares of right pictures with 95 % intervals, for seen and for new combinations: {said}.")


def show_distances(distances: Mapping[str, Tensor]):
    """The distribution of distances to the nearest training picture, for several groups of pictures."""
    figure, ax = page(height=2.9)
    for name, distance in distances.items():
        at = distance.sort().values
        ax.plot(at, torch.arange(1, len(at) + 1) / len(at), label=name, drawstyle="steps-post")
    ax.set(xlabel="distance to the nearest training picture", ylabel="share of pictures below", xlim=(0, None), ylim=(0, 1.02))
    ax.legend(loc="lower right")
    said = "; ".join(f"{name}, half below {distance.median():.0f}" for name, distance in distances.items())
    show(figure, f"Three rising curves over the distance to the nearest training picture: {said}.")


def pair(x: float, y: float, other_x: float, other_y: float, scale: float = 0.2, other_scale: float = 0.22) -> tuple[Thing, Thing]:
    return Thing("ball", "red", x, y, scale), Thing("box", "blue", other_x, other_y, other_scale)


PAIRS = [
    pair(0.26, 0.55, 0.74, 0.60),  # left of
    pair(0.74, 0.60, 0.26, 0.55),  # right of
    pair(0.40, 0.26, 0.55, 0.74),  # above, and a little to the left
    pair(0.40, 0.74, 0.55, 0.26),  # below, and a little to the left
    pair(0.42, 0.45, 0.50, 0.66, 0.18, 0.30),  # riding
    pair(0.28, 0.62, 0.50, 0.66, 0.18, 0.30),  # to its left, but close
    pair(0.20, 0.40, 0.72, 0.75),  # left of, and a little above
    pair(0.20, 0.10, 0.60, 0.95),  # above, and quite far to the left
    pair(0.25, 0.20, 0.60, 0.75),  # above, and less far to the left
    pair(0.30, 0.50, 0.58, 0.52, 0.05, 0.30),  # left of, a small thing beside a large one
    pair(0.40, 0.50, 0.60, 0.52, 0.30, 0.10),  # close, a small thing in front of a large one
    pair(0.30, 0.50, 0.67, 0.55),  # left of, although their frames overlap
]


def left_of(first, second):
    return holds("left", first, second)


left = Exercise(
    answer=left_of,
    mistakes={
        "x grows to the right: the smaller x is further left": lambda first, second: left_of(second, first),
        "a thing that is above and a little to the left is above; compare the two distances": lambda first, second: (
            first.x < second.x and not close(first, second)
        ),
        "a thing can be far to the left and still further above; compare the two distances": lambda first, second: (
            second.x - first.x > 0.75 * (first.scale + second.scale)
        ),
        "use `close`: the frames of two things may overlap although they are not close": lambda first, second: (
            second.x - second.scale > first.x + first.scale and second.x - first.x > abs(second.y - first.y)
        ),
        "a rider may sit to the left of its mount's middle; use `close` to exclude that": lambda first, second: (
            second.x - first.x > abs(second.y - first.y)
        ),
        "which of the two is on the left? the sign of the difference matters": lambda first, second: (
            abs(second.x - first.x) > abs(second.y - first.y)
        ),
    },
    run=lambda check: torch.tensor([float(check(*things)) for things in PAIRS]),
)


def close(first, second):
    return max(abs(first.x - second.x), abs(first.y - second.y)) < 0.75 * (first.scale + second.scale)


def pictures_for(p, q, z=1.96 + 0.84, power=2):
    return z**2 * (p * (1 - p) + q * (1 - q)) / abs(p - q) ** power


enough = Exercise(
    answer=pictures_for,
    mistakes={
        "both shares fluctuate, and their variances add": lambda p, q: (1.96 + 0.84) ** 2 * p * (1 - p) / (p - q) ** 2,
        "that is the number for both models together; return the number for each": lambda p, q: 2 * pictures_for(p, q),
        "add the variances, not the standard deviations": lambda p, q: (
            (1.96 + 0.84) ** 2 * (sqrt(p * (1 - p)) + sqrt(q * (1 - q))) ** 2 / (p - q) ** 2
        ),
        "the fluctuation shrinks with √n, so n grows with 1 / (p − q)²": lambda p, q: pictures_for(p, q, power=1),
        "with 1.96 alone, half of all experiments miss the difference": lambda p, q: pictures_for(p, q, z=1.96),
    },
    run=lambda count: torch.tensor([log(float(count(p, q))) for p, q in ((0.7, 0.8), (0.5, 0.6), (0.95, 0.9), (0.2, 0.5))]),
    tolerance=0.1,  # of the logarithm: accepts rounding, and the variance of the mean share instead of both
)
