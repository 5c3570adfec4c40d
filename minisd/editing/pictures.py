"""Reads input images: PIL images, arrays or tensors, one or a list, as one tensor. Also finds sizes that a model supports.

Values are bytes (0 to 255), 16-bit integers, or floats from 0 to 1. Arrays are channels-last, tensors channels-first.
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

FULL = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}  # the value of white in each integer type
LUMA = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float32, device="cpu").view(
    3, 1, 1
)  # luma weights of red, green and blue (ITU-R BT.601, as PIL's "L")


def read_pictures(image: Pictures) -> Tensor:
    """Images → (k, 3, H, W) in [-1, 1], rotated as their EXIF says, grey as RGB, transparent parts white."""
    pictures = [over(picture, 1.0) for picture in separate(image, "picture")]
    return 2 * stack([picture.expand(3, -1, -1) for picture in pictures], "pictures") - 1


def read_masks(mask: Pictures) -> Tensor:
    """Masks → (k, 1, H, W): 1 (redraw) where they are white (brightness 0.5 or more); 0 elsewhere and where transparent."""
    masks = [over(mask, 0.0) for mask in separate(mask, "mask")]
    bright = [(mask * LUMA).sum(dim=0, keepdim=True) if len(mask) == 3 else mask for mask in masks]
    return (stack(bright, "masks") >= 0.5).float()


def separate(given: Any, what: str) -> list[Tensor]:
    """Each image or mask as a (C, H, W) tensor in [0, 1], where C is 1, 3, or 4 with alpha."""
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError(f"give at least one {what}, not an empty list")
        return [one for each in given for one in separate(each, what)]
    if isinstance(given, Image.Image):
        return [fractions(torch.from_numpy(pixels(given)), what).permute(2, 0, 1)]
    if not isinstance(given, np.ndarray | Tensor):
        kinds = f"a {what} must be a PIL image, an array (H, W, 3) or a tensor (3, H, W)"
        raise TypeError(f"{kinds}, not {given!r}"[:150] + "; open files with Image.open")
    if isinstance(given, Tensor) and given.is_meta:
        raise ValueError(f"a {what} on the meta device has no values; give one on the CPU")
    if given.ndim in (2, 3, 4) and 0 not in given.shape:
        x = first_channels(given, what)
        if x.shape[1] == 4 and isinstance(given, Tensor):
            raise ValueError(f"a {what} tensor must have 1 or 3 channels, not 4; drop its alpha channel, or decode latents first")
        if x.shape[1] in (1, 3, 4):
            return list(fractions(x, what))
    raise ValueError(f"a {what} has an invalid shape {tuple(given.shape)}: arrays must be (H, W, 3), tensors (3, H, W)")


def first_channels(given: np.ndarray | Tensor, what: str) -> Tensor:
    """An array or a tensor as (k, C, H, W). A mask with three dimensions is a batch without channels, (k, H, W)."""
    if isinstance(given, Tensor):
        planes = given.ndim == 2 or (what == "mask" and given.ndim == 3)
        return given.detach().cpu().reshape(-1, *((1, *given.shape[-2:]) if planes else given.shape[-3:]))
    x = torch.from_numpy(np.ascontiguousarray(given))
    planes = x.ndim == 2 or (what == "mask" and x.ndim == 3 and x.shape[-1] not in (1, 3, 4))
    return x.reshape(-1, 1, *x.shape[-2:]) if planes else x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """An image as the pipelines see it ("RGB"), or a mask ("L"), in 8 bits."""
    if mode == "L":
        return Image.fromarray((255 * read_masks(image)[0, 0]).byte().numpy())
    return to_pil(read_pictures(image))[0]


def pixels(image: Image.Image) -> np.ndarray:
    """An image as (H, W, C) at its own bit depth: bytes, or 16-bit grey. Raises ValueError for floats."""
    opened_as, image = image.format, ImageOps.exif_transpose(image)
    if image.mode[0] == "I":
        return grey(np.asarray(image), deep=image.mode != "I" or opened_as == "PNG")[..., None]
    if image.mode == "F":
        raise ValueError("a PIL image of floats has no defined white; give an array of values from 0 to 1 instead")
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def grey(numbers: np.ndarray, deep: bool) -> np.ndarray:
    """Integers as 16 bits ("I;16", or a PNG that old versions of Pillow opened as "I"), or as bytes if none is above 255."""
    if numbers.min() < 0 or numbers.max() > 65535:
        raise ValueError(f"the values of a PIL image must be from 0 to 65535, not from {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.uint16 if deep or numbers.max() > 255 else np.uint8)


def fractions(x: Tensor, what: str) -> Tensor:
    """Values of any depth → floats from 0 to 1. Raises TypeError or ValueError for other types or ranges."""
    if x.dtype in FULL:
        return x.float() / FULL[x.dtype]
    if not x.is_floating_point():
        raise TypeError(f"a {what} must have bytes, 16-bit integers or floats, not {str(x.dtype).removeprefix('torch.')}")
    if not (x.min() >= -1e-4 and x.max() <= 1 + 1e-4):  # also refuses NaN
        raise ValueError(f"the values of a {what} must be from 0 to 1, not from {float(x.min()):g} to {float(x.max()):g}")
    return x.float().clamp(0, 1)


def over(x: Tensor, background: float) -> Tensor:
    """(C, H, W), composited over a plain background if it has alpha."""
    return x[:3] * x[3:] + background * (1 - x[3:]) if len(x) == 4 else x


def stack(pictures: list[Tensor], what: str) -> Tensor:
    sizes = list(dict.fromkeys(f"{picture.shape[-1]}×{picture.shape[-2]}" for picture in pictures))
    if len(sizes) > 1:
        raise ValueError(f"the {what} of a call must have the same size, not {' and '.join(sizes[:2])}")
    return torch.stack(pictures)


def fitting_size(width: int, height: int, factor: int, most: int) -> tuple[int, int]:
    """The nearest width and height that are multiples of `factor`, with about the same aspect ratio and at most `most` pixels."""
    shrink = min(1.0, math.sqrt(most / (width * height)))
    nearest = [max(factor, round(side * shrink / factor) * factor) for side in (width, height)]
    return nearest[0], nearest[1]
