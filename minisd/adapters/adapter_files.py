"""Where the file of an adapter is: on this machine, in a folder, or at an id on the Hub; and which base it is for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..weights.errors import CheckpointError
from ..weights.find import HubOptions, find
from ..weights.folder import Needed, within
from ..weights.load import HUB, checked_keywords

SUFFIXES = (".safetensors", ".bin", ".pt")
BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # by the width of their text states


def find_adapter(
    source: str | os.PathLike,
    usual: Sequence[str],
    weight_name: str | None = None,
    subfolder: str = "",
    companions: Sequence[str] = (),
    **hub: Any,
) -> Path:
    """The file itself, or of a folder or an id the file `weight_name`; without that, the first of the `usual` names that is there.

    `companions` are downloaded with it. Raises CheckpointError with the way out.
    """
    options = HubOptions(**checked_keywords(hub, ("weight_name", "subfolder", *HUB)))
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if not path.exists() and path.suffix in SUFFIXES:
        raise CheckpointError(f'there is no file "{source}"; check its name and its folder')
    names = [within(subfolder, name) for name in ([weight_name] if weight_name else usual)]
    needed = Needed(optional=(*names, *(within(subfolder, name) for name in companions)))
    folder = find(source, needed, options)
    files = [folder / name for name in names if (folder / name).is_file()]
    if not weight_name and path.is_dir() and not files:  # a folder may hold one file, under any name
        files = [file for file in sorted((folder / subfolder).glob("*")) if file.suffix in SUFFIXES]
        files = files if len(files) == 1 else []
    if not files:
        raise CheckpointError(f"{source} has no {' and no '.join(names)}; name its file by weight_name=…")
    return files[0]
