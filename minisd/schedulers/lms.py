"""K-LMS: PLMS's idea for steps of unequal length, in σ, the noise's share relative to the picture's (Crowson 2022)."""

import math

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from ..schedule import to_epsilon
from .base import Scheduler, SchedulerOutput

SLOPES = 4  # how many of the past are looked at


def blend(sigmas: list[float], sigma_next: float) -> list[float]:
    """Weights of the slopes at `sigmas` (newest first) for the step from sigmas[0] to sigma_next: ∫ ℓⱼ(σ) dσ.

    ℓⱼ is the polynomial that is 1 at σⱼ and 0 at the others (Lagrange), so the weights integrate the polynomial through all slopes
    exactly. Equal steps of length 1 give Adams–Bashforth's 55/24, −59/24, 37/24, −9/24.
    """
    weights = []
    for sigma in sigmas:
        factors = (Polynomial([-other, 1]) / (sigma - other) for other in sigmas if other != sigma)
        integral = math.prod(factors, start=Polynomial([1])).integ()
        weights.append(integral(sigma_next) - integral(sigmas[0]))
    return weights


class LMSDiscreteScheduler(Scheduler):
    """Linear multistep sampling in σ = √((1−ᾱ)/ᾱ): dx/dσ = ε for x = x0 + σ ε.

    Timesteps may be fractions; σ is then interpolated linearly between its neighbours, as diffusers does (k-diffusion takes log σ).
    """

    spacings = ("linspace", "leading")

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.training_sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().double().numpy()
        self.init_noise_sigma = float(self.training_sigmas[-1])
        self.sigmas: list[float] = []  # one for each timestep, and a last 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        if self.spacing == "leading":
            t = self.leading_timesteps(num_inference_steps).float()
        elif num_inference_steps < 1:
            raise ValueError(f"{num_inference_steps} steps are not possible: give a number from 1 up")
        else:
            last = self.config.num_train_timesteps - 1
            t = torch.from_numpy(np.linspace(0, last, num_inference_steps, dtype=np.float32)[::-1].copy())
        self.begin(t, num_inference_steps, device)
        self.sigmas = [*np.interp(t.numpy(), np.arange(len(self.training_sigmas)), self.training_sigmas).tolist(), 0.0]
        self.init_noise_sigma = self.sigmas[0] if self.spacing == "linspace" else (self.sigmas[0] ** 2 + 1) ** 0.5
        self.noises: list[Tensor] = []  # newest first

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """Latents of the variance that the UNet was trained on: x / √(σ² + 1)."""
        return sample / (self.sigmas[self.find(timestep)] ** 2 + 1) ** 0.5

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor) -> SchedulerOutput:
        """From the latents (not scaled) at one timestep to those at the next."""
        index = self.advance(timestep)
        sigma, x = self.sigmas[index], sample.float()
        alpha = 1 / (sigma**2 + 1)
        eps = to_epsilon(model_output.float(), x * alpha**0.5, alpha, self.config.prediction_type)
        x0 = x - sigma * eps

        self.noises = [eps, *self.noises[: SLOPES - 1]]
        past = self.sigmas[index + 1 - len(self.noises) : index + 1][::-1]
        x = x + sum(weight * noise for weight, noise in zip(blend(past, self.sigmas[index + 1]), self.noises))
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x0 + σ ε for some of the trajectory's timesteps."""
        sigmas = torch.tensor([self.sigmas[self.find(t)] for t in timesteps], dtype=noise.dtype, device=noise.device)
        return original_samples + sigmas.view(-1, 1, 1, 1) * noise
