"""LCM: each step jumps to a predicted clean image, then adds new noise at the next timestep. Luo et al. 2023."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import SchedulerConfig
from ..noise import Generators, randn
from ..schedule import add_noise, to_x0_and_epsilon
from .base import Scheduler, SchedulerOutput
from .given_list import spaced_or_given
from .spacing import check_steps

SIGMA_DATA = 0.5  # the standard deviation of the data, as the paper assumes


@dataclass(frozen=True)
class LCMConfig(SchedulerConfig):
    original_inference_steps: int = 50  # DDIM steps in distillation; `timestep_spacing` has no effect
    timestep_scaling: float = 10.0


def end_of_curve(x: Tensor, x0: Tensor, scaled_timestep: Tensor | float) -> Tensor:
    """The consistency function c_out x0 + c_skip x: x itself at t = 0, and nearly the predicted x0 at larger t (§4.1)."""
    c_skip = SIGMA_DATA**2 / (scaled_timestep**2 + SIGMA_DATA**2)
    c_out = scaled_timestep / (scaled_timestep**2 + SIGMA_DATA**2) ** 0.5
    return c_out * x0 + c_skip * x


class LCMScheduler(Scheduler):
    """For consistency models only, in 2 to 8 steps; other samplers give poor images with them."""

    config_class = LCMConfig
    spacings = ("leading", "linspace", "trailing")
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

    def spaced_timesteps(self, n: int) -> Tensor:
        """n of the distillation timesteps, as evenly spaced as possible: 999, 759, 499, 259 for 4 of 50."""
        learned = self.config.original_inference_steps
        check_steps(n, learned)
        places = learned - torch.arange(n, dtype=torch.float64, device="cpu").mul(learned / n).floor().long()
        return places * (self.config.num_train_timesteps // learned) - 1

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """The consistency function, then noise up to the next timestep, except in the last step (algorithm 3)."""
        index, t, x = self.advance(timestep), int(timestep), sample.float()
        x0, _ = to_x0_and_epsilon(model_output.float(), x, self.alphas_cumprod[t], self.config.prediction_type)

        x0 = x = end_of_curve(x, x0, t * self.config.timestep_scaling)
        if index + 1 < len(self.timesteps):
            alpha_next = self.alphas_cumprod[self.timesteps[index + 1]]
            x = add_noise(x0, randn(x.shape, generator, x.device), alpha_next)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
