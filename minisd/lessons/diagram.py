"""The diagram at the top of every notebook: the pipeline from prompt to picture, with the notebook's topic highlighted."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ..config import SD1_TEXT, SD1_UNET, SD1_VAE, TINY_TEXT, TINY_UNET, TINY_VAE, sides
from .figures import GREY, INK, ORANGE, PALE, WIDTH, show

HEIGHT, BOX = 1.72, (1.3, 0.54)  # inches
PARTS = {  # the centre of each box, and its task
    "text encoder": (1.55, 1.35, "words to vectors"),
    "UNet": (3.95, 1.35, "guesses the noise"),
    "scheduler": (3.95, 0.37, "takes a step"),
    "VAE": (6.15, 1.35, "latents to pixels"),
}


def you_are_here(*here: str):
    """Draw the pipeline and highlight some of "text encoder", "UNet", "scheduler" and "VAE". Raises ValueError for other names."""
    if strangers := set(here) - set(PARTS):
        raise ValueError(f"the diagram has no {sorted(strangers)}; its parts are {list(PARTS)}")
    figure = Figure(figsize=(WIDTH, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.set_axis_off()
    for name, (x, y, task) in PARTS.items():
        box(ax, x, y, name, task, name in here)

    ax.text(0.36, 1.35, "prompt", ha="center", va="center")
    arrow(ax, (0.66, 1.35), (0.9, 1.35))
    arrow(ax, (2.2, 1.35), (3.3, 1.35))
    shape(ax, 2.75, 1.35, (77, TINY_TEXT.hidden_size), (77, SD1_TEXT.hidden_size))
    ax.text(2.6, 0.86, "noise", ha="right", va="center")
    arrow(ax, (2.67, 0.86), (3.5, 0.86))
    arrow(ax, (3.5, 0.64), (3.5, 1.08))
    arrow(ax, (4.4, 1.08), (4.4, 0.64))
    ax.text(3.95, 0.86, "$x_t$           $\\epsilon$", ha="center", va="center")
    ax.text(4.5, 0.86, "once per timestep $t$", ha="left", va="center", color=GREY)
    ax.plot((4.6, 6.15), (0.37, 0.37), color=INK, linewidth=1.2, linestyle="-")
    arrow(ax, (6.15, 0.36), (6.15, 1.08))
    shape(ax, 5.35, 0.37, latent(TINY_UNET), latent(SD1_UNET))
    arrow(ax, (6.8, 1.35), (7.1, 1.35))
    ax.text(7.47, 1.35, "picture", ha="center", va="center")
    shape(ax, 7.47, 1.0, pixels(TINY_VAE), pixels(SD1_VAE))
    ax.text(0.08, 0.37, "first line: the built-in model\nsecond line: Stable Diffusion 1.5", va="center", size=8.5, color=GREY)
    show(
        figure,
        "The prompt passes through the text encoder into the UNet. The UNet, which starts from noise, and the scheduler form a "
        f"loop that runs once per timestep; the VAE turns the final latents into a picture. You are here: {', '.join(here)}.",
    )


def box(ax: Axes, x: float, y: float, name: str, task: str, lit: bool):
    width, height = BOX
    colors = {"facecolor": "#fbeecb", "edgecolor": ORANGE, "linewidth": 2} if lit else {"facecolor": PALE, "edgecolor": GREY}
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, "round,pad=0,rounding_size=0.08", **colors))
    ax.text(x, y + 0.11, name, ha="center", va="center", weight="bold")
    ax.text(x, y - 0.12, "you are here" if lit else task, ha="center", va="center", size=8.5, color=ORANGE if lit else INK)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK):
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0})


def shape(ax: Axes, x: float, y: float, tiny: tuple[int, ...], sd: tuple[int, ...]):
    """A tensor's shape in the built-in model above a line at y, and its shape in SD 1.5 below."""
    ax.text(x, y + 0.03, "×".join(map(str, tiny)), ha="center", va="bottom", size=8.5)
    ax.text(x, y - 0.04, "×".join(map(str, sd)), ha="center", va="top", size=8.5, color=GREY)


def latent(unet) -> tuple[int, int, int]:
    return unet.in_channels, *sides(unet.sample_size)


def pixels(vae) -> tuple[int, int, int]:
    return vae.out_channels, *sides(vae.sample_size)
