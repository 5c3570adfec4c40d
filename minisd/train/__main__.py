"""`python -m minisd.train …`: trains the built-in model from scratch. Run the same command again to resume.

    python -m minisd.train clip
    python -m minisd.train vae
    python -m minisd.train decoder              # needs vae, and makes its images sharper
    python -m minisd.train unet                 # needs clip and vae
    python -m minisd.train judge                # needs clip and vae: the second judge of `python -m minisd.evaluate`
    python -m minisd.train distill              # a LoRA that draws in four steps; of the built-in model, or of another --model
    python -m minisd.train ablations            # training runs that differ in one respect
    python -m minisd.train plot                 # the logs as curves
    python -m minisd.train pack --to my-model   # a folder for `python -m minisd.generate --model my-model`

`torchrun --nproc-per-node N -m minisd.train …` splits every batch among N processes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..disk import check_writable, is_taken, user_path
from ..exit_status import exit_status
from ..processes import join_processes
from . import ablations, clip, decoder, distill, judge, plot, unet, vae

TRAININGS = {"clip": clip, "vae": vae, "decoder": decoder, "unet": unet, "judge": judge, "distill": distill, "ablations": ablations}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minisd.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("part", choices=[*TRAININGS, "plot", "pack"])
    p.add_argument("--folder", type=user_path, default=Path("runs"), help="folder of checkpoints, logs and sheets (default: runs)")
    p.add_argument("--steps", type=int, metavar="N", help="total number of steps (default: the recipe's)")
    p.add_argument("--model", default="tiny", help='what `distill` starts from: "tiny" (built in), or a folder (default: tiny)')
    p.add_argument("--to", type=user_path, metavar="FOLDER", help="new folder for the packed model")
    return p


def run(args: argparse.Namespace):
    if args.part == "pack":
        if args.to is None:
            raise ValueError("name a folder for the packed model, for example: python -m minisd.train pack --to my-model")
        unet.pack(args.folder, args.to)
    elif args.part == "plot":
        plot.run(args.folder)
    else:
        part = TRAININGS[args.part]
        start = {"model": args.model} if part is distill else {}
        part.run(args.folder, replace(part.RECIPE, steps=part.RECIPE.steps if args.steps is None else args.steps), **start)


def main(arguments: Sequence[str] | None = None, parser=parser, run=run) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""

    def work():
        args = parser().parse_args(arguments)
        check_writable(args.folder, "choose another folder with --folder")
        if args.to is not None and is_taken(args.to):
            raise ValueError(f"{args.to} exists and is not empty; choose a new folder with --to")
        join_processes("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        run(args)

    return exit_status(work, stopped="stopped; run the same command to resume from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
