"""Euler's method in σ, the simplest solver: each step follows the slope at its start. Karras et al. 2022."""

from dataclasses import dataclass

from torch import Tensor

from ..noise import Generators
from .base import SchedulerOutput
from .sigmas import SigmaConfig, VarianceExplodingScheduler


@dataclass(frozen=True)
class EulerConfig(SigmaConfig):
    """`sigma_min` and `sigma_max` are the endpoints of a Karras or exponential curve; None: σ at the first and last timestep."""

    sigma_min: float | None = None
    sigma_max: float | None = None
    final_sigmas_type: str = "zero"  # or "sigma_min"


class EulerDiscreteScheduler(VarianceExplodingScheduler):
    """Equals DDIM with η = 0, in other units and on other timesteps."""

    config_class = EulerConfig
    choices = {"final_sigmas_type": ("zero", "sigma_min")}
    implemented = {"use_beta_sigmas": False, "interpolation_type": "linear", "timestep_type": "discrete"}

    def ends(self, levels: list[float]) -> tuple[float, float]:
        return self.config.sigma_min or levels[-1], self.config.sigma_max or levels[0]

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """x' = x + (σ' − σ) ε (Karras et al. 2022, alg. 1 without its lines 6 to 8). Draws no noise."""
        index = self.advance(timestep)
        sigma, sigma_next, x = self.sigmas[index], self.sigmas[index + 1], sample.float()
        x0, eps = self.predict(model_output, x, sigma)
        x = x + (sigma_next - sigma) * eps
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
