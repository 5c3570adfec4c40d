"""Checkpoints in the layout in which Stable Diffusion was first published, from the official names and seeded numbers.

Small ones have the official names and a fraction of the official widths; `small_presets` makes minisd expect these.
"""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import DATA, random_tensors, small_vocabulary
from safetensors.torch import save_file
from torch import Tensor

from minisd.config import SD1_TEXT, SD1_UNET, SD1_VAE, SD2_TEXT, SD2_UNET, SD2_VAE
from minisd.weights.generations import GENERATIONS, Generation
from minisd.weights.official import EPSILON, V

# Every name and shape: "single file" by generation, "diffusers" by generation and part. q, k and v of OpenCLIP are one tensor.
OFFICIAL_SHAPES: dict[str, Any] = json.loads(gzip.decompress((DATA / "official_shapes.json.gz").read_bytes()))

SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
]  # fmt: skip
WIDTHS = {"model": 40, "first_stage_model": 16, "cond_stage_model": 16}  # by how much small ones are narrower
WORDS = len(small_vocabulary()[0])
SMALL_SIDES = {"block_out_channels": (8, 16, 32, 32), "norm_num_groups": 8}
SMALL_V1_UNET = replace(SD1_UNET, **SMALL_SIDES, cross_attention_dim=48, num_attention_heads=(4, 4, 4, 4))
SMALL_V2_UNET = replace(SD2_UNET, **SMALL_SIDES, cross_attention_dim=64, num_attention_heads=(2, 4, 8, 8))
SMALL_GENERATIONS = {
    "v1": Generation(
        {EPSILON: SMALL_V1_UNET, V: SMALL_V1_UNET},
        replace(SD1_VAE, **SMALL_SIDES),
        replace(SD1_TEXT, vocab_size=WORDS, hidden_size=48, intermediate_size=192),
        GENERATIONS["v1"].pad,
    ),
    "v2": Generation(
        {EPSILON: replace(SMALL_V2_UNET, sample_size=64), V: SMALL_V2_UNET},
        replace(SD2_VAE, **SMALL_SIDES),
        replace(SD2_TEXT, vocab_size=WORDS, hidden_size=64, intermediate_size=256),
        GENERATIONS["v2"].pad,
    ),
}


@pytest.fixture
def small_presets(monkeypatch):
    """Original files are recognised by their widths and read with the presets: here are those of the small ones."""
    for name, generation in SMALL_GENERATIONS.items():
        monkeypatch.setitem(GENERATIONS, name, generation)


def narrowed(name: str, shape: list[int]) -> list[int]:
    part = name.split(".")[0]
    special = {49408: WORDS, 77: 77, 768: 48, 1024: 64}
    if part == "model":
        return [special.get(n, n // WIDTHS[part] if n >= 320 else n) for n in shape]
    if part == "cond_stage_model":
        return [special.get(n, n // WIDTHS[part]) for n in shape]
    return [n // WIDTHS[part] if n >= 128 else n for n in shape]


def original_shapes(generation: str, small: bool = True, in_channels: int = 4) -> dict[str, list[int]]:
    shapes = dict(OFFICIAL_SHAPES["single file"][generation])
    first = "model.diffusion_model.input_blocks.0.0.weight"
    shapes[first] = [shapes[first][0], in_channels, 3, 3]
    return {name: narrowed(name, shape) for name, shape in shapes.items()} if small else shapes


def bookkeeping(generation: str) -> dict[str, Tensor]:
    """What the official files hold besides weights."""
    tensors = dict.fromkeys(SCHEDULE, torch.zeros(1000))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    tensors |= {"alphas_cumprod": (1 - betas).cumprod(0), "model_ema.decay": torch.tensor(0.9999)}
    tensors["model_ema.num_updates"] = torch.tensor(1, dtype=torch.int32)
    if generation == "v1":
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        tensors["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    return {name: tensor.clone() for name, tensor in tensors.items()}


def original_tensors(generation: str, small: bool = True, in_channels: int = 4, seed: int = 0) -> dict[str, Tensor]:
    shapes = original_shapes(generation, small, in_channels)
    empty = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return random_tensors(empty, seed) | bookkeeping(generation)


def averaged(tensors: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """The tensors, and beside them another UNet under the names of a moving average."""
    unet = {name: tensor for name, tensor in tensors.items() if name.startswith("model.diffusion_model.")}
    copies = random_tensors(unet, seed)
    return tensors | {"model_ema." + name.removeprefix("model.").replace(".", ""): tensor for name, tensor in copies.items()}


def write_original(path: Path, generation: str, **options) -> Path:
    save_file(original_tensors(generation, **options), path, metadata={"format": "pt"})
    return path
