"""Several images on one page."""

from collections.abc import Sequence

from PIL import Image


def image_grid(imgs: Sequence[Image.Image], rows: int, cols: int) -> Image.Image:
    """`rows * cols` pictures of one size, row by row, on one page."""
    if len(imgs) != rows * cols:
        raise ValueError(f"{len(imgs)} pictures do not fill {rows} rows of {cols}")
    width, height = imgs[0].size
    grid = Image.new("RGB", (cols * width, rows * height))
    for i, image in enumerate(imgs):
        grid.paste(image, (i % cols * width, i // cols * height))
    return grid
