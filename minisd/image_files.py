"""Image files that say how they were made: PNG with its settings inside, GIF of the steps. Nothing is ever overwritten."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .infotext import write_infotext


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write a picture that says how it was made, to `path` or, if that is taken, to the next free name; returns which.

    `settings` goes into the chunk "minisd" as JSON, and into "parameters" in the form that other programs read and show.
    """
    chunks = PngInfo()
    chunks.add_text("parameters", write_infotext(settings).encode(errors="replace").decode())  # a path may be no UTF-8
    chunks.add_text("minisd", json.dumps(settings))
    return save_to_free_name(path, lambda file: image.save(file, "PNG", pnginfo=chunks))


def save_gif(frames: Sequence[Image.Image], path: Path) -> Path:
    """Write a film of 12 pictures a second, the last one shown for 2 seconds, to a free name; returns which."""
    durations = [80] * (len(frames) - 1) + [2000]
    return save_to_free_name(
        path, lambda file: frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    )


def save_to_free_name(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Nothing is ever overwritten: name.png, name-2.png, name-3.png … A file that cannot be written whole is removed."""
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
