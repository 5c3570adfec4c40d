"""Heun's method in σ: take Euler's step, then repeat it with the mean of the slopes at both ends. Karras et al. 2022."""

import torch
from torch import Tensor

from ..noise import Generators
from .base import SchedulerOutput
from .sigmas import VarianceExplodingScheduler


class HeunDiscreteScheduler(VarianceExplodingScheduler):
    """Calls the UNet twice per step, except in the last step, which ends at σ = 0, where the slope is undefined.

    So n steps have 2n − 1 timesteps: each except the first occurs twice, to correct one step and to start the next.
    """

    order = 2

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        """Repeat all timesteps except the first, and their σ."""
        n = len(timesteps)
        super().begin(torch.cat([timesteps[:1], timesteps[1:].repeat_interleave(2)]), device, num_inference_steps)
        if n:
            self.sigmas = [*self.sigmas[:1], *(sigma for sigma in self.sigmas[1:n] for _ in range(2)), self.sigmas[n]]
        self.tried: tuple[Tensor, Tensor] | None = None  # where the step began, and the slope there

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Take Euler's step at an even index, and correct it at an odd one (Karras et al. 2022, alg. 1). Draws no noise."""
        index = self.advance(timestep)
        x = sample.float()
        x0, eps = self.predict(model_output, x, self.sigmas[index])

        if index % 2 and self.tried:
            start, slope = self.tried
            x = start + (self.sigmas[index] - self.sigmas[index - 1]) * (slope + eps) / 2
            self.tried = None
        else:
            self.tried = x, eps
            x = x + (self.sigmas[index + 1] - self.sigmas[index]) * eps
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
