"""Inpainting: draw the white part of a mask anew and keep the rest of a picture.

A text-to-image model does not know the picture, so after each step the rest is put back, with the noise of that timestep (Lugmayr
et al. 2022, eq. 8, in latents). A UNet of 9 channels was trained to see it: noisy latents, mask, and the picture without its white
part.
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
    """A request with a picture and a mask."""

    mask: Tensor  # (k, 1, H, W): 1 is drawn anew

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
        mask = read_masks(mask_image)
        request = cls.with_image(pipe, prompt, image, strength, {"mask": mask}, **settings)
        check_number_of(len(mask), request, "masks")
        if mask.shape[-2:] != request.image.shape[-2:]:
            raise ValueError(
                f"the mask is {mask.shape[-1]}×{mask.shape[-2]}, the picture {request.width}×{request.height}: resize one of them"
            )
        if (height or request.height, width or request.width) != (request.height, request.width):
            raise ValueError(f"the picture is {request.width}×{request.height}: resize it and its mask to {width}×{height} first")
        return request


class StableDiffusionInpaintPipeline(FromPicture):
    """Draws a part of a picture anew, with any text-to-image model or with one that was trained for it."""

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
        """Draw what is white in `mask_image` anew, from pure noise at strength 1, from the noisy picture below it.

        The VAE changes the rest a little, too; `paste` puts its pixels back exactly. `height` and `width` are the picture's.
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
        """The loop as a generator of steps. Takes prompt, image, mask and strength in this order, the rest by name."""
        yield from self.steps(InpaintRequest.with_mask(self, *arguments, **settings))

    def steps(self, request: InpaintRequest) -> Steps:  # type: ignore[override]
        """Words, picture and noise, mask, loop."""
        context = self.encode_words(request.texts, request.num_images_per_prompt)
        scheduler, (images, *_, h, w), generator = self.enter(request), request.shape, request.generator
        trained = self.unet.config.in_channels == 9

        # Picture and noise: pure noise at strength 1, where a trained UNet needs no sample of the picture
        pure = request.strength == 1
        clean = request.image[:0] if trained and pure else for_each(self.encode(request.image, generator), images)
        noise = randn(request.shape, generator).to(self.device)
        latents = noise * scheduler.init_noise_sigma if pure else noisy(scheduler, clean, noise, scheduler.begin_index)

        # Mask: one number for each latent, and the picture without what is white
        mask = for_each(F.interpolate(request.mask, (h, w)), images).to(self.device)  # nearest
        rest = request.image * (request.mask < 0.5)

        # Loop: with the rest of the picture before the UNet's eyes, or put back after each step
        predict: Callable = partial(self.predict, context=context, **request.guidance)
        step: Callable = partial(scheduler.step, **request.step_settings)
        if trained:
            seen = torch.cat([mask, for_each(self.encode(rest, generator), images)], dim=1).to(self.dtype)  # (B, 5, h, w)
            yield from self.loop(scheduler, latents, lambda x, t: predict(torch.cat([x, seen], dim=1), t), step)
        else:
            randn(
                (len(rest), 4, h, w), first_of(generator, len(rest))
            )  # diffusers encodes the rest here and discards it: seeds agree
            yield from self.loop(scheduler, latents, predict, keep_rest(scheduler, step, clean, noise, mask))


def keep_rest(scheduler: Scheduler, step: Callable, clean: Tensor, noise: Tensor, mask: Tensor) -> Callable:
    """A sampler's step that is followed by (1 − m) · picture + m · x, the picture as noisy as x is then."""

    def kept(guess: Tensor, t: Tensor, x: Tensor) -> SchedulerOutput:
        x, x0 = step(guess, t, x)
        assert scheduler.step_index is not None  # a step was taken
        picture = noisy(scheduler, clean, noise, scheduler.step_index + 1)
        return SchedulerOutput((1 - mask) * picture + mask * x, (1 - mask) * clean + mask * x0)

    return kept


def put_back(images: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """Drawn images (B, 3, H, W) with the picture's pixels where the mask is black."""
    picture, mask = (for_each(x, len(images)).to(images) for x in (picture, mask))
    return torch.where(mask < 0.5, picture, images)
