"""Pictures of any size, fitted to one size and encoded once: the UNet learns from latents, so the VAE need not run again."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ..editing.pictures import upright
from ..image import to_tensor
from ..open_image import open_image
from ..processes import from_all, rank_and_world
from ..train.loop import device
from ..train.state import read_state, write_state
from ..vae import AutoencoderKL
from .examples import Example, named

BATCH = 4  # pictures that are encoded at once


def fitted(path: Path, size: int) -> Image.Image:
    """The middle of a picture, as a square of `size` pixels a side."""
    return ImageOps.fit(upright(open_image(path), "RGB"), (size, size), Image.Resampling.LANCZOS)


def survey(examples: Sequence[Example], size: int) -> str:
    """Open every picture, and say how many change how. Raises ValueError that names those that cannot be read or do not match."""
    cropped, enlarged, unreadable, unlike = [], [], [], []
    for example in examples:
        try:
            width, height = ImageOps.exif_transpose(open_image(example.picture)).size
            other = ImageOps.exif_transpose(open_image(example.condition)).size if example.condition else (width, height)
        except ValueError as error:
            unreadable.append((example.picture, error))
            continue
        cropped += [example.picture] * (max(width, height) * size > min(width, height) * (size + 0.5))
        enlarged += [example.picture] * (min(width, height) < size)
        unlike += [example.picture] * (abs(width * other[1] - height * other[0]) > max(width, height))
    if unreadable:
        pictures = named([path for path, _ in unreadable])
        raise ValueError(f"{pictures} of {len(examples)} pictures cannot be read; mend or remove them ({unreadable[0][1]})")
    if unlike:
        raise ValueError(f"{named(unlike)} of {len(examples)} pictures have another shape than what a ControlNet is to see of them")
    counts = {"cropped to the middle": len(cropped), "enlarged": len(enlarged)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{len(examples)} picture{'s' * (len(examples) > 1)} of {size}×{size} pixels" + (f": {said}" if said else "")


@torch.no_grad()
def cached_latents(file: Path, vae: AutoencoderKL, pictures: Sequence[Path], size: int) -> Tensor:
    """The scaled latents of the pictures, (N, 4, h, w) in float16; each process encodes its share. What `file` has is read."""
    if file.exists():
        return read_state(file)["latents"]
    rank, world = rank_and_world()
    share = [pictures[i % len(pictures)] for i in range(rank, world * math.ceil(len(pictures) / world), world)]
    parts = []
    for first in tqdm(range(0, len(share), BATCH), "latents", disable=True if rank else None):
        x = torch.stack([to_tensor(fitted(path, size)) for path in share[first : first + BATCH]]).to(device())
        parts.append((vae.encode(x).latent_dist.mode() * vae.config.scaling_factor).half())
    latents = torch.stack(from_all(torch.cat(parts)), dim=1).flatten(0, 1)[: len(pictures)].cpu()
    if rank == 0:
        write_state(file, {"latents": latents})
    return latents
