"""DDIM: each step predicts x0 and adds less noise back. For η > 0, part of that noise is new. Song et al. 2020."""

import torch
from torch import Tensor

from ..noise import Generators, randn
from ..schedule import to_x0_and_epsilon
from .base import Scheduler, SchedulerOutput


class DDIMScheduler(Scheduler):
    """η = 0 is deterministic, η = 1 is DDPM's ancestral sampling. `clip_sample` is ignored, since latents are not pixels."""

    spacings = ("leading", "linspace", "trailing")
    implemented = {"thresholding": False}

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        self.begin(self.spaced_timesteps(num_inference_steps), device, num_inference_steps)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        eta: float = 0.0,
        *,
        generator: Generators = None,
    ) -> SchedulerOutput:
        """Predict x0, then noise it to the next timestep with the predicted noise and, for η > 0, new noise (eqs. 12 and 16)."""
        self.advance(timestep)
        t = int(timestep)
        alpha, alpha_next = self.alpha(t), self.alpha(self.next_timestep(t))
        x0, eps = to_x0_and_epsilon(model_output.float(), sample.float(), alpha, self.config.prediction_type)
        sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5  # of the new noise
        x = alpha_next**0.5 * x0 + (1 - alpha_next - sigma**2) ** 0.5 * eps
        if eta > 0:
            x = x + sigma * randn(x.shape, generator, x.device)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
