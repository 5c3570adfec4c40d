"""DPM-Solver++(2M) as an exercise, on DDIM's timesteps: DDIM's step with a better x0. Lu et al. 2022."""

import torch
from torch import Tensor

from minisd.schedule import add_noise, to_epsilon, to_x0
from minisd.schedulers import Scheduler, SchedulerOutput


class DPMSolverMultistepScheduler(Scheduler):
    """PNDM extrapolates ε. This sampler extrapolates x0 to the middle of the coming step, in λ = log √(ᾱ/(1−ᾱ))."""

    spacings = ("leading",)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        self.begin(self.spaced_timesteps(num_inference_steps), device, num_inference_steps)
        self.before: tuple[Tensor, Tensor] | None = None  # λ and x0 of the last step

    def step(self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator=None) -> SchedulerOutput:
        """From the latents at one timestep to those at the next (algorithm 2)."""
        self.advance(timestep)
        t, x = int(timestep), sample.float()
        alpha, alpha_next = self.alpha(t), self.alpha(self.next_timestep(t))
        eps = to_epsilon(model_output.float(), x, alpha, self.config.prediction_type)
        x0 = to_x0(x, eps, alpha)

        lamda, lamda_next = ((a / (1 - a)).log() / 2 for a in (alpha, alpha_next))
        better = x0
        if self.before:
            lamda_before, x0_before = self.before
            r = (lamda - lamda_before) / (lamda_next - lamda)
            better = x0 + (x0 - x0_before) / (2 * r)
        self.before = lamda, x0

        eps = (x - alpha**0.5 * better) / (1 - alpha) ** 0.5  # the noise between the better x0 and x
        x = add_noise(better, eps, alpha_next)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
