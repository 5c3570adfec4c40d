"""The look of the notebooks: one page width, one palette, and a description in words for every figure.

Importing this module sets matplotlib's style. The colours differ in lightness as well as in hue, and lines also in their dashes, so
figures work in greyscale and for colour-blind readers. Grey is for the background.
"""

import io
from collections.abc import Sequence

import matplotlib
from cycler import cycler
from IPython.display import display
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..image import to_pil

INK, BLUE, ORANGE, TEAL, GOLD = "#1b1f24", "#0b4f8a", "#d55e00", "#4fa8a3", "#e8b93c"
COLORS = [BLUE, ORANGE, TEAL, GOLD, INK]
GREY, PALE = "#666d75", "#eceef0"
SLATE = "#7a828a"  # text on a transparent page: readable on white and on black
DENSITY = LinearSegmentedColormap.from_list("density", ["white", "#8fbbe3", BLUE, "#06233f"])  # low to high
WIDTH, PIXELS = 8.0, 96  # the page's width in inches, and CSS pixels per inch
DPI = 2 * PIXELS  # of the stored files, for screens with two device pixels per CSS pixel

matplotlib.rcParams.update(
    {
        "axes.prop_cycle": cycler(color=COLORS, linestyle=["-", "--", "-.", ":", (0, (5, 1, 1, 1))]),
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "figure.facecolor": "white",
        "font.size": 10,
        "grid.color": PALE,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def page(rows: int = 1, columns: int = 1, height: float = 2.6, **options):
    """A figure of page width with axes, each row `height` inches high; `options` go to `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def sheet(height: float) -> Figure:
    """A transparent page, `height` stored pixels high, for pictures: the documentation's dark mode shows through."""
    return Figure(figsize=(WIDTH, height / DPI), facecolor="none")


def show(figure: Figure, alt: str):
    """Display a figure. `alt` describes it for readers who cannot see it, and is stored with the picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    width = round(figure.get_figwidth() * PIXELS)
    display({"image/png": file.getvalue(), "text/plain": alt}, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)


def pictures(images: Sequence[Tensor], titles: Sequence[str], columns: int) -> Figure:
    """A sheet of pictures of one size, tensors (3, H, W) in [-1, 1], row by row, each below its title.

    The pictures fill the page's width. A small picture keeps square pixels: each becomes n × n stored pixels.
    """
    page_width, gap, head = int(WIDTH * DPI), 16, 56
    room = (page_width + gap) // columns - gap
    rows, (height, width) = -(-len(images) // columns), images[0].shape[1:]
    scale = room // width if room >= 4 * width else room / width
    width, height = round(width * scale), round(height * scale)
    page_height = rows * (head + height)
    figure = sheet(page_height)
    for i, (image, title) in enumerate(zip(images, titles)):
        left = i % columns * (page_width - width) // max(columns - 1, 1)
        bottom = page_height - (i // columns + 1) * (head + height)
        ax = figure.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))
        ax.set_axis_off()
        pixels = (-0.5, image.shape[2] - 0.5, image.shape[1] - 0.5, -0.5)  # coordinates on the axes are the picture's own
        ax.imshow(enlarged(image, width, height), interpolation="nearest", aspect="auto", extent=pixels)
        ax.set_title(title, color=SLATE)
    return figure


def enlarged(image: Tensor, width: int, height: int) -> Image.Image:
    """A picture (3, H, W) in [-1, 1] at another size: pixels are repeated if the scale is whole, else interpolated."""
    whole = width % image.shape[2] == 0 and height % image.shape[1] == 0
    return to_pil(image[None])[0].resize((width, height), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
