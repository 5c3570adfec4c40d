"""What the samplers share: the settings, the noise schedule, and the order of the steps."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from .. import schedule
from ..checkpoint import HUB, read_json, resolve, these, write_folder, write_json
from ..config import SchedulerConfig, UnsupportedConfig, refuse_unless

# What all samplers mean alike; the last two change the noise schedule itself, so nobody may leave them out.
SHARED = [*asdict(SchedulerConfig()), "trained_betas", "rescale_betas_zero_snr"]


class SchedulerOutput(NamedTuple):
    """`prev_sample` is the latent one step nearer to the picture, `pred_original_sample` the guess of the whole way."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class Scheduler:
    """A sampler. One object is one trajectory: `set_timesteps` begins it, `step` walks it in the order of `timesteps`."""

    spacings: tuple[str, ...]  # of the timesteps; the first is the sampler's own
    implemented: Mapping[str, Any] = {}
    init_noise_sigma = 1.0  # how large the noise is that a trajectory begins with

    def __init__(self, config: SchedulerConfig | None = None, **settings):
        """Settings are the fields of SchedulerConfig; what is not given is as in Stable Diffusion."""
        refuse_unless(settings, self.implemented, type(self).__name__)
        self.config = config = SchedulerConfig.from_json({**asdict(config or SchedulerConfig()), **settings})
        self.spacing = config.timestep_spacing or self.spacings[0]
        if self.spacing not in self.spacings:
            raise UnsupportedConfig(f"{type(self).__name__}: timestep_spacing {self.spacing!r} is not one of {self.spacings}")
        if config.prediction_type not in ("epsilon", "v_prediction"):
            raise UnsupportedConfig(f'prediction_type {config.prediction_type!r} is not "epsilon" or "v_prediction"')
        betas = schedule.betas(config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps)
        self.alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.timesteps = torch.tensor([])
        self.num_inference_steps: int | None = None
        self.step_index: int | None = None

    @classmethod
    def from_config(cls, config: SchedulerConfig | Mapping[str, Any], **settings) -> Self:
        """A sampler with another's settings: `LMSDiscreteScheduler.from_config(pipe.scheduler.config)`.

        What only the other one has is left out, and LMS's own spacing becomes this one's own.
        """
        if isinstance(config, SchedulerConfig):
            config = {**asdict(config), "_class_name": None}  # any sampler's
        if config.get("_class_name", cls.__name__) != cls.__name__:
            config = {name: value for name, value in config.items() if name in SHARED}
            if config.get("timestep_spacing") == "linspace" and "linspace" not in cls.spacings:
                del config["timestep_spacing"]
        return cls(**{**config, **settings})

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike, subfolder: str = "", **settings) -> Self:
        """Load scheduler_config.json, any sampler's, from a folder, or from an id on the Hub, with its options."""
        hub = {name: settings.pop(name) for name in HUB if name in settings}
        file = f"{subfolder}/scheduler_config.json" if subfolder else "scheduler_config.json"
        return cls.from_config(read_json(resolve(source, these(source, file), **hub) / file), **settings)

    def save_pretrained(self, folder: str | os.PathLike):
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        write_json(folder / "scheduler_config.json", {"_class_name": type(self).__name__, **self.config.to_json()})

    def leading_timesteps(self, n: int) -> Tensor:
        """n timesteps, evenly spaced and falling, the last of them `steps_offset`: 981, 961, … 21, 1 for n = 50."""
        most = self.config.num_train_timesteps - self.config.steps_offset
        if not 0 < n <= most:
            raise ValueError(f"{n} steps are not possible: give a number from 1 to {most}")
        self.stride = self.config.num_train_timesteps // n
        return torch.arange(n - 1, -1, -1) * self.stride + self.config.steps_offset

    def begin(self, timesteps: Tensor, n: int, device: torch.device | str | None):
        self.timesteps, self.num_inference_steps, self.step_index = timesteps.to(device), n, None

    def find(self, t: Tensor | float) -> int:
        """The place of t in `timesteps`; of a t that stands there twice, the second."""
        times = self.timesteps.tolist()
        if float(t) not in times:
            raise ValueError(f"t = {float(t):g} is none of the timesteps; take them from `timesteps`, after set_timesteps")
        return len(times) - 1 - times[::-1].index(float(t))

    def advance(self, t: Tensor | float) -> int:
        """The place of the step at t. A trajectory may begin anywhere (img2img does; at a second twin), and leaves nothing out."""
        index = self.find(t) if self.step_index is None else self.step_index + 1
        if index == len(self.timesteps):
            raise ValueError("the trajectory is at its end; set_timesteps begins another")
        if self.timesteps[index] != t:
            raise ValueError(f"t = {float(t):g} is out of order: t = {float(self.timesteps[index]):g} comes next")
        self.step_index = index
        return index

    def alpha(self, t: int) -> Tensor:
        """ᾱ at timestep t; below 0, where the last step goes, that of t = 0, or 1 if `set_alpha_to_one`."""
        if t >= 0:
            return self.alphas_cumprod[t]
        return torch.tensor(1.0) if self.config.set_alpha_to_one else self.alphas_cumprod[0]

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float) -> Tensor:
        """What the UNet is to see of the latents: for this sampler, they themselves."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Drown clean latents in noise up to a timestep for each (Ho et al. 2020, eq. 4)."""
        alpha = self.alphas_cumprod.to(original_samples.device)[timesteps.long()].view(-1, 1, 1, 1)
        return schedule.add_noise(original_samples, noise, alpha).to(original_samples.dtype)
