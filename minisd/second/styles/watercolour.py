"""The watercolour style: washes whose pigment gathers at the edges and bleeds into wet paper, without outlines."""

from functools import cache

from PIL import Image, ImageChops, ImageFilter

from .paper import PAGES, clouds, cut_out, on_grain, painted_area, pixels

PAPER = (254, 253, 249)


def render(ground, figures, size, rng):
    page, phase = rng.randrange(PAGES), rng.uniform(0, 6)
    wash = Image.new("RGB", (size, size), ground[0].color)
    for shape in ground[1:]:
        wash_on(wash, shape, size, phase, wet=0.008)
    picture = Image.composite(wash, Image.new("RGB", wash.size, PAPER), painted_area(size, 0.045, 0.02, page))
    for figure in figures:
        for shape in figure:
            if not shape.fine and shape.radius > 0.04:
                bleed(picture, shape, size, phase, faded(size, 6, page, 0.8))
        for shape in figure:
            if shape.fine:
                touch(picture, shape, size, phase)
            else:
                wash_on(picture, shape, size, phase, wet=0.003)
    picture.paste(PAPER, mask=faded(size, 5, page, 0.2))
    return on_grain(picture, page)


@cache
def faded(size, cells, page, strength):
    """Low-frequency noise that is mostly zero, for places from which water has carried the pigment away."""
    return clouds(size, cells, page).point(lambda value: max(0, value - 80) * strength * 255 / 175)


def wash_on(picture, shape, size, phase, wet):
    """One wash: pale inside, darker along its edge."""
    margin = round(0.02 * size)
    if not (cut := cut_out(pixels(shape.points, size, 0.004, phase), margin, size)):
        return
    mask, corner = cut
    edge = mask.filter(ImageFilter.BoxBlur(size * min(0.022, max(0.008, 0.5 * shape.radius))))
    dry = ImageChops.invert(edge)
    mask = mask.filter(ImageFilter.BoxBlur(wet * size))
    picture.paste(thinned(shape.color), corner, mask)
    picture.paste(pigment(shape.color), corner, ImageChops.multiply(mask, ImageChops.add(dry, dry)))


def bleed(picture, shape, size, phase, dampness):
    """A halo of colour where the paper is damp."""
    margin = round(0.05 * size)
    if not (cut := cut_out(pixels(shape.points, size, 0.004, phase), margin, size)):
        return
    mask, (left, top) = cut
    damp = dampness.crop((left, top, left + mask.width, top + mask.height))
    halo = ImageChops.multiply(mask.filter(ImageFilter.BoxBlur(0.02 * size)), damp)
    picture.paste(thinned(shape.color), (left, top), halo)


def touch(picture, shape, size, phase):
    """A detail, painted when the rest is dry."""
    if cut := cut_out(pixels(shape.points, size, 0.004, phase), 1, size):
        mask, corner = cut
        picture.paste(shape.color, corner, mask)


def thinned(color):
    """The colour of a wash on white paper. Dark pigments cover better."""
    cover = 0.97 - 0.25 * sum(color) / 765
    return tuple(round(white + (value - white) * cover) for value, white in zip(color, PAPER))


def pigment(color):
    """The colour at the edge of a wash: darker and slightly cooler. It matters most for pale colours on pale paper."""
    depth = 0.14 + 0.2 * (sum(color) / 765) ** 2
    return tuple(round(value + (cool - value) * depth) for value, cool in zip(color, (80, 64, 124)))
