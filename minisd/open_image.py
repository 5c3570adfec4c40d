"""Opens image files from users, with errors that name the file."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError


def open_image(path: Path) -> Image.Image:
    """Read an image completely. Raises ValueError, naming the file, if it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a readable image; use PNG, JPEG or WebP") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {path}: {getattr(error, 'strerror', None) or error}") from None
