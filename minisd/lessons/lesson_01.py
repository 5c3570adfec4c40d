"""Notebook 01, a picture in sixty seconds: its longer figures, and its exercises."""

import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from types import SimpleNamespace

import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ..image import to_pil
from ..pipeline import StableDiffusionPipeline, guide
from .diagram import arrow, box
from .exercise import Exercise
from .figures import BLUE, INK, PALE, PIXELS, WIDTH, show

DPI = 2 * PIXELS  # of figures as they are stored


def look(ax: Axes, image: Tensor):
    """A picture (3, H, W) in [-1, 1]; or latents (4, h, w), their channels side by side, grey where they are 0."""
    ax.set_axis_off()
    if len(image) == 3:
        ax.imshow(to_pil(image[None])[0], interpolation="nearest")
    else:
        channels = torch.cat([image[:2].flatten(0, 1), image[2:].flatten(0, 1)], dim=1)
        ax.imshow(channels, cmap="gray", vmin=-3, vmax=3, interpolation="nearest")


def show_sizes(images: Mapping[str, Tensor]):
    """Pictures (3, H, W) of several sizes, each below its name, on one ground and at one scale."""
    scale, gap, head = 2, 36, 56  # a pixel becomes 2 × 2; the others are pixels of the page
    width, height = WIDTH * DPI, head + scale * max(image.shape[1] for image in images.values())
    figure = Figure(figsize=(WIDTH, height / DPI))
    left = 0
    for name, image in images.items():
        tall, wide = scale * image.shape[1], scale * image.shape[2]
        ax = figure.add_axes((left / width, 0, wide / width, tall / height))
        look(ax, image)
        ax.set_title(name)
        left += wide + gap
    show(
        figure,
        f"One prompt on pages of {len(images)} sizes. On the page of the usual size there is one house in the snow; the "
        "wide page has two, the tall one a single house under much sky.",
    )


def show_film(titles: Sequence[str], latents: Tensor, seen: Tensor, guesses: Tensor):
    """Three strips of film: latents (N, 4, 16, 16), what the VAE makes of them, and what it makes of the guesses of x0."""
    side, gap, label, head = 128, 24, 344, 52
    width, height = round(WIDTH * DPI), head + 3 * side + 2 * gap
    figure = Figure(figsize=(WIDTH, height / DPI))
    strips = {"latents $x_t$,\nfour channels": latents, "$x_t$ through\nthe VAE": seen, "guess of $x_0$\nthrough the VAE": guesses}
    for row, (name, images) in enumerate(strips.items()):
        bottom = height - head - side - row * (side + gap)
        figure.text(0, (bottom + side / 2) / height, name, va="center")
        for column, image in enumerate(images):
            left = label + column * (side + gap)
            ax = figure.add_axes((left / width, bottom / height, side / width, side / height))
            look(ax, image)
            if row == 0:
                ax.set_title(titles[column], size=9)
    show(
        figure,
        "Three strips of pictures, with noise on the left and the end on the right. The latents are grey grain, in which shapes "
        "appear late. Through the VAE they are coloured rubble that gives way to an astronaut on a horse. In the guesses both are "
        "there much earlier, blurred at first.",
    )


def show_way(prompt: str, ids: Tensor, context: Tensor, noise: Tensor, latents: Tensor, picture: Tensor, calls: int):
    """The diagram of all notebooks with the tensors themselves in it, each above its shape; `calls` is how often the loop ran."""
    height, top, bottom = 3.5, 2.98, 0.95
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    ax.set_axis_off()

    def place(x: float, y: float, size: tuple[float, float], name: str, tensor: Tensor) -> Axes:
        """Axes with their middle at (x, y) for a tensor, and below them its name and shape."""
        wide, tall = size
        ax.text(x, y - tall / 2 - 0.06, f"{name}\n{'×'.join(map(str, tensor.shape))}", ha="center", va="top", size=8.5)
        return figure.add_axes(((x - wide / 2) / WIDTH, (y - tall / 2) / height, wide / WIDTH, tall / height))

    ax.text(0.62, top, textwrap.fill(prompt, 14), ha="center", va="center")
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
    ax.text(2.35, bottom, f"{calls} times", ha="center", va="center", size=8.5)
    look(place(4.02, bottom, (5 / 6, 5 / 6), "latents", latents), latents[0])
    box(ax, 5.48, bottom, "VAE", "latents to pixels", False)
    look(place(7.3, bottom + 0.1, (4 / 3, 4 / 3), "picture", picture), picture[0])

    for left, right in ((1.25, 1.45), (2.75, 3.02), (4.02, 4.29), (5.59, 5.86)):
        arrow(ax, (left, top), (right, top))
    for left, right in ((1.08, 1.65), (3.05, 3.56), (4.48, 4.83), (6.13, 6.6)):
        arrow(ax, (left, bottom), (right, bottom))
    arrow(ax, (2.0, bottom - 0.15), (2.0, bottom + 0.15))
    arrow(ax, (2.7, bottom + 0.15), (2.7, bottom - 0.15))
    ax.plot((6.2, 6.2, 2.35), (2.16, 1.95, 1.95), color=INK, linewidth=1.2, linestyle="-")
    arrow(ax, (2.35, 1.95), (2.35, bottom + 0.69))
    show(
        figure,
        "The way from the prompt to the picture, with every tensor drawn. The ids are a grid of 77 places, of which the first few "
        "are words and the rest padding. The context is two sheets of stripes, one line for each place. Below, grey noise goes "
        f"into the loop of UNet and scheduler, which runs {calls} times, and comes out as latents in which the shapes of the "
        "picture can be seen; the VAE turns them into the picture.",
    )


latents_shape = Exercise(
    answer=lambda height, width: (4, height // 8, width // 8),
    mistakes={
        "rows first: height, then width, as in every tensor of a picture": lambda height, width: (4, width // 8, height // 8),
        "3 are the colours of a picture; how many channels have the latents?": lambda height, width: (3, height // 8, width // 8),
        "8 pixels a side become one latent": lambda height, width: (4, height, width),
        "right for 128 × 128; other sizes come, too": lambda height, width: (4, 16, 16),
        "of one picture, without a batch in front": lambda height, width: (1, 4, height // 8, width // 8),
    },
    run=lambda shape_of: torch.tensor([shape_of(128, 128), shape_of(192, 128), shape_of(96, 256)]),
)


@cache
def tiny() -> SimpleNamespace:
    """The parts of the built-in model, and no pipeline that could be called in their place."""
    return SimpleNamespace(**StableDiffusionPipeline.from_pretrained("tiny").components)


def from_parts(parts, prompt, steps, scale, rng, texts=lambda prompt: ["", prompt], guide=guide, scaled=True):
    """What the pipeline draws, drawn by its parts; with three places to go wrong."""
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
    """The levels, 0 to 255, of what it draws in two steps."""
    picture = my_pipe(tiny(), "a red house in the snow", 2, 3.0, torch.Generator().manual_seed(7))
    return (255 * (picture.detach() / 2 + 0.5).clamp(0, 1)).round()


rebuild = Exercise(
    answer=from_parts,
    mistakes={
        "a pair is always: first without the prompt, then with it": partial(from_parts, texts=lambda prompt: [prompt, ""]),
        "one guess of the two is never used; where is the scale?": partial(from_parts, guide=lambda without, guess, scale: guess),
        "guidance starts from the guess without the prompt": partial(
            from_parts, guide=lambda without, guess, scale: guess + scale * (guess - without)
        ),
        "the VAE takes latents divided by vae.config.scaling_factor": partial(from_parts, scaled=False),
    },
    run=levels,
    tolerance=1,  # a batch of two may add up in another order than two batches of one
)
