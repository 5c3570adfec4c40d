"""What each method of fine-tuning teaches the built-in model from twelve drawings of umbrellas, and what it makes it forget.

    python docs/new_thing.py --folder runs/new_thing      # 45 minutes on one core; run it again to resume

Prompts for the new thing and for old ones are judged by the first judge. The table goes to docs/tiny_model/new_thing.json, and a
sheet with a row per method to docs/images/new_thing.png.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from minisd import DPMSolverMultistepScheduler, StableDiffusionPipeline
from minisd.disk import replacing
from minisd.evaluate import geometry
from minisd.evaluate.prompts import prompts_of
from minisd.evaluate.protocol import painter
from minisd.evaluate.rates import right
from minisd.finetune import session
from minisd.finetune.settings import Settings
from minisd.image import to_pil
from minisd.lessons.new_things import new_things, prompts_for, write_examples
from minisd.sheet import image_grid
from minisd.tiny.picture_book import caption, sample

DOCS = Path(__file__).parent
KIND, EXAMPLES = "umbrella", 12
OLD = {name: prompts_of(name, 20, 0, "new thing") for name in ("one thing", "two things", "riding")}
NEW = 40
STEPS = 10  # of DPM++ 2M, which draws as well in ten steps as PNDM in fifty (docs/samplers.md)
SHOWN = 8

OLD_WORDS = [caption(sample(rng), rng) for rng in (random.Random(f"class/{i}") for i in range(200))]
CLASS: dict[str, Any] = {"class_prompt": tuple(OLD_WORDS), "class_images": len(OLD_WORDS)}
CASES: dict[str, dict[str, Any]] = {
    "textual inversion": {"method": "inversion", "init_word": "mushroom", "token": "<umbrella>", "caption": ()},
    "LoRA, rank 16": {"rank": 16},
    "LoRA, rank 16, with class images": {"rank": 16, **CLASS},
    "LoRA, rank 4, with class images": {"rank": 4, **CLASS},
    "all weights": {"method": "full", "steps": 400},
}


def taught(folder: Path, name: str, given: dict[str, Any]) -> tuple[StableDiffusionPipeline, int]:
    """The model after a fine-tuning, and the bytes of its result."""
    out = folder / name.replace(", ", "-").replace(" ", "-")
    data = folder / ("words" if given.get("method") == "inversion" else "drawings")
    settings = Settings(data=data, out=out, min_snr=5.0, **given)  # with the weights that the built-in model was trained with
    session.run(settings)
    if settings.method == "full":
        files = [out / "model" / "unet" / "diffusion_pytorch_model.safetensors"]
        pipe = StableDiffusionPipeline.from_pretrained(out / "model")
    else:
        files = list(out.glob("*.safetensors"))
        pipe = StableDiffusionPipeline.from_pretrained("tiny")
        (pipe.load_lora_weights if settings.method == "lora" else pipe.load_textual_inversion)(files[0])
    return pipe, files[0].stat().st_size


def measured(pipe: StableDiffusionPipeline, word: str) -> tuple[dict[str, list[int]], list[Image.Image]]:
    """The number of right images and of all, for the new thing and for each old set; and some images of the new thing."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    paint = painter(pipe, STEPS, None)
    rates, shown = {}, []
    for name, prompts in {"new": prompts_for(KIND, NEW), **OLD}.items():
        pictures = paint([replace(prompt, text=prompt.text.replace(KIND, word)) for prompt in prompts])
        found = right(geometry.judge(pictures), prompts)
        rates[name] = [sum(found), len(found)]
        shown = shown or to_pil(pictures[:SHOWN])
    return rates, shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "new_thing.json"
    table = json.loads(file.read_text()) if file.exists() else {}
    with new_things():
        write_examples(folder / "drawings", [KIND], EXAMPLES)
        write_examples(folder / "words", [KIND], EXAMPLES)
        for text in (folder / "words").glob("*.txt"):
            text.write_text(text.read_text().replace(KIND, "<umbrella>"))
        for name, given in {"untaught": None, **CASES}.items():
            if name in table:
                continue
            pipe, size = (StableDiffusionPipeline.from_pretrained("tiny"), 0) if given is None else taught(folder, name, given)
            rates, shown = measured(pipe, "<umbrella>" if name == "textual inversion" else KIND)
            image_grid(shown, 1, SHOWN).save(folder / f"{name}.png")
            table[name] = {"bytes": size, **rates}
            with replacing(file) as partial:
                partial.write_text(json.dumps(table, indent=1), encoding="utf-8")
            print(name, table[name], flush=True)
    table = {name: table[name] for name in ("untaught", *CASES)}
    (DOCS / "tiny_model" / "new_thing.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    rows = [Image.open(folder / f"{name}.png") for name in table]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    sheet.save(DOCS / "images" / "new_thing.png")


if __name__ == "__main__":
    main()
