"""Components of other libraries in a pipeline: samplers and safety checkers with diffusers' interface. Others raise TypeError."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .safety_checker import StableDiffusionSafetyChecker, preprocess
from .schedulers import Scheduler, SchedulerOutput

SAMPLER = ("set_timesteps", "scale_model_input", "step", "init_noise_sigma")  # the attributes that a pipeline needs
CLIP_SIDE = 224  # the input size of diffusers' safety checker, in pixels


class ForeignScheduler:
    """Adapts a sampler with diffusers' interface to a pipeline. All other attributes are the sampler's own."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.set_begin_index()
        self.step = wraps(scheduler.step)(partial(self.take_step))  # with a signature that the pipeline can check

    def __getattr__(self, name: str) -> Any:
        return getattr(self.scheduler, name)

    def __copy__(self) -> "ForeignScheduler":
        return ForeignScheduler(deepcopy(self.scheduler))  # a separate trajectory

    def __reduce__(self) -> tuple:
        return ForeignScheduler, (self.scheduler,)

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None):
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self.set_begin_index()

    def set_begin_index(self, begin_index: int = 0):
        self.begin_index, self.step_index = begin_index, begin_index - 1
        if begin_index and hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin_index)

    def take_step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **settings: Any) -> SchedulerOutput:
        """The sampler's step, with the `settings` that it supports. If it returns no clean latents, the latents replace them."""
        known = signature(self.scheduler.step).parameters
        result = self.scheduler.step(model_output, timestep, sample, **{k: v for k, v in settings.items() if k in known})
        self.step_index += 1
        x0 = getattr(result, "pred_original_sample", None)
        return SchedulerOutput(result.prev_sample, result.prev_sample if x0 is None else x0)


class ForeignChecker:
    """Adapts a safety checker with diffusers' interface, which takes images and CLIP's pixels and returns images and flags."""

    def __init__(self, check: Callable):
        self.check = check

    def __call__(self, images: list[Image.Image]) -> list[bool]:
        clip_input = preprocess(images, CLIP_SIDE)
        if isinstance(self.check, nn.Module):
            clip_input = clip_input.to(next(self.check.parameters()))
        _, flags = self.check(images=np.stack([np.array(image, np.float32) / 255 for image in images]), clip_input=clip_input)
        return [bool(flag) for flag in flags] if isinstance(flags, list | tuple) else [bool(flags)] * len(images)


def fitting_scheduler(scheduler: Any) -> Any:
    """A sampler in the form that a pipeline needs. Raises TypeError for anything else."""
    if isinstance(scheduler, Scheduler | ForeignScheduler):
        return scheduler
    name = scheduler.__name__ if isinstance(scheduler, type) else type(scheduler).__name__
    if isinstance(scheduler, type):
        raise TypeError(f"{name} is a class; give an instance, such as {name}.from_config(pipe.scheduler.config)")
    if lacking := [attribute for attribute in SAMPLER if not hasattr(scheduler, attribute)]:
        raise TypeError(f"{name} cannot be used as a scheduler: it has no {lacking[0]}; use one of minisd's or diffusers'")
    return ForeignScheduler(scheduler)


def fitting_checker(checker: Any) -> Any:
    """A function from images to flags. Raises TypeError if the checker cannot be called."""
    if checker is None or isinstance(checker, StableDiffusionSafetyChecker | ForeignChecker):
        return checker
    if not callable(checker) or isinstance(checker, type):
        raise TypeError(
            f"{checker!r:.60} is not a safety checker; give minisd's, diffusers', a function from images to flags, or None"
        )
    arguments = signature(checker.forward if isinstance(checker, nn.Module) else checker).parameters.values()
    like_diffusers = any(argument.name == "clip_input" or argument.kind is Parameter.VAR_KEYWORD for argument in arguments)
    return ForeignChecker(checker) if like_diffusers else checker


class ForeignParts:
    """Lets a pipeline's `scheduler` and `safety_checker` come from other libraries."""

    @property
    def scheduler(self) -> Any:
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any):
        self._scheduler = fitting_scheduler(scheduler)

    @property
    def safety_checker(self) -> Any:
        return self._safety_checker

    @safety_checker.setter
    def safety_checker(self, checker: Any):
        self._safety_checker = fitting_checker(checker)
