"""The contract of a sampler, and the order of its steps.

A sampler fills in `set_timesteps` and `step`, and says which settings it knows. It sees latents and a network's predictions,
never a network.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .. import schedule
from ..config import SchedulerConfig, UnsupportedConfig
from ..noise import Generators
from .configured import Configured
from .spacing import SPACINGS


class SchedulerOutput(NamedTuple):
    """`prev_sample` is the latent after the step, `pred_original_sample` the clean latent predicted from here."""

    prev_sample: Tensor
    pred_original_sample: Tensor


def weighted_sum(weights: Iterable[float], noises: Iterable[Tensor]) -> Tensor:
    """What a multistep sampler makes of its past ε."""
    return sum((weight * noise for weight, noise in zip(weights, noises)), start=torch.zeros((), dtype=torch.float32, device="cpu"))


class Scheduler(Configured, ABC):
    """A sampler. One object is one trajectory: `set_timesteps` begins it, `step` follows it in the order of `timesteps`."""

    order: ClassVar[int] = 1  # how many timesteps one step takes

    def __init__(self, config: SchedulerConfig | None = None, **settings: Any):
        """Settings are the fields of `config_class`, by diffusers' names; the default is Stable Diffusion's value."""
        super().__init__(config, **settings)
        self.alphas_cumprod = torch.cumprod(1 - self.betas(), dim=0)  # ᾱ, (1000,)
        self.begin(torch.empty(0, dtype=torch.float32, device="cpu"))

    def betas(self) -> Tensor:
        """The noise schedule that the settings describe, (1000,)."""
        config, betas = self.config, torch.tensor(self.config.trained_betas or (), dtype=torch.float32, device="cpu")
        if not len(betas):
            betas = schedule.betas(config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps)
        if len(betas) != config.num_train_timesteps:
            raise UnsupportedConfig(f"{len(betas)} trained_betas for num_train_timesteps = {config.num_train_timesteps}")
        return schedule.rescale_zero_snr(betas) if config.rescale_betas_zero_snr else betas

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the latents at the first timestep."""
        return 1.0

    @abstractmethod
    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        """Begin a trajectory of that many steps: choose `timesteps`, and forget what was remembered of the last one."""

    @abstractmethod
    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """From the latents at one timestep to those at the next; `generator` draws new noise, if the sampler adds any."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """The latents as the UNet expects them: here unchanged; samplers in σ divide by √(σ² + 1)."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Add noise to clean latents up to a timestep for each (Ho et al. 2020, eq. 4)."""
        alpha = self.alphas_cumprod.to(original_samples.device)[timesteps.long()].view(-1, 1, 1, 1)
        return schedule.add_noise(original_samples, noise, alpha).to(original_samples.dtype)

    # What samplers build on

    def spaced_timesteps(self, n: int) -> Tensor:
        """n falling timesteps in this sampler's spacing, whole numbers."""
        return SPACINGS[self.spacing](n, self.config).round().long()

    def set_begin_index(self, begin_index: int = 0):
        """Enter the trajectory at this index of `timesteps`, as img2img does. Comes after `set_timesteps`, which enters at 0."""
        self.begin_index = begin_index
        self.step_index: int | None = begin_index - 1 if begin_index else None  # of the last step

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        self.timesteps, self.num_inference_steps = timesteps.to(device), num_inference_steps
        self.set_begin_index()

    def upcoming(self, t: Tensor | float) -> int:
        """The next step's index if it is at t, otherwise the last index at t."""
        times, following = self.timesteps.tolist(), 0 if self.step_index is None else self.step_index + 1
        if times[following : following + 1] == [float(t)]:
            return following
        if float(t) not in times:
            raise ValueError(f"t = {float(t):g} is none of the timesteps; take them from `timesteps`, after set_timesteps")
        return len(times) - 1 - times[::-1].index(float(t))

    def advance(self, t: Tensor | float) -> int:
        """The index of the step at t. A trajectory may start at any timestep (img2img does), but must not skip one."""
        index = self.upcoming(t)
        if self.step_index is not None and index != self.step_index + 1:
            if self.step_index + 1 == len(self.timesteps):
                raise ValueError("the trajectory is at its end; set_timesteps begins another")
            following = float(self.timesteps[self.step_index + 1])
            raise ValueError(f"t = {float(t):g} is out of order: t = {following:g} comes next")
        self.step_index = index
        return index

    def next_timestep(self, t: int) -> int:
        """Where the step at t leads, below 0 for the last one."""
        assert self.num_inference_steps, "set_timesteps comes first"
        return t - self.config.num_train_timesteps // self.num_inference_steps

    def alpha(self, t: int) -> Tensor:
        """ᾱ at timestep t; for t < 0, after the last step, ᾱ of t = 0, or 1 if `set_alpha_to_one`."""
        if t >= 0:
            return self.alphas_cumprod[t]
        return self.alphas_cumprod.new_ones(()) if self.config.set_alpha_to_one else self.alphas_cumprod[0]
