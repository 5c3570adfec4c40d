"""The noise schedule: how much of a picture is left at each timestep, and the few formulas everything else is made of.

x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, with ᾱ falling from nearly 1 (t = 0) to nearly 0 (t = 999). Ho et al. 2020, §2.
Every function takes ᾱ as `alpha`, a tensor or number that broadcasts against x.
"""

import math

import torch
from torch import Tensor


def betas(schedule: str, beta_start: float, beta_end: float, steps: int) -> Tensor:
    """The share of noise that each timestep adds, (steps,) in float32.

    "scaled_linear" is linear in √β and what CompVis' code calls "linear"; "linear" is Ho et al. 2020, §4;
    "squaredcos_cap_v2" is the cosine schedule (Nichol & Dhariwal 2021, eq. 17), which needs no start and end.
    """
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, steps, dtype=torch.float32, device="cpu")
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32, device="cpu") ** 2
    if schedule == "squaredcos_cap_v2":
        left = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - b / a, 0.999) for a, b in zip(left, left[1:])], dtype=torch.float32, device="cpu")
    raise ValueError(f'beta_schedule {schedule!r} is not one of "linear", "scaled_linear", "squaredcos_cap_v2"')


def rescale_zero_snr(betas: Tensor) -> Tensor:
    """The same schedule shifted and stretched in √ᾱ so that nothing is left of the picture at the end (Lin et al. 2023, alg. 1)."""
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor | float) -> Tensor:
    """x_t in one jump: √ᾱ x0 + √(1−ᾱ) ε (Ho et al. 2020, eq. 4)."""
    return alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise


def velocity(x0: Tensor, noise: Tensor, alpha: Tensor | float) -> Tensor:
    """v = √ᾱ ε − √(1−ᾱ) x0, what a v-model predicts (Salimans & Ho 2022, appendix D)."""
    return alpha**0.5 * noise - (1 - alpha) ** 0.5 * x0


def to_epsilon(model_output: Tensor, x: Tensor, alpha: Tensor | float, prediction_type: str) -> Tensor:
    """The noise in x, from what the model predicts: ε itself, or ε = √ᾱ v + √(1−ᾱ) x, or the rest beside x0 ("sample")."""
    if prediction_type == "v_prediction":
        return alpha**0.5 * model_output + (1 - alpha) ** 0.5 * x
    if prediction_type == "sample":
        return (x - alpha**0.5 * model_output) / (1 - alpha) ** 0.5
    return model_output


def to_x0(x: Tensor, eps: Tensor, alpha: Tensor | float) -> Tensor:
    """The clean latent that x would be without its noise: add_noise solved for x0 (Song et al. 2020, eq. 9)."""
    return (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def to_x0_and_epsilon(model_output: Tensor, x: Tensor, alpha: Tensor | float, prediction_type: str) -> tuple[Tensor, Tensor]:
    """What x is made of, according to the model.

    From v, x0 = √ᾱ x − √(1−ᾱ) v, which also works at ᾱ = 0, where dividing by √ᾱ would not.
    """
    eps = to_epsilon(model_output, x, alpha, prediction_type)
    if prediction_type == "sample":
        return model_output, eps
    if prediction_type == "v_prediction":
        return alpha**0.5 * x - (1 - alpha) ** 0.5 * model_output, eps
    return to_x0(x, eps, alpha), eps


def transfer(x: Tensor, eps: Tensor, alpha: Tensor | float, alpha_next: Tensor | float) -> Tensor:
    """From one noise level to another along ε: go to x0, come back with the same noise.

    One formula for three: the DDIM step with η = 0 (Song et al. 2020, eq. 12), PNDM's transfer (Liu et al. 2022, eq. 11), and an
    Euler step in σ = √((1−ᾱ)/ᾱ) (Karras et al. 2022, eq. 1). The samplers differ only in the ε that they put in.
    """
    return add_noise(to_x0(x, eps, alpha), eps, alpha_next)
