"""Pickles of tensors (.ckpt, .bin, .pt), read without running code. Only `weights_convert`, adapters and ControlNets use this."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

# Leftovers of training in official .ckpt files: the class that wrote them, and NumPy scalars.
TRAINING = [
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
]


def begins_a_pickle(start: bytes) -> bool:
    """Whether the first bytes are a pickle's. A safetensors file can begin with the same bytes, but a brace follows them."""
    return start.startswith((b"PK", b"\x80")) and start[8:9] != b"{"


def is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return begins_a_pickle(file.read(9))


class Inert:
    """A stand-in for a class in a pickle: construction and state changes have no effect."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object):
        pass


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .bin file. Raises the errors of `content_of`, and CheckpointError if there are no tensors."""
    content = content_of(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    items = content.items() if isinstance(content, dict) else []
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} contains no named tensors")
    return tensors


def content_of(path: Path) -> Any:
    """The content of a pickle, read by PyTorch's weights-only loader, which builds tensors and containers and runs no code.

    Names in TRAINING become Inert objects. Raises CheckpointError if the pickle references anything else, naming it.
    """
    # The loader identifies these classes by name
    stand_ins: list[Any] = [type(name, (Inert,), {"__module__": module}) for module, name in TRAINING]
    try:
        with torch.serialization.safe_globals([*stand_ins, torch.nn.ParameterDict]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} was refused, and no code in it was run: besides tensors, its pickle references {asked[1]}; "
                "get the model as a .safetensors file"
            ) from error
        raise CheckpointError(f"{path} is damaged or not a pickle of tensors") from error
