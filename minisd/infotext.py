"""Reads and writes the text in which web interfaces of Stable Diffusion store the settings of an image ("infotext").

It has a prompt, a line that starts with "Negative prompt:", and a last line of settings, "Steps: 20, Sampler: Euler a, …", with
AUTOMATIC1111's names of samplers. Prompts may have several lines. A value with a comma, a colon, a quote or a newline is written
as a JSON string.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from .schedulers.names import AUTOMATIC, AUTOMATIC1111

NEGATIVE = "Negative prompt:"
NAME = r'[^\s,:"][^,:"]*'
SETTING = re.compile(rf'\s*({NAME}):\s*("(?:\\.|[^\\"])*"|.*?)\s*(?:$|,(?=\s*{NAME}:)|,\s*$)')
SHOWN = {"steps": "Steps", "sampler": "Sampler", "guidance_scale": "CFG scale", "seed": "Seed", "size": "Size", "model": "Model"}
SHOWN |= {"strength": "Denoising strength", "image_guidance_scale": "Image CFG scale"}
SHOWN |= {"lora": "LoRA", "embedding": "Textual inversion"}


class Infotext(NamedTuple):
    """A parsed infotext; `settings` has names and values as in the text."""

    prompt: str
    negative_prompt: str
    settings: dict[str, str]


def read_infotext(text: str) -> Infotext:
    """Parse an infotext. The last line is settings if it has at least three of them; a prompt alone is valid too.

    A comma that is not followed by a name and a colon belongs to the value before it, so no text is lost.
    """
    *lines, last = text.strip().split("\n")
    settings = {name: unquoted(value.strip()) for name, value in SETTING.findall(last)}
    if len(settings) < 3:
        lines, settings = [*lines, last], {}
    start = next((i for i, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(line.strip() for line in lines[start:]).removeprefix(NEGATIVE)
    return Infotext("\n".join(line.strip() for line in lines[:start]), negative.strip(), settings)


def write_infotext(settings: Mapping[str, Any]) -> str:
    """The infotext for minisd's settings of an image."""
    known = {**settings, "size": f"{settings['width']}x{settings['height']}"}
    line = {shown: known[name] for name, shown in SHOWN.items() if known.get(name) is not None}
    curve, sampler = settings.get("sigmas"), str(settings.get("sampler"))
    line["Sampler"] = AUTOMATIC1111.get(sampler, sampler)
    if curve or sampler in AUTOMATIC:
        line["Schedule type"] = curve.title() if curve else "Uniform"
    if settings.get("noise") != "cuda":
        line["RNG"] = "CPU"
    line["Version"] = f"minisd {settings['version']}"
    negative = [f"{NEGATIVE} {settings['negative_prompt']}"] if settings["negative_prompt"] else []
    return "\n".join([settings["prompt"], *negative, ", ".join(f"{name}: {quoted(shown(value))}" for name, value in line.items())])


def shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def quoted(value: str) -> str:
    """The value, quoted if it could not be read otherwise."""
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n\r]|^\s|\s$', value) else value


def unquoted(value: str) -> str:
    """The value without its quotes; if it is not valid JSON, unchanged."""
    if len(value) < 2 or not value[0] == value[-1] == '"':
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
