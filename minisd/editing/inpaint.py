"""Inpainting: redraw an image where a mask is white and keep the rest.

A text-to-image model does not see the image, so after each step the latents outside the mask are replaced by the image's latents
with the noise of that timestep (Lugmayr et al. 2022, eq. 8, in latents). A UNet with 9 input channels was trained to see the
image: its input is the noisy latents, the mask, and the latents of the masked image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ..noise import Generators, randn
from ..pipeline import StableDiffusionPipeline, StableDiffusionPipelineOutput, Steps
from ..request import check_output
from ..schedulers import Scheduler
from ..schedulers.base import SchedulerOutput
from .from_picture import FromPicture, first_of, for_each, noisy
from .image_request import ImageRequest, check_number_of
from .pictures import Pictures, read_masks


@dataclass(frozen=True)
class InpaintRequest(ImageRequest):
    """A request with an image and a mask."""

    mask: Tensor  # (k, 1, H, W): 1 where to redraw

    @classmethod
    def with_mask(
        cls,
        pipe: StableDiffusionPipeline,
        prompt: str | list[str] | None,
        image: Pictures,
        mask_image: Pictures,
        strength: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        **settings: Any,
    ) -> Self:
        """Complete and check the arguments. Raises TypeError or ValueError for invalid ones."""
        mask = read_masks(mask_image)
        request = cls.with_image(pipe, prompt, image, strength, {"mask": mask}, **settings)
        check_number_of(len(mask), request, "masks")
        if mask.shape[-2:] != request.image.shape[-2:]:
            raise ValueError(
                f"the mask is {mask.shape[-1]}×{mask.shape[-2]}, the image {request.width}×{request.height}; resize one of them"
            )
        if (height or request.height, width or request.width) != (request.height, request.width):
            raise ValueError(f"the image is {request.width}×{request.height}; resize it and its mask to {width}×{height} first")
        return request


class StableDiffusionInpaintPipeline(FromPicture):
    """Redraws a part of an image, with any text-to-image model or with a model trained for inpainting."""

    unet_channels = (9, 4)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None,
        image: Pictures,
        mask_image: Pictures,
        height: int | None = None,
        width: int | None = None,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        output_type: str = "pil",
        paste: bool = False,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **words: Any,
    ) -> StableDiffusionPipelineOutput:
        """Redraw `image` where `mask_image` is white: from pure noise at strength 1, from the noised image at lower strengths.

        The VAE slightly changes the rest; `paste` restores it exactly. `height` and `width`, if given, must be the image's.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = InpaintRequest.with_mask(
            self, prompt, image, mask_image, strength, height, width, num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale, negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt,
            eta=eta, generator=generator, **words,
        )  # fmt: skip
        latents = self.run_to_end(self.steps(request), callback_on_step_end)
        if paste and output_type != "latent":
            return self.present(put_back(self.decode(latents), request.image, request.mask), output_type)
        return self.finish(latents, output_type)

    @torch.no_grad()
    def denoise(self, *arguments: Any, **settings: Any) -> Steps:
        """The loop as a generator of steps. Takes prompt, image, mask and strength in this order, and the rest by name."""
        yield from self.steps(InpaintRequest.with_mask(self, *arguments, **settings))

    def steps(self, request: InpaintRequest) -> Steps:  # type: ignore[override]
        """Encode the prompt and the image, add noise, resize the mask, run the loop."""
        context = self.encode_words(request.texts, request.num_images_per_prompt)
        scheduler, (images, *_, h, w), generator = self.enter(request), request.shape, request.generator
        trained = self.unet.config.in_channels == 9

        # Image and noise: pure noise at strength 1, where a UNet for inpainting needs no sample of the image
        pure = request.strength == 1
        clean = request.image[:0] if trained and pure else for_each(self.encode(request.image, generator), images)
        noise = randn(request.shape, generator).to(self.device)
        latents = noise * scheduler.init_noise_sigma if pure else noisy(scheduler, clean, noise, scheduler.begin_index)

        # Mask: one number per latent position, and the masked image
        mask = for_each(F.interpolate(request.mask, (h, w)), images).to(self.device)  # nearest
        rest = request.image * (request.mask < 0.5)

        # Loop: the UNet sees the masked image, or the rest is restored after each step
        predict: Callable = partial(self.predict, context=context, **request.guidance)
        step: Callable = partial(scheduler.step, **request.step_settings)
        if trained:
            seen = torch.cat([mask, for_each(self.encode(rest, generator), images)], dim=1).to(self.dtype)  # (B, 5, h, w)
            yield from self.loop(scheduler, latents, lambda x, t: predict(torch.cat([x, seen], dim=1), t), step)
        else:
            randn(
                (len(rest), 4, h, w), first_of(generator, len(rest))
            )  # diffusers samples the masked image here and discards it; doing so too keeps seeds equal
            yield from self.loop(scheduler, latents, predict, keep_rest(scheduler, step, clean, noise, mask))


def keep_rest(scheduler: Scheduler, step: Callable, clean: Tensor, noise: Tensor, mask: Tensor) -> Callable:
    """A sampler's step followed by x ← (1 − m) · image + m · x, with the image at the noise level of x."""

    def kept(guess: Tensor, t: Tensor, x: Tensor) -> SchedulerOutput:
        x, x0 = step(guess, t, x)
        assert scheduler.step_index is not None  # a step was taken
        picture = noisy(scheduler, clean, noise, scheduler.step_index + 1)
        return SchedulerOutput((1 - mask) * picture + mask * x, (1 - mask) * clean + mask * x0)

    return kept


def put_back(images: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """Drawn images (B, 3, H, W) with the original pixels where the mask is black."""
    picture, mask = (for_each(x, len(images)).to(images) for x in (picture, mask))
    return torch.where(mask < 0.5, picture, images)
