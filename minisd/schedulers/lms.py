"""K-LMS: the idea of PLMS for steps of unequal length in σ, the noise relative to the image (Crowson 2022)."""

import math

import torch
from numpy.polynomial import Polynomial
from torch import Tensor

from ..noise import Generators
from .base import SchedulerOutput, weighted_sum
from .sigmas import VarianceExplodingScheduler

SLOPES = 4  # how many past slopes a step combines


def blend(sigmas: list[float], sigma_next: float) -> list[float]:
    """Weights of the slopes at `sigmas` (newest first) for the step from sigmas[0] to sigma_next: ∫ ℓⱼ(σ) dσ.

    ℓⱼ is the Lagrange polynomial, 1 at σⱼ and 0 at the others, so the weights integrate the polynomial through all slopes exactly.
    Equal steps of length 1 give the Adams–Bashforth weights 55/24, −59/24, 37/24, −9/24.
    """
    weights = []
    for sigma in sigmas:
        factors = (Polynomial([-other, 1]) / (sigma - other) for other in sigmas if other != sigma)
        integral = math.prod(factors, start=Polynomial([1])).integ()
        weights.append(integral(sigma_next) - integral(sigmas[0]))
    return weights


class LMSDiscreteScheduler(VarianceExplodingScheduler):
    """Linear multistep sampling in σ: dx/dσ = ε for x = x0 + σ ε.

    A trajectory that starts in the middle, as in img2img, treats the slopes of the missing steps as 0, as in diffusers. Other
    samplers are better at low strengths.
    """

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        super().begin(timesteps, device, num_inference_steps)
        self.noises: list[Tensor] = []  # up to four past ε, newest first

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Unscaled latents at one σ → at the next, along a weighted sum of the last ε. Draws no noise."""
        index = self.advance(timestep)
        x = sample.float()
        x0, eps = self.predict(model_output, x, self.sigmas[index])

        self.noises = [eps, *self.noises[: SLOPES - 1]]
        past = self.sigmas[max(0, index + 1 - SLOPES) : index + 1][::-1]
        x = x + weighted_sum(blend(past, self.sigmas[index + 1]), self.noises)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
