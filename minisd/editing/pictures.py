"""Pictures in: PIL images, arrays and tensors, one or a list of them, as one tensor; and the sizes that fit a model.

Numbers are bytes (0 to 255), 16-bit numbers, or fractions from 0 to 1. Arrays have their channels last, tensors first.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..image import to_pil

Picture = Image.Image | np.ndarray | Tensor
Pictures = Picture | Sequence[Picture]

FULL = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}  # white, in each type that is not a fraction
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu").view(
    3, 1, 1
)  # how bright red, green and blue are (ITU-R BT.601, as PIL's "L")


def read_pictures(image: Pictures) -> Tensor:
    """Pictures as (k, 3, H, W) in [-1, 1]: turned upright as their EXIF says, grey as colour, transparent parts white."""
    pictures = [over(picture, 1.0) for picture in separate(image, "picture")]
    return 2 * stack([picture.expand(3, -1, -1) for picture in pictures], "pictures") - 1


def read_masks(mask: Pictures) -> Tensor:
    """Masks as (k, 1, H, W): 1 where they are white (brightness 0.5 or more), to draw anew; 0 elsewhere and where transparent."""
    masks = [over(mask, 0.0) for mask in separate(mask, "mask")]
    bright = [(mask * LUMA).sum(dim=0, keepdim=True) if len(mask) == 3 else mask for mask in masks]
    return (stack(bright, "masks") >= 0.5).float()


def separate(given: Any, what: str) -> list[Tensor]:
    """Every picture or mask as its own (C, H, W) in [0, 1], where C is 1, 3, or 4 with opacity."""
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError(f"give at least one {what}, not an empty list")
        return [one for each in given for one in separate(each, what)]
    if isinstance(given, Image.Image):
        return [fractions(torch.from_numpy(pixels(given)), what).permute(2, 0, 1)]
    if not isinstance(given, np.ndarray | Tensor):
        kinds = f"a {what} is a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
        raise TypeError(f"{kinds}, not {given!r}"[:150] + "; open a file by Image.open")
    if isinstance(given, Tensor) and given.is_meta:
        raise ValueError(f"a {what} on the meta device has no numbers; give one on the cpu")
    if given.ndim in (2, 3, 4) and 0 not in given.shape:
        x = first_channels(given, what)
        if x.shape[1] == 4 and isinstance(given, Tensor):
            raise ValueError(f"a {what} as a tensor has 1 or 3 channels, not 4: leave out its opacity, or decode latents first")
        if x.shape[1] in (1, 3, 4):
            return list(fractions(x, what))
    raise ValueError(f"a {what} of shape {tuple(given.shape)} is not understood: arrays are (H, W, 3), tensors (3, H, W)")


def first_channels(given: np.ndarray | Tensor, what: str) -> Tensor:
    """An array or a tensor as (k, C, H, W). Masks of three dimensions are several without channels, (k, H, W)."""
    if isinstance(given, Tensor):
        planes = given.ndim == 2 or (what == "mask" and given.ndim == 3)
        return given.detach().cpu().reshape(-1, *((1, *given.shape[-2:]) if planes else given.shape[-3:]))
    x = torch.from_numpy(np.ascontiguousarray(given))
    planes = x.ndim == 2 or (what == "mask" and x.ndim == 3 and x.shape[-1] not in (1, 3, 4))
    return x.reshape(-1, 1, *x.shape[-2:]) if planes else x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """A picture as the pipelines see it ("RGB"), or a mask ("L"), in 8 bits."""
    if mode == "L":
        return Image.fromarray((255 * read_masks(image)[0, 0]).byte().numpy())
    return to_pil(read_pictures(image))[0]


def pixels(image: Image.Image) -> np.ndarray:
    """(H, W, C) with its own depth: bytes, or 16 bits of grey."""
    opened_as, image = image.format, ImageOps.exif_transpose(image)
    if image.mode[0] == "I":
        return grey(np.asarray(image), deep=image.mode != "I" or opened_as == "PNG")[..., None]
    if image.mode == "F":
        raise ValueError("a PIL image of floats has no known white; give its numbers from 0 to 1 as an array")
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def grey(numbers: np.ndarray, deep: bool) -> np.ndarray:
    """Whole numbers as 16 bits ("I;16", and a PNG that old versions of Pillow opened as "I"), or as bytes if none is above 255."""
    if numbers.min() < 0 or numbers.max() > 65535:
        raise ValueError(f"a PIL image of whole numbers goes from 0 to 65535 here, not from {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.uint16 if deep or numbers.max() > 255 else np.uint8)


def fractions(x: Tensor, what: str) -> Tensor:
    """Numbers of any depth as fractions of white."""
    if x.dtype in FULL:
        return x.float() / FULL[x.dtype]
    if not x.is_floating_point():
        raise TypeError(f"a {what} has bytes, 16-bit numbers or fractions from 0 to 1, not {str(x.dtype).removeprefix('torch.')}")
    if not (x.min() >= -1e-4 and x.max() <= 1 + 1e-4):  # also refuses NaN
        raise ValueError(f"a {what} in fractions goes from 0 to 1, not from {float(x.min()):g} to {float(x.max()):g}")
    return x.float().clamp(0, 1)


def over(x: Tensor, background: float) -> Tensor:
    """(C, H, W) with its transparent parts over a plain background; others as they are."""
    return x[:3] * x[3:] + background * (1 - x[3:]) if len(x) == 4 else x


def stack(pictures: list[Tensor], what: str) -> Tensor:
    sizes = list(dict.fromkeys(f"{picture.shape[-1]}×{picture.shape[-2]}" for picture in pictures))
    if len(sizes) > 1:
        raise ValueError(f"the {what} of a call must have one size, not {' and '.join(sizes[:2])}")
    return torch.stack(pictures)


def fitting_size(width: int, height: int, factor: int, most: int) -> tuple[int, int]:
    """The nearest width and height that are multiples of `factor`, of about the same shape and at most `most` pixels."""
    shrink = min(1.0, math.sqrt(most / (width * height)))
    nearest = [max(factor, round(side * shrink / factor) * factor) for side in (width, height)]
    return nearest[0], nearest[1]
