"""PNDM in its linear multistep form, PLMS: DDIM's step with a better ε, blended from the last four. Liu et al. 2022."""

import torch
from torch import Tensor

from ..schedule import to_epsilon, to_x0, transfer
from .base import Scheduler, SchedulerOutput

# Adams–Bashforth: how to extrapolate equally spaced slopes, newest first, over the coming step (eq. 12 has the last).
BLENDS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class PNDMScheduler(Scheduler):
    """Pseudo linear multistep sampling.

    The first hop is walked twice: tried with the slope at its start, then, from the same start, with the mean of the slopes at
    both its ends (Heun's method). So n steps take n + 1 calls of the UNet, and the second timestep stands in the list twice.

    Of v-models, too, it is ε that is blended, where diffusers blends v; the official ones come with DDIM.
    """

    spacings = ("leading",)
    implemented = {"skip_prk_steps": True}  # the Runge–Kutta warm-up of the paper is not what Stable Diffusion uses

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        t = self.leading_timesteps(num_inference_steps)
        self.begin(torch.cat([t[:2], t[1:]]), num_inference_steps, device)
        self.noises: list[Tensor] = []  # newest first

    def step(self, model_output: Tensor, timestep: Tensor | int, sample: Tensor) -> SchedulerOutput:
        """From the latents at one timestep to those at the next (eqs. 11 and 12)."""
        index = self.advance(timestep)
        t, x = int(timestep), sample.float()
        eps = to_epsilon(model_output.float(), x, self.alpha(t), self.config.prediction_type)
        x0 = to_x0(x, eps, self.alpha(t))

        if index == 1:
            t, x, blend = t + self.stride, self.start, (self.noises[0] + eps) / 2
        else:
            self.start = x
            self.noises = [eps, *self.noises[:3]]
            blend = sum(weight * noise for weight, noise in zip(BLENDS[len(self.noises)], self.noises))
        x = transfer(x, blend, self.alpha(t), self.alpha(t - self.stride))
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
