"""A UNet that takes the guidance scale as an input and predicts the guided noise in one call (Meng et al. 2023, §3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .config import UNetConfig
from .unet import UNet2DConditionModel, UNet2DConditionOutput


@dataclass(frozen=True)
class GuidedUNetConfig(UNetConfig):
    time_cond_proj_dim: int = 256  # the dimension of the scale's embedding


def scale_embedding(guidance_scale: float, dim: int, device: torch.device) -> Tensor:
    """Sinusoids of 1000 · (w − 1), sines first: (dim,) in float32."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=device) / (half - 1))
    angles = 1000 * (guidance_scale - 1) * frequencies
    return torch.cat([angles.sin(), angles.cos()])


class GuidedUNet(UNet2DConditionModel):
    """A UNet that adds a projection of the scale's embedding to the timestep's sinusoids."""

    def __init__(self, config: GuidedUNetConfig):
        super().__init__(config)
        self.time_embedding.cond_proj = nn.Linear(config.time_cond_proj_dim, config.block_out_channels[0], bias=False)

    def forward(  # type: ignore[override]
        self, sample: Tensor, timestep: Tensor | float, encoder_hidden_states: Tensor, guidance_scale: float
    ) -> UNet2DConditionOutput:
        """As for the UNet; `guidance_scale` must be 1 or more."""
        project: nn.Linear = self.time_embedding.cond_proj  # type: ignore[assignment]
        scale = scale_embedding(guidance_scale, project.in_features, sample.device).to(sample.dtype)
        hook = self.time_embedding.register_forward_pre_hook(lambda module, given: given[0] + project(scale))
        try:
            return super().forward(sample, timestep, encoder_hidden_states)
        finally:
            hook.remove()
