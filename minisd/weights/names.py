"""Tensor names in diffusers folders and in minisd: pairs of name fragments that translate in both directions."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

BOTH = [
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("mid_block.resnets.0.", "mid_block.resnet_1."),
    ("mid_block.resnets.1.", "mid_block.resnet_2."),
    (".to_out.0.", ".to_out."),
]
TRANSFORMER = [
    (".transformer_blocks.0.", ".block."),
    (".ff.net.0.proj.", ".ff.proj_in."),
    (".ff.net.2.", ".ff.proj_out."),
]
CLIP = [
    (".layer_norm1.", ".norm1."),
    (".layer_norm2.", ".norm2."),
    (".self_attn.q_proj.", ".attn.to_q."),
    (".self_attn.k_proj.", ".attn.to_k."),
    (".self_attn.v_proj.", ".attn.to_v."),
    (".self_attn.out_proj.", ".attn.to_out."),
    (".mlp.fc", ".fc"),
]
RULES = {
    "unet": [*BOTH, ("mid_block.attentions.0.", "mid_block.attention."), *TRANSFORMER],
    "controlnet": [
        *BOTH,
        ("mid_block.attentions.0.", "mid_block.attention."),
        *TRANSFORMER,
        ("controlnet_cond_embedding.conv_in.", "hint.0."),
        *((f"controlnet_cond_embedding.blocks.{i}.", f"hint.{i + 1}.") for i in range(6)),
        ("controlnet_cond_embedding.conv_out.", "hint.7."),
        ("controlnet_down_blocks.", "zero_convs."),
        ("controlnet_mid_block.", "mid_zero_conv."),
    ],
    "taesd": [],
    "vae": [
        *BOTH,
        ("mid_block.attentions.0.group_norm.", "mid_block.attention.norm."),
        ("mid_block.attentions.0.to_", "mid_block.attention.attn.to_"),
    ],
    "text_encoder": [
        ("text_model.embeddings.token_embedding.", "token_embedding."),
        ("text_model.embeddings.position_embedding.", "position_embedding."),
        ("text_model.encoder.layers.", "blocks."),
        ("text_model.final_layer_norm.", "final_norm."),
        *CLIP,
    ],
    "safety_checker": [
        ("vision_model.vision_model.embeddings.", "vision."),
        ("vision_model.vision_model.encoder.layers.", "vision.blocks."),
        ("vision_model.vision_model.pre_layrnorm.", "vision.pre_norm."),
        ("vision_model.vision_model.post_layernorm.", "vision.post_norm."),
        ("_embeds_weights", "_thresholds"),
        *CLIP,
    ],
}

# Other spellings of the same names: the official float32 VAEs use the first; text encoders exist with and without a prefix.
SPELLINGS = {
    "unet": [],
    "controlnet": [],
    "taesd": [],
    "vae": [(r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".to_out.0.")],
    "text_encoder": [(r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1.")],
    "safety_checker": [(r"^vision_model\.(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.vision_model.\1.")],
}

# Tensors that no network here needs: the position ids 0 to 76 or 0 to 256, and the other half of a full CLIP.
NOT_NEEDED = {
    "unet": "",
    "controlnet": "",
    "taesd": "",
    "vae": "",
    "text_encoder": r"text_model\.embeddings\.position_ids|vision_model\..*|(text|visual)_projection\.weight|logit_scale",
    "safety_checker": r"vision_model\.vision_model\.embeddings\.position_ids",
}

# Stored as 1×1 convolutions in v1 checkpoints and as linear layers in v2 checkpoints, with the same weights.
CONVOLUTIONS = re.compile(r"attentions\.\d+\.proj_(in|out)\.weight$")


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in rules:
        name = name.replace(theirs, ours)
    return name


def rename_back(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in reversed(rules):
        name = name.replace(ours, theirs)
    return name


def usual_name(part: str, name: str) -> str:
    for spelling, usual in SPELLINGS[part]:
        name = re.sub(spelling, usual, name)
    return name


def diffusers_name(part: str, native: str) -> str:
    return rename_back(native, RULES[part])


class Place(NamedTuple):
    """The location of a tensor in a file: its name and, if q, k and v are stored as one tensor, its third."""

    name: str
    third: int | None = None


def diffusers_places(part: str, names: Iterable[str]) -> tuple[dict[str, Place], list[str]]:
    """minisd's names for the tensors of a diffusers component ("unet", "vae", …), each with its place, and duplicate names.

    Names that are already minisd's are kept.
    """
    places: dict[str, Place] = {}
    repeated = []
    for name in names:
        usual = usual_name(part, name)
        if not re.fullmatch(NOT_NEEDED[part], usual):
            native = rename(usual, RULES[part])
            if native in places:
                repeated.append(name)
            places.setdefault(native, Place(name))
    return places, repeated


def to_diffusers(part: str, tensors: Mapping[str, Tensor], convolutions: bool = False) -> dict[str, Tensor]:
    """Rename to diffusers' names; `convolutions` stores proj_in and proj_out of a UNet or ControlNet as 1×1 convolutions (v1)."""
    named = {diffusers_name(part, name): tensor for name, tensor in tensors.items()}
    if part in ("unet", "controlnet") and convolutions:
        named = {n: t[:, :, None, None] if CONVOLUTIONS.search(n) else t for n, t in named.items()}
    return named
