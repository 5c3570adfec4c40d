"""Files of textual inversions: words and their vectors, in the formats of diffusers and web interfaces."""

import base64
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..open_image import open_image
from ..weights.errors import CheckpointError
from ..weights.pickles import content_of, is_pickle
from ..weights.safetensors import read_tensors
from .lora_names import parsed

USUAL = ("learned_embeds.safetensors", "learned_embeds.bin")
CHUNK = "sd-ti-embedding"  # the chunk of a PNG by AUTOMATIC1111's web interface
PNG = b"\x89PNG"


def read_words(path: Path, token: str | None = None) -> dict[str, Tensor]:
    """Words with vectors (D,) or (n, D), unchecked. `token` renames the word of a file with a single word.

    Only diffusers' files contain their word. For all others, as in web interfaces, the file name is the word.
    Raises CheckpointError if the file is not a textual inversion.
    """
    content = content_in(path)
    words = words_in(content, path)
    if token is None:
        return words
    if len(words) != 1:
        raise ValueError(f"{path} contains {len(words)} words, {', '.join(words)}; leave out token={token!r}")
    return {token: next(iter(words.values()))}


def content_in(path: Path) -> Any:
    """The content of a file: a PNG's chunk, a pickle, or safetensors."""
    with path.open("rb") as file:
        if file.read(4) == PNG:
            return chunk_in(path)
    return content_of(path) if is_pickle(path) else read_tensors(path)


def chunk_in(path: Path) -> Any:
    """The textual inversion inside a PNG: JSON in base64, in which tensors are lists."""

    def tensor(found: dict) -> Any:
        return torch.tensor(found["TORCHTENSOR"], dtype=torch.float32, device="cpu") if "TORCHTENSOR" in found else found

    try:
        return json.loads(base64.b64decode(open_image(path).info[CHUNK]), object_hook=tensor)
    except KeyError:
        raise CheckpointError(f"{path} is an image without a textual inversion (chunk {CHUNK!r})") from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: its textual inversion (chunk {CHUNK!r}) cannot be read") from error


def words_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The words in the content of a file, recognised by its format. Raises CheckpointError if there are none."""
    if isinstance(content, Tensor):
        return {path.stem: content}
    params: Any = content.get("string_to_param") if isinstance(content, dict) else None
    if hasattr(params, "values") and len(params := list(params.values())) == 1:
        if (name := content.get("name", path.stem)) != path.stem:
            note = f"{path} names its word {name!r:.60}; it is loaded as {path.stem!r}, the file name; token=… overrides it"
            warnings.warn(note, stacklevel=1)
        content = {path.stem: params[0]}
    if not isinstance(content, dict) or not content or not all(isinstance(vectors, Tensor) for vectors in content.values()):
        raise CheckpointError(f"{path} contains no textual inversion")
    if {"clip_l", "clip_g"} <= content.keys():
        raise CheckpointError(f"{path} is a textual inversion for Stable Diffusion XL; minisd supports v1 and v2")
    for name, vectors in content.items():
        if parsed(name):
            raise CheckpointError(f"{path} is a LoRA; load it with load_lora_weights (--lora)")
        if vectors.ndim not in (1, 2) or name.endswith((".weight", ".bias")):
            raise CheckpointError(f"{path} is not a textual inversion: it contains {name}")
    return {path.stem if name == "emb_params" else name: vectors for name, vectors in content.items()}
