"""Reads a LoRA file and checks it against the networks that it will change, before changing any of them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..weights.compare import WEIGHTS, listed
from ..weights.errors import CheckpointError
from ..weights.fill import Unfilled
from ..weights.pickles import is_pickle, read_pickle
from ..weights.safetensors import finite, header_of, read_header, read_tensors
from ..weights.texts import parse_json, read_text
from ..weights.vetting import get, named
from .adapter_files import BASES
from .lora import Layer, LoRA, layers_of
from .lora_by_number import NUMBERED, WORD, numbered_layers
from .lora_names import parsed, place_of, spellings

CONFIG = "adapter_config.json"  # in which peft stores α, next to the weights
USUAL = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "pytorch_lora_weights.bin")
NOTE = "lora_adapter_metadata"  # under which diffusers stores α, in the header

# A part of a tensor name that identifies each kind of file.
OTHERS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "oft_": "an OFT",
    "lora_mid": "a LoRA with Tucker decomposition",
}
READS_TEXT = r".*attn2.*to_[kv].*(down|A).*weight"

Place = tuple[str, str]  # a layer: "unet" or "text_encoder", and its path in the network


class LoRAContent(NamedTuple):
    """The LoRAs of a file, ready to be attached, and the words that were trained with them."""

    loras: dict[Place, LoRA]
    words: dict[str, Tensor]


def read_lora(path: Path, networks: Mapping[str, nn.Module], name: str, scale: float) -> LoRAContent:
    """The content of a file for the networks "unet" and "text_encoder".

    Raises CheckpointError if the file is not a LoRA, is damaged, or does not fit.
    """
    notes = {} if is_pickle(path) else read_header(path).metadata
    tensors = read_pickle(path) if is_pickle(path) else read_tensors(path)
    refuse_others(path, tensors, networks)
    words = {word: tensors.pop(word) for word in [*tensors] if notes.get(word) == WORD}
    by_number = any(map(NUMBERED.fullmatch, tensors))
    places = places_by_number(path, tensors, notes, networks) if by_number else places_by_name(path, tensors, networks)
    settings = settings_of(path, tensors, notes)
    layers = {part: layers_of(network) for part, network in networks.items()}
    loras = {
        (part, inside): fitted(path, layers[part][inside], sides, tensors, settings) for (part, inside), sides in places.items()
    }
    for lora in loras.values():
        lora.name, lora.scale = name, scale
    return LoRAContent(loras, words)


def refuse_others(path: Path, tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module]):
    """Raise CheckpointError for other kinds of adapters, and for LoRAs of another base model."""
    for piece, kind in OTHERS.items():
        if any(piece in name for name in tensors):
            raise CheckpointError(f"{path} is {kind}, which minisd does not implement; it supports only LoRA")
    config: Any = networks["unet"].config
    for name, tensor in tensors.items():
        if re.match(READS_TEXT, name) and tensor.ndim > 1 and tensor.shape[1] != config.cross_attention_dim:
            base, ours = BASES.get(tensor.shape[1], "another base model"), config.cross_attention_dim
            raise CheckpointError(
                f"{path} is a LoRA for {base}: its text states have {tensor.shape[1]} channels, this model's have {ours}"
            )


# From names to layers


def places_by_name(path: Path, tensors: Mapping[str, Tensor], networks: Mapping[str, nn.Module]) -> dict[Place, dict[str, str]]:
    """For each layer, the names of its tensors: "down", "up" and, if present, "alpha"."""
    found, places, strange = spellings(networks), dict[Place, dict[str, str]](), list[str]()
    parts = {name: parsed(name) for name in tensors}
    if not any(part and part.side != "alpha" for part in parts.values()):
        raise CheckpointError(
            f"{path} is not a LoRA: it contains {next(iter(tensors), 'no tensor')}; "
            "load a checkpoint with from_pretrained (--model), a word with load_textual_inversion (--embedding)"
        )
    for name, part in parts.items():
        place = part and place_of(part, found)
        if not part or not place:
            strange.append(name)
        elif part.side in places.setdefault(place, {}):
            raise CheckpointError(f"{path} is ambiguous: {places[place][part.side]} and {name} are for the same layer")
        else:
            places[place][part.side] = name
    if strange:
        raise CheckpointError(f"{path} does not fit: this model has no layer for {listed(strange)}")
    return places


def places_by_number(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str], networks: Mapping[str, nn.Module]
) -> dict[Place, dict[str, str]]:
    """For each layer, the names of its tensors, in a file that numbers its layers."""
    paths = {part: numbered_layers(part, network, notes, str(path)) for part, network in networks.items()}
    places: dict[Place, dict[str, str]] = {}
    for name in tensors:
        numbered = NUMBERED.fullmatch(name)
        if not numbered or int(numbered["number"]) >= len(paths[numbered["part"]]):
            raise CheckpointError(f"{path} does not fit: this model has no layer for {name}")
        part, number = numbered["part"], int(numbered["number"])
        places.setdefault((part, paths[part][number]), {})[numbered["side"]] = name
    return places


# From tensors to LoRAs


def settings_of(path: Path, names: Mapping[str, Tensor], notes: Mapping[str, str]) -> dict[str, Any]:
    """A file's settings of α outside its tensors: "unet.lora_alpha" for one network, "lora_alpha" for all."""
    config = path.with_name(CONFIG)
    if NOTE in notes:
        return parse_json(notes[NOTE], f"{NOTE} of {path}")
    if not any(name.startswith("base_model.") for name in names):
        return {}
    if not config.is_file():
        raise CheckpointError(f"{path} needs {CONFIG} in the same folder, in which peft stores its strength (lora_alpha)")
    return parse_json(read_text(config), str(config))


def fitted(path: Path, layer: Layer, sides: dict[str, str], tensors: Mapping[str, Tensor], settings: dict[str, Any]) -> LoRA:
    """A LoRA for a layer, from the tensors with these names. Raises CheckpointError if they do not fit."""
    if missing := {"down", "up"} - sides.keys():
        raise CheckpointError(f"{path} is incomplete: it has {min(sides.values())} without the matrix {missing.pop()}")
    down, up = tensors[sides["down"]], tensors[sides["up"]]
    for name, dtype in header_of({name: tensors[name] for name in sides.values()}).dtypes.items():
        if name != sides.get("alpha") and dtype not in WEIGHTS:
            raise CheckpointError(f"{path} does not fit: {name} is stored as {dtype}, which is not a dtype of weights")
        if not finite(tensors[name]):
            raise CheckpointError(f"{path} is damaged: {name} contains NaN or infinity")
    rank = len(down) if down.ndim else 0
    if up.ndim > 1 and rank and up.shape[1] != rank:
        raise CheckpointError(f"{path} is inconsistent: {sides['down']} has rank {rank}, but {sides['up']} has {up.shape[1]}")
    with Unfilled():
        lora = LoRA(layer, max(rank, 1), alpha_of(path, sides, tensors, settings, rank))
    weights = {}
    for side, tensor, wanted in (("down", down, lora.down.weight.shape), ("up", up, lora.up.weight.shape)):
        if without_ones(tensor.shape) != without_ones(wanted):
            raise CheckpointError(f"{path} does not fit: {sides[side]} has {tuple(tensor.shape)} instead of {tuple(wanted)}")
        weights[f"{side}.weight"] = tensor.reshape(wanted)
    lora.load_state_dict(weights, assign=True)
    return lora.requires_grad_(False)


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the kernel size of a 1×1 convolution, which has the same weights as a linear layer."""
    return tuple(shape[:2]) if all(n == 1 for n in shape[2:]) else tuple(shape)


def alpha_of(path: Path, sides: dict[str, str], tensors: Mapping[str, Tensor], settings: dict[str, Any], rank: int) -> float:
    """α of a layer: from its own tensor, from the settings, or the rank."""
    if "alpha" in sides:
        alpha = tensors[sides["alpha"]]
        if alpha.numel() != 1:
            raise CheckpointError(f"{path} is damaged: {sides['alpha']} must be one number, not {alpha.numel()}")
        return float(alpha)
    layer = parsed(sides["down"])
    prefix = f"{layer.part}." if layer and layer.part else ""
    with named(str(path), CheckpointError):
        patterns = get(settings, f"{prefix}alpha_pattern", dict[str, float], {})
        alpha = get(settings, f"{prefix}lora_alpha", float, rank)
        stretch = rank**0.5 if get(settings, f"{prefix}use_rslora", bool, False) else 1.0
    for pattern, own in patterns.items():
        try:
            if layer and re.fullmatch(rf"(.*\.)?({pattern})", layer.layer):
                alpha = own
                break
        except re.error as error:
            raise CheckpointError(f"{path} is damaged: alpha_pattern {pattern!r:.60} is not a valid pattern ({error})") from None
    return alpha * stretch
