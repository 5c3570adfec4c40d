"""What all methods have in common: a checkpoint that stays as it is, and a small module beside or inside it that learns."""

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

CAPTIONS = 1000  # whose states are kept


class Learner:
    """A method. It sets `trained`, and says how to predict and what to write."""

    ROWS, COLUMNS, STEPS = 4, 4, 20  # of the sheet, and in which its pictures are drawn

    trained: nn.Module
    teaches_text = False  # whether gradients go through the text encoder

    def __init__(self, pipe: StableDiffusionPipeline, settings: Settings):
        self.pipe, self.settings = pipe, settings
        self.states = lru_cache(CAPTIONS)(self.states_of)

    @torch.no_grad()
    def states_of(self, caption: str) -> Tensor:
        return self.pipe.encode_prompt([caption])[0]

    def contexts(self, captions: list[str]) -> Tensor:
        """Text states (B, 77, D), which are computed once for each caption unless they learn."""
        return self.pipe.encode_prompt(captions) if self.teaches_text else torch.stack([self.states(text) for text in captions])

    def predict(self, x: Tensor, t: Tensor, captions: list[str], examples: list[Example]) -> Tensor:
        """As `Predict` of the objective."""
        return self.pipe.unet(x, t, self.contexts(captions)).sample

    def write(self, folder: Path, notes: dict[str, str]) -> Path:
        """Write what was learnt into the folder, with notes where a file has a place for them; returns its path."""
        raise NotImplementedError

    def show_with(self, examples: Sequence[Example]):
        """Sheets of pictures, always from the same noise."""

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
    """Inside, the first module has the weights of the second, and the second those of the first."""

    def exchange():
        for one, two in zip(module.parameters(), other.parameters()):
            one.data, two.data = two.data, one.data

    exchange()
    try:
        yield
    finally:
        exchange()
