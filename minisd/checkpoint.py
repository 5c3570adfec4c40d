"""Weights on disk ↔ modules in memory: find the folder, map the file, load every tensor by name and shape, or nothing.

A checkpoint is a diffusers folder: `model_index.json` and a folder a part (unet, vae, text_encoder, tokenizer, scheduler), each
with its JSON. `weights_convert` translates the names of the tensors, and reads the single files that hold all parts.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from weights_convert import (
    Checkpoint,
    CheckpointError,
    as_settings,
    from_diffusers,
    listing,
    merges_in,
    part_files,
    read_single_file,
    read_weights,
    stray_merge,
    to_diffusers,
    weight_files,
    write_folder,
)

from .hub import resolve, these

FORMATS = (torch.float32, torch.float16, torch.bfloat16)  # of weights
HUB = ("revision", "cache_dir", "token", "local_files_only")  # what can be said of an id
NEEDLESS = ("use_safetensors", "low_cpu_mem_usage", "feature_extractor", "requires_safety_checker")  # diffusers asks for these

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Pretrained",
    "either",
    "known",
    "listing",
    "load_strictly",
    "merges_in",
    "parse_json",
    "part_files",
    "read_json",
    "read_single_file",
    "read_text",
    "resolve",
    "stray_merge",
    "these",
    "weight_files",
    "write_folder",
    "write_json",
]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text file: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error
    return as_settings(parsed, where)


def write_json(path: Path, settings: Mapping[str, Any]):
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def either(dtype: torch.dtype | None, torch_dtype: torch.dtype | None) -> torch.dtype:
    """`dtype` and `torch_dtype` are two names of one setting, float32 if not given. Raises TypeError for what is no format."""
    chosen = dtype or torch_dtype or torch.float32
    if chosen not in FORMATS:
        raise TypeError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {chosen!r}")
    return chosen


def known(keywords: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The keywords without those that programs for diffusers pass and that change nothing here; the others are to be in `names`.

    Raises TypeError or ValueError otherwise, before anything is loaded.
    """
    if keywords.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False asks for pickles, which can run code and are not read here; leave it out")
    rest = {name: value for name, value in keywords.items() if name not in NEEDLESS}
    if unknown := rest.keys() - set(names):
        raise TypeError(f"{min(unknown)}=… is not known here; leave it out, or give one of {', '.join(names)}")
    return rest


class Unfilled(TorchFunctionMode):
    """Networks made inside have shapes and no numbers: they are on the meta device, and nobody draws their initial weights."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            return function(*args, **{**kwargs, "device": "meta"})
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> nn.Module:
    """Puts the tensors in the place of the model's, without a copy. Every name and shape must agree, both ways."""
    expected = model.state_dict()
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = [
        f"{name} has {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    for what, names in (("it lacks", missing), ("it has unexpected", unexpected), ("shapes differ:", shapes)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(f"{where} does not fit the network: {what} {', '.join(names[:3])}{more}")
    model.load_state_dict(tensors, assign=True)
    return model.eval().requires_grad_(False)


class Pretrained:
    """A network that can be loaded from a checkpoint and saved as a folder of one."""

    component: ClassVar[str]  # the folder's usual name, and which rules translate the tensors' names
    config_class: ClassVar[type]
    weights_name: ClassVar[str] = "diffusion_pytorch_model"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        subfolder: str = "",
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        **hub,
    ) -> Self:
        """Load from a folder, or from an id on the Hub, whose options are `revision`, `cache_dir`, `token`, `local_files_only`.

        `variant="fp16"` takes the files that are stored in half precision; `dtype` (or `torch_dtype`), float32 if not given, is
        what they are cast to on the way in. Raises CheckpointError or UnsupportedConfig; then nothing is loaded.
        """
        chosen, hub = either(dtype, torch_dtype), known(hub, HUB)
        variants = ("fp16", None) if hub.get("revision") == "fp16" else (variant,)
        folder = resolve(source, lambda names: part_files(names, str(source), subfolder, cls.weights_name, variants), **hub)
        return cls.from_folder(folder, subfolder, variants, chosen)

    @classmethod
    def from_folder(cls, folder: Path, subfolder: str, variants: Sequence[str | None], dtype: torch.dtype) -> Self:
        """Load from a folder that is there, in the first of the variants that it has."""
        config_file, *files = part_files(listing(folder), str(folder), subfolder, cls.weights_name, variants)
        config = cls.config_class.from_json(read_json(folder / config_file))
        return cls.from_tensors(config, from_diffusers(cls.component, read_weights(folder, files)), dtype, str(folder / files[0]))

    @classmethod
    def from_tensors(cls, config: Any, tensors: dict[str, Tensor], dtype: torch.dtype, where: str) -> Self:
        """A network of these tensors, by minisd's names; it shares their memory, unless they have to be cast. Empties the dict."""
        for name, tensor in tensors.items():
            if tensor.dtype not in FORMATS:
                raise CheckpointError(
                    f"{where} does not fit the network: {name} is stored as {tensor.dtype}, which is no format of weights"
                )
        with Unfilled():
            model = cls(config)
        weights = {name: tensors.pop(name).to(dtype) for name in list(tensors)}  # the old and the new never exist together
        return load_strictly(model, weights, where)

    def save_pretrained(self, folder: str | os.PathLike):
        """Write config.json and the weights, under diffusers' names, to a new folder."""
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        tensors = to_diffusers(self.component, self.state_dict(), not getattr(self.config, "use_linear_projection", True))
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_json(folder / "config.json", self.config.to_json())
        save_file(tensors, folder / f"{self.weights_name}.safetensors", metadata={"format": "pt"})
