"""Notebook 02, drowning an image in noise: descriptions of its figures, the longer figures, and the exercises."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import schedule
from .exercise import Exercise, stack
from .figures import GREY, INK, page, show

CHANNELS = "A cartoon of an astronaut in white who rides a brown horse across a green meadow, and its three channels in grey."
DROWNING = (
    "Ten pictures with more and more noise. The horse is clear up to t = 300, faint at t = 500 and a hint at t = 650; at t = 800 "
    "and t = 999 there is only noise."
)
THREE_SCHEDULES = (
    "The picture at four timesteps of three schedules. At t = 500 it is almost gone in linear, faint in scaled-linear and clear in "
    "cosine; at t = 999 it is gone in all three."
)
BLOCKS = "Single pixels show only noise. Blocks of 8 and 16 pixels reveal the sky, the meadow and the rider."
IMPLIED = "The implied picture is perfect at t = 50, grainy at t = 800, and a smudge in noise at t = 999."


def show_shares(alphas_cumprod: Tensor, times: Sequence[int], picture: Tensor, noise: Tensor):
    """The two factors of the closed form as curves over t, and measured values at some timesteps as points."""
    figure, ax = page()
    ax.plot(alphas_cumprod**0.5, label=r"picture: $\sqrt{\bar\alpha_t}$")
    ax.plot((1 - alphas_cumprod) ** 0.5, label=r"noise: $\sqrt{1-\bar\alpha_t}$")
    ax.plot(times, picture, "o", times, noise, "s", color=INK, markersize=4)
    ax.set(xlabel="timestep $t$", ylabel="factor", title="curves: one jump; points: measured on the walk of small steps")
    ax.legend(loc="center right")
    show(
        figure,
        "Two curves over t: the picture's factor falls from 1 to 0.07, the noise's factor rises from 0.03 to 1. They cross near "
        "t = 354. The points measured on the walk lie on the curves.",
    )


def show_sums(sums: Mapping[str, Tensor]):
    """Histograms of samples, each with the density of a Gaussian of the same variance and mean 0."""
    figure, axes = page(1, len(sums), height=2.2, sharey=True)
    line = torch.linspace(-4, 4, 200)
    for ax, (name, samples) in zip(axes, sums.items()):
        std = float(samples.std())
        ax.hist(samples.numpy(), bins=60, range=(-4, 4), density=True, color=GREY, alpha=0.4)
        ax.plot(line, torch.exp(-(line**2) / 2 / std**2) / (2 * torch.pi) ** 0.5 / std)
        ax.set(title=f"{name}: variance {std**2:.2f}", xlim=(-4, 4))
    show(
        figure,
        "Three histograms, the first noise, the second noise, and their sum. Each has the bell shape of a Gaussian, and the "
        "variance of the sum is the sum of the variances.",
    )


def show_schedules(schedules: Mapping[str, Tensor]):
    """ᾱ and the logarithm of the signal-to-noise ratio of several schedules."""
    figure, (left, right) = page(1, 2, height=3)
    for name, alphas_cumprod in schedules.items():
        left.plot(alphas_cumprod, label=name)
        right.plot((alphas_cumprod / (1 - alphas_cumprod)).log10())
    right.axhline(0, color=GREY, linewidth=1, linestyle="-")
    left.set(xlabel="timestep $t$", title=r"$\bar\alpha_t$, the picture's share of the variance")
    right.set(xlabel="timestep $t$", ylim=(-5, 4.5), title=r"$\log_{10}$ SNR; at 0 picture and noise are equal")
    left.legend()
    show(
        figure,
        "Left, the picture's share of the variance, from 1 down to 0, for three schedules: linear falls first, then scaled-linear, "
        "then cosine. Right, the logarithm of the signal-to-noise ratio: at the end it is -2.3 for scaled-linear, -4.4 for linear, "
        "and below -5 for cosine.",
    )


X0, NOISE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
SCHEDULES = (("scaled_linear", 0.00085, 0.012, 1000), ("linear", 1e-4, 0.02, 1000), ("squaredcos_cap_v2", 0, 0, 1000))
ALPHAS_CUMPROD = [torch.cumprod(1 - schedule.betas(*settings), dim=0) for settings in SCHEDULES]

add_noise = Exercise(
    answer=lambda x0, noise, alpha: alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise,
    mistakes={
        "the variances add up to 1; where are the square roots?": lambda x0, noise, alpha: alpha * x0 + (1 - alpha) * noise,
        "ᾱ is the picture's share, not the noise's": lambda x0, noise, alpha: alpha**0.5 * noise + (1 - alpha) ** 0.5 * x0,
        "scale the picture down too, or the variance grows": lambda x0, noise, alpha: x0 + (1 - alpha) ** 0.5 * noise,
        "the noise's factor is √(1 − ᾱ), not 1 − √ᾱ": lambda x0, noise, alpha: alpha**0.5 * x0 + (1 - alpha**0.5) * noise,
        "add the noise; do not subtract it": lambda x0, noise, alpha: alpha**0.5 * x0 - (1 - alpha) ** 0.5 * noise,
    },
    run=lambda add: stack(add(X0.clone(), NOISE.clone(), alpha) for alpha in torch.tensor([0.999, 0.5, 0.005])),
)

equal_shares = Exercise(
    answer=lambda alphas_cumprod: (alphas_cumprod - 0.5).abs().argmin(),
    mistakes={
        "SNR is a ratio of variances, ᾱ/(1−ᾱ), without a square root": lambda alphas_cumprod: (
            (alphas_cumprod**0.5 / (1 - alphas_cumprod) - 1).abs().argmin()
        ),
        "at t = 0 there is hardly any noise; at which t is there as much noise as picture?": lambda alphas_cumprod: 0,
        "that is a value of ᾱ; return the timestep at which ᾱ has that value": lambda alphas_cumprod: 0.5,
        "right for one schedule only; compute t from `alphas_cumprod`": lambda alphas_cumprod: 354,
    },
    run=lambda find: torch.tensor([float(find(alphas_cumprod.clone())) for alphas_cumprod in ALPHAS_CUMPROD]),
    tolerance=1,  # accept the timestep before the crossing, after it, or nearest to it
)
