"""The noise level σ = √((1−ᾱ)/ᾱ) at a timestep, the timestep at a σ, and curves of σ: pure functions."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def training_sigmas(alphas_cumprod: Tensor) -> np.ndarray:
    """σ = √((1−ᾱ)/ᾱ) at every training timestep: the noise relative to the image (Karras et al. 2022, table 1, "VP")."""
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt().numpy()


def sigmas_at(timesteps: Tensor, sigmas: np.ndarray) -> list[float]:
    """σ at timesteps that may be fractional, interpolated linearly as in diffusers (k-diffusion interpolates log σ)."""
    return np.interp(timesteps.numpy(), np.arange(len(sigmas)), sigmas).tolist()


def timesteps_at(levels: Sequence[float], sigmas: np.ndarray) -> Tensor:
    """The training timesteps for these σ, fractional, interpolated in log σ as in diffusers and k-diffusion."""
    return torch.from_numpy(np.interp(np.log(levels), np.log(sigmas), np.arange(len(sigmas))))


def karras(sigma_min: float, sigma_max: float, n: int, rho: float = 7.0) -> list[float]:
    """n falling σ, equally spaced in σ^(1/ρ): many small steps near the image (Karras et al. 2022, eq. 5)."""
    return (np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n) ** rho).tolist()


def exponential(sigma_min: float, sigma_max: float, n: int) -> list[float]:
    """n falling σ, equally spaced in log σ: every step divides the noise by the same factor."""
    return np.geomspace(sigma_max, sigma_min, n).tolist()
