"""Notebook 09, train one yourself: its small world, error measure, pictures and exercises. Curves are in lesson_09_curves.py."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ..image import to_pil, to_tensor
from ..schedule import add_noise, to_epsilon
from ..tiny.picture_book import Scene, Thing, draw
from .exercise import Exercise
from .figures import DPI, ORANGE, SLATE, WIDTH, sheet, show
from .lesson_09_curves import TIMES, alphas_cumprod, smooth, ticks

SIDE = 3 * 64  # stored pixels per side of a picture

BOOK = "Twelve pictures: a heart, a tree and a fish, each in red, yellow, green and blue, on a pale page."
FILM = (
    "Five rows of four pictures. First noise; then blots, few of them in the right colour; then a heart, a tree, a fish and a "
    "heart with ragged edges; in the last row they are clean, and each matches its caption."
)
ERRORS = (
    "Four curves over t. The fresh network is near 1 at all timesteps. The lazy answer falls from 2 to less than a hundredth. The "
    "trained network falls too, and far below it, except at the highest timesteps, where the curves meet or cross."
)
EPS_OR_V = (
    "Two rows of four pictures after the same number of steps. The network that predicts ε draws noise with a hint of colour; the "
    "one that predicts v draws soft things on a pale page."
)
ERRORS_OF_X0 = (
    "Two curves that rise with t. At low timesteps the network that predicts ε is a little lower; at high ones it rises "
    "steeply, and the one that predicts v stays low."
)


def small_page(kind: str, color: str, rng: random.Random) -> Tensor:
    """A corner of a page of the picture book with one small thing in it: (3, 64, 64) in [-1, 1]."""
    x, y = (0.25 + rng.uniform(-0.02, 0.02) for _ in "xy")
    thing = Thing(kind, color, x, y, rng.uniform(0.19, 0.215), rng.uniform(-0.08, 0.08))
    return to_tensor(draw(Scene((thing,))).crop((0, 0, 64, 64)))


@torch.no_grad()
def errors(network: nn.Module, x0: Tensor, context: Tensor, prediction_type: str = "epsilon") -> Tensor:
    """The mean square error of ε at each of TIMES, for latents x0 (B, 4, h, w) and their context, always with the same noise."""
    t = TIMES.repeat_interleave(len(x0))
    x0, context, alpha = x0.repeat(len(TIMES), 1, 1, 1), context.repeat(len(TIMES), 1, 1), alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = add_noise(x0, noise, alpha)
    eps = to_epsilon(network(x, t, context).sample, x, alpha, prediction_type)
    return (eps - noise).square().mean(dim=(1, 2, 3)).view(len(TIMES), -1).mean(dim=1)


def put(figure: Figure, picture: Tensor, left: int, top: int, title: str = ""):
    """Place a picture (3, 64, 64) in [-1, 1] on the page, a pixel as 3 × 3 stored pixels, in few colours to keep files small."""
    page_width, page_height = WIDTH * DPI, figure.get_figheight() * DPI
    ax = figure.add_axes((left / page_width, 1 - (top + SIDE) / page_height, SIDE / page_width, SIDE / page_height))
    ax.set_axis_off()
    ax.imshow(to_pil(picture[None])[0].quantize(12, dither=Image.Dither.NONE).convert("RGB"), interpolation="nearest")
    ax.set_title(title, loc="center", color=SLATE)


def show_sheet(rows: Mapping[str, Tensor], captions: Sequence[str], alt: str):
    """Rows of pictures (B, 3, 64, 64), each with its name on the left; every column is one caption."""
    head, label, step = 48, 236, SIDE + 58
    figure = sheet(head + len(rows) * (SIDE + 16))
    for row, (name, pictures) in enumerate(rows.items()):
        top = head + row * (SIDE + 16)
        figure.text(0, 1 - (top + SIDE / 2) / (figure.get_figheight() * DPI), name, va="center", color=SLATE)
        for column, (picture, caption) in enumerate(zip(pictures, captions)):
            put(figure, picture, label + column * step, top, "" if row else caption)
    show(figure, alt)


class Run(NamedTuple):
    """The record of a training run: the losses of its steps, and the errors and pictures of the averaged network."""

    losses: Sequence[float]
    errors: Tensor
    pictures: Tensor


def show_run(run: Run, healthy: Run, captions: Sequence[str], alt: str):
    """A run's loss and its averaged network's error by timestep, next to a healthy run's, and four pictures by that network."""
    text = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), SLATE)
    with matplotlib.rc_context({**text, "axes.facecolor": "none"}):
        figure = sheet(2.6 * DPI)
        left, right = (figure.add_axes((x, 0.19, 0.27, 0.7)) for x in (0.045, 0.38))
        for name, training, color, style in (("this one", run, ORANGE, "-"), ("healthy", healthy, SLATE, "--")):
            left.plot(smooth(training.losses), style, color=color, label=name)
            right.plot(TIMES, training.errors, style, color=color, marker="o", markersize=4)
        left.set(xlabel="step", title="the loss, mean of 20 steps")
        right.set(xlabel="timestep $t$", title="the average's error")
        ticks(left, 0.1, 0.2, 0.5, 1)
        ticks(right, 0.01, 0.1, 1)
        left.legend()
        for ax in (left, right):
            ax.grid(color=SLATE, alpha=0.25)
    for i, (picture, caption) in enumerate(zip(run.pictures, captions)):
        put(figure, picture, 1064 + i % 2 * (SIDE + 60), 48 + i // 2 * (SIDE + 60), caption)
    show(figure, alt)


# The exercises. Every function below has a fault: read on when you have named all three.

Train = Callable[[nn.Module, Callable[..., Tensor], int], Iterator[tuple[int, float, nn.Module]]]


def broken_runs(
    train: Train, fresh_unet: Callable[[], nn.Module], nothing: Tensor, healthy: Sequence[float]
) -> list[tuple[Sequence[float], nn.Module]]:
    """Three faulty training runs, as losses and averaged networks, each as long as the healthy run whose losses are given."""

    def run_a(unet, x0, t, noise, context):
        x = add_noise(x0, noise, alphas_cumprod[t].view(-1, 1, 1, 1))
        return (unet(x, t, nothing.expand_as(context)).sample - noise).square().mean()

    def run_c(unet, x0, t, noise, context):
        x = add_noise(x0, noise, 1 - alphas_cumprod[t].view(-1, 1, 1, 1))
        return (unet(x, t, context).sample - noise).square().mean()

    def followed(loss):
        steps = list(train(fresh_unet(), loss, len(healthy)))
        return [value for _, value, _ in steps], steps[-1][2]

    run_b = healthy, fresh_unet()  # its losses are the healthy losses
    return [followed(run_a), run_b, followed(run_c)]


NO_WORDS, STALE, SWAPPED = "every caption dropped", "average never updated", "roots swapped"
FEW_TIMES, WRONG_TARGET, TOO_FAST = "timesteps from 0 to 249 only", "x0 as the target", "learning rate too high"
suspects = [SWAPPED, TOO_FAST, NO_WORDS, WRONG_TARGET, STALE, FEW_TIMES]

fault_a = Exercise(
    answer=NO_WORDS,
    mistakes={
        "an average that is never updated draws noise; this one draws things, but not what the captions ask for": STALE,
        "then the error would match the healthy one at a single timestep only, and be larger on both sides of it": SWAPPED,
        "then the error would leave the healthy curve beyond t = 249": FEW_TIMES,
        "a network that predicts x0 where ε is expected gives a large error at every timestep": WRONG_TARGET,
        "then the loss would not follow the healthy one step by step": TOO_FAST,
    },
)

fault_b = Exercise(
    answer=STALE,
    mistakes={
        "without words the loss would be a little higher, and the pictures would show something": NO_WORDS,
        "then the loss would differ; it equals the healthy one to the last digit, so the weights are right": SWAPPED,
        "then the loss would be higher, as it is at low timesteps; it equals the healthy one to the last digit": FEW_TIMES,
        "then the loss would be that of another task; it equals the healthy one to the last digit": WRONG_TARGET,
        "the loss equals the healthy one to the last digit: the weights are right, but something else drew the pictures": TOO_FAST,
    },
)

# Why does run C draw anything? The network was told the wrong amount of noise at every t but one. It has learnt to ignore the
# timestep, because the noise level can be seen in the input.
fault_c = Exercise(
    answer=SWAPPED,
    mistakes={
        "but the colours are right, so the words arrive": NO_WORDS,
        "then it would draw noise": STALE,
        "then the error would be right below t = 250 and wrong above it; look where the two curves meet": FEW_TIMES,
        "then there would be no picture; look where the two curves meet: what is special about that t (notebook 02)?": WRONG_TARGET,
        "then the loss would be ragged or stay high; look where the two errors meet, and ask why there": TOO_FAST,
    },
)

RUN_A = (
    "The loss falls almost like the healthy one. The error over t is a little larger, most of all in the middle. The pictures show "
    "things, but often not the things or colours of their captions."
)
RUN_B = "The loss coincides with the healthy one. The error is about 1 at all timesteps. The pictures are coloured noise."
RUN_C = (
    "The loss falls, but stays above the healthy one. The error over t is a valley: about as large as the healthy one near t = "
    "360, and larger and larger on both sides. The pictures are soft things, three of four in the colours of their captions; "
    "the green fish is a brown and green heart."
)
