"""ControlNet: a copy of the UNet's down and mid blocks that sees a control image and steers the UNet (Zhang et al. 2023, §3).

The copy adds an encoding of the image (edges, a pose, depth) to its first feature map. Each output passes through a 1×1 convolution
initialised to zero, so that training starts from the unchanged UNet, and is added to the UNet's skip connections.

Shapes: as in unet.py; the image is (B, 3, H, W) in [0, 1] with H = 8 h.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .compiled import uncompiled
from .config import UNetConfig
from .layers import timestep_embedding
from .pretrained import Pretrained
from .unet import DownBlock, MidBlock, TimestepEmbedding, UNet2DConditionModel, UNet2DConditionOutput


@dataclass(frozen=True)
class ControlNetConfig(UNetConfig):
    """The UNet's configuration; a ControlNet has no up blocks."""

    conditioning_embedding_out_channels: tuple[int, int, int, int] = (16, 32, 96, 256)


class ControlNetOutput(NamedTuple):
    """The residuals for the UNet's skip connections, in order, and for the output of its mid block."""

    down_block_res_samples: list[Tensor]
    mid_block_res_sample: Tensor


class HintEncoder(nn.ModuleList):
    """Eight convolutions that bring an image to the size and width of the first feature map; three of them have stride 2."""

    def __init__(self, widths: tuple[int, ...], out_channels: int):
        layers = [nn.Conv2d(3, widths[0], 3, padding=1)]
        for width, following in zip(widths, widths[1:]):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, following, 3, padding=1, stride=2)]
        super().__init__([*layers, zeroed(nn.Conv2d(widths[-1], out_channels, 3, padding=1))])

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C, H/8, W/8)."""
        *layers, last = self
        for layer in layers:
            x = F.silu(layer(x))
        return last(x)


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer's weights and bias to zero, so that it outputs zeros until it is trained."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ControlNetModel(Pretrained, nn.Module):
    """The time embedding, down blocks and mid block of a UNet, an image encoder, and a zero convolution after every output."""

    def __init__(self, config: ControlNetConfig):
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.hint = HintEncoder(config.conditioning_embedding_out_channels, widths[0])
        self.down_blocks = nn.ModuleList(DownBlock(before, level, config) for level, before in enumerate((widths[0], *widths[:-1])))
        self.mid_block = MidBlock(config)
        outputs = [widths[0]]
        for level, width in enumerate(widths):
            outputs += [width] * (config.layers_per_block + (level < len(widths) - 1))
        self.zero_convs = nn.ModuleList(zeroed(nn.Conv2d(width, width, 1)) for width in outputs)
        self.mid_zero_conv = zeroed(nn.Conv2d(widths[-1], widths[-1], 1))

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, **changes: Any) -> Self:
        """A new ControlNet with the UNet's weights, for training. Until it is trained, it has no effect.

        `changes` are fields of its configuration that differ from the UNet's and from the defaults.
        """
        unet = uncompiled(unet)
        shared = {name: getattr(unet.config, name) for name in UNetConfig.__dataclass_fields__}
        controlnet = cls(ControlNetConfig(**shared | changes)).to(unet.conv_in.weight)
        weights = unet.state_dict()
        with torch.no_grad():
            for name, parameter in controlnet.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        return controlnet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: float = 1.0,
    ) -> ControlNetOutput:
        """Latents, timestep and text states as for the UNet; the image `controlnet_cond` is (B, 3, H, W) in [0, 1]."""
        x, context = sample, encoder_hidden_states
        t = torch.as_tensor(timestep, dtype=torch.float32, device=x.device).expand(len(x))
        temb = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))

        outputs = [self.conv_in(x) + self.hint(controlnet_cond)]
        for block in self.down_blocks:
            outputs += block(outputs[-1], temb, context)
        middle = self.mid_block(outputs[-1], temb, context)

        down = [conditioning_scale * conv(output) for conv, output in zip(self.zero_convs, outputs)]
        return ControlNetOutput(down, conditioning_scale * self.mid_zero_conv(middle))


class SteeredUNet(UNet2DConditionModel):
    """A UNet that adds the outputs of ControlNets. Without them it equals the UNet."""

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        down_block_additional_residuals: list[Tensor] | None = None,
        mid_block_additional_residual: Tensor | float = 0.0,
    ) -> UNet2DConditionOutput:
        """As for the UNet, but adds the residuals between the down blocks and the up blocks."""
        if down_block_additional_residuals is None:
            return super().forward(sample, timestep, encoder_hidden_states)
        x, context = sample, encoder_hidden_states
        t = torch.as_tensor(timestep, dtype=torch.float32, device=x.device).expand(len(x))
        temb = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))

        skips = [self.conv_in(x)]
        for block in self.down_blocks:
            skips += block(skips[-1], temb, context)
        x = self.mid_block(skips[-1], temb, context) + mid_block_additional_residual
        skips = [skip + residual for skip, residual in zip(skips, down_block_additional_residuals)]
        for block in self.up_blocks:
            x = block(x, skips, temb, context)
        return UNet2DConditionOutput(self.conv_out(F.silu(self.conv_norm_out(x))))


def steered(unet: Any) -> SteeredUNet:
    """The same network, compiled or not, as a UNet that takes residuals. Raises TypeError for other networks."""
    inside = uncompiled(unet)
    if type(inside) not in (UNet2DConditionModel, SteeredUNet):
        raise TypeError(f"a ControlNet works with a UNet2DConditionModel, not with {type(inside).__name__}")
    inside.__class__ = SteeredUNet
    return unet
