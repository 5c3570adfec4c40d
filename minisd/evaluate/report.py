"""An evaluation as people read it: tables in Markdown, every verdict as JSON, and a sheet of pictures that chance has chosen."""

import random
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..image import image_grid, to_pil
from .findings import Finding
from .prompts import FAMOUS, HELD_OUT, Prompt
from .protocol import CONTROLLED, Evaluation
from .rates import Rate, expected, rate, right, shuffled, skills

SKILLS = ("things", "colours", "place", "relation", "size")
LIMITS = """\
One seed a prompt, no picture chosen from several. A prompt is right only if everything in it is right: the things and no others,
their colours (the usual one, where none is named), the relation, the size, and the place (the pale page, where none is named).
What both judges take for right was fixed on renders, and on renders that were bent or went through a VAE, before they saw a
model's pictures. In brackets, where the true rate lies with 95 % confidence (Wilson).

This is a closed world: a few things, colours and places, and judges who know that there is nothing else. The figures cannot be
compared with those of open-world benchmarks such as GenEval (Ghosh et al. 2023), where a model of everything is asked for
anything.
"""

JUDGES = """\
All of these pictures are right. What is missing to 1 is the judge's and, on round trips, the VAE's.
"""
MODEL = """\
The first judge decides. The single skills stand beside all at once; “if independent” is the rate that they would make together
if none depended on another (Okawa et al. 2023). New colours and new pairs are combinations that were never drawn for training.
Two things, and rider and mount, have two different colours, and both are named.
"""
CONTROLS = """\
Pictures that are judged by another prompt than their own are right by chance: by how much, the renders show. The last rows are
pictures for the first set of prompts.
"""
MEMORY = """\
Distance to the nearest training picture: the root mean square of 16×16 thumbnails, in values from 0 to 255. Pictures from memory
would be nearer to it than fresh renders, which here went through the VAE as well.
"""


def markdown(evaluation: Evaluation, settings: Mapping[str, Any]) -> str:
    """The whole evaluation; the settings are shown as they are."""
    how = ", ".join(f"{name} {value}" for name, value in settings.items())
    chapters = [
        ("The judges, before they see the model", JUDGES, calibration_table(evaluation)),
        ("The model", MODEL, skill_table(evaluation)),
        ("Controls", CONTROLS, control_table(evaluation)),
        ("Memory", MEMORY, distance_table(evaluation)),
    ]
    parts = [f"# What the model draws of what it is told\n\n{how}\n\n{LIMITS}"]
    return "\n".join([*parts, *(f"## {title}\n\n{text}\n{rows}" for title, text, rows in chapters)])


def shown(rate: Rate) -> str:
    low, high = rate.interval()
    return f"{rate.share:.2f} ({low:.2f}–{high:.2f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def calibration_table(evaluation: Evaluation) -> str:
    tests = [(painter, judge, found) for painter, judges in evaluation.calibration.items() for judge, found in judges.items()]
    rows = [[name, *(shown(rate(right(found[name], prompts))) for *_, found in tests)] for name, prompts in evaluation.sets.items()]
    return table(["prompts", *(f"{painter}, {judge} judge" for painter, judge, _ in tests)], rows)


def skill_table(evaluation: Evaluation) -> str:
    """A row for each set of prompts, and one for all held-out combinations together."""
    first, second = evaluation.judged.values()
    single = skills(first[CONTROLLED], evaluation.sets[CONTROLLED])
    rows = []
    for name, prompts in evaluation.sets.items():
        own, goods = skills(first[name], prompts), right(first[name], prompts)
        seconds = right(second[name], prompts)
        rows.append(
            [name, shown(rate(goods)), *(f"{own[skill].share:.2f}" if skill in own else "" for skill in SKILLS)]
            + [f"{expected(single, own, len(prompts[0].scene.things)):.2f}", f"{rate(seconds).share:.2f}"]
            + [f"{rate([a == b for a, b in zip(goods, seconds)]).share:.2f}"]
        )
    new = [good for name in HELD_OUT if name in first for good in right(first[name], evaluation.sets[name])]
    rows.append(["all new ones together", shown(rate(new)), *[""] * 8])
    return table(["prompts", "all right", *SKILLS, "if independent", "second judge", "judges agree"], rows)


def control_table(evaluation: Evaluation) -> str:
    renders = {f"renders, {judge} judge": found for judge, found in next(iter(evaluation.calibration.values())).items()}
    judged = renders | {f"the model's, {judge} judge": found for judge, found in evaluation.judged.items()}
    rows = [
        [f"{name}, by the next prompt", *(shown(shuffled(found[name], prompts)) for found in judged.values())]
        for name, prompts in evaluation.sets.items()
        if name != FAMOUS  # whose next prompt is the same
    ]
    for name, found in evaluation.controls.items():
        rates = [shown(rate(right(findings, evaluation.sets[CONTROLLED]))) for findings in found.values()]
        rows.append([name, *[""] * len(renders), *rates])
    return table(["pictures", *judged], rows)


def distance_table(evaluation: Evaluation) -> str:
    rows = [[name, *(f"{d.quantile(q):.1f}" for q in (0.0, 0.05, 0.5))] for name, d in evaluation.nearest.items()]
    return table(["pictures", "the nearest of all", "5 % are nearer than", "half are nearer than"], rows)


def as_json(evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every prompt, what each judge found in its picture, and whether that is right."""
    pictures = [
        {"set": name, "prompt": prompt.text, "seed": prompt.seed}
        | {judge: seen(found[name][i], prompt) for judge, found in evaluation.judged.items()}
        for name, prompts in evaluation.sets.items()
        for i, prompt in enumerate(prompts)
    ]
    return {"settings": dict(settings), "pictures": pictures}


def seen(finding: Finding, prompt: Prompt) -> dict[str, Any]:
    things = [{"kind": t.kind, "color": t.color, "x": t.x, "y": t.y, "scale": t.scale} for t in finding.things]
    rounded = [{k: round(v, 3) if isinstance(v, float) else v for k, v in thing.items()} for thing in things]
    return {"right": right([finding], [prompt])[0], "place": finding.place, "things": rounded}


def contact_sheet(evaluation: Evaluation, seed: int, columns: int = 8, rows: int = 8) -> Image.Image:
    """Some of the model's pictures, chosen by the seed alone, framed green where the first judge found all right, else red."""
    found = next(iter(evaluation.judged.values()))
    drawn = [
        drawn
        for name, prompts in evaluation.sets.items()
        for drawn in zip(prompts, evaluation.pictures[name], right(found[name], prompts))
    ]
    chosen = random.Random(seed).sample(drawn, min(columns * rows, len(drawn)))
    tiles = [tile(prompt, picture, good) for prompt, picture, good in chosen]
    tiles += [Image.new("RGB", tiles[0].size, "white")] * (-len(tiles) % columns)
    return image_grid(tiles, len(tiles) // columns, columns)


def tile(prompt: Prompt, picture: Tensor, good: bool) -> Image.Image:
    page = Image.new("RGB", (148, 186), "white")
    brush = ImageDraw.Draw(page)
    brush.rectangle((5, 5, 142, 142), (40, 150, 70) if good else (210, 40, 40))
    page.paste(to_pil(picture[None])[0], (10, 10))
    brush.text((6, 146), "\n".join(textwrap.wrap(prompt.text, 27)[:3]), "black", ImageFont.load_default(10))
    return page
