"""Notebook 08: a world with captions in the plane, where the perfect denoiser is known, and its figures."""

from collections.abc import Mapping, Sequence
from math import pi

import torch
from torch import Tensor

from ..pipeline import guide
from ..schedule import to_x0
from . import exact
from .figures import BLUE, DENSITY, GREY, INK, ORANGE, TEAL, page, show

SIDE = 2.6  # the plane is shown from -SIDE to SIDE
BLUR = 0.12  # every point is a cloud of this standard deviation


def arcs(count: int = 40) -> list[Tensor]:
    """Three arcs of a circle, (count, 2) each, the first on top: the data of three captions."""
    turns = [pi / 2 + 2 * pi * k / 3 + torch.linspace(-0.85, 0.85, count) for k in range(3)]
    return [1.35 * torch.stack([turn.cos(), turn.sin()], dim=1) for turn in turns]


def epsilon(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[ε | x] if every point (N, 2) is blurred by BLUR, which acts like a little more noise."""
    total = 1 + alpha * BLUR**2
    return exact.epsilon(x / total**0.5, points, alpha / total) * ((1 - alpha) / (total - alpha)) ** 0.5


def log_density(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x) of the noisy, blurred points: (B,)."""
    total = 1 + alpha * BLUR**2
    return exact.log_density(x / total**0.5, points, alpha / total) - torch.log(torch.as_tensor(total))


def planes(titles: Sequence[str], height: float = 0.3):
    """A row of square views of the plane, with `height` inches below them for a legend."""
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
    """For one x (2,): arrows of −ε at several scales for the first timestep, then the guesses x̂0 at each timestep."""
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
        "Left, arrows from one noisy point: −ε without the caption, −ε with it, and longer ones whose tips lie further along "
        "the line through both. Then the guesses of x0 on that line: early, they start in the middle of all data, reach the arc "
        "of the caption and leave it on the other side; late, they are almost one point.",
    )


def marks(scales: Sequence[float]) -> dict[float, dict[str, str]]:
    """Markers for the scales: 0 (no caption), 1 (the caption), and the rest."""
    known = {0: {"marker": "s", "color": INK}, 1: {"marker": "o", "color": BLUE}}
    further = iter("D^v<>")
    return {w: known.get(w) or {"marker": next(further), "color": TEAL} for w in scales}


def log_belief(x: Tensor, world: Tensor, told: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(c | x), the probability that x came from the caption's part of the world (Bayes): (B,)."""
    prior = torch.log(torch.tensor(len(told) / len(world)))
    return log_density(x, told, alpha) + prior - log_density(x, world, alpha)


def show_belief(world: Tensor, told: Tensor, levels: Mapping[int, Tensor]):
    """The probability of the caption over the plane, and the push of guidance, ε_∅ − ε_c, as arrows."""
    figure, axes = planes([f"t = {t}" for t in levels], height=0.25)
    fine, line = (torch.linspace(-SIDE, SIDE, n) for n in (120, 13))
    ground, tails = torch.cartesian_prod(fine, fine), torch.cartesian_prod(line, line)
    for ax, alpha in zip(axes, levels.values()):
        belief = log_belief(ground, world, told, alpha).exp().clamp(max=1).view(120, 120).T
        ax.contourf(fine, fine, belief, levels=torch.linspace(0, 1, 11), cmap=DENSITY, vmax=1.6)
        push = epsilon(tails, world, alpha) - epsilon(tails, told, alpha)
        often = log_density(tails, world, alpha) > -6  # no arrows where there are no noisy data
        ax.quiver(*tails[often].T, *push[often].T, color=INK, angles="xy", scale_units="xy", scale=2.5, width=0.007)
        ax.scatter(*world.T, s=5, color=GREY, linewidths=0)
        ax.scatter(*told.T, s=5, color=ORANGE, linewidths=0)
    show(
        figure,
        "The plane in shades of the caption's probability: at a high t it grows slowly from bottom to top, at a low t it has sharp "
        "borders between the arcs. The arrows of guidance cross the borders towards the caption's side; well inside they vanish.",
    )


GUIDED = (
    "At w = 0 the walkers cover all three arcs, at w = 1 only the caption's. With larger w they crowd in its middle, and at w = 4 "
    "and 7.5 they form a short bow above the arc."
)
AWAY = (
    "Away from everything, the walkers stay on the two arcs. Away from the left arc, fewer end there, but those of the upper arc "
    "are pushed off it, at w = 2 far out to the right."
)


def show_clouds(drawn: Mapping[str, Tensor], world: Tensor, told: Tensor, alt: str):
    """Samples (B, 2), each set under its title, over the data."""
    figure, axes = planes(list(drawn), height=0.25)
    for ax, x in zip(axes, drawn.values()):
        ax.scatter(*world.T, s=5, color=GREY, alpha=0.5, linewidths=0)
        ax.scatter(*told.T, s=5, color=ORANGE, linewidths=0)
        ax.scatter(*x.T, s=3, color=BLUE, linewidths=0, alpha=0.6)
    show(figure, alt)
