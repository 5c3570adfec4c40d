"""Scales and crops images to one size and encodes them once, since the UNet only needs their latents."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor

from ..editing.pictures import upright
from ..open_image import open_image
from ..processes import rank_and_world
from ..train.state import read_state, write_state
from ..train.unet import encoded
from ..vae import AutoencoderKL
from .examples import Example, named


def fitted(path: Path, size: int) -> Image.Image:
    """The centre of an image, as a square of `size` × `size` pixels."""
    return ImageOps.fit(upright(open_image(path), "RGB"), (size, size), Image.Resampling.LANCZOS)


def survey(examples: Sequence[Example], size: int) -> str:
    """Open all images and report how many are cropped or enlarged. Raises ValueError if some cannot be read or do not match."""
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
        raise ValueError(f"{pictures} of {len(examples)} images cannot be read; repair or remove them ({unreadable[0][1]})")
    if unlike:
        raise ValueError(f"{named(unlike)} of {len(examples)} images have a different aspect ratio from their conditioning images")
    counts = {"cropped to the centre": len(cropped), "enlarged": len(enlarged)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{len(examples)} image{'s' * (len(examples) > 1)} of {size}×{size} pixels" + (f": {said}" if said else "")


def cached_latents(file: Path, vae: AutoencoderKL, pictures: Sequence[Path], size: int) -> Tensor:
    """The scaled latents of the images, (N, 4, h, w) in float16, read from `file`, or computed and written to it."""
    if file.exists():
        return read_state(file)["latents"]
    latents = encoded(vae, lambda i: fitted(pictures[i], size), len(pictures))
    if rank_and_world()[0] == 0:
        write_state(file, {"latents": latents})
    return latents
