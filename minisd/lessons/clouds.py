"""The world of notebook 08 without captions: small clouds on three arcs, and the exact denoiser for any mixture of data and noise.

Throughout, x = signal · x0 + noise · ε, all of them (B, 2); `signal` and `noise` are numbers or (B, 1).
"""

import torch
from torch import Tensor

from .lesson_08_plane import BLUR, arcs

POINTS = torch.cat(arcs())  # the centres of the clouds, (N, 2)


def data(count: int, generator: torch.Generator) -> Tensor:
    """Draws from the world: (count, 2)."""
    centres = POINTS[torch.randint(len(POINTS), (count,), generator=generator)]
    return centres + BLUR * torch.randn(count, 2, generator=generator)


def denoise(x: Tensor, signal: Tensor | float, noise: Tensor | float) -> Tensor:
    """E[x0 | x]: each cloud's guess, weighted by the probability that x came from this cloud."""
    signal, noise = (torch.as_tensor(share, dtype=x.dtype).expand(len(x), 1) for share in (signal, noise))
    variance = signal**2 * BLUR**2 + noise**2  # of a cloud in x
    squares = ((x[:, None] - signal[..., None] * POINTS) ** 2).sum(dim=-1)
    centre = torch.softmax(-squares / (2 * variance), dim=1) @ POINTS
    return centre + signal * BLUR**2 / variance * (x - signal * centre)


def epsilon(x: Tensor, alpha: Tensor | float) -> Tensor:
    """E[ε | x] at the noise level ᾱ."""
    return (x - alpha**0.5 * denoise(x, alpha**0.5, (1 - alpha) ** 0.5)) / (1 - alpha) ** 0.5
