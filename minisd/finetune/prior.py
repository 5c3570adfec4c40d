"""Class images: the model generates them before training and then trains on them too, to forget less (Ruiz et al. 2023, §3.3)."""

import torch
from tqdm import tqdm

from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..processes import rank_and_world, wait_for_all
from .examples import Example
from .settings import Settings

FOLDER = "class"
BATCH = 4


def class_examples(pipe: StableDiffusionPipeline, settings: Settings) -> list[Example]:
    """`settings.class_images` class images, each with its own seed; prompts take turns. Existing files are kept."""
    if not settings.class_prompt:
        return []
    folder, prompts = settings.training / FOLDER, settings.class_prompt
    folder.mkdir(parents=True, exist_ok=True)
    examples = [Example(folder / f"{i:05}.png", (prompts[i % len(prompts)],)) for i in range(settings.class_images)]
    rank, world = rank_and_world()
    missing = [i for i in range(rank, len(examples), world) if not examples[i].picture.exists()]
    for first in tqdm(range(0, len(missing), BATCH), "class images", disable=True if rank else None):
        batch = missing[first : first + BATCH]
        noise = [torch.Generator().manual_seed(settings.seed + i) for i in batch]
        captions = [examples[i].captions[0] for i in batch]
        for i, image in zip(batch, pipe(captions, settings.size, settings.size, generator=noise).images):
            with replacing(examples[i].picture) as partial:
                image.save(partial)
    wait_for_all()
    return examples
