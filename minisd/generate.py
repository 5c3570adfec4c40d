"""The command line: `python -m minisd.generate "an astronaut riding a horse"`.

It prints the paths of images to standard output and everything else to standard error.
"""

import argparse
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from . import __version__
from .again import GIVEN
from .config import sides
from .cuda_noise import CudaNoise
from .exit_status import exit_status
from .fast.batches import LARGE, images_at_once
from .fast.half import arithmetic
from .fast.speed_up import slow_down
from .flags import DTYPES, NOT_NEEDED, Order, device_of, how_to_load, names_picture, parse, what_to_draw
from .image import to_pil
from .image_files import save_gif, save_png, save_to_free_name
from .numerics import ImageWarning
from .pipeline import StableDiffusionPipeline
from .schedulers.names import name_of, with_sigmas
from .sheet import image_grid

if TYPE_CHECKING:
    from .explain.record import Watch

NAME = 100  # bytes of the prompt in a file name, few enough for every file system after the seed is appended
OF_A_CALL = ("prompt_weighting", "clip_skip", "guidance_rescale")  # arguments that are passed on if given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 after an explained error, or 130 after Ctrl-C."""
    given = sys.argv[1:] if arguments is None else arguments
    words = [re.sub(r"^--[\w-]+", lambda flag: flag[0].replace("_", "-"), word) for word in given]

    def work():
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: None if "--quiet" in words else print(f"note: {message}", file=sys.stderr)
            try:
                run(parse(words))
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory|not enough memory", str(error)):
                    raise
                raise MemoryError("not enough memory; use a smaller --height and --width, or --dtype bfloat16") from None

    return exit_status(work)


def run(args: argparse.Namespace):
    """Load the model, draw all images in batches, and write them."""
    orders = what_to_draw(args)
    if not orders:  # under torchrun, with fewer images than processes
        return
    from .adapters.adapter_command import find_adapters

    adapters, orders = find_adapters(args, orders)
    say = (lambda *words: None) if args.quiet else (lambda *words: print(*words, file=sys.stderr))
    if args.model == "tiny":
        for prompt in dict.fromkeys([*(order.text for order in orders), args.negative_prompt]):
            for hint in unknown_words(adapters.without_words(prompt)):
                say("note:", hint)

    for flag, why in NOT_NEEDED.items():
        if getattr(args, flag) is not None:
            say(f"note: --{flag} has no effect: {why}")
    if args.grid and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        say("note: --grid: every process writes its own grid")
    if args.quiet:
        os.environ.update(HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_VERBOSITY="error")

    device = device_of(args.device)
    half = device.startswith("cuda") and args.precision != "full"
    dtype = DTYPES[args.dtype or ("float16" if half or args.low_memory else "float32")]
    pipe = load(args, dtype=dtype, **how_to_load(args)).to(device)
    adapters.load(pipe)
    if args.low_memory:
        pipe.enable_vae_tiling()
        for network in (pipe.unet, pipe.vae, pipe.text_encoder):
            slow_down(network)  # no copies of weights
    pipe.scheduler = with_sigmas(pipe.scheduler, args.sigmas or (args.sampler and args.sampler[1]))
    pipe.set_progress_bar_config(disable=args.quiet, leave=False)
    if args.negative_prompt and (pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale) <= 1:
        say("note: the negative prompt has no effect at a guidance scale of 1 or less")
    say(f"{len(orders)} image{'s' * (len(orders) > 1)}, seed {orders[0].seed}, {args.model} on {device}")

    started, pictures = time.perf_counter(), []
    last: Future[list[Image.Image]] | None = None  # the batch that is written while the next one is drawn
    with arithmetic(pipe.device, pipe.dtype), ThreadPoolExecutor(1) as writer:
        for batch in adapters.batches(pipe, orders, batch_size(pipe, args)):
            results = drawn(pipe, batch, args)
            pictures += last.result() if last else []  # raises what went wrong while writing
            last = writer.submit(write, results, args, say)
        assert last is not None  # there is at least one order
        pictures += last.result()
    if args.grid:
        columns = args.num_images if args.num_images > 1 else math.ceil(len(pictures) ** 0.5)
        pictures += [Image.new("RGB", pictures[0].size, "white")] * (-len(pictures) % columns)
        grid = image_grid(pictures, len(pictures) // columns, columns)
        again = settings(pipe, orders[0], pictures[0], args) | {"grid": [[order.prompt, order.seed] for order in orders]}
        print(save_png(grid, file_name(args.out, orders[0], "-grid"), again), flush=True)
    say(f"{time.perf_counter() - started:.1f} s")


def load(args: argparse.Namespace, **options: Any) -> StableDiffusionPipeline:
    """Load the pipeline for text, for an input image, or for ControlNets."""
    if args.control or args.control_image or args.control_scale:
        from .editing.control_command import load_controlled

        return load_controlled(args, **options)
    if not (args.image or args.mask or args.paste or {args.strength, args.image_guidance_scale} != {None}):
        return StableDiffusionPipeline.from_pretrained(args.model, **options)
    from .editing.edit_command import load_for

    return load_for(args, **options)


def size_or_picture(pipe: StableDiffusionPipeline, images: int, args: argparse.Namespace) -> dict[str, Any]:
    """The arguments for the images' size, the input image, or the control images."""
    if args.control:
        from .editing.control_command import control_for

        return control_for(args, pipe)
    if not args.image:
        return {"height": args.height, "width": args.width}
    from .editing.edit_command import pictures_for

    return pictures_for(args, pipe, images)


def batch_size(pipe: StableDiffusionPipeline, args: argparse.Namespace) -> int:
    """How many images to draw at once."""
    if args.low_memory or args.explain:
        return 1
    if args.image or args.control:  # of any size
        return LARGE
    widths = pipe.vae.config.block_out_channels
    height, width = (2 ** (len(widths) - 1) * side for side in sides(pipe.unet.config.sample_size))
    height, width = args.height or height, args.width or width
    return images_at_once(pipe.device, max(widths[:2]), height * width, pipe.dtype)


class Drawn(NamedTuple):
    """An image, the animation of its steps, whether the safety checker hides it, its settings, and its page for `--explain`."""

    order: Order
    image: Image.Image
    film: Sequence[Image.Image]
    hidden: bool
    about: dict[str, Any]
    page: str


def drawn(pipe: StableDiffusionPipeline, batch: list[Order], args: argparse.Namespace) -> list[Drawn]:
    """Draw a batch of images."""
    with watched(pipe, args) as watch:
        images = draw(pipe, batch, args, watch)
    results = []
    for order, (image, film, hidden) in zip(batch, images):
        about = settings(pipe, order, image, args)
        page = watch.page(order.text, image, about) if watch and not hidden else ""
        results.append(Drawn(order, image, film, hidden, about, page))
    return results


def write(batch: list[Drawn], args: argparse.Namespace, say: Callable) -> list[Image.Image]:
    """Write a batch of images, then print the paths; printing comes last, since the output may be a broken pipe."""
    paths, notes = [], []
    try:
        for order, image, film, hidden, about, page in batch:
            paths.append(path := save_png(image, file_name(args.out, order), about))
            if args.gif:
                paths.append(save_gif(film, path.with_suffix(".gif")))
            if page:
                paths.append(save_to_free_name(path.with_suffix(".html"), partial(writing, page.encode())))
            bands: Any = image.getextrema()  # the lowest and highest values of red, green and blue
            if hidden:
                notes.append(f"note: the safety checker blacked out {path}; try another seed or prompt")
            elif all(low == high for low, high in bands):
                notes.append(f"note: {path} is a single colour; try another --dtype, --guidance-scale or --seed")
    finally:
        for path in paths:
            print(path, flush=True)
        for note in notes:
            say(note)
    return [drawing.image for drawing in batch]


def writing(data: bytes, file: BinaryIO):
    file.write(data)


def watched(pipe: StableDiffusionPipeline, args: argparse.Namespace) -> AbstractContextManager:
    """Records what `--explain` shows; does nothing without it."""
    if not args.explain:
        return nullcontext()
    from .explain.record import watched

    return watched(pipe)


def draw(pipe: StableDiffusionPipeline, batch: list[Order], args: argparse.Namespace, watch: "Watch | None"):
    """For each order: the image, the predicted image at each step if --gif is given, and whether the checker hides both."""
    start = size_or_picture(pipe, len(batch), args)
    steps = pipe.denoise(
        [order.text for order in batch],
        **start,
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=[args.negative_prompt] * len(batch),
        eta=args.eta,
        **{name: value for name in OF_A_CALL if (value := getattr(args, name))},
        generator=[CudaNoise(order.seed) if args.noise == "cuda" else seeded(order.seed) for order in batch],
    )
    frames: list[list[Image.Image]] = []
    for step in steps:
        if watch:
            watch.steps.append(step)
        if args.gif:
            frames.append(to_pil(decode(pipe, step.pred_original_sample, start, args)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)  # reported later, with the file name
        pictures, flags = pipe.run_safety_checker(decode(pipe, step.latents, start, args))
    images = to_pil(pictures)
    films = list(zip(*frames)) or [()] * len(images)
    hidden = flags or [False] * len(images)
    return [(image, [image] if hide else [*film, image], hide) for image, film, hide in zip(images, films, hidden)]


def decode(pipe: StableDiffusionPipeline, latents: Tensor, start: dict[str, Any], args: argparse.Namespace) -> Tensor:
    """Decode the images and, with --paste, restore the original pixels outside the mask."""
    images = pipe.decode(latents)
    if not args.paste:
        return images
    from .editing.edit_command import pasted

    return pasted(images, start)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(pipe: StableDiffusionPipeline, order: Order, image: Image.Image, args: argparse.Namespace) -> dict:
    """Everything needed to draw the image again."""
    sampler, curve = name_of(pipe.scheduler)
    return {
        "prompt": order.prompt,
        "negative_prompt": args.negative_prompt,
        "model": str(args.model),
        "sampler": sampler,
        "steps": pipe.num_inference_steps if args.steps is None else args.steps,
        "guidance_scale": pipe.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        "eta": args.eta,
        "seed": order.seed,
        "width": image.width,
        "height": image.height,
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "version": __version__,
        "torch": torch.__version__,
        **({"sigmas": curve} if curve else {}),
    } | {name: str(value) if isinstance(value, Path) else value for name in GIVEN if (value := getattr(args, name))}


def file_name(out: Path, order: Order, suffix: str = "") -> Path:
    """The requested file name, or one with the prompt and the seed."""
    if names_picture(out):
        return out.with_stem(out.stem + suffix)
    words = "-".join(re.findall(r"\w+", order.text.lower()))[:60].encode()[:NAME].decode(errors="ignore") or "picture"
    return out / f"{words}-{order.seed}{suffix}.png"


def unknown_words(prompt: str) -> list[str]:
    """Hints about words that the built-in model has never seen, with the nearest word that it knows."""
    from difflib import get_close_matches

    from .tiny.drawing import THINGS
    from .tiny.picture_book import WORDS

    hints = []
    for word in dict.fromkeys(re.findall(r"[^\W\d_]+", prompt.lower())):
        if word not in WORDS:
            near = get_close_matches(word, WORDS, n=1)
            guess = f'did you mean "{near[0]}"?' if near else "it knows " + ", ".join(THINGS)
            hints.append(f'the built-in model has never seen the word "{word}"; {guess}')
    return hints


if __name__ == "__main__":
    sys.exit(main())
