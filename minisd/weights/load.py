"""Loads a component or a whole pipeline from a checkpoint. If anything is missing, nothing is loaded or downloaded."""

import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import torch
from torch import nn

from ..config import UnsupportedConfig
from ..guided_unet import GuidedUNet
from ..pretrained import PretrainedPipeline
from ..schedulers import SCHEDULERS, Scheduler
from ..schedulers.names import NamedSampler
from ..taesd import AutoencoderTiny
from ..tasks import refuse_other_tasks
from ..tokenizer import CLIPTokenizer
from .checkpoint import Checkpoint, read_folder, read_part, read_single_file
from .errors import CheckpointError
from .fill import KINDS, NETWORKS, fill, part_of
from .find import HubOptions, find, find_file
from .folder import DEFAULTS, SCHEDULER, Needed, select_in, within
from .pipeline_index import INDEX, class_of, refuse_unsupported
from .single_network import read_network
from .texts import parse_json, read_text
from .vetting import check, get, named
from .vocabulary import read_tokenizer

FORMATS = (torch.float32, torch.float16, torch.bfloat16)  # dtypes of weights
HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
NEEDLESS = ("use_safetensors", "low_cpu_mem_usage", "feature_extractor", "requires_safety_checker")  # ignored, for diffusers
REPLACEABLE = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "num_inference_steps", "guidance_scale")
UNET = "unet/config.json"
VOCABULARY = "openai/clip-vit-large-patch14"  # has the vocabulary of every official Stable Diffusion

P = TypeVar("P", bound=PretrainedPipeline)
N = TypeVar("N", bound=nn.Module)
T = TypeVar("T", bound=CLIPTokenizer)
S = TypeVar("S", bound=Scheduler)


# Keywords


def checked_keywords(keywords: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The keywords, except those of diffusers that have no effect here. All others must be in `names`.

    Raises TypeError or ValueError otherwise, before anything is loaded.
    """
    if keywords.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False requests pickles, which can run code and are not supported; leave it out")
    rest = {name: value for name, value in keywords.items() if name not in NEEDLESS}
    if unknown := rest.keys() - set(names):
        raise TypeError(f"unknown argument {min(unknown)}; valid arguments are {', '.join(names)}")
    return rest


def replacements(kind: type[PretrainedPipeline], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The components among a loader's keywords. Raises TypeError for unknown keywords, and for file names as values."""
    parts = checked_keywords(keywords, (*REPLACEABLE, *kind.not_in_checkpoints))
    if lacking := [name for name in kind.not_in_checkpoints if name not in parts]:
        raise TypeError(f"{kind.__name__} needs {lacking[0]}=…, which checkpoints do not contain")
    for name, part in parts.items():
        if isinstance(part, str | os.PathLike):
            raise TypeError(f"pass a loaded {name}, for example {name}=….from_pretrained({str(part)!r}), not the name of a file")
    return parts


def pop_dtype(options: dict[str, Any]) -> torch.dtype:
    """Remove `dtype` or its alias `torch_dtype` from the options and return it; default float32. Raises TypeError for others."""
    given = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
    chosen = given[0] or given[1] or torch.float32
    if chosen not in FORMATS:
        raise TypeError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {chosen!r}")
    return chosen


def pop_hub_options(options: dict[str, Any]) -> HubOptions:
    """Remove the options for ids on the Hub from the options and return them."""
    return HubOptions(**{name: options.pop(name) for name in HUB if name in options})


# Components


def load_component(kind: Any, source: str | os.PathLike, subfolder: str = "", **options: Any) -> Any:
    """Load a network, a tokenizer or a sampler of this class."""
    subfolder = "" if subfolder in ("", ".") else PurePath(subfolder).as_posix()
    if issubclass(kind, Scheduler):
        return load_scheduler(kind, source, subfolder, pop_hub_options(options), options)
    if issubclass(kind, CLIPTokenizer):
        return load_tokenizer(kind, source, subfolder, HubOptions(**checked_keywords(options, HUB)))
    return load_network(kind, source, subfolder, **options)


def load_scheduler(kind: type[S], source: str | os.PathLike, subfolder: str, hub: HubOptions, settings: Mapping[str, Any]) -> S:
    """Load a sampler from any sampler's file; `settings` override those in the file."""
    file = within(subfolder, "scheduler_config.json")
    path = find(source, Needed((file,)), hub) / file
    return read_scheduler(kind, parse_json(read_text(path), str(path)), str(path), settings)


def read_scheduler(kind: Any, settings: Mapping[str, Any], where: str, changes: Mapping[str, Any]) -> Any:
    """A sampler from the settings of a file, with changes. Raises UnsupportedConfig, naming the file."""
    try:
        return kind.from_config(settings, **changes)
    except ValueError as error:
        raise UnsupportedConfig(f"{where}: {error}") from error


def load_tokenizer(kind: type[T], source: str | os.PathLike, subfolder: str, hub: HubOptions) -> T:
    """Load a tokenizer; if no subfolder is given, its files may also be in "tokenizer"."""
    needed = Needed(vocabulary=(f"{subfolder}/",) if subfolder else ("", "tokenizer/"))
    folder = find(source, needed, hub)
    paths = [folder / name for name in select_in(folder, needed).texts]
    return read_tokenizer(kind, {path.name: read_text(path) for path in paths}, str(paths[0].parent))


def load_network(kind: type[N], source: str | os.PathLike, subfolder: str, variant: str | None = None, **options: Any) -> N:
    """Load a network from a folder or the Hub, cast to `dtype`."""
    dtype, hub = pop_dtype(options), HubOptions(**checked_keywords(options, HUB))
    variants = ("fp16", None) if hub.revision == "fp16" else (variant,)
    needed = Needed(networks={subfolder: KINDS[part_of(kind)].weights}, variants=variants)
    folder = find(source, needed, hub)
    network, tensors = read_part(kind, folder, subfolder, select_in(folder, needed).weights[subfolder])
    return fill(network, tensors, dtype)


def load_network_file(kind: Any, source: str | os.PathLike, **options: Any) -> Any:
    """Load a network from a single file, cast to `dtype`."""
    dtype, hub = pop_dtype(options), HubOptions(**checked_keywords(options, HUB))
    if not issubclass(kind, nn.Module):
        raise TypeError(f"a {kind.__name__} cannot be loaded from a single file; use {kind.__name__}.from_pretrained")
    network, tensors = read_network(kind, find_file(source, hub))
    return fill(network, tensors, dtype)


# Pipelines


def load_pipeline(kind: type[P], source: str | os.PathLike, variant: str | None = None, **options: Any) -> P:
    """Load a pipeline from a folder or the Hub, or, with `load_single_file`, from a single file."""
    if source != "tiny" and Path(source).expanduser().is_file():
        if asked := variant or options.pop("revision", None):
            raise ValueError(f"{source} is a single file, which has no variants and no revisions; leave out {asked!r}")
        return load_single_file(kind, source, **options)
    dtype, hub, given = pop_dtype(options), pop_hub_options(options), replacements(kind, options)
    path = find(source, Needed((INDEX,)), hub) / INDEX
    index = parse_json(read_text(path), str(path))
    if "vae" not in given and class_of(index, "vae", str(source)) == AutoencoderTiny.__name__:
        given["vae"] = load_network(AutoencoderTiny, source, "vae", variant, dtype=dtype, **vars(hub))
    refuse_unsupported(index, given, str(source))
    if "unet" not in given and (path := find(source, Needed((INDEX,), (UNET,)), hub) / UNET).is_file():
        refuse_other_unets(parse_json(read_text(path), str(path)), kind, source)

    # Find everything before loading anything
    networks = {part: network.weights for part, network in NETWORKS.items() if part not in given}
    if not class_of(index, "safety_checker", str(source)):
        networks.pop("safety_checker", None)
    needed = Needed(
        texts=(INDEX,) if isinstance(given.get("scheduler"), Scheduler) else (INDEX, SCHEDULER),
        optional=(DEFAULTS,),
        vocabulary=() if "tokenizer" in given else ("tokenizer/",),
        networks=networks,
        variants=("fp16", None) if hub.revision == "fp16" else (variant, None),
        variant_somewhere=bool(variant),
    )
    return assemble(kind, read_folder(find(source, needed, hub), needed), given, dtype)


def load_single_file(
    kind: type[P], source: str | os.PathLike, tokenizer: Any = None, prediction_type: str | None = None, **options: Any
) -> P:
    """Load a pipeline from a single file. `tokenizer` is a tokenizer, or names the vocabulary that original files lack."""
    if prediction_type not in (None, "epsilon", "v_prediction"):
        raise ValueError(f'prediction_type must be "epsilon" or "v_prediction", not {prediction_type!r}')
    if isinstance(tokenizer, CLIPTokenizer):
        options["tokenizer"] = tokenizer
    if "revision" in options:
        raise TypeError("unknown argument revision: a single file has no revisions")
    dtype, hub, given = pop_dtype(options), pop_hub_options(options), replacements(kind, options)
    source = find_file(source, hub)
    checkpoint = read_single_file(source, prediction_type, given=given.keys() - {"unet"})  # checks what the file is
    if checkpoint.decided.startswith("guessed"):
        guess = f"{source} is assumed to predict {checkpoint.prediction_type}, {checkpoint.decided}"
        warnings.warn(f'{guess}; prediction_type="…" overrides it', stacklevel=1)
    refuse_unsupported(checkpoint.json(INDEX), given, str(source))
    if "unet" not in given:
        refuse_other_unets(checkpoint.json(UNET), kind, source)
    if "tokenizer" not in given and (tokenizer is not None or not checkpoint.has_vocabulary):
        checkpoint = checkpoint.with_vocabulary(folder_with_vocabulary(tokenizer or VOCABULARY, hub, source))
    return assemble(kind, checkpoint, given, dtype)


def refuse_other_unets(settings: Mapping[str, Any], kind: type[P], source: str | os.PathLike):
    """Raise OtherTask if the checkpoint's UNet is for another pipeline."""
    with named(f"{source}/{UNET}"):
        in_channels = get(settings, "in_channels", int, 4)
    refuse_other_tasks(in_channels, kind.unet_channels, str(source))


def folder_with_vocabulary(tokenizer: str | os.PathLike, hub: HubOptions, source: str | os.PathLike) -> Path:
    """The folder with the vocabulary for a single file. Raises CheckpointError if there is none."""
    try:
        return find(tokenizer, Needed(vocabulary=("", "tokenizer/")), hub)
    except CheckpointError as error:
        raise CheckpointError(
            f'{source} has no vocabulary; pass a folder that has one, as in tokenizer="folder": {error}'
        ) from error


def assemble(kind: type[P], checkpoint: Checkpoint, given: Mapping[str, Any], dtype: torch.dtype) -> P:
    """A pipeline with the components of a checkpoint, or those `given` instead. Small files are read first, then weights."""
    if isinstance(given.get("unet", checkpoint.networks.get("unet")), GuidedUNet):
        kind = consistency_kind(kind, checkpoint.source)
    scheduler = given.get("scheduler") or SCHEDULERS[str(class_of(checkpoint.json(INDEX), "scheduler", str(checkpoint.source)))]
    if isinstance(scheduler, type | NamedSampler):
        # diffusers' pipelines set steps_offset to 1, which files of its first versions omit
        settings = {**checkpoint.json(SCHEDULER), "steps_offset": 1}
        scheduler = read_scheduler(scheduler, settings, f"{checkpoint.source}/{SCHEDULER}", {})
    parts = defaults_of(checkpoint)
    if "tokenizer" not in given:
        parts["tokenizer"] = read_tokenizer(CLIPTokenizer, checkpoint.tokenizer_files, f"the tokenizer of {checkpoint.source}")
    for part, network in checkpoint.networks.items():
        if part not in given:
            parts[part] = fill(network, checkpoint.take(part), dtype)
    return kind(**{**parts, **given, "scheduler": scheduler})


def consistency_kind(kind: Any, source: Path) -> Any:
    """The pipeline class for a UNet that takes the guidance scale as an input; only text to image has one."""
    from ..consistency import LatentConsistencyModelPipeline

    if not issubclass(LatentConsistencyModelPipeline, kind):
        raise UnsupportedConfig(f"{source} is a latent consistency model; for these, minisd implements only text to image")
    return LatentConsistencyModelPipeline


def defaults_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's default number of steps and guidance scale."""
    defaults = checkpoint.json(DEFAULTS) if DEFAULTS in checkpoint.files else {}
    if unknown := defaults.keys() - {"num_inference_steps", "guidance_scale"}:
        raise CheckpointError(f"{checkpoint.source}: {DEFAULTS} has {min(unknown)!r}, which is not a default of a pipeline")
    with named(f"{checkpoint.source}/{DEFAULTS}"):
        kinds = {"num_inference_steps": int, "guidance_scale": float}
        return {name: check(name, value, kinds[name]) for name, value in defaults.items()}
