"""Weights on disk ↔ modules in memory: find the folder, map the file, load every tensor by name and shape, or nothing.

A checkpoint is a diffusers folder: `model_index.json` and a folder a part (unet, vae, text_encoder, tokenizer, scheduler), each
with its JSON. `weights_convert` translates the names of the tensors.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weights_convert import from_diffusers, to_diffusers

TINY = Path(__file__).parent / "tiny" / "model"


class CheckpointError(ValueError):
    """A checkpoint cannot be found, read, or made to fit; nothing was loaded."""


def resolve(source: str | os.PathLike, patterns: list[str], **hub) -> Path:
    """The folder of a checkpoint: "tiny" is the built-in model, a folder is itself, anything else an id on the Hugging Face Hub.

    `patterns` says which of a repository's files are wanted. Raises CheckpointError with the way out.
    """
    if source == "tiny":
        return TINY
    if Path(source).is_dir():
        return Path(source)
    if Path(source).exists() or str(source).count("/") != 1:
        raise CheckpointError(f'"{source}" is not a checkpoint folder, and not an id on the Hub, which looks like "owner/name"')
    from huggingface_hub import snapshot_download  # 0.2 s, and only needed for downloads
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, **hub))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f'"{source}" is neither a local folder nor to be had from the Hub: {error}') from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory: nothing is read before it is used."""
    if not path.exists():
        raise CheckpointError(f"{path} is missing: is {path.parent} a checkpoint with safetensors weights?")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error


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


def write_folder(folder: str | os.PathLike, fill: Callable[[Path], None]):
    """Fills a new folder, or replaces one that is empty; on any failure nothing of it remains."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists and is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fill(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Pretrained:
    """A network that can be loaded from a checkpoint's folder and saved as one."""

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
        **hub,
    ) -> Self:
        """Load from a folder, or from an id on the Hub, whose options are `revision`, `cache_dir`, `token`, `local_files_only`.

        `variant="fp16"` takes the files that are stored in half precision; `torch_dtype` casts on the way in.
        Raises CheckpointError or UnsupportedConfig; then nothing is loaded.
        """
        name = ".".join(part for part in (cls.weights_name, variant, "safetensors") if part)
        files = [f"{subfolder}/{file}" if subfolder else file for file in ("config.json", name)]
        folder = resolve(source, files, **hub) / subfolder
        config = cls.config_class.from_json(read_json(folder / "config.json"))
        with torch.device("meta"):  # shapes without numbers
            model = cls(config)
        tensors = from_diffusers(cls.component, read_tensors(folder / name))
        if torch_dtype is not None:
            tensors = {name: tensor.to(torch_dtype) for name, tensor in tensors.items()}
        return load_strictly(model, tensors, str(folder / name))

    def save_pretrained(self, folder: str | os.PathLike):
        """Write config.json and the weights, under diffusers' names, to a new folder."""
        write_folder(folder, self.write_to)

    def write_to(self, folder: Path):
        tensors = to_diffusers(self.component, self.state_dict(), not getattr(self.config, "use_linear_projection", True))
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_json(folder / "config.json", self.config.to_json())
        save_file(tensors, folder / f"{self.weights_name}.safetensors", metadata={"format": "pt"})


def write_json(path: Path, settings: Mapping[str, Any]):
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
