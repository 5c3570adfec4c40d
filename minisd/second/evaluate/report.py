"""The report of an evaluation: tables in Markdown, every verdict as JSON, and a sheet of randomly chosen images."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ...evaluate.rates import rate
from ...evaluate.report import TILE, shown, table, tile
from ...sheet import image_grid
from ..picture_book import HELD_OUT_RIDES
from .prompts import HELD_OUT, Prompt
from .protocol import CONTROLLED, OPEN_KINDS, SEEDS, Evaluation
from .rates import right, skills
from .variety import OPEN

ASPECTS = ("things", "colours", "direction", "size", "relation", "place", "style")
LIMITS = """\
Each prompt has one seed; no image was selected from several. An image is right only if it shows everything that the prompt
mentions, and no other thing. What the prompt does not mention cannot be wrong. The thresholds of the judges were fixed on renders,
and the guidance scale was chosen on other prompts. Parentheses contain the 95 % confidence interval (Wilson) with respect to random
seeds and to the choice of prompts of the same kind.

This is a closed world with a few things, colours and places, and the judges know that there is nothing else. The figures are not
comparable to open-world benchmarks such as GenEval (Ghosh et al. 2023), in which a general model is asked for anything.
"""
JUDGES = """\
The first judge is a detector; the second is CLIP, which has to find the prompt more similar to the image than every prompt that
differs in one aspect, and which cannot count. Renders, renders with distortion, blur and noise (“worn”), and renders that went
through the VAE (“round trips”) are all correct: any rate below 1 is an error of the judge or, for round trips, of the VAE. Near
misses are renders that differ from the prompt in one respect. They are never correct: any rate above 0 is an error of the judge.
"""
VAE = """\
The similarity of round trips and renders, and the edge energy (mean squared difference of neighbouring pixels) of round trips and
of the model's images, as a share of the renders':
"""
MODEL = """\
The first judge decides. The columns show the rate of entirely right images, then the rate of each aspect among the prompts that
mention it. New combinations do not occur in training.
"""
OPEN_ENDED = """\
Entropy of what the prompt leaves open, over {seeds} seeds, as a share of the entropy of the picture book's own scenes:
"""
AVOIDED = """\
Of {seeds} images of “a cat”, how many show what the negative prompt names, without it and with it:
"""
CONTROLS = """\
If an image is compared with the next prompt instead of its own, it is right only by chance. The last rows are images for
“{controlled}”.
"""
MEMORY = """\
The distance to the nearest training image is the root mean square difference of 16×16 thumbnails with values from 0 to 255.
Memorised images would be as near as training images. Fresh renders, which went through the VAE, show the distance without
memorisation.
"""


def markdown(evaluation: Evaluation, settings: Mapping[str, Any]) -> str:
    """The whole evaluation in Markdown, with the given settings."""
    how = ", ".join(f"{name} {value}" for name, value in settings.items())
    chapters = [
        ("The judges on known images", JUDGES, calibration_table(evaluation)),
        ("The VAE", VAE, vae_table(evaluation)),
        ("The model", MODEL, skill_table(evaluation) + "\n" + ride_table(evaluation)),
        ("What the prompt leaves open", OPEN_ENDED.format(seeds=SEEDS), diversity_table(evaluation)),
        ("Negative prompts", AVOIDED.format(seeds=SEEDS), negative_table(evaluation)),
        ("Controls", CONTROLS.format(controlled=CONTROLLED), control_table(evaluation)),
        ("Memorisation", MEMORY, distance_table(evaluation)),
    ]
    parts = [f"# How well the model follows prompts\n\n{how}\n\n{LIMITS}"]
    return "\n".join([*parts, *(f"## {title}\n\n{text}\n{rows}" for title, text, rows in chapters)])


def calibration_table(evaluation: Evaluation) -> str:
    """One row per set of prompts, one column per painter and judge."""
    tests = [(painter, judge, of) for painter, judges in evaluation.calibration.items() for judge, of in judges.items()]
    rows = [[name, *(shown(rate(right(of[name]))) for *_, of in tests)] for name in evaluation.sets]
    return table(["prompts", *(f"{painter}, {judge} judge" for painter, judge, _ in tests)], rows)


def vae_table(evaluation: Evaluation) -> str:
    shares = [f"{share:.2f}" for share in evaluation.edges.values()]
    return table(["PSNR, dB", *(f"edges, {name}" for name in evaluation.edges)], [[f"{evaluation.psnr:.1f}", *shares]])


def skill_table(evaluation: Evaluation) -> str:
    """One row per set of prompts, and one for all held-out combinations together."""
    first, second = evaluation.judged.values()
    rows = []
    for name in evaluation.sets:
        own, goods, seconds = skills(first[name]), right(first[name]), right(second[name])
        shares = [f"{own[aspect].share:.2f}" if aspect in own else "" for aspect in ASPECTS]
        rows.append([name, shown(rate(goods)), *shares, shown(rate(seconds)), agreement(goods, seconds)])
    new, seconds = ([good for name in HELD_OUT if name in of for good in right(of[name])] for of in (first, second))
    rows.append(["all new combinations", shown(rate(new)), *[""] * len(ASPECTS), shown(rate(seconds)), agreement(new, seconds)])
    return table(["prompts", "all right", *ASPECTS, "second judge", "judges agree"], rows)


def agreement(first: Sequence[bool], second: Sequence[bool]) -> str:
    return f"{rate([a == b for a, b in zip(first, second)]).share:.2f}"


def ride_table(evaluation: Evaluation) -> str:
    """One row per held-out ride, over all sets of prompts."""
    rides: dict[str, dict[str, list[bool]]] = {}
    for judge, of in evaluation.judged.items():
        for name, prompts in evaluation.sets.items():
            for prompt, good in zip(prompts, right(of[name])):
                if prompt.request.relation == "riding" and prompt.request.kinds in HELD_OUT_RIDES:
                    rides.setdefault(" on ".join(prompt.request.kinds), {}).setdefault(judge, []).append(good)
    rows = [[ride, *(shown(rate(goods)) for goods in judges.values())] for ride, judges in sorted(rides.items())]
    return table(["new ride", *(f"{judge} judge" for judge in evaluation.judged)], rows)


def diversity_table(evaluation: Evaluation) -> str:
    rows = [
        [f"“a {kind}”", *(f"{shares[trait]:.2f}" if trait in shares else "" for trait in OPEN)]
        for kind in OPEN_KINDS
        if (shares := evaluation.diversity.get(kind))
    ]
    return table(["prompt", *OPEN], rows)


def negative_table(evaluation: Evaluation) -> str:
    rows = [[f"“{name}”", str(before), str(after)] for name, (before, after, _) in evaluation.negatives.items()]
    return table(["negative prompt", "without", "with"], rows)


def control_table(evaluation: Evaluation) -> str:
    """Rates by chance (with the next prompt), then one row per control."""
    judges = list(evaluation.judged)
    rows = [
        [f"{name}, by the next prompt", *(shown(rate(right(evaluation.chance[judge][name]))) for judge in judges)]
        for name, prompts in evaluation.sets.items()
        if len({prompt.text for prompt in prompts}) > 1
    ]
    for name, of in evaluation.controls.items():
        rows.append([name, *(shown(rate(right(of[judge]))) for judge in judges)])
    return table(["images", *(f"{judge} judge" for judge in judges)], rows)


def distance_table(evaluation: Evaluation) -> str:
    rows = [[name, *(f"{d.quantile(q):.1f}" for q in (0.0, 0.05, 0.5))] for name, d in evaluation.nearest.items()]
    return table(["images", "nearest", "5 % are nearer than", "half are nearer than"], rows)


def as_json(evaluation: Evaluation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every prompt with each judge's verdict on its image."""
    pictures = [
        {"set": name, "prompt": prompt.text, "seed": prompt.seed} | {judge: of[name][i] for judge, of in evaluation.judged.items()}
        for name, prompts in evaluation.sets.items()
        for i, prompt in enumerate(prompts)
    ]
    figures = {
        "psnr": evaluation.psnr,
        "edges": evaluation.edges,
        "diversity": evaluation.diversity,
        "negatives": evaluation.negatives,
    }
    return {"settings": dict(settings), **figures, "pictures": pictures}


Drawn = tuple[Prompt, Tensor, list[bool]]  # a prompt, its image, and each judge's verdict


def drawn(evaluation: Evaluation) -> list[Drawn]:
    return [
        (prompt, picture, list(goods))
        for name, prompts in evaluation.sets.items()
        for prompt, picture, *goods in zip(
            prompts, evaluation.pictures[name], *(right(of[name]) for of in evaluation.judged.values())
        )
    ]


def contact_sheet(evaluation: Evaluation, seed: int, count: int = 64) -> Image.Image:
    """Some of the model's images, chosen at random by the seed; frames are green if the first judge finds all right, else red."""
    pictures = drawn(evaluation)
    return sheet(random.Random(seed).sample(pictures, min(count, len(pictures))))


def disagreements(evaluation: Evaluation) -> Image.Image:
    """All images on which the judges disagree, with the frames of `contact_sheet`."""
    return sheet([each for each in drawn(evaluation) if len(set(each[2])) > 1])


def sheet(pictures: Sequence[Drawn], columns: int = 8) -> Image.Image:
    tiles = [tile(prompt, picture, goods[0]) for prompt, picture, goods in pictures]
    tiles += [Image.new("RGB", TILE, "#22262b")] * (-len(tiles) % columns or columns * (not tiles))
    return image_grid(tiles, len(tiles) // columns, columns).quantize(256, dither=Image.Dither.NONE)  # halves the file size
