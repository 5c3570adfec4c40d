"""Pictures in: PIL images of every kind, arrays and tensors, as one tensor; and what cannot be read."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from minisd.editing.pictures import fitting_size, read_masks, read_pictures


def colours() -> Image.Image:
    """Four quarters: red, green, blue, grey."""
    x = np.zeros((8, 16, 3), np.uint8)
    x[:4, :8], x[:4, 8:], x[4:, :8], x[4:, 8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
    return Image.fromarray(x)


EXPECTED = torch.from_numpy(np.array(colours())).permute(2, 0, 1)[None].float() / 127.5 - 1
PIXELS = np.array(colours())
SAME = {
    "RGB": colours(),
    "a list": [colours()],
    "palette": colours().quantize(8),
    "opaque RGBA": colours().convert("RGBA"),
    "CMYK": colours().convert("CMYK"),
    "bytes": PIXELS,
    "a batch of arrays": PIXELS[None],
    "fractions": PIXELS / 255,
    "16 bits": PIXELS.astype(np.uint16) * 257,
    "upside down in memory": np.ascontiguousarray(PIXELS[::-1])[::-1],
    "tensor": torch.from_numpy(PIXELS).permute(2, 0, 1),
    "tensor of fractions": torch.from_numpy(PIXELS / 255).permute(2, 0, 1)[None].half(),
}


@pytest.mark.parametrize("picture", SAME.values(), ids=SAME)
def test_the_same_picture(picture):
    x = read_pictures(picture)
    assert x.dtype == torch.float32 and x.shape == (1, 3, 8, 16)
    assert torch.allclose(x, EXPECTED, atol=1e-3 if getattr(picture, "dtype", None) == torch.float16 else 1e-6)


def test_pictures_are_what_diffusers_reads():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.image_processor.VaeImageProcessor().preprocess(colours())
    assert torch.allclose(read_pictures(colours()), theirs, atol=1e-6)


def test_exif_turns_a_picture():
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    file = io.BytesIO()
    colours().save(file, "PNG", exif=exif)
    assert torch.equal(read_pictures(Image.open(file)), EXPECTED.rot90(-1, (2, 3)))


def test_transparent_parts_are_white_in_a_picture_and_black_in_a_mask():
    image = Image.new("RGBA", (8, 8), (255, 255, 255, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))  # hides black
    image.paste((0, 0, 0, 128), (4, 0, 8, 4))
    x = read_pictures(image)[0, 0]
    assert (x[:, :4] == 1).all() and (x[4:, 4:] == 1).all() and x[:4, 4:].mean().abs() < 0.01
    strokes = Image.new("RGBA", (8, 8))
    strokes.paste((255, 255, 255, 255), (2, 2, 6, 6))
    assert read_masks(strokes)[0, 0].sum() == 16
    palette = colours().quantize(4)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert (read_pictures(palette)[0, :, :4, :8] == 1).all()
    assert torch.allclose(read_pictures(np.array(image)), read_pictures(image))


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_grey_of_16_bits_keeps_them(mode):
    grey = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = Image.fromarray(grey if mode == "I;16" else grey.astype(np.int32))
    assert image.mode == mode
    x = read_pictures(image)
    assert torch.allclose(x[0, 1].double(), torch.from_numpy(grey / 32767.5 - 1), atol=1e-6)
    assert torch.equal(read_masks(image)[0, 0], torch.from_numpy(grey >= 32768).float())


def as_png(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Image.open(file)


def test_whole_numbers_of_pil_are_bytes_or_16_bits():
    """Pillow keeps bytes that are converted to "I" as they are, and older versions open a PNG of 16 bits as "I"."""
    dark = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    expected = read_pictures(dark)
    for image in (Image.fromarray(dark), Image.fromarray(dark).convert("I"), Image.fromarray(dark.astype(np.int32))):
        assert torch.equal(read_pictures(image), expected)
    assert torch.equal(read_pictures(as_png(Image.fromarray(dark))), expected)
    deep = as_png(Image.fromarray(dark.astype(np.uint16)))
    assert deep.mode == "I;16" and torch.allclose(read_pictures(deep), (expected + 1) / 257 - 1, atol=1e-6)
    older = deep.convert("I")
    older.format = "PNG"
    assert torch.equal(read_pictures(older), read_pictures(deep))


@pytest.mark.parametrize("number", [-1, 65536])
def test_whole_numbers_beyond_16_bits_are_refused(number):
    with pytest.raises(ValueError, match=f"must be from 0 to 65535, not from {number} to {number}"):
        read_masks(Image.new("I", (8, 8), number))


def test_grey_is_colour():
    grey = colours().convert("L")
    for given in (grey, np.array(grey), np.array(grey)[..., None], torch.from_numpy(np.array(grey))[None], grey.convert("LA")):
        x = read_pictures(given)
        assert x.shape == (1, 3, 8, 16) and torch.equal(x[:, 0], x[:, 2])


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P"])
def test_a_mask_is_white_from_half(mode):
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (8, 1))
    mask = Image.fromarray(grey).convert(mode, **({"dither": Image.Dither.NONE} if mode == "1" else {}))
    assert torch.equal(read_masks(mask)[0, 0], torch.from_numpy(grey >= 128).float())


def test_masks_of_several_shapes():
    one = (torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    for given in (one, one[None], one[None, None], one.bool(), one.numpy(), one.numpy()[..., None], [one.numpy()]):
        assert torch.equal(read_masks(given), one[None, None])
    assert read_masks(torch.stack([one, 1 - one])).shape == (2, 1, 8, 16)
    assert read_masks(torch.stack([one, 1 - one]).numpy()).shape == (2, 1, 8, 16)
    assert torch.equal(read_masks(colours())[0, 0], (EXPECTED[0, 0] * 0 + torch.from_numpy(PIXELS[..., 1] >= 128)).float())


WRONG = {
    "no picture": ("cat.png", TypeError, r"a picture must be a PIL image, .* not 'cat.png'; open files with Image.open"),
    "none": (None, TypeError, "not None; open"),
    "no pictures": ([], ValueError, "give at least one picture, not an empty list"),
    "latents": (torch.zeros(1, 4, 8, 8), ValueError, "must have 1 or 3 channels, not 4; .*decode latents first"),
    "two channels": (np.zeros((8, 8, 2)), ValueError, r"a picture has an invalid shape \(8, 8, 2\)"),
    "five dimensions": (np.zeros((1, 1, 8, 8, 3)), ValueError, "has an invalid shape"),
    "one dimension": (torch.zeros(8), ValueError, "has an invalid shape"),
    "nothing in it": (np.zeros((0, 8, 3)), ValueError, "has an invalid shape"),
    "from -1": (torch.full((3, 8, 8), -1.0), ValueError, "must be from 0 to 1, not from -1 to -1"),
    "up to 255": (np.full((8, 8, 3), 255.0), ValueError, "must be from 0 to 1, not from 255 to 255"),
    "NaN": (np.full((8, 8, 3), np.nan), ValueError, "must be from 0 to 1, not from nan to nan"),
    "integers": (np.zeros((8, 8, 3), np.int64), TypeError, "not int64"),
    "PIL floats": (Image.new("F", (8, 8)), ValueError, "a PIL image of floats has no defined white"),
    "meta": (torch.zeros(3, 8, 8, device="meta"), ValueError, "a picture on the meta device has no values"),
    "two sizes": ([Image.new("RGB", (8, 16)), Image.new("RGB", (16, 8))], ValueError, "must have the same size, not 8×16 and 16×8"),
}


@pytest.mark.parametrize(("given", "error", "sentence"), WRONG.values(), ids=WRONG)
def test_what_is_no_picture_is_refused(given, error, sentence):
    with pytest.raises(error, match=sentence) as info:
        read_pictures(given)
    assert "\n" not in str(info.value) and len(str(info.value)) < 200


@pytest.mark.parametrize(
    ("size", "most", "fits"),
    [((128, 72), 128**2, (128, 72)), ((101, 70), 128**2, (104, 72)), ((4000, 3000), 512**2, (592, 440)), ((3, 2), 64, (8, 8))],
)
def test_fitting_sizes(size, most, fits):
    assert fitting_size(*size, 8, most) == fits
