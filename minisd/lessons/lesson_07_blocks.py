"""Notebook 07: the blocks of a UNet, measured and drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.transforms import offset_copy
from torch.utils.flop_counter import FlopCounterMode

from ..config import UNetConfig, sides
from ..unet import UNet2DConditionModel
from .figures import BLUE, GREY, INK, ORANGE, PALE, TEAL, WIDTH, page, show


class Block(NamedTuple):
    """A block of the U. Level 0 is the finest; `shape` is (C, h, w) of its feature maps; `words`: whether it reads the prompt."""

    level: int
    shape: tuple[int, int, int]
    parameters: int
    flops: int  # of one guess, in matrix products and convolutions; a multiplication and an addition count as two
    words: bool


def measure(config: UNetConfig) -> list[Block]:
    """The blocks of a UNet in the order of execution, run on the meta device, where tensors have shapes but no numbers."""
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
    measured = []
    for name, (level, _) in blocks.items():
        module = unet.get_submodule(name)
        words = any(hasattr(part, "attn2") for part in module.modules())
        measured.append(Block(level, shapes[name], parameters(module), flops[f"UNet2DConditionModel.{name}"], words))
    return measured


def parameters(module: torch.nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())


def show_u(tiny: Sequence[Block], sd15: Sequence[Block], skips: tuple[int, int]):
    """The feature maps of two UNets, each as wide as its channels and as high as its side; `skips` is the number per level."""
    figure, axes = page(1, 2, height=4.4)
    for ax, blocks, count, name in zip(axes, (tiny, sd15), skips, ("the built-in model", "Stable Diffusion 1.5")):
        side, thick = blocks[0].shape[1], max(block.shape[0] for block in blocks)
        draw_u(ax, blocks, 0.3 * thick, 0.22 * side, count)
        ax.set(title=name)
        ax.set_axis_off()
    axes[1].add_patch(Rectangle((0, -200), tiny[0].shape[0], tiny[0].shape[1], facecolor=ORANGE))
    axes[1].text(150, -192, "the built-in model's\nfirst block, to scale", va="center", size=8, color=ORANGE)
    for ax in axes:
        ax.autoscale_view()
    handles = [ax.plot([], [], marker, color=color)[0] for marker, color in (("o", ORANGE), ("s", TEAL), ("-", GREY))]
    figure.legend(handles, ["the timestep enters", "the words enter", "skip connections"], loc="outside lower center", ncols=3)
    show(
        figure,
        "Two U's of rectangles with their shapes below them. The latents enter at the top left, and the guess leaves at the top "
        "right; arrows lead from block to block. The built-in model goes down from 64×16×16 through 96×8×8 to 128×4×4 and up "
        "again; Stable Diffusion 1.5 from 320×64×64 through 640×32×32 and 1280×16×16 to 1280×8×8. Grey lines, the skip "
        "connections, join the two sides of each level. A dot marks every block because all of them read the timestep; a square "
        "marks those that read the words: all but Stable Diffusion's lowest level. At its scale the built-in model's first "
        "block is a speck.",
    )


def draw_u(ax: Axes, blocks: Sequence[Block], gap_x: float, gap_y: float, skips: int):
    """Rectangles from left to right, each level below the finer one, with arrows along the way and `skips` lines per level."""
    middle, left, tops = len(blocks) // 2, 0.0, [0.0]
    for block in blocks[:middle]:
        tops.append(tops[-1] - block.shape[1] - gap_y)
    ends: dict[int, float] = {}  # the right edge of each level's left side
    way = [(-1.1 * gap_x, -blocks[0].shape[1] / 2)]
    ax.text(way[0][0], way[0][1], "$x_t$ ", ha="right", va="center")
    for i, block in enumerate(blocks):
        channels, height, _ = block.shape
        y = tops[middle if i == middle else block.level] - height
        for k in range(skips if i > middle else 0):
            line = y + height * (k + 0.5) / skips
            ax.plot((ends[block.level], left), (line, line), "-", color=GREY, linewidth=0.7, zorder=0)
        ax.add_patch(Rectangle((left, y), channels, height, facecolor="#cfe0f0", edgecolor=BLUE))
        text = "×".join(map(str, block.shape))
        outside, share = ("right", 1) if i < middle else ("center", 0.5) if i == middle else ("left", 0)  # clear of the arrows
        ax.text(left + share * channels, y - 0.15 * gap_y, text, ha=outside, va="top", size=7, color=INK)
        for marker, color, points in [("o", ORANGE, -3.5), ("s", TEAL, 3.5)][: 1 + block.words]:
            beside = offset_copy(ax.transData, ax.figure, x=points, units="points")
            ax.plot(left + channels / 2, y + height, marker, color=color, markersize=5, zorder=3, transform=beside)
        forward(ax, way[-1], (left, y + height / 2))
        way.append((left + channels, y + height / 2))
        ends.setdefault(block.level, left + channels)
        left += channels + gap_x
    end = (way[-1][0] + 1.1 * gap_x, way[-1][1])
    forward(ax, way[-1], end)
    ax.text(*end, r" $\epsilon$", va="center")


def forward(ax: Axes, start: tuple[float, float], end: tuple[float, float]):
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8}
    ax.annotate("", end, start, arrowprops=style)


RESNET = ("Group-\nNorm", "SiLU", "conv 3×3", "+ time", "Group-\nNorm", "SiLU", "conv 3×3", "+ x")
TRANSFORMER = ("norm", "self-\nattention", "+ x", "norm", "cross-\nattention", "+ x", "norm", "feed-\nforward", "+ x")


def show_inside():
    """The operations of a ResNet block and of a transformer block, with the places where timestep and words enter."""
    figure, axes = page(2, 1, height=1.35)
    rows = ((RESNET, "ResNet block", 3, "the timestep, as a vector", ORANGE), (TRANSFORMER, "transformer", 4, "the words", TEAL))
    for ax, (names, title, entry, guest, color) in zip(axes, rows):
        step = WIDTH / (len(names) + 1)
        for i, name in enumerate(names):
            x, lit = (i + 0.75) * step, name.startswith("+")
            style = {
                "facecolor": color if i == entry else "white" if lit else PALE,
                "edgecolor": GREY,
                "alpha": 0.45 if i == entry else 1,
            }
            ax.add_patch(FancyBboxPatch((x - 0.36 * step, -0.2), 0.72 * step, 0.4, "round,pad=0,rounding_size=0.06", **style))
            ax.text(x, 0, name, ha="center", va="center", size=8)
            forward(ax, (x - 0.64 * step, 0), (x - 0.36 * step, 0))
        forward(ax, (len(names) * step + 0.11 * step, 0), (len(names) * step + 0.5 * step, 0))
        ends = [i for i, name in enumerate(names) if name == "+ x"]
        for start, end in zip([0, *(end + 1 for end in ends)], ends):
            left, right = (start + 0.25) * step, (end + 0.75) * step
            ax.plot((left, left, right), (0, -0.36, -0.36), "-", color=GREY, linewidth=1)
            forward(ax, (right, -0.36), (right, -0.2))
        x = (entry + 0.75) * step
        forward(ax, (x, 0.5), (x, 0.2))
        ax.text(x + 0.08, 0.43, guest, va="center", size=8.5, color=color)
        ax.set(xlim=(0, WIDTH), ylim=(-0.45, 0.6), title=title)
        ax.set_axis_off()
    show(
        figure,
        "Two rows of boxes joined by arrows. ResNet block: GroupNorm, SiLU, convolution, plus time, where the timestep enters, "
        "GroupNorm, SiLU, convolution, plus x. Transformer: norm, self-attention, plus x; norm, cross-attention, where the words "
        "enter, plus x; norm, feed-forward, plus x. A line below each part carries its input x around it.",
    )


def show_costs(tiny: Sequence[Block], sd15: Sequence[Block]):
    """The parameters and the work of two UNets, level by level."""
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
    axes[1].set(title="floating-point operations of one call")
    for ax in axes:
        ax.set(xlabel="share in %", xlim=(0, 75))
        ax.grid(axis="y", visible=False)
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    show(
        figure,
        "Bars for each level of the two UNets. Most parameters of Stable Diffusion 1.5 are in the two coarse levels and hardly "
        "any in the finest; most of its work is in the two fine levels. The built-in model looks similar.",
    )
