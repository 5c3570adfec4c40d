"""CLIP's image encoder, a vision transformer (Dosovitskiy et al. 2021), used by the safety checker.

Shapes: pixels (B, 3, H, W), class token and patches (B, 1 + h·w, D).
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from .clip import CLIPLayer
from .config import CLIPVisionConfig


class CLIPVisionModel(nn.Module):
    """Encodes the patches of an image and a class token, and returns the state of the class token."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        dim, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(dim), std=dim**-0.5))
        self.patch_embedding = nn.Conv2d(3, dim, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(1 + patches, dim)
        self.pre_norm = nn.LayerNorm(dim, eps=1e-5)
        self.blocks = nn.ModuleList(CLIPLayer(config) for _ in range(config.num_hidden_layers))
        self.post_norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, image_size, image_size) → (B, D)."""
        patches = rearrange(self.patch_embedding(pixels), "B D h w -> B (h w) D")
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)  # (B, 1 + h·w, D)
        x = self.pre_norm(x + self.position_embedding.weight)
        for block in self.blocks:
            x = block(x)
        return self.post_norm(x[:, 0])
