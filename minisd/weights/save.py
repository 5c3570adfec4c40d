"""Writes checkpoints: the folder of a component or a pipeline, or a single self-describing file. All or nothing."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..compiled import uncompiled
from ..disk import sync
from ..fast.int8 import is_quantized
from ..safety_checker import MEAN, STD
from ..schedulers import Scheduler
from ..tokenizer import CLIPTokenizer
from .checkpoint import Checkpoint
from .errors import CheckpointError
from .fill import KINDS, part_of
from .folder import DEFAULTS
from .names import to_diffusers
from .pipeline_index import INDEX, index_json
from .safetensors import write_tensors
from .settings import config_json
from .texts import json_text, write_texts
from .vocabulary import tokenizer_texts
from .writing import hidden_folder, new_file, new_folder

WRITTEN = re.compile(  # the paths of all files written here
    r"(model_index|defaults)\.json|(\w+/)?((scheduler_|tokenizer_|preprocessor_)?config|vocab|special_tokens_map|added_tokens)\.json"
    r"|(\w+/)?(merges\.txt|(diffusion_pytorch_model|model)(\.[\w-]+)?\.safetensors)"
)

Component = nn.Module | CLIPTokenizer | Scheduler


def save_component(component: Component, folder: str | os.PathLike, variant: str | None = None):
    """Write a folder with a network, a tokenizer or a sampler."""
    component = as_written(component)
    with written_folder(folder) as new:
        write_texts(new, component_texts(component))
        if isinstance(component, nn.Module):
            write_weights(new, component, component.state_dict(), variant=variant)


def as_written(component: Any) -> Any:
    """The component to save, without torch.compile's wrapper.

    Raises CheckpointError for LoRAs and for weights in 8 bits, which checkpoints cannot hold.
    """
    from ..adapters.lora import loras_of

    inside = uncompiled(component)
    if isinstance(inside, nn.Module) and (loras := loras_of(inside)):
        raise CheckpointError(
            f"the LoRA {loras[0].name!r} is not part of the weights; fuse it with fuse_lora or remove it with unload_lora_weights"
        )
    if isinstance(inside, nn.Module) and is_quantized(inside):
        raise CheckpointError("the weights are in 8 bits, which checkpoints cannot hold; save the network before it is quantized")
    return inside


def class_name(component: Component) -> str:
    """The class name of a component in diffusers; for a derived class, the name of its base class."""
    if isinstance(component, nn.Module):
        return KINDS[part_of(type(component))].network.__name__
    return next(kind.__name__ for kind in type(component).__mro__ if kind.__module__.startswith("minisd."))


def component_texts(component: Component) -> dict[str, str]:
    """The texts of the small files of a component's folder."""
    if isinstance(component, CLIPTokenizer):
        return tokenizer_texts(component)
    config: Any = component.config
    settings = config_json(config)
    if isinstance(component, Scheduler):
        return {"scheduler_config.json": json_text({"_class_name": class_name(component), **settings})}
    return {"config.json": json_text(settings)}


def write_weights(
    folder: Path,
    network: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    variant: str | None = None,
):
    """Write the weights of a network under diffusers' names."""
    part = part_of(type(network))
    named = to_diffusers(part, tensors, convolutions=not getattr(network.config, "use_linear_projection", True))
    file = ".".join(filter(None, (KINDS[part].weights, variant, "safetensors")))
    write_tensors(folder / file, named, dtype)


def save_pipeline(pipeline: Any, folder: str | os.PathLike, variant: str | None = None):
    """Write a folder that minisd and diffusers can load. Raises TypeError for components of other libraries."""
    parts = {name: as_written(part) for name, part in pipeline.components.items() if part is not None}
    for name, part in parts.items():
        if not isinstance(part, Component):
            raise TypeError(f"the {name} is not one of minisd's classes and cannot be saved; replace it with one of minisd's")
    networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    defaults = {"num_inference_steps": pipeline.num_inference_steps, "guidance_scale": pipeline.guidance_scale}
    files = {
        INDEX: json_text(index_json({name: class_name(part) for name, part in parts.items()}, pipeline.unet.config.in_channels)),
        DEFAULTS: json_text(defaults),
    }
    files |= {f"{name}/{file}": text for name, part in parts.items() for file, text in component_texts(part).items()}
    if "safety_checker" in parts:
        size = parts["safety_checker"].config.vision.image_size
        files["feature_extractor/preprocessor_config.json"] = json_text(preprocessor_json(size))
    tensors = {f"{name}.{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()}
    with written_folder(folder) as new:
        write_parts(new, Checkpoint(Path(folder), files, networks, tensors, ""), variant=variant)


def preprocessor_json(size: int) -> dict[str, Any]:
    """The safety checker's `preprocess` as the settings of transformers' image processor."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": size},
        "resample": int(Image.Resampling.BICUBIC),
        "crop_size": {"height": size, "width": size},
        "image_mean": MEAN,
        "image_std": STD,
    }


def write_minisd(checkpoint: Checkpoint, out: str | os.PathLike, dtype: torch.dtype | None = None):
    """Write a single .safetensors file that describes itself."""
    about = json.dumps({"files": checkpoint.files, "decided": checkpoint.decided})
    with new_file(out) as path:
        write_tensors(path, checkpoint.tensors, dtype, {"minisd": about})


def write_diffusers(checkpoint: Checkpoint, out: str | os.PathLike, dtype: torch.dtype | None = None):
    """Write a diffusers folder. Empties the checkpoint's tensors. Raises CheckpointError if there is no vocabulary."""
    if not checkpoint.has_vocabulary:
        raise CheckpointError("a diffusers folder needs a vocabulary, but the source has none; add one with --tokenizer FOLDER")
    with new_folder(out) as folder:
        write_parts(folder, checkpoint, dtype)


def write_parts(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype | None = None, variant: str | None = None):
    write_texts(folder, checkpoint.files)
    for part, network in checkpoint.networks.items():
        write_weights(folder / part, network, checkpoint.take(part), dtype, variant)


@contextmanager
def written_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill. At the end of the block, its files move to `folder`; other files there stay.

    Raises CheckpointError if `folder` has a file never written here, because it might be read instead of the new files.
    """
    folder = Path(folder).expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; choose a folder")
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    if other := next((name for name in names if not WRITTEN.fullmatch(name)), None):
        raise CheckpointError(f"{folder} contains {other}, which save_pretrained did not write; choose a new folder")
    with hidden_folder(folder / "new") as new:
        yield new
        for file in [path for path in new.rglob("*") if path.is_file()]:
            place = folder / file.relative_to(new)
            place.parent.mkdir(exist_ok=True)
            sync(file)
            os.replace(file, place)
