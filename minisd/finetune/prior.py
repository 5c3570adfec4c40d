"""Class images: the model generates them before training and then trains on them too, to forget less (Ruiz et al. 2023, §3.3)."""

import torch
from tqdm import tqdm

from ..disk import replacing
from ..pipeline import StableDiffusionPipeline
from ..processes import rank_and_world, wait_for_all
from .examples import Example
from .settings import Settings

FOLDER = "class"


def class_examples(pipe: StableDiffusionPipeline, settings: Settings) -> list[Example]:
    """`settings.class_images` class images, each with its own seed; prompts take turns. Existing files are kept."""
    if not settings.class_prompt:
        return []
    folder, prompts = settings.training / FOLDER, settings.class_prompt
    folder.mkdir(parents=True, exist_ok=True)
    examples = [Example(folder / f"{i:05}.png", (prompts[i % len(prompts)],)) for i in range(settings.class_images)]
    rank, world = rank_and_world()
    for i in tqdm(range(rank, len(examples), world), "class images", disable=True if rank else None):
        if not examples[i].picture.exists():
            noise = torch.Generator().manual_seed(settings.seed + i)
            (image,) = pipe(examples[i].captions[0], settings.size, settings.size, generator=noise).images
            with replacing(examples[i].picture) as partial:
                image.save(partial)
    wait_for_all()
    return examples
