"""Explains one image in an HTML file: tokens, steps, predictions, attention to each word, guidance, and settings.

    image = explain(pipe, "a red ball above a horse", "ball.html", generator=torch.Generator().manual_seed(0))

It works for any checkpoint; on the command line it is `--explain`. The file is self-contained.
"""

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..disk import check_writable, replacing
from ..image import to_pil
from ..pipeline import StableDiffusionPipeline
from .record import watched


@torch.no_grad()
def explain(pipe: StableDiffusionPipeline, prompt: str, path: str | Path, **settings: Any) -> Image.Image:
    """Draw one image and write the page that explains it to `path`. `settings` are those of `pipe.denoise`.

    Raises ValueError, before drawing, for several images, for `prompt_weighting`, and for a folder that cannot be written.
    """
    path = Path(path)
    if not isinstance(prompt, str) or settings.get("num_images_per_prompt", 1) != 1:
        raise ValueError("explain draws one image from one prompt; call it once for each")
    if settings.get("prompt_weighting"):
        raise ValueError("explain shows the tokens of a plain prompt; leave out prompt_weighting")
    check_writable(path.parent, "choose another folder", path.stem)
    with watched(pipe) as watch:
        watch.steps.extend(pipe.denoise(prompt, **settings))
    image = to_pil(pipe.decode(watch.steps[-1].latents))[0]
    about = {"sampler": type(pipe.scheduler).__name__, "UNet calls": len(watch.steps), "size": f"{image.width} × {image.height}"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(watch.page(prompt, image, {**about, **settings}), encoding="utf-8")
    return image
