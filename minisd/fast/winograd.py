"""A 3×3 convolution with 16 multiplications per 2×2 outputs instead of 36 (Winograd 1980; Lavin & Gray 2016, §4.1).

Two outputs of a convolution with three weights g share most of their inputs d, and four products are enough for both:

    d₀g₀ + d₁g₁ + d₂g₂ = m₀ + m₁ + m₂      m₀ = (d₀ − d₂) g₀                 m₂ = (d₂ − d₁)(g₀ − g₁ + g₂)/2
    d₁g₀ + d₂g₁ + d₃g₂ = m₁ − m₂ − m₃      m₁ = (d₁ + d₂)(g₀ + g₁ + g₂)/2    m₃ = (d₁ − d₃) g₂

In two dimensions, this applies to rows and columns: a tile of 4×4 input pixels gives 2×2 output pixels with 4·4 products instead of
4·9. The transforms of d and m need only sums, and the transform of g is done once. Summed over all channels, the products are 16
matrix products.
"""

import math

import torch
from torch import Tensor

G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
TILES = 512  # tiles computed at a time, few enough to fit into the processor's cache


def transform_weight(weight: Tensor) -> Tensor:
    """G g Gᵀ: weights (O, C, 3, 3) → (16, C, O), columns of a tile before rows."""
    out_channels, channels = weight.shape[:2]
    g = torch.tensor(G, dtype=weight.dtype, device=weight.device)
    both = torch.einsum("ai, bj -> baij", g, g).reshape(16, 9)
    return (both @ weight.reshape(-1, 9).T).view(16, out_channels, channels).transpose(1, 2)


def transform_input(d: Tensor, out: Tensor):
    """Bᵀ d: d (…, 4) → out (4, …)."""
    d0, d1, d2, d3 = d.unbind(-1)
    torch.sub(d0, d2, out=out[0])
    torch.add(d1, d2, out=out[1])
    torch.sub(d2, d1, out=out[2])
    torch.sub(d1, d3, out=out[3])


def transform_products(m: Tensor) -> tuple[Tensor, Tensor]:
    """Aᵀ m: the two outputs from the four products m (4, …)."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]


def winograd(x: Tensor, transformed_weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, C, h, w), transformed weights (16, C, O), bias (O,) → (B, O, h, w), channels last in memory."""
    B, C, h, w = x.shape
    rows, columns = math.ceil(h / 2), math.ceil(w / 2)  # numbers of tiles
    out_channels = len(bias)
    padded = x.new_zeros(B, 2 * rows + 2, 2 * columns + 2, C)
    padded[:, 1 : h + 1, 1 : w + 1] = x.permute(0, 2, 3, 1)
    y = x.new_empty(B, rows, 2, columns, 2, out_channels)
    strip = max(1, TILES // (B * columns))  # rows of tiles at a time
    for row in range(0, rows, strip):
        r = min(strip, rows - row)
        d = padded[:, 2 * row : 2 * (row + r) + 2]
        vertical = x.new_empty(4, B, r, 2 * columns + 2, C)
        transform_input(d.unfold(1, 4, 2), vertical)
        v = x.new_empty(4, 4, B, r, columns, C)  # horizontal transform first, then the vertical one
        transform_input(vertical.unfold(3, 4, 2), v)
        m = (v.view(16, -1, C) @ transformed_weight).view(4, 4, B, r, columns, out_channels)
        for j, column in enumerate(transform_products(m)):
            for i, pixels in enumerate(transform_products(column)):
                torch.add(pixels, bias, out=y[:, row : row + r, i, :, j])
    return y.view(B, 2 * rows, 2 * columns, out_channels)[:, :h, :w].permute(0, 3, 1, 2)
