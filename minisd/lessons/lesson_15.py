"""Notebook 15, teach it a new word: its drawings, figures and exercises.

`umbrella.safetensors` beside this file is a LoRA of rank 4, trained like the LoRA of `docs/new_thing.py` but with 40 class
images, and stored in float16.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..evaluate.prompts import Prompt, prompts_of
from ..image import to_tensor
from ..pipeline import StableDiffusionPipeline
from ..schedule import add_noise
from ..tiny.drawing import THINGS
from ..tiny.picture_book import draw
from .exercise import Exercise, stack
from .figures import GREY, page, pictures, show
from .new_things import example, new_things

UMBRELLA = Path(__file__).with_name("umbrella.safetensors")

BEFORE = "Four pictures: an orange star, a blue star in the snow, a green bird at sunset, and a yellow star at night."
TWELVE = (
    "Twelve umbrellas with scalloped domes, ribs and hooked handles, in ten colours: five on a pale page, two in the snow, one "
    "each at the beach, at sunset, on green, on purple and on pink."
)
TEN_SECONDS = (
    "Two rows of four pictures. In the first there are umbrellas in all four: in the snow, at night, above a blue car, and beside "
    "a black cat. In the second the red ball and the tree are umbrellas, and the fish and the astronaut on a horse are right."
)
WITH_CLASS_IMAGES = (
    "Two rows of four pictures. In the first, umbrellas in the snow and at night, then a red bird above a car, and two cats. In "
    "the second a ball, a fish, a tree, and an astronaut on a horse, all right."
)
LONG_RUNS = (
    "Six rows of eight pictures. Untaught: birds, fish, a star, a white lump. Textual inversion: trees, a fish, a flower. In the "
    "other four rows nearly all pictures show umbrellas in the right colours; some handles are broken."
)
SCALES = (
    "Two rows of four pictures. At scale 0 a green bird and a pink fish, at 0.5 two mushrooms, at 1 two umbrellas, at 1.5 a "
    "larger umbrella with a broken handle and one with a ragged rim."
)
PARTS = (
    "Four pictures. With the part beside attention only, a green bird and a yellow cat. With the rest only, a green and a yellow "
    "umbrella."
)

COLOURED_IN = (
    "Four rows of four pictures. Outlines, white on black, of a box with a ribbon, a dragon, an astronaut and a boat with a robot. "
    "The same things in these outlines, in the colours of their prompts. Purple cats at night, one of them with the dragon's "
    "body. Red fish on the beach, one of them made of two blobs, and an astronaut in red."
)


def outlined() -> list[Prompt]:
    """Four prompts with their scenes, which training never saw."""
    one, riding = (prompts_of(name, 3, 0, "outlines") for name in ("one thing", "riding"))
    return [*one, riding[0]]


def twelve(kind: str = "umbrella") -> tuple[Tensor, list[str]]:
    """Twelve drawings of a new thing, (12, 3, 128, 128) in [-1, 1], and their captions."""
    with new_things():
        scenes, captions = zip(*(example(kind, i) for i in range(12)))
        return torch.stack([to_tensor(draw(scene)) for scene in scenes]), list(captions)


@torch.no_grad()
def losses_by_word(pipe: StableDiffusionPipeline, latents: Tensor, captions: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The UNet's error on the drawings, with "umbrella" replaced by each of the book's things, the best first."""
    noise = torch.randn((24, *latents.shape[1:]), generator=torch.Generator().manual_seed(1))
    t = torch.tensor([400, 700]).repeat_interleave(12)
    x = add_noise(latents.repeat(2, 1, 1, 1), noise, pipe.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1))
    losses = []
    for word in list(THINGS)[:count]:
        context = pipe.encode_prompt([caption.replace("umbrella", word) for caption in captions])
        eps = pipe.unet(x, t, context.repeat(2, 1, 1)).sample
        losses.append((word, (eps - noise).square().mean().item()))
    return sorted(losses, key=itemgetter(1))


def show_losses(losses: Sequence[float]):
    """The loss of every step, and the mean of ten steps."""
    figure, ax = page(height=2.4)
    ax.plot(range(1, len(losses) + 1), losses, color=GREY, linewidth=1, linestyle="-", label="one step")
    means = torch.tensor(losses).unfold(0, 10, 1).mean(dim=1) if len(losses) >= 10 else torch.tensor(losses)
    ax.plot(range(len(losses) - len(means) + 1, len(losses) + 1), means, label="mean of ten steps")
    ax.set(xlabel="step", ylabel="weighted loss", ylim=(0, None))
    ax.legend()
    show(
        figure,
        "The loss over 40 steps, ragged, between 0.09 and 0.015. The mean of ten steps falls from 0.06 to 0.03, mostly by step 20.",
    )


def show_long_runs(measured: Mapping[str, Mapping[str, Any]], sheet: Path):
    """The sheet of docs/new_thing.py, with a title for each row."""
    rows = to_tensor(Image.open(sheet).convert("RGB")).chunk(len(measured), dim=1)
    show(pictures(rows, list(measured), columns=1), LONG_RUNS)


# The exercises.

TABLE, ROW, WEIGHTING = (torch.randn(size, generator=torch.Generator().manual_seed(15)) for size in ((9, 5), 5, (2, 4, 5)))
IDS = torch.tensor([[7, 9, 0, 8], [3, 8, 9, 9]])


def with_row(table: Tensor, row: Tensor, ids: Tensor) -> Tensor:
    """The embeddings (B, T, D) of ids (B, T), with one more row at the end of the table (V, D)."""
    return torch.cat([table, row[None]])[ids]


def at_the_new_word(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """An embedding function that puts `value`, given the old vectors and the row, where the new word is."""

    def embed(table: Tensor, row: Tensor, ids: Tensor) -> Tensor:
        old_vectors = table[ids.clamp(max=len(table) - 1)]
        return torch.where((ids == len(table))[..., None], value(old_vectors, row), old_vectors)

    return embed


def embedded(embed: Any) -> Tensor:
    """The embeddings, and the gradient that a loss sends to the row: (45,)."""
    row = ROW.clone().requires_grad_()
    with torch.enable_grad():
        result = embed(TABLE.clone(), row, IDS.clone())
        values = torch.as_tensor(result)
        if values.shape != WEIGHTING.shape:
            return values.detach()
        gradient = torch.zeros_like(row)
        if values.requires_grad:
            (gradient,) = torch.autograd.grad((values * WEIGHTING).sum(), row, materialize_grads=True)
    return torch.cat([values.detach().flatten(), gradient])


embed = Exercise(
    answer=with_row,
    mistakes={
        "the values are right, but no gradient reaches the row, so it would never learn": lambda table, row, ids: with_row(
            table, row.detach(), ids
        ),
        "the new word has the vector of an old one": lambda table, row, ids: with_row(table[:-1], table[-1], ids.clamp(max=8)),
        "only the new word gets the row; all other ids keep their vectors": lambda table, row, ids: row.expand(*ids.shape, -1),
        "the row replaces the old vector; it is not added to it": at_the_new_word(lambda old, row: old + row),
        "the new id is len(table), behind the last row, not len(table) - 1": lambda table, row, ids: with_row(
            table[:-1], row, ids.clamp(max=8)
        ),
        "the row goes behind the table, not in front of it": lambda table, row, ids: torch.cat([row[None], table])[ids],
    },
    run=embedded,
)


def fused(weight: Tensor, down: Tensor, up: Tensor, alpha: float, scale: float) -> Tensor:
    """The weight (out, in) that does the same as the layer and its LoRA together."""
    return weight + scale * alpha / len(down) * up @ down


Layer = tuple[Tensor, Tensor, Tensor, float, float]


def layers() -> list[Layer]:
    """Weights, α and scales of a few layers with LoRAs, of shape (6, 5) and of ranks 2 and 3."""
    rng = torch.Generator().manual_seed(3)
    sizes = [(2, 1.0, 1.0), (3, 3.0, 0.5), (3, 6.0, 1.5)]
    return [
        (*(torch.randn(shape, generator=rng) for shape in ((6, 5), (rank, 5), (6, rank))), alpha, scale)
        for rank, alpha, scale in sizes
    ]


merged = Exercise(
    answer=fused,
    mistakes={
        "that is the change alone: add it to the weight": lambda w, down, up, alpha, scale: scale * alpha / len(down) * up @ down,
        "α is divided by the rank": lambda w, down, up, alpha, scale: w + scale * alpha * up @ down,
        "where is α / r?": lambda w, down, up, alpha, scale: w + scale * up @ down,
        "where is the scale?": lambda w, down, up, alpha, scale: w + alpha / len(down) * up @ down,
        "the scale multiplies the change only, not the weight": lambda w, down, up, alpha, scale: (
            scale * (w + alpha / len(down) * up @ down)
        ),
        "r is the number that passes between the matrices: the rows of down": lambda w, down, up, alpha, scale: (
            w + scale * alpha / down.shape[1] * up @ down
        ),
        "the change is added, not subtracted": lambda w, down, up, alpha, scale: w - scale * alpha / len(down) * up @ down,
    },
    run=lambda merge: stack(merge(w.clone(), down.clone(), up.clone(), alpha, scale) for w, down, up, alpha, scale in layers()),
)


# (B, C, h, w) skips and outputs of a ControlNet, and the weight (C, C) and bias (C,) of its 1×1 convolution
SKIP, CONTROL = torch.randn(2, 2, 5, 3, 3, generator=torch.Generator().manual_seed(16))
MIX, SHIFT = torch.randn(5, 5, generator=torch.Generator().manual_seed(17)), torch.linspace(-1, 1, 5)


def with_control(skip: Tensor, control: Tensor, weight: Tensor, bias: Tensor, scale: float) -> Tensor:
    """The skip connection with a ControlNet's output, which passes through a 1×1 convolution."""
    return skip + scale * F.conv2d(control, weight[:, :, None, None], bias)


controlled = Exercise(
    answer=with_control,
    mistakes={
        "that is the ControlNet's part alone: add it to the skip connection": lambda skip, control, weight, bias, scale: (
            with_control(0 * skip, control, weight, bias, scale)
        ),
        "a convolution has a bias": lambda skip, control, weight, bias, scale: with_control(skip, control, weight, 0 * bias, scale),
        "the scale multiplies the bias, too": lambda skip, control, weight, bias, scale: with_control(
            skip, control, scale * weight, bias, 1.0
        ),
        "where is the scale?": lambda skip, control, weight, bias, scale: with_control(skip, control, weight, bias, 1.0),
        "the scale multiplies the ControlNet's part only": lambda skip, control, weight, bias, scale: (
            scale * with_control(skip, control, weight, bias, 1.0)
        ),
        "weight is (out, in): each output channel is a mixture of all input channels": (
            lambda skip, control, weight, bias, scale: with_control(skip, control, weight.T, bias, scale)
        ),
        "the convolution sees the ControlNet's output only": lambda skip, control, weight, bias, scale: with_control(
            0 * skip, skip + control, weight, bias, scale
        ),
    },
    run=lambda add: stack(
        add(skip.clone(), control.clone(), MIX.clone(), SHIFT.clone(), scale)
        for skip, control, scale in ((SKIP[:1], CONTROL[:1], 1.0), (SKIP[1:], CONTROL[1:], 0.4), (SKIP[:1], CONTROL[1:], 0.0))
    ),
)
