"""What a caller asks a pipeline for, checked before anything is computed."""

import math
from dataclasses import dataclass
from inspect import signature
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from .config import sides
from .noise import Generators, check_generators

if TYPE_CHECKING:
    from .pipeline import StableDiffusionPipeline


@dataclass(frozen=True)
class Request:
    """The arguments of a call, complete: what was left out is the model's default, and prompts are lists of one length."""

    prompts: list[str]
    negative_prompts: list[str]
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    num_images_per_prompt: int
    eta: float
    generator: Generators
    latents: Tensor | None
    shape: tuple[int, int, int, int]  # of the latents: (images, channels, height / 8, width / 8)

    @classmethod
    def of(
        cls,
        pipe: "StableDiffusionPipeline",
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Self:
        """Complete and check the arguments of a call. Raises TypeError or ValueError for what cannot be drawn."""
        factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)  # pixels a side for one latent: 8
        high, wide = sides(pipe.unet.config.sample_size)
        height = high * factor if height is None else height
        width = wide * factor if width is None else width
        steps = pipe.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = pipe.guidance_scale if guidance_scale is None else guidance_scale

        prompts, negatives = check_prompts(prompt, negative_prompt)
        check_size(height, width, factor)
        check_whole(num_inference_steps=steps, num_images_per_prompt=num_images_per_prompt)
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, not {num_images_per_prompt}")
        check_scale(scale)
        check_eta(eta, pipe.scheduler)
        images = len(prompts) * num_images_per_prompt
        check_generators(generator, images)
        shape = (images, pipe.vae.config.latent_channels, height // factor, width // factor)
        check_latents(latents, shape)
        return cls(
            prompts, negatives, height, width, steps, scale, num_images_per_prompt, eta, generator, latents, shape
        )  # fmt: skip

    @property
    def guided(self) -> bool:
        """Whether the UNet also predicts without the prompt."""
        return self.guidance_scale > 1

    @property
    def texts(self) -> list[list[str]]:
        """The lists of prompts that the UNet reads side by side, in the order of its batch."""
        return [self.negative_prompts, self.prompts] if self.guided else [self.prompts]

    @property
    def step_settings(self) -> dict[str, Any]:
        """What a sampler's step is told: the generator, and η if there is any."""
        return {"generator": self.generator} | ({"eta": self.eta} if self.eta else {})


def check_prompts(prompt: Any, negative_prompt: Any) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts as lists of one length."""
    if not (isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(isinstance(p, str) for p in prompt))):
        raise TypeError(f"a prompt is a string or a list of strings, not {prompt!r}"[:200])
    if negative_prompt is None:
        negative_prompt = "" if isinstance(prompt, str) else [""] * len(prompt)
    prompts, negatives = ([text] if isinstance(text, str) else text for text in (prompt, negative_prompt))
    if isinstance(negative_prompt, str) != isinstance(prompt, str) or not (
        isinstance(negatives, list) and all(isinstance(negative, str) for negative in negatives)
    ):
        raise TypeError("give the negative prompt as the prompt is given: a string, or a list of as many strings")
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts")
    for text in [*prompts, *negatives]:
        if any("\ud800" <= character <= "\udfff" for character in text):  # half of a pair of UTF-16
            raise ValueError(f"{text!a} is not valid UTF-8 text"[:200])
    return prompts, negatives


def check_size(height: Any, width: Any, factor: int):
    check_whole(height=height, width=width)
    if height % factor or width % factor or height <= 0 or width <= 0:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise ValueError(f"height and width must be multiples of {factor}: {height}×{width} is not, {near[0]}×{near[1]} is")


def check_whole(**numbers: Any):
    for name, number in numbers.items():
        if not isinstance(number, Integral):
            raise TypeError(f"{name} must be a whole number, not {number!r}")


def check_scale(scale: Any):
    if not (isinstance(scale, Real) and math.isfinite(scale)):
        raise ValueError(f"guidance_scale must be a number, not {scale!r}")


def check_eta(eta: Any, scheduler: Any):
    if not (isinstance(eta, Real) and 0 <= float(eta) <= 1):
        raise ValueError(f"eta must be from 0 to 1, not {eta}")
    if eta and "eta" not in signature(scheduler.step).parameters:
        raise ValueError(f"eta is a setting of DDIMScheduler; {type(scheduler).__name__} has none")


def check_latents(latents: Any, shape: tuple[int, ...]):
    if latents is not None and (not isinstance(latents, Tensor) or latents.shape != shape):
        found = tuple(latents.shape) if isinstance(latents, Tensor) else latents
        raise ValueError(f"latents must be a tensor of shape {shape}, not {found}"[:200])


def check_output(output_type: Any, callback: Any, tensor_inputs: Any):
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f'output_type {output_type!r} is not "pil", "np", "pt" or "latent"')

    if not (callback is None or callable(callback)):
        raise TypeError(f"callback_on_step_end must be a function (pipe, step, timestep, tensors), not {callback!r}"[:200])
    if list(tensor_inputs) != ["latents"]:
        raise ValueError(f'callback_on_step_end_tensor_inputs {tensor_inputs!r}: a callback is given ["latents"] only'[:200])
