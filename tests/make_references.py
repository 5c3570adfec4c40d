"""Writes references/: what diffusers and transformers compute, for machines that have neither, and for GPUs.

    python tests/make_references.py

Needs diffusers and transformers, in the versions of constraints.txt. Weights are not stored: helpers.random_tensors draws them from
a seed, for the networks of helpers.SMALL. Each file holds inputs and outputs, and in its metadata the pipelines' arguments.
"""

import json
import tempfile
from pathlib import Path

import diffusers
import torch
import transformers
from helpers import NETWORKS, REFERENCES, SMALL, pair, randn, small_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

CALL = {
    "prompt": "a photograph of an astronaut riding a horse!",
    "negative_prompt": "a red ball",
    "num_inference_steps": 10,
    "guidance_scale": 5.0,
    "height": 40,
    "width": 64,
}
SAMPLERS = {"v1": ("PNDMScheduler", "DDIMScheduler", "LMSDiscreteScheduler"), "v2": ("DDIMScheduler", "LMSDiscreteScheduler")}


def of_networks(kind: str, networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Inputs and outputs of each network alone, at odd sizes."""
    ids = small_tokenizer(kind)(CALL["prompt"]).input_ids
    context = networks["text_encoder"](ids).last_hidden_state
    latents, times, picture = randn(2, 4, 9, 13, seed=1), torch.tensor([981, 21]), randn(1, 3, 40, 32, seed=2)
    gaussian = networks["vae"].encode(picture).latent_dist
    return {
        "ids": ids,
        "context": context,
        "latents": latents,
        "times": times,
        "eps": networks["unet"](latents, times, context.repeat(2, 1, 1)).sample,
        "picture": picture,
        "moments": torch.cat([gaussian.mean, gaussian.logvar], dim=1),
        "decoded": networks["vae"].decode(latents[:1, :, :5, :4]).sample,
    }


def of_pipelines(kind: str, networks: dict[str, nn.Module], folder: Path) -> dict[str, Tensor]:
    """The last latents and the 8-bit picture of every sampler, from the noise of seed 0."""
    small_tokenizer(kind).save_pretrained(folder / kind)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / kind)
    results = {}
    for name in SAMPLERS[kind]:
        scheduler = getattr(diffusers, name).from_config(SMALL[kind]["scheduler"])
        parts = {**networks, "tokenizer": tokenizer, "scheduler": scheduler, "safety_checker": None, "feature_extractor": None}
        pipe = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
        latents, pixels = (
            pipe(**CALL, generator=torch.Generator().manual_seed(0), output_type=form).images for form in ("latent", "np")
        )
        results[f"{name}.latents"] = latents
        results[f"{name}.picture"] = torch.from_numpy((255 * pixels).round().astype("uint8"))
    return results


def main():
    REFERENCES.mkdir(exist_ok=True)
    versions = {library.__name__: library.__version__ for library in (diffusers, transformers, torch)}
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for kind in SAMPLERS:
            networks = {component: pair(component, SMALL[kind][component])[0] for component in NETWORKS}
            tensors = of_networks(kind, networks) | of_pipelines(kind, networks, Path(folder))
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(tensors, REFERENCES / f"{kind}.safetensors", metadata={"call": json.dumps(CALL), **versions})


if __name__ == "__main__":
    main()
