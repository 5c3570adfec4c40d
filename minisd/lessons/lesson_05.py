"""Notebook 05, pictures in 1/48 of the numbers: its longer figures, and its exercises."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .exercise import Exercise
from .figures import COLORS, GREY, INK, ORANGE, page, show


def grey(x: Tensor) -> Tensor:
    """Numbers (h, w), about −1 to 1, as a grey picture (3, h, w)."""
    return x.clamp(-1, 1).expand(3, *x.shape)


def rows(x: Tensor) -> Tensor:
    """Every position of feature maps (N, C, h, w) as a row: (N·h·w, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def with_one(latents: Tensor) -> Tensor:
    """Latents with a fifth channel that is 1 everywhere."""
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)


def preview_matrix(latents: Tensor, pictures: Tensor) -> Tensor:
    """(5, 3): the best linear way from the four numbers of a latent, and a 1, to the mean colour of its 8×8 pixels."""
    return torch.linalg.lstsq(rows(with_one(latents)), rows(F.avg_pool2d(pictures, 8))).solution


def show_channels(latents: Tensor):
    """How often latents (N, 4, h, w) have which values, for each channel, beside the normal distribution."""
    figure, ax = page(height=2.8)
    line = torch.linspace(-5, 5, 200)
    ax.fill_between(line, torch.exp(-(line**2) / 2) / (2 * torch.pi) ** 0.5, color=GREY, alpha=0.2, label="normal distribution")
    for i, channel in enumerate(latents.transpose(0, 1)):
        density, edges = torch.histogram(channel.flatten(), bins=80, range=(-5.0, 5.0), density=True)
        label = f"channel {i}: mean {channel.mean():+.2f}, std {channel.std():.2f}"
        ax.plot((edges[1:] + edges[:-1]) / 2, density, color=COLORS[i], label=label)
    ax.set(xlabel="value of a latent number, scaled", ylabel="density", xlim=(-5, 5))
    ax.legend(fontsize=8.5)
    show(
        figure,
        "Four ragged curves, one for each channel, around 0. Three are about as wide as the bell of the normal distribution behind "
        "them and have several peaks, where flat colours are; the fourth, channel 2, is narrower and has one.",
    )


def show_noise(by_noise: Mapping[float, float], marks: Mapping[str, float]):
    """PSNR of what is decoded over the noise that was added to the latents, with two sizes of noise marked."""
    figure, ax = page(height=2.8)
    ax.plot(list(by_noise), list(by_noise.values()), "-o", markersize=4)
    for (name, size), (side, gap) in zip(sorted(marks.items(), key=lambda mark: mark[1]), (("right", -5), ("left", 5))):
        ax.axvline(size, color=ORANGE, linewidth=1.5, linestyle="--")
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": side}
        ax.annotate(name, (size, 0.2), (gap, 0), color=ORANGE, **where)
    ax.set(xscale="log", xlim=(0.002, 1.3), xlabel="std of the noise, in units of the latents' std", ylabel="PSNR in dB")
    show(
        figure,
        "PSNR over the noise in the latents: level for noise of a few hundredths, falling from about a tenth on, and below 20 dB "
        "for noise as large as the latents. The encoder's own noise and what the schedule leaves lie where the curve is level.",
    )


def show_collapse(variances: Tensor, measured: Mapping[float, tuple[Tensor, float]]):
    """A linear autoencoder over the weight of its KL: the encoder's std of each channel, and the PSNR.

    Lines are the best one there can be (Lucas et al. 2019), from the largest variances of the data's principal components (D,);
    points are what training reached, for each weight the stds and the PSNR.
    """
    weights = torch.logspace(-3, 0, 200)
    noise = len(variances) / (2 * 4) * weights[:, None]  # of pixels: −log N(x; y, noise) and 4 KLs weigh as in the loss
    stds = (noise / variances[:4]).clamp(max=1).sqrt()
    lost = variances[4:].sum() + (stds**4 * variances[:4]).sum(dim=1)
    figure, (left, right) = page(1, 2, height=3)
    for i, std in enumerate(stds.T):
        left.plot(weights, std, color=COLORS[i], label=f"channel {i}")
    right.plot(weights, psnr_of(lost / len(variances)), color=INK, linestyle="-", label="the best there is")
    for weight, (trained, psnr) in measured.items():
        left.plot([weight] * 4, trained, "o", color=INK, markersize=4, linestyle="none")
        right.plot(weight, psnr, "o", color=INK, markersize=4, label="trained" if weight == min(measured) else None)
    left.set(xscale="log", xlabel="weight of the KL", title="the encoder's std; at 1 a channel says nothing")
    right.set(xscale="log", xlabel="weight of the KL", title="PSNR of what comes back, in dB")
    left.legend(fontsize=8.5)
    right.legend()
    show(
        figure,
        "Over a growing weight of the KL. Left, the encoder's std of four channels: three rise to 1 and stay there, the least "
        "important first. Right, the PSNR: level at first, then falling, with a kink where a channel gives up. Trained points lie "
        "near both.",
    )


def psnr_of(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, of a mean square error of pixels in [-1, 1]."""
    return -10 * (mse / 4).log10()


generator = torch.Generator().manual_seed(0)
PICTURES = torch.randn(3, 3, 32, 32, generator=generator)
MIXING = torch.randn(3, 4, generator=generator)
LATENTS = torch.einsum("dc,nchw->ndhw", MIXING.T, F.avg_pool2d(PICTURES, 8)) + 0.3
LATENTS = LATENTS + 0.05 * torch.randn(LATENTS.shape, generator=generator)

SPREAD = torch.randn(4, 4, 16, 16, generator=generator)
SPREAD = (SPREAD - SPREAD.mean(dim=(2, 3), keepdim=True)) / SPREAD.std(dim=(2, 3), keepdim=True)
SPREAD = SPREAD * torch.tensor([8.0, 5.0, 4.5, 3.0]).view(1, 4, 1, 1)  # channels of several stds, and pictures, too
SPREAD = SPREAD * torch.tensor([0.2, 0.4, 0.6, 1.0]).view(4, 1, 1, 1)

preview = Exercise(
    answer=preview_matrix,
    mistakes={
        "flatten only after the channels are last: permute(0, 2, 3, 1), then flatten(0, 2)": lambda latents, pictures: (
            torch.linalg.lstsq(with_one(latents).reshape(-1, 5), F.avg_pool2d(pictures, 8).reshape(-1, 3)).solution
        ),
        "black need not be 0: give the latents a fifth number that is always 1": lambda latents, pictures: (
            torch.linalg.lstsq(rows(latents), rows(F.avg_pool2d(pictures, 8))).solution
        ),
        "nearly: the row of the constant should be the last": lambda latents, pictures: preview_matrix(latents, pictures).roll(
            1, dims=0
        ),
        "the other way round: colours are to be computed from latents": lambda latents, pictures: (
            torch.linalg.lstsq(rows(F.avg_pool2d(pictures, 8)), rows(latents)).solution
        ),
    },
    run=lambda fit: fit(LATENTS, PICTURES),
    tolerance=1e-3,
)

scaling_factor = Exercise(
    answer=lambda latents: 1 / latents.std(),
    mistakes={
        "that is their std; multiplied by it, they would be larger still": lambda latents: latents.std(),
        "the variance is to be 1, and a factor enters it squared": lambda latents: 1 / latents.var(),
        "one factor for all channels: the std of all numbers, not the mean of four stds": lambda latents: (
            1 / latents.std(dim=(0, 2, 3)).mean()
        ),
        "one factor for all pictures: the std of all numbers, not the mean of the pictures' stds": lambda latents: (
            1 / latents.std(dim=(1, 2, 3)).mean()
        ),
        "that is Stable Diffusion's; these latents have another": lambda latents: 0.18215,
        "one factor, not one for each channel": lambda latents: 1 / latents.std(dim=(0, 2, 3)),
    },
    run=lambda factor: factor(SPREAD),
    tolerance=2e-3,
)
