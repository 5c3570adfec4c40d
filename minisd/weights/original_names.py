"""Tensor names in the single files of CompVis, Runway and Stability AI, and in minisd: pairs of fragments for both directions.

minisd's own single files put the component in front of the name: `unet.conv_in.weight`. The originals number blocks in order of
execution, whereas minisd groups them by level: input_blocks.4.0 is the first ResNet block of the second level.
"""

import re
from collections.abc import Iterable, Mapping

from .names import RULES, TRANSFORMER, Place, rename, rename_back, usual_name

LEVELS, LAYERS = 4, 2  # in every Stable Diffusion v1 and v2; up levels have one layer more


def unet_blocks() -> list[tuple[str, str]]:
    pairs = []
    for level in range(LEVELS):
        first = level * (LAYERS + 1)
        for layer in range(LAYERS):
            n = 1 + first + layer  # input_blocks.0 is conv_in
            pairs.append((f"input_blocks.{n}.0.", f"down_blocks.{level}.resnets.{layer}."))
            pairs.append((f"input_blocks.{n}.1.", f"down_blocks.{level}.attentions.{layer}."))
        pairs.insert(0, (f"input_blocks.{first + LAYERS + 1}.0.op.", f"down_blocks.{level}.downsample.conv."))
        # The last block of a level ends with upsampling, after the attention (which the first, deepest level lacks).
        pairs.insert(0, (f"output_blocks.{first + LAYERS}.{1 if level == 0 else 2}.conv.", f"up_blocks.{level}.upsample.conv."))
        for layer in range(LAYERS + 1):
            pairs.append((f"output_blocks.{first + layer}.0.", f"up_blocks.{level}.resnets.{layer}."))
            pairs.append((f"output_blocks.{first + layer}.1.", f"up_blocks.{level}.attentions.{layer}."))
    return pairs


RESNETS = ["resnets.0", "resnets.1", "resnets.2", "resnet_1", "resnet_2"]
INSIDE = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET = [
    *TRANSFORMER,
    (".to_out.0.", ".to_out."),
    ("time_embed.0.", "time_embedding.linear_1."),
    ("time_embed.2.", "time_embedding.linear_2."),
    ("input_blocks.0.0.", "conv_in."),
    ("middle_block.0.", "mid_block.resnet_1."),
    ("middle_block.1.", "mid_block.attention."),
    ("middle_block.2.", "mid_block.resnet_2."),
    ("out.0.", "conv_norm_out."),
    ("out.2.", "conv_out."),
    *unet_blocks(),
    *((f".{resnet}.{theirs}.", f".{resnet}.{ours}.") for resnet in RESNETS for theirs, ours in INSIDE.items()),
]
CONTROLNET = [
    *((f"input_hint_block.{2 * i}.", f"hint.{i}.") for i in range(8)),
    *((f"zero_convs.{i}.0.", f"zero_convs.{i}.") for i in range(LEVELS * (LAYERS + 1))),
    ("middle_block_out.0.", "mid_zero_conv."),
    *UNET,
]
VAE = [
    *((f"encoder.down.{i}.", f"encoder.down_blocks.{i}.") for i in range(LEVELS)),
    # The originals number the decoder's levels from the image; minisd numbers them in order of execution.
    *((f"decoder.up.{i}.", f"decoder.up_blocks.{LEVELS - 1 - i}.") for i in range(LEVELS)),
    (".block.", ".resnets."),
    (".mid.block_1.", ".mid_block.resnet_1."),
    (".mid.block_2.", ".mid_block.resnet_2."),
    (".mid.attn_1.norm.", ".mid_block.attention.norm."),
    (".mid.attn_1.q.", ".mid_block.attention.attn.to_q."),
    (".mid.attn_1.k.", ".mid_block.attention.attn.to_k."),
    (".mid.attn_1.v.", ".mid_block.attention.attn.to_v."),
    (".mid.attn_1.proj_out.", ".mid_block.attention.attn.to_out."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".norm_out.", ".conv_norm_out."),
]
OPENCLIP = [
    ("transformer.resblocks.", "blocks."),
    ("positional_embedding", "position_embedding.weight"),
    ("ln_final.", "final_norm."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.out_proj.", ".attn.to_out."),
    (".mlp.c_fc.", ".fc1."),
    (".mlp.c_proj.", ".fc2."),
]

# The prefix of each component's names, and the rules for the rest. v1's text encoder has the same names as in diffusers.
IMAGES = {
    "unet": ("model.diffusion_model.", UNET),
    "vae": ("first_stage_model.", VAE),
    "controlnet": ("control_model.", CONTROLNET),
}
LAYOUTS = {
    "v1": {**IMAGES, "text_encoder": ("cond_stage_model.transformer.", RULES["text_encoder"])},
    "v2": {**IMAGES, "text_encoder": ("cond_stage_model.model.", OPENCLIP)},
}
SCHEDULE = (
    "betas|(sqrt_)?alphas_cumprod|alphas_cumprod_prev|(sqrt|log)_one_minus_alphas_cumprod|sqrt_recip(m1)?_alphas_cumprod"
    "|posterior_(variance|log_variance_clipped|mean_coef[12])|logvar|lvlb_weights|scale_factor"
)
# Left over from training and other programs: moving averages, losses, trained words, and CLIP's image encoder.
LEFTOVERS = (
    rf"{SCHEDULE}|model_ema\..*|embedding_manager\..*|first_stage_model\.(loss|model_ema)\..*"
    r"|cond_stage_model\.((transformer|model)\.)?(text_projection(\.weight)?|logit_scale)"
)
# Tensors that no network here needs. Stable Diffusion v2 uses the states after block 23 of OpenCLIP's 24, and does not use the
# projection, which is for comparing texts with images.
NOT_NEEDED = {
    "v1": rf"{LEFTOVERS}|cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids",
    "v2": rf"{LEFTOVERS}|cond_stage_model\.model\.(transformer\.(resblocks\.23\..*|text_model\.embeddings\..*)|attn_mask)",
}


def original_places(names: Iterable[str], generation: str) -> tuple[dict[str, Place], list[str]]:
    """minisd's names for the tensors of a single file of "v1" or "v2", each with its place, and all names without a place."""
    places: dict[str, Place] = {}
    unexpected = []
    for name in names:
        if re.fullmatch(NOT_NEEDED[generation], name):
            continue
        natives = native_names(name, generation)
        if not natives or places.keys() & natives.keys():
            unexpected.append(name)
        else:
            places |= natives
    return places, unexpected


def native_names(name: str, generation: str) -> dict[str, Place]:
    for part, (prefix, rules) in LAYOUTS[generation].items():
        if name.startswith(prefix):
            native = f"{part}.{rename(usual_name(part, name.removeprefix(prefix)), rules)}"
            if ".attn.in_proj_" in native:
                return {native.replace("in_proj_", f"to_{letter}."): Place(name, third) for third, letter in enumerate("qkv")}
            return {native: Place(name)}
    return {}


def original_name(native: str, generation: str) -> str:
    """Translate one of minisd's names into the original name; q, k and v of v2's text encoder share one name."""
    part, inside = native.split(".", 1)
    prefix, rules = LAYOUTS[generation][part]
    if rules is OPENCLIP:
        inside = re.sub(r"\.attn\.to_[qkv]\.", ".attn.in_proj_", inside)
    return prefix + rename_back(inside, rules)


def averaged_places(places: Mapping[str, Place]) -> dict[str, Place]:
    """The places with the UNet's moving average instead of the UNet: `model_ema.` and the usual names without dots."""
    return {
        native: Place("model_ema." + place.name.removeprefix("model.").replace(".", "")) if native.startswith("unet.") else place
        for native, place in places.items()
    }
