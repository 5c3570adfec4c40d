"""Notebook 16, in four steps: its student, figures and exercises."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..schedule import add_noise, betas, transfer
from . import clouds
from .exercise import Exercise, stack
from .figures import BLUE, GREY, INK, ORANGE, TEAL, page, show
from .lesson_08_plane import planes

Jump = Callable[[Tensor, Tensor], Tensor]  # x and t → the end of the path through x

FEW_STEPS = (
    "Five views of the plane with three arcs. With one call of DDIM all points are in a spot in the middle, between the arcs. With "
    "two they fill a disc inside them, with four, and with Heun's two steps, a larger disc with a denser rim. The exact ends lie "
    "on the arcs, and none inside."
)
FILM = (
    "Four views of the plane with three arcs. After 50 steps of training the ends are scattered over the plane, after 200 they "
    "fill a disc with a dense rim, and at the end they lie on the arcs, with a few stragglers inside and outside."
)
ROWS = (
    "Eight sets of four pictures: an astronaut on a horse, a red ball on the beach, a black cat and a green tree, a house at "
    "night. Those of DDIM and DPM++ 2M are clean. Heun's are blotches in wrong colours; with trailing timesteps they are nearly "
    "right. With four calls teacher and student draw clean pictures. With one call the teacher draws blurs, the student smeared "
    "outlines."
)
MISTAKES = (
    "Three pairs of pictures, an astronaut on a horse and a house at night. With guidance the horse is green and the house yellow. "
    "With DDIM the outlines are smeared. The teacher with the sampler of the student draws clean pictures."
)
SAME_START = (
    "Four pictures of a cat and a tree from the same first noise. The three with different later noise differ in size and place of "
    "cat and tree; the one from a single jump is softer."
)
LINES = {"DDIM": (ORANGE, "--", "o"), "Heun": (INK, "-.", "D"), "DPM++ 2M": (TEAL, ":", "s"), "K-LMS": (BLUE, "-", "^")}


def show_ends(ends: Mapping[str, Tensor], alt: str):
    """Where points (B, 2) ended, one view per title, on the data in grey."""
    figure, axes = planes(list(ends))
    for ax, x in zip(axes, ends.values()):
        ax.scatter(*clouds.POINTS.T, s=14, color=GREY, alpha=0.25, linewidths=0)
        ax.scatter(*x.T, s=40 if x.std(dim=0).max() < 0.05 else 3, color=BLUE, linewidths=0)  # a single point is large
    show(figure, alt)


def show_errors(errors: Mapping[str, Mapping[int, float]]):
    """The error of several samplers over the number of calls, with the width of a cloud."""
    figure, ax = page(height=3.2)
    for name, by_calls in errors.items():
        color, line, marker = LINES[name]
        ax.plot(*zip(*by_calls.items()), marker, color=color, linestyle=line, markersize=4, label=name)
    ax.axhline(clouds.BLUR, color=GREY, linewidth=1, linestyle="-")
    ax.annotate("width of a cloud", (20, clouds.BLUR), (0, 4), textcoords="offset points", color=GREY, ha="right")
    ax.set(yscale="log", xlabel="calls of the denoiser", ylabel="distance from the exact end")
    ax.set_xticks(range(1, 21))
    ax.legend()
    show(
        figure,
        "Error over calls from 1 to 20. All samplers begin at 1.3 with one call. With four calls K-LMS is just above the width of "
        "a cloud, DDIM and DPM++ 2M at more than twice as much. These fall below it with 8 calls, Heun, which is highest, later.",
    )


def show_spreading(times: Tensor, by_step: Mapping[int, Sequence[float]]):
    """The student's error at each timestep, for several lengths of training."""
    figure, ax = page(height=2.8)
    for step, errors in by_step.items():
        ax.plot(times, errors, label=f"after {step} steps")
    ax.set(xlabel="timestep $t$ of the jump", ylabel="distance from the exact end", ylim=(0, 0.6))
    ax.legend(loc="upper left", ncols=3)
    show(
        figure,
        "Three curves over t. After 50 steps the error rises from 0.26 at low t to 0.48 at high t, after 200 steps from 0.15 to "
        "0.28. At the end it is nearly flat, below 0.1.",
    )


class Network(nn.Module):
    """A small network of x (B, 2) and t (B, 1)."""

    def __init__(self, width: int = 96):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha = alphas_cumprod[t]
        return self.layers(torch.cat([x, torch.log((1 - alpha) / alpha) / 4], dim=1))


def network() -> Network:
    """A fresh network, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network()


def teacher(
    t: Tensor, t_next: Tensor, alphas_cumprod: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Noisy data at timesteps t (B, 1), the exact ε in them, and ᾱ of t and of t_next."""
    alpha, alpha_next = alphas_cumprod[t], alphas_cumprod[t_next]
    x = add_noise(clouds.data(len(t), rng), torch.randn(len(t), 2, generator=rng), alpha)
    return x, clouds.epsilon(x, alpha), (alpha, alpha_next)


@torch.no_grad()
def errors_by_time(jump: Jump, times: Tensor, ends: Tensor, start: Tensor, alphas_cumprod: Tensor) -> list[float]:
    """The mean distance between jumps from exact paths and the ends of these paths, at each of the rising `times`."""
    x, found = start, []
    for t in range(999, 4, -5):
        if t in times:
            found.append((jump(x, torch.full((len(x), 1), t)) - ends).norm(dim=1).mean().item())
        x = transfer(x, clouds.epsilon(x, alphas_cumprod[t]), alphas_cumprod[t], alphas_cumprod[t - 5])
    return found[::-1]


def from_the_data(x: Tensor) -> float:
    """The mean distance of points from the nearest centre of a cloud."""
    return torch.cdist(x, clouds.POINTS).amin(dim=1).mean().item()


def diversity(thumbnails: Tensor) -> float:
    """The root mean square difference of two pictures, over all pairs."""
    flat = thumbnails.flatten(1).float()
    return torch.pdist(flat).div(flat.shape[1] ** 0.5).mean().item()


alphas_cumprod = torch.cumprod(1 - betas("scaled_linear", 0.00085, 0.012, 1000), dim=0)
X, EPS = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(16))
SLOPE = torch.nn.Parameter(torch.tensor([[0.8, -0.3], [0.4, 0.6]]))
TIMES = [(999, 949), (499, 449), (149, 99)]


def some_jump(x: Tensor, t: Any) -> Tensor:
    """A function with a parameter, in place of a student."""
    return x @ SLOPE * (1 + torch.as_tensor(t) / 1000)


def aim(jump: Jump, x: Tensor, eps: Tensor, t_next: Tensor, alpha: Tensor, alpha_next: Tensor) -> Tensor:
    """Where the student jumps from the point that one step of the teacher reaches, without a gradient."""
    with torch.no_grad():
        return jump(transfer(x, eps, alpha, alpha_next), t_next)


def aims(target: Any) -> Tensor:
    """The targets at several timesteps, (3, 5, 3): the last column is 1 if a gradient flows."""
    rows = []
    for t, t_next in TIMES:
        column = torch.full((5, 1), t_next)
        value = target(some_jump, X.clone(), EPS.clone(), column, *alphas_cumprod[[t, t_next]])
        rows.append(torch.cat([value.detach(), torch.full((5, 1), float(value.requires_grad))], dim=1))
    return stack(rows)


target = Exercise(
    answer=aim,
    mistakes={
        "right, but the gradient flows through the target: use torch.no_grad() or .detach()": (
            lambda jump, x, eps, t_next, alpha, alpha_next: jump(transfer(x, eps, alpha, alpha_next), t_next)
        ),
        "that is the teacher's step; now let the student jump from there": (
            lambda jump, x, eps, t_next, alpha, alpha_next: transfer(x, eps, alpha, alpha_next)
        ),
        "the teacher's step is missing: the student jumps from x, which is still at t": (
            lambda jump, x, eps, t_next, alpha, alpha_next: jump(x, t_next).detach()
        ),
        "that is the teacher's x0, a mean; take one step only, to alpha_next": (
            lambda jump, x, eps, t_next, alpha, alpha_next: jump(transfer(x, eps, alpha, torch.ones(())), t_next).detach()
        ),
        "the two levels are swapped": (
            lambda jump, x, eps, t_next, alpha, alpha_next: jump(transfer(x, eps, alpha_next, alpha), t_next).detach()
        ),
    },
    run=aims,
)


def draws(jump: Jump, x: Tensor, times: Sequence[int], noises: Sequence[Tensor], alphas_cumprod: Tensor) -> Tensor:
    """Jump, add noise up to the next time, jump, …; no noise after the last jump."""
    for i, t in enumerate(times):
        if i:
            x = add_noise(x, noises[i - 1], alphas_cumprod[t])
        x = jump(x, t)
    return x


def noising(add: Any, after_last: bool = False) -> Any:
    """Drawing in which `add` makes the next x out of x0, noise, x, the old time and the next."""

    def draw(jump, x, times, noises, alphas_cumprod):
        following = [*times[1:], 0] if after_last else times[1:]
        for t, t_next, noise in zip(times, following, [*noises, X]):
            x = add(jump(x, t), noise, x, alphas_cumprod[t], alphas_cumprod[t_next])
        return x if after_last else jump(x, times[-1])

    return draw


def first_jump(jump: Jump, x: Tensor, times: Sequence[int], noises: Sequence[Tensor], alphas_cumprod: Tensor) -> Tensor:
    return jump(x, times[0])


CASES = [([999, 499], [EPS]), ([999, 749, 499, 249], [EPS, EPS.flip(0), EPS.flip(1)])]

draw = Exercise(
    answer=draws,
    mistakes={
        "no noise after the last jump": noising(
            lambda x0, noise, x, alpha, alpha_next: add_noise(x0, noise, alpha_next), after_last=True
        ),
        "add noise up to the next timestep, not back to the same one": noising(
            lambda x0, noise, x, alpha, alpha_next: add_noise(x0, noise, alpha)
        ),
        "after a jump new noise is needed: without it, x is not a valid x_t": noising(lambda x0, noise, x, alpha, alpha_next: x0),
        "that is DDIM: take the new noise instead of the old": noising(
            lambda x0, noise, x, alpha, alpha_next: add_noise(x0, (x - alpha**0.5 * x0) / (1 - alpha) ** 0.5, alpha_next)
        ),
        "x0 has a factor too: √ᾱ": noising(lambda x0, noise, x, alpha, alpha_next: x0 + (1 - alpha_next) ** 0.5 * noise),
        "the factors are square roots of ᾱ and 1 − ᾱ": noising(
            lambda x0, noise, x, alpha, alpha_next: alpha_next * x0 + (1 - alpha_next) * noise
        ),
        "that is one jump; go on through all times": first_jump,
    },
    run=lambda draw: stack(
        draw(lambda x, t: some_jump(x, t).detach(), X.clone(), list(times), list(noises), alphas_cumprod.clone())
        for times, noises in CASES
    ),
)
