"""The model card of a result, as a README for the Hub and as metadata in the file."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from .. import __version__
from ..disk import replacing
from ..train.loop import Recipe
from .examples import Example
from .settings import Settings, flag

SHOWN = ("model", "method", "caption", "size", "batch_size", "learning_rate")  # these are shown elsewhere on the card
NAMES = {
    "lora": "LoRA",
    "inversion": "textual inversion",
    "full": "checkpoint",
    "dreambooth": "checkpoint",
    "controlnet": "ControlNet",
}
USE = {
    "lora": 'pipe.load_lora_weights("{path}")',
    "inversion": 'pipe.load_textual_inversion("{path}")',
    "full": 'pipe = StableDiffusionPipeline.from_pretrained("{path}")',
    "dreambooth": 'pipe = StableDiffusionPipeline.from_pretrained("{path}")',
    "controlnet": 'controlnet = ControlNetModel.from_pretrained("{path}")',
}
FLAGS = {
    "lora": "--model {model} --lora {path}",
    "inversion": "--model {model} --embedding {path}",
    "full": "--model {path}",
    "dreambooth": "--model {path}",
    "controlnet": "--model {model} --control {path} --control-image CONDITION.png",
}


def notes(settings: Settings, recipe: Recipe, own: int) -> dict[str, str]:
    """The training settings, for the file's metadata."""
    about = {**settings.record(), "steps": recipe.steps, "pictures": own, "version": __version__}
    return {"minisd.finetune": json.dumps(about)}


def write_card(path: Path, result: Path, settings: Settings, recipe: Recipe, examples: Sequence[Example]):
    captions = list(dict.fromkeys(caption for example in examples for caption in example.captions))
    place = result.relative_to(path.parent).as_posix()
    numbers = {
        "steps": recipe.steps, "batch size": recipe.batch_size, "learning rate": f"{recipe.learning_rate:g}",
        "images": len(examples), "size": f"{settings.size}×{settings.size}",
    }  # fmt: skip
    defaults = {field.name: field.default for field in fields(Settings)}
    given = {name: value for name, value in settings.record().items() if name not in SHOWN and value != defaults[name]}
    numbers |= {f"--{flag(name)}": value for name, value in given.items()}
    rows = "\n".join(f"| {name} | {value} |" for name, value in numbers.items())
    said = "\n".join(f"* {caption}" for caption in captions[:10])
    base = f"base_model: {settings.model}\n" if is_id(settings.model) else ""
    text = f"""---
{base}library_name: diffusers
tags: [stable-diffusion, {settings.method}]
---

# {settings.out.name}

A {NAMES[settings.method]} for `{settings.model}`, trained on {len(examples)} images with minisd {__version__}
(`python -m minisd.finetune --method {settings.method}`).

```bash
python -m minisd.generate {FLAGS[settings.method].format(model=settings.model, path=place)} "{captions[0]}"
```

In minisd and diffusers: `{USE[settings.method].format(path=place)}`

| | |
|---|---|
{rows}

Captions{" (the first 10)" if len(captions) > 10 else ""}:

{said}
"""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def is_id(model: str) -> bool:
    """Whether a model is an id on the Hub (owner/name)."""
    return model.count("/") == 1 and not Path(model).exists()
