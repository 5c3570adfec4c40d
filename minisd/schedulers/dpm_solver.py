"""DPM-Solver++(2M): DDIM's step with x0 extrapolated from the last two predictions. Lu et al. 2022."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import Generators, randn
from ..schedule import add_noise
from .base import SchedulerOutput
from .multistep import MultistepConfig, MultistepScheduler, length, mean_powers, noise_beside
from .sigmas import alpha_at


@dataclass(frozen=True)
class DPMSolverConfig(MultistepConfig):
    algorithm_type: str = "dpmsolver++"  # or "sde-dpmsolver++", which replaces noise with new noise, like DDIM with η = 1
    solver_type: str = "midpoint"  # x0 at the middle of the step; or "heun": the mean of x0 over the step
    euler_at_final: bool = False


class DPMSolverMultistepScheduler(MultistepScheduler):
    """Linear extrapolation of x0 from the last two predictions; the first step is DDIM's."""

    config_class = DPMSolverConfig
    choices = {
        "solver_order": (1, 2),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        "solver_type": ("midpoint", "heun"),
        "final_sigmas_type": ("zero", "sigma_min"),
    }
    implemented = {
        "use_beta_sigmas": False, "use_lu_lambdas": False, "use_flow_sigmas": False, "use_dynamic_shifting": False,
        "thresholding": False, "lambda_min_clipped": -math.inf, "flow_shift": 1.0, "time_shift_type": "exponential",
    }  # fmt: skip

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        super().begin(timesteps, device, num_inference_steps)
        self.before: Tensor | None = None  # x0 at the previous step

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Latents at one timestep → at the next (algorithm 2; with new noise, §5)."""
        index = self.advance(timestep)
        sigma, sigma_next, x = self.sigmas[index], self.sigmas[index + 1], sample.float()
        x0 = self.predict(model_output, x, sigma)
        better = x0
        if self.before is not None and not self.is_plain(index):
            better = x0 + self.reach(index) * (x0 - self.before)
        self.before = x0

        eps = noise_beside(better, x, sigma)
        if self.config.algorithm_type == "sde-dpmsolver++":
            q = sigma_next / sigma  # the share of old noise, e^−h
            eps = q * eps + (1 - q**2) ** 0.5 * randn(x.shape, generator, x.device)
        x = add_noise(better, eps, alpha_at(sigma_next))
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))

    def reach(self, index: int) -> float:
        """How far to extrapolate, in units of the last step: to the middle of the next, or to where the line equals its mean."""
        h_before, h = (length(*self.sigmas[i : i + 2]) for i in (index - 1, index))
        decay = 2 * h if self.config.algorithm_type == "sde-dpmsolver++" else h
        place = 1 / 2 if self.config.solver_type == "midpoint" else mean_powers(decay)[0]
        return place * h / h_before

    def is_plain(self, index: int) -> bool:
        """Whether a step does not extrapolate: every step at first order; the last step if it ends at σ = 0 or if n < 15."""
        n, config = len(self.timesteps), self.config
        last = self.sigmas[-1] == 0 or config.euler_at_final or (config.lower_order_final and n < 15)
        return config.solver_order == 1 or (last and index == n - 1)
