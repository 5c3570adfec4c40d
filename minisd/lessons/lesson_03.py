"""Notebook 03, the perfect denoiser: its figures and exercises."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import schedule
from . import exact
from .exercise import Exercise, stack
from .figures import BLUE, COLORS, DENSITY, GREY, INK, ORANGE, page, show

SIDE = 2.8  # the plane is shown from -SIDE to SIDE
MEMORISED = (
    "Three rows. Each begins at t = 999 as several pictures laid over each other, is one clear picture by t = 795, and ends equal "
    "to the training picture on the right."
)


def planes(count: int, titles: Sequence[str]):
    """A row of square views of the plane."""
    figure, axes = page(1, count, height=8 / count + 0.25, squeeze=False)
    for ax, title in zip(axes[0], titles):
        ax.set(xlim=(-SIDE, SIDE), ylim=(-SIDE, SIDE), xticks=(), yticks=(), aspect="equal", title=title)
        ax.spines[:].set_visible(True)
    return figure, axes[0]


def lattice(n: int) -> Tensor:
    """A grid of n × n points over the plane: (n², 2)."""
    line = torch.linspace(-SIDE, SIDE, n)
    return torch.cartesian_prod(line, line)


def show_clouds(clouds: Mapping[int, Tensor], origin: Tensor):
    """Noisy points (B, 2) at several timesteps, coloured by the data point that each came from."""
    figure, axes = planes(len(clouds), [f"t = {t}" for t in clouds])
    for ax, x in zip(axes, clouds.values()):
        ax.scatter(*x.T, s=2, c=[COLORS[i] for i in origin], linewidths=0)
    show(
        figure,
        f"Five coloured clouds of points, small and separate at t = {min(clouds)}, merged into one and mixed at t = {max(clouds)}.",
    )


def show_votes(x: Tensor, points: Tensor, levels: Mapping[int, Tensor]):
    """The weight of each point (N, 2) for one noisy x (2,) at several timesteps, and the weighted mean."""
    figure, axes = planes(len(levels), [f"t = {t}" for t in levels])
    for ax, alpha in zip(axes, levels.values()):
        votes, guess = (f(x[None], points, alpha)[0] for f in (exact.weights, exact.denoise))
        for point, vote in zip(points, votes):
            ax.plot(*torch.stack([x, point]).T, "-", color=GREY, linewidth=12 * vote, solid_capstyle="round", alpha=0.6)
        ax.plot(*points.T, "o", color=BLUE, markersize=7)
        ax.plot(*x, "x", color=INK, markersize=9, markeredgewidth=2)
        ax.plot(*guess, "*", color=ORANGE, markersize=15)
    figure.legend(axes[0].lines[-3:], ["data", "$x_t$", "best guess"], loc="outside lower center", ncols=3)
    show(
        figure,
        "A noisy point between five data points, joined to each by a line as thick as that point's weight. At a high t all lines "
        "are equally thick and the best guess is the mean of the data; at a low t one thick and one thin line are left, "
        "and the guess is close to one point.",
    )


def show_arrows(points: Tensor, levels: Mapping[int, Tensor]):
    """The density of the noisy points (N, 2) at several timesteps, with the exact −ε as arrows."""
    figure, axes = planes(len(levels), [f"t = {t}" for t in levels])
    ground, tails = lattice(120), lattice(13)
    for ax, alpha in zip(axes, levels.values()):
        density = exact.log_density(ground, points, alpha).exp().view(120, 120).T
        ax.imshow(density, origin="lower", extent=(-SIDE, SIDE) * 2, cmap=DENSITY, vmax=1.5 * density.max())
        ax.quiver(*tails.T, *-exact.epsilon(tails, points, alpha).T, color=INK, angles="xy", scale_units="xy", scale=6, width=0.007)
        ax.plot(*points.T, "o", color=ORANGE, markersize=4)
        ax.grid(False)
    show(
        figure,
        "Arrows of −ε on the density of the noisy points. At a high t there is one hill and all arrows point to its top; at a "
        "low t there are five sharp peaks, one at each data point, and every arrow points to one of them.",
    )


def show_flow(film: Mapping[str, Tensor], paint: Tensor):
    """Points (B, 2) at several times on their way from noise to data; `paint` (B,) gives each point its fixed colour."""
    figure, axes = planes(len(film), list(film))
    for ax, x in zip(axes, film.values()):
        ax.scatter(*x.T, s=4, c=paint, cmap="cividis", linewidths=0)
    show(
        figure,
        "Over five pictures a round cloud of noise contracts until its points form a sitting cat with eyes, ears and a tail. "
        "Points that start on the left end on the left.",
    )


def show_density(points: Tensor, alphas_cumprod: Tensor, times: Sequence[int], paths: Tensor):
    """The density of noisy numbers over time, for data (N, 1), with paths (len(times), B) of the flow."""
    line = torch.linspace(-SIDE, SIDE, 280)[:, None]
    density = torch.stack([exact.log_density(line, points, alphas_cumprod[t]).exp() for t in times], dim=1)
    figure, ax = page(height=3.2)
    ax.imshow(density.sqrt(), origin="lower", extent=(times[0], times[-1], -SIDE, SIDE), aspect="auto", cmap=DENSITY, vmax=1.5)
    ax.plot(times, paths, "-", color=INK, linewidth=0.9)
    ax.plot([times[-1]] * len(points), points, "o", color=ORANGE, markersize=8, clip_on=False)
    ax.set(xlabel="timestep $t$: noise on the left, data on the right", ylabel="$x_t$", ylim=(-SIDE, SIDE))
    ax.grid(False)
    show(
        figure,
        "Time runs to the right, from t = 999 to 0. One broad ridge of density splits, at about t = 250, into three narrow ones "
        "that end in the three data points. 24 lines from the left edge follow them without crossing, eight to each point.",
    )


def show_three_names(alphas_cumprod: Tensor, t: int):
    """Left: x0, ε, x_t and v in one plane, where time is an angle. Right: the error of x0 caused by an error in ε, v or x0."""
    figure, (plane, curves) = page(1, 2, height=2.9, width_ratios=(1, 1.7))
    turn = torch.linspace(0, torch.pi / 2, 50)
    x, y = alphas_cumprod[t].item() ** 0.5, (1 - alphas_cumprod[t].item()) ** 0.5
    plane.plot(turn.cos(), turn.sin(), "-", color=GREY, linewidth=1)
    for name, start, end, color in (
        ("$x_0$", (0, 0), (1, 0), INK),
        (r"$\epsilon$", (0, 0), (0, 1), INK),
        ("$x_t$", (0, 0), (x, y), BLUE),
        ("$v$", (x, y), (x - 0.6 * y, y + 0.6 * x), ORANGE),
    ):
        plane.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2, "shrinkA": 0, "shrinkB": 0})
        plane.annotate(name, end, (5, 3), textcoords="offset points", color=color)
    plane.plot(0.3 * turn.cos()[turn.sin() < y], 0.3 * turn.sin()[turn.sin() < y], "-", color=GREY, linewidth=1)
    plane.text(0.32, 0.12, r"$\varphi$", color=GREY)
    plane.set(xlim=(-0.05, 1.25), ylim=(-0.05, 1.3), aspect="equal")
    plane.set_axis_off()

    curves.plot(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5, label=r"$\epsilon$")
    curves.plot((1 - alphas_cumprod) ** 0.5, label="$v$")
    curves.plot(torch.ones_like(alphas_cumprod), label="$x_0$")
    curves.set(yscale="log", xlabel="timestep $t$", title="error of $x_0$ if the prediction is off by 1")
    curves.legend()
    show(
        figure,
        "Left, a quarter of a circle: x0 points right, ε points up, x_t lies in between at the angle φ, and v is tangent to the "
        "circle, towards ε. Right, the error of x0 over t: for ε it rises from 0.03 to 15, for v from 0.03 to 1, for x0 it is 1.",
    )


POINTS = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))  # D = 3, not 2, so that D (1 − ᾱ) differs from 2 (1 − ᾱ)
X = torch.randn(7, 3, generator=torch.Generator().manual_seed(4))
LEVELS = torch.tensor([0.9, 0.5, 0.05])


def blend(x, points, alpha, shrink=True, width=lambda alpha: 2 * (1 - alpha), dim=1):
    """The exact denoiser; the last three arguments make it go wrong."""
    squares = ((x[:, None] - (alpha**0.5 if shrink else 1) * points) ** 2).sum(dim=-1)
    return torch.softmax(-squares / width(alpha), dim) @ points


denoiser = Exercise(
    answer=exact.denoise,
    mistakes={
        "the cloud of a point y is centred at √ᾱ y, not at y": lambda x, points, alpha: blend(x, points, alpha, shrink=False),
        "a Gaussian of variance s falls off like exp(−d²/2s); where is the 2?": lambda x, points, alpha: blend(
            x, points, alpha, width=lambda alpha: 1 - alpha
        ),
        "the variance of the clouds is 1 − ᾱ; without it every t gives the same weights": lambda x, points, alpha: blend(
            x, points, alpha, width=lambda alpha: 2
        ),
        "the 2 in 2 (1 − ᾱ) is not the dimension: it stays 2 when a point has three numbers": lambda x, points, alpha: blend(
            x, points, alpha, width=lambda alpha: points.shape[1] * (1 - alpha)
        ),
        "a Gaussian falls off with the distance: where is the minus?": lambda x, points, alpha: blend(
            x, points, alpha, width=lambda alpha: -2 * (1 - alpha)
        ),
        "divide by twice the variance 1 − ᾱ, not by twice its root": lambda x, points, alpha: blend(
            x, points, alpha, width=lambda alpha: 2 * (1 - alpha) ** 0.5
        ),
        "square the distances": lambda x, points, alpha: (
            torch.softmax(-(x[:, None] - alpha**0.5 * points).norm(dim=-1) / (2 * (1 - alpha)), dim=1) @ points
        ),
        "those are the weights; return the points, weighted by them": exact.weights,
        "the weights of one x over all points sum to 1: softmax over dim=1": lambda x, points, alpha: blend(
            x, points, alpha, dim=0
        ),
    },
    run=lambda denoise: stack(denoise(X.clone(), POINTS.clone(), alpha) for alpha in LEVELS),
)

x0_from_v = Exercise(
    answer=lambda v, x, alpha: alpha**0.5 * x - (1 - alpha) ** 0.5 * v,
    mistakes={
        "that is ε; for x0 the two factors change places": lambda v, x, alpha: schedule.to_epsilon(v, x, alpha, "v_prediction"),
        "check the sign: v points from the picture to the noise": lambda v, x, alpha: alpha**0.5 * x + (1 - alpha) ** 0.5 * v,
        "where are the square roots?": lambda v, x, alpha: alpha * x - (1 - alpha) * v,
        "the two factors are swapped": lambda v, x, alpha: (1 - alpha) ** 0.5 * x - alpha**0.5 * v,
    },
    run=lambda convert: stack(convert(X[:3].clone(), X[3:6].clone(), alpha) for alpha in LEVELS),
)
