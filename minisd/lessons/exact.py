"""The perfect denoiser: for finitely many data points, the best guess has a closed form and needs no network.

The noisy data are a mixture of Gaussians, one around √ᾱ y for every point y, all with variance 1 − ᾱ (Ho et al. 2020, eq. 4).
Throughout, x is (B, D), points is (N, D), and `alpha` is ᾱ with 0 < ᾱ < 1.
"""

import math

import torch
from torch import Tensor


def log_likelihoods(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x | y) for each point y, up to a constant: (B, N)."""
    return -((x[:, None] - alpha**0.5 * points) ** 2).sum(dim=-1) / (2 * (1 - alpha))


def weights(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """The probability that x came from each point, all points being equally likely a priori (Bayes): (B, N)."""
    return torch.softmax(log_likelihoods(x, points, alpha), dim=1)


def denoise(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[x0 | x], the guess with the least mean square error: the mean of the points, weighted by their probabilities."""
    return weights(x, points, alpha) @ points


def epsilon(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """E[ε | x], the prediction of a network that has learnt these points perfectly (minimum of Ho et al. 2020, eq. 14)."""
    return (x - alpha**0.5 * denoise(x, points, alpha)) / (1 - alpha) ** 0.5


def log_density(x: Tensor, points: Tensor, alpha: Tensor | float) -> Tensor:
    """log q(x) of the noisy data: (B,)."""
    n, d = points.shape
    normalizer = math.log(n) + d / 2 * torch.log(torch.as_tensor(2 * math.pi * (1 - alpha), dtype=x.dtype))
    return torch.logsumexp(log_likelihoods(x, points, alpha), dim=1) - normalizer
