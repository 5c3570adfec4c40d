"""Latent consistency models draw in 2 to 8 steps, each with one prediction (Luo et al. 2023)."""

from typing import Any

from torch import Tensor

from .guided_unet import GuidedUNet
from .pipeline import StableDiffusionPipeline, Steps
from .request import Request


class LatentConsistencyModelPipeline(StableDiffusionPipeline):
    """Text to image with a UNet that is told the guidance scale. It never predicts without the prompt."""

    def __init__(self, *parts: Any, **named: Any):
        """As for text, but the defaults of a call are 4 steps and a guidance scale of 8.5."""
        super().__init__(*parts, **{"num_inference_steps": 4, "guidance_scale": 8.5, **named})
        if not isinstance(self.unet, GuidedUNet):
            raise TypeError("this UNet is not told the guidance scale; StableDiffusionPipeline draws with it")

    def steps(self, request: Request) -> Steps:
        """As for text. Raises ValueError for a negative prompt, which nothing would read."""
        if not isinstance(request.negative_prompts, Tensor) and any(request.negative_prompts):
            raise ValueError("a latent consistency model has no use for a negative prompt; leave it out")
        return super().steps(request)

    def encode_words(self, texts: Any, num_images_per_prompt: int) -> Tensor:
        """The prompts alone → (B, 77, D)."""
        return super().encode_words(texts[-1:], num_images_per_prompt)

    def predict(self, x: Tensor, t: Tensor, context: Tensor, guidance_scale: float, guidance_rescale: float = 0.0) -> Tensor:
        """The guided prediction, in one call of the UNet."""
        return self.unet(x, t, encoder_hidden_states=context, guidance_scale=guidance_scale).sample
