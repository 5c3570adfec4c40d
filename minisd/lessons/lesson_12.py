"""Notebook 12, the real thing: cells that need weights, the figures, and the exercises."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from IPython.display import display
from matplotlib.axes import Axes
from PIL import Image
from torch import nn

from ..clip import CLIPTextModel
from ..pipeline import StableDiffusionPipeline
from ..unet import UNet2DConditionModel
from ..vae import AutoencoderKL
from .exercise import Exercise
from .figures import BLUE, COLORS, GREY, INK, ORANGE, TEAL, page, show

BY_THE_POST = "An astronaut on a horse, drawn by the loop of the post."
Networks = tuple[CLIPTextModel, UNet2DConditionModel, AutoencoderKL]


def with_weights(pipe: StableDiffusionPipeline | None, what: str):
    """Decorator: call the function with the pipeline and display the picture that it returns; without weights, print `what`."""

    def run(draw: Callable[[StableDiffusionPipeline], Image.Image]):
        if pipe is None:
            print(f"with weights, this cell {what}")
        else:
            display(draw(pipe))

    return run


def count(*modules: nn.Module) -> int:
    """The number of weights in the modules."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


def blocks(text: CLIPTextModel, unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, int]:
    """The weights in each block of the three networks, in the order of execution."""
    levels = lambda name: {f"UNet, {name}.{i}": count(block) for i, block in enumerate(getattr(unet, name))}  # noqa: E731
    return {
        "text encoder, embeddings": count(text.token_embedding, text.position_embedding),
        "text encoder, blocks": count(text.blocks),
        "UNet, time_embedding": count(unet.time_embedding),
        **levels("down_blocks"),
        "UNet, mid_block": count(unet.mid_block),
        **levels("up_blocks"),
        "VAE, encoder": count(vae.encoder),
        "VAE, decoder": count(vae.decoder),
    }


def show_blocks(models: Mapping[str, Networks]):
    """The number of weights in each block of several models, one row per block, on a logarithmic axis."""
    counts = {name: blocks(*networks) for name, networks in models.items()}
    rows = max(counts.values(), key=len)  # a smaller UNet has fewer levels
    figure, ax = page(height=3.7)
    for (name, weights), marker, color, size in zip(counts.items(), "osD", (BLUE, ORANGE, INK), (8, 9, 5)):
        ax.plot(weights.values(), [list(rows).index(row) for row in weights], marker, color=color, markersize=size, label=name)
    ax.set(xscale="log", xlabel="weights", xlim=(1e4, 1e9), yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    ax.legend(loc="lower left")
    show(
        figure,
        "A row of points for each block of the text encoder, the UNet and the VAE. In every row that both have, Stable "
        "Diffusion is one to three powers of ten to the right of the tiny model. Versions 1.5 and 2.1 coincide, except for the "
        "text encoder.",
    )


BLOCK = (
    r"(?:(?:encoder|decoder)\.)?(?:(?:\w*blocks|down|up)\.\d+|\w+)"  # the part of a tensor's name that says which block it is in
)
ORDER = (  # from top to bottom, in both naming schemes; blocks of one kind are sorted by their numbers
    "time_embed", "time_embedding", "conv_in", "input_blocks", "down_blocks", "middle_block", "mid_block", "output_blocks",
    "up_blocks", "out", "conv_norm_out", "conv_out", "encoder.down", "encoder.down_blocks", "encoder.mid", "encoder.mid_block",
    "decoder.mid", "decoder.mid_block", "decoder.up", "decoder.up_blocks",
)  # fmt: skip


def kind_and_number(block: str) -> tuple[str, int]:
    kind, number = re.fullmatch(r"(.*?)(?:\.(\d+))?", block).groups()
    return kind, int(number or 0)


def show_map(pairs: Mapping[str, str]):
    """The blocks of the original single file and minisd's, joined by lines: `pairs` maps the file's tensor names to minisd's."""
    figure, axes = page(1, 2, height=4.2)
    parts = {"UNet": ("model.diffusion_model.", "unet."), "VAE, its levels": ("first_stage_model.", "vae.")}
    for ax, (title, prefixes) in zip(axes, parts.items()):
        links = Counter(
            tuple(re.match(BLOCK, name.removeprefix(prefix))[0] for name, prefix in zip(pair, prefixes))
            for pair in pairs.items()
            if pair[0].startswith(prefixes[0])
        )
        lines(ax, {link: tensors for link, tensors in links.items() if kind_and_number(link[0])[0] in ORDER})
        ax.set_title(title)
    show(
        figure,
        "Two panels of lines from names on the left to names on the right. In the UNet the input blocks are grouped into four "
        "down blocks, and the output blocks, three by three, into four up blocks, in the same order. In the VAE the lines of "
        "the encoder are parallel, and the lines of the decoder's four levels cross: up.3 comes first, up.0 last.",
    )


def lines(ax: Axes, links: Mapping[tuple[str, str], int]):
    """Names on the left joined to names on the right by lines, thicker for more tensors."""

    def in_order(block: str) -> tuple[int, int]:
        kind, number = kind_and_number(block)
        return ORDER.index(kind), number

    left, right = (sorted({link[side] for link in links}, key=in_order) for side in (0, 1))
    heights = [{name: i / (len(names) - 1) for i, name in enumerate(names)} for names in (left, right)]
    colors = {"down": BLUE, "mid": TEAL, "up": ORANGE}
    for (theirs, ours), tensors in links.items():
        color = next((color for word, color in colors.items() if word in ours), GREY)
        ax.plot((0, 1), (heights[0][theirs], heights[1][ours]), "-", color=color, linewidth=1 + tensors / 25)
    for x, names, side in zip((-0.04, 1.04), heights, ("right", "left")):
        for name, height in names.items():
            ax.text(x, height, name, ha=side, va="center", size=8)
    ax.set(xlim=(-1.05, 2.05), ylim=(1.03, -0.03))
    ax.set_axis_off()


def show_memory(weights: int, heads: int, channels: int):
    """The memory of a guided UNet call in float16 over the side of the picture."""
    sides = list(range(128, 1025, 32))
    positions = [(side // 8) ** 2 for side in sides]
    figure, ax = page(height=3)
    for (name, numbers), color, line in zip(
        {
            "all weights": [weights for _ in positions],
            "the scores of one self-attention": [2 * heads * T**2 for T in positions],
            "one feature map": [2 * channels * T for T in positions],
            "the latents": [2 * 4 * T for T in positions],
        }.items(),
        COLORS,
        ("-", "--", "-.", ":"),
    ):
        ax.plot(sides, [2 * n for n in numbers], color=color, linestyle=line)
        ax.text(1034, 2 * numbers[-1], name, color=INK, va="center")
    for side in (512, 768):
        ax.axvline(side, color=GREY, linewidth=1, linestyle="-", zorder=0)
    ticks = {1e3: "1 KB", 1e6: "1 MB", 1e9: "1 GB"}
    ax.set_title("a guided call of version 1.5, in float16")
    ax.set(yscale="log", xlabel="side of the picture, in pixels", xlim=(128, 1024), ylim=(1e3, 2e10), xticks=range(128, 1025, 128))
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()
    show(
        figure,
        "Bytes over the side of the picture, on a logarithmic axis. The weights are a flat line at 2 GB. The scores rise most "
        "steeply, from 2 MB at 128 pixels through half a GB at 512 to almost 9 GB at 1024, above the weights from about 720 on. "
        "A feature map stays at megabytes, and the latents at kilobytes.",
    )


DECODER = [f"decoder.up.{i}.block.{j}.conv{k}.weight" for i in range(4) for j in range(3) for k in (1, 2)]
DECODER += [f"decoder.up.{i}.block.0.nin_shortcut.{kind}" for i in (0, 1) for kind in ("weight", "bias")]


def renamed(name: str, level=lambda i: 3 - i, shortcut="conv_shortcut") -> str:
    """minisd's name for a tensor of the original decoder; the last two arguments make it go wrong."""
    name = name.replace(".block.", ".resnets.")
    for i in range(4):
        name = name.replace(f"decoder.up.{i}.", f"decoder.up_blocks.{level(i)}.")
    return name.replace(".nin_shortcut.", f".{shortcut}.")


rules = Exercise(
    answer=renamed,
    mistakes={
        "compare the shapes: is the file's level 0 our level 0?": lambda name: renamed(name, level=lambda i: i),
        "the levels are right; which of our tensors is a 1 × 1 convolution?": lambda name: renamed(name, shortcut="nin_shortcut"),
        "up.0 becomes up_blocks.3, so up.3 becomes …?": lambda name: renamed(name, level=lambda i: 4 - i),
    },
    run=lambda my_name: [my_name(name) for name in DECODER],
)

scores_bytes = Exercise(
    answer=lambda height, width, heads, size: 2 * heads * (height // 8 * (width // 8)) ** 2 * size,
    mistakes={
        "every position attends to every position: the number of positions enters squared": lambda height, width, heads, size: (
            2 * heads * (height // 8 * (width // 8)) * size
        ),
        "attention works on latents, which are 8 times smaller on each side": lambda height, width, heads, size: (
            2 * heads * (height * width) ** 2 * size
        ),
        "each head has its own scores": lambda height, width, heads, size: 2 * (height // 8 * (width // 8)) ** 2 * size,
        "in bytes, not in gigabytes": lambda height, width, heads, size: 2 * heads * (height // 8 * (width // 8)) ** 2 * size / 1e9,
        "a guided call has a batch of two": lambda height, width, heads, size: heads * (height // 8 * (width // 8)) ** 2 * size,
    },
    run=lambda bytes_of: [bytes_of(*case) / 1e6 for case in ((512, 512, 8, 2), (768, 768, 5, 4), (512, 768, 8, 2))],
)
