"""CLIP's two transformers: the text tower that tells Stable Diffusion what to draw, and the vision tower that judges pictures.

Radford et al. 2021. Shapes: ids (B, T) with T = 77, text states (B, T, D), pixels (B, 3, H, W).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .checkpoint import Pretrained
from .config import CLIPTextConfig, CLIPVisionConfig
from .layers import Attention


def quick_gelu(x: Tensor) -> Tensor:
    """OpenAI's cheap stand-in for GELU, which its weights were trained with (Hendrycks & Gimpel 2016, §2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class CLIPTextOutput(NamedTuple):
    last_hidden_state: Tensor
    pooler_output: Tensor


class TransformerBlock(nn.Module):
    """Attention, then a two-layer MLP, each normalised before and added after (Radford et al. 2019, §2.3)."""

    def __init__(self, config: CLIPTextConfig | CLIPVisionConfig):
        super().__init__()
        dim = config.hidden_size
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = Attention(dim, config.num_attention_heads, qkv_bias=True)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.fc1 = nn.Linear(dim, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, dim)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.norm1(x), causal=causal)
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))


class CLIPTextModel(Pretrained, nn.Module):
    """Token ids become states that the UNet attends to. Padding is not masked: only the future is."""

    component, config_class = "text_encoder", CLIPTextConfig
    weights_name = "model"

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def forward(self, input_ids: Tensor) -> CLIPTextOutput:
        """Ids (B, T) → the states of all tokens (B, T, D) and that of the end token (B, D)."""
        x = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]  # (B, T, D)
        for block in self.blocks:
            x = block(x, causal=True)
        x = self.final_norm(x)
        end = input_ids.argmax(dim=1)  # the end token has the highest id of all
        return CLIPTextOutput(x, x[torch.arange(len(x)), end])


class CLIPVisionModel(nn.Module):
    """A vision transformer: the picture's patches and one class token in, the class token's state out."""

    def __init__(self, config: CLIPVisionConfig):
        super().__init__()
        self.config = config
        dim, patches = config.hidden_size, (config.image_size // config.patch_size) ** 2
        self.class_embedding = nn.Parameter(nn.init.normal_(torch.empty(dim), std=dim**-0.5))
        self.patch_embedding = nn.Conv2d(3, dim, config.patch_size, stride=config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(1 + patches, dim)
        self.pre_norm = nn.LayerNorm(dim, eps=1e-5)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.num_hidden_layers))
        self.post_norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, image_size, image_size) → (B, D)."""
        patches = rearrange(self.patch_embedding(pixels), "B D h w -> B (h w) D")
        x = torch.cat([self.class_embedding.expand(len(pixels), 1, -1), patches], dim=1)
        x = self.pre_norm(x + self.position_embedding.weight)
        for block in self.blocks:
            x = block(x)
        return self.post_norm(x[:, 0])
