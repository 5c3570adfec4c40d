"""Conversion between PIL images and tensors in [-1, 1]."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """An image → (3, H, W) in [-1, 1], float32."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def to_pil(x: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] → B images; values are rounded, not truncated, to 8 bits."""
    pixels = (x.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray((255 * picture).round().astype("uint8")) for picture in pixels]
