"""`python -m minisd.finetune`: teach a checkpoint something new from your own pictures.

    python -m minisd.finetune --data my-cat --caption "a sks cat" --out sks                       # a LoRA for the built-in model
    python -m minisd.finetune --data my-cat --caption "a sks cat" --out sks --model CompVis/stable-diffusion-v1-4
    python -m minisd.finetune --data my-cat --method inversion --init-word cat --out my-cat-word
    python -m minisd.finetune --data drawings --method full --out my-model
    python -m minisd.finetune --data my-cat --method dreambooth --caption "a sks cat" --class-prompt "a cat" --out sks
    python -m minisd.finetune --data edges --method controlnet --out edges-to-pictures

A folder of data has pictures with captions in .txt files beside them, or a metadata.jsonl as imagefolders of datasets have. The
same command continues a training that was stopped. `torchrun --nproc-per-node N -m minisd.finetune …` shares every batch among N
processes.
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


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m minisd.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.set_defaults(**{field.name: field.default for field in fields(Settings)} | {"caption": [], "prompt": []})
    add = p.add_argument
    add(
        "--model",
        type=os.path.expanduser,
        help='what learns: "tiny" (built in), a folder, a .safetensors file, or an id on the Hub',
    )
    add("--data", type=user_path, required=True, metavar="FOLDER", help="your pictures")
    add("--method", choices=list(LEARNERS), help="what learns: %(choices)s (default: lora)")
    add("--out", type=user_path, required=True, metavar="FOLDER", help="a new folder for the result, or that of a stopped training")
    add("--caption", action="append", metavar="TEXT", help="of pictures that have none of their own; give several to take turns")
    add("--steps", type=int, metavar="N", help="default: the method's")
    add("--batch-size", type=int, metavar="N", help="pictures at once, of all processes together (default: the method's)")
    add("--learning-rate", type=float, metavar="RATE", help="default: the method's")
    add("--size", type=int, metavar="PIXELS", help="pictures are fitted to this width and height (default: the model's)")
    add("--rank", type=int, metavar="N", help="lora: how many numbers the two matrices of a layer pass on (default: 4)")
    add("--train-text-encoder", action="store_true", help="lora, full, dreambooth: the text encoder learns too")
    add("--token", metavar="WORD", help="inversion: the new word (default: the name of the folder --out)")
    add("--init-word", metavar="WORD", help="inversion: a word for what the thing is like, where learning starts")
    add("--vectors", type=int, metavar="N", help="inversion: how many tokens the new word takes in a prompt (default: 1)")
    add("--class-prompt", metavar="TEXT", help="learn pictures of the class beside yours, drawn for this prompt, to forget less")
    add("--class-images", type=int, metavar="N", help="how many of them (default: 100)")
    add("--prior-weight", type=float, metavar="W", help="how much they count (default: 1)")
    add("--min-snr", type=float, metavar="GAMMA", help="count timesteps with little noise less, which learns faster; usual: 5")
    add("--offset-noise", type=float, metavar="SHARE", help="learn very dark and very light pictures too; usual: 0.1 (default: 0)")
    add("--accumulate", type=int, metavar="N", help="N batches make one step: a larger batch in the same memory (default: 1)")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third more time, the same result")
    add("--prompt", action="append", metavar="TEXT", help="draw this on the sheet (default: the first captions); may be repeated")
    add("--seed", type=int, metavar="N", help="default: 0")
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    return Settings(**{**vars(args), "caption": tuple(args.caption), "prompt": tuple(args.prompt)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that was explained, 130 for Ctrl-C."""

    def say(words: str):
        if rank_and_world()[0] == 0:
            print(words, file=sys.stderr)

    def work():
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(f"note: {message}")
            settings = settings_of(parser().parse_args(arguments))
            join_processes("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
            run(settings, say)

    return exit_status(work, stopped="stopped; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())
