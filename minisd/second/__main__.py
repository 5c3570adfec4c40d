"""`python -m minisd.second …`: trains the second edition. Run the same command again to resume.

    python -m minisd.second clip                 # the text encoder
    python -m minisd.second features             # the network of the perceptual loss
    python -m minisd.second vae                  # needs features; starts from the first edition's
    python -m minisd.second decoder              # needs vae; adds the discriminator
    python -m minisd.second unet                 # needs clip and vae
    python -m minisd.second judge                # needs vae; finds things in images, to evaluate the model
    python -m minisd.second pack --to my-model   # a folder for `python -m minisd.generate --model my-model`

`torchrun --nproc-per-node N -m minisd.second …` splits every batch among N processes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..disk import user_path
from ..train.__main__ import main
from . import clip, decoder, features, judge, unet, vae

TRAININGS = {"clip": clip, "features": features, "vae": vae, "decoder": decoder, "unet": unet, "judge": judge}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minisd.second", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("part", choices=[*TRAININGS, "pack"])
    p.add_argument(
        "--folder", type=user_path, default=Path("runs2"), help="folder of checkpoints, logs and sheets (default: runs2)"
    )
    p.add_argument("--steps", type=int, metavar="N", help="total number of steps (default: the recipe's)")
    p.add_argument("--to", type=user_path, metavar="FOLDER", help="new folder for the packed model")
    return p


def run(args: argparse.Namespace):
    if args.part == "pack":
        if args.to is None:
            raise ValueError("name a folder for the packed model, for example: python -m minisd.second pack --to my-model")
        unet.pack(args.folder, args.to)
    else:
        part = TRAININGS[args.part]
        part.run(args.folder, part.RECIPE if args.steps is None else replace(part.RECIPE, steps=args.steps))


def command(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, as in minisd.train."""
    return main(arguments, parser, run)


if __name__ == "__main__":
    sys.exit(command())
