"""A diffusers folder's names for the tensors of each component, and minisd's: pairs of fragments that are read either way."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from .files import CheckpointError

BOTH = [
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("mid_block.resnets.0.", "mid_block.resnet_1."),
    ("mid_block.resnets.1.", "mid_block.resnet_2."),
    (".to_out.0.", ".to_out."),
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
    "unet": [
        *BOTH,
        ("mid_block.attentions.0.", "mid_block.attention."),
        (".transformer_blocks.0.", ".block."),
        (".ff.net.0.proj.", ".ff.proj_in."),
        (".ff.net.2.", ".ff.proj_out."),
    ],
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

# Other spellings of the same names: the official float32 VAEs have the first, text encoders come with and without a prefix.
SPELLINGS = {
    "unet": [],
    "vae": [(r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".to_out.0.")],
    "text_encoder": [(r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1.")],
    "safety_checker": [(r"^vision_model\.(embeddings|encoder|pre_layrnorm|post_layernorm)\.", r"vision_model.vision_model.\1.")],
}

# Tensors that no network here needs: the numbers 0 to 76, those 0 to 256, and the other half of a full CLIP.
IGNORED = {
    "unet": "",
    "vae": "",
    "text_encoder": r"text_model\.embeddings\.position_ids|vision_model\..*|(text|visual)_projection\.weight|logit_scale",
    "safety_checker": r"vision_model\.vision_model\.embeddings\.position_ids",
}

# Stored as 1×1 convolutions in v1 checkpoints and as linear layers in v2's, which is the same.
CONVOLUTIONS = re.compile(r"attentions\.\d+\.proj_(in|out)\.weight$")


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for theirs, ours in rules:
        name = name.replace(theirs, ours)
    return name


def rename_back(name: str, rules: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in reversed(rules):
        name = name.replace(ours, theirs)
    return name


def usual_name(component: str, name: str) -> str:
    for spelling, usual in SPELLINGS[component]:
        name = re.sub(spelling, usual, name)
    return name


def native_name(component: str, name: str) -> str:
    return rename(usual_name(component, name), RULES[component])


def diffusers_name(component: str, name: str) -> str:
    return rename_back(name, RULES[component])


class Place(NamedTuple):
    """Where a tensor is: under which name, and, where q, k and v are stored as one, in which third of it."""

    name: str
    third: int | None = None


def native_places(component: str, names: Iterable[str]) -> tuple[dict[str, Place], list[str]]:
    """minisd's names for those of a file, each with its place; and the names that say again what another has said."""
    places: dict[str, Place] = {}
    repeated = []
    for name in names:
        if not re.fullmatch(IGNORED[component], usual_name(component, name)):
            native = native_name(component, name)
            if native in places:
                repeated.append(name)
            places.setdefault(native, Place(name))
    return places, repeated


def from_diffusers(component: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a "unet", "vae", … under minisd's names; names that are minisd's already stay.

    Raises CheckpointError where two names are one tensor.
    """
    places, repeated = native_places(component, tensors)
    if repeated:
        raise CheckpointError(f"{repeated[0]} is there twice, under two spellings")
    return {native: as_linear(native, tensors[place.name]) for native, place in places.items()}


def to_diffusers(component: str, tensors: Mapping[str, Tensor], convolutions: bool = False) -> dict[str, Tensor]:
    """The way back; `convolutions` stores the UNet's proj_in and proj_out as v1 checkpoints do."""
    named = {diffusers_name(component, name): tensor for name, tensor in tensors.items()}
    if component == "unet" and convolutions:
        named = {n: t[:, :, None, None] if CONVOLUTIONS.search(n) else t for n, t in named.items()}
    return named


def as_linear(name: str, tensor: Tensor) -> Tensor:
    """1×1 convolutions whose place is a linear layer lose the two ones of their shape."""
    linear = re.search(r"(proj_in|proj_out|to_q|to_k|to_v|to_out)\.weight$", name)
    return tensor.squeeze(-1).squeeze(-1) if linear and tensor.ndim == 4 else tensor
