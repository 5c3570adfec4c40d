"""The flags of `python -m minisd.generate`, and the images, the checkpoint and the device that they select."""

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
NOT_NEEDED = {  # flags of CompVis' scripts, accepted without effect
    "config": "checkpoints include their configuration",
    "C": "checkpoints define their channels",
    "f": "checkpoints define their factor",
    "n_rows": "--grid chooses its columns",
    "fixed_code": "--seed alone determines the noise",
    "skip_save": "every image is written",
    "laion400m": "choose another checkpoint with --model",
    "dpm": "use its successor, --sampler dpm++2m",
}
FACTOR = 8  # image pixels per latent position along each side, in every Stable Diffusion
RANDOM = (None, -1)  # values of --seed for a random seed; A1111 writes -1
STANDARD_INPUT = Path("-")
FOUR_STEPS = {"sampler": ("lcm", None), "steps": 4, "guidance_scale": 1.0}  # what --fast means, besides the model's own LoRA
SWITCHES = ("fixed_code", "skip_save", "laion400m", "dpm")  # the flags among NOT_NEEDED that take no value


@dataclass(frozen=True)
class Order:
    """One image to draw: its prompt and its noise. `text` is the prompt without the tags that name `loras` and their scales."""

    prompt: str
    seed: int
    text: str
    loras: Mapping[str, float] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """The parser. Flags of CompVis' and diffusers' scripts are aliases; `_` and `-` are equivalent in all flags."""
    p = argparse.ArgumentParser(prog="python -m minisd.generate", description="Draw images from text.", allow_abbrev=False)
    p.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; each prompt gives its own image")
    p.add_argument("--prompt", action="append", default=[], dest="more_prompts", help=argparse.SUPPRESS)
    p.add_argument(
        "--from-file", type=user_path, metavar="FILE", help="read prompts from a text file, one per line; - is standard input"
    )
    p.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to avoid")
    p.add_argument("--prompt-weighting", action="store_true", help='support "(word:1.3)", "[word]", BREAK and long prompts')
    p.add_argument("--lora", action="append", metavar="FILE[:SCALE]", help="add a LoRA; may be repeated (default scale: 1)")
    p.add_argument("--lora-dir", type=user_path, metavar="FOLDER", help='support "<lora:name:0.8>" in prompts, from this folder')
    p.add_argument("--embedding", action="append", metavar="FILE", help="load a textual inversion, which adds a word")
    p.add_argument("--clip-skip", type=int, metavar="N", help="skip the last N layers of the text encoder")
    model = ("--model", "--ckpt", "--pretrained-model-name-or-path")
    p.add_argument(
        *model,
        type=os.path.expanduser,
        default="tiny",
        help='"tiny" (built in), a folder, a .safetensors file, or an id on the Hub',
    )
    p.add_argument("--variant", metavar="NAME", help='for folders and Hub ids: "fp16" selects the files in half precision')
    p.add_argument("--revision", metavar="NAME", help="for Hub ids: a branch, a tag or a commit")
    p.add_argument("--tokenizer", metavar="WHERE", help="for an original single file: the folder or id with its vocabulary")
    p.add_argument(
        "--prediction-type", choices=["epsilon", "v_prediction"], help="what a single file predicts, if detection is wrong"
    )
    p.add_argument(
        "--image", "--init-img", type=user_path, metavar="IMAGE", help="start from an image and redraw it with the prompt"
    )
    p.add_argument("--strength", type=float, metavar="S", help="how much of the image becomes noise, up to 1 (default: 0.8)")
    p.add_argument("--mask", type=user_path, metavar="IMAGE", help="redraw white, keep black; sets the default --strength to 1")
    p.add_argument("--paste", action="store_true", help="with --mask: keep the exact pixels outside the mask")
    p.add_argument("--image-guidance-scale", type=float, metavar="W", help="for InstructPix2Pix: how closely to follow the image")
    p.add_argument("--control", action="append", metavar="WHERE", help="a ControlNet: a file, a folder, or an id on the Hub")
    p.add_argument(
        "--control-image", action="append", metavar="IMAGE", help="the ControlNet's image, for example white edges on black"
    )
    p.add_argument("--control-scale", action="append", type=float, metavar="S", help="the ControlNet's strength (default: 1)")
    p.add_argument(
        "--again", type=user_path, metavar="PNG", help="use the settings of an image written by minisd or a web interface"
    )
    p.add_argument("--no-safety-checker", action="store_true", help="do not load the checkpoint's safety checker")
    p.add_argument("--fast", action="store_true", help="draw in four steps with the built-in model and its LoRA")
    p.add_argument(
        "--steps", "--num-inference-steps", "--ddim-steps", type=int, metavar="N", help="denoising steps (default: the model's own)"
    )
    p.add_argument(
        "--guidance-scale", "--scale", type=float, metavar="W", help="how strongly to follow the prompt; 1 disables guidance"
    )
    p.add_argument("--guidance-rescale", type=float, metavar="F", help="remove contrast that guidance adds, 0 to 1 (default: 0)")
    p.add_argument("--sampler", type=sampler_and_curve, metavar="NAME", help=f"{', '.join(SAMPLERS)} (default: the model's own)")
    p.add_argument("--sigmas", choices=list(SIGMAS), help="use a Karras or exponential schedule of noise levels")
    p.add_argument("--karras", dest="sigmas", action="store_const", const="karras", help="the same as --sigmas karras")
    p.add_argument("--plms", dest="sampler", action="store_const", const=("pndm", None), help=argparse.SUPPRESS)
    p.add_argument("--klms", dest="sampler", action="store_const", const=("lms", None), help=argparse.SUPPRESS)
    p.add_argument("--eta", "--ddim-eta", type=float, default=0.0, help="DDIM's share of new noise, 0 to 1 (default: 0)")
    p.add_argument(
        "--seed", type=int, help="image i starts from the noise of seed + i (default: -1, a random seed, which is printed)"
    )
    p.add_argument("--noise", choices=["cpu", "cuda"], help='random generator; "cuda" reproduces a GPU\'s noise on any machine')
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
    p.add_argument("--grid", action="store_true", help="also write all images in one grid")
    p.add_argument("--skip-grid", dest="grid", action="store_false", help=argparse.SUPPRESS)
    p.add_argument("--gif", action="store_true", help="also write an animation: the predicted image at each step")
    p.add_argument("--explain", action="store_true", help="also write an HTML page per image: its steps and attention maps")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="where to compute (default: auto)")
    p.add_argument("--dtype", choices=list(DTYPES), help="dtype of the weights (default: float16 on cuda, else float32)")
    p.add_argument(
        "--low-memory",
        action="store_true",
        help="use float16 weights, draw one image at a time, and decode large images in tiles, which may shift colours slightly",
    )
    p.add_argument("--precision", choices=["full", "autocast"], help=argparse.SUPPRESS)
    for flag in NOT_NEEDED:
        switch: dict[str, Any] = {"action": "store_const", "const": True} if flag in SWITCHES else {}
        p.add_argument(f"--{flag.replace('_', '-')}", dest=flag, help=argparse.SUPPRESS, **switch)
    p.add_argument("--quiet", action="store_true", help="print only paths and errors")
    p.add_argument("--version", action="version", version=f"minisd {__version__}")
    return p


def sampler_and_curve(name: str) -> tuple[str, str | None]:
    """The value of --sampler: a sampler's name and its curve of σ."""
    try:
        return known_as(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the flags; they override the settings of the image that `--again` names."""
    """The flags, over the settings that `--fast` means, over those of the picture that `--again` names."""
    p = parser()
    args = p.parse_args(words)
    if args.again:
        from .again import settings_in

        p.set_defaults(model=None)
        p.set_defaults(**settings_in(args.again, given=p.parse_args(words)))
        args = p.parse_args(words)
    if args.fast:
        if args.model != "tiny":
            raise ValueError(
                f"--fast draws with the built-in model, not with {args.model}; "
                "for another, load an LCM-LoRA: --lora FILE --sampler lcm --steps 4 --guidance-scale 1"
            )
        if "tiny" not in (args.lora or ()):
            p.set_defaults(lora=[*(p.get_default("lora") or ()), "tiny"])
        p.set_defaults(**FOUR_STEPS)
        args = p.parse_args(words)
    return args


def check_call(args: argparse.Namespace, prompts: Sequence[str]):
    """Raise ValueError for arguments that no model supports, before loading one; the call checks those that depend on the model."""
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
        raise ValueError("several processes need a common --seed and cannot read prompts from standard input")
    if args.from_file:
        prompts += prompts_in(args.from_file)
    if not prompts:
        raise ValueError('give a prompt, for example: python -m minisd.generate "an astronaut riding a horse"')
    check_call(args, prompts)
    if args.out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"images are written as PNG; choose {args.out.with_suffix('.png')} or a folder")
    if args.out.is_file() and not names_picture(args.out):
        raise ValueError(f"{args.out} is a file; choose a folder or a new .png file")
    if args.out.is_symlink() and not args.out.exists():
        raise ValueError(f"{args.out} is a broken link; choose another path with --out")
    folder, name = (args.out.parent, args.out.stem) if names_picture(args.out) else (args.out, "")
    check_writable(folder, "choose another folder with --out", name)
    count = args.num_images * args.n_iter
    if not 1 <= count <= 100_000:
        raise ValueError(f"--num-images must be from 1 to 100000, not {count}")
    seed = random.randrange(2**32) if args.seed in RANDOM else args.seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to {2**63 - 1}, or -1 for a random one, not {seed}")
    orders = [Order(prompt, seed + i, prompt) for i, prompt in enumerate(p for p in prompts for _ in range(count))]
    return orders[rank::world]


def prompts_in(file: Path) -> list[str]:
    """The lines of a file or of standard input. Raises ValueError if it cannot be read."""
    try:
        text = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
        return [line for line in text.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else "there is no standard input"
        raise ValueError(f"cannot read prompts from {file}: {why}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text; write one prompt per line, in UTF-8") from None


def names_picture(out: Path) -> bool:
    """Whether --out names a file rather than a folder."""
    return out.suffix.lower() == ".png" and not out.is_dir()


def how_to_load(args: argparse.Namespace) -> dict:
    """The keyword arguments of `from_pretrained`."""
    of_files = {"tokenizer": args.tokenizer, "prediction_type": args.prediction_type}
    given = {name: value for name, value in of_files.items() if value}
    if given and (args.model == "tiny" or not Path(args.model).is_file()):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{flags} works only with an original single file, and {args.model} is not one")
    parts: dict[str, Any] = {"scheduler": SAMPLERS[args.sampler[0]]} if args.sampler else {}
    parts |= {"safety_checker": None} if args.no_safety_checker else {}
    return {"variant": args.variant, "revision": args.revision, **given, **parts}


def device_of(name: str) -> str:
    """The device to draw on. Raises ValueError if it is not available."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto" or (name == "cuda" and there["cuda"]):
        return best_device()
    if not there[name]:
        raise ValueError(f"{name} is not available here; omit --device, or use --device cpu")
    return name
