"""Notebook 01, a picture in sixty seconds: descriptions of its figures, the longer figures, and the exercises."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from types import SimpleNamespace

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from torch import Tensor

from ..image import to_pil
from ..pipeline import StableDiffusionPipeline, guide
from .diagram import arrow, box
from .exercise import Exercise, stack
from .figures import BLUE, DPI, PALE, SLATE, WIDTH, sheet, show

FOUR_SEEDS = "Four pictures of an astronaut on a horse, similar at first sight and different in every outline."
CHANGED_WORDS = (
    "Two rows of four pictures: a red house in the snow, a blue house in the snow, a blue mushroom in the snow, a blue mushroom at "
    "night. The part that the changed word names changes; the last change also moves the mushroom."
)
STEP_COUNTS = (
    "Five pictures. 2 steps give rubble; 4 steps give a house in the snow with wrong colours; with 8 steps it is red, and 16 and "
    "32 steps change hardly anything."
)


def look(ax: Axes, image: Tensor):
    """Draw a picture (3, H, W) in [-1, 1], or latents (4, h, w) as four grey tiles, with 0 as middle grey."""
    ax.set_axis_off()
    if len(image) == 3:
        ax.imshow(to_pil(image[None])[0], interpolation="nearest")
    else:
        channels = torch.cat([image[:2].flatten(0, 1), image[2:].flatten(0, 1)], dim=1)
        ax.imshow(channels, cmap="gray", vmin=-3, vmax=3, interpolation="nearest")


def show_sizes(images: Mapping[str, Tensor]):
    """Pictures (3, H, W) of several sizes side by side at one scale, each below its name."""
    scale, gap, head = 2, 36, 56  # stored pixels: a pixel of a picture becomes 2 × 2
    width, height = WIDTH * DPI, head + scale * max(image.shape[1] for image in images.values())
    figure = sheet(height)
    left = 0
    for name, image in images.items():
        tall, wide = scale * image.shape[1], scale * image.shape[2]
        ax = figure.add_axes((left / width, 0, wide / width, tall / height))
        look(ax, image)
        ax.set_title(name, color=SLATE)
        left += wide + gap
    show(
        figure,
        f"One prompt at {len(images)} sizes. The usual size has one house in the snow; the wide picture has two, the tall one a "
        "single house under a lot of sky.",
    )


def show_film(titles: Sequence[str], latents: Tensor, decoded: Tensor, guesses: Tensor):
    """Three rows over time: latents (N, 4, 16, 16), the latents decoded, and the guesses of x0 decoded."""
    columns, gap, head = len(titles), 16, 88
    side = (round(WIDTH * DPI) - gap * (columns - 1)) // columns
    width, height = round(WIDTH * DPI), 3 * (head + side)
    figure = sheet(height)
    rows = {"latents $x_t$": latents, "$x_t$ decoded": decoded, "guess of $x_0$ decoded": guesses}
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            bottom = height - (row + 1) * (head + side)
            ax = figure.add_axes((column * (side + gap) / width, bottom / height, side / width, side / height))
            look(ax, image)
            ax.set_title(titles[column] if column else f"{name}\n{titles[0]}", size=9, color=SLATE)
    show(
        figure,
        "Three rows of pictures, from noise on the left to the end on the right. The latents are grey grain in which shapes appear "
        "late. Decoded, they are coloured rubble that gives way to an astronaut on a horse. In the guesses both are visible much "
        "earlier, blurred at first.",
    )


def show_way(prompt: str, ids: Tensor, context: Tensor, noise: Tensor, latents: Tensor, picture: Tensor, calls: int):
    """The diagram of all notebooks with the tensors drawn in it, each above its shape; `calls` counts the runs of the loop."""
    height, top, bottom = 3.5, 2.98, 0.95
    figure = sheet(height * DPI)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    ax.set_axis_off()

    def place(x: float, y: float, size: tuple[float, float], name: str, tensor: Tensor) -> Axes:
        """Axes centred at (x, y) for a tensor, with its name and shape below."""
        wide, tall = size
        text = f"{name}\n{'×'.join(map(str, tensor.shape))}"
        ax.text(x, y - tall / 2 - 0.06, text, ha="center", va="top", size=8.5, color=SLATE)
        return figure.add_axes(((x - wide / 2) / WIDTH, (y - tall / 2) / height, wide / WIDTH, tall / height))

    ax.text(0.62, top, textwrap.fill(prompt, 14), ha="center", va="center", color=SLATE)
    box(ax, 2.1, top, "tokenizer", "words to numbers", False)
    words = place(3.52, top, (0.92, 0.58), "ids", ids)
    words.pcolormesh((ids[-1] != ids[-1, -1]).view(7, 11).flipud(), cmap=ListedColormap([PALE, BLUE]), edgecolors="white")
    words.set_axis_off()
    box(ax, 4.94, top, "text encoder", "numbers to vectors", False)
    states = place(6.85, top, (1.9, 0.8), "context: without the prompt, with it", context)
    states.imshow(torch.cat([context[0], context[-1]], dim=1), cmap="gray", vmin=-2, vmax=2, aspect="auto")
    states.axvline(context.shape[2] - 0.5, color="white", linewidth=4, linestyle="-")
    states.set_axis_off()

    look(place(0.62, bottom, (5 / 6, 5 / 6), "noise", noise), noise[0])
    box(ax, 2.35, bottom + 0.42, "UNet", "guesses the noise", False)
    box(ax, 2.35, bottom - 0.42, "scheduler", "takes a step", False)
    ax.text(2.35, bottom, f"{calls} times", ha="center", va="center", size=8.5, color=SLATE)
    look(place(4.02, bottom, (5 / 6, 5 / 6), "latents", latents), latents[0])
    box(ax, 5.48, bottom, "VAE", "latents to pixels", False)
    look(place(7.3, bottom + 0.1, (4 / 3, 4 / 3), "picture", picture), picture[0])

    for left, right in ((1.25, 1.45), (2.75, 3.02), (4.02, 4.29), (5.59, 5.86)):
        arrow(ax, (left, top), (right, top), color=SLATE)
    for left, right in ((1.08, 1.65), (3.05, 3.56), (4.48, 4.83), (6.13, 6.6)):
        arrow(ax, (left, bottom), (right, bottom), color=SLATE)
    arrow(ax, (2.0, bottom - 0.15), (2.0, bottom + 0.15), color=SLATE)
    arrow(ax, (2.7, bottom + 0.15), (2.7, bottom - 0.15), color=SLATE)
    ax.plot((6.2, 6.2, 2.35), (2.16, 1.95, 1.95), color=SLATE, linewidth=1.2, linestyle="-")
    arrow(ax, (2.35, 1.95), (2.35, bottom + 0.69), color=SLATE)
    show(
        figure,
        "The way from prompt to picture with every tensor drawn. The ids are a grid of 77 positions: the first few are "
        "words, the rest is padding. The context is two sheets of stripes, one line per position. Below, grey noise enters the "
        f"loop of UNet and scheduler, which runs {calls} times, and leaves it as latents in which the shapes of the picture are "
        "visible; the VAE turns them into the picture.",
    )


latents_shape = Exercise(
    answer=lambda height, width: (4, height // 8, width // 8),
    mistakes={
        "height comes before width, as in every image tensor": lambda height, width: (4, width // 8, height // 8),
        "3 is the number of colour channels of a picture; how many channels do latents have?": lambda height, width: (
            3,
            height // 8,
            width // 8,
        ),
        "8 pixels per side become one latent": lambda height, width: (4, height, width),
        "right for 128 × 128 only; compute it from height and width": lambda height, width: (4, 16, 16),
        "leave out the batch dimension": lambda height, width: (1, 4, height // 8, width // 8),
    },
    run=lambda shape_of: stack(shape_of(*size) for size in ((128, 128), (192, 128), (96, 256))),
)


@cache
def tiny() -> SimpleNamespace:
    """The parts of the built-in model, without a pipeline that could be called instead."""
    return SimpleNamespace(**StableDiffusionPipeline.from_pretrained("tiny").components)


def from_parts(parts, prompt, steps, scale, rng, texts=lambda prompt: ["", prompt], guide=guide, scaled=True):
    """What the pipeline does, written with its parts; the last three arguments make it go wrong."""
    ids = [parts.tokenizer(text).input_ids for text in texts(prompt)]
    context = torch.cat([parts.text_encoder(row).last_hidden_state for row in ids])
    latents = torch.randn(1, 4, 16, 16, generator=rng)
    parts.scheduler.set_timesteps(steps)
    for t in parts.scheduler.timesteps:
        x = torch.cat([latents, latents])
        without, with_prompt = parts.unet(x, t, encoder_hidden_states=context).sample.chunk(2)
        eps = guide(without, with_prompt, scale)
        latents = parts.scheduler.step(eps, t, latents).prev_sample
    return parts.vae.decode(latents / parts.vae.config.scaling_factor if scaled else latents).sample


def levels(my_pipe) -> Tensor:
    """The grey levels, 0 to 255, of the picture that the pipeline draws in two steps."""
    picture = my_pipe(tiny(), "a red house in the snow", 2, 3.0, torch.Generator().manual_seed(7))
    return (255 * (picture.detach() / 2 + 0.5).clamp(0, 1)).round()


rebuild = Exercise(
    answer=from_parts,
    mistakes={
        "the order of a pair is always: without the prompt, with the prompt": partial(
            from_parts, texts=lambda prompt: [prompt, ""]
        ),
        "you use only one of the two guesses; where is the scale?": partial(from_parts, guide=lambda without, guess, scale: guess),
        "guidance starts from the guess without the prompt": partial(
            from_parts, guide=lambda without, guess, scale: guess + scale * (guess - without)
        ),
        "divide the latents by vae.config.scaling_factor before decoding": partial(from_parts, scaled=False),
    },
    run=levels,
    tolerance=1,  # two batches of one may round differently from one batch of two
)
