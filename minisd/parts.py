"""From a checkpoint to the parts of a pipeline, and back: a folder with a folder for each part, or one file with all of them."""

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoint import (
    Checkpoint,
    CheckpointError,
    known,
    part_files,
    read_json,
    read_single_file,
    resolve,
    these,
    weight_files,
    write_json,
)
from .clip import CLIPTextModel
from .config import UnsupportedConfig
from .safety_checker import StableDiffusionSafetyChecker, preprocessor_json
from .schedulers import SCHEDULERS
from .tokenizer import CLIPTokenizer, padding_token, vocabulary_files
from .unet import UNet2DConditionModel
from .vae import AutoencoderKL

NETWORKS = {
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "unet": UNet2DConditionModel,
    "safety_checker": StableDiffusionSafetyChecker,
}
REPLACEABLE = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "num_inference_steps", "guidance_scale")
INDEX, SCHEDULER, DEFAULTS = "model_index.json", "scheduler/scheduler_config.json", "defaults.json"
VOCABULARY = "openai/clip-vit-large-patch14"  # its vocabulary is that of every official Stable Diffusion


def replacements(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The parts among the keywords of a loader; raises TypeError for names that no part has, and for names of files."""
    parts = known(keywords, REPLACEABLE)
    for name, part in parts.items():
        if isinstance(part, str | os.PathLike):
            raise TypeError(f"{name} is to be loaded before it is given, as in {name}=….from_pretrained({str(part)!r})")
    return parts


def from_folder(
    source: str | os.PathLike, given: Mapping[str, Any], dtype: torch.dtype, variant: str | None, hub: Mapping[str, Any]
) -> dict[str, Any]:
    """The parts in a folder or on the Hub, by the names that a pipeline has for them; those that are `given` replace its own."""
    index = read_json(resolve(source, these(source, INDEX), **hub) / INDEX)
    refuse_what_is_not_implemented(index, given, str(source))
    sampler = given.get("scheduler") or SCHEDULERS[index["scheduler"][1]]
    absent = set() if (index.get("safety_checker") or [None])[0] else {"safety_checker"}
    networks = {name: network for name, network in NETWORKS.items() if name not in given and name not in absent}
    variants = ("fp16", None) if hub.get("revision") == "fp16" else (variant, None)

    def choose(names: Collection[str]) -> list[str]:
        """All that is needed, before any of it is fetched."""
        files = these(source, INDEX, *([SCHEDULER] if isinstance(sampler, type) else []))(names)
        files += [DEFAULTS] if DEFAULTS in names else []
        files += [] if "tokenizer" in given else vocabulary_files(names, str(source), "tokenizer")
        if variant and not any(weight_files(names, f"{name}/{part.weights_name}", variant) for name, part in networks.items()):
            raise CheckpointError(f'{source} has no variant "{variant}"; leave it out')
        if "safety_checker" in networks and not any(name.startswith("safety_checker/") for name in names):
            raise CheckpointError(f"the safety checker of {source} is missing; do without it by safety_checker=None")
        return files + [
            file for name, part in networks.items() for file in part_files(names, source, name, part.weights_name, variants)
        ]

    folder = resolve(source, choose, **hub)
    parts = defaults_in(read_json(folder / DEFAULTS), source) if (folder / DEFAULTS).exists() else {}
    if "tokenizer" not in given:
        parts["tokenizer"] = CLIPTokenizer.from_pretrained(folder, "tokenizer")
    if isinstance(sampler, type):
        sampler = sampler.from_config(read_json(folder / SCHEDULER))
    parts |= {name: network.from_folder(folder, name, variants, dtype) for name, network in networks.items()}
    return {**parts, **given, "scheduler": sampler}


def from_file(
    path: Path,
    given: Mapping[str, Any],
    dtype: torch.dtype,
    tokenizer: str | os.PathLike | None,
    prediction: str | None,
    hub: Mapping[str, Any],
) -> dict[str, Any]:
    """The same from a .safetensors file: minisd's own, or an original one; `hub` is for the vocabulary that it may lack."""
    checkpoint = read_single_file(path, prediction)
    if checkpoint.decided.startswith("guessed"):
        kind = checkpoint.json(SCHEDULER)["prediction_type"]
        warnings.warn(
            f'{path} is taken for a model of {kind}, {checkpoint.decided}; prediction_type="…" overrules it', stacklevel=1
        )
    index = checkpoint.json(INDEX)
    refuse_what_is_not_implemented(index, given, str(path))
    sampler = given.get("scheduler") or SCHEDULERS[index["scheduler"][1]]
    if isinstance(sampler, type):
        sampler = sampler.from_config(checkpoint.json(SCHEDULER))
    parts = defaults_in(checkpoint.json(DEFAULTS), path) if DEFAULTS in checkpoint.files else {}
    if "tokenizer" not in given:
        parts["tokenizer"] = vocabulary(checkpoint, path, tokenizer, hub)
    for name in checkpoint.parts:
        if name not in given:
            config = NETWORKS[name].config_class.from_json(checkpoint.json(f"{name}/config.json"))
            parts[name] = NETWORKS[name].from_tensors(config, checkpoint.take(name), dtype, str(path))
    return {**parts, **given, "scheduler": sampler}


def defaults_in(settings: Mapping[str, Any], where: str | os.PathLike) -> dict[str, Any]:
    """What a call does when it is not told, as a checkpoint says."""
    if unknown := settings.keys() - {"num_inference_steps", "guidance_scale"}:
        raise CheckpointError(f"{where}: {DEFAULTS} has {min(unknown)!r}, which is no default of a pipeline")
    return dict(settings)


def refuse_what_is_not_implemented(index: Mapping[str, Any], given: Collection[str], where: str):
    """Raises UnsupportedConfig for another pipeline than text to image, or for its scheduler, unless one is `given`."""
    kind = index.get("_class_name")
    if kind == "StableDiffusionInpaintPipeline":
        raise UnsupportedConfig(f"{where} is for inpainting, with 9 input channels; minisd has no inpainting pipeline")
    if kind != "StableDiffusionPipeline":
        raise UnsupportedConfig(f"{where} is a {kind}; minisd implements StableDiffusionPipeline")
    if "scheduler" in given:
        return
    scheduler = (index.get("scheduler") or [None])[-1]
    if not scheduler:
        raise UnsupportedConfig(f"{where} names no scheduler; give one, as in scheduler=DDIMScheduler()")
    if scheduler not in SCHEDULERS:
        raise UnsupportedConfig(
            f"{scheduler} is not implemented; another takes over what {where} says of it: scheduler=DDIMScheduler, or "
            "on the command line --sampler ddim"
        )


def vocabulary(checkpoint: Checkpoint, path: Path, tokenizer: str | os.PathLike | None, hub: Mapping[str, Any]) -> CLIPTokenizer:
    """The checkpoint's own tokenizer, or another one with the padding that the checkpoint is used to."""
    files = {file.removeprefix("tokenizer/"): text for file, text in checkpoint.files.items() if file.startswith("tokenizer/")}
    if tokenizer is None and checkpoint.has_vocabulary:
        return CLIPTokenizer.from_files(files)
    try:
        found = CLIPTokenizer.from_pretrained(tokenizer or VOCABULARY, **hub)
    except CheckpointError as error:
        raise CheckpointError(
            f'{path} holds no vocabulary; name a folder that has one, as in tokenizer="folder": {error}'
        ) from error
    size = len(checkpoint.tensors["text_encoder.token_embedding.weight"])
    if len(found.vocab) != size:
        raise CheckpointError(
            f"{tokenizer or VOCABULARY} has a vocabulary of {len(found.vocab):,}, and the text encoder of {path} one of {size:,}"
        )
    return CLIPTokenizer(found.vocab, found.merges, padding_token(files))


def write_parts(folder: Path, parts: Mapping[str, Any], defaults: Mapping[str, Any]):
    """Fill a folder that minisd and diffusers load."""
    library = {"vae": "diffusers", "unet": "diffusers", "scheduler": "diffusers", "safety_checker": "stable_diffusion"}
    parts = {name: part for name, part in parts.items() if part is not None}
    rest: dict[str, Any] = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    if "safety_checker" in parts:
        rest = {"feature_extractor": ["transformers", "CLIPImageProcessor"], "requires_safety_checker": True}
        (folder / "feature_extractor").mkdir()
        size = parts["safety_checker"].config.vision.image_size
        write_json(folder / "feature_extractor" / "preprocessor_config.json", preprocessor_json(size))
    index = {name: [library.get(name, "transformers"), type(part).__name__] for name, part in parts.items()}
    write_json(folder / INDEX, {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.10.2", **index, **rest})
    for name, part in parts.items():
        (folder / name).mkdir()
        part.write_to(folder / name)
    write_json(folder / DEFAULTS, defaults)
