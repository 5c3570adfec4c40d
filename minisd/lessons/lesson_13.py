"""Notebook 13, from DDPM to flow: its networks, measures, figures and exercises."""

import copy
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .. import config
from ..pipeline import StableDiffusionPipeline
from ..schedule import betas
from ..unet import UNet2DConditionModel
from . import clouds
from .exercise import Exercise, stack
from .figures import BLUE, GREY, INK, show
from .lesson_08_plane import planes
from .lesson_09 import show_sheet, small_page
from .lesson_16 import show_ends

__all__ = ["show_ends", "show_sheet"]  # for the notebook

Velocity = Callable[[Tensor, Any], Tensor]  # x and t → v

ENDS = (
    "Five views of the plane with three arcs. From one start, DDIM has one end and DDPM has ends on all three arcs. From 800 "
    "starts both cover the arcs as the data do."
)
SMALL_WORLD = (
    "Four rows of four pictures, nearly alike: a red heart, a yellow tree, a green fish and a blue heart, of the right shape and "
    "colour, with ragged outlines. In the first row, with one step, they are a little paler."
)


def energy(a: Tensor, b: Tensor) -> float:
    """The energy distance of two sets of points (N, D), without bias: around 0 if both have the same distribution."""
    within = sum(torch.pdist(x).mean() for x in (a, b))
    return float(2 * torch.cdist(a, b).mean() - within)


def one_step_apart(flow: Velocity, ddim: Callable, x: Tensor, levels: Tensor) -> float:
    """How far apart a flow's step and DDIM's step from t = 499 to 299 end, both from points x (B, 2) in the flow's scale."""
    alpha, alpha_next = levels[499], levels[299]
    s, s_next = (((1 - a) / a) ** 0.5 / (1 + ((1 - a) / a) ** 0.5) for a in (alpha, alpha_next))  # t of the flow: σ/(1 + σ)
    ours = x - flow(x, s) * (s - s_next)
    theirs = ddim(x / (1 - s) * alpha**0.5, 499, 299, None)
    return (ours / (1 - s_next) - theirs / alpha_next**0.5).norm(dim=1).mean().item()


class Network(nn.Module):
    """A small network of x (B, 2) and t, a number or (B, 1)."""

    def __init__(self, width: int = 96):
        super().__init__()
        sizes = [3, width, width, width]
        hidden = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.layers(torch.cat([x, torch.as_tensor(t, dtype=x.dtype).expand(len(x), 1)], dim=1))


def network() -> Network:
    """A fresh network, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network()


def adam(network: nn.Module, steps: int) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LRScheduler]:
    """Adam, with a cosine schedule of its learning rate from 0.004 to 0."""
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def show_paths(ways: Mapping[str, Tensor]):
    """Paths (T, B, 2) in the plane, one view per title, from small dots to large ones, on the data in grey."""
    figure, axes = planes(list(ways))
    for ax, way in zip(axes, ways.values()):
        ax.scatter(*clouds.POINTS.T, s=30, color=GREY, alpha=0.2, linewidths=0)
        ax.plot(*way.unbind(dim=2), "-", color=BLUE, linewidth=0.9)
        ax.plot(*way[0].T, "o", color=INK, markersize=2.5)
        ax.plot(*way[-1].T, "o", color=BLUE, markersize=5)
    first, second = ways
    show(
        figure,
        f"Two views of the plane with three arcs. Left, {first}: straight, from small dots scattered over the plane to large "
        f"ones on the arcs. Right, {second}, from the same dots.",
    )


# The small world


def small_world(pipe: StableDiffusionPipeline) -> tuple[Tensor, Tensor, UNet2DConditionModel]:
    """The world of notebook 09: latents of 120 pictures, (120, 4, 8, 8), the states of 12 captions, and an untrained UNet."""
    things = [(kind, color) for kind in ("heart", "tree", "fish") for color in ("red", "yellow", "green", "blue")]
    rng = random.Random(0)
    book = torch.stack([small_page(*things[i % 12], rng) for i in range(120)])
    with torch.no_grad():
        latents = torch.cat([pipe.vae.encode(pictures).latent_dist.mode() for pictures in book.split(30)])
        words = pipe.encode_prompt([f"a {color} {kind}" for kind, color in things])
    small = replace(
        config.TINY_UNET, block_out_channels=(32, 64), cross_attention=(False, True), num_attention_heads=(2, 4),
        norm_num_groups=8, sample_size=8,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return latents * pipe.vae.config.scaling_factor, words, UNet2DConditionModel(small)


def with_words(unet: nn.Module, words: Tensor) -> Velocity:
    """The UNet as a velocity of x (B, 4, h, w) and t in [0, 1], a number or (B, 1, 1, 1)."""

    def v(x: Tensor, t: Tensor | float) -> Tensor:
        times = 999 * torch.as_tensor(t, dtype=x.dtype).flatten().expand(len(x))
        return unet(x, times, words).sample

    return v


def copy_of(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(False)


def move_towards(average: nn.Module, network: nn.Module, share: float = 0.04):
    """Move the average of weights towards the current ones, by this share of the difference."""
    for old, new in zip(average.parameters(), network.parameters()):
        old.lerp_(new.detach(), share)


# The exercises

alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
X, X0, Z = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(13))
STEPS = [(999, 799), (300, 250), (50, -1)]
LEVELS = torch.cat([alphas_cumprod, torch.ones(1)])  # LEVELS[-1] is 1: the clean end
TIMES = torch.tensor([[0.1], [0.3], [0.5], [0.6], [0.8], [1.0]])


def posterior(x: Tensor, x0: Tensor, z: Tensor, alpha: Tensor, alpha_next: Tensor, beta: Tensor | None = None) -> Tensor:
    """A draw from q(x' | x, x0) (Ho et al. 2020, eq. 7); `beta` overrides the right one."""
    beta = 1 - alpha / alpha_next if beta is None else beta
    rest = (1 - alpha_next) / (1 - alpha)
    return alpha_next**0.5 * beta / (1 - alpha) * x0 + (1 - beta) ** 0.5 * rest * x + (beta * rest) ** 0.5 * z


def drawn(x: Tensor, x0: Tensor, z: Tensor, alpha: Tensor, alpha_next: Tensor, root: float = 0.5, scale: Any = None) -> Tensor:
    """The posterior with another factor of z."""
    beta, rest = 1 - alpha / alpha_next, (1 - alpha_next) / (1 - alpha)
    factor = (beta * rest) ** root if scale is None else scale(beta, rest)
    return posterior(x, x0, torch.zeros_like(z), alpha, alpha_next) + factor * z


ancestral = Exercise(
    answer=posterior,
    mistakes={
        "the mean is right; now add noise": lambda x, x0, z, a, b: posterior(x, x0, torch.zeros_like(z), a, b),
        "the factor of z is the square root of the variance": lambda x, x0, z, a, b: drawn(x, x0, z, a, b, root=1),
        "the variance is β (1 − ᾱ')/(1 − ᾱ), not β: at the end no noise may be left": lambda x, x0, z, a, b: drawn(
            x, x0, z, a, b, scale=lambda beta, rest: beta**0.5
        ),
        "β is 1 − ᾱ/ᾱ', not 1 − ᾱ'/ᾱ, which is negative": lambda x, x0, z, a, b: posterior(x, x0, z, a, b, 1 - b / a),
        "x0 and x are swapped": lambda x, x0, z, a, b: posterior(x0, x, z, a, b),
        "that is x0 at the next level with new noise only: part of the old noise stays, in x": lambda x, x0, z, a, b: (
            b**0.5 * x0 + (1 - b) ** 0.5 * z
        ),
        "the factor of x0 has the root of ᾱ', not of ᾱ": lambda x, x0, z, a, b: (
            posterior(x, x0, z, a, b) + (a**0.5 - b**0.5) * (1 - a / b) / (1 - a) * x0
        ),
    },
    run=lambda step: stack(step(X.clone(), X0.clone(), Z.clone(), *LEVELS[list(times)]) for times in STEPS),
)


def family_step(x: Tensor, score: Tensor, z: Tensor, beta: Tensor | float, strength: float) -> Tensor:
    """A small step towards the data with new noise of strength λ."""
    return x + beta / 2 * x + (1 + strength**2) / 2 * beta * score + strength * beta**0.5 * z


def other_family(grow: float = 0.5, score_share: Any = None, noise: Any = None) -> Any:
    share = score_share or (lambda strength: (1 + strength**2) / 2)
    factor = noise or (lambda beta, strength: strength * beta**0.5)
    return lambda x, score, z, beta, strength: x + grow * beta * x + share(strength) * beta * score + factor(beta, strength) * z


sde_step = Exercise(
    answer=family_step,
    mistakes={
        "the noise must be cancelled: (1 + λ²)/2 along the score": other_family(score_share=lambda strength: 0.5),
        "that is right for λ = 1 only: (1 + λ²)/2 along the score": other_family(score_share=lambda strength: 1.0),
        "the noise has variance λ²β: multiply z by its root": other_family(noise=lambda beta, strength: strength * beta),
        "the factor of the noise is λ√β": other_family(noise=lambda beta, strength: beta**0.5),
        "the score points to the data: walk along it": other_family(score_share=lambda strength: -(1 + strength**2) / 2),
        "towards the data x grows: + β/2 x": other_family(grow=-0.5),
        "x grows by β/2, too": other_family(grow=0.0),
        "λ is squared in the drift: (1 + λ²)/2": other_family(score_share=lambda strength: (1 + strength) / 2),
    },
    run=lambda step: stack(
        step(X.clone(), X0.clone(), Z.clone(), torch.tensor(beta), strength)
        for beta, strength in ((0.002, 0.0), (0.003, 0.5), (0.004, 1.0), (0.003, 2.0))
    ),
)


def straight_loss(v: Velocity, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The loss of rectified flow (X. Liu et al. 2022, eq. 1, with noise at t = 1)."""
    return (v((1 - t) * x0 + t * noise, t) - (noise - x0)).square().mean()


class Velocities(nn.Module):
    """Some velocities, with a parameter to train."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([0.7, -0.4]))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x * self.factors + t) - 0.3 * x.flip(1)


def losses(loss: Any) -> Tensor:
    """The loss for three batches, and whether a gradient reaches the network."""
    v = Velocities()
    with torch.enable_grad():
        values = [loss(v, x0.clone(), noise.clone(), TIMES.clone()) for x0, noise in ((X0, Z), (Z, X), (X, X0))]
    learns = torch.tensor([isinstance(value, Tensor) and value.requires_grad for value in values])
    found = stack(value.detach() if isinstance(value, Tensor) else value for value in values)
    return found if found.dim() > 1 else torch.cat([found, learns.to(found)])


flow_loss = Exercise(
    answer=straight_loss,
    mistakes={
        "the value is right, but no gradient reaches the network: return a tensor": lambda v, x0, noise, t: straight_loss(
            v, x0, noise, t
        ).item(),
        "that is the papers' direction; here t = 0 is the data and v = ε − x0": lambda v, x0, noise, t: (
            (v(t * x0 + (1 - t) * noise, t) - (x0 - noise)).square().mean()
        ),
        "the velocity points from the data to the noise: ε − x0": lambda v, x0, noise, t: (
            (v((1 - t) * x0 + t * noise, t) - (x0 - noise)).square().mean()
        ),
        "at t = 0 there is no noise: (1 − t) x0 + t ε": lambda v, x0, noise, t: (
            (v(t * x0 + (1 - t) * noise, t) - (noise - x0)).square().mean()
        ),
        "that is the loss of a network that predicts noise": lambda v, x0, noise, t: (
            (v((1 - t) * x0 + t * noise, t) - noise).square().mean()
        ),
        "that is the loss of a network that predicts x0": lambda v, x0, noise, t: (
            (v((1 - t) * x0 + t * noise, t) - x0).square().mean()
        ),
        "no square roots here: the shares are 1 − t and t": lambda v, x0, noise, t: (
            (v((1 - t) ** 0.5 * x0 + t**0.5 * noise, t) - (noise - x0)).square().mean()
        ),
        "the mean of the squares, not their sum": lambda v, x0, noise, t: straight_loss(v, x0, noise, t) * x0.numel(),
        "the mean over all numbers, not the sum over the coordinates": lambda v, x0, noise, t: 2 * straight_loss(v, x0, noise, t),
        "square the error": lambda v, x0, noise, t: (v((1 - t) * x0 + t * noise, t) - (noise - x0)).abs().mean(),
    },
    run=losses,
)
