"""Pickles of tensors (.ckpt, .bin, .pt), read without running anything: for `weights_convert`, adapters and ControlNets only."""

import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

# What official .ckpt files hold of their training: the class that wrote them, and numbers of NumPy.
TRAINING = [
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
]


def begins_a_pickle(start: bytes) -> bool:
    """By the first bytes, which can also be the length of a safetensors header; but its ninth byte is a brace."""
    return start.startswith((b"PK", b"\x80")) and start[8:9] != b"{"


def is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return begins_a_pickle(file.read(9))


class Inert:
    """A stand-in that a pickle may call and set the state of: it keeps nothing, and nothing happens."""

    def __init__(self, *args: object):
        pass

    def __setstate__(self, state: object):
        pass


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt or .bin file. Raises CheckpointError as `content_of` does, and where there are none."""
    content = content_of(path)
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    items = content.items() if isinstance(content, dict) else []
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name")
    return tensors


def content_of(path: Path) -> Any:
    """What a pickle holds, by PyTorch's reader of weights, which builds tensors and containers and runs nothing.

    Names in TRAINING become an Inert object. Raises CheckpointError for a pickle that asks for anything else, and names it.
    """
    # The reader goes by the names of these classes
    stand_ins: list[Any] = [type(name, (Inert,), {"__module__": module}) for module, name in TRAINING]
    try:
        with torch.serialization.safe_globals([*stand_ins, torch.nn.ParameterDict]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged pickle can raise anything
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} is refused and nothing in it was run: besides tensors its pickle asks for {asked[1]}; "
                "get the model as a .safetensors file"
            ) from error
        raise CheckpointError(f"{path} is damaged or not a pickle of tensors") from error
