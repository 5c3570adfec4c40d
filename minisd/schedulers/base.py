"""The interface of a sampler, and the check that its steps come in order.

A sampler implements `set_timesteps` and `step`, and declares the settings it supports. It sees latents and a network's predictions
but never the network.
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
    """`prev_sample`: the latents after the step; `pred_original_sample`: the clean latents predicted before it."""

    prev_sample: Tensor
    pred_original_sample: Tensor


def weighted_sum(weights: Iterable[float], noises: Iterable[Tensor]) -> Tensor:
    """Σ weight · ε: a multistep sampler's combination of its past predictions."""
    return sum((weight * noise for weight, noise in zip(weights, noises)), start=torch.zeros((), dtype=torch.float32, device="cpu"))


class Scheduler(Configured, ABC):
    """A sampler. One object is one trajectory: `set_timesteps` starts it, and `step` advances it in the order of `timesteps`."""

    order: ClassVar[int] = 1  # the number of entries in `timesteps` per step

    def __init__(self, config: SchedulerConfig | None = None, **settings: Any):
        """Settings are the fields of `config_class`, under diffusers' names; defaults are Stable Diffusion's values."""
        super().__init__(config, **settings)
        self.alphas_cumprod = torch.cumprod(1 - self.betas(), dim=0)  # ᾱ, (1000,)
        self.begin(torch.empty(0, dtype=torch.float32, device="cpu"))

    def betas(self) -> Tensor:
        """The noise schedule described by the settings, (1000,). Raises UnsupportedConfig if `trained_betas` has another length."""
        config, betas = self.config, torch.tensor(self.config.trained_betas or (), dtype=torch.float32, device="cpu")
        if not len(betas):
            betas = schedule.betas(config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps)
        if len(betas) != config.num_train_timesteps:
            raise UnsupportedConfig(f"{len(betas)} trained_betas for num_train_timesteps = {config.num_train_timesteps}")
        return schedule.rescale_zero_snr(betas) if config.rescale_betas_zero_snr else betas

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the initial latents."""
        return 1.0

    @abstractmethod
    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        """Start a trajectory of that many steps: choose `timesteps` and clear the state of the previous trajectory."""

    @abstractmethod
    def step(
        self, model_output: Tensor, timestep: Tensor | float, sample: Tensor, *, generator: Generators = None
    ) -> SchedulerOutput:
        """Latents at one timestep → at the next; `generator` draws any new noise. Raises ValueError if out of order."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """The latents as the UNet expects them: unchanged here; samplers in σ divide by √(σ² + 1)."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noise clean latents (B, C, h, w), each to its own timestep, (B,) (Ho et al. 2020, eq. 4)."""
        alpha = self.alphas_cumprod.to(original_samples.device)[timesteps.long()].view(-1, 1, 1, 1)
        return schedule.add_noise(original_samples, noise, alpha).to(original_samples.dtype)

    # For implementations

    def spaced_timesteps(self, n: int) -> Tensor:
        """n falling integer timesteps in this sampler's spacing."""
        return SPACINGS[self.spacing](n, self.config).round().long()

    def set_begin_index(self, begin_index: int = 0):
        """Start the trajectory at this index of `timesteps`, as img2img does; `set_timesteps` resets it to 0."""
        self.begin_index = begin_index
        self.step_index: int | None = begin_index - 1 if begin_index else None  # of the last step

    def begin(self, timesteps: Tensor, device: torch.device | str | None = None, num_inference_steps: int | None = None):
        self.timesteps, self.num_inference_steps = timesteps.to(device), num_inference_steps
        self.set_begin_index()

    def upcoming(self, t: Tensor | float) -> int:
        """The next index if its timestep is t, otherwise the last index of t. Raises ValueError if t is not in `timesteps`."""
        times, following = self.timesteps.tolist(), 0 if self.step_index is None else self.step_index + 1
        if times[following : following + 1] == [float(t)]:
            return following
        if float(t) not in times:
            raise ValueError(f"t = {float(t):g} is not one of the timesteps; call set_timesteps, then use values from `timesteps`")
        return len(times) - 1 - times[::-1].index(float(t))

    def advance(self, t: Tensor | float) -> int:
        """Advance to t and return its index. A trajectory may start at any timestep (as in img2img) but must not skip one."""
        index = self.upcoming(t)
        if self.step_index is not None and index != self.step_index + 1:
            if self.step_index + 1 == len(self.timesteps):
                raise ValueError("the trajectory has ended; call set_timesteps to start another")
            following = float(self.timesteps[self.step_index + 1])
            raise ValueError(f"t = {float(t):g} is out of order; the next timestep is {following:g}")
        self.step_index = index
        return index

    def next_timestep(self, t: int) -> int:
        """The timestep that the step at t leads to; negative for the last step."""
        assert self.num_inference_steps, "call set_timesteps first"
        return t - self.config.num_train_timesteps // self.num_inference_steps

    def alpha(self, t: int) -> Tensor:
        """ᾱ at timestep t. For t < 0, after the last step: 1 if `set_alpha_to_one`, otherwise ᾱ at t = 0."""
        if t >= 0:
            return self.alphas_cumprod[t]
        return self.alphas_cumprod.new_ones(()) if self.config.set_alpha_to_one else self.alphas_cumprod[0]
