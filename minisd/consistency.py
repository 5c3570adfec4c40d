"""Latent consistency models, which need 2 to 8 steps with one UNet call each (Luo et al. 2023)."""

from typing import Any

from torch import Tensor

from .guided_unet import GuidedUNet
from .pipeline import StableDiffusionPipeline, Steps
from .request import Request


class LatentConsistencyModelPipeline(StableDiffusionPipeline):
    """Text to image with a UNet that takes the guidance scale as an input, so there is no unconditional prediction."""

    def __init__(self, *parts: Any, **named: Any):
        """As for StableDiffusionPipeline, but with defaults of 4 steps and a guidance scale of 8.5.

        Raises TypeError for a UNet without guidance input.
        """
        super().__init__(*parts, **{"num_inference_steps": 4, "guidance_scale": 8.5, **named})
        if not isinstance(self.unet, GuidedUNet):
            raise TypeError("this UNet does not take the guidance scale as an input; use StableDiffusionPipeline")

    def steps(self, request: Request) -> Steps:
        """As for StableDiffusionPipeline. Raises ValueError for a negative prompt, which would have no effect."""
        if not isinstance(request.negative_prompts, Tensor) and any(request.negative_prompts):
            raise ValueError("a negative prompt has no effect in a latent consistency model; leave it out")
        return super().steps(request)

    def encode_words(self, texts: Any, num_images_per_prompt: int) -> Tensor:
        """Prompts, without negative prompts → (B, 77, D)."""
        return super().encode_words(texts[-1:], num_images_per_prompt)

    def predict(self, x: Tensor, t: Tensor, context: Tensor, guidance_scale: float, guidance_rescale: float = 0.0) -> Tensor:
        """The guided prediction (B, 4, h, w), in a single UNet call."""
        return self.unet(x, t, encoder_hidden_states=context, guidance_scale=guidance_scale).sample
