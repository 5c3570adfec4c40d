"""LoRAs as the content of a file, with the names of kohya-ss: minisd, diffusers and AUTOMATIC1111's web interface read them."""

from typing import Any

import torch
from torch import Tensor, nn

from ..weights.names import to_diffusers
from .lora import layers_of, loras_of

KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_"}


def lora_tensors(part: str, network: nn.Module) -> dict[str, Tensor]:
    """The unfused LoRAs of `part`, "unet" or "text_encoder"; each layer may have at most one."""
    config: Any = network.config
    loras = {path: lora for path, layer in layers_of(network).items() for lora in loras_of(layer)}
    tensors: dict[str, Tensor] = {}
    for side in ("down", "up"):
        weights = {f"{path}.weight": getattr(lora, side).weight.detach() for path, lora in loras.items()}
        for name, weight in to_diffusers(part, weights, not getattr(config, "use_linear_projection", True)).items():
            tensors[f"{kohya_name(part, name)}.lora_{side}.weight"] = weight
    for path, lora in loras.items():
        (name,) = to_diffusers(part, {f"{path}.weight": lora.up.weight})
        tensors[f"{kohya_name(part, name)}.alpha"] = torch.tensor(float(lora.alpha), dtype=torch.float32, device="cpu")
    return tensors


def kohya_name(part: str, name: str) -> str:
    """diffusers' name of a weight → kohya-ss' name of its layer, with underscores instead of dots."""
    return KOHYA[part] + name.removesuffix(".weight").replace(".", "_")
