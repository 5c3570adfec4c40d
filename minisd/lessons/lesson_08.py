"""Notebook 08, turning up the volume: a world with captions, its longer figures, and its exercises."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import pi

import torch
from torch import Tensor

from ..config import TINY_UNET
from ..evaluate.prompts import Prompt
from ..evaluate.protocol import render
from ..evaluate.rates import Rate
from ..pipeline import guide
from ..schedule import to_x0
from ..tiny.picture_book import compose
from ..unet import UNet2DConditionModel
from . import exact
from .exercise import Exercise
from .figures import BLUE, DENSITY, GREY, INK, ORANGE, TEAL, page, show
from .lesson_10 import bars

# The plane, where three captions have an arc each, and where what is drawn need not be a point of the data.
SIDE = 2.6  # it is shown from -SIDE to SIDE
BLUR = 0.12  # every point is a cloud of this standard deviation


def arcs(count: int = 40) -> list[Tensor]:
    """Three arcs of a circle, (count, 2) each, the first on top: what the world has of each of three captions."""
    turns = [pi / 2 + 2 * pi * k / 3 + torch.linspace(-0.85, 0.85, count) for k in range(3)]
    return [1.35 * torch.stack([turn.cos(), turn.sin()], dim=1) for turn in turns]


def epsilon(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[ε | x] where every point (N, 2) is blurred by BLUR, which is as if there were a little more noise."""
    total = 1 + alpha * BLUR**2
    return exact.epsilon(x / total**0.5, points, alpha / total) * ((1 - alpha) / (total - alpha)) ** 0.5


def log_density(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x) of the noisy blurred points: (B,)."""
    total = 1 + alpha * BLUR**2
    return exact.log_density(x / total**0.5, points, alpha / total) - torch.log(torch.as_tensor(total))


def planes(titles: Sequence[str], height: float = 0.3):
    """A row of square pieces of the plane, and below them `height` inches for a legend."""
    figure, axes = page(1, len(titles), height=8 / len(titles) + height, squeeze=False)
    for ax, title in zip(axes[0], titles):
        ax.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), xticks=(), yticks=(), aspect="equal", title=title)
        ax.spines[:].set_visible(True)
        ax.grid(False)
    return figure, axes[0]


def arrow(ax, start: Tensor, end: Tensor, color: str, width: float = 2):
    style = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    ax.annotate("", end.tolist(), start.tolist(), arrowprops=style)


def show_line(x: Tensor, world: Tensor, told: Tensor, levels: Mapping[int, Tensor], scales: Sequence[float]):
    """For one x (2,): −ε along the line of scales as arrows, at the first timestep, then the guesses x̂0 at each timestep."""
    first, *_ = levels
    figure, axes = planes([f"$-\\epsilon$ at t = {first}", *(f"$\\hat x_0$ at t = {t}" for t in levels)], height=0.6)
    for ax, t in zip(axes, [first, *levels]):
        noises = [epsilon(x[None], points, levels[t])[0] for points in (world, told)]
        line = torch.stack([guide(*noises, w) for w in scales])
        tips = x - line if ax is axes[0] else to_x0(x, line, levels[t])
        ax.scatter(*world.T, s=6, color=GREY, alpha=0.4, linewidths=0)
        ax.scatter(*told.T, s=6, color=ORANGE, linewidths=0)
        ax.plot(*tips.T, "-", color=GREY, linewidth=1, zorder=1)
        for tip, (w, style) in zip(tips, marks(scales).items()):
            if ax is axes[0]:
                arrow(ax, x, tip, style["color"])
            ax.plot(*tip, markersize=6, zorder=3, linestyle="", **style, label=f"w = {w:g}")
    axes[0].plot(*x, "x", color=INK, markersize=9, markeredgewidth=2, label="$x_t$", zorder=4)
    figure.legend(handles=axes[0].get_legend_handles_labels()[0], loc="outside lower center", ncols=6)
    show(
        figure,
        "Left, arrows from one noisy point: −ε without the caption, −ε with it, and longer ones whose tips lie further along the "
        "line through the two. Then the guesses of x0 on that line: early they begin in the middle of all data, come to the arc of "
        "the caption and leave it on the other side; late they are all one point.",
    )


def marks(scales: Sequence[float]) -> dict[float, dict[str, str]]:
    """How the places on the line are drawn: told nothing, told the caption, further."""
    known = {0: {"marker": "s", "color": INK}, 1: {"marker": "o", "color": BLUE}}
    further = iter("D^v<>")
    return {w: known.get(w) or {"marker": next(further), "color": TEAL} for w in scales}


def log_belief(x: Tensor, world: Tensor, told: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(c | x), how likely it is that x came from the told part of the world (Bayes): (B,)."""
    prior = torch.log(torch.tensor(len(told) / len(world)))
    return log_density(x, told, alpha) + prior - log_density(x, world, alpha)


def show_belief(world: Tensor, told: Tensor, levels: Mapping[int, Tensor]):
    """How probable the caption is at every place of the plane, and where ε_c − ε_∅ pushes."""
    figure, axes = planes([f"t = {t}" for t in levels], height=0.25)
    fine, line = (torch.linspace(-SIDE, SIDE, n) for n in (120, 13))
    ground, tails = torch.cartesian_prod(fine, fine), torch.cartesian_prod(line, line)
    for ax, alpha in zip(axes, levels.values()):
        belief = log_belief(ground, world, told, alpha).exp().clamp(max=1).view(120, 120).T
        ax.contourf(fine, fine, belief, levels=torch.linspace(0, 1, 11), cmap=DENSITY, vmax=1.6)
        push = epsilon(tails, world, alpha) - epsilon(tails, told, alpha)
        often = log_density(tails, world, alpha) > -6  # where noisy data never are, arrows mean nothing
        ax.quiver(*tails[often].T, *push[often].T, color=INK, angles="xy", scale_units="xy", scale=2.5, width=0.007)
        ax.scatter(*world.T, s=5, color=GREY, linewidths=0)
        ax.scatter(*told.T, s=5, color=ORANGE, linewidths=0)
    show(
        figure,
        "The plane in shades of how probable the caption is: at a high t it turns slowly from the bottom to the top, at a low t it "
        "has sharp borders, between the arcs. The arrows of the guidance stand across the borders and point to the caption's side; "
        "well inside of it they vanish.",
    )


GUIDED = (
    "At w = 0 the walkers cover all three arcs, at w = 1 just the caption's. From there on they crowd in its middle, and at w = 4 "
    "and 7.5 they are a short bow above the arc."
)
AWAY = (
    "Away from all, the walkers stay on the two arcs. Away from the left one, fewer end there, but those of the upper arc are "
    "pushed off it, at w = 2 far out to the right."
)


def show_clouds(drawn: Mapping[str, Tensor], world: Tensor, told: Tensor, alt: str):
    """What was drawn, (B, 2) under each title, over the data."""
    figure, axes = planes(list(drawn), height=0.25)
    for ax, x in zip(axes, drawn.values()):
        ax.scatter(*world.T, s=5, color=GREY, alpha=0.5, linewidths=0)
        ax.scatter(*told.T, s=5, color=ORANGE, linewidths=0)
        ax.scatter(*x.T, s=3, color=BLUE, linewidths=0, alpha=0.6)
    show(figure, alt)


def book_pages(prompts: Sequence[Prompt]) -> Tensor:
    """For every prompt a page of the book that has its caption, but is no other in anything: (B, 3, 128, 128)."""
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
    """Over the scale: the rate of right pictures with its intervals, and other measures, each with the book's own value."""
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
    """What guidance at some of the timesteps brings, against the saturation and the diversity that it leaves; `book` is the book's
    own saturation."""
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
        "A point for each choice of guided timesteps, higher the more pictures are right, against saturation on the left and "
        f"diversity on the right. Share, saturation and diversity are: {said}.",
    )


class Counted:
    """A small UNet that nobody trained, and how often it is asked."""

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
    """What comes out of a guided step, and how many calls of the UNet it took."""
    unet = Counted()
    eps = guided(unet, X, 500, UNCOND, COND, 7.5)
    return torch.cat([eps.flatten(), torch.tensor([float(unet.calls)])])


def in_one_call(unet, x, t, uncond, cond, scale, blend=guide):
    both = unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([uncond, cond])).sample
    return blend(*both.chunk(2), scale)


guided = Exercise(
    answer=in_one_call,
    mistakes={
        "the right ε, but the UNet was called twice; cat the two batches": lambda unet, x, t, uncond, cond, scale: guide(
            unet(x, t, encoder_hidden_states=uncond).sample, unet(x, t, encoder_hidden_states=cond).sample, scale
        ),
        "the halves have changed places: in comes [uncond, cond], so out comes ε_∅ first": lambda *batch: in_one_call(
            *batch, blend=lambda eps_uncond, eps_cond, scale: guide(eps_cond, eps_uncond, scale)
        ),
        "that line begins at ε_c (the paper's w, which is ours minus 1); ours begins at ε_∅": lambda *batch: in_one_call(
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
    [Rate(right, 20) for right in (3, 8, 13, 17, 20, 19, 17)],  # all of 20: no other interval holds this share
    [Rate(80, 400), Rate(180, 400), Rate(260, 400), Rate(330, 400), Rate(9, 10), Rate(320, 400), Rate(250, 400)],
]


def smallest_that_is_as_good(scales, rates):
    least, _ = max(rates, key=lambda rate: rate.share).interval()
    return next(scale for scale, rate in zip(scales, rates) if rate.share >= least)


best_scale = Exercise(
    answer=smallest_that_is_as_good,
    mistakes={
        "that is the highest point, but is it higher than the smaller scales by more than luck?": lambda scales, rates: max(
            zip(scales, rates), key=lambda pair: pair[1].share
        )[0],
        "of all scales that are as good, take the smallest: the others cost more": lambda scales, rates: smallest_that_is_as_good(
            scales[::-1], rates[::-1]
        ),
        "that is a share of right pictures; wanted is the scale": lambda scales, rates: max(rate.share for rate in rates),
        "that is a scale's place in the list; wanted is the scale": lambda scales, rates: scales.index(
            smallest_that_is_as_good(scales, rates)
        ),
    },
    run=lambda find: torch.tensor([float(find(SCALES, curve)) for curve in CURVES]),
)
