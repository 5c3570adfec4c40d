"""The perfect denoiser. Where the data are finitely many points, the best guess has a closed form, and no network is needed.

The noisy data are a mixture of Gaussians, one around √ᾱ y for every point y, all of variance 1 − ᾱ (Ho et al. 2020, eq. 4).
Everywhere: x (B, D), points (N, D), and `alpha` is ᾱ, between 0 and 1, both excluded.
"""

import math

import torch
from torch import Tensor


def log_likelihoods(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x | y) for each point y, but for a constant: (B, N)."""
    return -((x[:, None] - alpha**0.5 * points) ** 2).sum(dim=-1) / (2 * (1 - alpha))


def weights(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """How probable it is that x came from each point, all of them being equally likely beforehand (Bayes): (B, N)."""
    return torch.softmax(log_likelihoods(x, points, alpha), dim=1)


def denoise(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[x0 | x], the guess with the least mean square error: the points' mean, weighted by how probable they are."""
    return weights(x, points, alpha) @ points


def epsilon(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[ε | x], what a network would predict that has learnt these points perfectly (minimum of Ho et al. 2020, eq. 14)."""
    return (x - alpha**0.5 * denoise(x, points, alpha)) / (1 - alpha) ** 0.5


def log_density(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x) of the noisy data: (B,)."""
    n, d = points.shape
    normalizer = math.log(n) + d / 2 * torch.log(torch.as_tensor(2 * math.pi * (1 - alpha), dtype=x.dtype))
    return torch.logsumexp(log_likelihoods(x, points, alpha), dim=1) - normalizer
