"""`python -m minisd.train clip|vae|decoder|unet|pack`: the built-in model from nothing. A stopped training, started again, goes on.

    python -m minisd.train clip
    python -m minisd.train vae
    python -m minisd.train decoder              # needs vae, and makes its pictures sharper
    python -m minisd.train unet                 # needs clip and vae
    python -m minisd.train pack --to my-model   # a folder for `python -m minisd.generate --model my-model`

`torchrun --nproc-per-node N -m minisd.train …` shares every batch among N processes.
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from . import clip, decoder, unet, vae


def main():
    parser = argparse.ArgumentParser(prog="python -m minisd.train", description="Train the built-in model from nothing.")
    parser.add_argument("part", choices=["clip", "vae", "decoder", "unet", "pack"])
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where checkpoints, logs and sheets go (default: runs)")
    parser.add_argument("--steps", type=int, help="how many steps in all (default: the recipe's)")
    parser.add_argument("--to", type=Path, help="the folder that `pack` writes")
    arguments = parser.parse_args()
    if arguments.part == "pack":
        unet.pack(arguments.folder, arguments.to)
        return
    if "WORLD_SIZE" in os.environ:
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
    part = {"clip": clip, "vae": vae, "decoder": decoder, "unet": unet}[arguments.part]
    part.run(arguments.folder, replace(part.RECIPE, steps=arguments.steps or part.RECIPE.steps))


if __name__ == "__main__":
    main()
