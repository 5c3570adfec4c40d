"""PNDM in its linear multistep form, PLMS: DDIM's step along a weighted sum of the last four ε. Liu et al. 2022."""

import torch
from torch import Tensor

from ..noise import Generators
from ..schedule import to_epsilon, to_x0, transfer
from .base import Scheduler, SchedulerOutput, weighted_sum

# Adams–Bashforth weights: they extrapolate equally spaced slopes, newest first, over the next step (eq. 12 is the last row).
BLENDS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


class PNDMScheduler(Scheduler):
    """Pseudo linear multistep sampling.

    The first step is taken twice: once with the slope at its start, then again from the same start with the mean of the slopes at
    both ends (Heun's method). So n steps need n + 1 UNet calls, and the second timestep occurs twice in the list.

    A trajectory that starts in the middle, as in img2img, also takes its first step twice. The list repeats no timestep for that,
    so the trajectory ends one step early and leaves some noise, as in diffusers.

    For v-models, this sampler combines ε, whereas diffusers combines v; the official v-models use DDIM.
    """

    spacings = ("leading", "linspace", "trailing")
    predictions = ("epsilon", "v_prediction")
    implemented = {"skip_prk_steps": True}  # Stable Diffusion does not use the paper's Runge–Kutta warm-up

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        t = self.spaced_timesteps(num_inference_steps)
        self.begin(torch.cat([t[:2], t[1:]]), device, num_inference_steps)
        self.noises: list[Tensor] = []  # up to four past ε, newest first
        self.start = torch.empty(0, dtype=torch.float32, device="cpu")  # the latents before the first step

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """DDIM's step along a weighted sum of the last ε (eqs. 11 and 12). Draws no noise."""
        index = self.advance(timestep)
        t, x = int(timestep), sample.float()
        eps = to_epsilon(model_output.float(), x, self.alpha(t), self.config.prediction_type)
        x0 = to_x0(x, eps, self.alpha(t))

        if index == self.begin_index + 1:  # repeat the first step with the mean of both slopes
            t = 2 * t - self.next_timestep(t)  # back to the first timestep
            x, slope = self.start, (self.noises[0] + eps) / 2
        else:
            self.start = x
            self.noises = [eps, *self.noises[:3]]
            slope = weighted_sum(BLENDS[len(self.noises)], self.noises)
        x = transfer(x, slope, self.alpha(t), self.alpha(self.next_timestep(t)))
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
