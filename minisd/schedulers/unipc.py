"""UniPC: predict as DPM-Solver++ does, then correct each step by the x0 that is predicted where it ended. Zhao et al. 2023."""

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
    solver_type: str = "bh2"  # or "bh1": how a straight line is extrapolated
    disable_corrector: tuple[int, ...] = ()  # indices of steps that stay as they are predicted
    sigma_min: float | None = None  # the ends of a Karras or exponential curve; None: those of training
    sigma_max: float | None = None


class UniPCMultistepScheduler(MultistepScheduler):
    """The correction costs no call of the UNet: its prediction for the next step serves twice."""

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
        self.order_used = 0  # in the last step

    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Correct the last step (UniC), then predict the coming one (UniP). Draws no noise."""
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
        """DDIM's step from x, of which x0 is the clean part."""
        return add_noise(x0, noise_beside(x0, x, self.sigmas[index]), alpha_at(self.sigmas[index + 1]))

    def extrapolated(self, index: int) -> Tensor:
        """UniP: x0 in the middle of the coming step, on the line through the last two."""
        h, x0 = length(*self.sigmas[index : index + 2]), self.guesses[0]
        if self.order_used == 1 or h == 0:
            return x0
        return x0 + self.half(h) * (self.guesses[1] - x0) / self.back(index)

    def corrected(self, x0_end: Tensor, index: int) -> Tensor:
        """UniC: the mean, over the last step, of the line through x0 at both its ends, or of the parabola through one more."""
        h, x0 = length(*self.sigmas[index : index + 2]), self.guesses[0]
        if self.order_used == 1:
            return x0 + self.half(h) * (x0_end - x0)
        r = self.back(index)
        mean, mean_of_squares = mean_powers(h)
        slope = (mean - mean_of_squares) / (1 - r)  # solves slope + end = mean, r slope + end = mean of squares
        return x0 + slope * (self.guesses[1] - x0) / r + (mean - slope) * (x0_end - x0)

    def back(self, index: int) -> float:
        """r < 0: where the step before began, if the step at `index` goes from 0 to 1 in λ."""
        return -length(*self.sigmas[index - 1 : index + 1]) / length(*self.sigmas[index : index + 2])

    def half(self, h: float) -> float:
        """The middle of a step as ρ₁ B(h) = B(h)/2, in units of e^h − 1: B(h) is that itself in bh2, and h in bh1."""
        return 0.5 if self.config.solver_type == "bh2" else 0.5 * h / -math.expm1(-h)
