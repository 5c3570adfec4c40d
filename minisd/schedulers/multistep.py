"""The base of DPM-Solver++ and UniPC: DDIM's step with a better x0 than the prediction at the start of the step.

Both model x0 as a function of λ = log √(ᾱ/(1−ᾱ)) = −log σ and estimate its mean over the step, whose length in λ is h.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import schedule
from .sigmas import SigmaConfig, SigmaScheduler, alpha_at
from .spacing import check_steps


@dataclass(frozen=True)
class MultistepConfig(SigmaConfig):
    solver_order: int = 2  # or 1, which is DDIM
    final_sigmas_type: str = "zero"  # or "sigma_min"
    lower_order_final: bool = True  # whether the last step is first-order


class MultistepScheduler(SigmaScheduler):
    """Latents are √ᾱ x0 + √(1−ᾱ) ε, as in DDIM, and timesteps are integers."""

    def spaced_timesteps(self, n: int) -> Tensor:
        """Space n + 1 timesteps and drop the last one, where step n ends; "trailing" spacing has no such timestep."""
        if self.spacing == "trailing":
            return super().spaced_timesteps(n)
        check_steps(n, self.config.num_train_timesteps - 1 - self.config.steps_offset * (self.spacing == "leading"))
        return super().spaced_timesteps(n + 1)[:-1]

    def ends(self, levels: list[float]) -> tuple[float, float]:
        """The smallest and largest σ of training, whatever the spacing."""
        return float(self.training_sigmas[0]), float(self.training_sigmas[-1])

    def seen(self, times: Tensor) -> Tensor:
        """Timesteps rounded for Karras' curve and truncated for the exponential one, as in diffusers; several σ may share one."""
        return (times.round() if self.config.use_karras_sigmas else times.trunc()).long()

    def predict(self, model_output: Tensor, x: Tensor, sigma: float) -> Tensor:
        """The prediction of x0, given latents x = √ᾱ x0 + √(1−ᾱ) ε."""
        return schedule.to_x0_and_epsilon(model_output.float(), x, alpha_at(sigma), self.config.prediction_type)[0]

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ x0 + √(1−ᾱ) ε at the given timesteps of the trajectory, one per image."""
        levels = [alpha_at(self.sigmas[self.upcoming(t)]) for t in timesteps]
        alphas = torch.tensor(levels, dtype=torch.float32, device=noise.device)
        return schedule.add_noise(original_samples, noise, alphas.view(-1, 1, 1, 1)).to(original_samples.dtype)


def noise_beside(x0: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The ε for which x = √ᾱ x0 + √(1−ᾱ) ε."""
    return schedule.to_epsilon(x0, x, alpha_at(sigma), "sample")


def length(sigma: float, sigma_next: float) -> float:
    """The length of a step, h = λ' − λ; infinite for a step to σ = 0."""
    return math.log(sigma / sigma_next) if sigma_next else math.inf


def mean_powers(h: float) -> tuple[float, float]:
    """The means of s and s² over a step, for s from 0 to 1 with weight e^(hs), which grows with the signal.

    An exact step uses this weighted mean of x0 (Lu et al. 2022, proposition 4.1). So, if x0 is a polynomial in s, these means are
    the weights of its coefficients.
    """
    if h == 0:
        return 1 / 2, 1 / 3
    end = 1 / -math.expm1(-h)
    return end - 1 / h, end - 2 / h * (end - 1 / h)
