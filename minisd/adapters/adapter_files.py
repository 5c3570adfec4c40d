"""Finds the file of an adapter, which may be given as a file, a folder or an id on the Hub."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..weights.errors import CheckpointError
from ..weights.find import HubOptions, find
from ..weights.folder import Needed, within
from ..weights.load import HUB, checked_keywords

SUFFIXES = (".safetensors", ".bin", ".pt")
BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # by the width of the text states


def find_adapter(
    source: str | os.PathLike,
    usual: Sequence[str],
    weight_name: str | None = None,
    subfolder: str = "",
    companions: Sequence[str] = (),
    **hub: Any,
) -> Path:
    """The given file, or the file `weight_name` of a folder or id; without a name, the first existing one of the `usual` names.

    `companions` are downloaded too. Raises CheckpointError, with a remedy, if there is no such file.
    """
    options = HubOptions(**checked_keywords(hub, ("weight_name", "subfolder", *HUB)))
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.exists() and path.suffix in SUFFIXES:
        raise CheckpointError(f'file "{source}" not found; check its name and folder')
    names = [within(subfolder, name) for name in ([weight_name] if weight_name else usual)]
    needed = Needed(optional=(*names, *(within(subfolder, name) for name in companions)))
    folder = find(source, needed, options)
    files = [folder / name for name in names if (folder / name).is_file()]
    if not weight_name and path.is_dir() and not files:  # the only adapter file in a folder may have any name
        files = [file for file in sorted((folder / subfolder).glob("*")) if file.suffix in SUFFIXES]
        files = files if len(files) == 1 else []
    if not files:
        raise CheckpointError(f"{source} has no {' and no '.join(names)}; choose a file with weight_name=…")
    return files[0]
