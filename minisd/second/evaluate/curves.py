"""What guidance gives and what it costs: adherence, diversity, saturation and edges at each guidance scale.

python -m minisd.second.evaluate.curves --model my-model --folder runs2     # resumes after an interruption
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...disk import check_writable, replacing, user_path
from ...evaluate.model import fingerprint, load
from ...evaluate.rates import rate
from ...exit_status import exit_status
from ...pipeline import StableDiffusionPipeline
from ..judge import finder
from .prompts import prompts_of
from .protocol import open_prompts, painter, render, verdicts_with
from .rates import right
from .variety import diversity, edge_energy, saturation

SCALES, STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0), 25
ASKED = ("everything about one thing", "two things", "riding")


def points(weights: str, count: int) -> Iterator[dict]:
    """The points of the curves: for each scale, sets of prompts, and one prompt that leaves most things open."""
    for scale in SCALES:
        for name in (*ASKED, "a cat"):
            yield {"set": name, "steps": STEPS, "scale": scale, "weights": weights, "of": count}


def measure(pipe: StableDiffusionPipeline, look, point: dict) -> dict:
    """The point with its figures. Saturation and edges are shares of the renders' of the same prompts."""
    paint = painter(pipe, point["steps"], point["scale"])
    if point["set"] == "a cat":
        return {**point, "diversity": diversity(look(paint(open_prompts("cat"))), "cat")}
    prompts = prompts_of(point["set"], point["of"], 10_000, series="tuning")
    pictures, renders = paint(prompts), render(prompts)
    shares = {of.__name__: of(pictures) / of(renders) for of in (saturation, edge_energy)}
    return {**point, "right": rate(right(verdicts_with(look)(pictures, prompts))).right, **shares}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m minisd.second.evaluate.curves", description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="the folder of a packed model")
    p.add_argument("--folder", type=user_path, default=Path("runs2"), help="the trainings, with the judge (default: runs2)")
    p.add_argument("--prompts", type=int, default=60, metavar="N", help="prompts per point (default: 60)")
    p.add_argument("--out", type=user_path, default=Path("curves.json"), metavar="FILE", help="default: curves.json")
    return p


def run(args: argparse.Namespace):
    """Measure all points that the file does not have yet, saving after each."""
    check_writable(args.out.parent, "choose another file with --out")
    measured = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    pipe, look = load(args.model), finder(args.folder)
    for point in points(fingerprint(pipe.unet), args.prompts):
        if not any(point.items() <= known.items() for known in measured):
            measured.append(measure(pipe, look, point))
            print(measured[-1], flush=True)
            with replacing(args.out) as path:
                path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""
    return exit_status(lambda: run(parser().parse_args(arguments)), stopped="stopped; run the same command to resume")


if __name__ == "__main__":
    sys.exit(main())
