"""Notebook 07, the UNet and how words steer it: its figures and exercises. The blocks are in lesson_07_blocks.py."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..layers import attention
from .exercise import Exercise
from .figures import DENSITY, page, show

LIES = (
    "A page of the book, and what the UNet sees in its noisy version. Told the true 500, it sees the page, a little soft. Told "
    "less, it leaves noise in; told more, it removes part of the page."
)
WITHOUT_SKIPS = (
    "An astronaut on a horse, drawn five times: with all skip connections; nearly the same without 4 and 5; washed out without "
    "2 and 3; a little paler without 1; and nothing but noise without 0."
)
WORD_MAPS = (
    "A cat on a horse at sunset, and a map for each word. The map of cat is dark where the cat is, that of horse where the "
    "horse is, that of sunset around them. The maps of small words are blurred."
)
MAPS_OVER_TIME = (
    "Three rows of five steps: the guessed picture, the map of cat, the map of horse. The guess begins as a blur and ends as a cat "
    "on a horse. Almost from the start, the maps are dark in the right places."
)
MUTED_WORDS = (
    "Two rows. Above, all words: a blue mushroom in the snow; then each word muted after reading. Below, no words at all: "
    "anything; then each word muted before reading: without blue the mushroom is red, without mushroom another thing is blue, "
    "without snow the page is bare."
)


def show_waves(waves: Tensor):
    """The embedding (timesteps, numbers) of every timestep as an image of waves."""
    figure, ax = page(height=2.3)
    ax.imshow(waves.T, cmap=DENSITY, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(xlabel="timestep $t$", ylabel="number", title="each column is one timestep: from −1 (blank) to 1 (full colour)")
    ax.grid(False)
    show(
        figure,
        "Waves from left to right, a row for each of the 64 numbers. In the upper half, the cosines, the first row changes from "
        "column to column, each further row more slowly, and the last hardly at all; the lower half, the sines, repeats this.",
    )


def show_lies(told: Sequence[int], errors: Mapping[int, Sequence[float]]):
    """The error of the guess over the timestep that the UNet is told, for several true timesteps."""
    figure, ax = page(height=2.8)
    for t, error in errors.items():
        (line,) = ax.plot(told, error, label=f"noise of t = {t}")
        ax.plot(t, error[told.index(t)], "o", color=line.get_color(), markersize=9)
    ax.set(yscale="log", xlabel="the $t$ that the UNet is told", ylabel="error of ε", title="large dots: told the true timestep")
    figure.legend(loc="outside right center")
    show(
        figure,
        "Three curves, one for each amount of noise. Each falls and rises again, with its minimum at or near the true timestep.",
    )


def enlarge(shares: Tensor, side: int = 16) -> Tensor:
    """The attention of every position (h·w, T) as a map for every token, (T, side, side)."""
    own = int(len(shares) ** 0.5)
    return F.interpolate(shares.T.reshape(1, -1, own, own), size=side, mode="bilinear")[0]


def shade(heat: Tensor) -> Tensor:
    """A map (h, w) of numbers ≥ 0 as a picture (3, 128, 128) in [-1, 1]: white is 0, the darkest blue its maximum."""
    large = F.interpolate(heat[None, None] / heat.max(), size=128)[0, 0]
    return torch.from_numpy(DENSITY(large.numpy())[..., :3]).permute(2, 0, 1).float() * 2 - 1


Q, K, V = torch.randn(
    3, 2, 3, 5, 6, generator=torch.Generator().manual_seed(7)
)  # (B, n, T, d); below, there are fewer words than positions
K, V = K[:, :, :3], V[:, :, :3]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, dim: int = -1) -> Tensor:
    """Attention; the last two arguments make it go wrong."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.softmax(dim) @ v


by_hand = Exercise(
    answer=F.scaled_dot_product_attention,
    mistakes={
        "long vectors have large scores: divide by √d": lambda q, k, v: attend(q, k, v, scale=1.0),
        "divide by the square root of d, not by d": lambda q, k, v: attend(q, k, v, scale=1 / q.shape[-1]),
        "d is the length of a vector, the last dimension": lambda q, k, v: attend(q, k, v, scale=q.shape[-2] ** -0.5),
        "you divide by √S, the number of words; d is the length of a vector": lambda q, k, v: attend(
            q, k, v, scale=k.shape[-2] ** -0.5
        ),
        "right for one d only; take d from the shape of q": lambda q, k, v: attend(q, k, v, scale=6**-0.5),
        "the weights of one position sum to 1 over the words: softmax over the last dimension": lambda q, k, v: attend(
            q, k, v, dim=-2
        ),
    },
    run=lambda attention: torch.cat([attention(*(x[..., :d].clone() for x in (Q, K, V))) for d in (6, 4)], dim=-1),
)

STATES = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(8))


def heard(mute) -> Tensor:
    """The result of attention to the remaining rows, and their number."""
    heard = []
    for k in (2, 5):
        rows = mute(STATES.clone(), k)
        if rows.dim() != 3:
            raise ValueError(f"the rows have the shape {tuple(rows.shape)}; it should be (B, T − 1, D)")
        heard += [attention(Q[:, 0], rows, rows).flatten(), torch.tensor([float(rows.shape[1])])]
    return torch.cat(heard)


mute = Exercise(
    answer=lambda states, k: torch.cat([states[:, :k], states[:, k + 1 :]], dim=1),
    mistakes={
        "a row of zeros has the score 0, not −∞: it still gets its share of the softmax": lambda states, k: states.index_fill(
            1, torch.tensor([k]), 0
        ),
        "keep each of the other rows once": lambda states, k: torch.cat(
            [states[:, :k], states[:, k + 1 :], states[:, :k], states[:, k + 1 :]], dim=1
        ),
        "remove only row k; keep the rows after it": lambda states, k: states[:, :k],
        "remove only row k; keep the rows before it": lambda states, k: states[:, k + 1 :],
        "that is row k itself; return all the others": lambda states, k: states[:, k : k + 1],
        "rows are counted from 0; you removed row k − 1": lambda states, k: torch.cat([states[:, : k - 1], states[:, k:]], dim=1),
    },
    run=heard,
)
