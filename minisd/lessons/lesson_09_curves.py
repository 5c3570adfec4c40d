"""Notebook 09: the figures of a training run, from losses and errors by timestep."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

from .. import tiny
from ..schedulers import DDIMScheduler
from ..train.plot import curves
from ..train.unet import GAMMA
from .figures import INK, page, show

alphas_cumprod = DDIMScheduler().alphas_cumprod
TIMES = torch.arange(0, 1000, 90)  # where errors are measured: 0, 90, … 990
QUARTERS = (0, 250, 500, 750)
SHIPPED_LOG = Path(tiny.__file__).with_name("log.jsonl")  # written by `python -m minisd.train unet` for the built-in model


def quarters(measured: Mapping[int, Tensor]) -> dict[int, list[tuple[int, float]]]:
    """Errors at TIMES, given by step, as four curves of points (step, mean error), one for each quarter of the timesteps."""
    return {
        low: [(step, float(error[(low <= TIMES) & (low + 250 > TIMES)].mean())) for step, error in measured.items()]
        for low in QUARTERS
    }


def plot_quarters(ax: Axes, lines: Mapping[int, Sequence[tuple[int, float]]]):
    """Draw the curves of `quarters`, each labelled at its end."""
    for low, points in lines.items():
        ax.plot(*zip(*points))
        ax.annotate(f"t = {low} to {low + 249}", points[-1], (5, 0), textcoords="offset points", va="center", size=8.5, color=INK)
    ax.set(xlabel="step", yscale="log")


def smooth(losses: Sequence[float], span: int = 20) -> Tensor:
    """A moving average: the mean of every loss and the `span` - 1 losses before it."""
    total = torch.tensor([0.0, *losses]).cumsum(0)
    first = (torch.arange(len(losses)) - span + 1).clamp(min=0)
    return (total[1:] - total[first]) / (torch.arange(len(losses)) + 1 - first)


def ticks(ax: Axes, *values: float):
    """A logarithmic y axis with a few plain numbers."""
    ax.set_yscale("log")
    ax.set_yticks(values, [f"{value:g}" for value in values])
    ax.yaxis.set_minor_formatter("")


def show_losses(losses: Sequence[float]):
    """The loss of a network that memorises one batch, on a logarithmic axis."""
    figure, ax = page(height=1.8)
    ax.plot(range(1, len(losses) + 1), losses)
    ax.set(yscale="log", xlabel="step", title="the loss of one fixed batch of 8")
    show(
        figure,
        f"The loss falls from about 1 along a straight line to about a ten-thousandth at step {len(losses)}, and is still falling.",
    )


def show_progress(losses: Sequence[float], measured: Mapping[int, Tensor]):
    """Left, the loss of every step and its moving average; right, the error in four ranges of timesteps."""
    figure, (left, right) = page(1, 2, height=2.7)
    left.plot(range(1, len(losses) + 1), losses, "-", color="#b9bdc2", linewidth=0.7, antialiased=False, label="single steps")
    left.plot(range(1, len(losses) + 1), smooth(losses), color=INK, label="mean of 20 steps")
    left.set(xlabel="step", title="the loss")
    ticks(left, 0.05, 0.1, 0.2, 0.5, 1)
    left.legend(loc="upper right")
    plot_quarters(right, quarters(measured))
    right.set_title("the error on fresh pictures, by timestep")
    show(
        figure,
        "Left, the loss over the steps: a ragged line that falls quickly at first and then slowly. Right, the error in four "
        "ranges of timesteps, the highest timesteps lowest: the upper curve falls least, and the lower a curve is, the longer "
        "it keeps falling.",
    )


def show_by_timestep(lines: Mapping[str, Tensor], title: str, alt: str):
    """Several errors at TIMES on a logarithmic axis."""
    figure, ax = page(height=2.8)
    for (name, values), marker in zip(lines.items(), "os^D"):
        ax.plot(TIMES, values, marker=marker, markersize=4, label=name)
    ax.set(yscale="log", xlabel="timestep $t$", title=title)
    ax.legend(fontsize=9)
    show(figure, alt)


def show_average(raw: Mapping[int, Tensor], average: Mapping[int, Tensor]):
    """The error, averaged over all timesteps, of the weights and of their moving average."""
    figure, ax = page(height=2.4)
    for name, measured, marker in (("the weights", raw, "s"), ("their moving average", average, "o")):
        ax.plot(list(measured), [float(error.mean()) for error in measured.values()], marker=marker, markersize=4, label=name)
    ax.set(xlabel="step", title="the error on fresh pictures, mean over all timesteps")
    ticks(ax, 0.1, 0.2, 0.4, 0.8)
    ax.legend()
    show(
        figure,
        "Two falling curves. The weights are ahead in the first steps and fluctuate; their average starts later, is smooth, and "
        "ends lower.",
    )


def show_weights():
    """The weight of an error of x0 in four losses, over t."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    figure, ax = page(height=2.4)
    lines = {r"$\epsilon$: SNR": snr, "$v$: SNR + 1": snr + 1, "$x_0$: 1": torch.ones(1000)}
    for name, weight in {**lines, f"min-SNR: at most {GAMMA:g}": snr.clamp(max=GAMMA)}.items():
        ax.plot(weight, label=name)
    ax.set(yscale="log", xlabel="timestep $t$", title="weight of an error in $x_0$ in the loss of …")
    ax.legend()
    show(
        figure,
        "Four weights over t. The weight for ε falls from 1000 to a two-hundredth; that for v falls with it and then stays at "
        "1; that for x0 is 1 throughout; min-SNR follows ε but is capped at 5 at low t.",
    )


def show_logs(measured: Mapping[int, Tensor], shipped: Path = SHIPPED_LOG):
    """The error by timestep over the steps of this notebook's training run and, if its log is there, of the built-in model's."""
    logs = {"this notebook": quarters(measured)}
    if shipped.exists():
        curve = curves(shipped)
        logs["the built-in model"] = {low: curve[f"mse_{low}"] for low in QUARTERS}
    figure, axes = page(1, len(logs), height=2.4, squeeze=False, sharey=True)
    for ax, (name, lines) in zip(axes[0], logs.items()):
        plot_quarters(ax, lines)
        ax.set_title(f"{name}: error by timestep")
    beside = " Next to them the curves of the built-in model, in the same order, over far more steps." if len(logs) == 2 else ""
    show(figure, f"Four falling curves, one error for each quarter of the timesteps, the highest timesteps lowest.{beside}")
