"""Euler a: step to less noise than required, then add new noise up to the required level. Crowson 2022."""

from typing import ClassVar

from torch import Tensor

from ..config import SchedulerConfig
from ..noise import Generators, randn
from .base import SchedulerOutput
from .sigmas import VarianceExplodingScheduler


class EulerAncestralDiscreteScheduler(VarianceExplodingScheduler):
    """DDIM with η = 1, in other units and on other timesteps. The image does not converge as the number of steps grows."""

    config_class = SchedulerConfig
    predictions = ("epsilon", "v_prediction")
    implemented: ClassVar = {}

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """x' = x0 + σ' (q ε + √(1 − q²) z), where q = σ'/σ is the share of old noise and z is new noise (Crowson 2022)."""
        index = self.advance(timestep)
        sigma, sigma_next, x = self.sigmas[index], self.sigmas[index + 1], sample.float()
        x0, eps = self.predict(model_output, x, sigma)
        q = sigma_next / sigma
        x = x0 + sigma_next * (q * eps + (1 - q**2) ** 0.5 * randn(x.shape, generator, x.device))
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))
