"""The samplers: many roads from noise to a picture."""

from .base import Scheduler, SchedulerOutput
from .ddim import DDIMScheduler
from .lms import LMSDiscreteScheduler
from .pndm import PNDMScheduler

SCHEDULERS = {scheduler.__name__: scheduler for scheduler in (PNDMScheduler, DDIMScheduler, LMSDiscreteScheduler)}

__all__ = ["SCHEDULERS", "DDIMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "Scheduler", "SchedulerOutput"]
