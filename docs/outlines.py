"""A ControlNet for the built-in model that colours outlines in: its training, and how well images follow the outlines.

    python docs/outlines.py --folder runs/outlines      # half an hour on one core; run it again to resume

Outlines are those of scenes from the protocol's prompts, which training never saw. The first judge finds the things in the images;
the overlap of their silhouettes with those of the scene says whether they are where the outlines are. The table goes to
docs/tiny_model/outlines.json, the figure to docs/images/outlines.png, and the ControlNet, in 8 bits, to minisd/lessons/controlnet.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from minisd import ControlNetModel, DPMSolverMultistepScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from minisd.disk import replacing
from minisd.evaluate import geometry
from minisd.evaluate.prompts import Prompt, prompts_of
from minisd.evaluate.rates import right
from minisd.finetune import session
from minisd.finetune.settings import Settings
from minisd.image import to_pil
from minisd.lessons.outlines import CONTROLNET, outlines, write_pairs
from minisd.sheet import image_grid

DOCS = Path(__file__).parent
PAIRS = 4000
SETS = {name: prompts_of(name, 40, 0, "outlines") for name in ("one thing", "two things", "riding", "riding, new pair")}
STEPS = 10  # of DPM++ 2M
SCALES = (0.0, 0.5, 1.0)  # of the ControlNet; 0 is the model alone
BATCH = 8
SHOWN = [SETS["one thing"][i] for i in range(4)] + [SETS[name][i] for name in ("two things", "riding") for i in range(2)]
OTHERS = ("a purple cat at night", "a red fish on the beach", "a white house in the snow")


def painted(pipe: StableDiffusionControlNetPipeline, prompts: list[Prompt], scale: float) -> Tensor:
    """The images of some prompts with the outlines of their scenes, (B, 3, 128, 128) in [-1, 1]."""
    parts = []
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        pictures = pipe(
            [prompt.text for prompt in batch],
            [outlines(prompt.scene) for prompt in batch],
            num_inference_steps=STEPS,
            controlnet_conditioning_scale=scale,
            generator=[torch.Generator().manual_seed(prompt.seed) for prompt in batch],
            output_type="pt",
        ).images
        assert isinstance(pictures, Tensor)
        parts.append(2 * pictures - 1)
    return torch.cat(parts)


def measured(pipe: StableDiffusionControlNetPipeline, scale: float) -> dict[str, list[float]]:
    """For each set, the fraction of right images and the mean overlap."""
    rates = {}
    for name, prompts in SETS.items():
        findings = geometry.judge(painted(pipe, prompts, scale))
        found = right(findings, prompts)
        overlaps = [geometry.same_place(finding.things, prompt.scene.things) for finding, prompt in zip(findings, prompts)]
        rates[name] = [sum(found) / len(found), sum(overlaps) / len(overlaps)]
    return rates


def figure(pipe: StableDiffusionControlNetPipeline) -> Image.Image:
    """Outlines; images for their own prompts without and with them; and images for other prompts."""
    rows = [outlines(prompt.scene) for prompt in SHOWN]
    for scale in (0.0, 1.0):
        rows += to_pil(painted(pipe, SHOWN, scale))
    for words in OTHERS:
        rows += to_pil(painted(pipe, [replace(prompt, text=words) for prompt in SHOWN], 1.0))
    return image_grid(rows, 3 + len(OTHERS), len(SHOWN))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    write_pairs(folder / "pairs", PAIRS)
    session.run(Settings(data=folder / "pairs", out=folder / "trained", method="controlnet", min_snr=5.0))
    controlnet = ControlNetModel.from_pretrained(folder / "trained" / "controlnet")
    controlnet.to(torch.float8_e4m3fn).save_pretrained(CONTROLNET)
    controlnet = ControlNetModel.from_pretrained(CONTROLNET)
    pipe = StableDiffusionControlNetPipeline.from_pipe(StableDiffusionPipeline.from_pretrained("tiny"), controlnet=controlnet)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    figure(pipe).save(DOCS / "images" / "outlines.png")
    table = {f"{scale:.1f}": measured(pipe, scale) for scale in SCALES}
    with replacing(DOCS / "tiny_model" / "outlines.json") as partial:
        partial.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
