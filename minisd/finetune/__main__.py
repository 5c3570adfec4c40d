"""`python -m minisd.finetune`: fine-tune a checkpoint on your own images.

    python -m minisd.finetune --data my-cat --caption "a sks cat" --out sks                       # a LoRA for the built-in model
    python -m minisd.finetune --data my-cat --caption "a sks cat" --out sks --model CompVis/stable-diffusion-v1-4
    python -m minisd.finetune --data my-cat --method inversion --init-word cat --out my-cat-word
    python -m minisd.finetune --data drawings --method full --out my-model
    python -m minisd.finetune --data my-cat --method dreambooth --caption "a sks cat" --class-prompt "a cat" --out sks
    python -m minisd.finetune --data edges --method controlnet --out edges-to-pictures

The data folder has images with captions in .txt files beside them, or a metadata.jsonl as in an imagefolder of 🤗 datasets. Run the
same command again to resume. `torchrun --nproc-per-node N -m minisd.finetune …` splits every batch among N processes.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields

import torch

from ..disk import user_path
from ..exit_status import exit_status
from ..processes import join_processes, rank_and_world
from .session import LEARNERS, run
from .settings import Settings

REPEATED = ("caption", "class_prompt", "prompt")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minisd.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.set_defaults(**{field.name: field.default for field in fields(Settings)} | {name: [] for name in REPEATED})
    add = p.add_argument
    add(
        "--model",
        type=os.path.expanduser,
        help='the model to fine-tune: "tiny" (built in), a folder, a .safetensors file, or an id on the Hub',
    )
    add("--data", type=user_path, required=True, metavar="FOLDER", help="folder of your images")
    add("--method", choices=list(LEARNERS), help="what to train (default: lora)")
    add(
        "--out",
        type=user_path,
        required=True,
        metavar="FOLDER",
        help="a new folder for the result, or the folder of a training to resume",
    )
    add(
        "--caption",
        action="append",
        metavar="TEXT",
        help="caption of images that have none; if repeated, one is chosen at random each time",
    )
    add("--steps", type=int, metavar="N", help="number of training steps (default: depends on the method)")
    add("--batch-size", type=int, metavar="N", help="images per batch, over all processes (default: depends on the method)")
    add("--learning-rate", type=float, metavar="RATE", help="default: depends on the method")
    add("--size", type=int, metavar="PIXELS", help="width and height to which images are scaled and cropped (default: the model's)")
    add("--rank", type=int, metavar="N", help="lora: rank of the two matrices (default: 4)")
    add("--layers", choices=["attention", "all"], help="lora: which layers to adapt (default: depends on the model)")
    add("--train-text-encoder", action="store_true", help="lora, full, dreambooth: train the text encoder too")
    add("--token", metavar="WORD", help="inversion: the new word (default: the name of the folder --out)")
    add("--init-word", metavar="WORD", help="inversion: a similar word, whose embedding is the starting point")
    add("--vectors", type=int, metavar="N", help="inversion: number of tokens of the new word (default: 1)")
    add(
        "--class-prompt",
        action="append",
        metavar="TEXT",
        help="also train on images that the model generates for this prompt, to forget less; may be repeated",
    )
    add("--class-images", type=int, metavar="N", help="number of class images to generate (default: 100)")
    add("--prior-weight", type=float, metavar="W", help="weight of the class images in the loss (default: 1)")
    add(
        "--min-snr",
        type=float,
        metavar="GAMMA",
        help="reduce the weight of timesteps with little noise, which speeds up training; usual: 5",
    )
    add(
        "--offset-noise",
        type=float,
        metavar="SHARE",
        help="helps the model to learn very dark and very light images; usual: 0.1 (default: 0)",
    )
    add(
        "--accumulate", type=int, metavar="N", help="sum the gradients of N batches: a larger batch in the same memory (default: 1)"
    )
    add("--gradient-checkpointing", action="store_true", help="use less memory and about a third more time; the result is the same")
    add(
        "--prompt",
        action="append",
        metavar="TEXT",
        help="prompt for the sample sheet (default: the first captions); may be repeated",
    )
    add("--seed", type=int, metavar="N", help="random seed (default: 0)")
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(**{**vars(args), **{name: tuple(getattr(args, name)) for name in REPEATED}})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an error message, or 130 after Ctrl-C."""

    def say(words: str):
        if rank_and_world()[0] == 0:
            print(words, file=sys.stderr)

    def work():
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"note: {message}")
            settings = settings_of(parser().parse_args(arguments))
            join_processes("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            run(settings, say)

    return exit_status(work, stopped="stopped; run the same command to resume from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
