"""LoRA files as programs write them, for every layer of the small networks, made without these programs."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from helpers import seeded
from safetensors.torch import save_file
from torch import Tensor

from minisd import StableDiffusionPipeline
from minisd.adapters.lora import layers_of
from minisd.weights.names import CONVOLUTIONS, diffusers_name
from minisd.weights.original_names import original_name

RANK, ALPHA = 3, 1.5
Changes = dict[tuple[str, str], dict[str, Tensor]]  # of a part and a path: "down" and "up"


def random_changes(pipe: StableDiffusionPipeline, only: str = "", seed: int = 0) -> Changes:
    """A change for every layer whose path holds `only`."""
    changes, generator = {}, seeded(seed)
    for part in ("unet", "text_encoder"):
        for path, layer in layers_of(getattr(pipe, part)).items():
            if only in path:
                out, inputs, *kernel = layer.weight.shape
                down = torch.randn(RANK, inputs, *kernel, generator=generator) / layer.weight[0].numel() ** 0.5
                changes[part, path] = {"down": down, "up": torch.randn(out, RANK, *(1 for _ in kernel), generator=generator) / 2}
    return changes


def theirs(part: str, path: str) -> str:
    return diffusers_name(part, f"{path}.weight").removesuffix(".weight")


def kohya(part: str, path: str) -> str:
    return {"unet": "lora_unet_", "text_encoder": "lora_te_"}[part] + theirs(part, path).replace(".", "_") + ".lora_{}.weight"


def compvis(part: str, path: str) -> str:
    if part == "text_encoder":
        return kohya(part, path)
    name = original_name(f"unet.{path}.weight", "v1").removeprefix("model.diffusion_model.").removesuffix(".weight")
    return "lora_unet_" + name.replace(".", "_") + ".lora_{}.weight"


def processors(part: str, path: str) -> str:
    """As diffusers named attention's LoRAs first."""
    block, layer = theirs(part, path).removesuffix(".0").rsplit(".", 1)
    layer = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}.get(layer, layer)
    return f"{part}.{block}{'.processor' * (part == 'unet')}.{layer}_lora.{{}}.weight"


def lora_layers(part: str, path: str) -> str:
    return f"{part}.{theirs(part, path)}.{'lora' if part == 'unet' else 'lora_linear_layer'}.{{}}.weight"


def peft(part: str, path: str) -> str:
    return f"{part}.{theirs(part, path)}.lora_{{}}.weight"


def bare_peft(part: str, path: str) -> str:
    """As peft saves one network, without its part."""
    return f"base_model.model.{theirs(part, path)}.lora_{{}}.weight"


def write_lora(
    file: Path, changes: Changes, spell: Callable[[str, str], str], alpha: float | None = None, notes: dict | None = None
) -> Path:
    """The file of a layout; `alpha` is a tensor of every layer in kohya's."""
    tensors = {}
    for (part, path), sides in changes.items():
        name = spell(part, path)
        if part == "unet" and CONVOLUTIONS.search(theirs(part, path) + ".weight"):  # as v1's files store these layers
            sides = {side: tensor[:, :, None, None] for side, tensor in sides.items()}
        letters = {"down": "A", "up": "B"} if spell in (peft, bare_peft) else {"down": "down", "up": "up"}
        tensors |= {name.format(letters[side]): tensor for side, tensor in sides.items()}
        if alpha is not None:
            tensors[name.split(".lora_")[0] + ".alpha"] = torch.tensor(alpha)
    save_file(tensors, file, {"format": "pt", **(notes or {})})
    return file


def write_numbered(file: Path, changes: Changes, numbers: dict[tuple[str, str], int], classes: dict[str, list[str]]) -> Path:
    """cloneofsimo's layout."""
    tensors = {f"{part}:{numbers[part, path]}:{side}": t for (part, path), sides in changes.items() for side, t in sides.items()}
    notes = {f"{part}:{n}:rank": str(RANK) for (part, _), n in numbers.items()}
    tensors["<s1>"] = torch.randn(48, generator=seeded(9))
    save_file(tensors, file, notes | {part: json.dumps(names) for part, names in classes.items()} | {"<s1>": "<embed>"})
    return file


def merge(pipe: StableDiffusionPipeline, changes: Changes, factor: float):
    """The formula: W + factor · up · down, written into the weights."""
    for (part, path), sides in changes.items():
        weight = getattr(pipe, part).get_submodule(path).weight
        weight.data += factor * torch.einsum("or,r...->o...", sides["up"].flatten(1), sides["down"]).view_as(weight)
