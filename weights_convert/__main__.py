"""The command: `python -m weights_convert SOURCE OUT` and `python -m weights_convert inspect FILE`."""

import argparse
import sys
from collections.abc import Sequence

import torch

from minisd.disk import check_writable, is_taken, user_path
from minisd.exit_status import exit_status
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
        description="Convert a Stable Diffusion v1 or v2 checkpoint into a self-describing minisd file or a diffusers folder.",
        epilog="`inspect FILE` describes a file.",
    )
    p.add_argument("source", type=user_path, metavar="SOURCE", help="a .safetensors or .ckpt file, or a diffusers folder")
    p.add_argument("out", type=user_path, metavar="OUT", help="what to write: a new file or, with --to diffusers, a new folder")
    p.add_argument("--to", choices=["minisd", "diffusers"], default="minisd")
    p.add_argument("--dtype", choices=list(DTYPES), help="cast the weights (default: keep the stored dtype)")
    p.add_argument("--prediction-type", choices=["epsilon", "v_prediction"], help="what the model predicts (default: detect it)")
    p.add_argument("--averaged", action="store_true", help="use the UNet's moving average (EMA), if an original file has both")
    vae = "use the VAE of this folder or file instead of SOURCE's"
    p.add_argument("--vae", type=user_path, metavar="PATH", help=vae)
    p.add_argument("--tokenizer", type=user_path, metavar="FOLDER", help="add the vocabulary of this folder")
    return p


def inspector() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m weights_convert inspect", description="Describe a file, using only its header.")
    p.add_argument("file", type=user_path, metavar="FILE", help="a .safetensors or .ckpt file")
    p.add_argument(
        "--full", action="store_true", help="read the whole file, to compute the sha256 and to check for NaN and infinity"
    )
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def work():
        if given[:1] == ["inspect"]:
            args = inspector().parse_args(given[1:])
            print(report(args.file, args.full))
        else:
            convert(converter().parse_args(given))

    return exit_status(work, stopped="stopped; nothing was written")


def convert(args: argparse.Namespace):
    """Convert a checkpoint as the arguments say, and print what was written."""
    if not args.source.exists():
        raise CheckpointError(f"{args.source} does not exist; pass an existing file or folder")
    if is_taken(args.out) if args.to == "diffusers" else args.out.exists():
        raise CheckpointError(f"{args.out} exists; choose a new {'folder' if args.to == 'diffusers' else 'file'}")
    check_writable(args.out.parent, "choose another OUT")
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
        print("It has no vocabulary, because SOURCE has none; add one with --tokenizer FOLDER.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
