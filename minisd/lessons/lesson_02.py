"""Notebook 02, drowning an image in noise: its longer figures, and its exercises."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .. import schedule
from .exercise import Exercise
from .figures import GREY, INK, page, show


def show_shares(alphas_cumprod: Tensor, times: Sequence[int], picture: Tensor, noise: Tensor):
    """The two factors of the jump as curves over t, and what was measured at some times as points."""
    figure, ax = page()
    ax.plot(alphas_cumprod**0.5, label=r"picture: $\sqrt{\bar\alpha_t}$")
    ax.plot((1 - alphas_cumprod) ** 0.5, label=r"noise: $\sqrt{1-\bar\alpha_t}$")
    ax.plot(times, picture, "o", times, noise, "s", color=INK, markersize=4)
    ax.set(xlabel="timestep $t$", ylabel="factor", title="curves: the jump; points: measured on the walk of small steps")
    ax.legend(loc="center right")
    show(
        figure,
        "Two curves over t: the picture's factor falls from 1 to 0.07, the noise's rises from 0.03 to 1. They cross near t = 354. "
        "The points that were measured on the walk lie on the curves.",
    )


def show_schedules(schedules: Mapping[str, Tensor]):
    """ᾱ and the logarithm of the signal-to-noise ratio of several schedules."""
    figure, (left, right) = page(1, 2, height=3)
    for name, alphas_cumprod in schedules.items():
        left.plot(alphas_cumprod, label=name)
        right.plot((alphas_cumprod / (1 - alphas_cumprod)).log10())
    right.axhline(0, color=GREY, linewidth=1, linestyle="-")
    left.set(xlabel="timestep $t$", title=r"$\bar\alpha_t$, what is left of the variance")
    right.set(xlabel="timestep $t$", ylim=(-5, 4.5), title=r"$\log_{10}$ SNR; at 0 picture and noise are equal")
    left.legend()
    show(
        figure,
        "Left, what is left of the picture, from 1 down to 0, for three schedules: linear falls first, then scaled-linear, then "
        "cosine. Right, the logarithm of the signal-to-noise ratio: at the end it is -2.3 for scaled-linear, -4.4 for linear, "
        "and below -5 for cosine.",
    )


X0, NOISE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
SCHEDULES = (("scaled_linear", 0.00085, 0.012, 1000), ("linear", 1e-4, 0.02, 1000), ("squaredcos_cap_v2", 0, 0, 1000))
ALPHAS_CUMPROD = [torch.cumprod(1 - schedule.betas(*settings), dim=0) for settings in SCHEDULES]

add_noise = Exercise(
    answer=lambda x0, noise, alpha: alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise,
    mistakes={
        "it is the variances that add up to 1; where are the roots?": lambda x0, noise, alpha: alpha * x0 + (1 - alpha) * noise,
        "ᾱ is what is left of the picture, not of the noise": lambda x0, noise, alpha: alpha**0.5 * noise + (1 - alpha) ** 0.5 * x0,
        "the picture has to shrink too, or the variance grows": lambda x0, noise, alpha: x0 + (1 - alpha) ** 0.5 * noise,
    },
    run=lambda add: torch.stack([add(X0, NOISE, alpha) for alpha in torch.tensor([0.999, 0.5, 0.005])]),
)

equal_shares = Exercise(
    answer=lambda alphas_cumprod: (alphas_cumprod - 0.5).abs().argmin(),
    mistakes={
        "SNR is a ratio of variances, ᾱ/(1−ᾱ); no root in it": lambda alphas_cumprod: (
            (alphas_cumprod**0.5 / (1 - alphas_cumprod) - 1).abs().argmin()
        ),
        "at t = 0 there is hardly any noise; at which t is there as much noise as picture?": lambda alphas_cumprod: 0,
        "that is an ᾱ; wanted is the t that has it": lambda alphas_cumprod: 0.5,
        "right for one schedule; find the t of whichever is given": lambda alphas_cumprod: 354,
    },
    run=lambda find: torch.tensor([float(find(alphas_cumprod)) for alphas_cumprod in ALPHAS_CUMPROD]),
    tolerance=1,  # the timestep before the crossing, after it, or nearest to it
)
