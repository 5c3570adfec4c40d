"""`<lora:name:0.8>` in a prompt, as in AUTOMATIC1111's web interface: applies the file "name" from a folder at this scale."""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from ..weights.compare import listed
from .adapter_files import SUFFIXES

TAG = re.compile(r"<lora:([^>]*)>")


def tags_of(prompt: str) -> tuple[str, dict[str, float]]:
    """The prompt without its tags, and the scale of each LoRA; repeated tags add up. Raises ValueError for malformed tags."""
    scales: dict[str, float] = {}
    for tag in TAG.finditer(prompt):
        name, _, number = tag[1].partition(":")
        try:
            scale = float(number or 1)
        except ValueError:
            scale = math.nan
        if not name or not math.isfinite(scale):
            raise ValueError(f"{tag[0]} is malformed; write <lora:name:scale>, for example <lora:{name or 'name'}:0.8>")
        scales[name] = scales.get(name, 0.0) + scale
    return TAG.sub("", prompt), scales


def lora_files(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The files with these names in a folder and its subfolders. Raises ValueError, listing what exists, if one is missing."""
    if not folder.is_dir():
        raise ValueError(f"--lora-dir {folder} is not a folder")
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in SUFFIXES:
            files.setdefault(path.stem, []).append(path)
    for name in names:
        if name not in files:
            raise ValueError(f"there is no LoRA {name!r:.60} in {folder}; it has {listed(sorted(files), 10) or 'none'}")
        if len(files[name]) > 1:
            raise ValueError(f"{files[name][0]} and {files[name][1]} have the same name; rename one of them")
    return {name: files[name][0] for name in names}
