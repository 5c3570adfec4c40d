"""The length of every official .safetensors file, computed from the names, shapes and dtypes that minisd expects in it.

No official file was opened for this. The lengths match the published ones to within a few bytes: the header contains the offset
of each tensor, and another order of the tensors changes the digits of the offsets. One extra or missing name would change 60
bytes or more.
"""

import json
import math
import re

from minisd.safety_checker import SafetyCheckerConfig
from minisd.weights.fill import NETWORKS, shapes_of, unfilled
from minisd.weights.generations import GENERATIONS
from minisd.weights.names import CONVOLUTIONS, diffusers_name
from minisd.weights.original_names import original_name

BYTES = {"F32": 4, "F16": 2, "I64": 8, "I32": 4}
SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
]  # fmt: skip
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # as official float32 VAEs have it

Tensors = dict[str, tuple[str, tuple[int, ...]]]  # name → dtype, shape


def length(tensors: Tensors) -> int:
    """The length of a file: 8 bytes, the header as compact JSON, the numbers."""
    header: dict = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in sorted(tensors.items(), key=lambda item: (-BYTES[item[1][0]], item[0])):
        begin, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end


def contents(name: str, generation: str, in_channels: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of an official network."""
    config = GENERATIONS[generation].configs(in_channels).get(name, SafetyCheckerConfig())
    return shapes_of(unfilled(NETWORKS[name].network, config))


def part(name: str, generation: str, dtype: str, in_channels: int = 4) -> Tensors:
    """A file of a diffusers folder."""
    tensors: Tensors = {}
    for native, shape in contents(name, generation, in_channels).items():
        theirs = diffusers_name(name, native)
        if name == "unet" and generation == "v1" and CONVOLUTIONS.search(theirs):
            shape = (*shape, 1, 1)
        if name == "vae" and dtype == "F32":
            for new, old in OLD_ATTENTION.items():
                theirs = theirs.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        tensors[theirs] = dtype, shape
    if name == "text_encoder":
        tensors["text_model.embeddings.position_ids"] = "I64", (1, 77)
    if name == "safety_checker":
        tensors["vision_model.vision_model.embeddings.position_ids"] = "I64", (1, 257)
    return tensors


def single(generation: str, in_channels: int = 4, averages: bool = True, copies: bool = False) -> Tensors:
    """An original single file; `averages` adds the two numbers of the moving average, `copies` its weights."""
    tensors: Tensors = {}
    for name in ("unet", "vae", "text_encoder"):
        for native, shape in contents(name, generation, in_channels).items():
            theirs = original_name(f"{name}.{native}", generation)
            convolution = name == "unet" and generation == "v1" and re.search(r"\.proj_(in|out)\.weight$", theirs)
            attention = re.search(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$", theirs)
            fused = ".in_proj_" in theirs
            tensors[theirs] = "F32", (3 * shape[0], *shape[1:]) if fused else (*shape, 1, 1) if convolution or attention else shape
    tensors |= dict.fromkeys(SCHEDULE, ("F32", (1000,)))
    if generation == "v1":
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = "I64", (1, 77)
    else:
        last = {name: at for name, at in tensors.items() if ".resblocks.22." in name}
        tensors |= {name.replace(".22.", ".23."): at for name, at in last.items()}
        tensors |= {"cond_stage_model.model.text_projection": ("F32", (1024, 1024))}
        tensors |= {"cond_stage_model.model.logit_scale": ("F32", ())}
    if averages:
        tensors |= {"model_ema.decay": ("F32", ()), "model_ema.num_updates": ("I32", ())}
    if copies:
        unet = {name: at for name, at in tensors.items() if name.startswith("model.diffusion_model.")}
        tensors |= {"model_ema." + name.removeprefix("model.").replace(".", ""): at for name, at in unet.items()}
    return tensors


def files() -> dict[str, Tensors]:
    """The tensors of every official .safetensors file, by the file's name in `minisd.weights.official`."""
    found: dict[str, Tensors] = {}
    for dtype, half in (("F32", ""), ("F16", " in float16")):
        unet, checker = part("unet", "v1", dtype), part("safety_checker", "v1", dtype)
        found |= {f"the UNet of v1-4{half}": unet, f"the UNet of v1-5{half}": unet, f"the safety checker of v1{half}": checker}
        for generation in ("v1", "v2"):
            found[f"the VAE of {generation}{half}"] = part("vae", generation, dtype)
            found[f"the text encoder of {generation}{half}"] = part("text_encoder", generation, dtype)
    plain = found["the UNet of v1-4"]
    found |= {f"the UNet of {model} without averaging (non_ema)": plain for model in ("v1-4", "v1-5")}
    found |= {f"the text encoder of {model}": found["the text encoder of v1"] for model in ("v1-4", "v1-5")}
    found |= {f"the UNet of {model}": part("unet", "v2", "F32") for model in ("2-1", "2-1-base")}
    for size in ("768", "512"):
        found[f"v2-1_{size}-ema-pruned.safetensors"] = single("v2")
        found[f"v2-1_{size}-nonema-pruned.safetensors"] = single("v2", averages=False)
    return found | {
        "v1-5-pruned-emaonly.safetensors": single("v1"),
        "v1-5-pruned.safetensors": single("v1", copies=True),
        "512-inpainting-ema.safetensors": single("v2", in_channels=9),
    }
