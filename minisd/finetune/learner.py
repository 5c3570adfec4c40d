"""What all methods share: a frozen checkpoint, and a module beside or inside it that is trained."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..sheet import image_grid
from .examples import Example
from .settings import Settings

CAPTIONS = 1000  # size of the cache of text states


class Learner:
    """Base class of the methods. A method sets `trained` and defines the prediction and the written file."""

    ROWS, COLUMNS, STEPS = 4, 4, 20  # of the sample sheet

    trained: nn.Module
    teaches_text = False  # whether gradients go through the text encoder

    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        self.pipe, self.settings = pipe, settings
        self.states = lru_cache(CAPTIONS)(self.states_of)

    @torch.no_grad()
    def states_of(self, caption: str) -> Tensor:
        return self.pipe.encode_prompt([caption])[0]

    def contexts(self, captions: list[str]) -> Tensor:
        """Text states (B, 77, D), computed once per caption unless the text encoder is trained."""
        return self.pipe.encode_prompt(captions) if self.teaches_text else torch.stack([self.states(text) for text in captions])

    def predict(self, x: Tensor, t: Tensor, captions: list[str], examples: list[Example]) -> Tensor:
        """See `objective.Predict`."""
        return self.pipe.unet(x, t, self.contexts(captions)).sample

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        """Write the result into the folder and return its path. Safetensors files get the notes as metadata."""
        raise NotImplementedError

    def show_with(self, examples: Sequence[Example]):
        """A function that draws a sample sheet, always from the same noise."""

        @torch.no_grad()
        def show(average: nn.Module, path: Path) -> dict[str, float]:
            with lent(self.trained, average):
                rows = self.rows(examples)
            with replacing(path) as partial:
                image_grid([picture for row in rows for picture in row], len(rows), self.COLUMNS).save(partial)
            return {}

        return show

    def rows(self, examples: Sequence[Example]) -> list[list[Image.Image]]:
        """A row for each prompt."""
        captions = dict.fromkeys(caption for example in examples for caption in example.captions)
        size, rows = self.settings.size, []
        for prompt in self.settings.prompt or list(captions)[: self.ROWS]:
            noise = [torch.Generator().manual_seed(i) for i in range(self.COLUMNS)]
            images = self.pipe([prompt] * self.COLUMNS, size, size, num_inference_steps=self.STEPS, generator=noise).images
            assert isinstance(images, list)
            rows.append(images)
        return rows


@contextmanager
def lent(module: nn.Module, other: nn.Module) -> Iterator[None]:
    """Swap the weights of two modules inside the context."""

    def exchange():
        for one, two in zip(module.parameters(), other.parameters()):
            one.data, two.data = two.data, one.data

    exchange()
    try:
        yield
    finally:
        exchange()
