"""LoRA: a low-rank change of a layer's weights, the product of two thin matrices (Hu et al. 2021, §4.1).

    W' x = W x + scale · (α / r) · up(down(x))

`down` maps a layer's inputs to r numbers and `up` maps these to its outputs. With r = 4, the change of a 320 × 320 matrix has 2,560
parameters instead of 102,400. The original weights stay unchanged until `fuse` adds the change to them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..fast.convolution import FastConv2d
from ..fast.int8 import is_quantized
from ..fast.linear import FastLinear

Layer = nn.Linear | nn.Conv2d


class LoRA(nn.Module):
    """The change of one layer, to load or to train. A new LoRA has no effect, because `up` starts at zero."""

    def __init__(self, layer: Layer, rank: int, alpha: float | None = None, name: str = "default"):
        """`alpha` defaults to the rank. The attribute `scale` is the strength set by the user; 0 disables the change."""
        super().__init__()
        self.name, self.rank, self.alpha, self.scale = name, rank, rank if alpha is None else alpha, 1.0
        if isinstance(layer, nn.Conv2d):
            window: dict[str, Any] = {setting: getattr(layer, setting) for setting in ("kernel_size", "stride", "padding")}
            self.down: Layer = nn.Conv2d(layer.in_channels, rank, **window, bias=False)
            self.up: Layer = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        else:
            self.down, self.up = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.alpha / self.rank * self.up(self.down(x))  # (…, in) → (…, r) → (…, out)

    def weight_change(self) -> Tensor:
        """The change as a tensor with the shape of the layer's weight, in float32: scale · (α / r) · up · down."""
        down, up = self.down.weight.float(), self.up.weight.float()
        product = up.flatten(1) @ down.flatten(1)  # (out, r) · (r, in · kernel)
        return self.scale * self.alpha / self.rank * product.view(len(up), *down.shape[1:])


class Adapted(nn.Module):
    """A layer with LoRAs. At scale 0, its output equals the original layer's bit for bit."""

    loras: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)  # the original layer's forward
        for lora in self.loras:
            if lora.scale:
                y = y + lora(x)
        return y


class AdaptedLinear(Adapted, nn.Linear):
    """Replaces the class of a linear layer; compiled networks notice the new class, but would miss a hook."""


class AdaptedConv2d(Adapted, nn.Conv2d):
    """Replaces the class of a convolution."""


class AdaptedFastLinear(Adapted, FastLinear):
    """Replaces the class of a linear layer with packed weights."""


class AdaptedFastConv2d(Adapted, FastConv2d):
    """Replaces the class of a Winograd convolution, or of one with packed weights."""


KINDS = (AdaptedLinear, AdaptedConv2d, AdaptedFastLinear, AdaptedFastConv2d)
ADAPTED: dict[type, type] = {kind.__bases__[1]: kind for kind in KINDS}


def attach(layer: Layer, lora: LoRA):
    """Add a LoRA to a layer, on the device and in the dtype of its weights. Raises ValueError for weights in 8 bits."""
    if not isinstance(layer, Adapted):
        if is_quantized(layer):
            raise ValueError("the weights are in 8 bits; fuse LoRAs with fuse_lora before quantize")
        layer.__class__ = ADAPTED[type(layer)]
        layer.loras = nn.ModuleList()
    assert isinstance(layer, Adapted)
    layer.loras.append(lora.to(layer.weight))


def detach(layer: Layer) -> list[LoRA]:
    """Restore the original layer and return its LoRAs."""
    if not isinstance(layer, Adapted):
        return []
    loras = [*layer.loras]
    del layer.loras
    layer.__class__ = type(layer).__bases__[1]
    return loras


@torch.no_grad()
def fuse(layer: Layer, scale: float = 1.0):
    """Add the LoRAs to the weights. The layer stores what `unfuse` needs, but not as parameters."""
    if loras := detach(layer):
        change = sum(lora.weight_change() for lora in loras)
        merged = (layer.weight.float() + scale * change).to(layer.weight.dtype)
        vars(layer).setdefault("before_fusing", []).append((layer.weight, loras))
        layer.weight = nn.Parameter(merged, layer.weight.requires_grad)


def unfuse(layer: Layer):
    """Restore the original weights bit for bit, and attach the LoRAs again."""
    loras = [*fused(layer), *detach(layer)]
    if fusions := vars(layer).pop("before_fusing", []):
        plain: Tensor = fusions[0][0].data
        layer.weight = nn.Parameter(plain.to(layer.weight), layer.weight.requires_grad)
    for lora in loras:
        attach(layer, lora)


def remove(layer: Layer):
    """Remove the LoRAs. Fused ones stay in the weights."""
    detach(layer)
    vars(layer).pop("before_fusing", None)


def fused(layer: Layer) -> list[LoRA]:
    """The LoRAs that are fused into a layer's weights."""
    return [lora for _, loras in vars(layer).get("before_fusing", ()) for lora in loras]


def layers_of(network: nn.Module) -> dict[str, Layer]:
    """The layers that a LoRA can change, by path, excluding the layers of the LoRAs themselves."""
    layers = {name: module for name, module in network.named_modules() if type(module) in (*ADAPTED, *ADAPTED.values())}
    return {name: layer for name, layer in layers.items() if ".loras." not in name}


def loras_of(network: nn.Module) -> list[LoRA]:
    """The LoRAs attached to a network's layers."""
    return [module for module in network.modules() if isinstance(module, LoRA)]
