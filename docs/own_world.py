"""A model of one's own from 500 captioned images: all weights of the built-in one, trained on five things that it never saw.

    python docs/own_world.py --folder runs/own_world      # twenty minutes on one core; run it again to resume

Prompts for the five things are judged by the first judge. The table goes to docs/tiny_model/own_world.json, and a sheet with a row
per thing to docs/images/own_world.png.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from minisd import DPMSolverMultistepScheduler, StableDiffusionPipeline
from minisd.disk import replacing
from minisd.evaluate import geometry
from minisd.evaluate.protocol import painter
from minisd.evaluate.rates import right
from minisd.finetune import session
from minisd.finetune.settings import Settings
from minisd.image import to_pil
from minisd.lessons.new_things import NEW_THINGS, new_things, prompts_for, write_examples
from minisd.sheet import image_grid

DOCS = Path(__file__).parent
EXAMPLES = 100  # of each thing
PROMPTS = 40  # for each thing
STEPS = 10  # of DPM++ 2M
SHOWN = 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    with new_things():
        write_examples(folder / "images", list(NEW_THINGS), EXAMPLES)
        prompts = {kind: prompts_for(kind, PROMPTS) for kind in NEW_THINGS}
        session.run(
            Settings(
                data=folder / "images",
                out=folder / "trained",
                method="full",
                train_text_encoder=True,
                steps=3000,
                min_snr=5.0,
            )
        )
        pipe = StableDiffusionPipeline.from_pretrained(folder / "trained" / "model")
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        table, shown = {}, list[Image.Image]()
        for kind in NEW_THINGS:
            pictures = painter(pipe, STEPS, None)(prompts[kind])
            table[kind] = sum(right(geometry.judge(pictures), prompts[kind])) / PROMPTS
            shown += to_pil(pictures[:SHOWN])
            print(kind, table[kind], flush=True)
    image_grid(shown, len(NEW_THINGS), SHOWN).save(DOCS / "images" / "own_world.png")
    with replacing(DOCS / "tiny_model" / "own_world.json") as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
