"""Prompt adherence at each guidance scale, and of each sampler at few and many steps.

python -m minisd.evaluate.curves --out curves.json     # half an hour; resumes after an interruption
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..disk import check_writable, replacing, user_path
from ..exit_status import exit_status
from ..pipeline import StableDiffusionPipeline
from ..schedulers.names import SAMPLERS
from . import geometry
from .model import fingerprint, load
from .prompts import prompts_of
from .protocol import painter
from .rates import rate, right

SCALES, SCALE_STEPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0), 25
STEPS = (3, 5, 10, 20, 50)
FEW_STEPS = (1, 2, 4, 8)
ASKED = ("one thing", "two things", "riding")


def points(weights: str, count: int, few_steps: bool = True) -> Iterator[dict]:
    """The points of the curves, each measured with `count` images; a scale of None is the model's default.

    `few_steps` adds the points of the built-in model's LoRA.
    """
    same = {"weights": weights, "of": count}
    for scale in SCALES:
        for name in ASKED:
            yield {"curve": "guidance", "set": name, "sampler": "pndm", "steps": SCALE_STEPS, "scale": scale, **same}
    for sampler in ("pndm", "ddim", "lms", "dpm++2m", "unipc", "heun", "euler-a"):
        for steps in STEPS:
            yield {"curve": "steps", "set": "two things", "sampler": sampler, "steps": steps, "scale": None, **same}
    for steps in FEW_STEPS if few_steps else ():
        yield {"curve": "steps", "set": "two things", "sampler": "lcm", "steps": steps, "scale": 1.0, **same}


def measure(pipe: StableDiffusionPipeline, point: dict) -> dict:
    """The point with its number of right images."""
    pipe.scheduler = SAMPLERS[point["sampler"]].from_config(pipe.scheduler.config)
    if point["sampler"] == "lcm":
        pipe.load_lora_weights("tiny")
    prompts = prompts_of(point["set"], point["of"], 10_000, series="tuning")
    share = rate(right(geometry.judge(painter(pipe, point["steps"], point["scale"])(prompts)), prompts))
    pipe.unload_lora_weights()
    return {**point, "right": share.right}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minisd.evaluate.curves", description="Measure prompt adherence by scale, sampler and steps."
    )
    p.add_argument("--model", default="tiny", help='"tiny" (built in), or the folder of another model of the same world')
    p.add_argument("--prompts", type=int, default=60, metavar="N", help="prompts per point (default: 60)")
    p.add_argument("--out", type=user_path, default=Path("curves.json"), metavar="FILE", help="default: curves.json")
    return p


def run(args: argparse.Namespace):
    """Measure all points that the file does not have yet, saving after each."""
    check_writable(args.out.parent, "choose another file with --out")
    try:
        measured = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else []
    except ValueError:
        raise ValueError(f"{args.out} is not a valid file of curves; choose a new file with --out") from None
    pipe = load(args.model)
    points_measured = [{name: value for name, value in point.items() if name != "right"} for point in measured]
    for point in points(fingerprint(pipe.unet), args.prompts, few_steps=args.model == "tiny"):
        if point not in points_measured:
            measured.append(measure(pipe, point))
            print("{right:3}/{of}  {curve}: {set}, {sampler}, {steps} steps, scale {scale}".format(**measured[-1]))
            with replacing(args.out) as path:
                path.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""
    return exit_status(lambda: run(parser().parse_args(arguments)), stopped="stopped; run the same command to resume")


if __name__ == "__main__":
    sys.exit(main())
