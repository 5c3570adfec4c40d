"""Notebook 07, the UNet and how words steer it: its size measured, its longer figures, and its exercises."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..config import UNetConfig, sides
from ..layers import attention
from ..unet import UNet2DConditionModel
from .exercise import Exercise
from .figures import BLUE, DENSITY, GREY, INK, ORANGE, page, show


class Block(NamedTuple):
    """A block of the U: its level (0 the finest), the shape (C, h, w) of its feature maps, and what it costs."""

    level: int
    shape: tuple[int, int, int]
    parameters: int
    flops: int  # of one guess: matrix products and convolutions, a multiplication and an addition being two


def measure(config: UNetConfig) -> list[Block]:
    """The blocks of a UNet in the order of its forward, run on the meta device, where tensors have shapes and no numbers."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet, bottom = UNet2DConditionModel(config), len(config.block_out_channels) - 1
        blocks = {f"down_blocks.{i}": (i, block.attentions[-1]) for i, block in enumerate(unet.down_blocks)}
        blocks["mid_block"] = (bottom, unet.mid_block)
        blocks |= {f"up_blocks.{i}": (bottom - i, block.attentions[-1]) for i, block in enumerate(unet.up_blocks)}
        shapes = {}
        for name, (_, module) in blocks.items():
            module.register_forward_hook(lambda module, args, output, name=name: shapes.update({name: tuple(output.shape[1:])}))
        latents = torch.empty(1, config.in_channels, *sides(config.sample_size))
        unet(latents, torch.zeros(1), torch.empty(1, 77, config.cross_attention_dim))
    flops = {name: sum(counts.values()) for name, counts in counter.get_flop_counts().items()}
    return [
        Block(level, shapes[name], parameters(unet.get_submodule(name)), flops[f"UNet2DConditionModel.{name}"])
        for name, (level, _) in blocks.items()
    ]


def parameters(module: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())


def show_u(tiny: Sequence[Block], sd15: Sequence[Block], skips: tuple[int, int]):
    """The feature maps of two UNets to scale, each as wide as it has channels and as high as its side; `skips` a level has each."""
    figure, axes = page(1, 2, height=4.1)
    for ax, blocks, count, name in zip(axes, (tiny, sd15), skips, ("the built-in model", "Stable Diffusion 1.5")):
        side, thick = blocks[0].shape[1], max(block.shape[0] for block in blocks)
        draw_u(ax, blocks, 0.2 * thick, 0.22 * side, count)
        ax.set(title=name)
        ax.set_axis_off()
    draw_u(axes[1], tiny, 100, 3, at=(-500, -128), label="the built-in model\nto this scale")
    for ax in axes:
        ax.autoscale_view()
    show(
        figure,
        "Two U's of rectangles with their shapes below them. The built-in model goes down from 64×16×16 over 96×8×8 to 128×4×4 and "
        "up again; Stable Diffusion 1.5 from 320×64×64 over 640×32×32 and 1280×16×16 to 1280×8×8. Lines, the skips, join the two "
        "sides of each level. The built-in model, drawn to the other's scale, is a speck beside it.",
    )


def draw_u(ax: Axes, blocks: Sequence[Block], gap_x: float, gap_y: float, skips: int = 0, at=(0.0, 0.0), label: str = ""):
    """Rectangles from left to right, each level below the finer one, the bottom below all; from level to level `skips` lines."""
    middle, (left, top) = len(blocks) // 2, at
    tops = [top]
    for block in blocks[:middle]:
        tops.append(tops[-1] - block.shape[1] - gap_y)
    ends = {}  # where the left side of each level ends
    for i, block in enumerate(blocks):
        channels, height, _ = block.shape
        y = tops[middle if i == middle else block.level] - height
        for k in range(skips if i > middle else 0):
            line = y + height * (k + 0.5) / skips
            ax.plot((ends[block.level], left), (line, line), "-", color=GREY, linewidth=0.7, zorder=0)
        color = {"facecolor": ORANGE, "edgecolor": "none"} if label else {"facecolor": "#cfe0f0", "edgecolor": BLUE}
        ax.add_patch(Rectangle((left, y), channels, height, **color))
        if not label:
            text = "×".join(map(str, block.shape))
            ax.text(left + channels / 2, y - 0.15 * gap_y, text, ha="center", va="top", size=7, color=INK)
        ends.setdefault(block.level, left + channels)
        left += channels + gap_x
    if label:
        ax.text(at[0], tops[-1] - 3 * gap_y, label, va="top", size=8, color=ORANGE)


def show_costs(tiny: Sequence[Block], sd15: Sequence[Block]):
    """Where the parameters and the work of two UNets are, level by level."""
    figure, axes = page(1, 2, height=3.0, sharey=True)
    names: list[str] = []
    for blocks, name in ((tiny, "tiny"), (sd15, "SD 1.5")):
        for ax, field, unit in zip(axes, ("parameters", "flops"), ("M", "G")):
            scale, total = {"M": 1e6, "G": 1e9}[unit], sum(getattr(block, field) for block in blocks)
            for level in range(blocks[len(blocks) // 2].level + 1):
                amount = sum(getattr(block, field) for block in blocks if block.level == level)
                y = -(len(names) + level)
                ax.barh(y, 100 * amount / total, color=BLUE if name == "tiny" else ORANGE, hatch="" if name == "tiny" else "//")
                ax.text(100 * amount / total + 1, y, f"{amount / scale:.3g} {unit}", va="center", size=8.5)
        sides = dict.fromkeys(block.shape[1] for block in blocks)
        names += [f"{name}, {side}×{side}" for side in sides] + [""]
    axes[0].set(title="parameters", yticks=[-i for i in range(len(names))], yticklabels=names)
    axes[1].set(title="floating-point operations for one guess")
    for ax in axes:
        ax.set(xlabel="share in %", xlim=(0, 75))
        ax.grid(axis="y", visible=False)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    show(
        figure,
        "Bars for each level of the two UNets. Of the parameters of Stable Diffusion 1.5 most are in the two coarse levels and "
        "hardly any in the finest; of its work most is in the two fine levels. In the built-in model it is alike.",
    )


def show_waves(waves: Tensor):
    """The embedding (timesteps, numbers) of every timestep, as a sheet of waves."""
    figure, ax = page(height=2.3)
    ax.imshow(waves.T, cmap=DENSITY, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    ax.set(xlabel="timestep $t$", ylabel="which number", title="each column is one timestep: white is −1, dark is 1")
    ax.grid(False)
    show(
        figure,
        "Waves from left to right, a row for each of the 64 numbers. In the upper half, the cosines, the first row changes from "
        "column to column, each row below more slowly, and the last not at all; the lower half, the sines, is the same again.",
    )


def show_lies(told: Sequence[int], errors: Mapping[int, Sequence[float]]):
    """The error of the guess over the timestep that the UNet is told, for several true ones."""
    figure, ax = page(height=2.8)
    for t, error in errors.items():
        (line,) = ax.plot(told, error, label=f"noise of t = {t}")
        ax.plot(t, error[told.index(t)], "o", color=line.get_color(), markersize=9)
    ax.set(yscale="log", xlabel="the $t$ that the UNet is told", ylabel="error of ε", title="large dots: told the truth")
    figure.legend(loc="outside right center")
    show(
        figure,
        "Three curves, one for each amount of noise. Each falls and rises again, with its lowest point where the UNet is told the "
        "truth, or close to it.",
    )


def enlarge(shares: Tensor, side: int = 16) -> Tensor:
    """The attention of every position of a map (h·w, T) as a map for every token, (T, side, side)."""
    own = int(len(shares) ** 0.5)
    return F.interpolate(shares.T.reshape(1, -1, own, own), size=side, mode="bilinear")[0]


def shade(heat: Tensor) -> Tensor:
    """A map (h, w) of numbers from 0 up as a picture (3, 128, 128) in [-1, 1]: white is 0, the darkest blue its largest number."""
    large = F.interpolate(heat[None, None] / heat.max(), size=128)[0, 0]
    return torch.from_numpy(DENSITY(large.numpy())[..., :3]).permute(2, 0, 1).float() * 2 - 1


Q, K, V = torch.randn(3, 2, 3, 5, 6, generator=torch.Generator().manual_seed(7))  # (B, n, T, d); the words are fewer
K, V = K[:, :, :3], V[:, :, :3]


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, dim: int = -1) -> Tensor:
    """Attention with its places to go wrong."""
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.softmax(dim) @ v


by_hand = Exercise(
    answer=F.scaled_dot_product_attention,
    mistakes={
        "the scores of long vectors are large: divide by √d": lambda q, k, v: attend(q, k, v, scale=1.0),
        "by the root of d, not by d": lambda q, k, v: attend(q, k, v, scale=1 / q.shape[-1]),
        "d is the length of a vector, the last dimension": lambda q, k, v: attend(q, k, v, scale=q.shape[-2] ** -0.5),
        "S is the number of words; d is the length of a vector": lambda q, k, v: attend(q, k, v, scale=k.shape[-2] ** -0.5),
        "right for one d; take it from the shape of q": lambda q, k, v: attend(q, k, v, scale=0.5),
        "each position shares its attention among the words: softmax over the last dimension": lambda q, k, v: attend(
            q, k, v, dim=-2
        ),
    },
    run=lambda attention: attention(Q, K, V),
)

STATES = torch.randn(1, 7, 6, generator=torch.Generator().manual_seed(8))


def heard(mute) -> Tensor:
    """What positions take of the rows that are left, and how many rows there are."""
    rows = mute(STATES, 2)
    return torch.cat([attention(Q[:1, 0], rows, rows).flatten(), torch.tensor([float(rows.shape[1])])])


mute = Exercise(
    answer=lambda states, k: torch.cat([states[:, :k], states[:, k + 1 :]], dim=1),
    mistakes={
        "a row of zeros has the score 0, not −∞: it still takes its share of the softmax": lambda states, k: states.index_fill(
            1, torch.tensor([k]), 0
        ),
        "each of the others once is enough": lambda states, k: torch.cat(
            [states[:, :k], states[:, k + 1 :], states[:, :k], states[:, k + 1 :]], dim=1
        ),
        "only row k goes; those behind it stay": lambda states, k: states[:, :k],
        "only row k goes; those before it stay": lambda states, k: states[:, k + 1 :],
        "that is the row, not all the others": lambda states, k: states[:, k : k + 1],
        "rows are counted from 0": lambda states, k: torch.cat([states[:, : k - 1], states[:, k:]], dim=1),
    },
    run=heard,
)
