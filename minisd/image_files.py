"""Writes PNG files with their settings in the metadata, and GIFs of the steps. Never overwrites a file."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .infotext import write_infotext


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write an image with its settings to `path` or, if that exists, to the next free name; returns the path.

    `settings` are stored as JSON in the chunk "minisd", and in "parameters" in the format that other programs read and show.
    """
    chunks = PngInfo()
    chunks.add_text("parameters", write_infotext(settings).encode(errors="replace").decode())  # a path may not be UTF-8
    chunks.add_text("minisd", json.dumps(settings))
    return save_to_free_name(path, lambda file: image.save(file, "PNG", pnginfo=chunks))


def save_gif(frames: Sequence[Image.Image], path: Path) -> Path:
    """Write an animation with 12 frames per second, the last one held for 2 seconds, to a free name; returns the path."""
    durations = [80] * (len(frames) - 1) + [2000]
    return save_to_free_name(
        path, lambda file: frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    )


def save_to_free_name(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Write to the first free name: name.png, name-2.png, name-3.png, … An incomplete file is removed after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, free = 1, path
    while True:
        try:
            file = free.open("xb")
        except FileExistsError:
            number += 1
            free = path.with_stem(f"{path.stem}-{number}")
            continue
        try:
            with file:
                write(file)
        except BaseException:
            free.unlink()
            raise
        return free
