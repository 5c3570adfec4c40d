"""Image to image: add noise to an image, then denoise it with a prompt (SDEdit, Meng et al. 2021, in latents)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..noise import Generators, randn
from ..pipeline import StableDiffusionPipelineOutput, Steps
from ..request import check_output
from .from_picture import FromPicture, for_each, noisy
from .image_request import ImageRequest
from .pictures import Pictures


class StableDiffusionImg2ImgPipeline(FromPicture):
    """Redraws an image: large shapes stay, and the more noise is added, the more details change."""

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None,
        image: Pictures,
        strength: float = 0.8,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **words: Any,
    ) -> StableDiffusionPipelineOutput:
        """Redraw `image` with the prompt. `strength`, 0 to 1, is the share of steps taken and sets the amount of noise.

        Images are PIL images, arrays or tensors, one for all or one per prompt, with sides that are multiples of 8. Everything else
        is as in StableDiffusionPipeline.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = ImageRequest.with_image(
            self, prompt, image, strength, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt, eta=eta, generator=generator,
            **words,
        )  # fmt: skip
        return self.finish(self.run_to_end(self.steps(request), callback_on_step_end), output_type)

    @torch.no_grad()
    def denoise(self, *arguments: Any, **settings: Any) -> Steps:
        """The loop as a generator of steps. Takes prompt, image and strength in this order, and the rest by name."""
        yield from self.steps(ImageRequest.with_image(self, *arguments, **settings))

    def steps(self, request: ImageRequest) -> Steps:  # type: ignore[override]
        """Encode the prompt and the image, add noise, run the loop."""
        context = self.encode_words(request.texts, request.num_images_per_prompt)
        scheduler, images = self.enter(request), request.shape[0]

        # Image: a sample of its latents; if there are several generators, each draws its own
        own = isinstance(request.generator, Sequence)
        clean = for_each(self.encode(for_each(request.image, images) if own else request.image, request.generator), images)

        # Noise: up to the level of the first remaining timestep
        noise = randn(request.shape, request.generator).to(self.device)
        latents = noisy(scheduler, clean, noise, scheduler.begin_index)  # (B, 4, h, w)

        # Loop: as in text to image, from that timestep
        predict = partial(self.predict, context=context, **request.guidance)
        yield from self.loop(scheduler, latents, predict, partial(scheduler.step, **request.step_settings))
