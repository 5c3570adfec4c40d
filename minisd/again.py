"""`--again picture.png`: the settings stored in a PNG, as flags. A note lists settings that cannot be used."""

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

# Settings that a PNG records if given, and settings that it always records; the rest is information for people.
GIVEN = (
    "variant", "revision", "tokenizer", "prediction_type", "no_safety_checker", "noise", "image", "mask", "strength", "paste",
    "image_guidance_scale", "prompt_weighting", "clip_skip", "guidance_rescale", "lora", "lora_dir", "embedding",
    "control", "control_image", "control_scale", "low_memory",
)  # fmt: skip
LISTS = {  # flags that may be repeated
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
}  # the others are strings
CHOICES = {"noise": ("cpu", "cuda"), "dtype": ("float32", "float16", "bfloat16"), "sigmas": ("karras", "exponential")}
FOR_READERS = ("version", "torch")
OF_A_MODEL = ("variant", "revision", "tokenizer", "prediction_type", "no_safety_checker")
MADE_BY = {"prompt": "ComfyUI", "workflow": "ComfyUI", "Comment": "NovelAI", "parameters": "Fooocus or SwarmUI"} | dict.fromkeys(
    ("invokeai_metadata", "sd-metadata"), "InvokeAI"
)  # other programs, by the names of their JSON chunks
# Names in the infotext of other programs, the corresponding flags, and how to read their values.
FLAGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance_scale", float),
    "Seed": ("seed", int),
    "Clip skip": ("clip_skip", lambda layer: max(int(layer) - 1, 0)),  # there, 1 means all layers
    "CFG Rescale φ": ("guidance_rescale", float),
    "Denoising strength": ("strength", float),
    "Image CFG scale": ("image_guidance_scale", float),
}


def settings_in(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The flags for a PNG by minisd or A1111, without those that other flags on the command line override."""
    chunks = {name: text for name, text in open_image(path).info.items() if isinstance(text, str)}
    if "minisd" in chunks:
        flags = recorded(chunks["minisd"], path)
    elif "parameters" in chunks and not is_object(chunks["parameters"]):
        flags = translated(read_infotext(chunks["parameters"]), path, bool(given.image))
    elif program := next((name for name in MADE_BY if is_object(chunks.get(name, ""))), None):
        raise ValueError(
            f'{path} was made by {MADE_BY[program]}, whose settings (chunk "{program}") are not supported; give the prompt and the '
            "settings as flags"
        )
    else:
        raise ValueError(f"{path} does not contain its settings; --again needs a PNG written by minisd or a web interface")
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
    """Whether a text is a JSON object, as written by programs that do not use infotext."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def recorded(text: str, path: Path) -> dict[str, Any]:
    """The settings that minisd wrote into an image. Raises ValueError if they are damaged."""
    try:
        settings = {"prompt": "", "model": "tiny"} | json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f'the settings in {path} (chunk "minisd") are damaged') from None
    if wrong := next((name for name, value in settings.items() if not fits(name, value)), None):
        raise ValueError(f'the settings in {path} (chunk "minisd") are damaged: {wrong} is {settings[wrong]!r:.50}')
    if page := settings.pop("grid", None):
        warnings.warn(f"{path} is a grid of {len(page)} images; this draws the first", stacklevel=2)
    if unknown := settings.keys() - {*RECORDED, *FOR_READERS}:
        warnings.warn(f"{path} also sets {', '.join(sorted(unknown))}, unknown to this version of minisd", stacklevel=2)
    return {name: settings[name] for name in RECORDED if settings.get(name) is not None}


def fits(name: str, value: Any) -> bool:
    """Whether a recorded value has the type of its setting. Settings of other versions may have any type."""
    if value is None or name not in {*RECORDED, "grid"}:
        return True
    if name in CHOICES:
        return value in CHOICES[name]
    if name in LISTS and isinstance(value, list):
        return all(isinstance(item, LISTS[name]) and not isinstance(item, bool) for item in value)
    return isinstance(value, KINDS.get(name, str)) and isinstance(value, bool) == (KINDS.get(name) is bool)


def translated(text: Infotext, path: Path, from_picture: bool) -> dict[str, Any]:
    """The settings that another program wrote into an image. Unless the text says otherwise, seeds are for noise from a GPU."""
    flags: dict[str, Any] = {"prompt": text.prompt, "negative_prompt": text.negative_prompt, "model": "tiny"}
    flags |= {"noise": "cuda", "prompt_weighting": True}
    left = dict(text.settings)
    for name, (flag, read) in FLAGS.items():
        if flag in ("strength", "image_guidance_scale") and not from_picture:
            continue
        try:
            flags[flag] = read(text.settings[name])
            del left[name]
        except (KeyError, ValueError):  # missing or not a number
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
        warnings.warn(f"{path} also sets {rest}, which is ignored; choose its model with --model", stacklevel=2)
    return flags


def sampler_in(settings: dict[str, str]) -> str | None:
    """The sampler and its schedule as a value of --sampler, if minisd has both."""
    name, schedule = settings.get("Sampler", ""), settings.get("Schedule type", "")
    try:
        sampler, _ = known_as(name)
        schedule = {"Automatic": AUTOMATIC.get(sampler, ""), "Uniform": ""}.get(schedule, schedule)
        return " ".join(known for known in known_as(f"{name} {schedule}") if known)
    except ValueError:
        return None
