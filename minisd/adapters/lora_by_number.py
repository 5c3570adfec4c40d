"""LoRA files of cloneofsimo's program: `unet:17:up` belongs to the 18th layer that the program found in diffusers 0.11.

The metadata list the classes that it searched. It visited up blocks before the mid block, attentions before ResNet blocks, the
feed-forward layer between the two attentions, and, in the text encoder, k and v before q.
"""

import re
from collections.abc import Mapping

from torch import nn

from ..weights.errors import CheckpointError
from ..weights.texts import parse_json
from ..weights.vetting import check
from .lora import layers_of

NUMBERED = re.compile(r"(?P<part>unet|text_encoder):(?P<number>\d+):(?P<side>up|down)")
WORD = "<embed>"  # the metadata's mark for a tensor that is a trained word

# The layers inside each class, and the order of siblings where it differs from minisd's.
INSIDE = {
    "unet": {
        "CrossAttention": r"\.attn[12]\.to_\w+",
        "Attention": r"\.attn[12]\.to_\w+",
        "GEGLU": r"\.ff\.proj_in",
        "ResnetBlock2D": r"\.resnets?[._]\d+\.\w+",
    },
    "text_encoder": {"CLIPAttention": r"\.attn\.to_\w+"},
}
ORDER = {
    "unet": [
        "down_blocks", "up_blocks", "mid_block", "attentions", "attention", "resnets", "resnet_1", "resnet_2",
        "attn1", "ff", "attn2",
    ],
    "text_encoder": ["to_k", "to_v", "to_q", "to_out"],
}  # fmt: skip


def numbered_layers(part: str, network: nn.Module, notes: Mapping[str, str], where: str) -> list[str]:
    """The paths of the layers, in the order of their numbers. Raises CheckpointError for unknown classes."""
    inside, note = INSIDE[part], f"in {where}, the classes of {part}"
    classes = check(note, parse_json(f'{{"classes": {notes.get(part, "[]")}}}', note)["classes"], tuple[str, ...])
    if strange := set(classes) - inside.keys():
        raise CheckpointError(f"{where} changes layers inside {min(strange)}; minisd supports only {', '.join(inside)}")
    pattern = re.compile("|".join(rf".*{inside[name]}" for name in classes) or "(?!)")
    rank = {piece: i for i, piece in enumerate(ORDER[part])}

    def order(path: str) -> list[int]:
        return [int(piece) if piece.isdigit() else rank.get(piece, -1) for piece in path.split(".")]

    return sorted((path for path in layers_of(network) if pattern.fullmatch(path)), key=order)
