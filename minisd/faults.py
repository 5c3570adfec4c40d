"""Numbers gone wrong are said, not drawn: a NaN would be a black picture, and nobody would know why."""

import warnings

import torch
from torch import Tensor


class PictureWarning(UserWarning):
    """A picture was drawn, and yet there is nothing to be seen in it."""


def refuse_faults(x: Tensor, what: str, dtype: torch.dtype):
    """Raises FloatingPointError, with the way out, if there is NaN or infinity in what a network of this dtype computed."""
    if x.isfinite().all():
        return
    if dtype == torch.float16:
        way_out = "float16 ends at 65,504; take bfloat16 or float32, as in .to(torch.float32)"
    else:
        way_out = "weights are damaged, or guidance_scale or the given latents too large"
    raise FloatingPointError(f"NaN or infinity in {what}: {way_out}")


def warn_if_flat(pictures: Tensor):
    """Warns of pictures (B, 3, H, W) in [-1, 1] that would be saved in one single colour."""
    shown = pictures.float().clamp(-1, 1)
    flat = (shown.amax(dim=(2, 3)) - shown.amin(dim=(2, 3)) < 1 / 255).all(dim=1)  # half a step of 8 bits
    for i in flat.nonzero().flatten().tolist():
        warnings.warn(f"picture {i} is all of one colour: another dtype, guidance_scale or seed may help", PictureWarning, 4)
