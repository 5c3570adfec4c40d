"""The flags of `python -m minisd.generate`, and what they ask for: which images, from which checkpoint, on which device."""

import argparse
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .config import SchedulerConfig
from .disk import check_writable, user_path
from .processes import best_device
from .request import check_eta, check_prompts, check_size, real
from .schedulers.names import SAMPLERS, SIGMAS, known_as, with_sigmas
from .schedulers.spacing import check_steps

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
NOT_NEEDED = {  # flags of CompVis' scripts, accepted and without effect
    "config": "a checkpoint brings its own",
    "C": "a checkpoint knows its channels",
    "f": "a checkpoint knows its factor",
    "n_rows": "--grid finds its columns",
    "fixed_code": "--seed alone decides about the noise",
    "skip_save": "every picture is written",
    "laion400m": "--model names another checkpoint",
    "dpm": "--sampler dpm++2m names its successor",
}
FACTOR = 8  # pixels a side for one latent, in every Stable Diffusion
RANDOM = (None, -1)  # of --seed; A1111 writes -1
STANDARD_INPUT = Path("-")
SWITCHES = ("fixed_code", "skip_save", "laion400m", "dpm")  # those of them that take no value


@dataclass(frozen=True)
class Order:
    """One picture to draw: what, and from which noise. `text` is the prompt without the tags that name `loras` and their scales."""

    prompt: str
    seed: int
    text: str
    loras: Mapping[str, float] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """Flags of CompVis' and diffusers' scripts are further names of the same settings; `_` and `-` are one in all."""
    p = argparse.ArgumentParser(prog="python -m minisd.generate", description="Draw pictures from words.", allow_abbrev=False)
    p.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; several prompts make several pictures")
    p.add_argument("--prompt", action="append", default=[], dest="more_prompts", help=argparse.SUPPRESS)
    p.add_argument(
        "--from-file", type=user_path, metavar="FILE", help="read prompts from a text file, one a line; - is standard input"
    )
    p.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to avoid")
    p.add_argument("--prompt-weighting", action="store_true", help='read "(word:1.3)", "[word]" and BREAK; prompts of any length')
    p.add_argument(
        "--lora", action="append", metavar="FILE[:SCALE]", help="add a LoRA to the model; several add up (default scale: 1)"
    )
    p.add_argument("--lora-dir", type=user_path, metavar="FOLDER", help='read "<lora:name:0.8>" in prompts: a file of this folder')
    p.add_argument("--embedding", action="append", metavar="FILE", help="add a word to the model: a textual inversion")
    p.add_argument("--clip-skip", type=int, metavar="N", help="leave out the last N layers of the text encoder")
    model = ("--model", "--ckpt", "--pretrained-model-name-or-path")
    p.add_argument(
        *model,
        type=os.path.expanduser,
        default="tiny",
        help='"tiny" (built in), a folder, a .safetensors file, or an id on the Hub',
    )
    p.add_argument("--variant", metavar="NAME", help='for folders and Hub ids: "fp16" takes the files in half precision')
    p.add_argument("--revision", metavar="NAME", help="for Hub ids: a branch, a tag or a commit")
    p.add_argument("--tokenizer", metavar="WHERE", help="for an original single file: the folder or id that has its vocabulary")
    p.add_argument("--prediction-type", choices=["epsilon", "v_prediction"], help="override the guess for an original single file")
    p.add_argument(
        "--image", "--init-img", type=user_path, metavar="PICTURE", help="start from a picture: draw it again with the prompt"
    )
    p.add_argument("--strength", type=float, metavar="S", help="how much of the picture becomes noise, up to 1 (default: 0.8)")
    p.add_argument("--mask", type=user_path, metavar="PICTURE", help="white is redrawn, black is kept (default --strength: 1)")
    p.add_argument("--paste", action="store_true", help="with --mask: keep the rest to the last pixel")
    p.add_argument(
        "--image-guidance-scale", type=float, metavar="W", help="for InstructPix2Pix: how closely to keep to the picture"
    )
    p.add_argument("--control", action="append", metavar="WHERE", help="a ControlNet: a file, a folder, or an id on the Hub")
    p.add_argument("--control-image", action="append", metavar="PICTURE", help="what it sees, for example white edges on black")
    p.add_argument("--control-scale", action="append", type=float, metavar="S", help="its strength (default: 1)")
    p.add_argument(
        "--again", type=user_path, metavar="PNG", help="take the settings of a picture that minisd or a web interface wrote"
    )
    p.add_argument("--no-safety-checker", action="store_true", help="leave out the safety checker, where a checkpoint has one")
    p.add_argument("--steps", "--num-inference-steps", "--ddim-steps", type=int, metavar="N", help="default: the model's own")
    p.add_argument(
        "--guidance-scale", "--scale", type=float, metavar="W", help="how strongly to follow the prompt; 1: without guidance"
    )
    p.add_argument("--guidance-rescale", type=float, metavar="F", help="take back contrast that guidance adds, 0 to 1 (default: 0)")
    p.add_argument("--sampler", type=sampler_and_curve, metavar="NAME", help=f"{', '.join(SAMPLERS)} (default: the model's own)")
    p.add_argument("--sigmas", choices=list(SIGMAS), help="noise levels: a Karras or exponential schedule")
    p.add_argument("--karras", dest="sigmas", action="store_const", const="karras", help="the same as --sigmas karras")
    p.add_argument("--plms", dest="sampler", action="store_const", const=("pndm", None), help=argparse.SUPPRESS)
    p.add_argument("--klms", dest="sampler", action="store_const", const=("lms", None), help=argparse.SUPPRESS)
    p.add_argument("--eta", "--ddim-eta", type=float, default=0.0, help="DDIM's new noise at each step, 0 to 1 (default: 0)")
    p.add_argument(
        "--seed", type=int, help="picture i starts from the noise of seed + i (default: -1, a random one, which is reported)"
    )
    p.add_argument(
        "--noise", choices=["cpu", "cuda"], help='random generator to imitate; "cuda" draws a GPU\'s noise on any machine'
    )
    p.add_argument(
        "--num-images",
        "--num-images-per-prompt",
        "--n-samples",
        type=int,
        default=1,
        metavar="N",
        help="images per prompt (default: 1)",
    )
    p.add_argument("--n-iter", type=int, default=1, help=argparse.SUPPRESS)
    p.add_argument("--height", "--H", type=int, metavar="PIXELS", help="a multiple of 8 (default: the model's own)")
    p.add_argument("--width", "--W", type=int, metavar="PIXELS", help="a multiple of 8 (default: the model's own)")
    p.add_argument(
        "--out", "--outdir", type=user_path, default=Path("."), metavar="PATH", help="a folder, or the name of a .png file"
    )
    p.add_argument("--grid", action="store_true", help="write all pictures on one page, too")
    p.add_argument("--skip-grid", dest="grid", action="store_false", help=argparse.SUPPRESS)
    p.add_argument("--gif", action="store_true", help="write a film of each picture's making, too: the guess at every step")
    p.add_argument(
        "--explain", action="store_true", help="write a page for each picture, too: its steps and where each word looked"
    )
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    p.add_argument("--dtype", choices=list(DTYPES), help="default: float16 on cuda, else float32")
    p.add_argument(
        "--low-memory",
        action="store_true",
        help="weights in float16, one picture at a time, large ones decoded in tiles, which may shift their colours a little",
    )
    p.add_argument("--precision", choices=["full", "autocast"], help=argparse.SUPPRESS)
    for flag in NOT_NEEDED:
        switch: dict[str, Any] = {"action": "store_const", "const": True} if flag in SWITCHES else {}
        p.add_argument(f"--{flag.replace('_', '-')}", dest=flag, help=argparse.SUPPRESS, **switch)
    p.add_argument("--quiet", action="store_true", help="say nothing but the paths, and errors")
    p.add_argument("--version", action="version", version=f"minisd {__version__}")
    return p


def sampler_and_curve(name: str) -> tuple[str, str | None]:
    try:
        return known_as(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The flags, over the settings of the picture that `--again` names."""
    p = parser()
    args = p.parse_args(words)
    if args.again:
        from .again import settings_in

        p.set_defaults(model=None)
        p.set_defaults(**settings_in(args.again, given=p.parse_args(words)))
        args = p.parse_args(words)
    return args


def check_call(args: argparse.Namespace, prompts: Sequence[str]):
    """Raise ValueError for what no model could draw, before one is loaded; the call itself checks what depends on the model."""
    check_prompts([*prompts, args.negative_prompt], None)
    if args.steps is not None:
        check_steps(args.steps, SchedulerConfig().num_train_timesteps)
    if sides := [side for side in (args.height, args.width) if side is not None]:
        check_size(sides[0], sides[-1], FACTOR)
    other = ("image", "mask", "control", "control_image", "prompt_weighting")
    if args.explain and (given := [name for name in other if getattr(args, name)]):
        raise ValueError(f"--explain explains pictures from a plain prompt; leave out --{given[0].replace('_', '-')}")
    limits = {"guidance_scale": (), "guidance_rescale": (0, 1), "eta": (0, 1), "clip_skip": (0,), "image_guidance_scale": (1,)}
    for name, limit in limits.items():
        if (number := getattr(args, name)) is not None:
            real(name, number, *limit)
    if args.sampler:
        name, curve = args.sampler
        scheduler = with_sigmas(SAMPLERS[name].from_config(SchedulerConfig()), args.sigmas or curve)
        check_eta(args.eta, scheduler)


def what_to_draw(args: argparse.Namespace) -> list[Order]:
    """Every prompt, `num_images` times, each with its seed; under torchrun, this process's share of them."""
    prompts = args.prompts + args.more_prompts
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and (args.seed in RANDOM or args.from_file == STANDARD_INPUT):
        raise ValueError("several processes need one --seed, from which each takes its share, and no prompts from standard input")
    if args.from_file:
        prompts += prompts_in(args.from_file)
    if not prompts:
        raise ValueError('say what to draw, for example: python -m minisd.generate "an astronaut riding a horse"')
    check_call(args, prompts)
    if args.out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"pictures are written as PNG: call it {args.out.with_suffix('.png')}, or name a folder")
    if args.out.is_file() and not names_picture(args.out):
        raise ValueError(f"{args.out} is a file; name a folder, or a new .png file")
    if args.out.is_symlink() and not args.out.exists():
        raise ValueError(f"{args.out} is a link to nothing; name another place by --out")
    folder, name = (args.out.parent, args.out.stem) if names_picture(args.out) else (args.out, "")
    check_writable(folder, "name another folder by --out", name)
    count = args.num_images * args.n_iter
    if not 1 <= count <= 100_000:
        raise ValueError(f"--num-images must be from 1 to 100000, not {count}")
    seed = random.randrange(2**32) if args.seed in RANDOM else args.seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to {2**63 - 1}, or -1 for a random one, not {seed}")
    orders = [Order(prompt, seed + i, prompt) for i, prompt in enumerate(p for p in prompts for _ in range(count))]
    return orders[rank::world]


def prompts_in(file: Path) -> list[str]:
    """The lines of a text, or of standard input."""
    try:
        text = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
        return [line for line in text.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "there is no standard input"
        raise ValueError(f"cannot read prompts from {file}: {why}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text in UTF-8: a file of prompts has one a line") from None


def names_picture(out: Path) -> bool:
    """Whether --out is the name of a file; otherwise it is a folder."""
    return out.suffix.lower() == ".png" and not out.is_dir()


def how_to_load(args: argparse.Namespace) -> dict:
    """What `from_pretrained` has to know besides the name."""
    of_files = {"tokenizer": args.tokenizer, "prediction_type": args.prediction_type}
    given = {name: value for name, value in of_files.items() if value}
    if given and (args.model == "tiny" or not Path(args.model).is_file()):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{flags} works only with an original single file; {args.model} is not one")
    parts: dict[str, Any] = {"scheduler": SAMPLERS[args.sampler[0]]} if args.sampler else {}
    parts |= {"safety_checker": None} if args.no_safety_checker else {}
    return {"variant": args.variant, "revision": args.revision, **given, **parts}


def device_of(name: str) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto" or (name == "cuda" and there["cuda"]):
        return best_device()
    if not there[name]:
        raise ValueError(f"{name} is not available here; omit --device, or use --device cpu")
    return name
