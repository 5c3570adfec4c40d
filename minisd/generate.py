"""The command line: `python -m minisd.generate "an astronaut riding a horse"`.

Paths of the pictures go to standard output, everything else to standard error.
"""

import argparse
import math
import os
import random
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from . import __version__
from .faults import PictureWarning
from .image import image_grid, save_gif, save_png, to_pil
from .pipeline import StableDiffusionPipeline
from .schedulers import DDIMScheduler, LMSDiscreteScheduler, PNDMScheduler

SAMPLERS = {"pndm": PNDMScheduler, "ddim": DDIMScheduler, "lms": LMSDiscreteScheduler}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BATCH = 4  # pictures that are drawn at once
NOT_NEEDED = {  # flags of CompVis' scripts, accepted and without effect
    "config": "a checkpoint brings its own",
    "C": "a checkpoint knows its channels",
    "f": "a checkpoint knows its factor",
    "n_rows": "--grid finds its columns",
    "fixed_code": "--seed alone decides about the noise",
    "skip_save": "every picture is written",
    "laion400m": "--model names another checkpoint",
    "dpm": "DPM-Solver is not implemented, and --sampler names what is",
}
SWITCHES = ("fixed_code", "skip_save", "laion400m", "dpm")  # those of them that take no value
RECORDED = ("variant", "revision", "tokenizer", "prediction_type", "no_safety_checker")  # in the PNG, where they were given


@dataclass(frozen=True)
class Order:
    """One picture to draw: what, and from which noise."""

    prompt: str
    seed: int


def parser() -> argparse.ArgumentParser:
    """Flags of CompVis' and diffusers' scripts are further names of the same settings; `_` and `-` are one in all."""
    p = argparse.ArgumentParser(prog="python -m minisd.generate", description="Draw pictures from words.", allow_abbrev=False)
    p.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw; several prompts make several pictures")
    p.add_argument("--prompt", action="append", default=[], dest="more_prompts", help=argparse.SUPPRESS)
    p.add_argument("--from-file", type=Path, metavar="FILE", help="read prompts from a text file, one a line")
    p.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to keep away from")
    model = ("--model", "--ckpt", "--pretrained-model-name-or-path")
    p.add_argument(*model, default="tiny", help='"tiny" (built in), a folder, a .safetensors file, or an id on the Hub')
    p.add_argument("--variant", metavar="NAME", help='of a folder or an id: "fp16" takes the files in half precision')
    p.add_argument("--revision", metavar="NAME", help="of an id: a branch, a tag or a commit")
    p.add_argument("--tokenizer", metavar="WHERE", help="of an original single file: the folder or id that has its vocabulary")
    p.add_argument(
        "--prediction-type", choices=["epsilon", "v_prediction"], help="of an original single file, where it is guessed wrong"
    )
    p.add_argument("--no-safety-checker", action="store_true", help="leave out the safety checker, where a checkpoint has one")
    p.add_argument("--steps", "--num-inference-steps", "--ddim-steps", type=int, metavar="N", help="default: the model's own")
    p.add_argument(
        "--guidance-scale", "--scale", type=float, metavar="W", help="how strongly to follow the prompt; 1: without guidance"
    )
    p.add_argument("--sampler", choices=list(SAMPLERS), help="default: the model's own")
    p.add_argument("--plms", dest="sampler", action="store_const", const="pndm", help=argparse.SUPPRESS)
    p.add_argument("--klms", dest="sampler", action="store_const", const="lms", help=argparse.SUPPRESS)
    p.add_argument("--eta", "--ddim-eta", type=float, default=0.0, help="DDIM's new noise at each step, 0 to 1 (default: 0)")
    p.add_argument("--seed", type=int, help="picture i starts from the noise of seed + i (default: random, and reported)")
    p.add_argument(
        "--num-images", "--num-images-per-prompt", "--n-samples", type=int, default=1, metavar="N", help="of each prompt"
    )
    p.add_argument("--n-iter", type=int, default=1, help=argparse.SUPPRESS)
    p.add_argument("--height", "--H", type=int, metavar="PIXELS", help="a multiple of 8 (default: the model's own)")
    p.add_argument("--width", "--W", type=int, metavar="PIXELS", help="likewise")
    p.add_argument("--out", "--outdir", type=Path, default=Path("."), metavar="PATH", help="a folder, or the name of a .png file")
    p.add_argument("--grid", action="store_true", help="write all pictures on one page, too")
    p.add_argument("--skip-grid", dest="grid", action="store_false", help=argparse.SUPPRESS)
    p.add_argument("--gif", action="store_true", help="write a film of each picture's making, too: the guess at every step")
    p.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda", "mps"])
    p.add_argument("--dtype", choices=list(DTYPES), help="default: float16 on cuda, else float32")
    p.add_argument("--precision", choices=["full", "autocast"], help=argparse.SUPPRESS)
    for flag in NOT_NEEDED:
        switch = {"action": "store_const", "const": True} if flag in SWITCHES else {}
        p.add_argument(f"--{flag.replace('_', '-')}", dest=flag, help=argparse.SUPPRESS, **switch)
    p.add_argument("--quiet", action="store_true", help="say nothing but the paths, and errors")
    p.add_argument("--version", action="version", version=f"minisd {__version__}")
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that was explained, 130 for Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args([re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in given])
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: args.quiet or print(f"note: {message}", file=sys.stderr)
            run(args)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory|not enough memory", str(error)):
            raise
        print("error: not enough memory: ask for a smaller --height and --width, or --dtype bfloat16", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace):
    orders = what_to_draw(args)
    if not orders:  # under torchrun, with fewer pictures than processes
        return
    say = (lambda *words: None) if args.quiet else (lambda *words: print(*words, file=sys.stderr))
    if args.model == "tiny":
        for prompt in dict.fromkeys([*(order.prompt for order in orders), args.negative_prompt]):
            for hint in unknown_words(prompt):
                say("note:", hint)

    for flag, why in NOT_NEEDED.items():
        if getattr(args, flag) is not None:
            say(f"note: --{flag} has no effect: {why}")
    if args.quiet:
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_VERBOSITY="error")

    device = device_of(args.device)
    half = device.startswith("cuda") and args.precision != "full"
    dtype = DTYPES[args.dtype or ("float16" if half else "float32")]
    pipe = StableDiffusionPipeline.from_pretrained(args.model, dtype=dtype, **how_to_load(args)).to(device)
    pipe.set_progress_bar_config(disable=args.quiet, leave=False)
    say(f"{len(orders)} picture{'s' * (len(orders) > 1)}, seed {orders[0].seed}, {args.model} on {device}")

    started, pictures = time.perf_counter(), []
    for first in range(0, len(orders), BATCH):
        batch = orders[first : first + BATCH]
        for order, (image, film, hidden) in zip(batch, draw(pipe, batch, args)):
            path = save_png(image, file_name(args.out, order), settings(pipe, order, image, args))
            print(path, flush=True)
            if hidden:
                say(f"note: the safety checker made {path} black: another seed or prompt may pass")
            elif all(low == high for low, high in image.getextrema()):
                say(f"note: {path} is all of one colour: another --dtype, --guidance-scale or --seed may help")
            if args.gif:
                print(save_gif(film, path.with_suffix(".gif")), flush=True)
            pictures.append(image)
    if args.grid:
        columns = args.num_images if args.num_images > 1 else math.ceil(len(pictures) ** 0.5)
        pictures += [Image.new("RGB", pictures[0].size, "white")] * (-len(pictures) % columns)
        grid = image_grid(pictures, len(pictures) // columns, columns)
        again = settings(pipe, orders[0], pictures[0], args) | {"grid": [[order.prompt, order.seed] for order in orders]}
        print(save_png(grid, file_name(args.out, orders[0], "-grid"), again), flush=True)
    say(f"{time.perf_counter() - started:.1f} s")


def what_to_draw(args: argparse.Namespace) -> list[Order]:
    """Every prompt, `num_images` times, each with its seed; under torchrun, this process's share of them."""
    prompts = args.prompts + args.more_prompts
    if args.from_file:
        try:
            lines = args.from_file.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ValueError(f"cannot read prompts from {args.from_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{args.from_file} is not a text in UTF-8: a file of prompts has one a line") from None
        prompts += [line for line in lines if line.strip()]
    if not prompts:
        raise ValueError('say what to draw, for example: python -m minisd.generate "an astronaut riding a horse"')
    if args.out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"pictures are written as PNG: call it {args.out.with_suffix('.png')}, or name a folder")
    if args.out.is_file() and args.out.suffix.lower() != ".png":
        raise ValueError(f"{args.out} is a file; name a folder, or a new .png file")
    folder = args.out.parent if args.out.suffix.lower() == ".png" else args.out
    try:  # the nearest folder that is there: the others are made when there is a picture
        tempfile.TemporaryFile(dir=next(path for path in [folder, *folder.parents] if path.exists())).close()
    except OSError as error:
        raise ValueError(f"cannot write to {folder}: {error.strerror}; name another folder by --out") from None
    count = args.num_images * args.n_iter
    if count < 1:
        raise ValueError(f"--num-images must be at least 1, not {count}")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and args.seed is None:
        raise ValueError("several processes need one --seed, from which each takes its share")
    seed = random.randrange(2**32) if args.seed is None else args.seed
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed must be from 0 to {2**63 - 1}, not {seed}")
    orders = [Order(prompt, seed + i) for i, prompt in enumerate(p for p in prompts for _ in range(count))]
    return orders[rank::world]


def device_of(name: str) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto" or (name == "cuda" and there["cuda"]):
        return best_device()
    if not there[name]:
        raise ValueError(f"this machine, or this PyTorch, has no {name}; leave --device out, or say --device cpu")
    return name


def how_to_load(args: argparse.Namespace) -> dict:
    """What `from_pretrained` has to know besides the name."""
    of_files = {"tokenizer": args.tokenizer, "prediction_type": args.prediction_type}
    given = {name: value for name, value in of_files.items() if value}
    if given and (args.model == "tiny" or not Path(args.model).is_file()):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"{flags}: only for an original single file, and {args.model} is none")
    parts = {"scheduler": SAMPLERS[args.sampler]} if args.sampler else {}
    parts |= {"safety_checker": None} if args.no_safety_checker else {}
    return {"variant": args.variant, "revision": args.revision, **given, **parts}


def draw(pipe: StableDiffusionPipeline, batch: list[Order], args: argparse.Namespace):
    """Of each order the picture, if asked the film of what the model guessed at every step, and whether the checker hides both."""
    steps = pipe.denoise(
        [order.prompt for order in batch],
        args.height,
        args.width,
        args.steps,
        args.guidance_scale,
        [args.negative_prompt] * len(batch),
        eta=args.eta,
        generator=[torch.Generator().manual_seed(order.seed) for order in batch],
    )
    frames: list[list[Image.Image]] = []
    for step in steps:
        if args.gif:
            frames.append(to_pil(pipe.decode(step.pred_original_sample)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)  # said later, with the name of the file
        pictures, flags = pipe.run_safety_checker(pipe.decode(step.latents))
    images = to_pil(pictures)
    films = list(zip(*frames)) or [()] * len(images)
    hidden = flags or [False] * len(images)
    return [(image, [image] if hide else [*film, image], hide) for image, film, hide in zip(images, films, hidden)]


def settings(pipe: StableDiffusionPipeline, order: Order, image: Image.Image, args: argparse.Namespace) -> dict:
    """Everything needed to draw the picture again."""
    names = {scheduler: name for name, scheduler in SAMPLERS.items()}
    return {
        "prompt": order.prompt,
        "negative_prompt": args.negative_prompt,
        "model": str(args.model),
        "sampler": names[type(pipe.scheduler)],
        "steps": pipe.num_inference_steps if args.steps is None else args.steps,
        "guidance_scale": pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "eta": args.eta,
        "seed": order.seed,
        "width": image.width,
        "height": image.height,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "version": __version__,
        "torch": torch.__version__,
    } | {name: value for name in RECORDED if (value := getattr(args, name))}


def file_name(out: Path, order: Order, suffix: str = "") -> Path:
    """The name that was asked for, or one that tells prompt and seed."""
    if out.suffix.lower() == ".png":
        return out.with_stem(out.stem + suffix)
    words = "-".join(re.findall(r"\w+", order.prompt.lower()))[:60] or "picture"
    return out / f"{words}-{order.seed}{suffix}.png"


def best_device() -> str:
    if torch.cuda.is_available():  # under torchrun, each process has a GPU of its own
        return f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def unknown_words(prompt: str) -> list[str]:
    """What the built-in model has never read, each with the nearest word that it knows."""
    from difflib import get_close_matches

    from .tiny.picture_book import THINGS, WORDS

    hints = []
    for word in dict.fromkeys(re.findall(r"[^\W\d_]+", prompt.lower())):
        if word not in WORDS:
            near = get_close_matches(word, WORDS, n=1)
            guess = f'did you mean "{near[0]}"?' if near else "it knows " + ", ".join(THINGS)
            hints.append(f'the built-in model has never seen the word "{word}"; {guess}')
    return hints


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # a prompt may hold what the terminal cannot show
        stream.reconfigure(errors="backslashreplace")
    sys.exit(main())
