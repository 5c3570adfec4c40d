"""Settings of `make docs`. The source folder is the whole repository, so that pages can link to every file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
from repository import linkcode_resolve

__all__ = ["linkcode_resolve"]  # sphinx.ext.linkcode asks for it

project, author = "minisd", "The minisd authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.linkcode", "docstrings", "mathml", "math_font", "images", "repository"]

root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb"]
exclude_patterns = [".*", "runs", "minisd", "weights_convert", "tests", "notebooks/src", "docs/_build"]
exclude_patterns += [
    "docs/benchmark.md",
    "docs/convolutions.md",
    "docs/gpu.md",
    "docs/growth.md",
    "docs/parity_figures.md",
    "docs/peers.md",
    "docs/tiny_model/training.md",
]  # included by other pages

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are stored with their outputs
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the answer", "Hide the answer"  # below a prediction

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "ignore-module-all": True}
add_module_names = False
maximum_signature_line_length = 100

html_theme = "furo"
html_title = "minisd"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["minisd.css"]
html_extra_path = ["extra"]
html_copy_source = html_show_sphinx = html_show_copyright = False
