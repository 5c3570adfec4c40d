"""How fast a sampler's error falls as the number of steps grows, measured on a curve that is known exactly.

The data are a mixture of two Gaussians on a line, for which the best denoiser has a closed form.
"""

import torch
from torch import Tensor

from minisd.schedulers.multistep import MultistepScheduler
from minisd.schedulers.sigmas import SigmaScheduler

MEANS, WIDTH = torch.tensor([-1.0, 1.5], dtype=torch.float64), 0.5
FIRST, LAST = 10.0, 0.1  # σ


def epsilon(x: Tensor, sigma: float) -> Tensor:
    """E[ε | x] for x = x0 + σ ε: the prediction of each Gaussian, weighted by its probability."""
    variance = WIDTH**2 + sigma**2
    away = x.double()[:, None] - MEANS
    return (torch.softmax(-(away**2) / (2 * variance), dim=1) * away).sum(dim=1) * sigma / variance


def exact(x: Tensor, steps: int = 400) -> Tensor:
    """The end of dx/dσ = ε, by fourth-order Runge–Kutta steps in log σ."""
    h = (torch.tensor(LAST / FIRST).log() / steps).item()
    slope = lambda x, u: FIRST * torch.tensor(u).exp().item() * epsilon(x, FIRST * torch.tensor(u).exp().item())  # noqa: E731
    for i in range(steps):
        a = slope(x, i * h)
        b = slope(x + h / 2 * a, (i + 1 / 2) * h)
        c = slope(x + h / 2 * b, (i + 1 / 2) * h)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, (i + 1) * h))
    return x


def error(scheduler: SigmaScheduler, n: int, start: Tensor, end: Tensor) -> float:
    """The largest error after n steps of equal length in log σ."""
    scheduler.set_timesteps(sigmas=torch.logspace(torch.tensor(FIRST).log10(), torch.tensor(LAST).log10(), n + 1))
    preserving = isinstance(scheduler, MultistepScheduler)  # its latents are x / √(σ² + 1)
    scale = lambda sigma: (sigma**2 + 1) ** 0.5 if preserving else 1.0  # noqa: E731
    x = start.float() / scale(FIRST)
    for t in scheduler.timesteps:
        sigma = scheduler.sigmas[scheduler.upcoming(t)]
        x = scheduler.step(epsilon(x * scale(sigma), sigma).float(), t, x).prev_sample
    return float((x * scale(LAST) - end).abs().max())


def errors(scheduler: SigmaScheduler, numbers: list[int]) -> list[float]:
    start = torch.linspace(-2.5 * FIRST, 2.5 * FIRST, 41, dtype=torch.float64)
    end = exact(start)
    return [error(scheduler, n, start, end) for n in numbers]
