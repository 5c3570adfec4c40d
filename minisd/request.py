"""The arguments of a pipeline call, completed with defaults and checked before any computation."""

import math
from dataclasses import dataclass
from inspect import signature
from numbers import Real
from operator import index
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from .config import sides
from .noise import Generators, check_generators

if TYPE_CHECKING:
    from .pipeline import StableDiffusionPipeline


@dataclass(frozen=True)
class Request:
    """The complete arguments of a call: defaults come from the model, and both prompt lists have the same length."""

    prompts: list[str] | Tensor  # or their text states (B, T, D), if `words` are given
    negative_prompts: list[str] | Tensor
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float
    num_images_per_prompt: int
    eta: float
    generator: Generators
    latents: Tensor | None
    shape: tuple[int, int, int, int]  # of the latents: (images, channels, height / 8, width / 8)

    @classmethod
    def of(
        cls,
        pipe: "StableDiffusionPipeline",
        prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        guidance_rescale: float = 0.0,
        **words: Any,
    ) -> Self:
        """Complete and check the arguments of a call. Raises TypeError or ValueError for invalid ones."""
        factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)  # image pixels per latent position along each side: 8
        high, wide = sides(pipe.unet.config.sample_size)
        height = high * factor if height is None else height
        width = wide * factor if width is None else width
        steps = pipe.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = pipe.guidance_scale if guidance_scale is None else guidance_scale

        if words:
            from .words.embed import embed

            texts: tuple[Any, Any] = embed(pipe, prompt, negative_prompt, **words)
        else:
            texts = check_prompts(prompt, negative_prompt)
        height, width = check_size(whole("height", height), whole("width", width), factor)
        steps, count = whole("num_inference_steps", steps), whole("num_images_per_prompt", num_images_per_prompt)
        if count < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, not {count}")
        scale, rescale = real("guidance_scale", scale), real("guidance_rescale", guidance_rescale, 0, 1)
        eta = check_eta(eta, pipe.scheduler)
        images = len(texts[0]) * count
        check_generators(generator, images)
        shape = (images, pipe.vae.config.latent_channels, height // factor, width // factor)
        check_latents(latents, shape)
        return cls(*texts, height, width, steps, scale, rescale, count, eta, generator, latents, shape)

    @property
    def guided(self) -> bool:
        """Whether the UNet also makes an unconditional prediction."""
        return self.guidance_scale > 1

    @property
    def texts(self) -> list[list[str] | Tensor]:
        """The prompts of one UNet batch, negative prompts first."""
        return [self.negative_prompts, self.prompts] if self.guided else [self.prompts]

    @property
    def step_settings(self) -> dict[str, Any]:
        """Keyword arguments for the sampler's `step`: the generator and, unless it is 0, η."""
        return {"generator": self.generator} | ({"eta": self.eta} if self.eta else {})

    @property
    def guidance(self) -> dict[str, Any]:
        """Keyword arguments for the pipeline's `predict`."""
        return {"guidance_scale": self.guidance_scale, "guidance_rescale": self.guidance_rescale}


def check_prompts(prompt: Any, negative_prompt: Any) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts as two lists of the same length. Raises TypeError or ValueError for anything else."""
    if not (isinstance(prompt, str) or (isinstance(prompt, list | tuple) and prompt and all(isinstance(p, str) for p in prompt))):
        raise TypeError(f"prompt must be a string or a list of strings, not {prompt!r}"[:200])
    if negative_prompt is None:
        negative_prompt = "" if isinstance(prompt, str) else [""] * len(prompt)
    if isinstance(negative_prompt, str) != isinstance(prompt, str) or not (
        isinstance(negative_prompt, str | list | tuple) and all(isinstance(negative, str) for negative in negative_prompt)
    ):
        raise TypeError("negative_prompt must match prompt: both strings, or two lists of the same length")
    prompts, negatives = ([text] if isinstance(text, str) else list(text) for text in (prompt, negative_prompt))
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(negatives)} negative prompts for {len(prompts)} prompts")
    for text in [*prompts, *negatives]:
        if any("\ud800" <= character <= "\udfff" for character in text):  # a lone UTF-16 surrogate
            raise ValueError(f"{text!a} is not valid UTF-8 text"[:200])
    return prompts, negatives


def check_size(height: int, width: int, factor: int) -> tuple[int, int]:
    if height % factor or width % factor or height <= 0 or width <= 0:
        near = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise ValueError(f"height and width must be multiples of {factor}; use {near[0]}×{near[1]} instead of {height}×{width}")
    return height, width


def whole(name: str, number: Any) -> int:
    """An integer, NumPy integer or integer tensor, as an int. Raises TypeError for anything else."""
    try:
        return index(number)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, not {number!r}") from None


def real(name: str, number: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A number, NumPy number or scalar tensor, as a float. Raises ValueError if it is not finite or out of range."""
    value = float(number) if isinstance(number, Real) or getattr(number, "ndim", 1) == 0 else math.nan
    if not (math.isfinite(value) and least <= value <= most):
        wanted = f"from {least:g} to {most:g}" if math.isfinite(most) else "a number" if least < 0 else f"{least:g} or more"
        raise ValueError(f"{name} must be {wanted}, not {number!r}"[:200])
    return value


def check_eta(eta: Any, scheduler: Any) -> float:
    share = real("eta", eta, 0, 1)
    if share and "eta" not in signature(scheduler.step).parameters:
        raise ValueError(f"{type(scheduler).__name__} has no eta; use DDIMScheduler or leave eta out")
    return share


def check_latents(latents: Any, shape: tuple[int, ...]):
    if latents is not None and (not isinstance(latents, Tensor) or latents.shape != shape or latents.is_meta):
        found = f"{tuple(latents.shape)} on {latents.device}" if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents must be a tensor of shape {tuple(shape)}, not {found}")


def latents_in(changed: Any, latents: Tensor) -> Tensor:
    """The latents for the next step, given the callback's return value. Raises ValueError unless that is None or a dictionary."""
    changed = {} if changed is None else changed
    others = changed.get("latents", latents) if isinstance(changed, dict) else changed
    check_latents("None" if others is None else others, latents.shape)
    return others.to(latents)


def check_output(output_type: Any, callback: Any, tensor_inputs: Any):
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f'output_type must be "pil", "np", "pt" or "latent", not {output_type!r}')

    if not (callback is None or callable(callback)):
        raise TypeError(f"callback_on_step_end must be a function (pipe, step, timestep, tensors), not {callback!r}"[:200])
    if list(tensor_inputs or ()) != ["latents"]:
        raise ValueError(f'callback_on_step_end_tensor_inputs must be ["latents"], not {tensor_inputs!r}'[:200])
