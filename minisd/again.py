"""`--again picture.png`: the settings that a PNG holds, as flags. What cannot be honoured is named in a note."""

import argparse
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any

from .infotext import Infotext, read_infotext
from .open_image import open_image
from .schedulers.names import AUTOMATIC, known_as

# What a PNG records where it was given, and what it always records; the rest is for the reader.
GIVEN = (
    "variant", "revision", "tokenizer", "prediction_type", "no_safety_checker", "noise", "image", "mask", "strength", "paste",
    "image_guidance_scale", "prompt_weighting", "clip_skip", "guidance_rescale", "lora", "lora_dir", "embedding",
    "control", "control_image", "control_scale", "low_memory",
)  # fmt: skip
LISTS = {  # flags that may be given several times
    **dict.fromkeys(("lora", "embedding", "control", "control_image"), str),
    "control_scale": int | float,
}
RECORDED = (
    "prompt", "negative_prompt", "model", "sampler", "sigmas", "steps", "guidance_scale", "eta", "seed", "width", "height", "dtype",
    *GIVEN,
)  # fmt: skip
KINDS: dict[str, type | UnionType] = {
    **dict.fromkeys(("steps", "seed", "width", "height", "clip_skip"), int),
    **dict.fromkeys(("guidance_scale", "eta", "strength", "image_guidance_scale", "guidance_rescale"), int | float),
    **dict.fromkeys(("no_safety_checker", "paste", "prompt_weighting", "low_memory"), bool),
    **dict.fromkeys(("grid", *LISTS), list),
}  # the others are texts
CHOICES = {"noise": ("cpu", "cuda"), "dtype": ("float32", "float16", "bfloat16"), "sigmas": ("karras", "exponential")}
FOR_READERS = ("version", "torch")
OF_A_MODEL = ("variant", "revision", "tokenizer", "prediction_type", "no_safety_checker")
MADE_BY = {"prompt": "ComfyUI", "workflow": "ComfyUI", "Comment": "NovelAI", "parameters": "Fooocus or SwarmUI"} | dict.fromkeys(
    ("invokeai_metadata", "sd-metadata"), "InvokeAI"
)  # other programs, by the names of chunks that hold JSON

# Names in other programs' text, the flags for them, and how to read their values.
FLAGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", lambda layer: max(int(layer) - 1, 0)),  # 1 is the last layer there
    "CFG Rescale φ": ("guidance_rescale", float),
    "Denoising strength": ("strength", float),
    "Image CFG scale": ("image_guidance_scale", float),
}


def settings_in(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The flags for a PNG that minisd or A1111 wrote, except those that others on the command line make void."""
    chunks = {name: text for name, text in open_image(path).info.items() if isinstance(text, str)}
    if "minisd" in chunks:
        flags = recorded(chunks["minisd"], path)
    elif "parameters" in chunks and not is_object(chunks["parameters"]):
        flags = translated(read_infotext(chunks["parameters"]), path, bool(given.image))
    elif program := next((name for name in MADE_BY if is_object(chunks.get(name, ""))), None):
        raise ValueError(
            f'{path} was made by {MADE_BY[program]}, whose settings (chunk "{program}") are not read; give the prompt and the '
            "settings as flags"
        )
    else:
        raise ValueError(f"{path} does not say how it was made; --again takes a PNG that minisd or a web user interface wrote")
    if given.model:
        flags = {name: value for name, value in flags.items() if name not in OF_A_MODEL}
    if given.sampler:
        flags.pop("sigmas", None)
    for name in LISTS:
        if getattr(given, name):
            flags.pop(name, None)
    prompt = flags.pop("prompt")
    return flags if given.prompts or given.more_prompts or given.from_file else {**flags, "prompts": [prompt]}


def is_object(text: str) -> bool:
    """Whether a text is a JSON object, as that of programs which write no infotext."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def recorded(text: str, path: Path) -> dict[str, Any]:
    """What minisd wrote into a picture."""
    try:
        settings = {"prompt": "", "model": "tiny"} | json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f'the settings in {path} (chunk "minisd") are damaged') from None
    if wrong := next((name for name, value in settings.items() if not fits(name, value)), None):
        raise ValueError(f'the settings in {path} (chunk "minisd") are damaged: {wrong} is {settings[wrong]!r:.50}')
    if page := settings.pop("grid", None):
        warnings.warn(f"{path} is a page of {len(page)} pictures; this draws the first", stacklevel=2)
    if unknown := settings.keys() - {*RECORDED, *FOR_READERS}:
        warnings.warn(f"{path} also sets {', '.join(sorted(unknown))}, which this version of minisd does not know", stacklevel=2)
    return {name: settings[name] for name in RECORDED if settings.get(name) is not None}


def fits(name: str, value: Any) -> bool:
    """Whether a recorded value is of its setting's kind; settings of other versions may have any."""
    if value is None or name not in {*RECORDED, "grid"}:
        return True
    if name in CHOICES:
        return value in CHOICES[name]
    if name in LISTS and isinstance(value, list):
        return all(isinstance(item, LISTS[name]) and not isinstance(item, bool) for item in value)
    return isinstance(value, KINDS.get(name, str)) and isinstance(value, bool) == (KINDS.get(name) is bool)


def translated(text: Infotext, path: Path, from_picture: bool) -> dict[str, Any]:
    """What another program wrote into a picture. Its seeds stand for a GPU's noise unless it says otherwise."""
    flags: dict[str, Any] = {"prompt": text.prompt, "negative_prompt": text.negative_prompt, "model": "tiny"}
    flags |= {"noise": "cuda", "prompt_weighting": True}
    left = dict(text.settings)
    for name, (flag, read) in FLAGS.items():
        if flag in ("strength", "image_guidance_scale") and not from_picture:
            continue
        try:
            flags[flag] = read(text.settings[name])
            del left[name]
        except (KeyError, ValueError):  # it is not there, or not a number
            pass
    if size := re.fullmatch(r"(\d+)x(\d+)", left.get("Size", "")):
        flags |= {"width": int(size[1]), "height": int(size[2])}
        del left["Size"]
    if left.pop("RNG", "") == "CPU":
        flags["noise"] = "cpu"
    if sampler := sampler_in(left):
        flags["sampler"] = sampler
        left = {name: value for name, value in left.items() if name not in ("Sampler", "Schedule type")}
    if left:
        rest = ", ".join(f"{name}: {value}" for name, value in left.items())
        warnings.warn(f"{path} also says {rest}, which is not used here; --model names its model", stacklevel=2)
    return flags


def sampler_in(settings: dict[str, str]) -> str | None:
    """The sampler and its schedule as the flag --sampler takes them, if minisd has both."""
    name, schedule = settings.get("Sampler", ""), settings.get("Schedule type", "")
    try:
        sampler, _ = known_as(name)
        schedule = {"Automatic": AUTOMATIC.get(sampler, ""), "Uniform": ""}.get(schedule, schedule)
        return " ".join(known for known in known_as(f"{name} {schedule}") if known)
    except ValueError:
        return None
