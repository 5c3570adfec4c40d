"""InstructPix2Pix: the prompt says what to change in an image (Brooks et al. 2023). Its UNet has 8 input channels.

The last four are the image's latents, so there are two conditions, prompt and image, each with its own guidance scale.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from ..noise import Generators, randn
from ..pipeline import StableDiffusionPipeline, StableDiffusionPipelineOutput, Steps
from ..request import check_output, real
from .from_picture import FromPicture, for_each
from .image_request import ImageRequest
from .pictures import Pictures


@dataclass(frozen=True)
class InstructionRequest(ImageRequest):
    """A request with an image to change. All steps are taken."""

    unused = ("guidance_rescale",)  # not defined for two guidance scales

    image_guidance_scale: float

    @classmethod
    def with_instruction(
        cls,
        pipe: StableDiffusionPipeline,
        prompt: str | list[str] | None,
        image: Pictures,
        image_guidance_scale: float = 1.5,
        **settings: Any,
    ) -> Self:
        """Complete and check the arguments. Raises TypeError or ValueError for invalid ones."""
        scale = real("image_guidance_scale", image_guidance_scale, 1)
        return cls.with_image(pipe, prompt, image, 1.0, {"image_guidance_scale": scale}, **settings)

    @property
    def texts(self) -> list[list[str] | Tensor]:
        """The prompts of one UNet batch: with prompt and image, with the image only, with neither."""
        return [self.prompts, self.negative_prompts, self.negative_prompts] if self.guided else [self.prompts]


def guide_twice(eps: Tensor, guidance_scale: float, image_guidance_scale: float) -> Tensor:
    """ε = u + g_i (i − u) + g_t (t − i): from unconditional towards the image, then towards the prompt (eq. 3)."""
    t, i, u = eps.chunk(3)
    return u + image_guidance_scale * (i - u) + guidance_scale * (t - i)


class StableDiffusionInstructPix2PixPipeline(FromPicture):
    """Changes an image as the prompt instructs: "make it night"."""

    unet_channels = (8,)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        prompt: str | list[str] | None,
        image: Pictures,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_guidance_scale: float = 1.5,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **words: Any,
    ) -> StableDiffusionPipelineOutput:
        """Change `image` as the prompt says. A larger `guidance_scale` changes more, a larger `image_guidance_scale` keeps more.

        With a `guidance_scale` of 1 or less, the UNet runs once per step, with prompt and image, instead of three times.
        """
        check_output(output_type, callback_on_step_end, callback_on_step_end_tensor_inputs)
        request = InstructionRequest.with_instruction(
            self, prompt, image, image_guidance_scale, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            negative_prompt=negative_prompt, num_images_per_prompt=num_images_per_prompt, eta=eta, generator=generator,
            latents=latents, **words,
        )  # fmt: skip
        return self.finish(self.run_to_end(self.steps(request), callback_on_step_end), output_type)

    @torch.no_grad()
    def denoise(self, *arguments: Any, **settings: Any) -> Steps:
        """The loop as a generator of steps. Takes prompt, image and image_guidance_scale in this order, and the rest by name."""
        yield from self.steps(InstructionRequest.with_instruction(self, *arguments, **settings))

    def steps(self, request: InstructionRequest) -> Steps:  # type: ignore[override]
        """Encode the prompt and the image, draw the noise, run the loop."""
        context = self.encode_words(request.texts, request.num_images_per_prompt)  # (3B, 77, D)
        scheduler = self.enter(request)

        # Image: the mode of its latents, which this UNet takes unscaled; zeros in the unconditional third
        seen = for_each(self.gaussian(request.image).mode(), request.shape[0]).to(self.dtype)
        seen = torch.cat([seen, seen, torch.zeros_like(seen)]) if request.guided else seen  # (3B, 4, h, w)

        # Noise: as in text to image
        noise = randn(request.shape, request.generator) if request.latents is None else request.latents
        latents = noise.to(self.device, torch.float32) * scheduler.init_noise_sigma

        # Loop: three predictions per step
        guidance = partial(guide_twice, guidance_scale=request.guidance_scale, image_guidance_scale=request.image_guidance_scale)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            x = torch.cat([x.repeat(len(seen) // len(x), 1, 1, 1), seen], dim=1)  # (B or 3B, 8, h, w)
            eps = self.unet(x, t, encoder_hidden_states=context).sample.float()
            return guidance(eps) if request.guided else eps

        yield from self.loop(scheduler, latents, predict, partial(scheduler.step, **request.step_settings))
