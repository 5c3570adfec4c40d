"""DDPM, the original sampler: step to the mean of the posterior, then add noise of its variance. Ho et al. 2020."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SchedulerConfig
from ..noise import Generators, randn
from ..schedule import to_x0_and_epsilon
from .base import Scheduler, SchedulerOutput
from .given_list import spaced_or_given


@dataclass(frozen=True)
class DDPMConfig(SchedulerConfig):
    variance_type: str = "fixed_small"  # or "fixed_large"


class DDPMScheduler(Scheduler):
    """With the smaller variance, it equals DDIM with η = 1, even for steps over many timesteps."""

    config_class = DDPMConfig
    spacings = ("leading", "linspace", "trailing")
    choices = {"variance_type": ("fixed_small", "fixed_small_log", "fixed_large")}  # the second is an alias of the first
    implemented = {"thresholding": False}

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        timesteps: Sequence[int] | Tensor | None = None,
    ):
        """Start a trajectory of n steps or through a falling list of integer `timesteps`."""
        self.begin(spaced_or_given(self, num_inference_steps, timesteps), device, num_inference_steps)

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Algorithm 2: the mean of eq. 7 with the predicted x0, plus noise with the variance of eq. 7 or the larger β."""
        index, t, x = self.advance(timestep), int(timestep), sample.float()
        alpha = self.alphas_cumprod[t]
        alpha_next = self.alphas_cumprod[self.timesteps[index + 1]] if index + 1 < len(self.timesteps) else alpha.new_ones(())
        x0, _ = to_x0_and_epsilon(model_output.float(), x, alpha, self.config.prediction_type)

        beta = 1 - alpha / alpha_next  # β of the whole step
        rest = (1 - alpha_next) / (1 - alpha)  # the share of the noise variance that remains
        x = alpha_next**0.5 * beta / (1 - alpha) * x0 + (1 - beta) ** 0.5 * rest * x
        if t > 0:
            variance = beta if self.config.variance_type == "fixed_large" else beta * rest
            x = x + variance**0.5 * randn(x.shape, generator, x.device)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
