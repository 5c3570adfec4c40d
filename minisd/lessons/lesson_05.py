"""Notebook 05, pictures in 1/48 of the numbers: its figures and exercises."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from .exercise import Exercise
from .figures import BLUE, COLORS, GREY, INK, ORANGE, page, show

THERE_AND_BACK = (
    "An astronaut on a horse and a dragon at night, four times each: the original; blurred; decoded from its latents, very much "
    "like the original; and the error, which is dark along outlines and nearly white elsewhere."
)
FOUR_CHANNELS = (
    "Both scenes as mosaics of 16×16 squares, and their four channels in grey. In each channel sky, ground and figure can be made "
    "out, in shades of grey that differ from channel to channel."
)
PREVIEWS = (
    "Two pairs of mosaics of 16×16 squares: the mean colours of both scenes, and next to each what the matrix makes of the "
    "latents: the same scene in roughly the right colours, with stray squares."
)
CUT_AND_PASTE = (
    "Above, decoded latents: half a rider and half a dragon, joined like the cut pictures below; a mirrored rider with frayed "
    "edges and a disfigured head, unlike the clean mirror image below; and both scenes laid over each other, much like the mean "
    "of the pictures below."
)
SHARDS = (
    "Noise is decoded to a mosaic of bright shards in all colours, both times; shuffled latents to shreds of meadow, sky and "
    "rider; in their original order, they are the rider."
)
FORGOTTEN_FACTOR = (
    "Previews of noisy latents. With std 1 the rider can be made out at t = 300 and hardly at t = 600, and from t = 800 on "
    "there are only coloured squares. With std 5.5 the rider is clear at t = 600 and can be made out at t = 800."
)
NOISY_LATENTS = (
    "The rider from latents with more and more noise: unharmed at 0.03 and 0.1, with faint stains at 0.3, and in pieces among "
    "shards at 1."
)


def grey(x: Tensor) -> Tensor:
    """Numbers (h, w) between about −1 and 1 as a grey picture (3, h, w)."""
    return x.clamp(-1, 1).expand(3, *x.shape)


def rows(x: Tensor) -> Tensor:
    """The positions of feature maps (N, C, h, w) as rows: (N·h·w, C)."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def with_one(latents: Tensor) -> Tensor:
    """Latents with a fifth channel that is 1 everywhere."""
    return torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1)


def preview_matrix(latents: Tensor, pictures: Tensor) -> Tensor:
    """(5, 3): the least-squares map from the four numbers of a latent position, and a 1, to the mean colour of its 8×8 pixels."""
    return torch.linalg.lstsq(rows(with_one(latents)), rows(F.avg_pool2d(pictures, 8))).solution


def show_channels(latents: Tensor):
    """Histograms of latents (N, 4, h, w), a panel for each channel, with the standard normal density behind them."""
    figure, axes = page(1, 4, height=2.2, sharey=True)
    line = torch.linspace(-4, 4, 200)
    for i, (ax, channel) in enumerate(zip(axes, latents.transpose(0, 1))):
        ax.fill_between(line, torch.exp(-(line**2) / 2) / (2 * torch.pi) ** 0.5, color=GREY, alpha=0.25)
        density, edges = torch.histogram(channel.flatten(), bins=60, range=(-4.0, 4.0), density=True)
        ax.plot((edges[1:] + edges[:-1]) / 2, density, "-", color=BLUE, linewidth=1.2)
        ax.set(title=f"channel {i}\nmean {channel.mean():+.2f}, std {channel.std():.2f}", xlim=(-4, 4))
    axes[0].set_ylabel("density")
    show(
        figure,
        "Four histograms, one for each channel, around 0. Three are about as wide as the normal distribution behind them and have "
        "several peaks, where the flat colours are; the fourth, channel 2, is narrower and has a single peak.",
    )


def show_noise(by_noise: Mapping[float, float], marks: Mapping[str, float]):
    """PSNR of the decoded pictures over the noise added to the latents, with two noise levels marked."""
    figure, ax = page(height=2.8)
    ax.plot(list(by_noise), list(by_noise.values()), "-o", markersize=4)
    for (name, size), (side, gap) in zip(sorted(marks.items(), key=lambda mark: mark[1]), (("right", -5), ("left", 5))):
        ax.axvline(size, color=ORANGE, linewidth=1.5, linestyle="--")
        where = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": side}
        ax.annotate(name, (size, 0.2), (gap, 0), color=ORANGE, **where)
    ax.set(xscale="log", xlim=(0.002, 1.3), xlabel="std of the noise, in units of the latents' std", ylabel="PSNR in dB")
    show(
        figure,
        "PSNR over the noise in the latents: flat for noise of a few hundredths, falling from about a tenth on, and below 20 dB "
        "for noise as large as the latents. The encoder's own noise and the noise that the schedule leaves lie where the curve "
        "is flat.",
    )


def show_collapse(variances: Tensor, measured: Mapping[float, tuple[Tensor, float]]):
    """A linear autoencoder over the weight of its KL: the encoder's std of each channel, and the PSNR.

    Lines are the optimum (Lucas et al. 2019), from the variances of the data's principal components (D,), largest first. Points are
    the result of training: for each weight the stds and the PSNR.
    """
    weights = torch.logspace(-3, 0, 200)
    noise = len(variances) / (2 * 4) * weights[:, None]  # variance per pixel for which −log N(x; y, noise) plus 4 KLs is the loss
    stds = (noise / variances[:4]).clamp(max=1).sqrt()
    lost = variances[4:].sum() + (stds**4 * variances[:4]).sum(dim=1)
    figure, (left, right) = page(1, 2, height=3)
    for i, std in enumerate(stds.T):
        left.plot(weights, std, color=COLORS[i], label=f"channel {i}")
    right.plot(weights, psnr_of(lost / len(variances)), color=INK, linestyle="-", label="optimum")
    for weight, (trained, psnr) in measured.items():
        left.plot([weight] * 4, trained, "o", color=INK, markersize=4, linestyle="none")
        right.plot(weight, psnr, "o", color=INK, markersize=4, label="trained" if weight == min(measured) else None)
    left.set(xscale="log", xlabel="weight of the KL", title="the encoder's std; at 1 a channel is pure noise")
    right.set(xscale="log", xlabel="weight of the KL", title="PSNR of the reconstruction, in dB")
    left.legend(fontsize=8.5)
    right.legend()
    show(
        figure,
        "Over a growing weight of the KL. Left, the encoder's std of four channels: three rise to 1 and stay there, the least "
        "important first. Right, the PSNR: flat at first, then falling, with a kink where a channel collapses. The trained points "
        "lie near both.",
    )


def psnr_of(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, from a mean square error of pixels in [-1, 1]."""
    return -10 * (mse / 4).log10()


generator = torch.Generator().manual_seed(0)
PICTURES = torch.randn(3, 3, 32, 32, generator=generator)
MIXING = torch.randn(3, 4, generator=generator)
LATENTS = torch.einsum("dc,nchw->ndhw", MIXING.T, F.avg_pool2d(PICTURES, 8)) + 0.3
LATENTS = LATENTS + 0.05 * torch.randn(LATENTS.shape, generator=generator)

SPREAD = torch.randn(4, 4, 16, 16, generator=generator)
SPREAD = (SPREAD - SPREAD.mean(dim=(2, 3), keepdim=True)) / SPREAD.std(dim=(2, 3), keepdim=True)
SPREAD = SPREAD * torch.tensor([8.0, 5.0, 4.5, 3.0]).view(1, 4, 1, 1)  # neither the channels nor the pictures have equal stds
SPREAD = SPREAD * torch.tensor([0.2, 0.4, 0.6, 1.0]).view(4, 1, 1, 1)

preview = Exercise(
    answer=preview_matrix,
    mistakes={
        "move the channels to the end before flattening: permute(0, 2, 3, 1), then flatten(0, 2)": lambda latents, pictures: (
            torch.linalg.lstsq(with_one(latents).reshape(-1, 5), F.avg_pool2d(pictures, 8).reshape(-1, 3)).solution
        ),
        "black is not always 0: add a fifth column of ones to the latents": lambda latents, pictures: (
            torch.linalg.lstsq(rows(latents), rows(F.avg_pool2d(pictures, 8))).solution
        ),
        "almost: the row of the constant should be the last": lambda latents, pictures: preview_matrix(latents, pictures).roll(
            1, dims=0
        ),
        "the other way round: compute colours from latents": lambda latents, pictures: (
            torch.linalg.lstsq(rows(F.avg_pool2d(pictures, 8)), rows(latents)).solution
        ),
    },
    run=lambda fit: fit(LATENTS.clone(), PICTURES.clone()),
    tolerance=1e-3,
)

scaling_factor = Exercise(
    answer=lambda latents: 1 / latents.std(),
    mistakes={
        "that is the std; multiplying by it makes the latents even larger": lambda latents: latents.std(),
        "a factor enters the variance squared": lambda latents: 1 / latents.var(),
        "one factor for all channels: use the std of all numbers, not the mean of four stds": lambda latents: (
            1 / latents.std(dim=(0, 2, 3)).mean()
        ),
        "one factor for all pictures: use the std of all numbers, not the mean of the pictures' stds": lambda latents: (
            1 / latents.std(dim=(1, 2, 3)).mean()
        ),
        "that is Stable Diffusion's factor; these latents need another one": lambda latents: 0.18215,
        "return the factor, not the scaled latents": lambda latents: latents / latents.std(),
        "one factor in total, not one per channel": lambda latents: 1 / latents.std(dim=(0, 2, 3)),
    },
    run=lambda factor: factor(SPREAD.clone()),
    tolerance=2e-3,
)
