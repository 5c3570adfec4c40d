"""Raise on NaN or infinity instead of drawing a black image, and warn about images of a single colour."""

import warnings

import torch
from torch import Tensor


class ImageWarning(UserWarning):
    """An image was drawn, but it shows nothing."""


def raise_unless_finite(x: Tensor, what: str, dtype: torch.dtype):
    """Raises FloatingPointError, with a remedy, if x, computed by a network of this dtype, has NaN or infinity."""
    if x.isfinite().all():
        return
    if dtype == torch.float16:
        remedy = "float16 ends at 65,504; take bfloat16 or float32, as in .to(torch.float32)"
    else:
        remedy = "weights are damaged, or guidance_scale or the given latents too large"
    raise FloatingPointError(f"NaN or infinity in {what}: {remedy}")


def warn_if_flat(images: Tensor):
    """Warns about images (B, 3, H, W) in [-1, 1] that would be saved as one single colour."""
    shown = images.float().clamp(-1, 1)
    flat = (shown.amax(dim=(2, 3)) - shown.amin(dim=(2, 3)) < 1 / 255).all(dim=1)  # half a step of 8 bits
    for i in flat.nonzero().flatten().tolist():
        warnings.warn(f"picture {i} is all of one colour: another dtype, guidance_scale or seed may help", ImageWarning, 4)
