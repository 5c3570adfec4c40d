"""The LoRAs of a pipeline: load, scale, fuse and remove them. They are stored only in its networks."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..compiled import uncompiled
from ..request import real
from .adapter_files import find_adapter
from .lora import LoRA, attach, fuse, fused, layers_of, loras_of, remove, unfuse
from .lora_file import CONFIG, USUAL, read_lora
from .textual_inversion import add_words, checked_words

if TYPE_CHECKING:
    from ..components import Components


def networks_of(pipe: "Components") -> dict[str, nn.Module]:
    """The networks that LoRAs change; for a compiled network, the original one."""
    networks: dict[str, nn.Module] = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    return {part: uncompiled(network) for part, network in networks.items()}


def loaded(pipe: "Components") -> dict[str, list[LoRA]]:
    """The attached LoRAs, by adapter name."""
    found: dict[str, list[LoRA]] = {}
    for network in networks_of(pipe).values():
        for lora in loras_of(network):
            found.setdefault(lora.name, []).append(lora)
    return found


def names_of_fused(pipe: "Components") -> set[str]:
    """The names of the fused adapters."""
    layers = [layer for network in networks_of(pipe).values() for layer in layers_of(network).values()]
    return {lora.name for layer in layers for lora in fused(layer)}


def load_lora(pipe: "Components", source: str | os.PathLike, scale: Any, adapter_name: str | None, **where: Any):
    """Load a LoRA file and attach it to the pipeline's networks; see `Adaptable.load_lora_weights`."""
    networks = networks_of(pipe)
    layers = {part: layers_of(network) for part, network in networks.items()}
    taken = {*loaded(pipe), *names_of_fused(pipe)}
    name = adapter_name or next(name for i in range(len(taken) + 1) if (name := f"default_{i}") not in taken)
    if name in taken:
        raise ValueError(f"adapter {name!r} already exists; choose another adapter_name")
    path = find_adapter(source, USUAL, companions=(CONFIG,), **where)
    content = read_lora(path, networks, name, real("scale", scale))
    words = checked_words(pipe, content.words, str(path))
    for (part, inside), lora in content.loras.items():
        attach(layers[part][inside], lora)
    add_words(pipe, words)


def set_adapters(pipe: "Components", names: str | Sequence[str], weights: Any = None):
    """Set the scale of each named adapter, by default 1; all others get 0."""
    names = [names] if isinstance(names, str) else list(names)
    weights = [1.0 if weights is None else weights] * len(names) if not isinstance(weights, list | tuple) else list(weights)
    found = loaded(pipe)
    if unknown := [name for name in names if name not in found]:
        if unknown[0] in names_of_fused(pipe):
            raise ValueError(f"adapter {unknown[0]!r} is fused into the weights; call unfuse_lora to change its scale")
        raise ValueError(f"there is no adapter {unknown[0]!r}; loaded: {', '.join(map(repr, found)) or 'none'}")
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} weights for {len(names)} adapters")
    scales = {name: real("the weight of an adapter", weight) for name, weight in zip(names, weights)}
    for name, loras in found.items():
        for lora in loras:
            lora.scale = scales.get(name, 0.0)


def fuse_loras(pipe: "Components", scale: Any):
    scale = real("lora_scale", scale)
    if not loaded(pipe):
        raise ValueError("there is no LoRA to fuse; load one with load_lora_weights")
    for network in networks_of(pipe).values():
        for layer in layers_of(network).values():
            fuse(layer, scale)


def unfuse_loras(pipe: "Components"):
    for network in networks_of(pipe).values():
        for layer in layers_of(network).values():
            unfuse(layer)


def unload_loras(pipe: "Components"):
    for network in networks_of(pipe).values():
        for layer in layers_of(network).values():
            remove(layer)
