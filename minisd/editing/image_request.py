"""The arguments of a call of a pipeline that starts from an image, checked before any computation."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from ..request import Request, real
from .pictures import Pictures, read_pictures

if TYPE_CHECKING:
    from ..pipeline import StableDiffusionPipeline


@dataclass(frozen=True)
class ImageRequest(Request):
    """A request with input images: one for all, one per prompt, or one per output image."""

    unused: ClassVar[tuple[str, ...]] = ("latents",)  # text-to-image arguments that do not apply here

    image: Tensor  # (k, 3, H, W) in [-1, 1]
    strength: float  # the share of noise that the image gets: 1 is pure noise

    @classmethod
    def with_image(
        cls,
        pipe: "StableDiffusionPipeline",
        prompt: str | list[str] | None,
        image: Pictures,
        strength: float = 0.8,
        more: dict[str, Any] | None = None,
        **settings: Any,
    ) -> Self:
        """`settings` are those of a text-to-image request, `more` the fields of a subclass. The image determines the size.

        Raises TypeError or ValueError for invalid arguments.
        """
        if unused := [name for name in ("height", "width", *cls.unused) if settings.get(name) is not None]:
            raise TypeError(f"{unused[0]} is not an argument here: it follows from the image")
        pixels = read_pictures(image)
        request = Request.of(pipe, prompt, *pixels.shape[-2:], **settings)
        check_number_of(len(pixels), request, "pictures")
        strength = check_strength(strength, request.num_inference_steps)
        return cls(**vars(request), image=pixels, strength=strength, **(more or {}))

    @property
    def first_step(self) -> int:
        """The index of the first step taken; earlier steps would remove noise that was never added."""
        return self.num_inference_steps - steps_left(self.num_inference_steps, self.strength)


def steps_left(steps: int, strength: float) -> int:
    return min(int(steps * strength), steps)


def check_number_of(given: int, request: Request, what: str):
    if given not in (1, len(request.prompts), request.shape[0]):
        raise ValueError(f"{given} {what} for {len(request.prompts)} prompts: give one, or one per prompt or per output image")


def check_strength(strength: Any, steps: int) -> float:
    """The strength, 0 to 1. Raises ValueError if no step would be left."""
    share = real("strength", strength, 0, 1)
    if steps > 0 and steps_left(steps, share) < 1:
        enough = math.ceil(100 / steps) / 100
        raise ValueError(f"a strength of {share:g} leaves none of {steps} steps; use at least {enough:g}, or more steps")
    return share
