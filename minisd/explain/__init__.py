"""Explains one image in an HTML file: tokens, steps, predictions, attention to each word, and guidance. For any checkpoint.

    image = explain(pipe, "a red ball above a horse", "ball.html", generator=torch.Generator().manual_seed(0))

The file is self-contained: `page.html` with the recorded data as JSON.
"""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attention_maps import AttentionMaps, attention_maps
from ..image import to_pil
from ..pipeline import StableDiffusionPipeline, guide

FRAME = 256  # the longer side of each shown step, in pixels


@torch.no_grad()
def explain(pipe: StableDiffusionPipeline, prompt: str, path: str | Path, **settings: Any) -> Image.Image:
    """Draw one image, write the page that explains it to `path`, and return the image. `settings` are those of `pipe.denoise`."""
    calls: list[tuple[Tensor, Tensor]] = []  # per UNet call: its latents and its prediction
    hook = pipe.unet.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0].float(), output.sample.float())))
    try:
        with attention_maps(pipe) as maps:
            steps = list(pipe.denoise(prompt, **settings))
    finally:
        hook.remove()

    image, words = to_pil(pipe.decode(steps[-1].latents))[0], tokens(pipe, prompt)
    scale = settings.get("guidance_scale")
    scale = pipe.guidance_scale if scale is None else scale
    about = {"sampler": type(pipe.scheduler).__name__, "UNet calls": len(steps), "guidance_scale": scale}
    record = {
        "prompt": prompt,
        "settings": described(about | settings),
        "tokens": words,
        "picture": data_url(image, "PNG"),
        "steps": [
            {
                "t": float(step.timestep),
                "x": frame(pipe, x[-1:]),
                "x0": frame(pipe, step.pred_original_sample),
                "guidance": guidance(prediction, scale),
                "maps": word_maps(maps, i, len(words)),
            }
            for i, (step, (x, prediction)) in enumerate(zip(steps, calls))
        ],
    }
    Path(path).write_text(page(record), encoding="utf-8")
    return image


def tokens(pipe: StableDiffusionPipeline, prompt: str) -> list[dict[str, Any]]:
    """The start token, the prompt's tokens and the end token, with their ids, without padding."""
    names, ids = {id: token for token, id in pipe.tokenizer.vocab.items()}, pipe.tokenizer(prompt).input_ids[0].tolist()
    ids = ids[: ids.index(pipe.tokenizer.end_id, 1) + 1]
    return [{"id": id, "text": names[id].removesuffix("</w>").strip("<|>")} for id in ids]


def guidance(prediction: Tensor, scale: float) -> dict[str, float] | None:
    """Norms of the unconditional, conditional and guided predictions, and the angle between the first two in degrees."""
    if len(prediction) != 2:
        return None
    uncond, cond = prediction.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(uncond, cond, dim=0).clamp(-1, 1)
    guided = guide(uncond, cond, scale)
    return {
        "without": float(uncond.norm()),
        "with": float(cond.norm()),
        "guided": float(guided.norm()),
        "angle": float(cosine.arccos().rad2deg()),
    }


def word_maps(maps: AttentionMaps, step: int, words: int) -> list[dict[str, Any]]:
    """The maps of the first `words` tokens at each level, as bytes; a byte times `unit` is the share of attention."""
    levels = []
    for level in maps.levels:
        values = maps.at(step, level)[-1, :words]  # (words, h, w)
        unit = max(float(values.max()), 1e-9) / 255
        data = (values / unit).round().byte().cpu().numpy().tobytes()
        levels.append({"level": level, "h": values.shape[1], "w": values.shape[2], "unit": unit, "data": encoded(data)})
    return levels


def frame(pipe: StableDiffusionPipeline, latents: Tensor) -> str:
    image = to_pil(pipe.decode(latents))[0]
    image.thumbnail((FRAME, FRAME))
    return data_url(image, "WEBP")


def data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{encoded(file.getvalue())}"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def described(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as text; a generator is shown as its seed."""
    seed = lambda value: value.initial_seed() if isinstance(value, torch.Generator) else getattr(value, "seed", value)  # noqa: E731
    return {name: str(seed(value)) for name, value in settings.items() if not isinstance(value, Tensor)}


def page(record: dict[str, Any]) -> str:
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    data = json.dumps(record, ensure_ascii=False).replace("</", r"<\/")
    return template.replace("{title}", html.escape(record["prompt"])).replace("{record}", data)
