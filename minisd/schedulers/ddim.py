"""DDIM: every step goes to the guessed x0 and back to a little less noise, old or (η > 0) partly new. Song et al. 2020."""

import torch
from torch import Tensor

from ..noise import Generators, randn
from ..schedule import to_epsilon, to_x0
from .base import Scheduler, SchedulerOutput


class DDIMScheduler(Scheduler):
    """Denoising diffusion implicit model: η = 0 is deterministic, η = 1 is the DDPM's ancestral sampling.

    Latents are never clipped, whatever `clip_sample` a configuration asks for: they are no pixels.
    """

    spacings = ("leading",)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        self.begin(self.leading_timesteps(num_inference_steps), num_inference_steps, device)

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        eta: float = 0.0,
        generator: Generators = None,
    ) -> SchedulerOutput:
        """From the latents at one timestep to those at the next (eqs. 12 and 16)."""
        self.advance(timestep)
        t = int(timestep)
        alpha, alpha_next = self.alpha(t), self.alpha(t - self.stride)
        eps = to_epsilon(model_output.float(), sample.float(), alpha, self.config.prediction_type)
        x0 = to_x0(sample.float(), eps, alpha)
        sigma = eta * ((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)) ** 0.5
        x = alpha_next**0.5 * x0 + (1 - alpha_next - sigma**2) ** 0.5 * eps
        if eta > 0:
            x = x + sigma * randn(x.shape, generator, x.device)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
