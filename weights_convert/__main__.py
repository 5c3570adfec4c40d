"""The command: `python -m weights_convert SOURCE OUT` and `python -m weights_convert inspect FILE`."""

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

import torch

from minisd.config import UnsupportedConfig
from minisd.vae import AutoencoderKL
from minisd.weights.checkpoint import read_any
from minisd.weights.errors import CheckpointError
from minisd.weights.save import write_diffusers, write_minisd
from minisd.weights.single_network import read_network

from .inspect import report

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
USAGE = """%(prog)s SOURCE OUT [options]
       %(prog)s inspect FILE [--full]"""


def converter() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m weights_convert",
        usage=USAGE,
        description="Turn a Stable Diffusion v1 or v2 into one self-describing minisd file, or into a diffusers folder.",
        epilog="`inspect FILE` says what a file is.",
    )
    p.add_argument("source", type=Path, metavar="SOURCE", help="a .safetensors or .ckpt file, or a diffusers folder")
    p.add_argument("out", type=Path, metavar="OUT", help="what to write: a new file, or with --to diffusers a new folder")
    p.add_argument("--to", choices=["minisd", "diffusers"], default="minisd")
    p.add_argument("--dtype", choices=list(DTYPES), help="cast the weights (default: as they are stored)")
    p.add_argument("--prediction-type", choices=["epsilon", "v_prediction"], help="what the model predicts (default: found out)")
    p.add_argument("--averaged", action="store_true", help="take the UNet's moving average (EMA), where an original file has both")
    p.add_argument(
        "--vae", type=Path, metavar="PATH", help="take the VAE of this folder or file, in place of SOURCE's or if it has none"
    )
    p.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="put the vocabulary of this folder in")
    return p


def inspector() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m weights_convert inspect", description="Say what a file is, from its header.")
    p.add_argument("file", type=Path, metavar="FILE", help="a .safetensors or .ckpt file")
    p.add_argument("--full", action="store_true", help="read every byte: for the sha256, and to look for NaN and infinity")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, 1 for an error that was explained, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["inspect"]:
            args = inspector().parse_args(given[1:])
            print(report(args.file, args.full))
        else:
            convert(converter().parse_args(given))
    except (CheckpointError, UnsupportedConfig) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: nothing was written: {error.strerror}" + f" ({error.filename})" * bool(error.filename), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped, and nothing was written", file=sys.stderr)
        return 130
    return 0


def convert(args: argparse.Namespace):
    if not args.source.exists():
        raise CheckpointError(f"{args.source} does not exist; name a file or a folder on this machine")
    checkpoint = read_any(args.source, args.prediction_type, args.averaged, given=["vae"] if args.vae else [])
    if args.vae:
        checkpoint = checkpoint.with_network("vae", *read_network(AutoencoderKL, args.vae))
    if args.tokenizer:
        checkpoint = checkpoint.with_vocabulary(args.tokenizer)
    write = {"minisd": write_minisd, "diffusers": write_diffusers}[args.to]
    summary = f"{', '.join(checkpoint.parts)}; predicts {checkpoint.prediction_type} ({checkpoint.decided})"
    write(checkpoint, args.out, DTYPES.get(args.dtype))
    print(f"{args.out}: {summary}")
    if not checkpoint.has_vocabulary:
        print("It has no vocabulary, as SOURCE has none; --tokenizer FOLDER puts one in.", file=sys.stderr)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a name may hold what the terminal cannot show
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
