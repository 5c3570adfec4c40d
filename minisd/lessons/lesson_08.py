"""Notebook 08, turning up the volume: measures, figures and exercises. The world in the plane is in lesson_08_plane.py."""

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from ..config import TINY_UNET
from ..evaluate.prompts import Prompt
from ..evaluate.protocol import render
from ..evaluate.rates import Rate
from ..pipeline import guide
from ..tiny.picture_book import compose
from ..unet import UNet2DConditionModel
from .exercise import Exercise
from .figures import BLUE, GREY, ORANGE, page, show
from .lesson_10 import bars

TWO_GUESSES = (
    "Two rows of guesses. At the first timestep the guess without a caption is a blur without a subject, and the guess with it has "
    "the colours of the subject. Towards the end the rows are the same."
)
FIVE_SCALES = (
    "Two prompts at five scales. At w = 0 the pictures ignore the prompts; then subject and place become clear; at w = 20 the "
    "colours are too strong and the shapes have suffered."
)
RESCUED = (
    "Four prompts in columns, drawn by the network that hears its prompt faintly. The row at w = 1 shows things without the right "
    "colour, place or shape; with growing w, more and more pictures become what their prompts ask for."
)
AWAY_FROM = (
    "Three rows of four pictures for “a house at night”, drawn by the network that hears its prompt faintly. Without a negative "
    "prompt: three houses and a star, one of them at night. With “a house”: three nights, but a fish and a pink house. With “at "
    "night”: three houses and a star on pale pages, and no night."
)


def muffled(unet: UNet2DConditionModel, share: float) -> UNet2DConditionModel:
    """A copy of a UNet in which only this share of each cross-attention's output is added to the feature maps."""
    unet = copy.deepcopy(unet).requires_grad_(False)
    for block in unet.modules():
        if hasattr(block, "attn2"):
            for weight in block.attn2.to_out.parameters():
                weight *= share
    return unet


def book_pages(prompts: Sequence[Prompt]) -> Tensor:
    """For every prompt, a random page of the book that fits it: (B, 3, 128, 128)."""
    pages = []
    for i, prompt in enumerate(prompts):
        wanted, rng = prompt.scene, random.Random(i)
        things = wanted.things[::-1] if wanted.relation == "next" and rng.random() < 0.5 else wanted.things
        kinds, colors = zip(*((thing.kind, thing.color) for thing in things))
        while (scene := compose(rng, wanted.relation, kinds, colors, wanted.place)).things[0].size != wanted.things[0].size:
            pass
        pages.append(replace(prompt, scene=scene))
    return render(pages)


def show_sweep(scales: Sequence[float], rates: Sequence[Rate], measures: Mapping[str, tuple[Sequence[float], float]]):
    """The share of right pictures with its intervals, and other measures with the book's own values, over the scale."""
    figure, axes = page(1, 1 + len(measures), height=2.9)
    shares = [rate.share for rate in rates]
    axes[0].errorbar(scales, shares, list(zip(*map(bars, rates))), fmt="o-", capsize=3)
    axes[0].set(title="share of right pictures", ylim=(0, 1))
    for ax, (name, (values, book)) in zip(axes[1:], measures.items()):
        ax.plot(scales, values, "o-")
        ax.axhline(book, color=ORANGE, linestyle="--")
        ax.text(max(scales), book, "the book", color=ORANGE, va="top", ha="right")
        ax.set(title=name)
        ax.margins(y=0.2)
        ax.set_ylim(bottom=0)
    for ax in axes:
        ax.set(xscale="log", xlabel="guidance scale w", xticks=scales, xticklabels=[f"{w:g}" for w in scales])
        ax.minorticks_off()
    drift = ", ".join(f"{name} goes from {values[0]:.2f} to {values[-1]:.2f}" for name, (values, _) in measures.items())
    show(
        figure,
        f"Three curves over the scale, from {scales[0]:g} to {scales[-1]:g}. The share of right pictures goes from {shares[0]:.2f} "
        f"to {shares[-1]:.2f}, with a maximum of {max(shares):.2f}; {drift}. Dashed are the values of the book's own pages.",
    )


def show_exchange(rates: Mapping[str, Rate], saturations: Mapping[str, float], diversities: Mapping[str, float], book: float):
    """The share of right pictures over saturation and diversity, for guidance at some of the timesteps.

    `book` is the saturation of the book's own pages.
    """
    figure, axes = page(1, 2, height=3.4, sharey=True)
    for ax, prices in zip(axes, (saturations, diversities)):
        for (name, rate), marker in zip(rates.items(), "osD^vX"):
            style = {"fmt": marker, "ecolor": GREY, "elinewidth": 0.8, "markersize": 8, "label": name}
            reach = [[length] for length in bars(rate)]
            ax.errorbar([prices[name]], [rate.share], reach, color=ORANGE if "where" in name else BLUE, **style)
        ax.margins(x=0.15)
    axes[0].axvline(book, color=GREY, linestyle="--", linewidth=1)
    axes[0].text(book, 0.97, " the book", color=GREY, va="top")
    axes[0].set(xlabel="saturation", ylabel="share of right pictures", ylim=(0, 1))
    axes[1].set(xlabel="diversity")
    figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside right center")
    said = ", ".join(f"{name} {r.share:.2f}, {saturations[name]:.2f} and {diversities[name]:.0f}" for name, r in rates.items())
    show(
        figure,
        "A point for each choice of guided timesteps: the share of right pictures over saturation on the left and over "
        f"diversity on the right. Share, saturation and diversity are: {said}.",
    )


class Counted:
    """A small untrained UNet that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x: Tensor, t: Tensor | int, encoder_hidden_states: Tensor):
        self.calls += 1
        with torch.no_grad():
            return untrained()(x, t, encoder_hidden_states)


@cache
def untrained() -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(replace(TINY_UNET, block_out_channels=(32, 32, 32), num_attention_heads=(2, 2, 2)))


X, UNCOND, COND = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(5)) for shape in ((4, 8, 8), (7, 128), (7, 128)))
COND = COND.flip(0) + 1


def ask(guided) -> Tensor:
    """The guided ε, and the number of calls of the UNet."""
    unet = Counted()
    eps = [guided(unet, X.clone(), t, UNCOND.clone(), COND.clone(), scale) for t, scale in ((500, 7.5), (100, 3.0))]
    return torch.cat([*(part.flatten() for part in eps), torch.tensor([float(unet.calls)])])


def in_one_call(unet, x, t, uncond, cond, scale, blend=guide):
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([uncond, cond])).sample
    return blend(*both.chunk(2), scale)


guided = Exercise(
    answer=in_one_call,
    mistakes={
        "the ε is right, but you call the UNet twice; concatenate the two batches": lambda unet, x, t, uncond, cond, scale: guide(
            unet(x, t, encoder_hidden_states=uncond).sample, unet(x, t, encoder_hidden_states=cond).sample, scale
        ),
        "the halves are swapped: if the input is [uncond, cond], the output begins with ε_∅": lambda *batch: in_one_call(
            *batch, blend=lambda eps_uncond, eps_cond, scale: guide(eps_cond, eps_uncond, scale)
        ),
        "you start at ε_c (with the paper's w, which is ours minus 1); start at ε_∅": lambda *batch: in_one_call(
            *batch, blend=lambda eps_uncond, eps_cond, scale: eps_cond + scale * (eps_cond - eps_uncond)
        ),
    },
    run=ask,
)

SCALES = (1, 1.5, 2, 3, 5, 8, 14)
CURVES = [
    [Rate(right, 40) for right in (8, 18, 27, 31, 33, 32, 25)],
    [Rate(right, 400) for right in (80, 180, 270, 310, 330, 320, 250)],
    [Rate(right, 18) for right in (3, 9, 10, 10, 11, 11, 12)],
    [Rate(right, 100) for right in (95, 97, 94, 80, 60, 30, 10)],
    [Rate(right, 20) for right in (3, 8, 13, 17, 20, 19, 17)],  # 20 of 20, a share that no other interval contains
    [Rate(80, 400), Rate(180, 400), Rate(260, 400), Rate(330, 400), Rate(9, 10), Rate(320, 400), Rate(250, 400)],
]


def smallest_that_is_as_good(scales, rates):
    least, _ = max(rates, key=lambda rate: rate.share).interval()
    return next(scale for scale, rate in zip(scales, rates) if rate.share >= least)


best_scale = Exercise(
    answer=smallest_that_is_as_good,
    mistakes={
        "that is the highest point; is it higher than the points at smaller scales by more than luck?": lambda scales, rates: max(
            zip(scales, rates), key=lambda pair: pair[1].share
        )[0],
        "of all scales that are as good, return the smallest: the others cost more": lambda scales, rates: smallest_that_is_as_good(
            scales[::-1], rates[::-1]
        ),
        "that is a share of right pictures; return the scale": lambda scales, rates: max(rate.share for rate in rates),
        "that is the index of a scale; return the scale itself": lambda scales, rates: scales.index(
            smallest_that_is_as_good(scales, rates)
        ),
    },
    run=lambda find: torch.tensor([float(find(SCALES, curve)) for curve in CURVES]),
)
