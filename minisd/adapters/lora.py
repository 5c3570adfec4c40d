"""LoRA: a change of a layer's weights as the product of two thin matrices (Hu et al. 2021, §4.1).

    W' x = W x + scale · (α / r) · up(down(x))

`down` maps a layer's inputs to r numbers and `up` maps these to its outputs, so a change of a 320 × 320 matrix with r = 4 has
2,560 numbers instead of 102,400. The change stands beside the weights, which stay as they are, until `fuse` adds it to them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..fast.convolution import FastConv2d

Layer = nn.Linear | nn.Conv2d


class LoRA(nn.Module):
    """The change of one layer, to load or to train. A new one changes nothing, since `up` starts at zero."""

    def __init__(self, layer: Layer, rank: int, alpha: float | None = None, name: str = "default"):
        """`alpha` is the rank if not given. `scale` is the user's: 0 switches the change off."""
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
        return self.scale * self.alpha / self.rank * self.up(self.down(x))

    def weight_change(self) -> Tensor:
        """The same as a matrix of the layer's shape, in float32: scale · (α / r) · up · down."""
        down, up = self.down.weight.float(), self.up.weight.float()
        product = up.flatten(1) @ down.flatten(1)  # (out, r) · (r, in · kernel)
        return self.scale * self.alpha / self.rank * product.view(len(up), *down.shape[1:])


class Adapted(nn.Module):
    """A layer with LoRAs beside its weights. At scale 0 it computes what the layer computes, bit for bit."""

    loras: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)  # of the class beside this one
        for lora in self.loras:
            if lora.scale:
                y = y + lora(x)
        return y


class AdaptedLinear(Adapted, nn.Linear):
    """Takes the place of a layer's class: compiled networks notice that, unlike a hook."""


class AdaptedConv2d(Adapted, nn.Conv2d):
    """The same for a convolution."""


class AdaptedFastConv2d(Adapted, FastConv2d):
    """The same for a convolution in Winograd's form."""


ADAPTED: dict[type, type] = {kind.__bases__[1]: kind for kind in (AdaptedLinear, AdaptedConv2d, AdaptedFastConv2d)}


def attach(layer: Layer, lora: LoRA):
    """Put a LoRA beside a layer's weights, on their device and in their dtype."""
    if not isinstance(layer, Adapted):
        layer.__class__ = ADAPTED[type(layer)]
        layer.loras = nn.ModuleList()
    assert isinstance(layer, Adapted)
    layer.loras.append(lora.to(layer.weight))


def detach(layer: Layer) -> list[LoRA]:
    """Make the layer what it was, and return its LoRAs."""
    if not isinstance(layer, Adapted):
        return []
    loras = [*layer.loras]
    del layer.loras
    layer.__class__ = type(layer).__bases__[1]
    return loras


@torch.no_grad()
def fuse(layer: Layer, scale: float = 1.0):
    """Add the LoRAs to the weights. The layer keeps what `unfuse` needs, outside its parameters."""
    if loras := detach(layer):
        change = sum(lora.weight_change() for lora in loras)
        merged = (layer.weight.float() + scale * change).to(layer.weight.dtype)
        vars(layer).setdefault("before_fusing", []).append((layer.weight, loras))
        layer.weight = nn.Parameter(merged, layer.weight.requires_grad)


def unfuse(layer: Layer):
    """Bring back the weights of before, bit for bit, and the LoRAs beside them."""
    loras = [*fused(layer), *detach(layer)]
    if fusions := vars(layer).pop("before_fusing", []):
        plain: Tensor = fusions[0][0].data
        layer.weight = nn.Parameter(plain.to(layer.weight), layer.weight.requires_grad)
    for lora in loras:
        attach(layer, lora)


def remove(layer: Layer):
    """Forget the LoRAs. Fused ones have become the weights and stay."""
    detach(layer)
    vars(layer).pop("before_fusing", None)


def fused(layer: Layer) -> list[LoRA]:
    """The LoRAs that are in a layer's weights."""
    return [lora for _, loras in vars(layer).get("before_fusing", ()) for lora in loras]


def layers_of(network: nn.Module) -> dict[str, Layer]:
    """The layers that a LoRA can change, by their paths; those of LoRAs are not among them."""
    layers = {name: module for name, module in network.named_modules() if type(module) in (*ADAPTED, *ADAPTED.values())}
    return {name: layer for name, layer in layers.items() if ".loras." not in name}


def loras_of(network: nn.Module) -> list[LoRA]:
    """The LoRAs beside the weights of a network."""
    return [module for module in network.modules() if isinstance(module, LoRA)]
