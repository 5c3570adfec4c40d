"""Tensors and pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from minisd import image_grid
from minisd.image import to_pil, to_tensor


def test_pixels_are_rounded_not_cut_off():
    """CompVis' scripts and many ports cut off, and half of all pixels come out one too dark."""
    levels = torch.tensor([0.0, 0.49, 0.51, 127.4, 127.6, 254.49, 254.51, 255.0])
    x = (levels / 255 * 2 - 1).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert np.array(to_pil(x)[0])[0, :, 0].tolist() == [0, 0, 1, 127, 128, 254, 255, 255]


def test_values_beyond_black_and_white_are_clamped():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert np.array(to_pil(x)[0])[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_channels_rows_and_columns_keep_their_places():
    x = -torch.ones(2, 3, 4, 6)
    x[1, 0, 2, 5] = 1  # the second picture is red in row 2, column 5
    black, red = to_pil(x)
    assert black.size == (6, 4) and not np.array(black).any()
    assert red.getpixel((5, 2)) == (255, 0, 0) and np.array(red).sum() == 255


def test_half_precision_pictures_are_rounded_in_float32():
    x = torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8).half()
    assert np.array_equal(np.array(to_pil(x)[0]), np.array(to_pil(x.float())[0]))


def test_a_picture_comes_back_from_its_tensor():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.fromarray(np.stack([levels, levels.T, 255 - levels], axis=-1))
    x = to_tensor(picture)
    assert x.shape == (3, 16, 16) and (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(np.array(to_pil(x[None])[0]), np.array(picture))


def test_to_tensor_takes_any_mode():
    assert to_tensor(Image.new("L", (5, 4), 255)).shape == (3, 4, 5)
    assert to_tensor(Image.new("RGBA", (5, 4))).shape == (3, 4, 5)


def test_grid_is_filled_row_by_row():
    colours = [(i, 0, 0) for i in range(6)]
    grid = image_grid([Image.new("RGB", (3, 2), colour) for colour in colours], rows=2, cols=3)
    assert grid.size == (9, 4)
    assert [grid.getpixel((1 + 3 * (i % 3), 1 + 2 * (i // 3))) for i in range(6)] == colours


def test_grid_must_be_full():
    with pytest.raises(ValueError, match="3 images do not fill 2 rows of 2"):
        image_grid([Image.new("RGB", (3, 2))] * 3, rows=2, cols=2)
