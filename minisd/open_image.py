"""An image file that somebody else wrote: opened whole, or refused by its name."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError


def open_image(path: Path) -> Image.Image:
    """An image with its pixels. Raises ValueError, which names the file, for one that cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that can be read; PNG, JPEG and WebP are") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from None
