"""CLIP's text encoder, which tells Stable Diffusion what to draw (Radford et al. 2021); clip_vision.py has the image encoder.

Shapes: ids (B, T) with T = 77, text states (B, T, D).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import CLIPTextConfig, CLIPVisionConfig
from .layers import Attention
from .pretrained import Pretrained


def quick_gelu(x: Tensor) -> Tensor:
    """A cheap approximation of GELU, used in OpenAI's CLIP (Hendrycks & Gimpel 2016, §2)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class CLIPTextOutput(NamedTuple):
    last_hidden_state: Tensor


class CLIPLayer(nn.Module):
    """Attention, then a two-layer MLP, each with pre-normalisation and a residual connection (Radford et al. 2019, §2.3)."""

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
        x = x + self.attn(self.norm1(x), causal=causal)  # (B, T, D): tokens exchange information
        return x + self.fc2(self.activation(self.fc1(self.norm2(x))))  # (B, T, D): acts on each token separately


class CLIPTextModel(Pretrained, nn.Module):
    """Token ids → the text states that the UNet attends to. The causal mask hides later tokens; no mask hides the padding."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(CLIPLayer(config) for _ in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=1e-5)

    def forward(self, input_ids: Tensor) -> CLIPTextOutput:
        """Ids (B, T) → `.last_hidden_state` (B, T, D)."""
        x = self.token_embedding(input_ids) + self.position_embedding.weight[: input_ids.shape[1]]  # (B, T, D)
        for block in self.blocks:
            x = block(x, causal=True)
        return CLIPTextOutput(self.final_norm(x))
