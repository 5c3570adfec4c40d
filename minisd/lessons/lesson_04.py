"""Notebook 04, many roads from noise to data: its figures and exercises."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .. import schedule
from . import exact
from .exercise import Exercise, stack
from .figures import BLUE, GREY, INK, ORANGE, PALE, TEAL, page, show

EpsOf = Callable[[Tensor, int], Tensor]  # the noise in an x at a timestep
Step = Callable[[EpsOf, Tensor, int, int], Tensor]  # eps_of, x, t, t_next → the x at t_next

alpha = torch.cat([torch.cumprod(1 - schedule.betas("scaled_linear", 0.00085, 0.012, 1000).double(), dim=0), torch.ones(1)])
BALLS = (
    "Three rows of five pictures of a red ball on the beach, for 2, 5, 10, 20 and 50 calls. With DDIM and LMS the ball is there "
    "with 2 calls, a little flat, and from 5 calls on hardly anything changes. With PLMS the picture is spoilt up to 10 calls; "
    "from 20 on it is like the others."
)
LINES = {"DDIM": (ORANGE, "--", "o"), "Heun": (INK, "-.", "D"), "PLMS": (TEAL, ":", "s"), "LMS": (BLUE, "-", "^")}


def show_paths(sigma: Sequence[float], numbers: Tensor, walks: Sequence[tuple[Sequence[int], Tensor]], fine: tuple):
    """Walks (T, B, 1) of x/√ᾱ over σ, each with its timesteps; `fine` is such a walk in tiny steps."""
    figure, axes = page(1, len(walks), height=3, sharey=True)
    for ax, (times, way) in zip(axes, walks):
        ax.plot([sigma[t] for t in fine[0]], fine[1][..., 0], "-", color=GREY, linewidth=1.2)
        ax.plot([sigma[t] for t in times], way[..., 0], "--o", color=ORANGE, linewidth=1.2, markersize=3.5)
        ax.plot([0] * len(numbers), numbers, "o", color=BLUE, markersize=8, clip_on=False, zorder=3)
        ax.set(
            xlabel=r"$\sigma$: noise on the left, data on the right",
            title=f"{len(times) - 1} steps (dashed), the exact path (grey)",
        )
        ax.invert_xaxis()
    axes[0].set_ylabel(r"$\tilde x$")
    show(
        figure,
        "Nine paths lead from the noise at the left edge to three data points on the right. They are nearly straight at first and "
        "bend towards their data point at the end. Four straight steps of DDIM follow most of them, but leave the paths that bend "
        "late and miss their points; ten steps reach them.",
    )


def show_forecast(ax: Axes, sigma: Sequence[float], eps: Mapping[int, float], t: int):
    """ε along a path over σ, the last four values that a sampler with ten calls knows at t, and three extrapolations."""
    past, step = np.array([t, t + 100, t + 200, t + 300]), np.arange(t, t - 101, -1)
    seen, ahead = np.array([sigma[s] for s in past]), np.array([sigma[s] for s in step])
    values = np.array([eps[s] for s in past])
    around = range(t + 300, max(t - 170, 0), -1)
    ax.axvspan(ahead[0], ahead[-1], color=PALE)
    ax.plot([sigma[s] for s in around], [eps[s] for s in around], "-", color=GREY, linewidth=4, alpha=0.5, label="exact")
    ax.plot(ahead, np.full(len(step), values[0]), "--", color=ORANGE, label="DDIM: constant")
    ax.plot(ahead, np.polyval(np.polyfit(past - t, values, 3), step - t), ":", color=TEAL, zorder=3, label="PLMS: a cubic in $t$")
    ax.plot(ahead, np.polyval(np.polyfit(seen, values, 3), ahead), "-", color=BLUE, label=r"LMS: a cubic in $\sigma$")
    ax.plot(seen, values, "o", color=INK, label="known values")
    ax.set(xlabel=r"$\sigma$", title=f"the step from t = {t} to {t - 100} (shaded)")
    ax.invert_xaxis()


def show_forecasts(sigma: Sequence[float], eps: Mapping[int, float], times: Sequence[int]):
    """How the samplers extrapolate ε (given for every t) in the steps that start at `times`."""
    figure, axes = page(1, len(times), height=3)
    for ax, t in zip(axes, times):
        show_forecast(ax, sigma, eps, t)
    axes[0].set_ylabel(r"$\epsilon$, first coordinate")
    axes[0].legend(fontsize=8.5)
    show(
        figure,
        f"The noise along one path as a curve over sigma, with four known values on it. In the step from t = {times[0]} the "
        f"curve rises: both cubics follow it, and DDIM's constant stays below. In the step from t = {times[1]} the curve has "
        "become flat: the constant is right, and both cubics turn away from it.",
    )


def slope(errors: Mapping[int, float], least: int = 24) -> float:
    """The order p in error ∝ calls^−p, by least squares in logarithms over the entries with at least `least` calls."""
    calls, values = zip(*[(n, error) for n, error in errors.items() if n >= least])
    return -float(np.polyfit(np.log(calls), np.log(values), 1)[0])


def show_race(errors: Mapping[str, Mapping[int, float]]):
    """The error of several samplers over the number of calls on logarithmic axes, with the slopes in the legend."""
    figure, ax = page(height=3.6)
    for name, by_calls in errors.items():
        color, line, marker = LINES[name]
        label = f"{name}: slope {slope(by_calls):.1f}"
        ax.plot(*zip(*by_calls.items()), marker, color=color, linestyle=line, markersize=4, label=label)
    log_axes(ax, "calls of the denoiser", "distance from the exact end", (3, 5, 10, 20, 50, 100))
    ax.legend()
    show(
        figure,
        "Error over calls on logarithmic axes. DDIM falls along a line of slope 1; Heun falls with slope 2 and is far below it "
        "at 50 calls. PLMS has slope 2 from 24 calls on and is lowest up to about 30 calls; LMS falls fastest and is lowest "
        "beyond.",
    )


def log_axes(ax: Axes, xlabel: str, ylabel: str, ticks: Sequence[int]):
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    ax.set_xticks([], minor=True)


def show_on_the_way(times: Sequence[int], errors: Mapping[str, Tensor], stop: int):
    """The error of several samplers at every timestep; a line marks where the race ended."""
    figure, ax = page(height=3)
    for name, by_time in errors.items():
        color, line, marker = LINES[name]
        ax.plot(times[1:], by_time[1:], marker, color=color, linestyle=line, markersize=4, label=name)
    ax.axvline(stop, color=GREY, linewidth=1, linestyle="-")
    ax.annotate("the race ended here", (stop, 1e-4), (6, 0), textcoords="offset points", color=GREY)
    ax.set(yscale="log", xlabel="timestep $t$: noise on the left, data on the right", ylabel="distance from the exact path")
    ax.invert_xaxis()
    ax.legend()
    show(
        figure,
        "Error over time for walks of 20 steps. At t = 279 DDIM is worst by a factor of ten and more. Then PLMS and LMS rise "
        "steeply, DDIM falls in the last step, and at the end DDIM is best and LMS worst.",
    )


def show_real_errors(errors: Mapping[str, Mapping[str, Mapping[int, float]]]):
    """The error of several samplers over the number of calls on logarithmic axes, one panel per title."""
    figure, axes = page(1, len(errors), height=3, sharex=True, sharey=True)
    for ax, (title, by_sampler) in zip(axes, errors.items()):
        for name, by_calls in by_sampler.items():
            color, line, marker = LINES[name]
            ax.plot(*zip(*by_calls.items()), marker, color=color, linestyle=line, markersize=4, label=name)
        log_axes(ax, "calls of the UNet", "", (2, 5, 10, 20, 50))
        ax.set_title(title)
    axes[0].set_ylabel("error of the latents")
    axes[0].legend()
    show(
        figure,
        "Error of the latents over calls of the UNet on logarithmic axes, for DDIM, PLMS and LMS, in two panels: at t = 199, "
        "after four fifths of the timesteps, and at the end. At t = 199 PLMS and LMS fall more steeply than DDIM, PLMS from 10 "
        "calls on. At the end PLMS is far above the other two up to 10 calls; from 20 calls on all three are low.",
    )


POINTS = torch.tensor([[-1.5, 0.5], [-0.3, 1.4], [1.4, 0.7], [0.8, -1.2], [-0.9, -1.1]], dtype=torch.float64)
START = torch.randn(200, 2, generator=torch.Generator().manual_seed(5)).double()
X, EPS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(6))
LEVELS = torch.tensor([[0.005, 0.05], [0.3, 0.6]])  # ᾱ before and after


def heun(eps_of: EpsOf, x: Tensor, t: int, t_next: int) -> Tensor:
    """A step with the mean of the ε at both its ends; a trial step with the first ε gives the second (Karras et al. 2022, §3)."""
    eps = eps_of(x, t)
    there = schedule.transfer(x, eps, alpha[t], alpha[t_next])
    return schedule.transfer(x, (eps + eps_of(there, t_next)) / 2, alpha[t], alpha[t_next])


def mixed(first: float, second: float) -> Step:
    """Heun's step with other weights for its two ε."""

    def step(eps_of: EpsOf, x: Tensor, t: int, t_next: int) -> Tensor:
        eps = eps_of(x, t)
        there = schedule.transfer(x, eps, alpha[t], alpha[t_next])
        return schedule.transfer(x, first * eps + second * eps_of(there, t_next), alpha[t], alpha[t_next])

    return step


def end_of_walk(step: Step, steps: int) -> Tensor:
    """Where points of noise are at t = 279, in the world of the five points."""
    x, times = START, range(999, 278, -720 // steps)
    for t, t_next in zip(times, times[1:]):
        x = step(lambda x, t: exact.epsilon(x, POINTS, alpha[t]), x, t, t_next)
    return x


@cache
def truth() -> Tensor:
    return end_of_walk(heun, 720)


def measured_slope(step: Step) -> float:
    """The order of a sampler without memory, from its errors with 30 and with 60 steps."""
    return slope({n: (end_of_walk(step, n) - truth()).norm(dim=1).mean().item() for n in (30, 60)})


def order_and_calls(step: Step) -> Tensor:
    """The slope, rounded to 2 if it is close, and the number of ε calls per step, at least 2."""
    slope, calls = measured_slope(step), []
    step(lambda x, t: calls.append(t) or exact.epsilon(x, POINTS, alpha[t]), START, 639, 279)
    return torch.tensor([2.0 if abs(slope - 2) <= 0.2 else slope, max(2, len(calls))])


def four_calls(eps_of: EpsOf, x: Tensor, t: int, t_next: int) -> Tensor:
    """Two of Heun's steps in one."""
    return heun(eps_of, heun(eps_of, x, t, (t + t_next) // 2), (t + t_next) // 2, t_next)


ddim_step = Exercise(
    answer=schedule.transfer,
    mistakes={
        "that is x0; now go back to the next noise level": lambda x, eps, alpha, alpha_next: schedule.to_x0(x, eps, alpha),
        "add the noise of the next level: √(1−ᾱ') ε": lambda x, eps, alpha, alpha_next: (
            alpha_next**0.5 * schedule.to_x0(x, eps, alpha) + (1 - alpha) ** 0.5 * eps
        ),
        "on the way back x0 is scaled down again, to √ᾱ' x0": lambda x, eps, alpha, alpha_next: (
            schedule.to_x0(x, eps, alpha) + (1 - alpha_next) ** 0.5 * eps
        ),
        "the factors are square roots of ᾱ and 1 − ᾱ": lambda x, eps, alpha, alpha_next: (
            alpha_next * (x - (1 - alpha) * eps) / alpha + (1 - alpha_next) * eps
        ),
        "the two levels are swapped": lambda x, eps, alpha, alpha_next: schedule.transfer(x, eps, alpha_next, alpha),
    },
    run=lambda step: stack(step(X.clone(), EPS.clone(), *levels) for levels in LEVELS),
)

second_order = Exercise(
    answer=heun,
    mistakes={
        "slope 1, like DDIM: do you ask for the second ε at t_next, and at the x that the trial step reaches?": mixed(1, 0),
        "the order is right, but a step may ask for ε only twice: with four calls, DDIM could take four steps": four_calls,
        "slope 0, so it ends elsewhere: does the final step start at x, and do the weights of both ε add up to 1?": mixed(1, 1),
    },
    run=order_and_calls,
    tolerance=0.2,
)
