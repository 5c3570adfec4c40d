"""A font for the formulas, shipped with the pages: most systems have no font with a table of mathematical layout.

It is a subset of STIX Two Math (SIL Open Font License 1.1), which the package ziamath contains. The font's name table keeps the
copyright and the licence.
"""

import logging
from importlib.resources import files
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from sphinx.application import Sphinx

LETTERS = [*range(0x20, 0x180), *range(0x2B0, 0x400)]  # Latin, accents, Greek
ALPHABETS = [*range(0x1D400, 0x1D504), *range(0x1D538, 0x1D56C), *range(0x1D6A8, 0x1D756)]  # bold, italic, script, double-struck
SIGNS = [*range(0x2000, 0x2070), *range(0x20D0, 0x2400), *range(0x27E6, 0x27F0), 0xFE00]  # operators, brackets, variants
ROOT = "\N{SQUARE ROOT}"

logging.getLogger("fontTools").setLevel(logging.WARNING)  # its subsetter says what it does, and Sphinx prints that


def subset() -> TTFont:
    font = TTFont(str(files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"))
    subsetter = Subsetter(Options(hinting=False, layout_features=["*"], name_IDs=["*"]))
    subsetter.populate(unicodes=LETTERS + ALPHABETS + SIGNS)
    subsetter.subset(font)
    return font


def even_roots(font: TTFont):
    """Give the taller root signs the width of the plain one: Chromium reserves the width of the widest for every root."""
    plain = font.getBestCmap()[ord(ROOT)]
    width = font["hmtx"][plain][0]
    variants = font["MATH"].table.MathVariants
    signs = variants.VertGlyphConstruction[variants.VertGlyphCoverage.glyphs.index(plain)]
    taller = [record.VariantGlyph for record in signs.MathGlyphVariantRecord]
    parts = [part.glyph for part in signs.GlyphAssembly.PartRecords]
    for name in taller + parts:
        scale = width / font["hmtx"][name][0]
        glyph = font["glyf"][name]
        glyph.coordinates.scale((scale, 1))
        glyph.recalcBounds(font["glyf"])
        font["hmtx"][name] = (width, glyph.xMin)


def write(app: Sphinx, exception: Exception | None):
    if app.builder.format == "html" and exception is None:
        font = subset()
        even_roots(font)
        font.flavor = "woff2"
        font.save(Path(app.outdir) / "_static" / "math.woff2")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
