"""Notebook 09, train one yourself: its small world, its measure, its longer figures, and its exercises."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from .. import tiny
from ..image import to_pil, to_tensor
from ..schedule import add_noise, to_epsilon
from ..schedulers import DDIMScheduler
from ..tiny.picture_book import Scene, Thing, draw
from ..train.plot import curves
from ..train.unet import GAMMA
from .exercise import Exercise
from .figures import INK, ORANGE, PIXELS, WIDTH, page, show

alphas_cumprod = DDIMScheduler().alphas_cumprod
TIMES = torch.arange(0, 1000, 90)  # where errors are measured: 0, 90, … 990
QUARTERS = (0, 250, 500, 750)
DPI, SIDE = 2 * PIXELS, 3 * 64  # of figures as they are stored, and of pictures in them
SHIPPED_LOG = Path(tiny.__file__).with_name("log.jsonl")  # what `python -m minisd.train unet` wrote for the built-in model


def small_page(kind: str, color: str, rng: random.Random) -> Tensor:
    """A corner of a page of the picture book with one small thing in it: (3, 64, 64) in [-1, 1]."""
    x, y = (0.25 + rng.uniform(-0.02, 0.02) for _ in "xy")
    thing = Thing(kind, color, x, y, rng.uniform(0.19, 0.215), rng.uniform(-0.08, 0.08))
    return to_tensor(draw(Scene((thing,))).crop((0, 0, 64, 64)))


@torch.no_grad()
def errors(network: nn.Module, x0: Tensor, context: Tensor, prediction_type: str = "epsilon") -> Tensor:
    """The mean square error of ε at each of TIMES, for latents x0 (B, 4, h, w) and their context, always in the same noise."""
    t = TIMES.repeat_interleave(len(x0))
    x0, context, alpha = x0.repeat(len(TIMES), 1, 1, 1), context.repeat(len(TIMES), 1, 1), alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = add_noise(x0, noise, alpha)
    eps = to_epsilon(network(x, t, context).sample, x, alpha, prediction_type)
    return (eps - noise).square().mean(dim=(1, 2, 3)).view(len(TIMES), -1).mean(dim=1)


def quarters(measured: Mapping[int, Tensor]) -> dict[int, list[tuple[int, float]]]:
    """Errors at TIMES, by step, as four curves of points (step, mean error): one for each quarter of the timesteps."""
    return {
        low: [(step, float(error[(low <= TIMES) & (low + 250 > TIMES)].mean())) for step, error in measured.items()]
        for low in QUARTERS
    }


def plot_quarters(ax: Axes, lines: Mapping[int, Sequence[tuple[int, float]]]):
    """Four such curves, with their timesteps at their ends."""
    for low, points in lines.items():
        ax.plot(*zip(*points))
        ax.annotate(f"t = {low} to {low + 249}", points[-1], (5, 0), textcoords="offset points", va="center", size=8.5, color=INK)
    ax.set(xlabel="step", yscale="log")


def smooth(losses: Sequence[float], span: int = 20) -> Tensor:
    """The mean of every loss and of as many before it as `span` allows."""
    total = torch.tensor([0.0, *losses]).cumsum(0)
    first = (torch.arange(len(losses)) - span + 1).clamp(min=0)
    return (total[1:] - total[first]) / (torch.arange(len(losses)) + 1 - first)


def put(figure: Figure, picture: Tensor, left: int, top: int, title: str = ""):
    """A picture (3, 64, 64) in [-1, 1] at a place of the page: a pixel is 3 × 3 of it; in few colours, as files must be small."""
    page_width, page_height = WIDTH * DPI, figure.get_figheight() * DPI
    ax = figure.add_axes((left / page_width, 1 - (top + SIDE) / page_height, SIDE / page_width, SIDE / page_height))
    ax.set_axis_off()
    ax.imshow(to_pil(picture[None])[0].quantize(12, dither=Image.Dither.NONE).convert("RGB"), interpolation="nearest")
    ax.set_title(title, loc="center")


def show_sheet(rows: Mapping[str, Tensor], captions: Sequence[str], alt: str):
    """Rows of pictures (B, 3, 64, 64), each with its name on the left; every column is one caption."""
    head, label, step = 48, 236, SIDE + 58
    figure = Figure(figsize=(WIDTH, (head + len(rows) * (SIDE + 16)) / DPI))
    for row, (name, pictures) in enumerate(rows.items()):
        top = head + row * (SIDE + 16)
        figure.text(0, 1 - (top + SIDE / 2) / (figure.get_figheight() * DPI), name, va="center")
        for column, (picture, caption) in enumerate(zip(pictures, captions)):
            put(figure, picture, label + column * step, top, "" if row else caption)
    show(figure, alt)


def ticks(ax: Axes, *values: float):
    """A logarithmic axis y with few and plain numbers."""
    ax.set_yscale("log")
    ax.set_yticks(values, [f"{value:g}" for value in values])
    ax.yaxis.set_minor_formatter("")


def show_losses(losses: Sequence[float]):
    """The loss of one batch that is learnt by heart, as a logarithm."""
    figure, ax = page(height=1.8)
    ax.plot(range(1, len(losses) + 1), losses)
    ax.set(yscale="log", xlabel="step", title="the loss of one batch of 8, always the same")
    show(
        figure,
        f"The loss falls from about 1 as if along a ruler; it is near a ten-thousandth at step {len(losses)}, and still falling.",
    )


def show_progress(losses: Sequence[float], measured: Mapping[int, Tensor]):
    """Left the loss of every step, and its mean; right the error in four parts of the timesteps, at some steps."""
    figure, (left, right) = page(1, 2, height=2.7)
    left.plot(range(1, len(losses) + 1), losses, "-", color="#b9bdc2", linewidth=0.7, antialiased=False, label="of the step")
    left.plot(range(1, len(losses) + 1), smooth(losses), color=INK, label="mean of 20 steps")
    left.set(xlabel="step", title="the loss")
    ticks(left, 0.05, 0.1, 0.2, 0.5, 1)
    left.legend(loc="upper right")
    plot_quarters(right, quarters(measured))
    right.set_title("the error on fresh pictures, by timestep")
    show(
        figure,
        "Left, the loss over the steps: a ragged line that falls quickly at first and then slowly. Right, the error in four parts "
        "of the timesteps, one below the other, the high timesteps lowest: the upper curve falls least, and the lower a curve the "
        "longer it goes on falling.",
    )


def show_by_timestep(lines: Mapping[str, Tensor], title: str, alt: str):
    """Several errors at TIMES, as a logarithm."""
    figure, ax = page(height=2.8)
    for (name, values), marker in zip(lines.items(), "os^D"):
        ax.plot(TIMES, values, marker=marker, markersize=4, label=name)
    ax.set(yscale="log", xlabel="timestep $t$", title=title)
    ax.legend(fontsize=9)
    show(figure, alt)


def show_average(raw: Mapping[int, Tensor], average: Mapping[int, Tensor]):
    """The error, its mean over all timesteps, of the weights themselves and of their average."""
    figure, ax = page(height=2.4)
    for name, measured, marker in (("the weights of the step", raw, "s"), ("their moving average", average, "o")):
        ax.plot(list(measured), [float(error.mean()) for error in measured.values()], marker=marker, markersize=4, label=name)
    ax.set(xlabel="step", title="the error on fresh pictures, mean over all timesteps")
    ticks(ax, 0.1, 0.2, 0.4, 0.8)
    ax.legend()
    show(
        figure,
        "Two falling curves. That of the weights is ahead in the first steps and goes up and down; that of their average starts "
        "later, is smooth, and ends below.",
    )


def show_weights():
    """What an error of x0 counts in four losses, over t."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    figure, ax = page(height=2.4)
    lines = {r"$\epsilon$: SNR": snr, "$v$: SNR + 1": snr + 1, "$x_0$: 1": torch.ones(1000)}
    for name, weight in {**lines, f"min-SNR: no more than {GAMMA:g}": snr.clamp(max=GAMMA)}.items():
        ax.plot(weight, label=name)
    ax.set(yscale="log", xlabel="timestep $t$", title="what an error of 1 in $x_0$ counts in the loss of …")
    ax.legend()
    show(
        figure,
        "Four weights over t. That of ε falls from 1000 to a two-hundredth; that of v falls with it and then stays at 1; that of "
        "x0 is 1 throughout; min-SNR is that of ε, cut off at 5 where t is low.",
    )


def show_logs(measured: Mapping[int, Tensor], shipped: Path = SHIPPED_LOG):
    """The error by timestep over the steps of this notebook's training and, if the package has its log, of the built-in model's."""
    logs = {"this notebook": quarters(measured)}
    if shipped.exists():
        curve = curves(shipped)
        logs["the built-in model"] = {low: curve[f"mse_{low}"] for low in QUARTERS}
    figure, axes = page(1, len(logs), height=2.4, squeeze=False, sharey=True)
    for ax, (name, lines) in zip(axes[0], logs.items()):
        plot_quarters(ax, lines)
        ax.set_title(f"{name}: error by timestep")
    beside = " Beside them those of the built-in model, in the same order, over very many more steps." if len(logs) == 2 else ""
    show(figure, f"Four falling curves, an error for each quarter of the timesteps, that of the highest timesteps lowest.{beside}")


class Run(NamedTuple):
    """What a training leaves to look at: the losses of its steps, and the errors and pictures of the averaged network."""

    losses: Sequence[float]
    errors: Tensor
    pictures: Tensor


def show_run(run: Run, healthy: Run, captions: Sequence[str], alt: str):
    """A training's loss and its average's error by timestep, each beside a healthy training's, and four pictures by the average."""
    figure = Figure(figsize=(WIDTH, 2.6))
    left, right = (figure.add_axes((x, 0.19, 0.27, 0.7)) for x in (0.045, 0.38))
    for name, training, color, style in (("this one", run, ORANGE, "-"), ("healthy", healthy, INK, "--")):
        left.plot(smooth(training.losses), style, color=color, label=name)
        right.plot(TIMES, training.errors, style, color=color, marker="o", markersize=4)
    left.set(xlabel="step", title="the loss, mean of 20 steps")
    right.set(xlabel="timestep $t$", title="the average's error")
    ticks(left, 0.1, 0.2, 0.5, 1)
    ticks(right, 0.01, 0.1, 1)
    left.legend()
    for i, (picture, caption) in enumerate(zip(run.pictures, captions)):
        put(figure, picture, 1064 + i % 2 * (SIDE + 60), 48 + i // 2 * (SIDE + 60), caption)
    show(figure, alt)


# The exercises. What follows has a fault in every function: read it when you have named all three.

Train = Callable[[nn.Module, Callable[..., Tensor], int], Iterator[tuple[int, float, nn.Module]]]


def broken_runs(
    train: Train, fresh_unet: Callable[[], nn.Module], nothing: Tensor, healthy: Sequence[float]
) -> list[tuple[Sequence[float], nn.Module]]:
    """Three trainings that went wrong, as losses and averaged network, all as long as the healthy one whose losses are given."""

    def run_a(unet, x0, t, noise, context):
        x = add_noise(x0, noise, alphas_cumprod[t].view(-1, 1, 1, 1))
        return (unet(x, t, nothing.expand_as(context)).sample - noise).square().mean()

    def run_c(unet, x0, t, noise, context):
        x = add_noise(x0, noise, 1 - alphas_cumprod[t].view(-1, 1, 1, 1))
        return (unet(x, t, context).sample - noise).square().mean()

    def followed(loss):
        steps = list(train(fresh_unet(), loss, len(healthy)))
        return [value for _, value, _ in steps], steps[-1][2]

    run_b = healthy, fresh_unet()  # its losses are those of the healthy one
    return [followed(run_a), run_b, followed(run_c)]


NO_WORDS, STALE, SWAPPED = "every caption dropped", "average never updated", "roots swapped"
FEW_TIMES, WRONG_TARGET, TOO_FAST = "timesteps from 0 to 249 only", "x0 as the target", "learning rate too high"
suspects = [SWAPPED, TOO_FAST, NO_WORDS, WRONG_TARGET, STALE, FEW_TIMES]

fault_a = Exercise(
    answer=NO_WORDS,
    mistakes={
        "an average that is never updated draws noise; this one draws things, only not those that were asked for": STALE,
        "then the error would be that of the healthy one at a single timestep, and larger on both sides of it": SWAPPED,
        "then the error would leave the healthy curve beyond t = 249": FEW_TIMES,
        "who takes an x0 for ε gets its negative, in much noise": WRONG_TARGET,
        "then the loss would not fall beside the healthy one, step by step": TOO_FAST,
    },
)

fault_b = Exercise(
    answer=STALE,
    mistakes={
        "without words the loss would be a little higher, and there would be something to see": NO_WORDS,
        "the loss would be another one; this is the healthy one to the last digit, so the weights are right": SWAPPED,
        "the loss would be higher, as it is at low timesteps; this is the healthy one to the last digit": FEW_TIMES,
        "then the loss would be that of another task; this is the healthy one to the last digit": WRONG_TARGET,
        "the loss is the healthy one to the last digit: so the weights are right, and what was used is not the weights": TOO_FAST,
    },
)

# It draws all the same. The network was told the wrong amount of noise at every t but one, and has learnt not to believe
# what it is told: how noisy its input is can be seen.
fault_c = Exercise(
    answer=SWAPPED,
    mistakes={
        "but the colours are those that were asked for": NO_WORDS,
        "then it would draw noise": STALE,
        "then the error would be right below t = 250 and wrong beyond; look where the two curves meet": FEW_TIMES,
        "then there would be no picture; look where the two curves meet: what is special about that t (notebook 02)?": WRONG_TARGET,
        "then the loss would be ragged or stay high; look where the two errors meet, and why just there": TOO_FAST,
    },
)

RUN_A = (
    "The loss falls almost as the healthy one does. The error over t is a little larger, most so in the middle. The pictures "
    "are of things, but often not of those that stand above them, and in other colours."
)
RUN_B = "The loss lies on the healthy one. The error is about 1 at all timesteps. The pictures are coloured noise."
RUN_C = (
    "The loss falls, but stays above the healthy one. The error over t is a valley: about as large as the healthy one near "
    "t = 360, and larger and larger to both sides. The pictures are soft things, three of four in the colours "
    "that stand above them; the green fish is a brown and green heart."
)
