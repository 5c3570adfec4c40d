"""UniPC: predict like DPM-Solver++, then correct each step with the x0 predicted at its end. Zhao et al. 2023."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..noise import Generators
from ..schedule import add_noise
from .base import SchedulerOutput
from .multistep import MultistepConfig, MultistepScheduler, length, mean_powers, noise_beside
from .sigmas import alpha_at


@dataclass(frozen=True)
class UniPCConfig(MultistepConfig):
    solver_type: str = "bh2"  # or "bh1": how the line through two x0 is weighted
    disable_corrector: tuple[int, ...] = ()  # indices of steps without correction
    sigma_min: float | None = None  # endpoints of a Karras or exponential curve; None: the extremes of training
    sigma_max: float | None = None


class UniPCMultistepScheduler(MultistepScheduler):
    """The correction needs no extra UNet call: it reuses the prediction for the next step."""

    config_class = UniPCConfig
    choices = {"solver_order": (1, 2), "solver_type": ("bh1", "bh2"), "final_sigmas_type": ("zero", "sigma_min")}
    implemented = {
        "use_beta_sigmas": False, "use_flow_sigmas": False, "use_dynamic_shifting": False, "thresholding": False,
        "predict_x0": True, "solver_p": None, "shift_terminal": None, "flow_shift": 1.0, "time_shift_type": "exponential",
    }  # fmt: skip

    def ends(self, levels: list[float]) -> tuple[float, float]:
        least, greatest = super().ends(levels)
        return self.config.sigma_min or least, self.config.sigma_max or greatest

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        super().begin(timesteps, device, num_inference_steps)
        self.guesses: list[Tensor] = []  # the x0 of the last two steps, newest first
        self.start = torch.empty(0, dtype=torch.float32, device="cpu")  # the latents before the last step
        self.order_used = 0  # the order of the last step

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Correct the last step (UniC), then predict the next one (UniP). Draws no noise."""
        index = self.advance(timestep)
        x = sample.float()
        x0 = self.predict(model_output, x, self.sigmas[index])
        if self.guesses and index - 1 not in self.config.disable_corrector:
            x = self.move(self.corrected(x0, index - 1), self.start, index - 1)

        self.guesses, self.start = [x0, *self.guesses[:1]], x
        left = len(self.timesteps) - index if self.config.lower_order_final or self.sigmas[-1] == 0 else 2
        self.order_used = min(self.config.solver_order, len(self.guesses), left)
        x = self.move(self.extrapolated(index), x, index)
        return SchedulerOutput(x.to(sample.dtype), x0.to(sample.dtype))

    def move(self, x0: Tensor, x: Tensor, index: int) -> Tensor:
        """DDIM's step from x towards the next σ, given its clean latents x0."""
        return add_noise(x0, noise_beside(x0, x, self.sigmas[index]), alpha_at(self.sigmas[index + 1]))

    def extrapolated(self, index: int) -> Tensor:
        """UniP: x0 in the middle of the next step, extrapolated linearly from the last two."""
        h, x0 = length(*self.sigmas[index : index + 2]), self.guesses[0]
        if self.order_used == 1 or h == 0:
            return x0
        return x0 + self.half(h) * (self.guesses[1] - x0) / self.back(index)

    def corrected(self, x0_end: Tensor, index: int) -> Tensor:
        """UniC: the mean of x0 over the last step, from a line through both ends, or a parabola that adds an earlier point."""
        h, x0 = length(*self.sigmas[index : index + 2]), self.guesses[0]
        if self.order_used == 1:
            return x0 + self.half(h) * (x0_end - x0)
        r = self.back(index)
        mean, mean_of_squares = mean_powers(h)
        slope = (mean - mean_of_squares) / (1 - r)  # solves slope + end = mean, r slope + end = mean of squares
        return x0 + slope * (self.guesses[1] - x0) / r + (mean - slope) * (x0_end - x0)

    def back(self, index: int) -> float:
        """r < 0: the start of the previous step, in units where the step at `index` goes from 0 to 1 in λ."""
        return -length(*self.sigmas[index - 1 : index + 1]) / length(*self.sigmas[index : index + 2])

    def half(self, h: float) -> float:
        """The middle of a step, ρ₁ B(h) = B(h)/2, in units of e^h − 1: B(h) = e^h − 1 in bh2 and B(h) = h in bh1."""
        return 0.5 if self.config.solver_type == "bh2" else 0.5 * h / -math.expm1(-h)
