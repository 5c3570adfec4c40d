"""Runs the VAE on overlapping tiles of a large image, with the memory of one tile, and blends the seams.

The image is nearly the same. Group normalisation and attention see one tile at a time, so colours may shift slightly between tiles.
"""

from collections.abc import Callable

import torch
from torch import Tensor

OVERLAP = 0.25  # the overlap of neighbouring tiles, as a share of a tile, as in diffusers


def in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, out_tile: int) -> Tensor:
    """Apply `function` to tiles of x (B, C, h, w), each `tile` wide, and join its outputs, each `out_tile` wide."""
    stride, seam = int(tile * (1 - OVERLAP)), int(out_tile * OVERLAP)
    rows: list[list[Tensor]] = []
    for top in range(0, x.shape[-2], stride):
        row: list[Tensor] = []
        for left in range(0, x.shape[-1], stride):
            piece = function(x[..., top : top + tile, left : left + tile])
            if rows:
                fade(rows[-1][len(row)], piece, -2, seam)
            if row:
                fade(row[-1], piece, -1, seam)
            row.append(piece)
        rows.append(row)
    keep = out_tile - seam
    return torch.cat([torch.cat([piece[..., :keep, :keep] for piece in row], -1) for row in rows], -2)


def fade(before: Tensor, piece: Tensor, dim: int, seam: int):
    """Blend the start of a tile with the end of its neighbour, linearly over the width of the seam."""
    seam = min(seam, before.shape[dim], piece.shape[dim])
    share = torch.arange(seam, dtype=piece.dtype, device=piece.device) / seam
    share = share if dim == -1 else share[:, None]
    begin = piece.narrow(dim, 0, seam)
    begin.copy_(before.narrow(dim, before.shape[dim] - seam, seam) * (1 - share) + begin * share)
