"""The report of an evaluation: tables in Markdown, every verdict as JSON, and a sheet of randomly chosen images."""

import random
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..image import to_pil
from ..sheet import image_grid
from ..tiny.picture_book import HELD_OUT_RIDES
from .findings import Finding
from .prompts import FAMOUS, HELD_OUT, Prompt, kinds_of
from .protocol import CONTROLLED, Evaluation
from .rates import Rate, expected, rate, right, shuffled, skills

TILE = (148, 186)  # the size in pixels of an image with its prompt on a sheet
PAGE, TEXT = "#22262b", "#e8eaed"  # dark, so that a sheet suits light and dark pages
SKILLS = ("things", "colours", "place", "relation", "size")
LIMITS = """\
Each prompt has one seed; no image was selected from several. An image is right only if everything is right: the things and no
others, their colours (by default, the usual colour of each thing), the relation, the size, and the place (by default, the pale
page). The thresholds of both judges were fixed on renders, and the guidance scale was chosen on other prompts. Parentheses
contain the 95 % confidence interval (Wilson) with respect to random seeds and to the choice of prompts of the same kind.

This is a closed world with a few things, colours and places, and the judges know that there is nothing else. The figures are not
comparable to open-world benchmarks such as GenEval (Ghosh et al. 2023), in which a general model is asked for anything.
"""

JUDGES = """\
Renders, renders with distortion, blur and noise (“worn”), and renders that went through the VAE (“round trips”) are all correct:
any rate below 1 is an error of the judge or, for round trips, of the VAE. Near misses are renders of a scene that differs from the
prompt in one respect, a colour, a thing, the place or the arrangement. They are never correct: any rate above 0 is an error of the
judge.
"""
VAE = """\
The similarity of round trips and renders, as the mean over all prompts:
"""
MODEL = """\
The first judge decides. The columns show the rate of entirely right images, then the rate of each skill; “if independent” is the
rate expected if the skills were independent (Okawa et al. 2023). New colours and new pairs are combinations that do not occur in
training. Two things, and a rider and its mount, always have different colours, and the prompt names both.
"""
RIDES = """\
The four rides that do not occur in training, each over all sets of prompts:
"""
CONTROLS = """\
If an image is compared with the next prompt instead of its own, it is right only by chance. The renders show how often that
happens. The last rows are images for the first set of prompts.
"""
MEMORY = """\
The distance to the nearest training image is the root mean square difference of 16×16 thumbnails with values from 0 to 255.
Memorised images would be as near as training images that went through the VAE. Fresh renders, which also went through the VAE, show
the distance without memorisation.
"""


def markdown(evaluation: Evaluation, settings: Mapping[str, Any]) -> str:
    """The whole evaluation in Markdown, with the given settings."""
    how = ", ".join(f"{name} {value}" for name, value in settings.items())
    chapters = [
        ("The judges on known images", JUDGES, calibration_table(evaluation)),
        ("The VAE", VAE, f"PSNR {evaluation.psnr:.1f} dB\n"),
        ("The model", MODEL, skill_table(evaluation) + "\n" + RIDES + "\n" + ride_table(evaluation)),
        ("Controls", CONTROLS, control_table(evaluation)),
        ("Memorisation", MEMORY, distance_table(evaluation)),
    ]
    parts = [f"# How well the model follows prompts\n\n{how}\n\n{LIMITS}"]
    return "\n".join([*parts, *(f"## {title}\n\n{text}\n{rows}" for title, text, rows in chapters)])


def shown(rate: Rate) -> str:
    low, high = rate.interval()
    return f"{rate.share:.2f} ({low:.2f}–{high:.2f})"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def calibration_table(evaluation: Evaluation) -> str:
    """One row per set of prompts, one column per painter and judge."""
    tests = [(painter, judge, found) for painter, judges in evaluation.calibration.items() for judge, found in judges.items()]
    rows = [[name, *(shown(rate(right(found[name], prompts))) for *_, found in tests)] for name, prompts in evaluation.sets.items()]
    return table(["prompts", *(f"{painter}, {judge} judge" for painter, judge, _ in tests)], rows)


def skill_table(evaluation: Evaluation) -> str:
    """One row per set of prompts, and one for all held-out combinations together."""
    first, second = evaluation.judged.values()
    single = skills(first[CONTROLLED], evaluation.sets[CONTROLLED])
    rows = []
    for name, prompts in evaluation.sets.items():
        own, goods = skills(first[name], prompts), right(first[name], prompts)
        seconds = right(second[name], prompts)
        rows.append(
            [name, shown(rate(goods)), *(f"{own[skill].share:.2f}" if skill in own else "" for skill in SKILLS)]
            + [f"{expected(single, first[name], prompts):.2f}", shown(rate(seconds))]
            + [f"{rate([a == b for a, b in zip(goods, seconds)]).share:.2f}"]
        )
    new = [good for name in HELD_OUT if name in first for good in right(first[name], evaluation.sets[name])]
    seconds = [good for name in HELD_OUT if name in second for good in right(second[name], evaluation.sets[name])]
    agree = rate([a == b for a, b in zip(new, seconds)])
    rows.append(["all new combinations", shown(rate(new)), *[""] * 6, shown(rate(seconds)), f"{agree.share:.2f}"])
    return table(["prompts", "all right", *SKILLS, "if independent", "second judge", "judges agree"], rows)


def ride_table(evaluation: Evaluation) -> str:
    """One row per held-out ride, over all sets of prompts."""
    rides: dict[str, dict[str, list[bool]]] = {}
    for judge, found in evaluation.judged.items():
        for name, prompts in evaluation.sets.items():
            for prompt, good in zip(prompts, right(found[name], prompts)):
                if kinds_of(prompt.scene) in HELD_OUT_RIDES and prompt.scene.relation == "riding":
                    rides.setdefault(" on ".join(kinds_of(prompt.scene)), {}).setdefault(judge, []).append(good)
    rows = [[ride, *(shown(rate(goods)) for goods in judges.values())] for ride, judges in sorted(rides.items())]
    return table(["ride", *(f"{judge} judge" for judge in evaluation.judged)], rows)


def control_table(evaluation: Evaluation) -> str:
    """Rates by chance (with the next prompt), then one row per control."""
    renders = {f"renders, {judge} judge": found for judge, found in next(iter(evaluation.calibration.values())).items()}
    judged = renders | {f"the model's, {judge} judge": found for judge, found in evaluation.judged.items()}
    rows = [
        [f"{name}, by the next prompt", *(shown(shuffled(found[name], prompts)) for found in judged.values())]
        for name, prompts in evaluation.sets.items()
        if name != FAMOUS  # since its next prompt is the same
    ]
    for name, found in evaluation.controls.items():
        rates = [shown(rate(right(findings, evaluation.sets[CONTROLLED]))) for findings in found.values()]
        rows.append([name, *[""] * len(renders), *rates])
    return table(["images", *judged], rows)


def distance_table(evaluation: Evaluation) -> str:
    rows = [[name, *(f"{d.quantile(q):.1f}" for q in (0.0, 0.05, 0.5))] for name, d in evaluation.nearest.items()]
    return table(["images", "nearest", "5 % are nearer than", "half are nearer than"], rows)


def as_json(evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every prompt with each judge's findings in its image, and whether they are right."""
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


Drawn = tuple[Prompt, Tensor, list[bool]]  # a prompt, its image, and each judge's verdict


def drawn(evaluation: Evaluation) -> list[Drawn]:
    return [
        (prompt, picture, list(goods))
        for name, prompts in evaluation.sets.items()
        for prompt, picture, *goods in zip(
            prompts, evaluation.pictures[name], *(right(found[name], prompts) for found in evaluation.judged.values())
        )
    ]


def contact_sheet(evaluation: Evaluation, seed: int, count: int = 64) -> Image.Image:
    """Some of the model's images, chosen at random by the seed; frames are green if the first judge finds all right, else red."""
    pictures = drawn(evaluation)
    return sheet(random.Random(seed).sample(pictures, min(count, len(pictures))))


def disagreements(evaluation: Evaluation) -> Image.Image:
    """All images on which the judges disagree, with the frames of `contact_sheet`."""
    return sheet([each for each in drawn(evaluation) if len(set(each[2])) > 1])


def sheet(pictures: Sequence[Drawn], columns: int = 5) -> Image.Image:
    tiles = [tile(prompt, picture, goods[0]) for prompt, picture, goods in pictures]
    tiles += [Image.new("RGB", TILE, PAGE)] * (-len(tiles) % columns or columns * (not tiles))
    return image_grid(tiles, len(tiles) // columns, columns).quantize(256, dither=Image.Dither.NONE)  # halves the file size


def tile(prompt: Prompt, picture: Tensor, good: bool) -> Image.Image:
    page = Image.new("RGB", TILE, PAGE)
    brush = ImageDraw.Draw(page)
    brush.rectangle((5, 5, 142, 142), (40, 150, 70) if good else (210, 40, 40))
    page.paste(to_pil(picture[None])[0], (10, 10))
    brush.text((6, 146), "\n".join(textwrap.wrap(prompt.text, 27)[:3]), TEXT, ImageFont.load_default(10))
    return page
