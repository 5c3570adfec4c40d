"""Raise on NaN or infinity instead of drawing a black image, and warn about images of a single colour."""

import warnings

import torch
from torch import Tensor


class ImageWarning(UserWarning):
    """An image was drawn but shows nothing useful."""


def raise_unless_finite(x: Tensor, what: str, dtype: torch.dtype):
    """Raise FloatingPointError, with a remedy, if x contains NaN or infinity. `dtype` is that of the network that computed x."""
    if x.isfinite().all():
        return
    if dtype == torch.float16:
        remedy = "float16 overflows above 65,504; use bfloat16 or float32, as in .to(torch.float32)"
    else:
        remedy = "the weights are damaged, or guidance_scale or the given latents are too large"
    raise FloatingPointError(f"NaN or infinity in {what}: {remedy}")


def warn_if_flat(images: Tensor):
    """Warn about images (B, 3, H, W) in [-1, 1] that would be saved as a single colour."""
    shown = images.float().clamp(-1, 1)
    flat = (shown.amax(dim=(2, 3)) - shown.amin(dim=(2, 3)) < 1 / 255).all(dim=1)  # half of one 8-bit level
    for i in flat.nonzero().flatten().tolist():
        warnings.warn(f"image {i} is a single colour; try another dtype, guidance_scale or seed", ImageWarning, 4)
