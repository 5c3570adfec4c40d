"""Distortion, blur and noise as a model might produce them. The second judge is trained on them; both judges are tested on them."""

import torch
import torch.nn.functional as F
from torch import Tensor

BEND = 5  # points per side of the grid that distorts an image


def worn(pictures: Tensor, noise: Tensor, strength: Tensor) -> Tensor:
    """Distort, blur and noise images (B, 3, h, w). `strength` (B, 3) in [0, 1] is the amount of each; `noise` has their shape."""
    bend, blur, grain = strength.view(-1, 3, 1, 1, 1).unbind(dim=1)
    shifts = F.interpolate(noise[:, :2, :BEND, :BEND].clamp(-2, 2), size=pictures.shape[-2:], mode="bicubic") * 0.04
    straight = torch.eye(2, 3, dtype=pictures.dtype, device=pictures.device).expand(len(pictures), 2, 3)
    grid = F.affine_grid(straight, list(pictures.shape), align_corners=False)
    bent = F.grid_sample(pictures, grid + (bend * shifts).permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(F.pad(bent, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return torch.lerp(bent, soft, blur) + 0.12 * grain * noise
