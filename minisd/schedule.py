"""The noise schedule: how much of the image remains at each timestep, and the formulas that every sampler is built from.

x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, where ᾱ falls from nearly 1 (t = 0) to nearly 0 (t = 999). Ho et al. 2020, §2.
Every function takes ᾱ as `alpha`, a number or a tensor that broadcasts against x, and returns a tensor of x's shape.
"""

import math

import torch
from torch import Tensor


def betas(schedule: str, beta_start: float, beta_end: float, steps: int) -> Tensor:
    """β, the variance of the noise that each timestep adds, (steps,) in float32.

    "scaled_linear" is linear in √β; the CompVis code calls it "linear". "linear" is Ho et al. 2020, §4. "squaredcos_cap_v2" is the
    cosine schedule (Nichol & Dhariwal 2021, eq. 17), which ignores start and end. Raises ValueError for other names.
    """
    if schedule == "linear":
        return torch.linspace(beta_start, beta_end, steps, dtype=torch.float32, device="cpu")
    if schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32, device="cpu") ** 2
    if schedule == "squaredcos_cap_v2":
        left = [math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)]
        return torch.tensor([min(1 - b / a, 0.999) for a, b in zip(left, left[1:])], dtype=torch.float32, device="cpu")
    raise ValueError(f'beta_schedule must be "linear", "scaled_linear" or "squaredcos_cap_v2", not {schedule!r}')


def rescale_zero_snr(betas: Tensor) -> Tensor:
    """Shift and scale √ᾱ so that nothing of the image remains at the last timestep: ᾱ = 0 (Lin et al. 2023, alg. 1)."""
    root = torch.cumprod(1 - betas, dim=0).sqrt()
    alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return 1 - torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])


def add_noise(x0: Tensor, noise: Tensor, alpha: Tensor | float) -> Tensor:
    """x_t directly from x0: √ᾱ x0 + √(1−ᾱ) ε (Ho et al. 2020, eq. 4)."""
    return alpha**0.5 * x0 + (1 - alpha) ** 0.5 * noise


def velocity(x0: Tensor, noise: Tensor, alpha: Tensor | float) -> Tensor:
    """v = √ᾱ ε − √(1−ᾱ) x0, the target of a v-model (Salimans & Ho 2022, appendix D)."""
    return alpha**0.5 * noise - (1 - alpha) ** 0.5 * x0


def to_epsilon(model_output: Tensor, x: Tensor, alpha: Tensor | float, prediction_type: str) -> Tensor:
    """The noise in x, given a prediction of ε, of v (ε = √ᾱ v + √(1−ᾱ) x), or of x0 (ε = (x − √ᾱ x0) / √(1−ᾱ), "sample")."""
    if prediction_type == "v_prediction":
        return alpha**0.5 * model_output + (1 - alpha) ** 0.5 * x
    if prediction_type == "sample":
        return (x - alpha**0.5 * model_output) / (1 - alpha) ** 0.5
    return model_output


def to_x0(x: Tensor, eps: Tensor, alpha: Tensor | float) -> Tensor:
    """The clean latents in x, given the noise: `add_noise` solved for x0 (Song et al. 2020, eq. 9)."""
    return (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5


def to_x0_and_epsilon(model_output: Tensor, x: Tensor, alpha: Tensor | float, prediction_type: str) -> tuple[Tensor, Tensor]:
    """The clean latents and the noise in x, according to the model.

    From v, x0 = √ᾱ x − √(1−ᾱ) v, which also holds at ᾱ = 0, where division by √ᾱ fails.
    """
    eps = to_epsilon(model_output, x, alpha, prediction_type)
    if prediction_type == "sample":
        return model_output, eps
    if prediction_type == "v_prediction":
        return alpha**0.5 * x - (1 - alpha) ** 0.5 * model_output, eps
    return to_x0(x, eps, alpha), eps


def transfer(x: Tensor, eps: Tensor, alpha: Tensor | float, alpha_next: Tensor | float) -> Tensor:
    """From one noise level to another along ε: predict x0, then add the same noise at the new level.

    One formula for three steps: DDIM's with η = 0 (Song et al. 2020, eq. 12), PNDM's transfer (Liu et al. 2022, eq. 11), and
    Euler's in σ = √((1−ᾱ)/ᾱ) (Karras et al. 2022, eq. 1). These samplers differ only in their choice of ε.
    """
    return add_noise(to_x0(x, eps, alpha), eps, alpha_next)
