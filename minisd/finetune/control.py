"""Trains a ControlNet (Zhang et al. 2023, §3). It starts as a copy of the UNet's encoder half whose output is zero."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..controlnet import ControlNetModel
from ..editing.controlled import StableDiffusionControlNetPipeline
from ..image import to_tensor
from ..pipeline import StableDiffusionPipeline
from .examples import Example
from .latents import fitted
from .learner import Learner
from .settings import Settings

SMALL = {  # for the built-in model: no attention on the way down, and a narrower image encoder
    "cross_attention": (False, False, False),
    "conditioning_embedding_out_channels": (8, 16, 32, 64),
}


class Control(Learner):
    pipe: StableDiffusionControlNetPipeline

    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        torch.manual_seed(settings.seed)
        self.trained = self.controlnet = ControlNetModel.from_unet(pipe.unet, **SMALL if settings.model == "tiny" else {})
        steered = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=self.controlnet)
        steered.set_progress_bar_config(disable=True)
        super().__init__(steered, settings)

    def predict(self, x: Tensor, t: Tensor, captions: list[str], examples: list[Example]) -> Tensor:
        context = self.contexts(captions)
        seen = torch.stack([to_tensor(self.condition(example)) / 2 + 0.5 for example in examples])  # (B, 3, H, W) in [0, 1]
        residuals = self.pipe.steer(x, t, context, [seen.to(x.device)], [1.0])
        return self.pipe.unet(x, t, context, **residuals).sample

    def condition(self, example: Example) -> Image.Image:
        assert example.condition and self.settings.size
        return fitted(example.condition, self.settings.size)

    def rows(self, examples: Sequence[Example]) -> list[list[Image.Image]]:
        """The conditioning image and the images drawn with it, per example."""
        prompts = self.settings.prompt or [example.captions[0] for example in examples]
        rows = []
        for prompt, example in list(zip(prompts, examples))[: self.ROWS]:
            noise = [torch.Generator().manual_seed(i) for i in range(self.COLUMNS - 1)]
            seen = self.condition(example)
            images = self.pipe([prompt] * len(noise), seen, num_inference_steps=self.STEPS, generator=noise).images
            assert isinstance(images, list)
            rows.append([seen, *images])
        return rows

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        """Write a folder that minisd and diffusers load."""
        self.controlnet.save_pretrained(folder / "controlnet")
        return folder / "controlnet"
