"""The names of layers in LoRA files, and minisd's paths of these layers.

    kohya-ss    lora_unet_down_blocks_0_….lora_down.weight, or with CompVis' names lora_unet_input_blocks_1_1_….lora_down.weight
    diffusers   unet.down_blocks.0.….attn1.processor.to_q_lora.down.weight, later ….attn1.to_q.lora.down.weight
    peft        unet.down_blocks.0.….attn1.to_q.lora_A.weight, or base_model.model.down_blocks.0.….attn1.to_q.lora_A.weight
    cloneofsimo unet:17:down (lora_by_number.py)

Only the two ends of a name are parsed. The middle is looked up among all names of each layer; dots and underscores are equivalent.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from ..weights.names import diffusers_name
from ..weights.original_names import original_name
from .lora import layers_of

PREFIX = re.compile(r"base_model\.model\.|(?P<part>unet|text_encoder)\.|lora_(?P<kohya>unet|te1?)_|")
ENDING = re.compile(
    r"(?P<layer>.+?)"
    r"(?:\.alpha|(?:\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)(?P<side>down|up|A|B)(?:\.default(?:_\d+)?)?\.weight)"
)
SIDES = {"down": "down", "A": "down", "up": "up", "B": "up", None: "alpha"}


class Named(NamedTuple):
    """A tensor of a LoRA file: `side` is "down", "up" or "alpha" of a `layer`; some files omit the `part`."""

    part: str | None
    layer: str
    side: str


def parsed(name: str) -> Named | None:
    """Parse a tensor's name; return None if it does not name a LoRA tensor."""
    prefix = PREFIX.match(name)
    assert prefix is not None  # the pattern may match an empty prefix
    ending = ENDING.fullmatch(name, prefix.end())
    if not ending:
        return None
    kohya = prefix["kohya"] and ("unet" if prefix["kohya"] == "unet" else "text_encoder")
    return Named(prefix["part"] or kohya, ending["layer"].replace(".processor", ""), SIDES[ending["side"]])


def spellings(networks: Mapping[str, nn.Module]) -> dict[str, list[tuple[str, str]]]:
    """All layers, as part and path, by each name that a file may use for them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part, network in networks.items():
        for path in layers_of(network):
            for name in {name.replace(".", "_") for name in names_of(part, path)}:
                found.setdefault(name, []).append((part, path))
    return found


def names_of(part: str, path: str) -> Iterator[str]:
    """A layer's names in diffusers and transformers, in CompVis, and in diffusers before it used peft."""
    name = diffusers_name(part, f"{path}.weight").removesuffix(".weight")
    yield name
    yield name.removeprefix("text_model.")
    yield original_name(f"{part}.{path}.weight", "v1").removeprefix("model.diffusion_model.").removesuffix(".weight")
    if part == "unet":
        yield name.removesuffix(".0")  # to_out.0
    else:
        yield re.sub(r"(q|k|v|out)_proj$", r"to_\1", name)


def place_of(named: Named, found: Mapping[str, list[tuple[str, str]]]) -> tuple[str, str] | None:
    """The part and path of a layer; if the name has no part, the UNet takes precedence."""
    places = found.get(named.layer.replace(".", "_"), [])
    return next((place for place in places if named.part in (None, place[0])), None)
