"""Records each step while an image is drawn, using hooks, and writes the record as JSON into an HTML page, `page.html`."""

import base64
import html
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..attention_maps import AttentionMaps, attention_maps
from ..image import to_pil
from ..pipeline import StableDiffusionPipeline, Step, guide, rescale

FRAME = 256  # the longest side of a frame of the film, in pixels


@contextmanager
def watched(pipe: StableDiffusionPipeline) -> Iterator["Watch"]:
    """Record the UNet calls of a pipeline while the context is open; the code that runs the loop appends the steps."""
    with attention_maps(pipe) as maps:
        watch = Watch(pipe, maps)
        hook = pipe.unet.register_forward_hook(
            lambda _, inputs, output: watch.calls.append((inputs[0].float().cpu(), output.sample.float().cpu()))
        )
        try:
            yield watch
        finally:
            hook.remove()


class Watch:
    """The steps of one image. Every step is one call of the UNet, with or without guidance."""

    def __init__(self, pipe: StableDiffusionPipeline, maps: AttentionMaps):
        self.pipe, self.maps = pipe, maps
        self.calls: list[tuple[Tensor, Tensor]] = []  # per call, the latents and the prediction, both (1 or 2, 4, h, w)
        self.steps: list[Step] = []

    def page(self, prompt: str, image: Image.Image, settings: dict[str, Any]) -> str:
        """The HTML that shows the record."""
        template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
        data = json.dumps(self.record(prompt, image, settings), ensure_ascii=False).replace("<", r"\u003c")
        return template.replace("{title}", html.escape(prompt)).replace("{record}", data)

    @torch.no_grad()
    def record(self, prompt: str, image: Image.Image, settings: dict[str, Any]) -> dict[str, Any]:
        """Everything that the page shows. Decodes two frames for every step."""
        scale = settings.get("guidance_scale")
        scale = self.pipe.guidance_scale if scale is None else scale
        words = tokens(self.pipe, prompt)
        return {
            "prompt": prompt,
            "settings": described(settings | {"guidance_scale": scale}),
            "tokens": words,
            "picture": data_url(image, "PNG"),
            "predicts": {"v_prediction": "v"}.get(self.pipe.scheduler.config.prediction_type, "ε"),
            "steps": [
                {
                    "t": float(step.timestep),
                    "x": frame(self.pipe, x[-1:]),
                    "x0": frame(self.pipe, step.pred_original_sample),
                    "guidance": guidance(prediction, scale, settings.get("guidance_rescale") or 0.0),
                    "maps": word_maps(self.maps, i, len(words)),
                }
                for i, (step, (x, prediction)) in enumerate(zip(self.steps, self.calls, strict=True))
            ],
        }


def tokens(pipe: StableDiffusionPipeline, prompt: str) -> list[dict[str, Any]]:
    """Start, the prompt's tokens and end, with their ids; the padding after the end is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loop has already warned about tokens that do not fit
        ids = pipe.tokenizer(prompt).input_ids[0].tolist()
    pad, end = pipe.tokenizer.pad_id, pipe.tokenizer.end_id
    while ids[-1] == pad and ids[-2] in (pad, end):
        ids.pop()
    names = {id: token for token, id in pipe.tokenizer.vocab.items()} | {pipe.tokenizer.start_id: "start", end: "end"}
    readable = lambda id: pipe.tokenizer.bpe.decode([id]).removesuffix("</w>").strip()  # noqa: E731 ("" for special tokens)
    return [{"id": id, "text": readable(id) or names[id]} for id in ids]


def guidance(prediction: Tensor, scale: float, guidance_rescale: float) -> dict[str, Any] | None:
    """Compare the unconditional, conditional and guided predictions: their norms, the angle between the first two, and a map.

    The angle is in degrees. The map is the mean over the channels of |with − without|: where the words change the prediction.
    """
    if len(prediction) != 2:
        return None
    uncond, cond = prediction.chunk(2)  # each (1, 4, h, w)
    guided = guide(uncond, cond, scale)
    guided = rescale(guided, cond, guidance_rescale) if guidance_rescale else guided
    cosine = torch.nn.functional.cosine_similarity(uncond.flatten(), cond.flatten(), dim=0).clamp(-1, 1)
    return {
        "without": float(uncond.norm()),
        "with": float(cond.norm()),
        "guided": float(guided.norm()),
        "angle": float(cosine.arccos().rad2deg()),
        "difference": as_bytes((cond - uncond).abs().mean(dim=1)),
    }


def word_maps(maps: AttentionMaps, step: int, words: int) -> list[dict[str, Any]]:
    """For each level, a map for each of the first `words` tokens: the share of attention that each position gives the token."""
    return [{"level": level, **as_bytes(maps.at(step, level)[-1, :words])} for level in maps.levels]


def as_bytes(values: Tensor) -> dict[str, Any]:
    """Maps (k, h, w) in 8 bits; a byte times `unit` is the value."""
    unit = max(float(values.max()), 1e-9) / 255
    data = (values / unit).round().byte().cpu().numpy().tobytes()
    return {"h": values.shape[1], "w": values.shape[2], "unit": unit, "data": base64.b64encode(data).decode()}


def frame(pipe: StableDiffusionPipeline, latents: Tensor) -> str:
    """Decode latents (1, 4, h, w) into a small image."""
    image = to_pil(pipe.decode(latents.to(pipe.device)))[0]
    image.thumbnail((FRAME, FRAME))
    return data_url(image, "WEBP")


def data_url(image: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def described(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as text, without those that were not given; a generator as its seed."""
    seed = lambda value: value.initial_seed() if isinstance(value, torch.Generator) else getattr(value, "seed", value)  # noqa: E731
    shown = {name: value for name, value in settings.items() if not isinstance(value, Tensor) and value not in (None, "")}
    return {("seed" if name == "generator" else name).replace("_", " "): str(seed(value)) for name, value in shown.items()}
