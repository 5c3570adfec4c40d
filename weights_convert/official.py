"""What a single file does not say of itself: the configuration of its networks, and whether it predicts ε or v.

Sources: the JSON files of the official repositories.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .known import EPSILON, V, of_size, official, sha256_for_free

UNET = {
    "_class_name": "UNet2DConditionModel",
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,  # it means the number of heads
    "sample_size": 64,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
    "sample_size": 512,
}
TEXT = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
}
TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
V2 = {
    "unet": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "vae": {"sample_size": 768},
    "text_encoder": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}


def configs(generation: str, prediction_type: str, in_channels: int) -> dict[str, dict[str, Any]]:
    """The JSON files of a diffusers folder, by their paths, for "v1" or "v2", "epsilon" or "v_prediction"; 9 channels inpaint."""
    v = prediction_type == V
    unet, vae, text, tokens = {**UNET, "in_channels": in_channels}, VAE, TEXT, TOKENS
    if generation == "v2":
        unet = {**unet, **V2["unet"], "sample_size": 96 if v else 64}
        vae, text = {**VAE, **V2["vae"]}, {**TEXT, **V2["text_encoder"], "hidden_act": "gelu"}
        tokens = {**TOKENS, "pad_token": "!"}
    sampler = "DDIMScheduler" if v else "PNDMScheduler"
    kind = {4: "StableDiffusionPipeline", 9: "StableDiffusionInpaintPipeline"}[in_channels]
    index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", sampler], "safety_checker": [None, None], "feature_extractor": [None, None]}
    return {
        "model_index.json": {"_class_name": kind, "_diffusers_version": "0.10.2", **index, "requires_safety_checker": False},
        "unet/config.json": unet,
        "vae/config.json": vae,
        "text_encoder/config.json": text,
        "scheduler/scheduler_config.json": {"_class_name": sampler, **SCHEDULER, "prediction_type": prediction_type},
        "tokenizer/special_tokens_map.json": tokens,
    }


TOLD_BY = "unet.up_blocks.3.attentions.2.block.norm1.bias"


def prediction_type(path: Path, generation: str, tensors: Mapping[str, Tensor], hashed: bool = False) -> tuple[str, str]:
    """What a single file with these tensors predicts, "epsilon" or "v_prediction", and how that was decided.

    Names and shapes do not tell. What does, in this order: the sha256 of an official file, if `hashed` or if the Hub's cache knows
    it without reading the file; a YAML file of the same name beside it; for v2 the spread of one tensor (found by ComfyUI).
    """
    if generation == "v2" and any(known.prediction_type for known in of_size(path.stat().st_size)):
        known = official(path) if hashed or sha256_for_free(path) else None
        if known and known.prediction_type:
            return known.prediction_type, f"by its sha256 it is {known.name}"
    yaml = path.with_suffix(".yaml")
    if yaml.is_file():
        v = re.search(r"parameterization:\s*[\"']?v\b", yaml.read_text(encoding="utf-8", errors="replace"))
        return (V if v else EPSILON), f"{yaml.name} says so"
    if generation == "v1":
        return EPSILON, "every official v1 predicts ε"
    spread = tensors[TOLD_BY].float().std(correction=0).item()
    how = f"guessed from the weights: {TOLD_BY} spreads by {spread:.3f}, v-models by more than 0.09"
    return (V if spread > 0.09 else EPSILON), how
