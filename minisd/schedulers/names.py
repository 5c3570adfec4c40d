"""Names of samplers: on the command line, and in AUTOMATIC1111's web interface."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import SchedulerConfig, UnsupportedConfig
from . import SCHEDULERS
from .base import Scheduler


@dataclass(frozen=True)
class NamedSampler:
    """A sampler class with some settings fixed. `from_config` adds a checkpoint's settings, as the class's method does."""

    scheduler: str  # the class name in diffusers
    settings: Mapping[str, Any] = field(default_factory=dict)

    def from_config(self, config: SchedulerConfig | Mapping[str, Any], **settings: Any) -> Scheduler:
        return SCHEDULERS[self.scheduler].from_config(config, **{**self.settings, **settings})


SDE = {"algorithm_type": "sde-dpmsolver++"}
SAMPLERS = {
    "pndm": NamedSampler("PNDMScheduler"),
    "ddim": NamedSampler("DDIMScheduler"),
    "lms": NamedSampler("LMSDiscreteScheduler"),
    "euler": NamedSampler("EulerDiscreteScheduler"),
    "euler-a": NamedSampler("EulerAncestralDiscreteScheduler"),
    "heun": NamedSampler("HeunDiscreteScheduler"),
    "dpm++2m": NamedSampler("DPMSolverMultistepScheduler"),
    "dpm++2m-sde": NamedSampler("DPMSolverMultistepScheduler", SDE),
    "unipc": NamedSampler("UniPCMultistepScheduler"),
    "lcm": NamedSampler("LCMScheduler"),
    "ddpm": NamedSampler("DDPMScheduler"),
}
AUTOMATIC1111 = {
    "pndm": "PLMS", "ddim": "DDIM", "lms": "LMS", "euler": "Euler", "euler-a": "Euler a", "heun": "Heun",
    "dpm++2m": "DPM++ 2M", "dpm++2m-sde": "DPM++ 2M SDE", "unipc": "UniPC", "lcm": "LCM", "ddpm": "DDPM",
}  # fmt: skip
AUTOMATIC = {"dpm++2m": "karras", "dpm++2m-sde": "exponential"}  # the curve of σ behind "Schedule type: Automatic"
ALSO = {"plms": "pndm", "klms": "lms", "eulerancestral": "euler-a", "dpmsolver++": "dpm++2m"}
SIGMAS = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas"}


def plain(name: str) -> str:
    return re.sub(r"^k_|[\s_-]", "", name.lower())


def known_as(name: str) -> tuple[str, str | None]:
    """The sampler's name in SAMPLERS and its curve of σ: "DPM++ 2M Karras" → "dpm++2m", "karras". Raises ValueError if unknown."""
    word = plain(name)
    curve = next((curve for curve in SIGMAS if word.endswith(curve)), None)
    word = word.removesuffix(curve or "")
    names = {**{plain(known): known for known in SAMPLERS}, **ALSO}
    if word not in names:
        raise ValueError(f"unknown sampler {name!r}; choose from {', '.join(SAMPLERS)}; for some, append Karras or Exponential")
    return names[word], curve


def with_sigmas(scheduler: Scheduler, curve: str | None) -> Scheduler:
    """The same sampler on a curve of σ. Raises UnsupportedConfig if the sampler has no such setting."""
    if curve and not hasattr(scheduler.config, SIGMAS[curve]):
        raise UnsupportedConfig(
            f"{name_of(scheduler)[0]} does not support {curve} noise levels; use lms, euler, heun, dpm++2m or unipc"
        )
    return type(scheduler).from_config(scheduler.config, **{SIGMAS[curve]: True}) if curve else scheduler


def name_of(scheduler: Scheduler) -> tuple[str, str | None]:
    """The sampler's name and its curve of σ, as `known_as` returns them."""
    curve = next((curve for curve, setting in SIGMAS.items() if getattr(scheduler.config, setting, False)), None)
    same = [name for name, sampler in SAMPLERS.items() if sampler.scheduler == type(scheduler).__name__]
    fits = [name for name in same if all(getattr(scheduler.config, k) == v for k, v in SAMPLERS[name].settings.items())]
    return (fits or same or [type(scheduler).__name__])[-1], curve
