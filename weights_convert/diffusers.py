"""A diffusers folder's names for the tensors of each component, and minisd's: pairs of fragments that are read either way."""

import re
from collections.abc import Mapping

from torch import Tensor

BOTH = [
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
    ("mid_block.resnets.0.", "mid_block.resnet_1."),
    ("mid_block.resnets.1.", "mid_block.resnet_2."),
    (".to_out.0.", ".to_out."),
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
        (".layer_norm1.", ".norm1."),
        (".layer_norm2.", ".norm2."),
        (".self_attn.q_proj.", ".attn.to_q."),
        (".self_attn.k_proj.", ".attn.to_k."),
        (".self_attn.v_proj.", ".attn.to_v."),
        (".self_attn.out_proj.", ".attn.to_out."),
        (".mlp.fc", ".fc"),
    ],
}

# Other spellings of the same names: the official float32 VAEs have the first, text encoders come with and without a prefix.
SPELLINGS = {
    "unet": [],
    "vae": [(r"\.query\.", ".to_q."), (r"\.key\.", ".to_k."), (r"\.value\.", ".to_v."), (r"\.proj_attn\.", ".to_out.0.")],
    "text_encoder": [(r"^(embeddings|encoder|final_layer_norm)\.", r"text_model.\1.")],
}

# Tensors that no network here needs: the numbers 0 to 76.
IGNORED = {"unet": set(), "vae": set(), "text_encoder": {"text_model.embeddings.position_ids"}}

# Stored as 1×1 convolutions in v1 checkpoints and as linear layers in v2's, which is the same.
CONVOLUTIONS = re.compile(r"attentions\.\d+\.proj_(in|out)\.weight$")


def native_name(component: str, name: str) -> str:
    for spelling, usual in SPELLINGS[component]:
        name = re.sub(spelling, usual, name)
    for theirs, ours in RULES[component]:
        name = name.replace(theirs, ours)
    return name


def diffusers_name(component: str, name: str) -> str:
    for theirs, ours in reversed(RULES[component]):
        name = name.replace(ours, theirs)
    return name


def from_diffusers(component: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a "unet", "vae" or "text_encoder" under minisd's names; names that are minisd's already stay."""
    native = {native_name(component, name): name for name in tensors if name not in IGNORED[component]}
    return {ours: as_linear(ours, tensors[theirs]) for ours, theirs in native.items()}


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
