"""The samplers: different ways from noise to an image. PNDM, DDIM and LMS are imported here, the others on first use."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from .base import Scheduler, SchedulerOutput
from .ddim import DDIMScheduler
from .lms import LMSDiscreteScheduler
from .pndm import PNDMScheduler

MODULES = {
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "LMSDiscreteScheduler": "lms",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm_solver",
    "UniPCMultistepScheduler": "unipc",
    "LCMScheduler": "lcm",
    "DDPMScheduler": "ddpm",
}


class Samplers(Mapping[str, type[Scheduler]]):
    """The classes by their names in diffusers, each imported on first lookup."""

    def __getitem__(self, name: str) -> type[Scheduler]:
        return getattr(import_module(f".{MODULES[name]}", __name__), name)

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


SCHEDULERS = Samplers()


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return SCHEDULERS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SCHEDULERS", "DDIMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "Scheduler", "SchedulerOutput"]
