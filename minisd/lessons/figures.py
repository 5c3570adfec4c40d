"""The look of the notebooks: one width of page, one palette, and figures that also say in words what they show.

Importing this module sets matplotlib's style. The colours differ in lightness as well as in hue, and lines in their dashes too, so
figures can be read in grey and by the colour-blind; grey itself is for what stands in the background.
"""

import io
from collections.abc import Sequence

import matplotlib
from cycler import cycler
from IPython.display import display
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ..image import to_pil

INK, BLUE, ORANGE, TEAL, GOLD = "#1b1f24", "#0b4f8a", "#d55e00", "#4fa8a3", "#e8b93c"
COLORS = [BLUE, ORANGE, TEAL, GOLD, INK]
GREY, PALE = "#666d75", "#eceef0"
DENSITY = LinearSegmentedColormap.from_list("density", ["white", "#8fbbe3", BLUE, "#06233f"])  # none to much
WIDTH, PIXELS = 8.0, 96  # a page's width in inches, and how many pixels of the screen an inch takes

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
    """A figure as wide as the page, each row `height` inches high, and its axes; `options` are those of `Figure.subplots`."""
    figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def show(figure: Figure, alt: str):
    """Display a figure. `alt` says what is to be seen, for whoever cannot see it; it is stored with the picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=2 * PIXELS, metadata={"Software": None})  # twice as fine as the screen
    width = round(figure.get_figwidth() * PIXELS)
    display({"image/png": file.getvalue(), "text/plain": alt}, metadata={"image/png": {"alt": alt, "width": width}}, raw=True)


def pictures(images: Sequence[Tensor], titles: Sequence[str], columns: int) -> Figure:
    """A sheet of pictures of one size, tensors (3, H, W) in [-1, 1], row by row, each below its title.

    Every pixel becomes a square of n × n pixels, as large as there is room for; pictures larger than that are scaled down.
    """
    page_width, gap, head, dpi = int(WIDTH * 2 * PIXELS), 16, 56, 2 * PIXELS
    room = (page_width + gap) // columns - gap
    rows, (height, width) = -(-len(images) // columns), images[0].shape[1:]
    scale = room // width or room / width
    width, height = round(width * scale), round(height * scale)
    page_height = rows * (head + height)
    figure = Figure(figsize=(WIDTH, page_height / dpi))
    for i, (image, title) in enumerate(zip(images, titles)):
        left = i % columns * (page_width - width) // max(columns - 1, 1)
        bottom = page_height - (i // columns + 1) * (head + height)
        ax = figure.add_axes((left / page_width, bottom / page_height, width / page_width, height / page_height))
        ax.set_axis_off()
        ax.imshow(to_pil(image[None])[0], interpolation="nearest" if scale >= 1 else "antialiased", aspect="auto")
        ax.set_title(title)
    return figure
