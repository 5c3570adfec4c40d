"""Pictures in and out: PIL ↔ tensors in [-1, 1], grids, and files that say how they were made."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as (3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def to_pil(x: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [-1, 1] as B pictures; values are rounded, not cut off, to 8 bits."""
    pixels = (x.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray((255 * picture).round().astype("uint8")) for picture in pixels]


def image_grid(imgs: Sequence[Image.Image], rows: int, cols: int) -> Image.Image:
    """`rows * cols` pictures of one size, row by row, on one page."""
    if len(imgs) != rows * cols:
        raise ValueError(f"{len(imgs)} pictures do not fill {rows} rows of {cols}")
    width, height = imgs[0].size
    grid = Image.new("RGB", (cols * width, rows * height))
    for i, image in enumerate(imgs):
        grid.paste(image, (i % cols * width, i // cols * height))
    return grid


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> Path:
    """Write a picture that says how it was made, to `path` or, if that is taken, to the next free name; returns which.

    `settings` goes into the chunk "minisd" as JSON, and into "parameters" in the form that other programs read and show.
    """
    chunks = PngInfo()
    chunks.add_text("parameters", parameters(settings))
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
    for number in itertools.count(1):
        free = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            file = free.open("xb")
        except FileExistsError:
            continue
        try:
            with file:
                write(file)
        except BaseException:
            free.unlink()
            raise
        return free


def parameters(settings: Mapping[str, Any]) -> str:
    """The text that web user interfaces of Stable Diffusion write: prompt, negative prompt, and a line of settings."""
    names = {"steps": "Steps", "sampler": "Sampler", "guidance_scale": "CFG scale", "seed": "Seed"}
    line = [f"{shown}: {settings[name]}" for name, shown in names.items()]
    line += [
        f"Size: {settings['width']}x{settings['height']}",
        f"Model: {settings['model']}",
        f"Version: minisd {settings['version']}",
    ]
    negative = [f"Negative prompt: {settings['negative_prompt']}"] if settings["negative_prompt"] else []
    return "\n".join([settings["prompt"], *negative, ", ".join(line)])
