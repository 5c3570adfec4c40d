"""`python -m minisd.evaluate`: how well does the model follow prompts? Writes evaluation.md, .json, sheet.png, disagreements.png.

    python -m minisd.evaluate                                 # the built-in model, 100 prompts of each kind
    python -m minisd.evaluate --model my-model --prompts 30   # any checkpoint of this world
    python -m minisd.evaluate --lora tiny --sampler lcm --steps 4 --guidance-scale 1
    python -m minisd.evaluate --quick                         # a smoke test in half a minute

`torchrun --nproc-per-node N -m minisd.evaluate …` splits the images among N processes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from ..disk import check_writable, replacing, user_path
from ..exit_status import exit_status
from ..processes import join_processes
from ..schedulers.names import SAMPLERS
from ..tiny.picture_book import TRAINING_SCENES
from . import detector, geometry
from .findings import Judge
from .model import fingerprint, load
from .prompts import FAMOUS, SETS, prompts_of
from .protocol import Painter, evaluate, painter
from .rates import Rate, rate, right
from .report import as_json, contact_sheet, disagreements, markdown, shown

JUDGES: dict[str, Judge] = {"first": geometry.judge, "second": detector.judge}
QUICK = ("one thing", "one thing, new colour", "two things", "riding")
QUICK_STEPS = 20


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m minisd.evaluate", description="Measure how well a model follows prompts.")
    p.add_argument("--model", default="tiny", help='"tiny" (built in), or the folder of a model trained on the same picture book')
    p.add_argument("--lora", metavar="WHERE", help='also load this LoRA; "tiny" is the built-in LoRA for four steps')
    p.add_argument("--prompts", type=int, default=100, metavar="N", help="prompts of each kind (default: 100)")
    p.add_argument("--guidance-scale", type=float, metavar="W", help="default: the model's own")
    p.add_argument("--sampler", choices=list(SAMPLERS), help="default: the model's own")
    p.add_argument("--steps", type=int, metavar="N", help="default: the model's own")
    p.add_argument("--seed", type=int, default=0, help="prompt i starts from the noise of seed + i (default: 0)")
    p.add_argument("--out", type=user_path, default=Path("evaluation"), metavar="FOLDER", help="default: evaluation")
    p.add_argument("--quick", action="store_true", help=f"6 prompts of 4 kinds, {QUICK_STEPS} steps, one judge; no files")
    return p


def quick(paint: Painter, count: int = 6, seed: int = 0) -> dict[str, Rate]:
    """For a few prompts of some sets, the rate of images that are entirely right according to the first judge."""
    sets = {name: prompts_of(name, count, seed) for name in QUICK}
    return {name: rate(right(geometry.judge(paint(prompts)), prompts)) for name, prompts in sets.items()}


def run(args: argparse.Namespace):
    """Evaluate the model and write the report, its JSON and both sheets."""
    if args.prompts < 2:
        raise ValueError(f"--prompts must be at least 2, not {args.prompts}: each image is also compared with the next prompt")
    if not args.quick:
        check_writable(args.out, "choose another folder with --out")
    pipe = load(args.model, args.sampler)
    if args.lora:
        pipe.load_lora_weights(args.lora)
    if args.quick:
        paint = painter(pipe, QUICK_STEPS if args.steps is None else args.steps, args.guidance_scale)
        for name, share in quick(paint, seed=args.seed).items():
            print(f"{shown(share)}  {name}")
        return
    settings = {
        "model": args.model,
        "weights": fingerprint(pipe.unet),
        **({"lora": args.lora} if args.lora else {}),
        "sampler": type(pipe.scheduler).__name__,
        "steps": pipe.num_inference_steps if args.steps is None else args.steps,
        "guidance_scale": pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "prompts": args.prompts,
        "seed": args.seed,
    }
    steps, scale = settings["steps"], settings["guidance_scale"]
    controls = {"no prompt": painter(pipe, steps, scale, words=False), "guidance 1": painter(pipe, steps, 1.0)}
    sets = {name: prompts_of(name, args.prompts, args.seed) for name in [*SETS, FAMOUS]}
    evaluation = evaluate(pipe.vae, painter(pipe, steps, scale), controls, JUDGES, sets, TRAINING_SCENES)
    if evaluation is None:  # the first process has the result
        return
    texts = {"md": markdown(evaluation, settings), "json": json.dumps(as_json(evaluation, settings), indent=1)}
    pages = {"sheet": contact_sheet(evaluation, args.seed), "disagreements": disagreements(evaluation)}
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, text in texts.items():
        with replacing(args.out / f"evaluation.{kind}") as path:
            path.write_text(text, encoding="utf-8")
    for name, page in pages.items():
        with replacing(args.out / f"{name}.png") as path:
            page.save(path)
    print(texts["md"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""

    def work():
        args = parser().parse_args(arguments)
        join_processes("gloo", timeout=timedelta(hours=6))  # the first process judges while the others wait
        run(args)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
