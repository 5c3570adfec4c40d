"""Formulas as MathML, which browsers render themselves, without a script or an image."""

from docutils import nodes
from math_core import LatexToMathML
from sphinx.application import Sphinx

CONVERTER = LatexToMathML(fancy_error=False)


def inline(translator, node: nodes.math):
    translator.body.append(CONVERTER.convert_with_local_state(node.astext(), displaystyle=False))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block):
    formula = CONVERTER.convert_with_local_state(node.astext(), displaystyle=True)
    translator.body.append(f'<div class="math">{formula}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
