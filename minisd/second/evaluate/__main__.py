"""`python -m minisd.second.evaluate`: how well does the model follow prompts? Writes a report and two sheets into a folder.

    python -m minisd.second.evaluate --model my-model --folder runs2

`torchrun --nproc-per-node N -m minisd.second.evaluate …` splits the images among N processes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from ...disk import check_writable, replacing, user_path
from ...evaluate.model import fingerprint, load
from ...exit_status import exit_status
from ...processes import join_processes
from ..judge import finder
from ..unet import SCENES
from . import similarity
from .prompts import FAMOUS, SETS, prompts_of
from .protocol import NEGATIVES, evaluate, painter, verdicts_with
from .report import as_json, contact_sheet, disagreements, markdown


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m minisd.second.evaluate", description="Measure how well a model follows prompts.")
    p.add_argument("--model", required=True, help="the folder of a packed model")
    p.add_argument("--folder", type=user_path, default=Path("runs2"), help="the trainings, with the judges (default: runs2)")
    p.add_argument("--prompts", type=int, default=100, metavar="N", help="prompts of each kind (default: 100)")
    p.add_argument("--guidance-scale", type=float, metavar="W", help="default: the model's own")
    p.add_argument("--steps", type=int, metavar="N", help="default: the model's own")
    p.add_argument("--seed", type=int, default=0, help="prompt i starts from the noise of seed + i (default: 0)")
    p.add_argument("--out", type=user_path, default=Path("evaluation"), metavar="FOLDER", help="default: evaluation")
    return p


def run(args: argparse.Namespace):
    """Evaluate the model and write the report, its JSON and both sheets."""
    if args.prompts < 2:
        raise ValueError(f"--prompts must be at least 2, not {args.prompts}: each image is also compared with the next prompt")
    check_writable(args.out, "choose another folder with --out")
    pipe, look = load(args.model), finder(args.folder)
    steps = pipe.num_inference_steps if args.steps is None else args.steps
    scale = pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale
    settings = {"model": args.model, "weights": fingerprint(pipe.unet), "sampler": type(pipe.scheduler).__name__}
    settings |= {"steps": steps, "guidance_scale": scale, "prompts": args.prompts, "seed": args.seed}
    evaluation = evaluate(
        pipe.vae,
        painter(pipe, steps, scale),
        controls={"no prompt": painter(pipe, steps, scale, words=False), "guidance 1": painter(pipe, steps, 1.0)},
        negatives={name: painter(pipe, steps, scale, negative=name) for name in NEGATIVES},
        judges={"first": verdicts_with(look), "second": similarity.trained(args.folder)},
        look=look,
        sets={name: prompts_of(name, args.prompts, args.seed) for name in [*SETS, FAMOUS]},
        training=SCENES,
    )
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
