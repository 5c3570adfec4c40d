"""Several images in one."""

from collections.abc import Sequence

from PIL import Image


def image_grid(imgs: Sequence[Image.Image], rows: int, cols: int) -> Image.Image:
    """Arrange `rows * cols` images of the same size in a grid, row by row. Raises ValueError for another number of images."""
    if len(imgs) != rows * cols:
        raise ValueError(f"{len(imgs)} images do not fill {rows} rows of {cols}")
    width, height = imgs[0].size
    grid = Image.new("RGB", (cols * width, rows * height))
    for i, image in enumerate(imgs):
        grid.paste(image, (i % cols * width, i // cols * height))
    return grid
